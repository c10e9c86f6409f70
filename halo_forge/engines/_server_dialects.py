"""Requests and responses of servers that speak the OpenAI completions protocol.

The protocol does not cover everything that sampling from a policy needs: top_k, no penalties, special tokens and stop
strings kept in the text.  Every server has its own fields for that.
"""

from __future__ import annotations

import bisect
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from halo_forge.core.records import Completion, SampleRequest
from halo_forge.engines.transformers import cut_after

if TYPE_CHECKING:
    from halo_forge.policy import Policy

ServerKind = Literal["vllm", "sglang", "llama_cpp", "transformers", "openai"]

_PLAIN = {"repetition_penalty": 1.0, "skip_special_tokens": False}


@dataclass(frozen=True)
class Dialect:
    """What one server supports beyond the protocol.

    Attributes:
        extra: Fields of every request.
        takes_ids: The prompt is sent as token ids, so nothing is added to it.
        all_tokens: Its top_k for "all"; None if it supports neither top_k nor min_p.
        keeps_stop: It leaves the stop string in the text.  Otherwise it is unknown which one ended a completion, so the
            server is not told the stop strings: it samples to its own end, and the completion is cut here.
        stop_ids: It accepts token ids that end a completion.
        scores: Fields that make it return the log-probabilities of sampled tokens; empty if it cannot.
    """

    extra: Mapping[str, Any]
    takes_ids: bool = False
    all_tokens: int | None = None
    keeps_stop: bool = False
    stop_ids: bool = False
    scores: Mapping[str, Any] = field(default_factory=dict)


DIALECTS: dict[ServerKind, Dialect] = {
    "vllm": Dialect(
        {**_PLAIN, "return_token_ids": True, "include_stop_str_in_output": True},
        takes_ids=True,
        all_tokens=-1,
        keeps_stop=True,
        stop_ids=True,
        # Not prompt_logprobs: vLLM 0.32 on a CPU crashes with them when it has adapters and several requests.
        scores={"logprobs": 0},
    ),
    "sglang": Dialect(
        {**_PLAIN, "no_stop_trim": True},
        takes_ids=True,
        all_tokens=-1,
        keeps_stop=True,
        stop_ids=True,
        scores={"logprobs": 1},
    ),
    # It returns the sampled tokens only together with log-probabilities.
    "llama_cpp": Dialect({"repeat_penalty": 1.0, "logprobs": 1}, takes_ids=True, all_tokens=0, scores={"logprobs": 1}),
    "transformers": Dialect({}, keeps_stop=True),
    "openai": Dialect({}, scores={"logprobs": 1}),
}


def request_body(
    server: ServerKind,
    model: str,
    prompt: str | Sequence[int],
    request: SampleRequest,
    *,
    stop: Sequence[str],
    stop_ids: Collection[int],
) -> dict[str, Any]:
    """The body of `POST /completions`.

    Args:
        prompt: Token ids for a server that accepts them, else text.
    """
    dialect = DIALECTS[server]
    body: dict[str, Any] = {
        "model": model,
        "prompt": prompt,
        "max_tokens": request.max_new_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        # llama.cpp keeps 32 bits, and its largest number means "any seed".
        "seed": request.seed % 2**31,
        **dialect.extra,
    }
    if dialect.keeps_stop and stop:
        body["stop"] = list(stop)
    if dialect.stop_ids:
        body["stop_token_ids"] = sorted(stop_ids)
    if dialect.all_tokens is not None:
        body["top_k"] = dialect.all_tokens if request.top_k is None else request.top_k
        body["min_p"] = request.min_p
    if server == "transformers":
        # It has no fields for these, and uses the model's generation settings unless it is given others.
        settings: dict[str, Any] = {
            "do_sample": request.temperature > 0,
            "top_k": 0 if request.top_k is None else request.top_k,
            "min_p": request.min_p,
            "eos_token_id": sorted(stop_ids),
        }
        body["generation_config"] = json.dumps(settings)
    return body


@dataclass(frozen=True)
class Choice:
    """One choice of a response.

    Attributes:
        token_ids: The sampled tokens, the end of turn included; None if the server does not return them.
        reason: The finish reason that the server gives.
        log_probabilities: Of the sampled tokens, in nats; None if the server does not return them.
        num_tokens: How many were sampled; None if the server does not say.
    """

    text: str
    token_ids: tuple[int, ...] | None
    reason: str | None
    log_probabilities: tuple[float, ...] | None = None
    num_tokens: int | None = None


def parse_choice(data: bytes) -> Choice:
    """The one choice of a response.

    Raises:
        ValueError: It is not a response of this protocol.
    """
    try:
        answer = json.loads(data)
        (choice,) = answer["choices"]
        if any(choice.get(field) for field in ("reasoning_content", "reasoning")):
            raise ValueError("the server takes the reasoning out of the text; start it without a reasoning parser")
        if not isinstance(choice.get("text"), str):
            raise TypeError(f"`text` is {choice.get('text')!r}; text is needed")
        ids, logs = choice.get("token_ids"), choice.get("logprobs")
        values = None
        if logs is not None and "content" in logs:  # llama.cpp
            ids, values = [each["id"] for each in logs["content"]], [each["logprob"] for each in logs["content"]]
        elif logs is not None:
            values = logs["token_logprobs"]
        return Choice(
            text=choice["text"],
            token_ids=None if ids is None else tuple(int(each) for each in ids),
            reason=choice.get("finish_reason"),
            log_probabilities=None if values is None else tuple(float(each) for each in values),
            num_tokens=(answer.get("usage") or {}).get("completion_tokens"),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a completion ({error}): {data[:200]!r}") from error


@dataclass(frozen=True)
class ScoredTokens:
    """The tokens with which a server continued a prompt, and their log-probabilities; see `Choice`.

    Attributes:
        is_exact: The server returned the token ids; otherwise its text was tokenised here.
    """

    token_ids: tuple[int, ...]
    log_probabilities: tuple[float, ...] | None
    is_exact: bool = True


def scored_tokens(policy: Policy, request: SampleRequest, found: Choice) -> ScoredTokens:
    """The scored tokens of a response.

    Token ids that a server does not return are found by tokenising its text, which the model may have generated with
    other tokens: if their number differs from the server's, the completion is useless and gets no tokens.
    """
    ids, logs = found.token_ids, found.log_probabilities
    if ids is None:
        ids = completion(policy, request, found, (), "").token_ids
        num = found.num_tokens if logs is None else len(logs)
        if num is not None and num - len(ids) not in ((0, 1) if found.reason == "stop" else (0,)):
            return ScoredTokens((), None if logs is None else (), is_exact=False)
    # The end of turn is not part of the text.
    return ScoredTokens(ids, None if logs is None else logs[: len(ids)], found.token_ids is not None)


def completion(policy: Policy, request: SampleRequest, found: Choice, stop: Sequence[str], start: str) -> Completion:
    """The completion in a response: without the end of turn, up to and including the first stop string.

    Args:
        start: What its text begins with, see `Policy.response_start`.
    """
    tokenizer, text, ids = policy.tokenizer, found.text, found.token_ids
    if ids is not None:
        ids = ids[:-1] if ids and ids[-1] in policy.stop_ids else ids
        text = str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))
    elif found.reason == "stop":
        for token in policy.stop_ids:
            text = text.removesuffix(str(tokenizer.decode([token])))
    ended = found.reason == "stop" or any(mark in text for mark in stop)
    whole, text = text, cut_after(text, stop)
    if ids is not None and text != whole:
        ids = ids[: _num_tokens(policy, ids, stop)]
    if ids is None:
        ids = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
    return Completion(
        prompt_id=request.prompt_id,
        index=request.index,
        text=start + text,
        token_ids=ids,
        finish="stop" if ended else "length",
        seed=request.seed,
        policy_version=policy.version,
    )


def _num_tokens(policy: Policy, ids: Sequence[int], stop: Sequence[str]) -> int:
    """How many tokens it takes until a stop string is complete."""

    def has_stop(num: int) -> bool:
        text = policy.tokenizer.decode(list(ids[:num]), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return any(mark in text for mark in stop)

    return bisect.bisect_left(range(len(ids)), True, key=has_stop)
