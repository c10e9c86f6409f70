"""Every metric that is emitted is in the catalogue, and every one of the catalogue is documented."""

from __future__ import annotations

import re
from pathlib import Path

from halo_forge.core.metrics import (
    CostFacts,
    DriftFacts,
    KeptFacts,
    SetFacts,
    TrainingFacts,
    catalogue,
    measure_cost,
    measure_drift,
    measure_kept,
    measure_set,
    measure_training,
)
from halo_forge.core.metrics.cost import GPU
from halo_forge.core.records import Completion, Sample, Verdict

UNITS = {
    "rate",
    "count",
    "tokens",
    "seconds",
    "bytes",
    "tokens/s",
    "nats",
    "nats/token",
    "watts",
    "degrees Celsius",
    "ratio",
    "1",
}
SET_PREFIX = re.compile(r"^(train|dev|test)/")


def plain(name: str) -> str:
    """The name as the catalogue has it."""
    name = re.sub(r"_(low|high)$", "", SET_PREFIX.sub("", name))
    return re.sub(r"^pass@\d+$", "pass@k", name)


def emitted() -> set[str]:
    text = "".join(chr(33 + number * 37 % 90) for number in range(3000))
    completions = [Completion("a", index, text, (0,), "stop", 0, 0) for index in range(8)]
    verdicts = [
        Verdict(
            prompt_id="a", index=index, stage="tests", status="passed", reward=1.0, source_digest="s", normal_digest="d"
        )
        for index in range(8)
    ]
    step = {"step": 1, "learning_rate": 1e-4, "loss": 1.0, "gradient_norm": 1.0, "num_tokens": 1, "num_rows": 1}
    stages = ("generate", "verify", "drift", "train", "other")
    facts = SetFacts(tuple(map(Sample, completions, verdicts)), ("a",), 8)
    one = [[1.0]]
    return {
        *measure_set(facts, "train"),
        *measure_set(facts, "dev"),
        *measure_set(facts, "test"),
        *measure_drift(DriftFacts(1, one, one, one, one, one, one)),
        *measure_kept(KeptFacts(["d"], {"d"}, one)),
        *measure_training(TrainingFacts([step] * 5, 1.0, 1.0)),
        *measure_cost(CostFacts(dict.fromkeys(stages, 1.0), {"generate": 1, "train": 1}, 1, dict.fromkeys(GPU, 1.0))),
    }


def documented() -> dict[str, tuple[str, str]]:
    """Name -> (unit, direction), from the tables of the page."""
    page = (Path(__file__).parents[3] / "docs" / "metrics.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([^`]+)` \| ([^|]+?) \| ([^|]+?) \|", page, re.MULTILINE)
    names = [name for name, _, _ in rows]
    assert len(names) == len(set(names)), "a name has two rows"
    return {name: (unit, direction) for name, unit, direction in rows}


def test_what_is_emitted_is_what_the_catalogue_says() -> None:
    assert {plain(name) for name in emitted()} == catalogue().keys()


def test_the_page_documents_exactly_the_catalogue() -> None:
    assert documented() == {name: (info.unit, info.direction) for name, info in catalogue().items()}


def test_every_metric_says_what_it_is() -> None:
    for name, info in catalogue().items():
        assert info.unit in UNITS, name
        assert info.doc.endswith(".") and len(info.doc) > 20, name


def test_sampling_and_diversity_have_no_prefix_on_train() -> None:
    for name in emitted():
        found = SET_PREFIX.match(name)
        if found and found[1] == "train":
            assert not catalogue()[plain(name)].bare_on_train
