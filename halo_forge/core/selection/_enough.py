"""The error for too few selected samples, which says what to change."""

from __future__ import annotations

from halo_forge.core.errors import TooFewSamples
from halo_forge.core.records import Selection


def refuse_too_few(selection: Selection, cycle: int, min_selected: int) -> None:
    """Raise TooFewSamples if fewer than `min_selected` samples of this cycle are kept."""
    if len(selection.kept) >= min_selected:
        return
    num_samples = len(selection.kept) + sum(len(keys) for keys in selection.dropped.values())
    truncated = len(selection.dropped.get("truncated", ())) > num_samples / 2
    advice = (
        "a larger engine.max_new_tokens, or an engine.stop string that ends a completion"
        if truncated
        else "easier prompts, more samples_per_prompt, or a lower selection.reward_threshold (such as 0.5: everything"
        " that compiles)"
    )
    dropped = ", ".join(f"{reason} {len(keys)}" for reason, keys in selection.dropped.items() if keys)
    hint = (
        "nothing is lost and --resume continues here, but the same samples give the same result: start a new run"
        f" with {advice}; model.adapter can start it from an adapter of this run"
    )
    if len(selection.kept) + len(selection.dropped.get("flaky_unknown", ())) >= min_selected:
        hint = (
            "the verifier itself failed in the second run (see second_verdicts.jsonl of the cycle): correct that,"
            f" then `halo-forge raft resume RUN --from-cycle {cycle}`"
        )
    raise TooFewSamples(
        f"cycle {cycle}: {len(selection.kept)} of {num_samples} samples were selected, fewer than"
        f" raft.min_selected ({min_selected}); dropped: {dropped}",
        hint,
    )
