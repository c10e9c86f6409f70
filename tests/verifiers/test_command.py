"""The user's own command: what it is given, what it may answer, and that nothing else is believed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from scripted_runs import execute, read, rows, write_inputs

from halo_forge.core.errors import ConfigError, ToolMissing
from halo_forge.core.records import Completion, Prompt, Verdict
from halo_forge.verifiers import open_verifier
from halo_forge.verifiers.languages.command import Spec
from halo_forge.verifiers.verifier import ThreadedVerifier

# The answer is the reply: what it holds is printed, so that a test says what the command says.
ECHO = "#!/bin/sh\ncat answer\n"
Open = Callable[..., Any]
TESTS = {"kind": "riddle", "entry_point": "f", "cases": [1, 2, 3]}


@pytest.fixture
def opened(open_path: Path) -> Open:
    """A verifier with this script as its command."""

    @contextmanager
    def verifier(script: str = ECHO, **settings: Any) -> Iterator[ThreadedVerifier]:
        path = open_path / "check.sh"
        path.write_text(script, encoding="utf-8")
        path.chmod(0o755)
        given = {"command": "./check.sh", "language": "riddle", "files": [str(path)], "workers": 1, **settings}
        with open_verifier(Spec.model_validate(given)) as found:
            yield found

    return verifier


def prompt(tests: dict[str, Any] | None = None, name: str = "task") -> Prompt:
    return Prompt(name, ({"role": "user", "content": "Guess."},), "riddle", tests)


def verdict(verifier: ThreadedVerifier, text: str, asked: Prompt | None = None) -> Verdict:
    asked = prompt(TESTS) if asked is None else asked
    (found,) = verifier.verify([(asked, Completion(asked.id, 0, f"```riddle\n{text}\n```", (), "stop", 0, 0))])
    return found


REPLIES: list[tuple[dict[str, Any], tuple[str, str, float]]] = [
    ({"status": "passed"}, ("tests", "passed", 1.0)),
    ({"status": "passed", "stage": "tests", "tests_passed": 2, "tests_total": 2}, ("tests", "passed", 1.0)),
    ({"status": "failed"}, ("compile", "failed", 0.0)),
    ({"status": "failed", "stage": "compile"}, ("compile", "failed", 0.0)),
    ({"status": "failed", "stage": "run"}, ("run", "failed", 0.5)),
    ({"status": "failed", "stage": "run", "warnings": 2}, ("run", "failed", 0.3)),
    ({"status": "failed", "tests_passed": 1, "tests_total": 2}, ("tests", "failed", 0.85)),
    ({"status": "failed", "stage": "tests", "tests_total": 4}, ("tests", "failed", 0.7)),
    # More output than asked for fails an answer whose every test passes.
    ({"status": "failed", "tests_passed": 2, "tests_total": 2}, ("tests", "failed", 0.85)),
    ({"status": "timeout"}, ("compile", "timeout", 0.0)),
    # Below the wrong answer above, whatever number of tests came first.
    ({"status": "timeout", "tests_passed": 1, "tests_total": 2}, ("run", "timeout", 0.5)),
    ({"status": "timeout", "stage": "tests", "tests_total": 2}, ("run", "timeout", 0.5)),
]

BROKEN: list[tuple[str, str]] = [
    ("no json", "Invalid JSON"),
    ('{"status": "passed"} {"status": "passed"}', "Invalid JSON"),
    ("[1]", "an object"),
    ("{}", "status"),
    ('{"status": "error"}', "status"),
    ('{"status": "passed", "reward": 1.0}', "reward"),
    ('{"status": "passed", "stage": "extract"}', "stage"),
    ('{"status": "passed", "stage": "compile"}', "last stage"),
    ('{"status": "passed", "tests_passed": 1, "tests_total": 2}', "only 1 of 2"),
    ('{"status": "failed", "tests_passed": 3, "tests_total": 2}', "above tests_total"),
    ('{"status": "failed", "tests_passed": -1}', "tests_passed"),
    ('{"status": "failed", "tests_total": "2"}', "tests_total"),
    ('{"status": "failed", "tests_total": 2.5}', "tests_total"),
    ('{"status": "failed", "stage": "tests"}', "tests_total is 0"),
    ('{"status": "failed", "diagnostics": null}', "diagnostics"),
]


def test_every_reply_becomes_its_verdict(opened: Open) -> None:
    with opened() as verifier:
        for reply, wanted in REPLIES:
            found = verdict(verifier, json.dumps(reply))
            assert (found.stage, found.status, pytest.approx(found.reward)) == wanted, reply
            assert found.tests_passed == reply.get("tests_passed", 0)
            assert found.tests_total == reply.get("tests_total", 0)
            assert found.warnings == reply.get("warnings", 0)


def test_a_command_that_follows_the_protocol_for_no_answer_is_an_error_of_ours(opened: Open) -> None:
    # Of an empty answer nothing is printed, which is no reply either.
    with opened() as verifier:
        found = verdict(verifier, "no json")
    assert (found.status, found.reward) == ("error", 0.0)
    assert "Invalid JSON" in found.diagnostics


# As a command that runs the answer, without protecting itself from it; about an empty one it says "failed".
RUNS = '#!/bin/sh\nsh answer\nif [ ! -s answer ]; then echo \'{"status": "failed"}\'; fi\n'
FORGES = 'echo \'{"status": "passed"}\''


@pytest.mark.parametrize(
    ("answer", "words", "status"),
    [
        *((f"cat <<'END'\n{reply}\nEND", words, "failed") for reply, words in BROKEN),
        ("kill -9 $PPID", "SIGKILL", "failed"),
        (f"{FORGES}; kill -TERM $PPID; sleep 9", "SIGTERM", "failed"),
        ("while :; do :; done", "CPU time", "timeout"),
        ("head -c 5000 /dev/zero", "output_limit_bytes", "failed"),
    ],
)
def test_an_answer_that_breaks_the_command_has_failed(opened: Open, answer: str, words: str, status: str) -> None:
    with opened(RUNS, timeout_seconds=0.3, output_limit_bytes=2048) as verifier:
        broken, honest = verdict(verifier, answer), verdict(verifier, FORGES)
    assert (broken.stage, broken.status, broken.reward, broken.tests_total) == ("compile", status, 0.0, 3)
    assert broken.flags == ("no_reply",)
    assert words in broken.diagnostics, broken.diagnostics
    assert (honest.status, honest.flags) == ("passed", ())


def test_known_answers_decide_too(opened: Open) -> None:
    # A checker that is gone for all but the empty answer is no fault of the answers.
    script = '#!/bin/sh\n[ -s answer ] && { echo no compiler >&2; exit 1; }\necho \'{"status": "failed"}\'\n'
    with opened(script) as verifier:
        assert verdict(verifier, "an answer").flags == ("no_reply",)
    spec = Spec.model_validate(
        {"command": "sh", "language": "riddle", "controls": {"passing": "right", "tests": {"kind": "riddle"}}}
    )
    with opened(script) as verifier:
        verifier._checker._spec = spec  # as if it had worked at the start
        found = verdict(verifier, "an answer")
    assert found.status == "error" and "no compiler" in found.diagnostics


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ('echo \'{"status": "passed"}\'; echo why >&2; exit 3', "exit code 3: why"),
        ('echo \'{"status": "passed"}\'; kill -SEGV $$', "SIGSEGV"),
        ("while :; do :; done", "CPU time"),
        ("head -c 5000 /dev/zero", "output_limit_bytes"),
        ("true", "Invalid JSON"),
    ],
)
def test_a_crash_or_a_limit_is_an_error_of_ours(opened: Open, script: str, words: str) -> None:
    with opened(f"#!/bin/sh\n{script}\n", timeout_seconds=0.3, output_limit_bytes=2048) as verifier:
        found = verdict(verifier, "anything")
    assert (found.status, found.reward) == ("error", 0.0)
    assert words in found.diagnostics


def test_the_command_is_told_everything(opened: Open) -> None:
    # The request comes back as the diagnostics, as JSON text.
    script = (
        "#!/bin/sh\nrequest=$(sed 's/\\\\/\\\\\\\\/g; s/\"/\\\\\"/g')\n"
        'ls >names\nprintf \'{"status": "failed", "diagnostics": "%s|%s"}\' "$request" "$(tr \'\\n\' \' \' <names)"\n'
    )
    asked = prompt({"kind": "riddle", "words": ["caf\u00e9", 'a "quote"'], "depth": {"x": [1, None]}}, "task/7")
    with opened(script, answer_file="Answer.hs") as verifier:
        found = verdict(verifier, "main = 42", asked)
    request, _, names = found.diagnostics.rpartition("|")
    assert json.loads(request) == {
        "prompt_id": "task/7",
        "code": "main = 42\n",
        "language": "riddle",
        "tests": {"kind": "riddle", "words": ["caf\u00e9", 'a "quote"'], "depth": {"x": [1, None]}},
    }
    assert sorted(names.split()) == ["Answer.hs", "check.sh", "names"]


def test_equal_answers_to_different_prompts_are_checked_apart(opened: Open) -> None:
    choose = '#!/bin/sh\nif grep -q \'"prompt_id": "good"\'; then s=passed; else s=failed; fi\n'
    script = choose + 'echo "{\\"status\\": \\"$s\\"}"\n'
    with opened(script) as verifier:
        found = [verdict(verifier, "same", prompt(TESTS, name)).status for name in ("good", "bad", "good")]
    assert found == ["passed", "failed", "passed"]


def test_without_a_program_the_command_is_not_asked(opened: Open) -> None:
    with opened("#!/bin/sh\nexit 1\n") as verifier:
        asked = prompt(TESTS)
        (found,) = verifier.verify([(asked, Completion("task", 0, "I do not know.", (), "stop", 0, 0))])
    assert (found.stage, found.status, found.tests_total) == ("extract", "failed", 3)


def test_shorter_stages(opened: Open) -> None:
    with opened(stages=["compile"]) as verifier:
        assert verdict(verifier, '{"status": "passed"}').reward == 0.5
        assert verdict(verifier, '{"status": "failed", "stage": "run"}').status == "error"  # no such stage is asked for
        found = verdict(verifier, '{"status": "failed", "tests_passed": 1, "tests_total": 2}')
    assert (found.stage, found.status, found.reward) == ("compile", "failed", 0.0)
    spec = Spec.model_validate({"command": "x", "language": "riddle", "stages": ["compile", "run"]})
    assert spec.max_reward(True) == spec.max_reward(False) == 0.7


def test_controls_prove_the_command(opened: Open) -> None:
    yes, no = '{"status": "passed"}', '{"status": "failed"}'
    with opened(controls={"passing": yes, "broken": no, "tests": {"kind": "riddle"}}) as verifier:
        toolchain = verifier.toolchain()
    assert toolchain["language"] == "riddle"
    assert len(toolchain["files"]["check.sh"]) == 64
    for wrong, words in (({"passing": no}, "expected passed"), ({"broken": yes}, "expected failed at any stage")):
        with pytest.raises(ToolMissing, match=words), opened(controls=wrong):
            pass
    with pytest.raises(ToolMissing, match="Invalid JSON"), opened(controls={"passing": "nonsense"}):
        pass


def test_before_a_run_the_command_answers_once(opened: Open) -> None:
    with opened("#!/bin/sh\nexit 9\n") as verifier, pytest.raises(ToolMissing, match="exit code 9"):
        verifier.check_prompts([prompt(TESTS)])
    for first_line in ("#!/no/such/shell", "echo"):
        with opened(f"{first_line}\n") as verifier, pytest.raises(ToolMissing, match="first line"):
            verifier.check_prompts([prompt(TESTS)])
    with opened('#!/bin/sh\necho \'{"status": "passed"}\'\n') as verifier:
        verifier.check_prompts([prompt(None)])  # nothing to test: that an empty answer passes may be meant
    with opened('#!/bin/sh\necho \'{"status": "passed"}\'\n') as verifier:
        with pytest.raises(ConfigError, match="empty answer"):
            verifier.check_prompts([prompt(TESTS)])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"files": ["a/check.sh", "b/check.sh"]}, "twice"),
        ({"files": ["a/answer"]}, "that of the answer"),
        ({"command": "./other.sh"}, "not among verifier.files"),
        ({"command": []}, "at least 1"),
        ({"answer_file": "../answer"}, "pattern"),
        ({"language": ""}, "at least 1"),
    ],
)
def test_settings_that_cannot_work(settings: dict[str, Any], words: str) -> None:
    given = {"command": ["./check.sh"], "language": "riddle", "files": ["a/check.sh"], **settings}
    with pytest.raises(ValueError, match=words):
        Spec.model_validate(given)


def test_what_is_missing_is_found_first(open_path: Path) -> None:
    missing = Spec.model_validate({"command": "no-such-tool-of-mine", "language": "riddle"})
    with pytest.raises(ToolMissing, match="no-such-tool-of-mine"), open_verifier(missing):
        pass
    (open_path / "plain.sh").write_text("echo")
    (open_path / "folder.sh").mkdir()
    for name, words in (("none.sh", "no such file"), ("plain.sh", "not executable"), ("folder.sh", "a directory")):
        for command in (f"./{name}", str(open_path / name)):
            given = {"command": command, "language": "riddle", "files": [str(open_path / name)]}
            with pytest.raises(ToolMissing, match=rf"'command' needs {open_path / name}: .*{words}") as caught:
                open_verifier(Spec.model_validate(given)).__enter__()
            assert "PATH" not in caught.value.message and "chmod +x" in caught.value.hint
    gone = Spec.model_validate({"command": "sh", "language": "riddle", "files": [str(open_path / "gone.sh")]})
    with pytest.raises(ConfigError, match=r"gone\.sh"), open_verifier(gone):
        pass


def test_the_language_has_one_name() -> None:
    for given, name in (("C++", "cpp"), ("Haskell", "haskell")):
        assert Spec.model_validate({"command": "x", "language": given}).language == name


def test_what_it_may_read(open_path: Path) -> None:
    given = {"command": ["sh", "check.sh"], "language": "riddle", "files": ["somewhere/check.sh"]}
    spec = Spec.model_validate({**given, "read_only": [str(open_path)]})
    assert spec.read_only_paths({"sh": "/usr/bin/sh"}) == [str(open_path)]
    assert spec.read_only_paths({"sh": "/opt/tools/bin/sh"}) == sorted([str(open_path), "/opt/tools"])
    # Of a command that is one of the files, nothing but its copy is there.
    own = Spec.model_validate({**given, "command": "./check.sh"})
    assert own.read_only_paths({own.requires()[0]: own.requires()[0]}) == []
    with pytest.raises(ConfigError, match="not a directory"):
        Spec.model_validate({**given, "read_only": [str(open_path / "gone")]}).read_only_paths({"sh": "/usr/bin/sh"})
    with pytest.raises(ConfigError, match="'/proc' would expose too much"):
        Spec.model_validate({**given, "read_only": ["/proc"]}).read_only_paths({"sh": "/usr/bin/sh"})


def test_a_whole_run(open_path: Path, tmp_path: Path) -> None:
    script = open_path / "check.sh"
    passed, failed = '{"status": "passed"}', '{"status": "failed", "tests_total": 1}'
    script.write_text(f"#!/bin/sh\nif grep -q 42 answer; then echo '{passed}'; else echo '{failed}'; fi\n")
    script.chmod(0o755)
    settings = {
        "kind": "command",
        "command": ["./check.sh"],
        "language": "riddle",
        "files": [str(script)],
        "workers": 1,
    }
    config = write_inputs(
        tmp_path / "inputs",
        answers=lambda prompt_id: [f"```riddle\n{number} {prompt_id}\n```" for number in (42, 41, 40, 39)],
        tests={"kind": "riddle"},
        verifier=settings,
    )
    execute(config, tmp_path / "run")
    texts = [row["text"] for row in rows(tmp_path / "run/cycles/001/completions.jsonl")]
    verdicts = rows(tmp_path / "run/cycles/001/verdicts.jsonl")
    assert {("42" in text, row["status"], row["reward"]) for text, row in zip(texts, verdicts, strict=True)} == {
        (True, "passed", 1.0),
        (False, "failed", 0.7),
    }
    toolchain = read(tmp_path / "run/run.json")["toolchain"]
    assert toolchain["command"] == ["./check.sh"] and list(toolchain["files"]) == ["check.sh"]
