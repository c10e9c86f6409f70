"""What a run decided, found and spent its time on: every difference with its error and what could be detected."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from halo_forge.cli.watch import duration
from halo_forge.store.status import CycleRow

DECISION_COLUMNS = {
    "model": "right", "against": "right", "difference": "right", "SE": "right", "z": "right", "detectable": "right",
    "prompts": "right", "resampled": "right", "outcome": "left", "action": "left",
}  # fmt: skip
RESULT_COLUMNS = {
    "set": "left", "metric": "left", "model": "right", "v0": "right", "its own": "right", "difference": "right",
    "95 % interval": "right", "detectable": "right",
}  # fmt: skip
ACTIONS = {
    "rollback": "back to v{train_from}",
    "from_base": "from v0 on",
    "continue_lower": "on, lower",
}

PHASES_IN_WORDS = {
    "sampling": "generate", "checking after it": "verify", "drift": "drift", "training": "train", "other": "other",
}  # fmt: skip


def decision_rows(cycles: Sequence[CycleRow]) -> Iterator[list[str]]:
    """One row for each version that was compared with an incumbent."""
    for row in cycles:
        decision = row.decision
        screen = decision.get("screen", {})
        if decision.get("compared_with") is None:
            continue
        action = ACTIONS.get(decision["action"], decision["action"]).format(**decision)
        if decision["conclusion"] is not None:
            action = f"{action} ({decision['conclusion'].replace('_', ' ')})"
        fresh = decision["confirmation"]
        yield [
            f"v{row.policy_version}",
            f"v{decision['compared_with']}",
            _form(screen.get("difference"), "+.3f"),
            _form(screen.get("standard_error"), ".3f"),
            _form(screen.get("z"), ".2f"),
            _form(screen.get("minimum_detectable_effect"), ".3f"),
            _form(screen.get("num_prompts"), ".0f"),
            f"{fresh['difference']:+.3f} (z {_form(fresh.get('z'), '.2f', 'none')})" if fresh else "",
            decision["outcome"].replace("_", " "),
            action,
        ]


def result_rows(result: Mapping[str, Any]) -> Iterator[list[str]]:
    """The chosen and the last version against the start model, on dev and on test; not the start model itself."""
    kinds = {"chosen": ("", result["chosen_version"]), "last": ("last_", result["last_version"])}
    if result["last_version"] == result["chosen_version"]:
        del kinds["last"]
    for name, (prefix, version) in kinds.items():
        if version == 0:
            continue
        for set_name in ("dev", "test"):
            for metric, row in result[f"{prefix}{set_name}"].items():
                yield [
                    set_name,
                    metric,
                    f"v{version} ({name})",
                    f"{row['start']:.3f}",
                    f"{row[name]:.3f}",
                    f"{row['difference']:+.3f}",
                    f"{row['low']:+.3f} to {row['high']:+.3f}",
                    _form(row.get("minimum_detectable_effect"), ".3f"),
                ]


def time_line(cycles: Sequence[CycleRow]) -> str:
    """Where the time of all cycles went, such as "time: sampling 4 min 0 s (80 %), drift 30 s (10 %)"; empty before."""
    seconds = {
        word: sum(row.metrics.get(f"seconds/{phase}", 0.0) for row in cycles) for word, phase in PHASES_IN_WORDS.items()
    }
    total = sum(seconds.values())
    parts = [f"{word} {duration(spent)} ({spent / total:.0%})" for word, spent in seconds.items() if spent > 0.0]
    return "time: " + ", ".join(parts) if parts else ""


def _form(value: Any, form: str, absent: str = "") -> str:
    return absent if value is None else format(value, form)
