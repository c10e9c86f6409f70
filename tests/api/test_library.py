"""`import halo_forge` as a library: docs/library.md is true, and so is what it promises of each function."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas
import pytest
from docs_text import ROOT, blocks, table
from scripted_runs import write_inputs, write_rows

import halo_forge
from halo_forge.core import errors

PAGE = ROOT / "docs/library.md"
HARNESS = {
    "kind": "harness",
    "entry_point": "gcd",
    "source": '#include <stdio.h>\nint gcd(int a, int b);\nint main(void) { printf("%d\\n", gcd(12, 18)); }\n',
    "expected": ["6"],
}
RIGHT = "int gcd(int a, int b) { return b == 0 ? a : gcd(b, a % b); }"
ANSWERS = [
    f"```c\n{code}\n```" for code in (RIGHT, RIGHT.replace("? a", "? 1"), "int gcd(int a, int b) { return a", RIGHT)
]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A scripted run by a real C compiler, `my_run.yaml` in the current folder; every prompt asks for gcd."""
    monkeypatch.chdir(tmp_path)
    changes: dict[str, Any] = {"verifier": {"kind": "c", "workers": 1}, "output_dir": "runs/my_run"}
    changes["selection__deduplicate"] = False
    path = write_inputs(tmp_path, answers=lambda prompt_id: ANSWERS, tests=HARNESS, **changes)
    rows = (tmp_path / "train.jsonl").read_text(encoding="utf-8").replace('"train1"', '"gcd"')
    (tmp_path / "train.jsonl").write_text(rows, encoding="utf-8")
    write_rows(tmp_path / "answers.jsonl", [{"prompt_id": "*", "answers": ANSWERS}])
    return path.rename("my_run.yaml")


def run_of(config: Path, **settings: Any) -> halo_forge.RunDirectory:
    return halo_forge.run(halo_forge.load_config(config), **settings)


# ---- the page


def test_the_examples_of_the_page_run(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = "\n".join(block.text for block in blocks(PAGE) if block.language == "python")
    names: dict[str, Any] = {}
    exec(compile(code, "docs/library.md", "exec"), names)
    assert names["from_mapping"].config.output_dir == "runs/from_a_notebook"
    assert [plan.cycle for plan in names["plan"].cycles] == [1, 2]
    assert names["read"].status().state == "finished"
    assert list(names["cycles"]["cycle"]) == [1, 2, 3]
    assert {"train", "dev", "test"} == set(names["samples"]["set"])
    said = capsys.readouterr().out
    assert said.count("v1:") == 1 and said.count("v2:") == 1
    assert "did you mean num_cycles?" in said


def test_the_page_lists_every_column(config: Path) -> None:
    columns = {row[0].strip("`()"): row[2] for row in table(PAGE, "## Reading a run")}
    run = run_of(config)
    samples, decisions = run.samples()[0], run.decisions()[0]
    assert {"samples", "decisions", "cycles", "training_steps"} == set(columns)
    for name in ("cycle", "set", "text", "num_tokens", "kept", "dropped_for"):
        assert name in samples and f"`{name}`" in columns["samples"]
    assert {"stage", "status", "reward", "flags"} <= samples.keys()
    assert {"outcome", "action", "reason"} <= decisions.keys()
    for name in ("cycle", "step", "learning_rate"):
        assert name in run.training_steps()[0] and f"`{name}`" in columns["training_steps"]


def test_the_page_names_every_public_name() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert [name for name in halo_forge.__all__ if f"`{name}" not in text] == []


def test_the_page_gives_the_exit_code_of_every_error() -> None:
    documented = {name.strip(" `"): int(row[2]) for row in table(PAGE, "## Errors") for name in row[0].split(",")}
    kinds = {kind.__name__: kind for kind in vars(errors).values() if isinstance(kind, type)}
    kinds = {name: kind for name, kind in kinds.items() if issubclass(kind, errors.HaloForgeError)}
    assert documented == {name: kind.exit_code for name, kind in kinds.items() if name != "HaloForgeError"}
    assert kinds.keys() <= set(halo_forge.__all__)


# ---- the import


def in_a_fresh_interpreter(code: str) -> Any:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_the_import_loads_nothing() -> None:
    heavy = "import json, sys, halo_forge; print(json.dumps([n for n in sys.modules if n.split('.')[0] in {names}]))"
    names = {"torch", "pydantic", "yaml", "numpy", "typer", "halo_forge"}
    assert in_a_fresh_interpreter(heavy.format(names=names)) == ["halo_forge"]


def test_errors_load_no_pydantic_and_a_preview_no_torch() -> None:
    code = "import json, sys, halo_forge; halo_forge.{}; print(json.dumps('{}' in sys.modules))"
    assert in_a_fresh_interpreter(code.format("ConfigError", "pydantic")) is False
    assert in_a_fresh_interpreter(code.format("preview", "torch")) is False


def test_all_is_exact() -> None:
    public = {name for name in dir(halo_forge) if not name.startswith("_")}
    modules = {"annotations", "importlib", "TYPE_CHECKING", "Any"}
    submodules = {path.stem for path in (ROOT / "halo_forge").iterdir()}
    assert public - modules - submodules == set(halo_forge.__all__) - submodules
    assert len(halo_forge.__all__) == len(set(halo_forge.__all__))
    for name in halo_forge.__all__:
        assert getattr(halo_forge, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'lode_config'"):
        halo_forge.lode_config  # noqa: B018


# ---- configurations


def test_overrides_are_texts_or_a_mapping(config: Path) -> None:
    by_text = halo_forge.load_config(config, ["raft.num_cycles=3", "selection.keep_fraction=0.5"])
    by_mapping = halo_forge.load_config(config, {"raft.num_cycles": 3, "selection.keep_fraction": 0.5})
    assert by_text.config == by_mapping.config


def test_a_mapping_is_checked_as_a_file_is(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"model": {"model_name_or_path": tmp_path}, "output_dir": tmp_path / "run"}
    found = halo_forge.load_config({**settings, "verifier": {"kind": "c", "stages": ("compile",)}})
    assert (found.config.output_dir, found.config.verifier.stages) == (str(tmp_path / "run"), ["compile"])
    with pytest.raises(halo_forge.ConfigError) as caught:
        halo_forge.load_config({"model": {"model_name_or_path": "m"}, "raft": {"num_cycles": 0}})
    assert "<mapping>: raft.num_cycles: found 0" in str(caught.value)
    assert "<mapping>: output_dir" in str(caught.value)
    with pytest.raises(halo_forge.ConfigError, match="only a file can extend another one"):
        halo_forge.load_config({"extends": "base.yaml"})
    with pytest.raises(halo_forge.ConfigError, match="seed: found 'object', which no configuration can hold"):
        halo_forge.load_config(settings, {"seed": object()})


def test_a_run_of_a_mapping_is_resumed_like_any_other(config: Path, tmp_path: Path) -> None:
    loaded = halo_forge.load_config(config)
    given = halo_forge.load_config(loaded.document.data)
    finished = halo_forge.run(given)
    assert halo_forge.run(loaded, resume=True).identity == finished.identity


# ---- runs


class Hears(halo_forge.SilentObserver):
    def __init__(self) -> None:
        self.heard: list[str] = []

    def track(self, label: str, items: Any, total: int) -> Iterator[Any]:
        self.heard.append(label)
        yield from super().track(label, items, total)

    def step(self, row: Any, num_steps: int) -> None:
        self.heard.append("step")

    def trained(self, settings: Any, selection: Any, trained: Any) -> None:
        self.heard.append(f"trained v{trained.policy_version}")


def test_an_observer_hears_of_a_run(config: Path) -> None:
    observer = Hears()
    run_of(config, observer=observer)
    assert [each for each in observer.heard if each.startswith("trained")] == ["trained v1", "trained v2"]
    assert {"sample v0", "verify"} <= set(observer.heard)


def test_a_started_run_is_refused_and_a_finished_one_is_read(config: Path) -> None:
    finished = run_of(config)
    with pytest.raises(halo_forge.RunDirError, match="a run was already started here"):
        run_of(config)
    observer = Hears()
    assert halo_forge.resume(finished.path, observer=observer).result == finished.result
    assert observer.heard == []


def test_from_cycle_redoes_the_rest(config: Path) -> None:
    finished = run_of(config)
    observer = Hears()
    halo_forge.resume(finished.path, from_cycle=2, observer=observer)
    # What is sealed is told of again; only cycle 2 is trained.
    assert observer.heard.count("step") == finished.cycles()[1]["optimizer_steps"]
    assert [each for each in observer.heard if each.startswith("trained")] == ["trained v1", "trained v2"]
    for cycle in (0, 4):
        with pytest.raises(halo_forge.ConfigError, match="the run has 2 cycles"):
            halo_forge.resume(finished.path, from_cycle=cycle)
        with pytest.raises(halo_forge.ConfigError, match="the run has 2 cycles"):
            halo_forge.run(finished.config, resume=True, from_cycle=cycle)


# ---- rows


def test_samples_carry_their_verdict_and_their_fate(config: Path) -> None:
    run = run_of(config)
    frame = pandas.DataFrame(run.samples())
    train = frame[(frame["cycle"] == 1) & (frame["set"] == "train")]
    assert len(train) == 3 * 2
    for row in train.to_dict("records"):
        passed = row["text"] == ANSWERS[0]
        assert (row["status"] == "passed") is passed
        assert row["kept"] is passed
        assert passed or row["dropped_for"] == "below_threshold"
    assert set(frame[frame["set"] == "dev"]["kept"]) == {None}
    assert frame[frame["set"] == "test"]["cycle"].isna().all()
    counted = frame[(frame["set"] == "train") & (frame["cycle"] == 1)]["kept"].sum()
    assert counted == run.cycles()[0]["num_kept"]


def test_rows_of_a_run_without_verdicts_yet(config: Path) -> None:
    run = run_of(config)
    for path in ("verdicts.jsonl", "selection.json"):
        (run.path / "cycles/001" / path).unlink()
    first = next(row for row in run.samples() if row["cycle"] == 1)
    assert (first["status"], first["reward"], first["kept"], first["dropped_for"]) == (None, None, None, None)
    assert first.keys() == run.samples()[-1].keys()


def test_after_a_rollback_the_second_answers_are_those_selected_from(config: Path) -> None:
    run = run_of(config)
    folder = run.path / "cycles/001"
    for name in ("completions.jsonl", "verdicts.jsonl"):
        (folder / f"rollback_{name}").write_bytes((folder / name).read_bytes())
    fates = {row["set"]: row["kept"] for row in run.samples() if row["cycle"] == 1}
    assert fates["train"] is None and fates["rollback"] is not None


def test_training_steps_and_decisions_belong_to_their_cycle(config: Path) -> None:
    run = run_of(config)
    steps, cycles = run.training_steps(), run.cycles()
    assert [sum(row["cycle"] == cycle for row in steps) for cycle in (1, 2)] == [
        row["optimizer_steps"] for row in cycles[:2]
    ]
    assert [row["cycle"] for row in run.decisions()] == [row["cycle"] for row in cycles] == [1, 2, 3]
    assert [row["outcome"] for row in cycles] == [row["outcome"] for row in run.decisions()]


def test_no_run_here(tmp_path: Path) -> None:
    with pytest.raises(halo_forge.RunDirError, match="not a run directory of halo-forge"):
        halo_forge.RunDirectory(tmp_path)


# ---- programs


def test_programs_are_compiled_and_run() -> None:
    sources = ["int main(void) { return 0; }", "int main(void) { return 3; }", "int main(void) { return }"]
    found = halo_forge.verify_programs({"kind": "c", "workers": 1}, sources)
    assert [(each.stage, each.status) for each in found] == [
        ("run", "passed"),
        ("run", "failed"),
        ("compile", "failed"),
    ]


def test_programs_are_tested_by_a_prompt(config: Path) -> None:
    loaded = halo_forge.load_config(config)
    found = halo_forge.verify_programs(loaded, [RIGHT, RIGHT.replace("? a", "? 1")], prompt_id="gcd")
    assert [each.passed for each in found] == [True, False]
    with pytest.raises(halo_forge.ConfigError, match=r"no prompt has the id 'gdc'.*did you mean 'gcd'"):
        halo_forge.verify_programs(loaded, [RIGHT], prompt_id="gdc")
    with pytest.raises(halo_forge.ConfigError, match="prompt_id needs a configuration"):
        halo_forge.verify_programs({"kind": "c"}, [RIGHT], prompt_id="gcd")
    with pytest.raises(halo_forge.ConfigError, match=r'verifier\.kind: found "cc"'):
        halo_forge.verify_programs({"kind": "cc"}, [RIGHT])
    with pytest.raises(halo_forge.ConfigError, match="a list of program texts"):
        halo_forge.verify_programs({"kind": "c"}, RIGHT)


def test_a_path_where_a_loaded_configuration_is_needed(config: Path) -> None:
    path: Any = str(config)  # what somebody may write in a notebook
    for call in (halo_forge.preview, halo_forge.run, lambda given: halo_forge.verify_completions(given, [])):
        with pytest.raises(halo_forge.ConfigError, match="config is of type str, allowed: a LoadedConfig"):
            call(path)
    assert halo_forge.load_config(config, "seed=7").config.seed == 7


def test_arguments_of_a_wrong_type_are_named(config: Path, tmp_path: Path) -> None:
    wrong: Any = 5
    loaded = halo_forge.load_config(config, {"output_dir": str(tmp_path / "new")})
    calls: dict[str, Callable[[], object]] = {
        "given as int": lambda: halo_forge.load_config(wrong),
        "an override is of type int": lambda: halo_forge.load_config(config, wrong),
        "an override is of type float": lambda: halo_forge.load_config(config, ["seed=1", 0.5]),  # type: ignore[list-item]
        "path is of type int": lambda: halo_forge.resume(wrong),
        "path is of type NoneType": lambda: halo_forge.RunDirectory(None),  # type: ignore[arg-type]
        "from_cycle is of type str": lambda: halo_forge.run(loaded, resume=True, from_cycle="2"),  # type: ignore[arg-type]
        "from_cycle is 7, but the run has": lambda: halo_forge.run(loaded, resume=True, from_cycle=7),
        "verifier is of type int": lambda: halo_forge.verify_programs(wrong, [RIGHT]),
        "sources is of type int": lambda: halo_forge.verify_programs({"kind": "c"}, wrong),
        "program 2 is of type int": lambda: halo_forge.verify_programs({"kind": "c"}, [RIGHT, wrong]),
        "rows is of type int": lambda: halo_forge.verify_completions(loaded, wrong),
        "row 1 is of type int": lambda: halo_forge.verify_completions(loaded, [wrong]),
    }  # fmt: skip
    for said, call in calls.items():
        with pytest.raises(halo_forge.ConfigError, match=said) as caught:
            call()
        assert "--" not in str(caught.value), "a notebook has no command-line options"


def test_an_override_of_a_mapping_is_not_called_an_option(config: Path) -> None:
    with pytest.raises(halo_forge.ConfigError, match=r"^override seed=-1: seed: found -1, allowed: at least 0"):
        halo_forge.load_config(config, {"seed": -1})


def test_completions_are_checked_as_in_a_run(config: Path) -> None:
    loaded = halo_forge.load_config(config)
    rows = [{"prompt_id": "gcd", "text": text} for text in ANSWERS[:3]]
    found = halo_forge.verify_completions(loaded, rows)
    assert [(each.index, each.stage, each.passed) for each in found] == [
        (0, "tests", True),
        (1, "tests", False),
        (2, "compile", False),
    ]
    with pytest.raises(halo_forge.ConfigError, match="row 1: no prompt has the id 'lcm'"):
        halo_forge.verify_completions(loaded, [{"prompt_id": "lcm", "text": ""}])
