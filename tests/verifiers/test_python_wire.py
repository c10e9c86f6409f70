"""Plain values there and back, and what strangers may send."""

from __future__ import annotations

import collections
import datetime
import decimal
import enum
import fractions
import math
import os
import random
import sys
from typing import Any

import pytest

from halo_forge.verifiers.python.driver import wire
from halo_forge.verifiers.python.driver.candidate import parse


class Liar(int):
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = int.__hash__

    def __index__(self) -> int:
        return 99


class Word(str):
    def __str__(self) -> str:
        return "lie"


class Triple(tuple):  # type: ignore[type-arg]
    _fields = ("a", "b", "c")


class Colour(enum.IntEnum):
    RED = 3


def back(value: Any) -> Any:
    return wire.decode(wire.encode(value, refuse), refuse)


def refuse(value: Any) -> Any:
    raise AssertionError(f"{value!r} is foreign")


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        -1,
        127,
        128,
        -128,
        -129,
        2**63,
        -(10**5000),
        0.1,
        -0.0,
        float("inf"),
        2j,
        "",
        "é\ud800\0",
        b"\xff",
        bytearray(b"a"),
        [1, [2.0, (3, "x")], {}],
        {"a": {1, 2}, (1, 2): frozenset({3})},
        range(3, 9, 2),
        ...,
        decimal.Decimal("1.10"),
        fractions.Fraction(1, 3),
        datetime.date(2024, 2, 29),
        datetime.datetime(2024, 2, 29, 1, 2, 3, 4),
        datetime.time(1, 2),
        datetime.timedelta(days=-1, seconds=2, microseconds=3),
        collections.deque([1, (2, "x")]),
    ],
    ids=lambda value: repr(value)[:30] if not isinstance(value, int) else str(value % 10**6),
)
def test_a_value_comes_back_as_itself(value: Any) -> None:
    found = back(value)
    assert type(found) is type(value) and found == value
    if isinstance(value, float):
        assert math.copysign(1, found) == math.copysign(1, value)


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Liar(7), 7),
        (Word("truth"), "truth"),
        (Colour.RED, 3),
        (collections.Counter("aab"), {"a": 2, "b": 1}),
        (collections.OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (Triple((1, 2)), (1, 2)),
        ([Liar(7)], [7]),
    ],
)
def test_a_subclass_arrives_as_what_is_underneath(value: Any, plain: Any) -> None:
    found = back(value)
    assert type(found) is type(plain) and repr(found) == repr(plain)


def test_a_named_tuple_keeps_its_names_and_is_compared_as_a_tuple() -> None:
    class Liar(collections.namedtuple("Pair", "a b")):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = tuple.__hash__

    found = back([Liar(1, (2,))])[0]
    assert (found.a, found.b, found._fields) == (1, (2,), ("a", "b"))
    assert found == (1, (2,)) and found != (1, 3) and repr(found) == "Liar(a=1, b=(2,))"


def test_names_of_a_named_tuple_that_strangers_send_define_no_method() -> None:
    class Forged(tuple):  # type: ignore[type-arg]
        _fields = ("__eq__", "b")

    assert back(Forged((1, 2)))._fields == ("_0", "b")
    Forged._fields = ("b", "x=print(1)")
    assert back(Forged((1, 2)))._fields == ("b", "_1")


def test_what_has_no_plain_form_is_marked() -> None:
    function = len
    content = wire.encode([function, 1], lambda value: ("number", value.__name__))
    assert wire.decode(content, lambda plain: {"foreign": plain}) == [{"foreign": ("number", "len")}, 1]


def test_too_deep_or_too_large_is_refused() -> None:
    deep: list[Any] = []
    for _ in range(2 * sys.getrecursionlimit()):
        deep = [deep]
    with pytest.raises(wire.WireError, match="deeply"):
        wire.encode(deep, refuse)
    with pytest.raises(wire.WireError, match="large: at most 16 MiB pass between a program and its tests"):
        wire.encode(b"x" * (wire.MAX_BYTES + 1), refuse)
    with pytest.raises(wire.WireError):
        wire.decode(b"l\0\0\0\1" * 100_000, refuse)


def test_any_bytes_are_a_value_or_an_error_of_the_wire() -> None:
    rng = random.Random(0)
    good = wire.encode([1, "a", {"k": (1.5, None)}, {2}, decimal.Decimal(1), range(3), bytearray(b"x")], refuse)
    for _ in range(5000):
        content = bytearray(good if rng.random() < 0.8 else rng.randbytes(30))
        for _ in range(rng.randrange(1, 4)):
            content[rng.randrange(len(content))] = rng.choice(b"NTFifsbactdSZrxo\0\1\xff")
        try:
            wire.decode(bytes(content[: rng.randrange(1, len(content) + 1)]), lambda plain: plain)
        except wire.WireError:
            continue


def test_messages_are_cut_where_they_end() -> None:
    reader, writer = os.pipe()
    wire.send(writer, b"one")
    wire.send(writer, b"")
    os.write(writer, b"\xff\xff\xff\xff")
    assert (wire.receive(reader), wire.receive(reader)) == (b"one", b"")
    with pytest.raises(wire.WireError):
        wire.receive(reader)
    os.close(writer)
    with pytest.raises(EOFError):
        wire.receive(reader)
    os.close(reader)
    assert wire.messages(b"\0\0\0\1a\0\0\0\0\0\0\0\5abc") == [b"a", b""]


@pytest.mark.parametrize(
    ("source", "head", "note", "continues"),
    [
        ("def f(): return 1", "", "", False),
        ("if 1:\n    def f(): pass\nelse:\n    f = 3", "", "", False),
        ("from m import g as f", "", "", False),
        ("from m import *", "", "", False),
        ("a, (f, *b) = 1, (2, 3)", "", "", False),
        ("class f: pass", "", "", False),
        ("def g():\n    def f(): pass", "", "the program does not define the function `f`", False),
        ("f()", "", "the program does not define the function `f`", False),
        ("", "def f():\n    '''Doc.'''\n", "the program does not define the function `f`", False),
        ("def f(:", "", "answer.py:1: SyntaxError: ", False),
        ("    return 1\n", "def f():\n", "", True),
        ("\n    # so\n    return 1\n", "def f():\n", "", True),
        ("    return 1\n", "", "answer.py:1: IndentationError: unexpected indent", False),
        ("    return (\n", "def f():\n", "answer.py:2: SyntaxError: ", True),
        ("x = '\0'", "", "", False),
    ],
)
def test_parsing_tells_what_is_bound(source: str, head: str, note: str, continues: bool) -> None:
    code, _, found, together = parse(source, head, "f")
    if "\0" in source:
        assert code is None and "null" in found
        return
    assert (code is None) == bool(note)
    assert found.startswith(note) and together is continues


def test_parsing_counts_warnings_once_and_runs_nothing() -> None:
    code, num_warnings, note, _ = parse("x = '\\d'\ny = 1 is 1\nraise SystemExit", "", None)
    assert code is not None and num_warnings == 2 and note == ""
