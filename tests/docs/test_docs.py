"""The README and the docs are true: links, commands, files, configurations, rows, quotes and examples."""

from __future__ import annotations

import itertools
import json
import math
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
from docs_text import PAGES, ROOT, Block, blocks, prose, table
from scripted_runs import MemoryVerifier, execute, write_inputs

from halo_forge.cli.app import app
from halo_forge.config import load_config
from halo_forge.config.load import WITHOUT_INFLUENCE
from halo_forge.core import records
from halo_forge.core.errors import ConfigError, HaloForgeError
from halo_forge.core.evaluation import Result
from halo_forge.core.records import Completion, Decision, Prompt
from halo_forge.prompts import load_prompts
from halo_forge.verifiers import open_verifier
from halo_forge.verifiers.languages.c import Spec

PACKAGE = ROOT / "halo_forge"
QUICKSTART = ROOT / "docs/quickstart.md"
EVERY_BLOCK = [(page, block) for page in PAGES for block in blocks(page)]


# ---- words and links


def test_plain_text() -> None:
    texts = {page.name: page.read_text(encoding="utf-8") for page in PAGES}
    assert [name for name, text in texts.items() if not text.isascii()] == []
    assert {name: left for name, text in texts.items() if (left := re.findall(r"\{[A-Z_]+\}", text))} == {}


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_relative_links_lead_somewhere() -> None:
    wrong = []
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
            if "://" in target:
                continue
            file, _, anchor = target.partition("#")
            path = (page.parent / file).resolve() if file else page
            if not path.exists() or (anchor and anchor not in anchors(path)):
                wrong.append(f"{page.name}: {target}")
    assert wrong == []


def test_the_index_lists_every_page() -> None:
    index = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    pages = {page.name for page in PAGES if page.parent.name == "docs"} - {"index.md"}
    assert {name for name in pages if f"]({name})" not in index} == set()


def test_the_readme_shows_an_excerpt_of_the_transcript() -> None:
    (excerpt,) = (each for each in blocks(ROOT / "README.md") if each.language == "" and each.heading == "halo-forge")
    transcript = next(each.text for each in blocks(QUICKSTART) if each.heading == "The demo").splitlines()
    lines = excerpt.text.splitlines()
    assert 3 <= len(lines) <= 12 and max(map(len, lines)) <= 80
    # At 80 columns the program leaves the last column out.
    assert [line for line in lines if not any(each.startswith(line) for each in transcript)] == []


# ---- the tree


def annotated_tree() -> dict[str, list[str]]:
    """Top-level folder -> what the README's tree lists in it."""
    tree = next(block.text for block in blocks(ROOT / "README.md") if block.heading == "The tree")
    found: dict[str, list[str]] = {}
    for line in tree.splitlines():
        name = line.split()[0]
        if line.startswith(" "):
            found[next(reversed(found))].append(name)
        else:
            found[name] = []
    return found


def test_the_tree_names_what_exists() -> None:
    for folder, names in annotated_tree().items():
        assert (ROOT / folder).is_dir()
        for name in names:
            path = ROOT / folder / name
            assert path.is_dir() if name.endswith("/") else path.is_file(), path


def test_the_tree_names_everything_in_the_package() -> None:
    entries = [path for path in PACKAGE.iterdir() if path.name not in ("__pycache__", "py.typed")]
    there = [path.name + "/" * path.is_dir() for path in entries]
    assert sorted(annotated_tree()["halo_forge/"]) == sorted(there)


# ---- commands


def shown_commands() -> list[str]:
    found: dict[str, None] = {}
    for page in PAGES:
        found |= dict.fromkeys(re.findall(r"`(halo-forge [^`]+)`", prose(page)))
    for _, block in EVERY_BLOCK:
        if block.language in ("bash", ""):
            found |= dict.fromkeys(re.findall(r"^(?:\$ )?(halo-forge [^#\n]+)", block.text, re.MULTILINE))
    return list(found)


def wrong_use(line: str) -> str | None:
    """What is wrong with a shown command: no such option, an option without its value, or too few or many arguments."""
    words = shlex.split(line)[1:]
    command: Any = typer.main.get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    arguments = []
    flags = {name: param for param in command.params for name in param.opts if name.startswith("-")}
    while words:
        word = words.pop(0)
        if word in ("-h", "--help"):
            return None
        if not word.startswith("-"):
            arguments.append(word)
            continue
        if word not in flags:
            return f"{word} is no option of {line!r}"
        if not flags[word].is_flag:
            if not words:
                return f"{word} takes a value in {line!r}"
            words.pop(0)
    expected = [param for param in command.params if not param.opts[0].startswith("-")]
    least = sum(param.required for param in expected)
    most = math.inf if any(param.nargs == -1 for param in expected) else len(expected)
    return None if least <= len(arguments) <= most else f"{len(arguments)} arguments in {line!r}"


def test_shown_commands_exist_with_their_options() -> None:
    assert len(shown_commands()) > 20
    assert [wrong for line in shown_commands() if (wrong := wrong_use(line)) is not None] == []
    unknown, bare = "halo-forge config check a.yaml --sett x", "halo-forge config check"
    assert (wrong_use(unknown), wrong_use(bare)) == (f"--sett is no option of {unknown!r}", f"0 arguments in {bare!r}")


def test_the_docs_show_every_command() -> None:
    root: Any = typer.main.get_command(app)
    verbs = [
        " ".join(("halo-forge", name, *verb))
        for name, command in root.commands.items()
        for verb in ([(each,) for each in command.commands] if hasattr(command, "commands") else [()])
    ]
    assert [verb for verb in verbs if not any(line.startswith(verb) for line in shown_commands())] == []


def test_shown_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    shown = {(page.name, target) for page in PAGES for target in re.findall(r"`make ([a-z-]+)", prose(page))}
    for page, block in EVERY_BLOCK:
        shown |= {(page.name, target) for target in re.findall(r"^make ([a-z-]+)", block.text, re.MULTILINE)}
    assert {(page, target) for page, target in shown if target not in targets} == set()


def test_exit_codes() -> None:
    def kinds(kind: type[HaloForgeError]) -> list[type[HaloForgeError]]:
        return [kind, *itertools.chain.from_iterable(map(kinds, kind.__subclasses__()))]

    documented = {int(row[0]) for row in table(ROOT / "docs/index.md", "## Exit codes")}
    assert documented == {0, 130} | {kind.exit_code for kind in kinds(HaloForgeError)}


# ---- configurations and rows


def titled(language: str, words: str) -> list[Any]:
    """Blocks whose first line is a comment that ends with `words`."""
    return [
        pytest.param(block, id=f"{page.name}-{block.heading}")
        for page, block in EVERY_BLOCK
        if block.language == language and re.match(rf"# .*{words}\n", block.text)
    ]


@pytest.mark.parametrize("block", titled("yaml", "a complete configuration"))
def test_complete_configurations_load(block: Block, tmp_path: Path) -> None:
    path = tmp_path / block.text.split()[1].rstrip(":")
    path.write_text(block.text, encoding="utf-8")
    if "sawtooth" in block.text:
        with pytest.raises(ConfigError, match="2 problems"):  # the two kinds that the page adds, and nothing else
            load_config(path)
    else:
        load_config(path)


@pytest.mark.parametrize(
    "block", [pytest.param(block, id=page.name) for page, block in EVERY_BLOCK if block.language == "jsonl"]
)
def test_prompt_rows_load(block: Block, tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(block.text, encoding="utf-8")
    prompts = load_prompts(str(path), language=None)
    assert {prompt.tests["kind"] for prompt in prompts if prompt.tests is not None} == {"harness", "stdio"}


def test_the_quickstart_rows_can_be_passed_and_failed(tmp_path: Path) -> None:
    right = {
        "gcd": "int gcd(int a, int b) { return b == 0 ? a : gcd(b, a % b); }",
        "sum": '#include <stdio.h>\nint main(void) { int n, sum = 0; while (scanf("%d", &n) == 1) sum += n;'
        ' printf("%d\\n", sum); }',
    }
    wrong = {"gcd": right["gcd"].replace("a % b", "0"), "sum": right["sum"].replace("sum = 0", "sum = 1")}
    path = tmp_path / "prompts.jsonl"
    path.write_text(next(each.text for each in blocks(QUICKSTART) if each.language == "jsonl"))
    prompts = load_prompts(str(path), language="c")

    def completion(prompt: Prompt, index: int, code: str) -> Completion:
        return Completion(prompt.id, index, f"```c\n{code}\n```", (), "stop", 0, 0)

    pairs = [
        (prompt, completion(prompt, i, each[prompt.id])) for prompt in prompts for i, each in enumerate((right, wrong))
    ]
    with open_verifier(Spec(workers=1)) as verifier:
        verdicts = list(verifier.verify(pairs))
    assert [(verdict.stage, verdict.passed) for verdict in verdicts] == [("tests", True), ("tests", False)] * 2


# ---- architecture and algorithm


def test_the_keys_that_decide_no_result_are_those_of_the_digest() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    listed = text.split("covers every key but", 1)[1].split("A run directory is continued", 1)[0]
    keys = {".".join(part for part in key if part is not None) for key in WITHOUT_INFLUENCE}
    assert set(re.findall(r"`([^`]+)`", listed)) == keys


def test_algorithm_quotes_the_loop() -> None:
    loop = "".join((PACKAGE / name).read_text(encoding="utf-8") for name in ("loop.py", "runtime/rollouts.py"))
    quotes = [block.text for block in blocks(ROOT / "docs/algorithm.md") if block.language == "python"]
    assert [quote for quote in quotes if quote not in loop] == []
    stages, quoted = (re.findall(r"\.stage\(\s*\"(\w+)\"", text) for text in (loop, "".join(quotes)))
    assert len(stages) >= 8
    assert [name for name in stages if name not in quoted] == []


# ---- the run directory

RUN_PAGE = ROOT / "docs/run-directory.md"
KINDS: dict[str, type[records.Record]] = {
    "sampling.json": records.SamplingSettings,
    "completions.jsonl": records.Completion,
    "verdicts.jsonl": records.Verdict,
    "measurement.json": records.Measurement,
    "decision.json": Decision,
    "selection_settings.json": records.SelectionSettings,
    "settings.json": records.TrainingSettings,
    "selection.json": records.Selection,
    "trained.json": records.Trained,
    "report.json": records.CycleReport,
    "result.json": Result,
}


@pytest.fixture
def example_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of 2 cycles at `runs/example` below the current folder."""
    monkeypatch.setattr("halo_forge.verifiers.verifier.ThreadedVerifier", lambda spec: MemoryVerifier())
    monkeypatch.chdir(tmp_path)
    execute(write_inputs(tmp_path / "inputs"), "runs/example")
    return tmp_path / "runs/example"


def test_every_file_of_a_run_is_described(example_run: Path) -> None:
    described = set(re.findall(r"^ *([\w.]+/?)", blocks(RUN_PAGE)[0].text.partition("\n")[2], re.MULTILINE))
    found = {path.name + "/" * (path.is_dir() and not path.is_symlink()) for path in example_run.rglob("*")}
    in_adapter = {path.name for path in example_run.rglob("adapter/*")}
    assert all(f"`{name}`" in RUN_PAGE.read_text(encoding="utf-8") for name in in_adapter)
    # Scripted answers never get better: v_0 stays best, so there is no link `best`, no other version on test, and no
    # lead to confirm.
    assert described == (found - in_adapter) | {"best", "v002/", "confirmation/"}


def test_examples_of_files_are_what_is_written(example_run: Path) -> None:
    for block in (block for block in blocks(RUN_PAGE) if block.language == "json"):
        name = block.heading.strip("`")
        row = json.loads(block.text)
        if name in KINDS:
            assert KINDS[name].from_row(row).to_row() == row, name
        elif name == "selection.jsonl":
            written = json.loads((example_run / "cycles/001" / name).read_text(encoding="utf-8").splitlines()[0])
            assert list(row) == list(written)
        elif name == "run.json":
            assert list(row) == list(json.loads((example_run / name).read_text(encoding="utf-8")))
        else:
            assert name in ("events.jsonl", "training_log.jsonl")


def test_events_are_those_described(example_run: Path) -> None:
    text = prose(RUN_PAGE).partition("### `events.jsonl`")[2].partition("###")[0]
    lines = (example_run / "events.jsonl").read_text(encoding="utf-8").splitlines()
    assert {json.loads(line)["event"] for line in lines} <= set(re.findall(r"`(\w+)`", text))


def test_pandas_reads_it(example_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = next(block.text for block in blocks(RUN_PAGE) if "pandas" in block.text)
    exec(compile(code, "docs/run-directory.md", "exec"), {})
    assert "dev/pass_rate" in capsys.readouterr().out
