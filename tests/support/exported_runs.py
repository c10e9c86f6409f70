"""Runs of a tiny model to export, a verifier that knows what the adapter writes, and a stand-in for llama.cpp."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from scripted_runs import STATUS, MemoryVerifier, execute, ids, write_rows

from halo_forge.core.records import Completion, Verdict

NUM_DEV = 24
SAME_START = 4
"""Characters that two completions share if they are of one model: bfloat16 lets later ones differ."""


class Everything(MemoryVerifier):
    """Every completion passes: a tiny model with random weights writes nothing that would."""

    def verdict(self, completion: Completion) -> Verdict:
        return _verdict(completion, "pass")


class LikesTheAdapter(MemoryVerifier):
    """What the adapter writes passes, and so does what begins as the adapter's completion of the same prompt."""

    def __init__(self) -> None:
        super().__init__()
        self.starts: dict[str, set[str]] = {}

    def verdict(self, completion: Completion) -> Verdict:
        start = completion.text[:SAME_START]
        known = self.starts.setdefault(completion.prompt_id, set())
        if completion.policy_version > 0:
            known.add(start)
        return _verdict(completion, "pass" if start in known else "broken")


def _verdict(completion: Completion, word: str) -> Verdict:
    stage, status, reward = STATUS[word]
    return Verdict(
        prompt_id=completion.prompt_id,
        index=completion.index,
        stage=stage,  # type: ignore[arg-type]
        status=status,
        reward=reward,
        tests_passed=int(status == "passed"),
        tests_total=1,
        source_digest=completion.text,
        normal_digest=completion.text[:12],
        policy_version=completion.policy_version,
    )


def tuned_run(folder: Path, base: Path, **sections: Any) -> Path:
    """A finished run of one cycle: its v_1 differs much from v_0."""
    sets = {"train": ids("train", 3), "dev": ids("dev", NUM_DEV), "test": ids("test", 2)}
    tests = {"kind": "stdio", "cases": [{"stdin": "", "stdout": "42"}]}
    config = {
        "model": {"model_name_or_path": str(base), "dtype": "float32"},
        "prompts": {
            name: str(write_rows(folder / f"{name}.jsonl", _rows(names, tests))) for name, names in sets.items()
        },
        "engine": {"max_new_tokens": 12, "stop": ["STOP"]},
        "selection": {"reward_threshold": 0.0},
        "training": {"learning_rate": 1e-2, "gradient_accumulation_steps": 1},
        "lora": {"r": 4, "lora_alpha": 8},
        "evaluation": {"samples_per_prompt": 1, "temperature": 0.0, "test_at_end": False, "num_drift_samples": 0},
        "decisions": {"max_standard_error": 0.2},
        "raft": {"num_cycles": 1, "samples_per_prompt": 4, "min_selected": 1},
        **sections,
    }
    path = folder / "run.yaml"
    path.write_text(json.dumps(config), encoding="utf-8")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("halo_forge.verifiers.verifier.ThreadedVerifier", lambda spec: Everything())
        execute(path, folder / "run")
    return folder / "run"


def _rows(names: list[str], tests: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"id": each, "prompt": f"Write {each}.", "tests": tests} for each in names]


def like_the_adapter(monkeypatch: pytest.MonkeyPatch) -> LikesTheAdapter:
    """All measurements of the test are verified by one `LikesTheAdapter`."""
    found = LikesTheAdapter()
    monkeypatch.setattr("halo_forge.verifiers.verifier.ThreadedVerifier", lambda spec: found)
    return found


_CONVERT = """
import json, pathlib, sys
import argparse
parser = argparse.ArgumentParser()
parser.add_argument("source"); parser.add_argument("--outtype"); parser.add_argument("--outfile")
parser.add_argument("--base")
given = parser.parse_args()
assert (pathlib.Path(given.base or given.source) / "config.json").is_file(), given
pathlib.Path(given.outfile).write_text(json.dumps([NAME, given.outtype]))
"""
_QUANTIZE = """
import json, pathlib, sys
source, target, kind = sys.argv[1:4]
pathlib.Path(target).write_text(json.dumps(json.loads(pathlib.Path(source).read_text()) + [kind]))
print("llama_model_quantize_impl: WARNING: 3 of 16 tensor(s) required fallback quantization")
"""
_SERVE = """
import argparse, http.server, json
parser = argparse.ArgumentParser()
for name in ("model", "lora", "host", "port", "parallel", "ctx-size", "threads"):
    parser.add_argument("--" + name)
given = parser.parse_args()
open(given.model).read()

class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *words): pass
    def answer(self, value):
        data = json.dumps(value).encode()
        self.send_response(200); self.send_header("Content-Length", str(len(data))); self.end_headers()
        self.wfile.write(data)
    def do_GET(self): self.answer({"status": "ok"})
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer({"choices": [{"index": 0, "text": TEXT, "finish_reason": "stop"}]})

http.server.ThreadingHTTPServer((given.host, int(given.port)), Handler).serve_forever()
"""


def fake_llama_cpp(folder: Path, *, text: str = "served", without: str = "") -> Path:
    """A checkout of llama.cpp whose programs do next to nothing.

    Args:
        text: What its server answers to everything.
        without: A program that it lacks.
    """
    programs = {
        "convert_hf_to_gguf.py": _CONVERT.replace("NAME", "'model'"),
        "convert_lora_to_gguf.py": _CONVERT.replace("NAME", "'adapter'"),
        "build/bin/llama-quantize": _QUANTIZE,
        "build/bin/llama-server": _SERVE.replace("TEXT", repr(text)),
    }
    for name, source in programs.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.rpartition("/")[2] == without:
            continue
        path.write_text(f"#!{sys.executable}\n{source}", encoding="utf-8")
        path.chmod(0o755)
    return folder
