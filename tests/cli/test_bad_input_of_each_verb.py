"""The verbs around the loop with bad input, as a shell sees them: exit code, the message with its fix, nothing lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from claim_runs import inputs, members, packed, rewritten, verify_programs
from scripted_runs import execute, write_rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_models: dict[str, Path]) -> Path:
    """A model, prompts, a finished run, one that is not, and claims that are none."""
    found = tmp_path_factory.mktemp("verbs")
    with pytest.MonkeyPatch.context() as monkeypatch:
        verify_programs(monkeypatch)
        monkeypatch.chdir(found)
        execute(inputs(Path("inputs"), raft__num_cycles=1), "finished")
        whole = found / packed(Path("finished"))
    shutil.copytree(found / "finished", found / "unfinished", symlinks=True)
    for name in ("result.json", "cycles/002/decision.json", "cycles/002/advice.json"):
        (found / "unfinished" / name).unlink()
    (found / "model").symlink_to(tiny_models["llama"])
    write_rows(found / "rows.jsonl", [{"id": "a", "prompt": "Write it."}, {"id": "b", "prompt": ""}])
    write_rows(found / "own.jsonl", [{"prompt": "Write it.", "answer": 42}])
    (found / "sft.yaml").write_text("model: {model_name_or_path: nothing/here/model}\ndata: {train: own.jsonl}\n")
    (found / "rows.yaml").write_text("model: {model_name_or_path: model}\ndata: {train: own.jsonl}\n")
    (found / "cut.zip").write_bytes(whole.read_bytes()[:1000])
    manifest = {**json.loads(members(whole)["manifest.json"]), "claim_schema": 9}
    changed = rewritten(whole, {**members(whole), "manifest.json": json.dumps(manifest).encode()}, forged=False)
    changed.rename(found / "schema.zip")
    return found


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("init new --model nothing/here/model --prompts builtin:c --yes", 2, "nothing/here/model: no such folder"),
        ("init new --model model --prompts rows.jsonl --yes", 2, "rows.jsonl:2: `prompt` is empty"),
        ("sft run sft.yaml", 2, "nothing/here/model: no such folder"),
        ("sft run rows.yaml", 2, "own.jsonl:1"),
        ("eval run nothing/here/model --tasks builtin:c/test", 2, "nothing/here/model: no such folder"),
        ("eval run unfinished --tasks builtin:c/test", 3, "the run is not finished"),
        ("eval run model --tasks rows.jsonl --set verifier.kind=c", 2, "rows.jsonl:2: `prompt` is empty"),
        ("export nothing/here --to merged", 2, "nothing/here"),
        ("export unfinished --to merged", 3, "the run is not finished"),
        ("claim unfinished", 3, "the run is not finished"),
        ("recheck cut.zip", 2, "not a claim, or cut"),
        ("recheck schema.zip", 2, "claim_schema is 9"),
        ("docs nothing", 2, "there is no page 'nothing'"),
    ],
)
def test_bad_input_ends_with_a_fix_and_loses_nothing(folder: Path, line: str, code: int, said: str) -> None:
    def there() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    before = there()
    done = subprocess.run(
        [sys.executable, "-m", "halo_forge", *line.split()], cwd=folder, capture_output=True, text=True, timeout=120,
        check=False, env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert said in done.stderr and "\n  fix: " in done.stderr
    assert before.items() <= there().items()
