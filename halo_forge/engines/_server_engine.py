"""An engine whose completions come from a server with an OpenAI-compatible `/completions` endpoint.

Many requests are in flight, and completions are yielded as they finish.  A request is retried until the server
responds; one request gives one completion, however often it was sent.  Before the first request, and again after it was
unreachable, the server is verified to sample from the policy in memory (`_policy_proof`).
"""

from __future__ import annotations

import queue
import random
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Self

from halo_forge.core.errors import ConfigError, HaloForgeError, ToolMissing
from halo_forge.core.records import Completion, Prompt, SampleRequest
from halo_forge.core.seeds import derive_seed
from halo_forge.engines._adapter_delivery import AdapterDelivery
from halo_forge.engines._http import Client, ConnectionLost, Refused, Unreachable
from halo_forge.engines._policy_proof import NUM_PROMPTS, NUM_TOKENS, prove
from halo_forge.engines._server_dialects import (
    DIALECTS,
    Choice,
    ScoredTokens,
    ServerKind,
    completion,
    parse_choice,
    request_body,
    scored_tokens,
)
from halo_forge.engines._server_spec import ServerSpec
from halo_forge.supervisor import heartbeat

if TYPE_CHECKING:
    from halo_forge.policy import Policy

_UNKNOWN_FIELD = (400, 422)
"""The statuses with which a server may refuse an unknown field."""
NUM_DRAWS = 2
"""A server whose refusal may be chance is checked once more, with other seeds."""
FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS = 0.25, 15.0


class ServerEngine:
    """Samples from a server; a context manager that stops what was started.

    Args:
        server: Whose protocol extensions are used.
        delivery: How the adapter gets to the server, given a folder that it may write to.

    Attributes:
        note: Called with what goes to events.jsonl: the name of an event, and its fields.
    """

    saturates_cpu = False

    def __init__(
        self,
        policy: Policy,
        spec: ServerSpec,
        client: Client,
        server: ServerKind,
        delivery: Callable[[Path], AdapterDelivery],
    ) -> None:
        self.policy, self.spec, self.client, self.server = policy, spec, client, server
        self.dialect = DIALECTS[server]
        self.note: Callable[..., None] = lambda event, **fields: None
        self._is_temporary = spec.exchange_folder is None
        if spec.exchange_folder is None:
            self.folder = Path(tempfile.mkdtemp(prefix="halo-forge-"))
        else:
            self.folder = Path(spec.exchange_folder).expanduser().absolute()
            self.folder.mkdir(parents=True, exist_ok=True)
        self.delivery = delivery(self.folder)
        self._delivering = threading.Lock()
        self._model: str | None = None
        self._lengths: dict[str, int] = {}
        self._to_prove: list[list[Prompt]] = []
        self._num_proof_tokens = NUM_TOKENS
        self._proved = False
        self._failure: HaloForgeError | None = None
        self._given_up = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            self.delivery.close()
        finally:
            if self._is_temporary:
                shutil.rmtree(self.folder)

    def keep_logs(self, folder: Path) -> None:
        """Keep the output of a server that we start there; see `KeepsLogs`."""
        self.delivery.keep_logs(folder)

    def sample(
        self, prompts: Mapping[str, Prompt], requests: Sequence[SampleRequest], policy_version: int
    ) -> Iterator[Completion]:
        """Completions of `requests` as they finish.

        Raises:
            ConfigError: The server refuses a request, cannot get the policy, or samples from another one.
            ToolMissing: The server did not respond for `retry_seconds`, or did not start.
        """
        if policy_version != self.policy.version:
            raise RuntimeError(f"asked for v{policy_version}, but v{self.policy.version} is in memory")
        if not requests:
            return
        needed = dict.fromkeys(request.prompt_id for request in requests)
        server_prompts = {prompt_id: self._prompt(prompts[prompt_id]) for prompt_id in needed}
        starts = {prompt_id: self.policy.response_start(prompts[prompt_id]) for prompt_id in needed}
        every = list(prompts.values())
        for prompt in every:
            if prompt.id not in self._lengths:
                self._lengths[prompt.id] = len(self.policy.prompt_ids(prompt))
        longest = max(self._lengths[prompt.id] for prompt in every)
        positions = self.policy.num_positions
        room = NUM_TOKENS if positions is None else positions - longest
        self._num_proof_tokens = min(NUM_TOKENS, room)
        self.delivery.expect_tokens(
            longest + max(self._num_proof_tokens, *(request.max_new_tokens for request in requests))
        )
        num = min(NUM_PROMPTS, len(every))
        # Other prompts in the second draw, if there are any: at temperature 0 a seed changes nothing.
        shift = len(every) // num // NUM_DRAWS
        self._to_prove = [
            [every[place * len(every) // num + draw * shift] for place in range(num)] for draw in range(NUM_DRAWS)
        ]
        self._model, self._proved, self._failure = None, False, None
        self._given_up.clear()
        self.client.begin()
        done: queue.SimpleQueue[Future[Completion]] = queue.SimpleQueue()
        pool = ThreadPoolExecutor(min(self.spec.max_in_flight, len(requests)), "ask")
        try:
            # In the order of the requests: samples of a prompt are consecutive, and servers share its cache.
            for request in requests:
                sent, start = server_prompts[request.prompt_id], starts[request.prompt_id]
                pool.submit(self._complete, request, sent, start).add_done_callback(done.put)
            for _ in requests:
                yield done.get().result()
        finally:
            # Also drains: the next policy gets to a server without open requests.
            self._given_up.set()
            self.client.abort()
            pool.shutdown(cancel_futures=True)
        self.client.begin()
        self.delivery.idle()

    def _prompt(self, prompt: Prompt) -> str | list[int]:
        """What the server is sent so that it sees exactly `policy.prompt_ids(prompt)`."""
        ids = self.policy.prompt_ids(prompt)
        if self.dialect.takes_ids:
            return ids
        text, tokenizer = self.policy.render(prompt), self.policy.tokenizer
        # A server adds the tokenizer's special tokens to a text; the template may have them already.
        first = "" if tokenizer.bos_token is None else tokenizer.bos_token
        for each in (text, text.removeprefix(first)):
            if list(tokenizer(each)["input_ids"]) == ids:
                return each
        raise ConfigError(
            f"engine.server: {self.server} accepts prompts as text only, and this model's tokenizer adds special tokens"
            " that its chat template does not have",
            "use a server that accepts token ids: vllm, sglang or llama_cpp",
        )

    def _complete(self, request: SampleRequest, prompt: str | list[int], start: str) -> Completion:
        """Send the request until there is a response."""
        deadline: float | None = None
        delay, refused = FIRST_DELAY_SECONDS, False
        while True:
            try:
                before = time.monotonic()
                model = self._served()
                if deadline is not None:
                    deadline += time.monotonic() - before  # waiting for a server to start does not count
                found = self._ask(request, prompt, model, self.spec.stop)
                return completion(self.policy, request, found, self.spec.stop, start)
            except Refused as error:
                self._model = None
                # A server that was restarted in between does not know our adapter; at the second attempt it does.
                if error.status != 404 or refused:
                    raise ConfigError(
                        f"{self.delivery.key}: {error}",
                        self.delivery.refused_hint,
                    ) from error
                refused = True
            except Unreachable as error:
                self._model, self._proved = None, self._proved and not isinstance(error, ConnectionLost)
                deadline = time.monotonic() + self.spec.retry_seconds if deadline is None else deadline
                if time.monotonic() >= deadline or self._given_up.is_set():
                    raise ToolMissing(
                        f"{self.delivery.key}: {error} (retried for {self.spec.retry_seconds:g} seconds)",
                        f"{self.delivery.away_hint}; then run the same command with --resume: completions received so"
                        " far are kept",
                    ) from error
                # With jitter, or all waiting requests would be retried at the same moment.
                self._given_up.wait(min(delay * random.uniform(0.5, 1.5), max(0.0, deadline - time.monotonic())))
                delay = min(2 * delay, LONGEST_DELAY_SECONDS)

    def _served(self) -> str:
        """The name of the policy on the server; checked once, and again after every failure."""
        with self._delivering:
            if self._failure is not None:  # the others would only restart the same server
                raise self._failure.with_traceback(None)
            if self._model is None:
                try:
                    model = self.delivery.deliver()
                    if self.spec.max_policy_gap is not None and not self._proved:
                        self._prove(model, self.spec.max_policy_gap)
                except HaloForgeError as error:
                    self._failure = error
                    raise
                self._model = model
            return self._model

    def _prove(self, model: str, max_gap: float) -> None:
        """Compare the server with the policy in memory; see `_policy_proof`.

        Raises:
            ConfigError: It samples from another one.
            Refused, Unreachable: It does not respond.
        """
        for draw in range(NUM_DRAWS):
            start = time.monotonic()
            prompts = self._to_prove[draw]
            completions = self._scored(model, prompts, draw)
            self.delivery.adapter.path()
            proof = prove(
                self.policy,
                [self.policy.prompt_ids(prompt) for prompt in prompts],
                completions,
                self.delivery.adapter.before,
            )
            self.note(
                "served_policy",
                policy_version=self.policy.version,
                model=model,
                adapter_digest=self.delivery.adapter.digest,
                draw=draw,
                **proof.fields(),
                seconds=round(time.monotonic() - start, 3),
            )
            if proof.gap > max_gap or not proof.may_be_chance:
                break
        proof.check(self.policy.version, max_gap, self.delivery)
        self._proved = True

    def _scored(self, model: str, prompts: Sequence[Prompt], draw: int) -> list[ScoredTokens]:
        """A completion of each prompt: sampled with log-probabilities, or greedy if the server returns none."""
        completions: list[ScoredTokens] = []
        if self.dialect.scores:
            try:
                completions = self._scored_at(model, prompts, draw, 1.0, self.dialect.scores)
            except Refused as error:
                if error.status not in _UNKNOWN_FIELD:
                    raise
        if any(each.token_ids for each in completions) and all(
            each.log_probabilities is not None for each in completions
        ):
            return completions
        return self._scored_at(model, prompts, draw, 0.0, {})

    def _scored_at(
        self, model: str, prompts: Sequence[Prompt], draw: int, temperature: float, fields: Mapping[str, object]
    ) -> list[ScoredTokens]:
        """A completion of each prompt at one temperature; `fields` are added to the request body."""

        def complete(prompt: Prompt) -> ScoredTokens:
            seed = derive_seed("proof", self.policy.version, prompt.id, draw)
            request = SampleRequest(prompt.id, 0, seed, temperature, 1.0, None, self._num_proof_tokens)
            found = scored_tokens(self.policy, request, self._ask(request, self._prompt(prompt), model, (), fields))
            heartbeat.beat()
            return found

        with ThreadPoolExecutor(len(prompts), "prove") as pool:
            return list(pool.map(complete, prompts))

    def _ask(
        self,
        request: SampleRequest,
        prompt: str | list[int],
        model: str,
        stop: Sequence[str],
        fields: Mapping[str, object] | None = None,
    ) -> Choice:
        body = request_body(self.server, model, prompt, request, stop=stop, stop_ids=self.policy.stop_ids)
        data = self.client.post("/completions", {**body, **(fields or {})})
        try:
            found = parse_choice(data)
        except ValueError as error:
            raise Refused(200, f"POST {self.client.base_url}/completions: {error}") from error
        if found.reason not in ("stop", "length"):  # such as "abort", by a server that is shutting down
            raise Unreachable(f"POST {self.client.base_url}/completions: ended for the reason {found.reason!r}")
        return found
