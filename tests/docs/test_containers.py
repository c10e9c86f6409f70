"""docs/containers.md and the Containerfiles agree with the code; nothing here needs a container runtime."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from docs_text import ROOT, blocks, table

from halo_forge.checks.doctor.surroundings import command_to_raise
from halo_forge.sandbox import ladder
from halo_forge.sandbox.job import LEVELS

PAGE = ROOT / "docs/containers.md"
FILES = [ROOT / "Containerfile", ROOT / "Containerfile.gfx1151"]


def test_the_profile_of_the_page_allows_what_the_level_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}]}
    Path("default.json").write_text(json.dumps(given))
    (code,) = (block.text for block in blocks(PAGE) if block.language == "python")
    exec(compile(code, PAGE.name, "exec"), {})
    made = json.loads(Path("halo-forge.json").read_text())
    assert made["syscalls"].pop() == {"names": list(ladder.NAMESPACE_CALLS), "action": "SCMP_ACT_ALLOW"}
    assert made == given


def test_the_table_names_levels_and_the_options_that_doctor_names() -> None:
    rows = table(PAGE, "## Which isolation level programs get")
    assert {level for row in rows for level in re.findall(r"`(\w+)`", row[3])} <= {*LEVELS}
    options = " ".join(row[1] for row in rows)
    for container, option in (("podman", "unmask=ALL"), ("docker", "systempaths=unconfined")):
        said = command_to_raise("namespace", {"fresh_proc": False}, [], container)  # type: ignore[arg-type]
        assert option in said and option in options


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_an_image_runs_as_an_ordinary_user(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    last = text.rpartition("\nFROM ")[2]
    (user,) = re.findall(r"^USER (\w+)$", last, re.MULTILINE)
    assert user != "root" and f"--create-home {user}" in last
    assert re.findall(r"^ENTRYPOINT (.*)$", last, re.MULTILINE) == ['["halo-forge"]']


def test_both_images_differ_in_their_base_and_torch_alone() -> None:
    def commands(path: Path) -> str:
        lines = path.read_text(encoding="utf-8").splitlines()
        text = "\n".join(line for line in lines if not line.startswith(("#", "ARG ")))
        return re.sub(r"(RUN )?apt-get .*\n|    && apt-get .*\n", "", text.replace("RUN apt-get update \\\n", ""))

    cpu, gpu = map(commands, FILES)
    assert cpu == gpu


def test_what_the_wheel_is_built_from_reaches_the_build() -> None:
    lines = (ROOT / ".containerignore").read_text(encoding="utf-8").splitlines()
    kept = {line[1:] for line in lines if line.startswith("!")}
    needed = {path.readlink().name for path in (ROOT / "halo_forge/manual").iterdir() if path.is_symlink()}
    assert needed | {"halo_forge", "pyproject.toml", "requirements.lock"} == kept
    assert (ROOT / ".dockerignore").readlink() == Path(".containerignore")
