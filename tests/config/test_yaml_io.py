"""YAML files: numbers, places of values, `extends:`, `--set`, and every way in which a file can be wrong."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halo_forge.config import load_config
from halo_forge.config.yaml_io import apply_overrides, dump, leaves, load_document, parse_value
from halo_forge.core.errors import ConfigError


def write(folder: Path, text: str | bytes, name: str = "run.yaml") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def refused(call: object, *arguments: object) -> str:
    with pytest.raises(ConfigError) as caught:
        call(*arguments)  # type: ignore[operator]
    assert caught.value.hint
    assert caught.value.exit_code == 2
    return caught.value.message


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-5", 5e-5),
        ("5E-05", 5e-5),
        ("1e3", 1000.0),
        (".5e-3", 0.0005),
        ("-1.5", -1.5),
        ("+.5", 0.5),
        ("1.", 1.0),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("0", 0),
        ("-7", -7),
        ("010", 10),
        ("0o17", 15),
        ("0x1F", 31),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("on", "on"),
        ("off", "off"),
        ("yes", "yes"),
        ("no", "no"),
        ("y", "y"),
        ("1:30", "1:30"),
        ("2026-01-02", "2026-01-02"),
        ("1_000", "1_000"),
        ("5e", "5e"),
        ("e5", "e5"),
        ("'5e-5'", "5e-5"),
        ('"true"', "true"),
        ("!!str 5", "5"),
        ("!!float 5", 5.0),
        ("[1, 5e-5, x]", [1, 5e-5, "x"]),
        ("{kind: cosine, base: 1e-4}", {"kind": "cosine", "base": 1e-4}),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    found = parse_value(text, "here")
    assert found == value
    assert type(found) is type(value)


def test_nan_is_a_float() -> None:
    assert math.isnan(parse_value(".nan", "here"))


def test_lines_of_keys_items_and_sections(tmp_path: Path) -> None:
    path = write(tmp_path, "# comment\na:\n  b: 1\n  c:\n    - x\n    - {d: 2}\n\ne: 3\n")
    document = load_document(path)
    assert document.data == {"a": {"b": 1, "c": ["x", {"d": 2}]}, "e": 3}
    assert document.lines == {
        (): 2,
        ("a",): 2,
        ("a", "b"): 3,
        ("a", "c"): 4,
        ("a", "c", 0): 5,
        ("a", "c", 1): 6,
        ("a", "c", 1, "d"): 6,
        ("e",): 8,
    }
    assert document.where(("a", "b")) == f"{path}:3"
    assert document.where(("a", "missing", "deeper")) == f"{path}:2"
    assert document.where(("missing",)) == str(path)
    assert document.text == path.read_text()


def test_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    document = load_document(write(tmp_path, b"\xef\xbb\xbfa: 1\r\nb: 5e-5\r\n"))
    assert document.data == {"a": 1, "b": 5e-5}
    assert document.lines[("b",)] == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("# only a comment\n", "the file is empty"),
        ("- a\n- b\n", ":1: the top level is a list"),
        ("\n5e-5\n", ":2: the top level is a plain value"),
        ("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\n", ":5: b.c: given twice, first on line 3"),
        ("a: {b: 1, b: 2}\n", ":1: a.b: given twice, first on line 1"),
        ("a: 1\nb: [1, 2\nc: 3\n", ":3:2: not valid YAML"),
        ("a: 1\n\tb: 2\n", ":2:1: not valid YAML"),
        ("a: 1\n b: 2\n", ":2:3: not valid YAML"),
        ("a: b: c\n", ":1:5: not valid YAML"),
        ("a: 'open\n", ":2:1: not valid YAML"),
        ("a: 1\n---\nb: 2\n", ":2:1: not valid YAML"),
        ("a: 1\nb: x\x07y\n", ":2:5: character U+0007"),
        ("a: *nowhere\n", ":1:4: not valid YAML"),
        ("1: x\n", ":1: key 1: keys must be text"),
        ("true: x\n", ":1: key true: keys must be text"),
        ("? [a]\n: x\n", "keys must be text"),
        ("a: &a {x: 1}\nb:\n  <<: *a\n", ":3: `<<` is not part of YAML 1.2"),
        ("a: !!python/object:os.system x\n", ":1: tag:yaml.org,2002:python/object:os.system 'x' is not allowed"),
        ("a: !!int 1.5\n", "'1.5' is not allowed"),
        ("a: &a [*a]\n", ":1: the aliases (*name) expand endlessly"),
        ("a: " + "[" * 20_000 + "\n", "nested too deeply"),
        ("a: 1\nb: -1e400\n", ":2: -1e400 is too large for a number"),
        ("a: " + "9" * 5000 + "\n", ":1: 99999999999999999999... has 5000 digits, allowed: at most 300"),
    ],
)
def test_bad_files_name_the_place(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    found = refused(load_document, path)
    assert found.startswith(str(path))
    assert message in found


def test_alias_bomb_is_refused_quickly(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    assert "expand endlessly" in refused(load_document, write(tmp_path, "\n".join(lines)))


def test_aliases_repeat_a_value(tmp_path: Path) -> None:
    document = load_document(write(tmp_path, "a: &lr {kind: constant}\nb: *lr\n"))
    assert document.data == {"a": {"kind": "constant"}, "b": {"kind": "constant"}}
    assert document.lines[("b",)] == 2


def test_not_utf8_names_the_line(tmp_path: Path) -> None:
    assert ":2: byte 0xe9 is not UTF-8" in refused(load_document, write(tmp_path, b"a: 1\nb: caf\xe9\n"))


def test_missing_file_folder_and_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no such file" in refused(load_document, tmp_path / "none.yaml")
    assert "is a folder" in refused(load_document, tmp_path)
    path = write(tmp_path, "a: 1\n")

    def denied(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", denied)  # chmod does not stop root, who runs tests in containers
    assert "cannot be read: Permission denied" in refused(load_document, path)


# ---- extends


def test_extends_merges_mappings_and_replaces_the_rest(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    base = write(tmp_path, "a:\n  b: 1\n  c: [1, 2]\n  d: {x: 1}\nseed: 3\n", "base.yaml")
    child = write(tmp_path, "extends: ../base.yaml\na:\n  c: [9]\n  d: 5\n  e: new\n", "inner/child.yaml")
    document = load_document(child)
    assert document.data == {"a": {"b": 1, "c": [9], "d": 5, "e": "new"}, "seed": 3}
    shown = tmp_path / "inner" / ".." / "base.yaml"
    assert shown.resolve() == base
    assert document.where(("a", "b")) == f"{shown}:2"
    assert document.where(("a", "c")) == f"{child}:3"
    assert document.where(("a", "c", 0)) == f"{child}:3"
    assert document.where(("a", "d", "x")) == f"{child}:4"
    assert document.where(("a", "new")) == f"{child}:2"
    assert document.where(("seed",)) == f"{shown}:5"
    assert document.text == child.read_text()


def test_extends_with_another_kind_replaces_the_section(tmp_path: Path) -> None:
    write(tmp_path, "t:\n  lr: {kind: exponential, base: 1, decay: 0.5}\n  n: 1\n", "base.yaml")
    other = write(tmp_path, "extends: base.yaml\nt: {lr: {kind: constant, value: 2}}\n", "other.yaml")
    same = write(tmp_path, "extends: base.yaml\nt: {lr: {kind: exponential, base: 2}}\n", "same.yaml")
    none = write(tmp_path, "extends: base.yaml\nt: {lr: {base: 2}}\n", "none.yaml")
    assert load_document(other).data == {"t": {"lr": {"kind": "constant", "value": 2}, "n": 1}}
    expected = {"t": {"lr": {"kind": "exponential", "base": 2, "decay": 0.5}, "n": 1}}
    assert load_document(same).data == load_document(none).data == expected


def test_extends_errors_name_both_files(tmp_path: Path) -> None:
    child = write(tmp_path, "# x\nextends: base.yaml\n", "child.yaml")
    assert f"{child}:2: extends base.yaml: {tmp_path / 'base.yaml'}: no such file" in refused(load_document, child)
    write(tmp_path, "a: 1\na: 2\n", "base.yaml")
    message = refused(load_document, child)
    assert f"{child}:2: extends base.yaml" in message
    assert f"{tmp_path / 'base.yaml'}:2: a: given twice" in message
    write(tmp_path, "extends: third.yaml\n", "base.yaml")
    message = refused(load_document, child)
    assert "which itself extends third.yaml" in message
    assert f"{tmp_path / 'base.yaml'}:1" in message


@pytest.mark.parametrize("value", ["5", "[a.yaml, b.yaml]", "''", "null"])
def test_extends_takes_one_path(tmp_path: Path, value: str) -> None:
    assert "allowed: the path of one file" in refused(load_document, write(tmp_path, f"extends: {value}\n"))


# ---- --set


@pytest.mark.parametrize(
    ("override", "data"),
    [
        ("a.b=5e-5", {"a": {"b": 5e-5, "c": "x"}, "n": None}),
        ("a.c=", {"a": {"b": 1, "c": None}, "n": None}),
        ("a.c=x=y", {"a": {"b": 1, "c": "x=y"}, "n": None}),
        ("a.c=[1, 2]", {"a": {"b": 1, "c": [1, 2]}, "n": None}),
        ("a={z: 1}", {"a": {"z": 1}, "n": None}),
        ("new.deep.key=false", {"a": {"b": 1, "c": "x"}, "n": None, "new": {"deep": {"key": False}}}),
        ("n.key=0", {"a": {"b": 1, "c": "x"}, "n": {"key": 0}}),
        (" a . b = 2", {"a": {"b": 2, "c": "x"}, "n": None}),
    ],
)
def test_set(tmp_path: Path, override: str, data: object) -> None:
    document = load_document(write(tmp_path, "a: {b: 1, c: x}\nn:\n"))
    changed = apply_overrides(document, [override])
    assert changed.data == data
    assert document.data == {"a": {"b": 1, "c": "x"}, "n": None}


def test_set_places_and_order(tmp_path: Path) -> None:
    document = load_document(write(tmp_path, "a:\n  b: 1\n  c: {d: 1}\n"))
    changed = apply_overrides(document, ["a.b=2", "a.b=3", "a.c={d: 5}"])
    assert changed.data == {"a": {"b": 3, "c": {"d": 5}}}
    assert changed.where(("a", "b")) == "--set a.b=3"
    assert changed.where(("a", "c", "d")) == "--set a.c={d: 5}"
    assert changed.where(("a",)) == f"{document.path}:1"


def test_set_kind_drops_the_keys_of_the_old_kind(tmp_path: Path) -> None:
    document = load_document(write(tmp_path, "s: {kind: one, old: 1}\nt: {kind: one, old: 1}\n"))
    changed = apply_overrides(document, ["s.mine=2", "s.kind=two", "t.kind=one"])
    assert changed.data == {"s": {"kind": "two", "mine": 2}, "t": {"kind": "one", "old": 1}}
    assert changed.where(("s", "old")) == f"{document.path}:1"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("a.b", "--set a.b: allowed: key=value"),
        ("=5", "allowed: key=value"),
        ("a..b=5", "allowed: key=value"),
        ("a.b=[1", "--set a.b=[1:1:3: not valid YAML"),
        ("a.b={x: 1, x: 2}", "x: given twice"),
        ("a.b.c=5", "a.b is 1 (FILE:2), not a section"),
        ("l.0=5", "l is [1] (FILE:3), not a section"),
    ],
)
def test_bad_set(tmp_path: Path, override: str, message: str) -> None:
    document = load_document(write(tmp_path, "a:\n  b: 1\nl: [1]\n"))
    assert message.replace("FILE", str(document.path)) in refused(apply_overrides, document, [override])


# ---- dump

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20)
awkward = st.sampled_from(["5e-5", "1e3", "yes", "null", "", "~", "<<", "=", "0o17", "010", "1:30", "- a", "a: b", "#"])
keys = st.text(max_size=8) | awkward
values = st.recursive(
    scalars | awkward,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(keys, values, min_size=1, max_size=4))
def test_dump_loads_back_equal(tmp_path_factory: pytest.TempPathFactory, data: dict[str, object]) -> None:
    path = write(tmp_path_factory.mktemp("dump"), dump(data))
    found = load_document(path).data if "extends" not in data else data
    assert found == data
    assert [type(value) for _, value in leaves(found)] == [type(value) for _, value in leaves(data)]


def test_dump_is_readable_by_yaml_1_1() -> None:
    import yaml

    data = {"learning_rate": 5e-05, "text": "5e-5", "answer": "no", "big": 1e22, "shared": [[1], [1]]}
    assert yaml.safe_load(dump(data)) == data


def test_dump_keeps_order_and_repeats_shared_values() -> None:
    shared = {"x": 1}
    assert dump({"b": shared, "a": shared}) == "b:\n  x: 1\na:\n  x: 1\n"


def test_a_section_that_an_override_made_is_where_the_override_is(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("model: {model_name_or_path: a/b}\nraft:\n  num_cycles: 3\n")
    with pytest.raises(ConfigError, match=r"^--set raft\.sampling\.kind=foo: raft\.sampling: found"):
        load_config(path, ["raft.sampling.kind=foo"])
