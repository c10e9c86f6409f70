"""Whatever a configuration file or an override holds: it is loaded, or refused with an explanation and a fix.

More examples: HALO_FORGE_TEST_EXAMPLES=10000 (docs/testing.md).
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from examples import VARIABLE, examples
from hypothesis import given
from hypothesis import strategies as st

from halo_forge.config import RaftConfig, load_config, resolved
from halo_forge.config.names import all_keys
from halo_forge.core.errors import ConfigError

BASE = {"model": {"model_name_or_path": "owner/name"}, "output_dir": "run"}
ODD = (
    "", "null", "x", "''", "' '", "1e400", "-1e400", ".nan", ".inf", "-.inf", "9" * 5000, "9" * 400, "9" * 30, "1e30",
    "0x" + "F" * 5000, "-1", "0", "-0.0", "3.0", "1e3", "9007199254740993.0", "true", "on", "no", "1:30", "0o17", "010",
    "2026-01-02", "[]", "{}", "[[]]", "[null]", "[1, x]", "{a: 1}", "{kind: x}", "{kind: null}", "{kind: []}",
    "{kind: {kind: linear}}", "[1e30]", '"\\0"', '"\\ud800"', "~", "~nobody/x", "$HOME/x", "${X}",
    "'" + "x" * 5000 + "'",
    "\U0001f600", "{cycle_1: 1, cycle_1000000000: 2}", "{cycle_1: 1, cycle_0: 2}", "{cycle_99999999999999999999: 1}",
    "{cycle_²: 1}", "{kind: linear, base: 1e308, final: 1e308}", "{kind: manual, values: []}", "*a", "&a [*a]", "<<",
    "{kind: exponential, base: 1e308, decay: 1}", "!!binary x", "- a", "a: b: c", "'open", "[" * 60 + "]" * 60,
)  # fmt: skip


EVERY = 4 if VARIABLE not in os.environ else 1
"""Each key gets every fourth odd value, the next key the others; all by hand."""


def attempt(source: Any, overrides: Any = ()) -> RaftConfig | None:
    """The configuration, if there is one; a refusal has to say what is wrong and what fixes it."""
    try:
        config = load_config(source, overrides).config
    except ConfigError as error:
        assert error.message and error.hint
        assert len(error.message) < 6_000, "a message is read by a person"
        return None
    assert RaftConfig.model_validate(resolved(config)) == config
    return config


def test_any_odd_value_of_any_key() -> None:
    accepted = 0
    tried = [(key, value) for at, key in enumerate(all_keys()) for value in ODD[at % EVERY :: EVERY]]
    for key, value in tried:
        started = time.process_time()
        accepted += attempt(BASE, [f"{key}={value}"]) is not None
        assert time.process_time() - started < 2.0, (key, value[:50])
    assert 0.02 < accepted / len(tried) < 0.5


def test_any_key_that_is_misspelt() -> None:
    for key in all_keys():
        for wrong in (key + "s", key.upper(), key.replace("_", "-") + "-", key + ".x.y", "." + key):
            assert attempt(BASE, [f"{wrong}=1"]) is None, wrong


values = st.one_of(
    st.sampled_from(ODD),
    st.integers().map(str),
    st.floats().map(str),
    st.text(max_size=30),
    st.sampled_from(["auto", "none", "pass", "linear", "builtin:c/train", "a/b", "1e-4", "[1, 2]", "{kind: linear}"]),
)
keys = st.one_of(st.sampled_from(all_keys()), st.text(max_size=20), st.sampled_from(["a.b.c", "raft", "training."]))


@examples(150)
@given(st.lists(st.one_of(st.text(max_size=40), st.builds("{}={}".format, keys, values)), max_size=4))
def test_any_overrides(overrides: list[str]) -> None:
    attempt(BASE, overrides)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.binary(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["kind", "base", "values", "cycle_1", "phases", "1"]), inner, max_size=3)
        | st.tuples(inner)
    ),
    max_leaves=5,
)
names = st.sampled_from(sorted({part for key in all_keys() for part in key.split(".")} | {"extends", "zzz", ""}))


@examples(150)
@given(st.dictionaries(names | st.integers(), plain | st.dictionaries(names, plain, max_size=4), max_size=4))
def test_any_mapping(data: dict[Any, Any]) -> None:
    attempt({**BASE, **data})


TEXTS = [
    (Path(__file__).parents[2] / name).read_text(encoding="utf-8").splitlines(keepends=True)
    for name in (
        "configs/quickstart.yaml",
        "configs/experimental/raft_constant_lr.yaml",
        "configs/recipes/qwen2.5-coder-7b.yaml",
    )
]
PIECES = st.one_of(
    st.binary(max_size=12),
    st.sampled_from(
        [
            b"\t", b"\r", b"\0", b"\xef\xbb\xbf", b"\xff\xfe", b"caf\xe9", b"---\n", b"...\n", b"- ", b"? ", b": ",
            b"<<: *a\n", b"&a ", b"*a ", b"!!int ", b"!!python/object:os.system ", b"| ", b"> ", b"{", b"}", b"[", b"]",
            b"'", b'"', b"#", b"1e400", b"%YAML 1.1\n", b"extends: quickstart.yaml\n", b"extends: .\n", b"seed: 1\n",
            b"\xe2\x80\xa8", b"\n",
        ]
    ),
)  # fmt: skip


@st.composite
def changed_files(draw: st.DrawFn) -> bytes:
    """A real configuration in which lines are lost, doubled or exchanged, and odd bytes stand anywhere."""
    lines = [line.encode() for line in draw(st.sampled_from(TEXTS))]
    for _ in range(draw(st.integers(0, 3))):
        at, other = (draw(st.integers(0, len(lines) - 1)) for _ in range(2))
        how = draw(st.sampled_from(["lose", "double", "exchange", "indent"]))
        if how == "lose" and len(lines) > 1:
            del lines[at]
        elif how == "double":
            lines.insert(other, lines[at])
        elif how == "exchange":
            lines[at], lines[other] = lines[other], lines[at]
        else:
            lines[at] = b"  " + lines[at]
    content = b"".join(lines)
    for piece in draw(st.lists(PIECES, max_size=3)):
        at = draw(st.integers(0, len(content)))
        content = content[:at] + piece + content[at:]
    return content.replace(b"\n", b"\r\n") if draw(st.booleans()) else content


@examples(150)
@given(changed_files() | st.binary(max_size=200))
def test_any_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    attempt(path)


def test_the_shipped_files_survive_windows_line_ends_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    for lines in TEXTS:
        text = "".join(lines)
        path.write_text(text, encoding="utf-8")
        plainly = attempt(path)
        path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
        assert plainly is not None and attempt(path) == plainly


@pytest.mark.parametrize("name", ["loop.yaml", "folder", "folder/", "file/x.yaml", "none.yaml", "x" * 5000, "a\0b", ""])
def test_any_path_that_holds_no_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("loop.yaml").symlink_to("loop.yaml")
    Path("folder").mkdir()
    Path("file").write_text("")
    assert attempt(name) is None
