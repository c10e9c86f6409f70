"""The page as text: what it says of a run, what it leaves out, and what the drawing is checked for."""

from __future__ import annotations

import base64
import itertools
import json
import random
import re
import shutil
import string
import zlib
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from cli_calls import command_line

from halo_forge.api import RunDirectory
from halo_forge.core.errors import RunDirError
from halo_forge.pages import make, samples, svg
from halo_forge.pages.charts import MOST_POINTS, Point, lines, stacked, thinned
from halo_forge.pages.make import run_html, run_state
from halo_forge.pages.run_page import run_sections
from halo_forge.pages.samples import payload
from halo_forge.store.compared import reached
from halo_forge.store.samples import stored_samples


class Text(HTMLParser):
    """The text of a page, without scripts and styles, and its tags."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[str] = []
        self._inside = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside not in ("script", "style"):
            self.words.append(data)


def samples_of(found: samples.Payload) -> list[dict[str, Any]]:
    data = json.loads(zlib.decompress(base64.b64decode(found.data)))
    return list(data["prompts"][1:])


def test_a_page_has_every_decision_setting_and_rate_of_the_run(root: Path) -> None:
    status = RunDirectory(root).status()
    text = " ".join(Text(run_html(root)).words)
    for row in status.cycles:
        assert row.decision["reason"] in text
        for name in ("dev/compile_rate", "dev/pass_rate"):
            assert f"{row.metrics[name]:.3f}".replace("0.000", "0") in text
        for each in row.advice:
            assert each["symptom"] in text and each["action"] in text
    rates = [f"{row.settings['learning_rate']:.4g}" for row in status.cycles if "learning_rate" in row.settings]
    assert len(set(rates)) == 2 and all(rate in text for rate in rates)
    assert "temperature: 0.7" in text  # the configuration
    assert "memory 1" in text  # the verifier's toolchain


def test_every_chart_has_its_values_as_a_table(root: Path) -> None:
    _, sections = run_sections(root)
    charts = {chart.title: chart for section in sections for chart in section.charts}
    measured = [row.metrics for row in RunDirectory(root).status().cycles]
    rates = charts["Rates on dev"].table
    assert rates.headers == ("version", "compile", "pass")
    assert [row[0] for row in rates.rows] == ["v0", "v1", "v2"]
    assert [float(row[2].split()[0]) for row in rates.rows] == [row["dev/pass_rate"] for row in measured]
    steps = [row for row in RunDirectory(root).training_steps()]
    assert len(charts["Loss"].table.rows) == len(steps)
    flow = charts["Outcomes on train"].table
    for version, row in enumerate(flow.rows):
        verdicts = [each.verdict for each in stored_samples(root, version=version, sets=["train"])]
        for name, cell in zip(flow.headers[1:], row[1:], strict=True):
            assert float(cell) == sum(reached(each) == name for each in verdicts)


def test_no_two_charts_have_the_same_name(root: Path) -> None:
    titles = [chart.title for section in run_sections(root)[1] for chart in section.charts]
    assert {"Learning rate", "Learning rate of each step"} <= set(titles)
    assert len(titles) == len(set(titles))


def test_amounts_are_drawn_from_zero(root: Path) -> None:
    charts = {chart.title: chart for section in run_sections(root)[1] for chart in section.charts}

    def numbers(title: str) -> set[float]:
        """The labels of the axes that are numbers."""
        labels = re.findall(r"<text[^>]*>(-?[\d.]+)</text>", str(charts[title].drawing))
        return {float(each) for each in labels}

    for title in ("Diversity", "Memory"):
        assert 0 in numbers(title), title
    assert 0 not in numbers("Loss"), "where the change counts, not the amount"


def test_samples_carry_pieces_that_are_the_completion(root: Path) -> None:
    entries = samples_of(payload(root, 1, {}, "c"))
    stored = {(each.set_name, each.key): each for each in stored_samples(root, version=1)}
    seen = 0
    for entry in entries:
        for sample in entry["samples"][1]:
            original = stored[entry["set"], (entry["id"], sample["index"])]
            assert "".join(sample["pieces"][1::2]) == original.completion.text
            assert sample["reached"] == reached(original.verdict)
            if original.dropped_for is not None:
                assert sample["selection"] == f"dropped: {original.dropped_for}"
            seen += 1
    assert seen == sum(each.set_name in samples.SETS for each in stored.values())


def test_colours_begin_and_end_with_the_program() -> None:
    text = "int is prose here\n```c\nint main(void) {\n}\n```\nand int here"
    pieces = samples._coloured(text, (3, 4), "c")
    keywords = [part for kind, part in pieces if samples.KINDS[kind] == "keyword"]
    assert keywords == ["int", "void"]
    assert "".join(part for _, part in pieces) == text
    assert samples._coloured(text, (3, 4), "a language of a plugin") == ((0, text),)
    assert samples._coloured("a\u202eb", None, "c") == ((0, "a"), (samples._ESCAPE, "\\u202e"), (0, "b"))


def test_what_does_not_fit_is_left_out_last_set_first_and_said(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = payload(root, 1, {}, "c")
    assert everything.notes == ()
    some = payload(root, 1, {}, "c", most_bytes=len(everything.data) // 2)
    assert len(some.data) <= len(everything.data) // 2
    kept, every = samples_of(some), samples_of(everything)
    assert 0 < len(kept) < len(every)
    assert kept == every[: len(kept)]
    assert some.notes[-1] == "6 train prompts of 6"
    monkeypatch.setattr(make, "MOST_BYTES", 0)
    assert "small: 6 dev prompts of 6; 2 test prompts of 2; 6 train prompts of 6." in run_html(root)


def test_a_large_run_stays_below_the_size(root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(root, copy, symlinks=True)
    letters = random.Random(0)
    for name, cycle in itertools.product(("completions", "verdicts"), (1, 2)):
        path = copy / f"cycles/{cycle:03d}/dev_{name}.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        more = [{**row, "prompt_id": f"{row['prompt_id']}-{at}"} for at in range(40) for row in rows]
        for row in more if name == "completions" else ():
            row["text"] += "".join(letters.choices(string.ascii_letters, k=6000))  # does not compress well
        path.write_text("".join(json.dumps(row) + "\n" for row in more))
    html = run_html(copy)
    assert 2_000_000 < len(html.encode()) < 5_000_000
    assert re.search(r"Left out to keep this file small: \d+ dev prompts of 240", html)


def test_steps_beyond_the_limit_are_means_with_their_range() -> None:
    points = [Point("loss", float(step), step % 2) for step in range(3 * MOST_POINTS)]
    found = thinned(points)
    assert len(found) == MOST_POINTS
    assert {(point.low, point.high) for point in found} == {(0, 1)}
    assert thinned(points[:MOST_POINTS]) == points[:MOST_POINTS]


def test_a_run_without_verdicts_yet_has_a_page(root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(root, copy, symlinks=True)
    for part in ("cycles", "test"):
        shutil.rmtree(copy / part)
    (copy / "result.json").unlink()
    text = Text(run_html(copy))
    assert "not started" in " ".join(text.words)
    assert "The run is not finished" in " ".join(text.words)
    assert "The run is not finished" not in run_html(root)
    assert "payload" not in run_html(copy).split("<script>")[0]


def test_a_page_says_what_its_names_mean_and_lists_only_settings_that_the_run_has(root: Path) -> None:
    facts, sections = run_sections(root)
    assert facts.legend in " ".join(Text(run_html(root)).words) and facts.legend.startswith("v0 is the start model")
    tables = [table for section in sections if section.id == "schedules" for table in section.tables]
    same = next(table for table in tables if table.headers == ("setting", "value"))
    assert same.rows and all(value for _, value in same.rows)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("result.json", "{}"),
        ("result.json", '{"chosen_version": "x", "improved": true}'),
        ("cycles/001/selection.json", '{"kept": [], "dropped": 3}'),
        ("run.json", '{"schema_version": 3}'),
    ],
)
def test_a_damaged_file_is_an_error_about_the_run(root: Path, tmp_path: Path, file: str, content: str) -> None:
    copy = tmp_path / "run"
    shutil.copytree(root, copy, symlinks=True)
    (copy / file).write_text(content, encoding="utf-8")
    with pytest.raises(RunDirError, match="not what halo-forge wrote"):
        run_html(copy)


def test_equal_runs_have_equal_pages(root: Path) -> None:
    assert run_html(root) == run_html(root)


def test_changed_prompts_are_not_shown_as_those_of_the_run(root: Path, tmp_path: Path) -> None:
    assert "Write dev1." in json.dumps(samples_of(_payload_of(root)))
    inputs = root.parent
    path, original = inputs / "dev.jsonl", (inputs / "dev.jsonl").read_text()
    path.write_text(original.replace("Write dev1.", "Write something else."))
    try:
        assert "dev.jsonl has changed since the run was started" in run_html(root)
    finally:
        path.write_text(original)


def _payload_of(root: Path) -> samples.Payload:
    found = re.search(r'id="payload">([^<]*)<', run_html(root))
    assert found is not None
    return samples.Payload(found[1], ())


DRAWN: Mapping[str, str] = {
    "a script": "<script>1</script>",
    "a link": '<a href="http://evil.invalid"><path d="M0,0"/></a>',
    "an image": '<image href="http://evil.invalid"/>',
    "a foreign object": "<foreignObject/>",
    "a reference": '<path fill="url(http://evil.invalid/x)"/>',
    "a style": '<style>@import "x"</style>',
}


@pytest.mark.parametrize("drawn", DRAWN.values(), ids=DRAWN)
def test_a_drawing_with_anything_but_shapes_is_refused(drawn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import vl_convert

    picture = f'<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1">{drawn}</svg>'
    monkeypatch.setattr(vl_convert, "vegalite_to_svg", lambda *given, **named: picture)
    with pytest.raises(ValueError, match="a chart holds"):
        svg.draw({}, "x")


def test_handlers_and_styles_of_a_drawing_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    import vl_convert

    shape = '<path d="M0,0" style="x" onclick="x()"/>'
    picture = f'<svg xmlns="http://www.w3.org/2000/svg" onload="x()" width="1" height="1">{shape}</svg>'
    monkeypatch.setattr(vl_convert, "vegalite_to_svg", lambda *given, **named: picture)
    assert str(svg.draw({}, '"x')) == (
        '<svg viewBox="0 0 1 1" role="img" aria-label="&#34;x"><path d="M0,0"></path></svg>'
    )


def test_names_in_a_chart_are_only_text() -> None:
    name = '<script>alert(1)</script>"\u202e\x1b'
    drawn = [
        lines("x", "y", [Point(name, name, 0.5, 0.4, 0.6), Point("b", "v1", 0.2)], axis="version").drawing,
        stacked("x", "y", [Point(name, name, 3)], axis="version", series=[name]).drawing,
    ]
    for each in drawn:
        assert "<script" not in each and "\u202e" not in each and "\x1b" not in each
        assert "&lt;script&gt;" in each


def test_the_state_changes_when_something_is_sealed_and_only_then(root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(root, copy, symlinks=True)
    before = run_state(copy)
    (copy / "cycles/003/completions.jsonl.part").write_text("growing\n")
    (copy / "events.jsonl").write_text((copy / "events.jsonl").read_text() + "{}\n")
    assert run_state(copy) == before
    (copy / "result.json").unlink()
    assert run_state(copy) != before


def test_the_command_writes_one_file_and_says_where(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with command_line(monkeypatch, capsys) as cli:
        path = tmp_path / "page.html"
        done = cli("report", root, "-o", path)
        assert (done.code, done.out.split()[0]) == (0, str(path))
        assert path.read_text("utf-8").startswith("<!DOCTYPE html>")
        found = cli("report", root, "-o", path, "--json").json
        assert found == {"file": str(path), "bytes": path.stat().st_size}
        for words, said in (
            (("report", tmp_path), "not a run directory"),
            (("report", root, "-o", tmp_path / "no" / "where.html"), "name another file with -o"),
            (("report", root, "--port", "80"), "add --serve"),
            (("report", root, "--serve", "-o", path), "--serve writes no file"),
        ):
            wrong = cli(*words)
            assert wrong.code != 0 and said in wrong.err and "fix:" in wrong.err


def test_a_version_that_is_still_being_checked_has_no_outcomes(root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(root, copy, symlinks=True)
    shutil.rmtree(copy / "test")
    (copy / "result.json").unlink()
    for path in (copy / "cycles/003").iterdir():
        if "completions" not in path.name:
            path.unlink()
    facts, sections = run_sections(copy)
    charts = {chart.title: chart for section in sections for chart in section.charts}
    assert [row[0] for row in charts["Outcomes on dev"].table.rows] == ["v0", "v1"]
    assert ("best so far", "v1") in facts.facts and ("cycles trained", "2 of 2") in facts.facts
