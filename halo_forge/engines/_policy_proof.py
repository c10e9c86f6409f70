"""Verifies that a server samples from the policy in memory: before a cycle samples, both score a few completions.

The server continues some prompts and returns the log-probability of each token; the policy in memory scores the same
tokens.  For a server without log-probabilities, greedy tokens are compared: how much less likely they are under the
policy than the policy's own most likely tokens.

Two numbers decide.  The gap to the policy in memory finds another model, another tokenizer and imprecise weights.  A
stale or lost adapter may lie within the gap that two bfloat16 implementations have anyway; it is found by comparison:
the server must not be significantly closer to a policy that it could serve by mistake, which are the model without its
adapter and the version served before.
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
"""Number of prompts, and the most tokens after each."""
MIN_TOKENS = 8
"""Fewer compared tokens prove nothing: one token per prompt would be 4."""
STANDARD_ERRORS = 3.0
"""From here on a difference between two policies is unlikely to be chance."""
MIN_APART = 0.01
"""Nats per token by which two policies must differ on the compared tokens before a server can be closer to one of them:
a fifth of the noise between two bfloat16 implementations, which may be biased."""
Method = Literal["log_probabilities", "likeliest"]
_COMPARED: dict[Method, str] = {
    "log_probabilities": "its log-probabilities differ from ours",
    "likeliest": "the tokens that it chooses at temperature 0 are less likely than our most likely ones",
}


@dataclass(frozen=True)
class Proof:
    """What the comparison found.

    Attributes:
        method: "log_probabilities" of sampled tokens, or "likeliest" if the server returns none.
        gap: Mean over tokens of |ln p_server - ln p_ours|; by method "likeliest" of ln p_ours(our likeliest token)
            - ln p_ours(the server's); in nats per token.
        others: Name of a policy that the server should not serve -> its gap.
        told_apart: Those of them that the server is significantly further from than from ours.
        closer: The one that it is significantly closer to, and that differs from ours; None if there is none.
    """

    method: Method
    num_completions: int
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
        """Whether another draw may decide otherwise: the refusal is not for a gap above the limit."""
        return self.num_tokens < MIN_TOKENS or self.closer is not None

    def check(self, version: int, max_gap: float, delivery: AdapterDelivery) -> None:
        """Do nothing if the server samples from v_version.

        Args:
            delivery: Has the hints for the errors.

        Raises:
            ConfigError: It does not, or there are too few tokens to decide; with the figures.
        """
        if self.num_tokens < MIN_TOKENS:
            raise ConfigError(
                f"{delivery.key}: cannot verify that the server samples from v{version}: only {self.num_tokens} tokens"
                f" of its completions of {self.num_completions} prompts can be compared, at least {MIN_TOKENS} are"
                " needed",
                "its completions are nearly empty, or its token counts differ from those of our tokenizer:"
                f" {delivery.other_model_hint}; then run the same command with --resume; engine.max_policy_gap: null"
                " skips this check",
            )
        mine = f"{_COMPARED[self.method]} by {self.gap:.4f} nats per token ({self.num_tokens} tokens)"
        if self.gap > max_gap:
            raise ConfigError(
                f"{delivery.key}: the server does not sample from v{version}: {mine}; engine.max_policy_gap is"
                f" {max_gap:g}",
                f"{delivery.other_model_hint}; then run the same command with --resume; a higher engine.max_policy_gap"
                " accepts samples of another policy",
            )
        if self.closer is not None:
            raise ConfigError(
                f"{delivery.key}: the server does not sample from v{version}: it is closer to {self.closer}: {mine},"
                f" from {self.closer} by {self.others[self.closer]:.4f}",
                f"it does not apply the adapter: {delivery.lost_adapter_hint}; then run the same command with --resume",
            )


def prove(
    policy: Policy,
    rows: Sequence[Sequence[int]],
    scored: Sequence[ScoredTokens],
    before: tuple[int, Path | None] | None,
) -> Proof:
    """Compare the server's scores with those of the policy in memory, which is unchanged afterwards.

    Args:
        rows: Token ids of the prompts.
        scored: The server's completion of each.
        before: Version and adapter of what was served before, if that was another version.

    Raises:
        ConfigError: The server returns a log-probability that is not finite.
        LogitsNotFinite: The policy in memory, or one that it is compared with, gives such values.
    """
    theirs = _said(policy, scored)
    given = [len(row) for row in rows]
    completions = [list(each.token_ids) for each in scored]
    probe = DriftProbe(policy, {})
    if theirs is None:
        _, _, likeliest = probe.log_probabilities(_joined(rows, completions), given)
        for each, token_ids, best in zip(scored, completions, likeliest, strict=True):
            if not each.is_exact:
                del token_ids[_num_told(policy, token_ids, best) :]

    def differences(name: str) -> list[float]:
        logs, likeliest, _ = probe.log_probabilities(_joined(rows, completions), given)
        ours = [value for row in logs for value in row]
        other = [value for row in likeliest for value in row] if theirs is None else theirs
        for values in (ours, other):
            if not all(map(math.isfinite, values)):
                raise LogitsNotFinite(
                    f"the log-probabilities that {name} gives to the server's tokens are not finite"
                    f" ({_first_not_finite(values)})",
                    "--resume with --set model.attn_implementation=eager, or model.dtype=float32: attention kernels are"
                    " known that give NaN (`halo-forge docs hardware_notes`)",
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
        num_completions=len(rows),
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


def _joined(rows: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> list[list[int]]:
    return [[*row, *completion] for row, completion in zip(rows, completions, strict=True)]


def _num_told(policy: Policy, token_ids: Sequence[int], likeliest: Sequence[float]) -> int:
    """How many tokens of a text can be compared: up to where the policy would continue the same text with another
    token, or with a special one, which a server may hide."""

    def text(ids: Sequence[int]) -> str:
        return str(policy.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    special = {*policy.tokenizer.all_special_ids, *policy.stop_ids}
    for at, (token, best) in enumerate(zip(token_ids, map(int, likeliest), strict=True)):
        if token != best and (best in special or text(token_ids[at:]).startswith(text([best]))):
            return at
    return len(token_ids)


@contextlib.contextmanager
def _brought(policy: Policy, version: int, folder: Path | None) -> Iterator[None]:
    """Another version in memory while the block runs; the adapter is float32, so it is restored exactly."""
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
    """By how many standard errors the server is closer to the other policy than to ours; negative if closer to ours.

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
