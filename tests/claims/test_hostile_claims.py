"""The file of a claim is hostile input: what it cannot do to whoever rechecks it."""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from claim_runs import (
    Verifiers,
    claim_of_new_run,
    edited,
    inputs,
    members,
    packed,
    program,
    rechecked,
    rewritten,
    said,
    verify_programs,
)
from damage import damage
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from scripted_runs import execute

import halo_forge
from halo_forge.claims import archive
from halo_forge.claims.opened import with_settings
from halo_forge.claims.programs import local_spec
from halo_forge.claims.recheck import _limited_memory
from halo_forge.config import load_config
from halo_forge.core.errors import ClaimError
from halo_forge.core.records import Prompt
from halo_forge.runtime.prompt_sets import prompt_digest
from halo_forge.verifiers import ProgramSpec


@pytest.fixture
def verifiers(monkeypatch: pytest.MonkeyPatch) -> Verifiers:
    return verify_programs(monkeypatch)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return claim_of_new_run(tmp_path_factory.mktemp("claim"), raft__num_cycles=1)


@pytest.fixture
def claim(made: Path, verifiers: Verifiers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A claim; after the test nothing may be left where claims are unpacked, nor beside it."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    return made


def refused(path: Path, match: str, tmp_path: Path) -> None:
    with pytest.raises(ClaimError, match=match) as caught:
        rechecked(path, programs=False)
    assert caught.value.hint
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.parametrize(
    "name",
    [
        "../escaped.json", "/tmp/escaped.json", "cycles/001/../../../escaped.json", "cycles/001/decision.json\0.py",
        "C:\\escaped.json", "cycles\\001\\decision.json", "cycles/001/", "cycles/001/adapter/../../x", "__init__.py",
        "cycles/١/decision.json", "prompts/train.jsonl ", "run.json/x", "CYCLES/001/decision.json",
    ],
)  # fmt: skip
def test_names_that_no_claim_has(claim: Path, tmp_path: Path, name: str) -> None:
    path = rewritten(claim, {**members(claim), name: b"{}"})
    if "\0" in name:  # a zip cuts the name there, and then it is there twice
        refused(path, "twice", tmp_path)
    else:
        refused(path, "no file of a claim", tmp_path)
    assert not list(tmp_path.rglob("escaped*"))


def test_a_name_that_is_there_twice(claim: Path, tmp_path: Path) -> None:
    path = rewritten(claim, members(claim))
    with zipfile.ZipFile(path, "a") as added, pytest.warns(UserWarning, match="Duplicate"):
        added.writestr("result.json", b"{}")
    refused(path, "twice", tmp_path)


def test_a_link_is_a_file_like_any_other(claim: Path, tmp_path: Path) -> None:
    files = members(claim)
    path = rewritten(claim, {name: data for name, data in files.items() if name != "result.json"})
    info = zipfile.ZipInfo("result.json")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "a") as added:
        added.writestr(info, b"/etc/passwd")
    refused(path, "unlike its manifest|not JSON", tmp_path)


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def half_of_a_byte(data: bytes) -> bytes:
    at = data.index(b"cycles/001/completions.jsonl") + 200
    return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (cut, "not a claim, or cut"),
        (lambda data: b"", "not a claim, or cut"),
        (lambda data: b"PK" + bytes(1000), "not a claim, or cut"),
        (lambda data: b'{"prompt_id": "a"}\n', "not a claim, or cut"),
        (half_of_a_byte, "damaged|cut"),
    ],
)
def test_a_file_that_is_cut_damaged_or_something_else(
    claim: Path, tmp_path: Path, damage: Callable[[bytes], bytes], match: str
) -> None:
    path = tmp_path / "damaged.claim.zip"
    path.write_bytes(damage(claim.read_bytes()))
    refused(path, match, tmp_path)


def test_what_is_no_file(claim: Path, tmp_path: Path) -> None:
    refused(tmp_path / "nothing.zip", "no such file", tmp_path)
    refused(tmp_path, "is a folder", tmp_path)


def test_an_archive_that_is_no_claim(claim: Path, tmp_path: Path) -> None:
    files = members(claim)
    del files["manifest.json"]
    refused(rewritten(claim, files, forged=False), "not a claim", tmp_path)


@pytest.mark.parametrize("schema", [2, 0, True, "1", None])
def test_another_schema(claim: Path, tmp_path: Path, schema: object) -> None:
    def edit(found: Any) -> None:
        found["claim_schema"] = schema

    refused(edited(claim, "manifest.json", edit, forged=False), "claim_schema is", tmp_path)


def test_a_run_of_another_schema(claim: Path, tmp_path: Path) -> None:
    def edit(found: Any) -> None:
        found["schema_version"] = 99

    refused(edited(claim, "run.json", edit), "schema_version 99", tmp_path)


@pytest.mark.parametrize("content", [b"{", b"[]", b"[" * 100_000, b'{"claim_schema": 1}', b"\xff\xfe"])
def test_a_manifest_that_is_none(claim: Path, tmp_path: Path, content: bytes) -> None:
    refused(rewritten(claim, {**members(claim), "manifest.json": content}, forged=False), "manifest|schema", tmp_path)


def test_a_manifest_that_names_other_files(claim: Path, tmp_path: Path) -> None:
    def more(found: Any) -> None:
        found["members"]["cycles/005/decision.json"] = {"sha256": "0", "bytes": 1}

    def fewer(found: Any) -> None:
        del found["members"]["result.json"]

    refused(edited(claim, "manifest.json", more, forged=False), "lacks 'cycles/005/decision.json'", tmp_path)
    refused(edited(claim, "manifest.json", fewer, forged=False), "also holds 'result.json'", tmp_path)


def test_a_bomb_is_not_unpacked(claim: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_BYTES", 5_000_000)
    bomb = {**members(claim), "cycles/001/completions.jsonl": bytes(50_000_000)}
    path = rewritten(claim, bomb)
    assert path.stat().st_size < 500_000
    refused(path, "allowed: at most 5,000,000", tmp_path)


def test_a_bomb_that_lies_about_its_size(claim: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_BYTES", 5_000_000)
    size = 50_000_000
    path = rewritten(claim, {**members(claim), "result.json": bytes(size)})
    path.write_bytes(path.read_bytes().replace(size.to_bytes(4, "little"), (100).to_bytes(4, "little")))
    # The library stops at the size that the archive states, and finds that the content is not what its checksum says.
    refused(path, "cut|damaged|more than", tmp_path)


def test_more_files_than_a_run_has(claim: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_MEMBERS", 5)
    refused(claim, "allowed: at most 5", tmp_path)


def test_what_needs_too_much_memory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ClaimError, match="half of this machine's memory"), _limited_memory(tmp_path / "a.zip"):
        bytearray(1 << 46)


def test_the_configuration_names_no_file_that_is_read(claim: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.yaml"
    secret.write_text("seed: 12345678\n")

    def edit(found: Any) -> None:
        found["extends"] = str(secret)

    with pytest.raises(ClaimError, match="extends") as caught:
        rechecked(edited(claim, "config.json", edit))
    assert "12345678" not in str(caught.value)


def test_a_configuration_that_is_none_of_this_version(claim: Path, tmp_path: Path) -> None:
    def edit(found: Any) -> None:
        found["raft"]["num_cycles"] = "many"

    refused(edited(claim, "config.json", edit), "not a configuration of this version.*num_cycles", tmp_path)


def spec_of(claim: Path, verifier: dict[str, Any]) -> ProgramSpec:
    config = {"model": {"model_name_or_path": "none"}, "verifier": verifier, "output_dir": "none"}
    return load_config(config).config.verifier


def test_a_claim_cannot_ask_for_a_weaker_sandbox(claim: Path) -> None:
    spec = local_spec(spec_of(claim, {"kind": "c", "isolation": "limits"}), frozenset(), 2)
    assert (spec.isolation, spec.workers) == ("auto", 2)


@pytest.mark.parametrize(
    "verifier",
    [
        {"kind": "c", "compiler": "/home/me/bin/gcc"},
        {"kind": "python", "compiler": "~/python"},
        {"kind": "python", "compiler": "reboot"},
        {"kind": "python", "compiler": "python3-config"},
        {"kind": "rust", "compiler": "shutdown"},
        {"kind": "go", "compiler": "rm"},
        {"kind": "command", "language": "c", "command": ["python3-dbg-something"]},
        {"kind": "command", "language": "c", "command": ["/bin/secret"]},
        {"kind": "command", "language": "c", "command": ["sh"], "files": ["my_passwords.txt"]},
        {"kind": "command", "language": "c", "command": ["sh"], "read_only": ["/etc"]},
        {"kind": "c", "memory_limit_bytes": 1 << 50},
    ],
)
def test_a_claim_cannot_name_files_other_programs_or_all_of_the_memory(claim: Path, verifier: dict[str, Any]) -> None:
    with pytest.raises(ClaimError) as caught:
        local_spec(spec_of(claim, verifier), frozenset(), 1)
    assert "--no-programs" in caught.value.hint


@pytest.mark.parametrize(
    ("kind", "compiler"),
    [
        ("c", "gcc"), ("c", "clang-17"), ("c", "x86_64-w64-mingw32-gcc"), ("cpp", "g++-13"), ("cpp", "clang++"),
        ("rust", "rustc"), ("go", "go"), ("python", "python3"), ("python", "python3.12"), ("python", "pypy3"),
    ],
)  # fmt: skip
def test_usual_compilers_need_not_be_named_again(claim: Path, kind: str, compiler: str) -> None:
    spec = spec_of(claim, {"kind": kind, "compiler": compiler, "stages": ["compile"]})
    assert local_spec(spec, frozenset(), 1).compiler == compiler  # type: ignore[attr-defined]


def test_whoever_rechecks_says_where_tools_are_and_nothing_else(claim: Path) -> None:
    spec = spec_of(claim, {"kind": "c", "compiler": "/home/me/bin/gcc"})
    changed, given = with_settings(spec, ["verifier.compiler=/usr/bin/gcc"])
    assert local_spec(changed, given, 1).compiler == "/usr/bin/gcc"  # type: ignore[attr-defined]
    for setting in ("verifier.timeout_seconds=60", "seed=3", "verifier.files=[a]", "compiler=gcc", "verifier.compiler"):
        with pytest.raises(ClaimError, match="cannot be changed"):
            with_settings(spec, [setting])
    with pytest.raises(ClaimError, match="--set"):
        with_settings(spec, ["verifier.compiler=[1]"])


def test_programs_run_in_the_sandbox_only(tmp_path: Path) -> None:
    """With the real compiler: the claim's program tries to leave a file behind, and its tests are shell and C."""
    escaped = tmp_path / "escaped"
    text = program(f'fail"); fopen("{escaped}", "w"); puts("')
    config = inputs(
        tmp_path / "inputs", answers=lambda name: [text], raft__num_cycles=1, num_prompts=(1, 1, 1),
        verifier__max_error_fraction=1.0, raft__samples_per_prompt=1,
        selection__reward_threshold=0.1, selection__drop_flagged=False,
    )  # fmt: skip
    execute(config, tmp_path / "run")
    found = rechecked(packed(tmp_path / "run"), workers=1)
    assert said(found) == [] and found.num_verified >= 4
    assert not escaped.exists()


def test_prompts_that_are_none(claim: Path, tmp_path: Path) -> None:
    for row in ({"id": "train1"}, {"id": 1, "messages": []}, {"id": "a", "messages": [{"role": "user"}]}, {"x": 1}):
        path = rewritten(claim, {**members(claim), "prompts/dev.jsonl": json.dumps(row).encode() + b"\n"})
        refused(path, "not a prompt", tmp_path)


def test_a_claim_with_the_prompts_of_somebody_else(claim: Path) -> None:
    """The verdicts would be those of other tests."""

    def edit(found: Any) -> None:
        found[0]["tests"]["cases"][0]["stdout"] = "something else"

    found = rechecked(edited(claim, "prompts/dev.jsonl", edit), programs=False)
    assert ("value", "prompts/dev.jsonl", "sha256 of the prompts") in said(found)


@pytest.fixture(scope="module")
def with_packaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A claim whose dev prompts are two of the packaged ones."""
    folder = tmp_path_factory.mktemp("packaged")
    with pytest.MonkeyPatch.context() as monkeypatch:
        verify_programs(monkeypatch)
        config = inputs(folder, raft__num_cycles=1, prompts__dev="builtin:c/dev", prompts__dev_limit=2)
        answers = folder / "answers.jsonl"
        anything = json.dumps({"prompt_id": "*", "answers": [program("pass")]})
        answers.write_text(f"{answers.read_text()}{anything}\n")
        execute(config, folder / "run")
        return packed(folder / "run")


def with_easier_tests(claim: Path, version: str) -> Path:
    """A claim that calls prompts packaged ones, and has other tests for them, with digests that fit."""
    files = members(claim)
    rows = [json.loads(each) for each in files["prompts/dev.jsonl"].splitlines()]
    rows[0]["tests"]["expected"] = ["anything"]
    digest = prompt_digest([Prompt.from_row(row) for row in rows])
    manifest, run = json.loads(files["manifest.json"]), json.loads(files["run.json"])
    manifest["halo_forge_version"] = version
    manifest["prompts"]["dev"]["sha256"] = run["prompts"]["dev"] = digest
    files |= {"manifest.json": json.dumps(manifest).encode(), "run.json": json.dumps(run).encode()}
    return rewritten(claim, {**files, "prompts/dev.jsonl": b"".join(json.dumps(row).encode() + b"\n" for row in rows)})


def test_packaged_prompts_with_other_tests_are_not_taken_for_packaged_ones(
    with_packaged: Path, verifiers: Verifiers
) -> None:
    what = "that the prompts of dev are builtin:c/dev"
    assert rechecked(with_packaged, programs=False).is_confirmed
    found = rechecked(with_easier_tests(with_packaged, halo_forge.__version__), programs=False)
    assert said(found) == [("value", "prompts/dev.jsonl", what)]
    found = rechecked(with_easier_tests(with_packaged, "0.0.1"), programs=False)
    assert [each.why for each in found.findings.not_checked if each.what == what] == [
        "they are not those of this halo-forge, and halo-forge 0.0.1 packed the claim"
    ]


def test_a_claim_cannot_hide_programs_by_leaving_out_packaged_prompts(
    with_packaged: Path, verifiers: Verifiers
) -> None:
    files = members(with_packaged)
    manifest = json.loads(files["manifest.json"])
    manifest["prompts"]["dev"]["packed"] = False
    ids = [json.loads(each)["id"] for each in files["prompts/dev.jsonl"].splitlines()]
    stubs = b"".join(json.dumps({"id": each, "info": {}}).encode() + b"\n" for each in ids)
    files |= {"manifest.json": json.dumps(manifest).encode(), "prompts/dev.jsonl": stubs}
    found = rechecked(rewritten(with_packaged, files))
    assert found.is_confirmed and found.num_verified == rechecked(with_packaged).num_verified


@pytest.mark.parametrize(
    ("file", "keys"),
    [("config.json", ("evaluation", "samples_per_prompt")), ("cycles/001/sampling.json", ("samples_per_prompt",))],
)
def test_more_samples_than_there_are_rows_are_a_difference_and_not_a_long_wait(
    claim: Path, file: str, keys: tuple[str, ...]
) -> None:
    def edit(found: Any) -> None:
        for key in keys[:-1]:
            found = found[key]
        found[keys[-1]] = 10**12

    found = rechecked(edited(claim, file, edit), programs=False)
    what = f"{'.'.join(keys)}: asks for more samples than the claim has rows"
    assert ("row", file, what) in said(found)


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_another_compression(claim: Path, tmp_path: Path, method: int) -> None:
    """Their decompressors need other limits, and raise errors of their own."""
    path = tmp_path / "other.claim.zip"
    with zipfile.ZipFile(path, "w", method) as written:
        for name, content in members(claim).items():
            written.writestr(name, content)
    refused(path, "compressed as no claim is", tmp_path)


def test_nothing_is_unpickled_or_imported() -> None:
    folder = Path(archive.__file__).parent
    text = "".join(path.read_text() for path in folder.glob("*.py"))
    for word in ("pickle.", "import pickle", "eval(", "exec(", "importlib", "yaml.load", "torch.load", "extractall"):
        assert word not in text, word


def test_any_byte_of_an_untouched_claim_may_be_wrong_without_a_traceback(claim: Path, tmp_path: Path) -> None:
    data = claim.read_bytes()
    path = tmp_path / "garbled.claim.zip"
    for at in range(0, len(data), len(data) // 60):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :])
        try:
            rechecked(path, programs=False)
        except ClaimError as error:
            assert error.hint


@examples(60)
@given(data=st.data())
def test_any_value_may_be_another_one_without_a_traceback(made: Path, data: st.DataObject) -> None:
    """In a claim whose manifest is right about the damaged files: it is confirmed, differs, or is refused."""
    files = members(made)
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as monkeypatch:
        verify_programs(monkeypatch)
        folder = Path(name)
        for member, content in files.items():
            (folder / member).parent.mkdir(parents=True, exist_ok=True)
            (folder / member).write_bytes(content)
        damage(data, folder)
        left = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        is_whole = left.get("manifest.json") == files["manifest.json"]
        try:
            rechecked(rewritten(made, left, forged=is_whole))
        except ClaimError as error:
            assert error.hint
