"""How a server comes to answer with the policy that is in memory."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from halo_forge.core.errors import ConfigError, ToolMissing
from halo_forge.engines._http import CONNECT_SECONDS, Client, Refused, Unreachable
from halo_forge.engines._server_guard import GRACE_SECONDS
from halo_forge.engines._server_process import POLL_SECONDS, NotStarted, ServerProcess
from halo_forge.policy import adapter_digest, save_merged
from halo_forge.supervisor import heartbeat

if TYPE_CHECKING:
    from halo_forge.policy import Policy

LEFTOVER_SECONDS = GRACE_SECONDS + 2
"""A server that a killed attempt of this run started may still be ending."""


class SavedAdapter:
    """The adapter in memory as a folder, written once for each version; the version before is kept beside it.

    Attributes:
        digest: SHA-256 of the adapter written last; None for a start model without an adapter of its own.
        before: (version, folder) of the version before; the folder is None where that was such a start model.
    """

    def __init__(self, policy: Policy, folder: Path) -> None:
        self.policy, self.folder = policy, folder
        self.digest: str | None = None
        self.before: tuple[int, Path | None] | None = None
        self._now: tuple[int, Path | None] | None = None

    def path(self) -> Path | None:
        """`halo_forge_v<version>_<digest>` in the folder; None for a start model without an adapter of its own."""
        if self._now is not None and self._now[0] == self.policy.version:
            return self._now[1]
        path = self._write()
        if self.before is not None and self.before[1] is not None and self.before[1] != path:
            shutil.rmtree(self.before[1])
        self.before, self._now = self._now, (self.policy.version, path)
        return path

    def _write(self) -> Path | None:
        version = self.policy.version
        if version == 0 and self.policy.adapter_norm() == 0:
            self.digest = None
            return None
        part = self.folder / "adapter.part"
        shutil.rmtree(part, ignore_errors=True)
        self.policy.save_adapter(part)
        self.digest = adapter_digest(part)
        # With the digest in the name no server can take an older adapter, or its cached prefixes, for this one.
        path = self.folder / f"halo_forge_v{version:03d}_{self.digest[:12]}"
        shutil.rmtree(path, ignore_errors=True)
        part.rename(path)
        return path


class AdapterDelivery:
    """One way; `deliver` may be called again and again, and does only what is still to do.

    Attributes:
        key: What messages about the server begin with.
    """

    key = "engine.base_url"

    def __init__(self, policy: Policy, folder: Path, client: Client) -> None:
        self.policy, self.folder, self.client = policy, folder, client
        self.adapter = SavedAdapter(policy, folder)

    def deliver(self) -> str:
        """Make the server answer with the policy; what it calls that model.

        Raises:
            Unreachable: The server is away; it may come back.
            Refused: The server says no.
            ConfigError: This way cannot bring this policy.
            ToolMissing: The server that was started is not there.
        """
        raise NotImplementedError

    @property
    def away_hint(self) -> str:
        """What to do when the server does not answer."""
        return f"start the server at {self.client.base_url}"

    @property
    def refused_hint(self) -> str:
        """What to do when the server says no."""
        return "see what the server misses: engine.served_model, engine.server, or its own options"

    @property
    def other_model_hint(self) -> str:
        """What to do when the server's policy is far from ours."""
        return (
            "it serves another model, revision or tokenizer than model.model_name_or_path, or coarser weights"
            " (quantised, another number format): serve that model in model.dtype"
        )

    @property
    def lost_adapter_hint(self) -> str:
        """What to do when the server answers without the adapter, or with that of another version."""
        return "see engine.adapter and the server's log"

    def keep_logs(self, folder: Path) -> None:
        """What a server of ours prints is to be kept there."""

    def expect_tokens(self, num_tokens: int) -> None:
        """Prompt and answer together will have up to so many tokens."""

    def idle(self) -> None:
        """Nobody asks for a while: the policy may be trained meanwhile."""

    def close(self) -> None:
        """End what was started."""


class StartModelOnly(AdapterDelivery):
    """The server serves the start model, and nothing is brought to it."""

    def __init__(self, policy: Policy, folder: Path, client: Client, served_model: str) -> None:
        super().__init__(policy, folder, client)
        self.served_model = served_model

    def deliver(self) -> str:
        """The start model's name; see `AdapterDelivery`."""
        if self.policy.version > 0 or self.policy.adapter_norm() > 0:
            raise ConfigError(
                f"engine.adapter: none, but v{self.policy.version} has an adapter, which the server does not have",
                "set engine.adapter to vllm_runtime_lora or merged_restart, then start a new run",
            )
        return self.served_model


class RuntimeLoraDelivery(AdapterDelivery):
    """vLLM loads the adapter while it runs, under a name that says which one it is.

    The server keeps the last adapter at the end: it is not ours to end.

    Attributes:
        load_key, load_hint: Of the message about a server that does not load it.
    """

    load_key = "engine.adapter: vllm_runtime_lora"
    load_hint = (
        "start vLLM with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, --enable-lora, a --max-lora-rank of at least lora.r,"
        " and in sight of the folder engine.exchange_folder"
    )

    def __init__(self, policy: Policy, folder: Path, client: Client, served_model: str) -> None:
        super().__init__(policy, folder, client)
        self.served_model = served_model
        self._loaded: str | None = None

    def deliver(self) -> str:
        """The name of the adapter; see `AdapterDelivery`."""
        path = self.adapter.path()
        if path is None:
            return self.served_model
        # A server that was started again has lost it; one that another attempt of this run used has it already.
        if path.name not in self.client.model_names():
            if self._loaded is not None and self._loaded != path.name:
                self._unload(self._loaded)
            try:
                self.client.post("/load_lora_adapter", {"lora_name": path.name, "lora_path": str(path)})
            except Refused as error:
                raise ConfigError(
                    f"{self.load_key}: {error}", f"{self.load_hint}; then run the same command with --resume"
                ) from error
        self._loaded = path.name
        return path.name

    def _unload(self, name: str) -> None:
        try:
            self.client.post("/unload_lora_adapter", {"lora_name": name})
        except Refused as error:
            if error.status not in (400, 404):  # it is gone already
                raise


class MergedRestart(AdapterDelivery):
    """A server of ours is restarted with every policy, merged into a plain model."""

    def __init__(
        self,
        policy: Policy,
        folder: Path,
        client: Client,
        served_model: str | None,
        *,
        command: Sequence[str],
        health_url: str,
        start_timeout_seconds: float,
    ) -> None:
        super().__init__(policy, folder, client)
        self.served_model = served_model
        self.command, self.health_url, self.start_timeout_seconds = command, health_url, start_timeout_seconds
        self._server = ServerProcess("server")
        self._version: int | None = None
        self._model = ""

    def deliver(self) -> str:
        """What the started server calls the model; see `AdapterDelivery`."""
        if self._version != self.policy.version:
            self.close()
            self._model = self._merge()
            self._version = self.policy.version
        if not self._server.is_running:
            self._start()
        return self._model if self.served_model is None else self.served_model

    @property
    def lost_adapter_hint(self) -> str:
        """See `AdapterDelivery`."""
        return (
            f"see its log {self._server.log}; rounding of the merged weights can lose it: raise training.learning_rate,"
            " or use a server that loads adapters (engine.adapter: vllm_runtime_lora)"
        )

    def keep_logs(self, folder: Path) -> None:
        """See `AdapterDelivery`."""
        self._server.folder = folder

    def close(self) -> None:
        """End the server, if it runs."""
        self._server.close()

    def _merge(self) -> str:
        for old in self.folder.glob("merged_v[0-9][0-9][0-9]"):
            shutil.rmtree(old)
        # A server's command has no place for a revision or for 4 bits: the folder is what was loaded here.
        if self.adapter.path() is None and not {"revision", "quantization"} & self.policy.identity.keys():
            return self.policy.identity["model_name_or_path"]
        path = self.folder / f"merged_v{self.policy.version:03d}"
        with heartbeat.loading():
            save_merged(self.policy, path)
        return str(path)

    def _start(self) -> None:
        self._server.wait_for_leftover()
        patience = time.monotonic() + LEFTOVER_SECONDS
        while self._answers() and time.monotonic() < patience and not self.client.aborted:
            time.sleep(POLL_SECONDS)
        if self._answers():
            raise ConfigError(
                f"engine.restart_command: a server that this run did not start answers at {self.health_url}",
                "end it: this run starts its own; then run the same command with --resume",
            )
        command = [word.replace("{model}", self._model) for word in self.command]
        try:
            self._server.start(command, os.environ, self._answers, self.start_timeout_seconds)
        except NotStarted as error:
            what = f"did not answer at {self.health_url} in time"
            what = what if error.code is None else f"ended with code {error.code}"
            raise ToolMissing(
                f"engine.restart_command: {' '.join(command)} {what}; the end of its log {self._server.log}:\n"
                f"{error.last_lines}",
                "try this command by hand; it has to stay in the foreground and to answer within"
                f" engine.start_timeout_seconds ({self.start_timeout_seconds:g}); then run again with --resume",
            ) from error

    def _answers(self) -> bool:
        return answers(self.client, self.health_url)


def answers(client: Client, url: str) -> bool:
    """Whether the server answers there, with success.

    Raises:
        Unreachable: Nobody waits for answers any more.
    """
    if client.aborted:
        raise Unreachable("given up")
    try:
        client.get(url, timeout_seconds=CONNECT_SECONDS)
    except (Unreachable, Refused):
        return False
    return True
