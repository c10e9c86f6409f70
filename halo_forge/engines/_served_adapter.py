"""How a server comes to answer with the policy that is in memory."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from halo_forge import heartbeat
from halo_forge.engines._http import CONNECT_SECONDS, Client, Refused, Unreachable
from halo_forge.engines._leash import GRACE_SECONDS
from halo_forge.errors import ConfigError, ToolMissing
from halo_forge.policy import adapter_digest, save_merged

if TYPE_CHECKING:
    from halo_forge.policy import Policy

POLL_SECONDS = 0.1
LEFTOVER_SECONDS = GRACE_SECONDS + 2
"""A server that a killed attempt of this run started may still be ending."""
LOG_LINES = 15


class Way(Protocol):
    """One way; `bring` may be called again and again, and does only what is still to do."""

    def bring(self) -> str:
        """Make the server answer with the policy; what it calls that model.

        Raises:
            Unreachable: The server is away; it may come back.
            Refused: The server says no.
            ConfigError: This way cannot bring this policy.
            ToolMissing: The server that was started is not there.
        """
        ...

    def close(self) -> None:
        """End what was started."""
        ...


class AsStarted:
    """The server serves the start model, and nothing is brought to it."""

    def __init__(self, policy: Policy, served_model: str) -> None:
        self.policy = policy
        self.served_model = served_model

    def bring(self) -> str:
        """The start model's name; see `Way`."""
        if self.policy.version > 0 or self.policy.adapter_norm() > 0:
            raise ConfigError(
                f"engine.adapter: none, but v{self.policy.version} has an adapter, which the server does not have",
                "set engine.adapter to vllm_runtime_lora or merged_restart, then start a new run",
            )
        return self.served_model

    def close(self) -> None:
        """Nothing was started."""


class SavedAdapter:
    """The adapter in memory as a folder, written once for each version."""

    def __init__(self, policy: Policy, folder: Path) -> None:
        self.policy, self.folder = policy, folder
        self._written: tuple[int, Path] | None = None

    def path(self) -> Path | None:
        """`halo_forge_v<version>_<digest>` in the folder; None for a start model without an adapter of its own."""
        version = self.policy.version
        if version == 0 and self.policy.adapter_norm() == 0:
            return None
        if self._written is None or self._written[0] != version:
            part = self.folder / "adapter.part"
            shutil.rmtree(part, ignore_errors=True)
            self.policy.save_adapter(part)
            # With the digest in the name no server can take an older adapter, or its cached prefixes, for this one.
            path = self.folder / f"halo_forge_v{version:03d}_{adapter_digest(part)[:12]}"
            shutil.rmtree(path, ignore_errors=True)
            part.rename(path)
            if self._written is not None:
                shutil.rmtree(self._written[1])
            self._written = version, path
        return self._written[1]


class RuntimeLora:
    """vLLM loads the adapter while it runs, under a name that says which one it is."""

    def __init__(self, policy: Policy, client: Client, served_model: str, folder: Path) -> None:
        self.client, self.served_model, self.adapter = client, served_model, SavedAdapter(policy, folder)
        self._loaded: str | None = None

    def bring(self) -> str:
        """The name of the adapter; see `Way`."""
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
                    f"engine.adapter: vllm_runtime_lora: {error}",
                    "start vLLM with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, --enable-lora, a --max-lora-rank of at"
                    " least lora.r, and in sight of the folder engine.exchange_folder; then --resume",
                ) from error
        self._loaded = path.name
        return path.name

    def close(self) -> None:
        """The server keeps the last adapter: it is not ours to end."""

    def _unload(self, name: str) -> None:
        try:
            self.client.post("/unload_lora_adapter", {"lora_name": name})
        except Refused as error:
            if error.status not in (400, 404):  # it is gone already
                raise


class Restarted:
    """A server of ours is started anew with every policy, merged into a plain model."""

    def __init__(
        self,
        policy: Policy,
        client: Client,
        served_model: str | None,
        folder: Path,
        *,
        command: Sequence[str],
        health_url: str,
        start_timeout_seconds: float,
    ) -> None:
        self.policy, self.client, self.served_model, self.folder = policy, client, served_model, folder
        self.command, self.health_url, self.start_timeout_seconds = command, health_url, start_timeout_seconds
        self._server: subprocess.Popen[bytes] | None = None
        self._version: int | None = None
        self._model = ""

    def bring(self) -> str:
        """What the started server calls the model; see `Way`."""
        if self._version != self.policy.version:
            self.close()
            self._model = self._merge()
            self._version = self.policy.version
        if self._server is None or self._server.poll() is not None:
            self._start()
        return self._model if self.served_model is None else self.served_model

    def close(self) -> None:
        """End the server, if it runs."""
        if self._server is not None:
            assert self._server.stdin is not None
            self._server.stdin.close()
            self._server.wait(GRACE_SECONDS + CONNECT_SECONDS)
            self._server = None

    def _merge(self) -> str:
        for old in self.folder.glob("merged_v[0-9][0-9][0-9]"):
            shutil.rmtree(old)
        as_it_is = self.policy.version == 0 and self.policy.adapter_norm() == 0
        # A server's command has no place for a revision: the folder is what was loaded here.
        if as_it_is and "revision" not in self.policy.identity:
            return self.policy.identity["model_name_or_path"]
        path = self.folder / f"merged_v{self.policy.version:03d}"
        save_merged(self.policy, path)
        return str(path)

    def _start(self) -> None:
        patience = time.monotonic() + LEFTOVER_SECONDS
        while self._answers() and time.monotonic() < patience and not self.client.aborted:
            time.sleep(POLL_SECONDS)
        if self._answers():
            raise ConfigError(
                f"engine.restart_command: a server that this run did not start answers at {self.health_url}",
                "end it: this run starts its own; then run the same command with --resume",
            )
        leash = [sys.executable, str(Path(__file__).with_name("_leash.py"))]
        command = [word.replace("{model}", self._model) for word in self.command]
        log = self.folder / "server.log"
        with log.open("wb") as output:
            # A session of its own: Ctrl-C is ours, and the server is ended once we are done.
            self._server = subprocess.Popen(
                [*leash, *command], stdin=subprocess.PIPE, stdout=output, stderr=output, start_new_session=True
            )
        deadline = time.monotonic() + self.start_timeout_seconds
        while not self._answers():
            heartbeat.beat()  # it has a limit of its own
            if self.client.aborted:
                raise Unreachable("given up")
            code, late = self._server.poll(), time.monotonic() > deadline
            if code is not None or late:
                what = f"ended with code {code}" if code is not None else f"did not answer at {self.health_url} in time"
                lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]
                self.close()
                raise ToolMissing(
                    f"engine.restart_command: {' '.join(command)} {what}:\n" + "\n".join(lines),
                    "try this command by hand; it has to stay in the foreground and to answer within"
                    f" engine.start_timeout_seconds ({self.start_timeout_seconds:g}); then run again with --resume",
                )
            time.sleep(POLL_SECONDS)

    def _answers(self) -> bool:
        try:
            self.client.get(self.health_url, timeout_seconds=CONNECT_SECONDS)
        except (Unreachable, Refused):
            return False
        return True
