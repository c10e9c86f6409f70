"""No warning, progress bar or log line of a library reaches a person: the shipped commands as they are started."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted_runs import rows

from halo_forge.runtime.library_warnings import KNOWN

HIDDEN = ("PYTHONWARNINGS", "TRANSFORMERS_VERBOSITY", "TOKENIZERS_PARALLELISM", "TORCH_CPP_LOG_LEVEL")
"""Variables that silence libraries; a user has not set them."""
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if name not in HIDDEN},
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
}
RUN_LINES = re.compile(
    r"((train|dev|test) tests|kept as info|note): "
    r"|(hardware|verifier|sample v\d+|verify|verify again|second run|drift|train|run|decision|advice|cycle \d+|v\d+): "
    r"| {4}(likely cause|suggestion|confidence): "
)
"""Everything that a run says on standard error where that is no terminal."""
LIBRARY_LINES = re.compile(
    r"Warning\b|warnings?\.warn|site-packages|\bit/s\]|s/it\]|\d+%\||^\[(transformers|trl|peft|torch|datasets)\]"
    r"|TF32|pad_token_id|generation flags|huggingface/tokenizers|pip install|Failed to|deprecated|^\[?[WE]\d{4} "
)


def command(*arguments: object, expected: int = 0) -> tuple[list[str], list[str]]:
    """The lines on standard output and on standard error, without what looks like a library's."""
    done = subprocess.run(
        [sys.executable, "-m", "halo_forge", *map(str, arguments)], capture_output=True, text=True, env=ENVIRONMENT
    )
    assert done.returncode == expected, done.stderr[-3000:]
    out, err = done.stdout.splitlines(), done.stderr.splitlines()
    assert [line for line in [*out, *err] if LIBRARY_LINES.search(line)] == []
    return out, err


def quiet_run(*arguments: object, run: Path) -> None:
    """A command that runs cycles: it says what it does, and no library had anything to say that we do not know."""
    _, err = command(*arguments)
    assert [line for line in err if not RUN_LINES.match(line)] == []
    events = rows(run / "events.jsonl")
    assert [event for event in events if event["event"] == "library_warning"] == []
    assert any(event["event"] == "run_finished" for event in events)


@pytest.fixture(scope="module")
def model(tiny_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One whose generation_config.json sets everything, as instruction-tuned models do."""
    folder = tmp_path_factory.mktemp("warnings") / "model"
    folder.mkdir()
    for path in tiny_models["llama"].iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    path = folder / "generation_config.json"
    sampling = {"do_sample": False, "temperature": 0.6, "top_p": 0.95, "top_k": 20, "repetition_penalty": 1.05}
    path.write_text(json.dumps(json.loads(path.read_text()) | sampling | {"max_length": 20, "key_of_tomorrow": 1}))
    return folder


@pytest.fixture
def config(model: Path, tmp_path: Path) -> Path:
    """Random weights write no C, so everything that ends counts."""
    prompts: dict[str, Any] = {name: f"builtin:c/{name}" for name in ("train", "dev", "test")}
    prompts |= {"train_limit": 3, "dev_limit": 1, "test_limit": 1, "response_prefix": "```c\n"}
    values = {
        "model": {"model_name_or_path": str(model)},
        "prompts": prompts,
        "engine": {"kind": "transformers", "max_new_tokens": 60, "stop": ["}", "e"], "batch_size": 2},
        "verifier": {"kind": "c"},
        "selection": {"reward_threshold": 0.0},
        "training": {"learning_rate": 1e-3, "optimizer": {"across_cycles": "carry"}},
        "lora": {"r": 4, "lora_alpha": 8},
        "raft": {"num_cycles": 2, "samples_per_prompt": 2, "min_selected": 1},
        "output_dir": str(tmp_path / "run"),
    }
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(values))  # JSON is YAML
    return path


@pytest.fixture(scope="module")
def adapter(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One with DoRA's magnitudes, as another program trains it."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("adapter") / "adapter"
    wanted = LoraConfig(r=4, lora_alpha=8, use_dora=True, use_rslora=True, target_modules="all-linear")
    base = AutoModelForCausalLM.from_pretrained(str(model))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of a name that PEFT uses
        get_peft_model(base, wanted).save_pretrained(str(folder))
    return folder


VARIANTS = {
    "float32": ("model.dtype=float32",),
    "bfloat16, DoRA, rsLoRA, checkpointing, one kernel": (
        "model.dtype=bfloat16",
        "lora.use_rslora=true",
        "training.gradient_checkpointing=true",
        "model.attn_implementation=eager",
    ),
    "4 bits": ("model.quantization=4bit",),
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("variant", VARIANTS)
def test_runs_and_resumed_runs_are_quiet(variant: str, config: Path, adapter: Path, tmp_path: Path) -> None:
    if variant == "4 bits" and importlib.util.find_spec("bitsandbytes") is None:
        pytest.skip("bitsandbytes is not installed")
    run = tmp_path / "run"
    num_cycles = f"raft.num_cycles={2 if variant == 'float32' else 1}"
    start = [f"model.adapter={adapter}"] if "DoRA" in variant else []
    settings = [word for each in (*VARIANTS[variant], *start, num_cycles) for word in ("--set", each)]
    quiet_run("raft", "run", config, *settings, run=run)
    if variant == "float32":
        # As a kill in the training of cycle 2 leaves it.
        for name in ("result.json", "test", "cycles/003", "cycles/002/trained.json", "cycles/002/report.json"):
            path = run / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        quiet_run("raft", "resume", run, run=run)
        assert command("raft", "status", run)[1] == command("raft", "status", run, "--json")[1] == []
        _, err = command("verify", "--rescore", run, "--set", "verifier.rewards.compiles=0.4")
        assert err == []


def test_other_commands_are_quiet(config: Path, tmp_path: Path) -> None:
    assert command("raft", "run", config, "--dry-run")[1] == []
    for name in ("check", "show"):
        assert command("config", name, config)[1] == []
    assert command("config", "schema")[1] == []
    program = tmp_path / "program.c"
    program.write_text("int main(void) { return 0; }\n")
    _, err = command("verify", config, program)
    assert len(err) == 1 and err[0].startswith("verify: 1 of 1 in "), err
    tasks = tmp_path / "tasks.jsonl"
    cases = [{"stdin": f"{number}\n", "stdout": f"{number}\n"} for number in (1, 2, 3)]
    tasks.write_text(
        json.dumps({"id": "a", "prompt": "Print it.", "language": "c", "tests": {"kind": "stdio", "cases": cases}})
        + "\n"
    )
    (verified,) = command("tasks", "check", tasks)[1]
    assert verified.startswith("verify: 2 of 2 in "), "programs that do nothing of the task"


def test_the_doctor_is_quiet() -> None:
    assert command("doctor")[1] == []


NOTEBOOK = """
import halo_forge
config = halo_forge.load_config({path!r}, ["raft.num_cycles=1"])
halo_forge.preview(config)
halo_forge.run(config)
print(len(halo_forge.RunDirectory({run!r}).samples()))
"""


def test_a_notebook_sees_no_warning_and_keeps_its_own(config: Path, tmp_path: Path) -> None:
    state = "warnings.showwarning, logging.Logger.callHandlers, list(warnings.filters)"
    notebook = NOTEBOOK.format(path=str(config), run=str(tmp_path / "run"))
    source = (
        f"import logging, warnings\nbefore = {state}\n{notebook}\nassert before == ({state})\nwarnings.warn('mine')"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.splitlines() == ["<string>:11: UserWarning: mine"]
    assert done.stdout.splitlines() == ["22"]


# ---- the mechanism

WARNS = """
import logging, sys, warnings
sys.path.insert(0, {libraries!r})
from halo_forge.runtime.library_warnings import LibraryWarnings
import a_library
heard = []
found = LibraryWarnings()
with found.collected():
    a_library.speak()
    a_library.speak()
    found.send_to(lambda event, **fields: heard.append((event, *fields.values())))
    a_library.speak("later")
    warnings.warn("the user's")
    logging.getLogger("user").warning("the user's log")
    logging.getLogger("a_library").error("broken")
a_library.speak("outside")
print(heard)
"""
LIBRARY = """
import logging, warnings
def speak(what="first"):
    warnings.warn(f"{what} warning", FutureWarning, stacklevel=2)
    logging.getLogger(__name__).warning("%s log", what)
"""


@pytest.fixture
def spoken(tmp_path: Path) -> Iterator[subprocess.CompletedProcess[str]]:
    libraries = tmp_path / "site-packages"
    libraries.mkdir()
    (libraries / "a_library.py").write_text(LIBRARY)
    source = WARNS.format(libraries=str(libraries))
    yield subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, env=ENVIRONMENT)


def test_what_a_library_warns_of_is_collected_once(spoken: subprocess.CompletedProcess[str]) -> None:
    assert spoken.returncode == 0, spoken.stderr
    assert eval(spoken.stdout) == [
        ("library_warning", "a_library", category, message)
        for category, message in (
            ("FutureWarning", "first warning"),
            ("logged", "first log"),
            ("FutureWarning", "later warning"),
            ("logged", "later log"),
        )
    ]


def test_what_others_say_is_shown(spoken: subprocess.CompletedProcess[str]) -> None:
    """Warnings of the user's program, errors of a library, and all that comes after a run."""
    lines = [line.partition(": ")[2] or line for line in spoken.stderr.splitlines()]
    assert lines == [
        "UserWarning: the user's",
        "the user's log",
        "broken",
        "FutureWarning: outside warning",
        "outside log",
    ]


def test_known_warnings_are_named_exactly() -> None:
    for known in KNOWN:
        assert "." in known.module and known.category and len(known.message) > 20, known
