"""The samples that a version was trained on, as a data set: one Parquet file and its card."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from halo_forge.core.errors import ModelError
from halo_forge.core.source import extract
from halo_forge.core.wording import counted
from halo_forge.exports.card import code, shown_base
from halo_forge.exports.source import Source, prompt_origins
from halo_forge.store.files import as_written, read_jsonl
from halo_forge.store.run import cycle_folder
from halo_forge.store.samples import StoredSample, stored_samples

FILE = "data/train.parquet"
_TRAINED_ON = ("train", "further", "rollback")


@dataclass(frozen=True)
class KeptSamples:
    """Rows without duplicates.

    Attributes:
        rows: One for each program of a prompt, in the order in which they were trained on; see `kept_samples`.
        num_trained: Rows that the trainings had, duplicates included.
    """

    rows: list[dict[str, Any]]
    num_trained: int


def kept_samples(source: Source) -> KeptSamples:
    """The samples that the exported version was trained on, in all cycles that led to it.

    Two samples of a prompt whose programs differ only in comments, spacing and names count as one: the first is kept.
    Each row has `prompt` and `completion` as messages, the `program` in the completion, `prompt_id`, `language`,
    `cycle` (which trained on it), `policy_version` (which wrote it), its verdict, and that of its second run.

    Raises:
        ModelError: No run is known, so nothing is known of the samples.
        RunDirError: A file of the run cannot be read.
    """
    run, config = source.subject.run, source.config
    if run is None or config is None:
        raise ModelError(f"{source.subject.name}: an adapter without its run has no samples", "name the run itself")
    stored = {_key(each): each for each in stored_samples(run, sets=_TRAINED_ON)}
    marks, language = config.verifier.own_marks, config.verifier.language
    found: dict[tuple[str, str], dict[str, Any]] = {}
    num_trained = 0
    for cycle in reversed(source.lineage()):
        path = cycle_folder(run, cycle) / "selection.jsonl"
        for row in read_jsonl(path):
            with as_written(path):
                text = row["completion"][0]["content"]
                sample = stored[row["policy_version"], row["prompt_id"], row["index"], text]
            num_trained += 1
            verdict, again = sample.verdict, sample.second_verdict
            assert verdict is not None  # what is selected was judged
            program = extract(text, language, reasoning_marks=marks).code
            same = verdict.normal_digest if verdict.normal_digest is not None else text
            found.setdefault(
                (row["prompt_id"], same),
                {
                    "prompt": row["prompt"],
                    "completion": row["completion"],
                    "program": program,
                    "prompt_id": row["prompt_id"],
                    "language": language,
                    "cycle": cycle,
                    "policy_version": row["policy_version"],
                    "stage": verdict.stage,
                    "status": verdict.status,
                    "reward": float(verdict.reward),
                    "tests_passed": verdict.tests_passed,
                    "tests_total": verdict.tests_total,
                    "warnings": verdict.warnings,
                    "flags": list(verdict.flags),
                    "second_status": None if again is None else again.status,
                    "program_sha256": verdict.source_digest,
                    "normalised_sha256": verdict.normal_digest,
                },
            )
    return KeptSamples(list(found.values()), num_trained)


def _key(sample: StoredSample) -> tuple[int, str, int, str]:
    # With the text: after a return to an earlier version, its prompts are sampled again under the same indices.
    completion = sample.completion
    return completion.policy_version, completion.prompt_id, completion.index, completion.text


def write_samples(kept: KeptSamples, folder: Path) -> None:
    """Write the rows to `data/train.parquet`."""
    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]

    message = pyarrow.list_(pyarrow.struct([("role", pyarrow.string()), ("content", pyarrow.string())]))
    text, number = pyarrow.string(), pyarrow.int64()
    schema = pyarrow.schema(
        [
            ("prompt", message), ("completion", message), ("program", text), ("prompt_id", text), ("language", text),
            ("cycle", number), ("policy_version", number), ("stage", text), ("status", text),
            ("reward", pyarrow.float64()), ("tests_passed", number), ("tests_total", number), ("warnings", number),
            ("flags", pyarrow.list_(text)), ("second_status", text), ("program_sha256", text),
            ("normalised_sha256", text),
        ]
    )  # fmt: skip
    path = folder / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(kept.rows, schema=schema), path)


def samples_card(source: Source, kept: KeptSamples, licence: str | None) -> str:
    """README.md of the data set."""
    assert source.config is not None
    train = next(each for each in prompt_origins(source.config) if each[0] == "train")
    passed = sum(row["status"] == "passed" for row in kept.rows)
    num_prompts = len({row["prompt_id"] for row in kept.rows})
    return "\n".join([*_lines(source, kept, licence, train, passed, num_prompts), ""])


def _lines(
    source: Source, kept: KeptSamples, licence: str | None, train: tuple[str, str, str], passed: int, num_prompts: int
) -> Iterator[str]:
    assert source.config is not None
    verifier = source.config.verifier
    yield "---"
    yield from [] if licence is None else [f"license: {licence}"]
    yield "tags: [code, halo-forge, raft, synthetic]"
    yield "configs: [{config_name: default, data_files: [{split: train, path: data/train.parquet}]}]"
    yield "---"
    yield ""
    yield f"# Samples that {source.stem} was trained on"
    yield ""
    yield (
        f"Programs that {code(shown_base(source))} and its tuned versions wrote, and that a verifier kept for training"
        f" (RAFT, by halo-forge)."
    )
    yield ""
    yield f"- **Rows**: {len(kept.rows)}, of {counted(num_prompts, 'prompt')}; {passed} pass all checks."
    yield (
        f"- **Duplicates**: the trainings had {counted(kept.num_trained, 'row')}; of programs of one prompt that differ"
        " only in comments, spacing and names, the first is here."
    )
    yield f"- **Verdicts**: verifier `{verifier.language}`, stages {', '.join(verifier.stages)}; `reward` is in [0, 1]."
    yield f"- **Prompts**: from {train[1]}; licence: {train[2]}."
    yield "- **Completions**: written by the model; its own licence may apply to them (base model"
    yield f"  {code(shown_base(source))})."
    if licence is None:
        yield "- **Licence of this data set**: not stated. State it (`--license ID`) before you publish it."
    yield ""
    yield (
        "`prompt` and `completion` are lists of messages, as TRL's SFTTrainer reads them; `program` is the program in"
        " the completion. `cycle` is the cycle that trained on the row, `policy_version` the version that wrote it (0:"
        " the start model). `second_status` is the status when the program was run again before it was trained on."
    )
    yield ""
    yield "A program that passes its tests need not be correct, nor safe to run."
