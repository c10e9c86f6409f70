"""Results of numeric libraries compare in the tests as they do in one process."""

from __future__ import annotations

import decimal
import fractions
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from python_answers import prompt, spec, verdicts

from halo_forge.core.errors import ToolMissing
from halo_forge.verifiers.python.driver import wire
from halo_forge.verifiers.verifier import ThreadedVerifier

numpy = pytest.importorskip("numpy")


@pytest.fixture(scope="module")
def verifier() -> Iterator[ThreadedVerifier]:
    settings = spec(compiler=sys.executable, packages=True, timeout_seconds=5.0, memory_limit_bytes=512 * 1024 * 1024)
    try:
        opened = ThreadedVerifier(settings).__enter__()
    except ToolMissing as error:
        pytest.skip(f"programs cannot use this interpreter's packages: {error.message[:200]}")
    yield opened
    opened.close()


def back(value: Any) -> Any:
    return wire.decode(wire.encode(value, repr), repr)


VALUES = [
    numpy.int64(6),
    numpy.uint8(200),
    numpy.bool_(True),
    numpy.float64(0.1),
    numpy.float32(0.1),
    numpy.float16(0.5),
    numpy.complex64(0.1 + 1j),
    numpy.complex128(0.1),
    numpy.str_("a"),
    numpy.float32("nan"),
    numpy.float64("inf"),
    numpy.longdouble(0.5),
    decimal.Decimal("0.10"),
    fractions.Fraction(1, 3),
    True,
    0,
    1.0,
]
OTHERS = [
    6,
    200,
    1,
    True,
    0.1,
    0.5,
    0.1 + 1j,
    "a",
    float("inf"),
    decimal.Decimal("0.1"),
    fractions.Fraction(1, 3),
    None,
    0,
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: f"{type(value).__name__}({value})")
def test_a_number_equals_what_it_equals_in_one_process(value: Any) -> None:
    found = back([value])[0]
    for other in OTHERS:
        assert bool(found == other) is bool(value == other), (value, other)
        assert bool(found != other) is bool(value != other), (value, other)
    assert bool(found) is bool(value) and repr(back({"x": (value,)})["x"][0]) == repr(found)


def test_an_array_arrives_as_the_array() -> None:
    for value in (
        numpy.array([[1, 2], [3, 4]], dtype=numpy.int16),
        numpy.array([0.1, numpy.nan]),
        numpy.zeros((0, 3)),
        numpy.array(5),
        numpy.array([True]),
        numpy.array([1 + 2j], dtype=numpy.complex64),
    ):
        found = back(value)
        assert type(found) is numpy.ndarray and found.dtype == value.dtype and found.shape == value.shape
        assert numpy.array_equal(found, value, equal_nan=True)
    for other in (numpy.array(["a"]), numpy.array([object()]), numpy.array(["2024-01-01"], dtype="datetime64[D]")):
        assert type(back(other)) is str  # an object of the program


def test_an_array_of_strangers_is_an_error_of_the_wire() -> None:
    good = wire.encode(numpy.array([1.0, 2.0]), repr)
    wire.decode(good, repr)
    for bad in (
        good.replace(b"float64", b"object_"),
        good.replace(b"float64", b"float99"),
        wire.encode(numpy.array([1, 2]), repr).replace(b"i\0\0\0\1\2", b"s\0\0\0\1\2"),
        wire.encode(numpy.zeros((2, 1)), repr).replace(b"i\0\0\0\1\2", b"i\0\0\0\1\3"),
    ):
        with pytest.raises(wire.WireError):
            wire.decode(bad, repr)


def test_programs_that_use_numpy(verifier: ThreadedVerifier) -> None:
    tests = {
        "kind": "asserts",
        "setup": "import numpy as np",
        "tests": [
            "assert total([1, 2, 3]) == 6",
            "assert total([0.1, 0.2]) == 0.1 + 0.2 and isinstance(total([0.5]), float)",
            "assert is_even(4) == True and is_even(3) == False and not is_even(5)",
            "assert single(0.1) == np.float32(0.1) and abs(single(0.1) - 0.1) < 1e-6",
            "assert (double(np.array([1, 2])) == np.array([2, 4])).all()",
            "assert list(double(np.array([1, 2]))) == [2, 4] and double(np.array([1, 2])).tolist() == [2, 4]",
            "np.testing.assert_allclose(double(np.array([0.1])), [0.2])",
            "a = np.array([3, 1, 2])\nassert sort(a) is None and list(a) == [1, 2, 3]",
            "assert {total([1]): [is_even(2)]} == {1: [True]}",
        ],
    }
    code = (
        "import numpy as np\n"
        "def total(x): return np.sum(np.array(x))\n"
        "def is_even(n): return np.int64(n) % 2 == 0\n"
        "def single(x): return np.float32(x)\n"
        "def double(x): return 2 * x\n"
        "def sort(x): x.sort()\n"
    )
    verifier.check_prompts([prompt(tests)])
    (found,) = verdicts(verifier, tests, code)
    assert found.passed, found.diagnostics


def test_an_empty_result_is_close_to_nothing(verifier: ThreadedVerifier) -> None:
    tests = {
        "kind": "asserts",
        "setup": "import numpy as np",
        "tests": [
            "assert np.allclose(f(), 0.5)",
            "np.testing.assert_allclose(f(), 0.5)",
            "from numpy.testing import assert_array_almost_equal\nassert_array_almost_equal(f(), 0.5)",
        ],
    }
    half, plain, array, lying = verdicts(
        verifier,
        tests,
        "def f(): return 0.5",
        "def f(): return []",
        "import numpy\ndef f(): return numpy.array([])",
        "class E:\n    __len__ = lambda self: 0\n    def __getitem__(self, i): raise IndexError\ndef f(): return E()",
    )
    assert half.passed, half.diagnostics
    assert [each.tests_passed for each in (plain, array, lying)] == [0, 0, 0]
