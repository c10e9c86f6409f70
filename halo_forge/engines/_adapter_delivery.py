"""How the adapter in memory gets to the server, so that the server samples from the same policy."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from halo_forge.core.errors import ConfigError, ToolMissing
from halo_forge.engines._http import CONNECT_SECONDS, Client, Refused, Unreachable
from halo_forge.engines._server_process import POLL_SECONDS, NotStarted, ServerProcess
from halo_forge.policy import adapter_digest, save_merged
from halo_forge.supervisor import heartbeat
from halo_forge.supervisor.server_guard import GRACE_SECONDS

if TYPE_CHECKING:
    from halo_forge.policy import Policy

LEFTOVER_SECONDS = GRACE_SECONDS + 2
"""A server started by a killed attempt of this run may still be shutting down."""


class SavedAdapter:
    """The adapter in memory as a folder, written once per version; the previous version is kept too.

    Attributes:
        digest: SHA-256 of the adapter written last; None for a start model without an adapter.
        before: (version, folder) of the previous version; the folder is None if that was such a start model.
    """

    def __init__(self, policy: Policy, folder: Path) -> None:
        self.policy, self.folder = policy, folder
        self.digest: str | None = None
        self.before: tuple[int, Path | None] | None = None
        self._now: tuple[int, Path | None] | None = None

    def path(self) -> Path | None:
        """`halo_forge_v<version>_<digest>` in the folder; None for a start model without an adapter."""
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
        # With the digest in the name, no server can mistake an older adapter, or its cached prefixes, for this one.
        path = self.folder / f"halo_forge_v{version:03d}_{self.digest[:12]}"
        shutil.rmtree(path, ignore_errors=True)
        part.rename(path)
        return path


class AdapterDelivery:
    """Base of all kinds of delivery; `deliver` can be called repeatedly and does only what is left to do.

    Attributes:
        key: The start of error messages about the server.
    """

    key = "engine.base_url"

    def __init__(self, policy: Policy, folder: Path, client: Client) -> None:
        self.policy, self.folder, self.client = policy, folder, client
        self.adapter = SavedAdapter(policy, folder)

    def deliver(self) -> str:
        """Make the server sample from the policy; returns the name of that model on the server.

        Raises:
            Unreachable: The server does not respond; it may come back.
            Refused: The server refuses.
            ConfigError: This kind cannot deliver this policy.
            ToolMissing: The server did not start.
        """
        raise NotImplementedError

    @property
    def away_hint(self) -> str:
        """What to do if the server does not respond."""
        return f"start the server at {self.client.base_url}"

    @property
    def refused_hint(self) -> str:
        """What to do if the server refuses."""
        return "check what the server expects: engine.served_model, engine.server, or its own options"

    @property
    def other_model_hint(self) -> str:
        """What to do if the server's policy differs much from ours."""
        return (
            "it serves another model, revision or tokenizer than model.model_name_or_path, or less precise weights"
            " (quantised, another number format): serve that model in model.dtype"
        )

    @property
    def lost_adapter_hint(self) -> str:
        """What to do if the server samples without the adapter, or with that of another version."""
        return "see engine.adapter and the server's log"

    def keep_logs(self, folder: Path) -> None:
        """Keep the output of a server that we start in this folder."""

    def expect_tokens(self, num_tokens: int) -> None:
        """Announce that prompt and completion together will have up to this many tokens."""

    def idle(self) -> None:
        """No requests for a while: the policy may be trained meanwhile."""

    def close(self) -> None:
        """End what was started."""


class StartModelOnly(AdapterDelivery):
    """The server serves the start model, and gets no adapter."""

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
    """vLLM loads the adapter while it runs, under a name that identifies it.

    The last adapter stays loaded at the end, because the server is not ours.

    Attributes:
        load_key, load_hint: Key and hint of the error if the server does not load it.
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
        # A restarted server has lost it; one that another attempt of this run used already has it.
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
        # A server's command cannot name a revision or 4 bits, so the model as loaded here is written to a folder.
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
                "stop it: this run starts its own; then run the same command with --resume",
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
                "try this command by hand; it has to stay in the foreground and to respond within"
                f" engine.start_timeout_seconds ({self.start_timeout_seconds:g}); then run again with --resume",
            ) from error

    def _answers(self) -> bool:
        return answers(self.client, self.health_url)


def answers(client: Client, url: str) -> bool:
    """Whether the server responds there with success.

    Raises:
        Unreachable: Sampling was aborted.
    """
    if client.aborted:
        raise Unreachable("given up")
    try:
        client.get(url, timeout_seconds=CONNECT_SECONDS)
    except (Unreachable, Refused):
        return False
    return True
