"""The page of an evaluation: its numbers are those of the result, and nothing that a model wrote runs in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_calls import command_line
from page_runs import ATTACKS, PROGRAM, PageVerifier
from scripted_runs import write_rows
from test_page import Text

from halo_forge.api import SilentObserver
from halo_forge.core.errors import RunDirError
from halo_forge.core.wording import visible
from halo_forge.evaluations.execute import execute, read_evaluation
from halo_forge.evaluations.plan import plan
from halo_forge.pages.make import evaluation_html, evaluation_state


def evaluate(folder: Path, subjects: list[str]) -> Path:
    """Subjects on one prompt for each attack, in whose id, text, completions and diagnostics the attack is."""
    ids = {f"t{number} {attack}": attack for number, attack in enumerate(ATTACKS)}
    tasks = write_rows(
        folder / "tasks.jsonl",
        ({"id": each, "prompt": f"Write {attack}.", "language": "c"} for each, attack in ids.items()),
    )
    answers = write_rows(
        folder / "answers.jsonl",
        (
            {
                "prompt_id": each,
                "answers": [f"{word} {attack}\n{PROGRAM.replace('{word}', attack)}" for word in ("pass", "broken")],
            }
            for each, attack in ids.items()
        ),
    )
    engine = json.dumps({"kind": "scripted", "answers": str(answers)})
    planned = plan(subjects, [str(tasks)], overrides=[f"engine={engine}"], output_dir=folder / "eval")
    execute(planned, SilentObserver())
    return folder / "eval"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    verifier = PageVerifier(lambda completion: f"it said {completion.text}")
    verifier.bad_versions = set()
    monkeypatch.setattr("halo_forge.verifiers.verifier.ThreadedVerifier", lambda spec: verifier)
    return evaluate(tmp_path, ["owner/base", "owner/tuned-with-a-name-that-no-axis-has-room-for"])


def test_it_has_every_rate_and_difference_of_the_result(root: Path) -> None:
    result = read_evaluation(root).result
    assert result is not None
    text = " ".join(Text(evaluation_html(root)).words)
    for column in result.columns:
        assert visible(column["subject"]) in text
        for name, number in column["outcomes"].items():
            assert name in text and str(number) in text
        assert f"{column['metrics']['pass@1']:.3f}" in text
    for each in result.differences:
        assert f"{each['values']['difference']:+.3f} [{each['values']['low']:+.3f}" in text


def test_report_writes_it_also_of_an_unfinished_evaluation(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "result.json").unlink()
    next(root.rglob("verdicts.jsonl")).unlink()
    with command_line(monkeypatch, capsys) as cli:
        assert cli("report", root).code == 0
    text = " ".join(Text((root / "report.html").read_text("utf-8")).words)
    assert "3 of 4 measurements done" in text and "--resume" in text


def test_a_served_page_has_news_when_something_was_sealed(root: Path) -> None:
    result, verdicts = root / "result.json", next(root.rglob("verdicts.jsonl"))
    finished = evaluation_state(root)
    (root / "report.html").write_text("a page")
    assert evaluation_state(root) == finished
    result.unlink()
    unfinished = evaluation_state(root)
    verdicts.rename(verdicts.with_name("verdicts.jsonl.part"))
    assert len({finished, unfinished, evaluation_state(root)}) == 3


def test_a_folder_without_an_evaluation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match="not the folder of an evaluation"):
        evaluation_html(tmp_path)


@pytest.mark.parametrize("width", [400, 1600])
def test_it_fits_and_nothing_that_a_model_wrote_runs(
    root: Path, watch: Callable[..., Any], tmp_path: Path, width: int
) -> None:
    file = tmp_path / "page.html"
    file.write_text(evaluation_html(root), encoding="utf-8")
    watched = watch(width=width)
    page = watched.open(file.as_uri())
    page.locator(".prompt summary").first.click()
    heads = page.locator(".pair").first.locator("h3").all_text_contents()
    assert [each.partition(",")[0] for each in heads] == [
        "owner/base",
        "owner/tuned-with-a-name-that-no-axis-has-room-for",
    ]
    assert len(page.locator("#set option").all()) == 3
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("window.pwned") is None
    assert page.locator("figure svg").count() == 6
    assert watched.problems == []
    assert watched.requests == [file.as_uri()]


def test_the_samples_of_a_single_subject_stand_alone(
    watch: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verifier = PageVerifier(lambda completion: "")
    verifier.bad_versions = set()
    monkeypatch.setattr("halo_forge.verifiers.verifier.ThreadedVerifier", lambda spec: verifier)
    root = evaluate(tmp_path, ["owner/only"])
    file = tmp_path / "page.html"
    file.write_text(evaluation_html(root), encoding="utf-8")
    watched = watch()
    page = watched.open(file.as_uri())
    page.locator(".prompt summary").first.click()
    assert page.locator(".pair").first.locator(".sample").count() == 1
    assert "no further sample" not in page.locator("#prompts").inner_text()
    assert watched.problems == []
