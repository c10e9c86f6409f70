"""How servers that speak the OpenAI completions protocol want to be asked, and what they answer.

The protocol leaves out what a policy must be sampled with: no top_k of the server's own choice, no penalties, the
special tokens kept, the stop string kept.  Every server has its own fields for that.
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
    """What one server takes beyond the protocol.

    Attributes:
        extra: Fields of every request.
        takes_ids: The prompt goes as token ids, so that nothing is added to it.
        all_tokens: Its top_k for "all"; None where it takes no top_k, and no min_p.
        keeps_stop: It leaves the stop string in the text.  Without that nobody knows which one ended an answer, so
            it is not told of them: it samples on to the end, and the answer is cut here.
        stop_ids: It takes token ids that end an answer.
        scores: Fields that make it say the log-probabilities of what it samples; empty where it cannot.
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
        # Not prompt_logprobs: vLLM 0.32 on a CPU dies of them when it has adapters and several requests.
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
    # Only beside log-probabilities it says which tokens it took.
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
        prompt: Token ids for a server that takes them, else text.
    """
    dialect = DIALECTS[server]
    body: dict[str, Any] = {
        "model": model,
        "prompt": prompt,
        "max_tokens": request.max_new_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        # llama.cpp keeps 32 bits, and its largest number stands for "any seed".
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
        # It has no fields for these, and starts from the model's own generation settings unless it is given others.
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
    """One choice of an answer.

    Attributes:
        token_ids: Those that were sampled, the end of turn included; None where the server does not say.
        reason: Why it ended, as the server says.
        log_probabilities: Of the sampled tokens, in nats; None where the server does not say.
        num_tokens: How many were sampled; None where the server does not say.
    """

    text: str
    token_ids: tuple[int, ...] | None
    reason: str | None
    log_probabilities: tuple[float, ...] | None = None
    num_tokens: int | None = None


def parse_choice(data: bytes) -> Choice:
    """The one choice of an answer.

    Raises:
        ValueError: It is not an answer of this protocol.
    """
    try:
        answer = json.loads(data)
        (choice,) = answer["choices"]
        ids, logs = choice.get("token_ids"), choice.get("logprobs")
        values = None
        if logs is not None and "content" in logs:  # llama.cpp
            ids, values = [each["id"] for each in logs["content"]], [each["logprob"] for each in logs["content"]]
        elif logs is not None:
            values = logs["token_logprobs"]
        return Choice(
            text=str(choice["text"]),
            token_ids=None if ids is None else tuple(int(each) for each in ids),
            reason=choice.get("finish_reason"),
            log_probabilities=None if values is None else tuple(float(each) for each in values),
            num_tokens=(answer.get("usage") or {}).get("completion_tokens"),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a completion: {data[:200]!r}") from error


@dataclass(frozen=True)
class ScoredTokens:
    """What a server says of the tokens that it took after a prompt; see `Choice`.

    Attributes:
        is_exact: The server says which tokens they are; else its text was tokenised here.
    """

    token_ids: tuple[int, ...]
    log_probabilities: tuple[float, ...] | None
    is_exact: bool = True


def scored_tokens(policy: Policy, request: SampleRequest, found: Choice) -> ScoredTokens:
    """The scores of an answer.

    Token ids that a server does not say are found by tokenising its text, which the model may have written with other
    tokens: where their number is not that of the server, the answer tells nothing and has no tokens.
    """
    ids, logs = found.token_ids, found.log_probabilities
    if ids is None:
        ids = completion(policy, request, found, ()).token_ids
        num = found.num_tokens if logs is None else len(logs)
        if num is not None and num - len(ids) not in ((0, 1) if found.reason == "stop" else (0,)):
            return ScoredTokens((), None if logs is None else (), is_exact=False)
    # The end of turn is not in a text.
    return ScoredTokens(ids, None if logs is None else logs[: len(ids)], found.token_ids is not None)


def completion(policy: Policy, request: SampleRequest, found: Choice, stop: Sequence[str]) -> Completion:
    """The completion in a reply: without the end of turn, and up to and including the first stop string."""
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
        text=policy.response_prefix + text,
        token_ids=ids,
        finish="stop" if ended else "length",
        seed=request.seed,
        policy_version=policy.version,
    )


def _num_tokens(policy: Policy, ids: Sequence[int], stop: Sequence[str]) -> int:
    """How many of the tokens it takes until a stop string is whole."""

    def has_stop(num: int) -> bool:
        text = policy.tokenizer.decode(list(ids[:num]), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return any(mark in text for mark in stop)

    return bisect.bisect_left(range(len(ids)), True, key=has_stop)
