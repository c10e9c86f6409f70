"""Does a server answer with the policy that is in memory?  Before a cycle samples, both sides score a few answers.

The server continues some prompts and says how likely it took each token to be; the policy in memory is asked the same
about the same tokens.  Of a server that says no log-probabilities, the tokens at temperature 0 are looked at: by how
much they are less likely here than our likeliest.

Two numbers decide.  The gap to the policy in memory finds another model, another tokenizer and coarse weights.  A
stale or lost adapter may lie within the gap that two implementations in bfloat16 have anyway; it is found by
comparison: the server must not be significantly closer to a policy that it could answer with by mistake, the model
without its adapter and the version that was served before.
"""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from halo_forge.core.errors import ConfigError, LogitsNotFinite
from halo_forge.policy.drift_probe import DriftProbe

if TYPE_CHECKING:
    from halo_forge.engines._adapter_delivery import AdapterDelivery
    from halo_forge.engines._server_dialects import ScoredTokens
    from halo_forge.policy import Policy

NUM_PROMPTS, NUM_TOKENS = 4, 64
"""What is asked: so many prompts, and at most so many tokens after each."""
MIN_TOKENS = 8
"""Fewer compared tokens show nothing: an answer of one token to each prompt is 4."""
STANDARD_ERRORS = 3.0
"""From here on a difference between two policies is hardly chance."""
MIN_APART = 0.01
"""Nats per token that two policies must be apart on the compared tokens before a server is said to be closer to one: a
fifth of the noise of two bfloat16 implementations, which need not be unbiased."""
Method = Literal["log_probabilities", "likeliest"]
_COMPARED: dict[Method, str] = {
    "log_probabilities": "its log-probabilities differ from ours",
    "likeliest": "the tokens that it takes at temperature 0 fall behind our likeliest",
}


@dataclass(frozen=True)
class Proof:
    """What the comparison found.

    Attributes:
        method: "log_probabilities" of sampled tokens, or "likeliest" where the server says none.
        gap: Mean over tokens of |ln p_server - ln p_ours|; by method "likeliest" of ln p_ours(our likeliest token)
            - ln p_ours(the server's); in nats per token.
        others: Name of a policy that the server should not answer with -> its gap.
        told_apart: Those of them that the server is significantly further from than from ours.
        closer: The one that it is significantly closer to, and that is apart from ours; None where there is none.
    """

    method: Method
    num_answers: int
    num_tokens: int
    gap: float
    others: Mapping[str, float]
    told_apart: tuple[str, ...]
    closer: str | None

    def fields(self) -> dict[str, Any]:
        """For events.jsonl."""
        others = {name: round(gap, 6) for name, gap in self.others.items()}
        return {
            "method": self.method,
            "num_tokens": self.num_tokens,
            "gap": round(self.gap, 6),
            "other_gaps": others,
            "told_apart": list(self.told_apart),
        }

    @property
    def may_be_chance(self) -> bool:
        """Another draw may say otherwise: it is refused for less than a gap above the limit."""
        return self.num_tokens < MIN_TOKENS or self.closer is not None

    def check(self, version: int, max_gap: float, delivery: AdapterDelivery) -> None:
        """Nothing if the server answers with v_version.

        Args:
            delivery: Says what to look at.

        Raises:
            ConfigError: It does not, or there is too little to tell by; with the figures.
        """
        if self.num_tokens < MIN_TOKENS:
            raise ConfigError(
                f"{delivery.key}: cannot verify that the server samples from v{version}: only {self.num_tokens} tokens"
                f" of its answers to {self.num_answers} prompts can be compared, at least {MIN_TOKENS} are needed",
                "its answers are nearly empty, or its token counts differ from those of our tokenizer:"
                f" {delivery.other_model_hint}; then run the same command with --resume; engine.max_policy_gap: null"
                " skips this check",
            )
        mine = f"{_COMPARED[self.method]} by {self.gap:.4f} nats per token ({self.num_tokens} tokens)"
        if self.gap > max_gap:
            raise ConfigError(
                f"{delivery.key}: the server does not answer with v{version}: {mine}; engine.max_policy_gap is"
                f" {max_gap:g}",
                f"{delivery.other_model_hint}; then run the same command with --resume; a higher engine.max_policy_gap"
                " accepts samples of another policy",
            )
        if self.closer is not None:
            raise ConfigError(
                f"{delivery.key}: the server does not answer with v{version}: it is closer to {self.closer}: {mine},"
                f" from {self.closer} by {self.others[self.closer]:.4f}",
                f"the adapter did not reach it: {delivery.lost_adapter_hint}; then run the same command with --resume",
            )


def prove(
    policy: Policy,
    rows: Sequence[Sequence[int]],
    scored: Sequence[ScoredTokens],
    before: tuple[int, Path | None] | None,
) -> Proof:
    """Compare what the server said with the policy in memory, which is the same afterwards.

    Args:
        rows: Token ids of the prompts.
        scored: What the server answered to each.
        before: Version and adapter of what was served before, if that was another.

    Raises:
        ConfigError: The server says a log-probability that is not finite.
        LogitsNotFinite: The policy in memory, or one that it is compared with, has such ones.
    """
    theirs = _said(policy, scored)
    given = [len(row) for row in rows]
    answers = [list(each.token_ids) for each in scored]
    probe = DriftProbe(policy, {})
    if theirs is None:
        _, _, likeliest = probe.log_probabilities(_joined(rows, answers), given)
        for each, answer, best in zip(scored, answers, likeliest, strict=True):
            if not each.is_exact:
                del answer[_num_told(policy, answer, best) :]

    def differences(name: str) -> list[float]:
        logs, likeliest, _ = probe.log_probabilities(_joined(rows, answers), given)
        ours = [value for row in logs for value in row]
        other = [value for row in likeliest for value in row] if theirs is None else theirs
        for values in (ours, other):
            if not all(map(math.isfinite, values)):
                raise LogitsNotFinite(
                    f"the log-probabilities that {name} gives to the server's tokens are not finite"
                    f" ({_first_not_finite(values)})",
                    "--resume with --set model.attn_implementation=eager, or model.dtype=float32: attention kernels are"
                    " known that give NaN (HARDWARE_NOTES.md in the documentation)",
                )
        return [one - own for one, own in zip(other, ours, strict=True)]

    mine = differences(f"v{policy.version} in memory")
    others: dict[str, list[float]] = {}
    if policy.adapter_norm() > 0:
        with policy.model.disable_adapter():
            name = "the model without its adapter"
            others[name] = differences(name)
    if before is not None:
        with _brought(policy, *before):
            name = f"v{before[0]}"
            others[name] = differences(name)
    ranks = {name: _closer(mine, values, square=theirs is not None) for name, values in others.items()}
    apart = [name for name, values in others.items() if _mean_size(_less(mine, values)) >= MIN_APART]
    closest = max(apart, key=lambda name: ranks[name], default=None)
    return Proof(
        method="likeliest" if theirs is None else "log_probabilities",
        num_answers=len(rows),
        num_tokens=len(mine),
        gap=_mean_size(mine),
        others={name: _mean_size(values) for name, values in others.items()},
        told_apart=tuple(name for name, rank in ranks.items() if rank < -STANDARD_ERRORS),
        closer=closest if closest is not None and ranks[closest] > STANDARD_ERRORS else None,
    )


def _said(policy: Policy, scored: Sequence[ScoredTokens]) -> list[float] | None:
    """The server's log-probabilities of all tokens; None if it does not give them."""
    values: list[float] = []
    for each in scored:
        if each.log_probabilities is None:
            return None
        values += each.log_probabilities
    if not all(map(math.isfinite, values)):
        raise ConfigError(
            f"the server returns log-probabilities that are not finite ({_first_not_finite(values)}): it does not"
            f" sample v{policy.version} from a probability distribution",
            "see the server's log; its number format may overflow with this model, as float16 does where bfloat16 and"
            " float32 do not; then run the same command with --resume",
        )
    return values


def _first_not_finite(values: Sequence[float]) -> float:
    return next(value for value in values if not math.isfinite(value))


def _joined(rows: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> list[list[int]]:
    return [[*row, *answer] for row, answer in zip(rows, answers, strict=True)]


def _num_told(policy: Policy, token_ids: Sequence[int], likeliest: Sequence[float]) -> int:
    """How many tokens of a text tell something: until the policy would go on with another token for the same text, or
    with a special one, which a server may hide."""

    def text(ids: Sequence[int]) -> str:
        return str(policy.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    special = {*policy.tokenizer.all_special_ids, *policy.stop_ids}
    for at, (token, best) in enumerate(zip(token_ids, map(int, likeliest), strict=True)):
        if token != best and (best in special or text(token_ids[at:]).startswith(text([best]))):
            return at
    return len(token_ids)


@contextlib.contextmanager
def _brought(policy: Policy, version: int, folder: Path | None) -> Iterator[None]:
    """Another version in memory while the block runs; float32 files, so that the same bits come back."""
    import torch

    kept, now = policy.trainable_weights(), policy.version
    try:
        policy.load_adapter(folder, version)
        yield
    finally:
        with torch.no_grad():
            for name, value in policy.model.named_parameters():
                if name in kept:
                    value.copy_(kept[name])
        policy.version = now


def _closer(mine: Sequence[float], others: Sequence[float], *, square: bool) -> float:
    """By how many standard errors the server is closer to the other policy than to ours; negative where to ours.

    Squares of differences of log-probabilities are compared: with a server s = p + noise, mean (s - mine)^2 less mean
    (s - other)^2 is minus the mean square of mine - other when p is mine and plus that when it is the other,
    whatever the noise of the two sides is.
    """
    size: Callable[[float], float] = (lambda value: value * value) if square else abs
    apart = _less([size(own) for own in mine], [size(other) for other in others])
    mean = statistics.fmean(apart) if apart else 0.0
    error = statistics.stdev(apart) / math.sqrt(len(apart)) if len(apart) > 1 else 0.0
    return mean / error if error > 0 else 0.0


def _less(ones: Sequence[float], others: Sequence[float]) -> list[float]:
    return [one - other for one, other in zip(ones, others, strict=True)]


def _mean_size(values: Sequence[float]) -> float:
    return statistics.fmean(map(abs, values)) if values else 0.0
