"""Engine `openai_server`: any server with an OpenAI-compatible `/completions` endpoint writes the completions.

Many requests are in flight, and completions come out as they finish.  A request whose server is away is asked again
until the server is back; one request gives one completion, however often it was asked.
"""

from __future__ import annotations

import os
import queue
import random
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from halo_forge.engines._http import Client, Refused, Unreachable
from halo_forge.engines._served_adapter import AsStarted, Restarted, RuntimeLora, Way
from halo_forge.engines._server_forms import FORMS, Reply, Server, completion, question, reply
from halo_forge.engines._spec import EngineSpec
from halo_forge.errors import ConfigError, ToolMissing
from halo_forge.records import Completion, Prompt, SampleRequest
from halo_forge.schedules.constant import Constant

if TYPE_CHECKING:
    from halo_forge.policy import Policy

FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS = 0.25, 15.0
NO_MIN_P = Constant(value=0.0)


class OpenaiServerSpec(EngineSpec):
    """Completions by a server."""

    kind: Literal["openai_server"] = "openai_server"
    base_url: str = Field("http://127.0.0.1:8000/v1", pattern=r"^https?://[^/]")
    """The endpoint without its `/completions`."""
    server: Server = "vllm"
    """Whose fields beyond the protocol are used; openai uses none."""
    adapter: Literal["vllm_runtime_lora", "merged_restart", "none"] = "vllm_runtime_lora"
    """How the adapter of the cycle comes to the server."""
    served_model: str | None = None
    """What the server calls the start model; null takes model.model_name_or_path, or the folder it was started with."""
    max_in_flight: int = Field(64, ge=1)
    """Requests that wait for an answer at the same time."""
    timeout_seconds: float = Field(600.0, gt=0, allow_inf_nan=False)
    """The longest wait for one answer, its time in the server's queue included."""
    retry_seconds: float = Field(120.0, ge=0, allow_inf_nan=False)
    """How long a request that gets no answer is asked again."""
    api_key_variable: str | None = None
    """The environment variable that holds the server's key."""
    exchange_folder: str | None = Field(None, min_length=1)
    """Where adapters and merged models are written for the server; null takes a temporary folder."""
    restart_command: list[str] | None = Field(None, min_length=1)
    """The server's command, which stays in the foreground; {model} becomes the model's folder."""
    health_url: str | None = Field(None, pattern=r"^https?://[^/]")
    """Answers once the started server is ready; null takes `base_url/models`."""
    start_timeout_seconds: float = Field(600.0, gt=0, allow_inf_nan=False)
    """How long a started server may need until it is ready."""

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

    def check(self) -> None:
        """The key, the server's program and the folder; see `EngineSpec`."""
        if self.batch_size != "auto":
            raise ConfigError(
                f"engine.batch_size: found {self.batch_size}, allowed for kind openai_server: auto",
                "set engine.max_in_flight instead",
            )
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
        if self.exchange_folder is not None:
            # Made later: a run directory that a refused run left behind would be in the way of the next one.
            folder = Path(self.exchange_folder).expanduser().absolute()
            there = next(each for each in (folder, *folder.parents) if each.exists())
            if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
                raise ConfigError(
                    f"engine.exchange_folder: {folder} cannot be made or written: {there} is no folder to write in",
                    "name a folder that can be",
                )

    def open(self, policy: Policy) -> OpenaiServerEngine:
        """An engine that asks the server; nothing is asked yet."""
        return OpenaiServerEngine(policy, self)


class OpenaiServerEngine:
    """Asks the server; a context manager that ends what it started."""

    takes_processors = False

    def __init__(self, policy: Policy, spec: OpenaiServerSpec) -> None:
        self.policy, self.spec = policy, spec
        self.form = FORMS[spec.server]
        self.client = Client(spec.base_url, timeout_seconds=spec.timeout_seconds, key_variable=spec.api_key_variable)
        self._own_folder = tempfile.TemporaryDirectory(prefix="halo-forge-") if spec.exchange_folder is None else None
        self.way = self._way()
        self._bringing = threading.Lock()
        self._model: str | None = None
        self._given_up = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.way.close()
        if self._own_folder is not None:
            self._own_folder.cleanup()

    def sample(
        self, prompts: Mapping[str, Prompt], requests: Sequence[SampleRequest], policy_version: int
    ) -> Iterator[Completion]:
        """Completions of `requests` as they finish.

        Raises:
            ConfigError: The server refuses a request, or cannot be brought the policy.
            ToolMissing: The server did not answer for `retry_seconds`.
        """
        if policy_version != self.policy.version:
            raise RuntimeError(f"asked for v{policy_version}, but v{self.policy.version} is in memory")
        if not requests:
            return
        needed = dict.fromkeys(request.prompt_id for request in requests)
        asked = {prompt_id: self._prompt(prompts[prompt_id]) for prompt_id in needed}
        self._model = None
        self._given_up.clear()
        self.client.begin()
        done: queue.SimpleQueue[Future[Completion]] = queue.SimpleQueue()
        pool = ThreadPoolExecutor(min(self.spec.max_in_flight, len(requests)), "ask")
        try:
            # In the order of the requests: samples of a prompt follow each other, and servers share its cache.
            for request in requests:
                pool.submit(self._complete, request, asked[request.prompt_id]).add_done_callback(done.put)
            for _ in requests:
                yield done.get().result()
        finally:
            # Also drains: the next policy comes to a server that nobody waits for.
            self._given_up.set()
            self.client.abort()
            pool.shutdown(cancel_futures=True)

    def _way(self) -> Way:
        spec, policy = self.spec, self.policy
        folder = Path(self._own_folder.name if self._own_folder else str(spec.exchange_folder)).expanduser().absolute()
        folder.mkdir(parents=True, exist_ok=True)
        start_model = policy.identity["model_name_or_path"] if spec.served_model is None else spec.served_model
        if spec.adapter == "none":
            return AsStarted(policy, start_model)
        if spec.adapter == "vllm_runtime_lora":
            return RuntimeLora(policy, self.client, start_model, folder)
        assert spec.restart_command is not None
        return Restarted(
            policy,
            self.client,
            spec.served_model,
            folder,
            command=spec.restart_command,
            health_url=f"{self.client.base_url}/models" if spec.health_url is None else spec.health_url,
            start_timeout_seconds=spec.start_timeout_seconds,
        )

    def _prompt(self, prompt: Prompt) -> str | list[int]:
        """What the server is sent so that it sees exactly `policy.prompt_ids(prompt)`."""
        ids = self.policy.prompt_ids(prompt)
        if self.form.takes_ids:
            return ids
        text, tokenizer = self.policy.render(prompt), self.policy.tokenizer
        # A server adds the tokenizer's special tokens to a text; the template may have them already.
        first = "" if tokenizer.bos_token is None else tokenizer.bos_token
        for each in (text, text.removeprefix(first)):
            if list(tokenizer(each)["input_ids"]) == ids:
                return each
        raise ConfigError(
            f"engine.server: {self.spec.server} takes prompts as text, and this model's tokenizer adds special tokens"
            " to it that its chat template does not have",
            "use a server that takes token ids: vllm, sglang or llama_cpp",
        )

    def _complete(self, request: SampleRequest, prompt: str | list[int]) -> Completion:
        """Ask until there is an answer."""
        deadline: float | None = None
        delay, refused = FIRST_DELAY_SECONDS, False
        while True:
            try:
                before = time.monotonic()
                model = self._served()
                if deadline is not None:
                    deadline += time.monotonic() - before  # waiting until a server has started is not asking it
                found = self._ask(request, prompt, model)
                return completion(self.policy, request, found, self.spec.stop)
            except Refused as error:
                self._model = None
                # A server that was started again between the two knows nothing of our adapter; asked twice it does.
                if error.status != 404 or refused:
                    raise ConfigError(
                        f"engine.base_url: {error}",
                        "see what the server misses: engine.served_model, engine.server, or its own options",
                    ) from error
                refused = True
            except Unreachable as error:
                self._model = None
                deadline = time.monotonic() + self.spec.retry_seconds if deadline is None else deadline
                if time.monotonic() >= deadline or self._given_up.is_set():
                    raise ToolMissing(
                        f"engine.base_url: {error} (asked again for {self.spec.retry_seconds:g} seconds)",
                        f"start the server at {self.spec.base_url}, then run the same command with --resume: no answer"
                        " that came is lost",
                    ) from error
                # Apart from each other, or all that waited would knock at the same moment.
                self._given_up.wait(min(delay * random.uniform(0.5, 1.5), max(0.0, deadline - time.monotonic())))
                delay = min(2 * delay, LONGEST_DELAY_SECONDS)

    def _served(self) -> str:
        """What the server calls the policy; looked after once, and again whenever it failed somebody."""
        with self._bringing:
            if self._model is None:
                self._model = self.way.bring()
            return self._model

    def _ask(self, request: SampleRequest, prompt: str | list[int], model: str) -> Reply:
        stop, stop_ids = self.spec.stop, self.policy.stop_ids
        body = question(self.spec.server, model, prompt, request, stop=stop, stop_ids=stop_ids)
        data = self.client.post("/completions", body)
        try:
            found = reply(data)
        except ValueError as error:
            raise Refused(200, f"POST {self.client.base_url}/completions: {error}") from error
        if found.reason not in ("stop", "length"):  # such as "abort", by a server that is being ended
            raise Unreachable(f"POST {self.client.base_url}/completions: ended for the reason {found.reason!r}")
        return found
