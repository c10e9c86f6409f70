"""Engine `openai_server`: any server with an OpenAI-compatible `/completions` endpoint writes the completions."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from halo_forge.core.errors import ConfigError, ToolMissing
from halo_forge.core.schedules import Schedule
from halo_forge.core.schedules.constant import Constant
from halo_forge.engines._adapter_delivery import AdapterDelivery, MergedRestart, RuntimeLoraDelivery, StartModelOnly
from halo_forge.engines._http import Client
from halo_forge.engines._server_dialects import ServerKind
from halo_forge.engines._server_engine import ServerEngine
from halo_forge.engines._server_spec import MAX_TEMPERATURE, ServerSpec

if TYPE_CHECKING:
    from halo_forge.policy import Policy

NO_MIN_P: Schedule = Constant(value=0.0)


class OpenaiServerSpec(ServerSpec):
    """Completions by a server."""

    kind: Literal["openai_server"] = "openai_server"
    base_url: str = Field("http://127.0.0.1:8000/v1", pattern=r"^https?://[^/]")
    """The endpoint without its `/completions`."""
    server: ServerKind = "vllm"
    """Whose fields beyond the protocol are used; openai uses none."""
    adapter: Literal["vllm_runtime_lora", "merged_restart", "none"] = "vllm_runtime_lora"
    """How the adapter of the cycle comes to the server."""
    served_model: str | None = None
    """What the server calls the start model; null takes model.model_name_or_path, or the folder it was started with."""
    api_key_variable: str | None = None
    """The environment variable that holds the server's key."""
    restart_command: list[str] | None = Field(None, min_length=1)
    """The server's command, which stays in the foreground; {model} becomes the model's folder."""
    health_url: str | None = Field(None, pattern=r"^https?://[^/]")
    """Answers once the started server is ready; null takes `base_url/models`."""

    @model_validator(mode="after")
    def _keys_that_need_each_other(self) -> Self:
        if (self.restart_command is not None) != (self.adapter == "merged_restart"):
            found = "without" if self.restart_command is None else "with"
            raise ValueError(
                f"adapter is {self.adapter} {found} a restart_command; merged_restart, and only it, has one"
            )
        if self.adapter == "vllm_runtime_lora" and self.server != "vllm":
            raise ValueError(
                f"adapter is vllm_runtime_lora, but server is {self.server}; allowed: merged_restart (or none)"
            )
        if self.top_k is not None and self.server == "openai":
            raise ValueError(f"top_k is {self.top_k}, which the protocol of server openai does not know; allowed: null")
        if self.server == "openai" and self.min_p != NO_MIN_P:
            raise ValueError("min_p is above 0, which the protocol of server openai does not know; allowed: 0")
        return self

    @field_validator("base_url", "health_url")
    @classmethod
    def _port(cls, url: str | None) -> str | None:
        if url is not None:
            try:
                _ = urlsplit(url).port
            except ValueError as error:
                raise ValueError(f"found {url}, allowed: a URL whose port is a number from 0 to 65535") from error
        return url

    @property
    def max_temperature(self) -> float:
        """See `EngineSpec`."""
        return MAX_TEMPERATURE if self.server in ("vllm", "openai") else super().max_temperature

    def check(self) -> None:
        """The key and the server's program; see `EngineSpec`."""
        super().check()
        if self.api_key_variable is not None and self.api_key_variable not in os.environ:
            raise ConfigError(
                f"engine.api_key_variable: {self.api_key_variable} is not set in the environment",
                f"export {self.api_key_variable}=..., or leave the setting out",
            )
        if self.restart_command is not None and shutil.which(self.restart_command[0]) is None:
            raise ToolMissing(
                f"engine.restart_command: there is no program {self.restart_command[0]}",
                "install it, or give its whole path",
            )

    def open(self, policy: Policy) -> ServerEngine:
        """An engine that asks the server; nothing is asked yet."""
        key = None if self.api_key_variable is None else os.environ.get(self.api_key_variable)
        client = Client(self.base_url, timeout_seconds=self.timeout_seconds, key=key)
        return ServerEngine(policy, self, client, self.server, lambda folder: self._delivery(policy, client, folder))

    def _delivery(self, policy: Policy, client: Client, folder: Path) -> AdapterDelivery:
        start_model = policy.identity["model_name_or_path"] if self.served_model is None else self.served_model
        if self.adapter == "none":
            return StartModelOnly(policy, folder, client, start_model)
        if self.adapter == "vllm_runtime_lora":
            return RuntimeLoraDelivery(policy, folder, client, start_model)
        assert self.restart_command is not None
        return MergedRestart(
            policy,
            folder,
            client,
            self.served_model,
            command=self.restart_command,
            health_url=f"{client.base_url}/models" if self.health_url is None else self.health_url,
            start_timeout_seconds=self.start_timeout_seconds,
        )
