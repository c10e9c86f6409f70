"""Modules that tests import and that the interpreter may lack, as far as tests of plain values need them."""

from __future__ import annotations

import importlib
import sys

from halo_forge.verifiers.python.driver.remote import Remote

TYPE_CHECKING = False  # the module `typing` takes 10 ms to import
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType
    from typing import Any

_RELATIVE, _ABSOLUTE = 1e-6, 1e-12
_COMPARE_ARRAYS = ("assert_allclose", "assert_almost_equal", "assert_array_almost_equal", "assert_array_equal")


def install(names: list[str]) -> None:
    """Make the modules `names` importable, and keep those that exist from acting on their own.

    `pytest` is always ours: its plugins and its command line have no place here.  `numpy` is ours where the interpreter
    has none.
    """
    if "pytest" in names:
        sys.modules["pytest"] = _module("pytest", _PYTEST)
    if "unittest" in names:
        import unittest

        unittest.main = lambda *args, **kwargs: None  # type: ignore[assignment]
    if "numpy" in names:
        try:
            numpy = importlib.import_module("numpy")  # the interpreter's own, if `packages` are let in
        except ImportError:
            sys.modules["numpy.testing"] = testing = _module("numpy.testing", _NUMPY_TESTING)
            sys.modules["numpy"] = _module("numpy", {**_NUMPY, "testing": testing})
        else:
            _refuse_empty(numpy)


def _module(name: str, content: dict[str, Any]) -> ModuleType:
    module = type(sys)(name)
    module.__dict__.update(content)
    return module


# ---- pytest


class _Raises:
    """`with raises(...) as it`: afterwards `it` has `type` and `value`."""

    def __init__(self, expected: Any, match: str | None) -> None:
        self._expected = expected if type(expected) is tuple else (expected,)
        for kind in self._expected:
            if not isinstance(kind, type) or not issubclass(kind, BaseException):
                raise TypeError("raises() takes builtin exception classes: those of the program are in another process")
        self._match = match
        self.type: Any = None
        self.value: Any = None

    def __enter__(self) -> _Raises:
        return self

    def __exit__(self, kind: Any, value: Any, trace: Any) -> bool:
        if kind is None:
            raise AssertionError("DID NOT RAISE " + " or ".join(each.__name__ for each in self._expected))
        if not issubclass(kind, self._expected):
            return False
        self.type, self.value = kind, value
        if self._match is not None:
            self.match(self._match)
        return True

    def match(self, pattern: str) -> bool:
        """Assert that the message matches."""
        import re

        if re.search(pattern, str(self.value)) is None:
            raise AssertionError(f"the pattern {pattern!r} is not found in {str(self.value)!r}")
        return True


def _raises(expected: Any, *call: Any, match: str | None = None, **kwargs: Any) -> _Raises:
    context = _Raises(expected, match)
    if call:
        with context:
            call[0](*call[1:], **kwargs)
    return context


class _Approx:
    """Equal to numbers close to `expected`; in lists, tuples and dicts, place by place."""

    __hash__ = None  # type: ignore[assignment]
    __array_ufunc__ = None  # so that an array on the left leaves the comparison to this class

    def __init__(
        self,
        expected: Any,
        rel: float | None = None,
        abs: float | None = None,
        nan_ok: bool = False,
    ) -> None:
        if isinstance(expected, (set, frozenset)):
            raise TypeError("approx() does not compare sets")
        self._expected = expected
        self._relative, self._absolute, self._nan_ok = rel, abs, nan_ok

    def __repr__(self) -> str:
        return f"approx({self._expected!r})"

    def __bool__(self) -> bool:
        raise AssertionError("approx() is compared with ==; it has no truth of its own")

    def __eq__(self, actual: object) -> bool:
        return self._same(self._expected, actual)

    def _same(self, expected: Any, actual: Any) -> bool:
        expected, actual = _as_list(expected), _as_list(actual)
        if isinstance(expected, (list, tuple)):
            return (
                isinstance(actual, (list, tuple))
                and len(actual) == len(expected)
                and all(map(self._same, expected, actual))
            )
        if isinstance(expected, dict):
            return (
                isinstance(actual, dict)
                and actual.keys() == expected.keys()
                and all(self._same(value, actual[key]) for key, value in expected.items())
            )
        return self._close(expected, actual)

    def _close(self, expected: Any, actual: Any) -> bool:
        if expected == actual:
            return True
        if isinstance(expected, (bool, str)) or not hasattr(expected, "__abs__") or not hasattr(actual, "__abs__"):
            return False
        if expected != expected or actual != actual:
            return self._nan_ok and expected != expected and actual != actual
        if abs(expected) == float("inf") or abs(actual) == float("inf"):
            return False
        # Only where neither is given, or both are, the larger of the two counts.
        kind = type(abs(expected)) if not isinstance(expected, (int, float, complex)) else float
        absolute = kind(_ABSOLUTE if self._absolute is None else self._absolute)
        relative = self._relative
        if relative is None:
            relative = _RELATIVE if self._absolute is None else 0.0
        return bool(abs(expected - actual) <= max(absolute, kind(relative) * abs(expected)))


def _as_list(value: Any) -> Any:
    numpy = sys.modules.get("numpy")
    is_array = numpy is not None and hasattr(value, "tolist") and isinstance(value, numpy.ndarray)
    return value.tolist() if is_array else value


def _fail(reason: str = "", pytrace: bool = True, msg: str = "") -> None:
    raise AssertionError(reason or msg)


def _param(*values: Any, **options: Any) -> Any:
    return values[0] if len(values) == 1 else values


class _Mark:
    """`mark.name`, which changes nothing: the values of `parametrize` were taken from the source."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Mark()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if len(args) == 1 and not kwargs and (isinstance(args[0], type) or hasattr(args[0], "__code__")):
            return args[0]
        return _unchanged


def _unchanged(function: Any) -> Any:
    return function


_PYTEST: dict[str, Any] = {
    "approx": _Approx,
    "fail": _fail,
    "main": lambda *args, **kwargs: 0,
    "mark": _Mark(),
    "param": _param,
    "raises": _raises,
}


# ---- numpy


def _close(a: Any, b: Any, relative: float, absolute: float, equal_nan: bool) -> bool:
    if a == b:
        return True
    if a != a or b != b:
        return equal_nan and a != a and b != b
    if abs(a) == float("inf") or abs(b) == float("inf"):
        return False
    return bool(abs(a - b) <= absolute + relative * abs(b))


def _pairs(a: Any, b: Any) -> Iterator[tuple[Any, Any]]:
    """The numbers of two values, place by place; one number is compared with each of a list.

    Raises:
        ValueError: They have not the same shape.
        TypeError: They hold something else than numbers.
    """
    lengths = [len(each) for each in (a, b) if isinstance(each, (list, tuple))]
    if lengths:
        if len(set(lengths)) > 1 or (0 in lengths and len(lengths) == 1):
            raise ValueError("the two have not the same shape")
        for i in range(lengths[0]):
            yield from _pairs(*(each[i] if isinstance(each, (list, tuple)) else each for each in (a, b)))
        return
    for each in (a, b):
        if not isinstance(each, (int, float, complex)):
            raise TypeError(f"a {type(each).__name__} is no number")
    yield a, b


def _allclose(a: Any, b: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> bool:
    return all(_close(x, y, rtol, atol, equal_nan) for x, y in list(_pairs(a, b)))


def _isclose(a: Any, b: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> Any:
    found = [_close(x, y, rtol, atol, equal_nan) for x, y in _pairs(a, b)]
    return found if isinstance(a, (list, tuple)) or isinstance(b, (list, tuple)) else found[0]


def _array_equal(a: Any, b: Any) -> bool:
    try:
        return all(x == y for x, y in list(_pairs(a, b))) and isinstance(a, (list, tuple)) == isinstance(
            b, (list, tuple)
        )
    except ValueError:
        return False


def _assert_allclose(
    actual: Any, desired: Any, rtol: float = 1e-7, atol: float = 0, equal_nan: bool = True, err_msg: str = ""
) -> None:
    if not _allclose(actual, desired, rtol, atol, equal_nan):
        raise AssertionError(err_msg or f"{actual!r} is not close to {desired!r}")


def _assert_almost_equal(actual: Any, desired: Any, decimal: int = 7, err_msg: str = "") -> None:
    _assert_allclose(actual, desired, 0, 1.5 * 10.0**-decimal, True, err_msg)


def _assert_equal(actual: Any, desired: Any, err_msg: str = "") -> None:
    if actual != desired and not (actual != actual and desired != desired):
        raise AssertionError(err_msg or f"{actual!r} is not {desired!r}")


class _Array:
    """What `numpy.ndarray` is without numpy: no value is one."""


_NUMPY: dict[str, Any] = {
    "all": lambda values: all(values) if isinstance(values, (list, tuple)) else bool(values),
    "allclose": _allclose,
    "array_equal": _array_equal,
    "bool_": bool,
    "float32": float,
    "float64": float,
    "floating": float,
    "inf": float("inf"),
    "int32": int,
    "int64": int,
    "integer": int,
    "isclose": _isclose,
    "isnan": lambda value: value != value,
    "nan": float("nan"),
    "ndarray": _Array,
    "pi": 3.141592653589793,
}
_NUMPY_TESTING: dict[str, Any] = {
    "assert_allclose": _assert_allclose,
    "assert_almost_equal": _assert_almost_equal,
    "assert_equal": _assert_equal,
}


NAMES_OF_NUMPY = {*_NUMPY, "testing", *(f"testing.{name}" for name in _NUMPY_TESTING)}
"""What there is of numpy where the interpreter has none."""


def _refuse_empty(numpy: Any) -> None:
    """Of an empty array and a number numpy says that they are close: all of no numbers are."""

    def strict(compare: Callable[..., Any]) -> Callable[..., Any]:
        def compared(a: Any, b: Any, *args: Any, **kwargs: Any) -> Any:
            if Remote in (type(a), type(b)):
                raise TypeError("an object of the program is no array: compare its attributes or items")
            if (numpy.size(a) == 0) != (numpy.size(b) == 0):
                raise AssertionError("one of the two is empty")
            return compare(a, b, *args, **kwargs)

        return compared

    testing = importlib.import_module("numpy.testing")
    numpy.allclose = strict(numpy.allclose)
    for name in _COMPARE_ARRAYS:
        setattr(testing, name, strict(getattr(testing, name)))
