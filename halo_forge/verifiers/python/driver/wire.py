"""Plain values as bytes, between the process that holds the tests and the one that holds the program.

The types that are written are exactly the builtin ones; a value of a subclass is written as what it is underneath, and
of a named tuple only the names of its items are kept.  So
whatever a program makes of `__eq__`, what arrives is compared by the builtin type.  `json` cannot tell a tuple from a
list and takes 10 ms to import; `marshal` and `pickle` are not safe to read from strangers.
"""

from __future__ import annotations

import os
import struct
import sys

TYPE_CHECKING = False  # the module `typing` takes 10 ms to import
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Foreign = Callable[[Any], Any]

MAX_BYTES = 16 * 1024 * 1024
"""The longest message."""

_COUNT = struct.Struct(">I")
_FLOAT = struct.Struct(">d")

_DTYPES = {
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "float16", "float32", "float64", "complex64", "complex128",
}  # fmt: skip
_ITEMS = (bool, int, float, complex)


def _array(kind: Any, plain: Any) -> Any:
    name, shape, items = plain
    if name not in _DTYPES or any(type(each) not in _ITEMS for each in items):
        raise ValueError("no array of numbers")
    return sys.modules["numpy"].array(items, dtype=name).reshape(shape)


def _scalar(kind: Any, plain: Any) -> Any:
    return _array(None, (plain[0], (), [plain[1]]))[()]


# Values that are no builtin ones and that tests compare: module, type, its plain form, and back from that.  Scalars of
# numpy that a builtin holds exactly arrive as that; of the others == depends on their precision, as of 0.1.
_BY_PLAIN: tuple[tuple[str, str, Callable[[Any], Any], Callable[[Any, Any], Any]], ...] = (
    ("decimal", "Decimal", str, lambda kind, plain: kind(plain)),
    ("fractions", "Fraction", str, lambda kind, plain: kind(plain)),
    ("datetime", "datetime", lambda value: value.isoformat(), lambda kind, plain: kind.fromisoformat(plain)),
    ("datetime", "date", lambda value: value.isoformat(), lambda kind, plain: kind.fromisoformat(plain)),
    ("datetime", "time", lambda value: value.isoformat(), lambda kind, plain: kind.fromisoformat(plain)),
    ("datetime", "timedelta", lambda value: (value.days, value.seconds, value.microseconds), lambda kind, p: kind(*p)),
    ("collections", "deque", list, lambda kind, plain: kind(plain)),
    ("numpy", "ndarray", lambda value: (value.dtype.name, value.shape, value.ravel().tolist()), _array),
    ("numpy", "float16", lambda value: (value.dtype.name, value.item()), _scalar),
    ("numpy", "float32", lambda value: (value.dtype.name, value.item()), _scalar),
    ("numpy", "complex64", lambda value: (value.dtype.name, value.item()), _scalar),
)


class WireError(Exception):
    """What arrived is not a message of this format."""


def encode(value: Any, foreign: Foreign) -> bytes:
    """Write `value`.

    Args:
        foreign: Tells the plain value to write for one that has no plain form; the reader gets it marked as foreign.

    Raises:
        WireError: It is too long, or nested too deeply.
        Exception: Whatever `foreign` raises.
    """
    parts: list[bytes] = []
    try:
        _put(value, parts.append, foreign)
    except RecursionError as error:
        raise WireError("the value is nested too deeply") from error
    content = b"".join(parts)
    if len(content) > MAX_BYTES:
        most = f"at most {MAX_BYTES >> 20} MiB pass between a program and its tests"
        raise WireError(f"the value is too large: {most}")
    return content


def _counted(tag: bytes, content: bytes) -> bytes:
    return tag + _COUNT.pack(len(content)) + content


def _put(value: Any, write: Callable[[bytes], Any], foreign: Foreign) -> None:
    kind: Any = type(value)
    if kind in _ATOMS:
        write(_ATOMS[kind](value))
    elif kind in _SEQUENCES:
        write(_SEQUENCES[kind] + _COUNT.pack(len(value)))
        for item in value:
            _put(item, write, foreign)
    elif kind is dict:
        write(b"d" + _COUNT.pack(len(value)))
        for key, item in value.items():
            _put(key, write, foreign)
            _put(item, write, foreign)
    elif kind is range:
        write(b"r")
        _put((value.start, value.stop, value.step), write, foreign)
    elif isinstance(value, tuple) and _fields(kind, value):
        write(b"n")
        _put((str(kind.__name__), _fields(kind, value), tuple(tuple.__iter__(value))), write, foreign)
    else:
        number, plain = _degraded(value)
        if number is not None:
            write(b"x" + bytes([number]))
            _put(plain, write, foreign)
        elif plain is not value:
            _put(plain, write, foreign)
        else:
            write(b"o")
            _put(foreign(value), write, foreign)


def _fields(kind: Any, value: Any) -> tuple[str, ...]:
    """The names of the items of a named tuple."""
    fields: Any = getattr(kind, "_fields", None)
    if type(fields) is not tuple or len(fields) != tuple.__len__(value):
        return ()
    return fields if all(type(each) is str for each in fields) else ()


def _named_tuple(name: Any, fields: Any) -> Any:
    kind = _NAMED.get((name, fields))
    if kind is None:
        kind = __import__("collections").namedtuple(name, fields, rename=True)
        _NAMED[(name, fields)] = kind
    return kind


_NAMED: dict[Any, Any] = {}


def _degraded(value: Any) -> tuple[int | None, Any]:
    """The row of `_BY_PLAIN` and the plain form; or None and the builtin value underneath, `value` itself if there is
    none."""
    for base, plain in _BASES:
        if isinstance(value, base):
            return None, plain(value)
    for number, (module, name, to_plain, _) in enumerate(_BY_PLAIN):
        # A value of the type exists only where its module is loaded.
        if type(value) is getattr(sys.modules.get(module), name, None):
            is_other_array = name == "ndarray" and value.dtype.name not in _DTYPES
            return (None, value) if is_other_array else (number, to_plain(value))
    return _as_number(value)


def _as_number(value: Any) -> tuple[int | None, Any]:
    """The same for what a library calls a number, as those of numpy, sympy and gmpy2 are: it equals a builtin one."""
    if isinstance(value, getattr(sys.modules.get("numpy"), "bool_", ())):
        return None, bool(value)
    numbers = sys.modules.get("numbers")
    if numbers is None:
        return None, value
    if isinstance(value, numbers.Integral):
        return None, int(value)
    if isinstance(value, numbers.Rational):
        return 1, f"{int(value.numerator)}/{int(value.denominator)}"
    for kind, builtin in ((numbers.Real, float), (numbers.Complex, complex)):
        if isinstance(value, kind):
            plain = builtin(value)
            return None, plain if plain == value or plain != plain else value
    return None, value


def _int(value: int) -> bytes:
    return _counted(b"i", value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


_ATOMS: dict[type, Callable[[Any], bytes]] = {
    type(None): lambda value: b"N",
    bool: lambda value: b"T" if value else b"F",
    int: _int,
    float: lambda value: b"f" + _FLOAT.pack(value),
    str: lambda value: _counted(b"s", value.encode("utf-8", "surrogatepass")),
    bytes: lambda value: _counted(b"b", value),
    bytearray: lambda value: _counted(b"a", bytes(value)),
    complex: lambda value: b"c" + _FLOAT.pack(value.real) + _FLOAT.pack(value.imag),
    type(Ellipsis): lambda value: b"E",
}
_SEQUENCES: dict[type, bytes] = {list: b"l", tuple: b"t", set: b"S", frozenset: b"Z"}
_MAKERS: dict[bytes, Any] = {tag: kind for kind, tag in _SEQUENCES.items()}
# The builtin's own methods, so that a subclass has no say in what it is underneath.
_BASES: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (int, int.__pos__),
    (float, float.__pos__),
    (str, lambda value: "".join(str.__iter__(value))),
    (bytes, lambda value: bytes(bytes.__iter__(value))),
    (bytearray, lambda value: bytearray(bytearray.__iter__(value))),
    (list, lambda value: list(list.__iter__(value))),
    (tuple, lambda value: tuple(tuple.__iter__(value))),
    (dict, lambda value: dict(dict.items(value))),
    (set, lambda value: set(set.__iter__(value))),
    (frozenset, lambda value: frozenset(frozenset.__iter__(value))),
)


_MALFORMED = (
    ValueError, TypeError, ArithmeticError, LookupError, AttributeError, ImportError, RecursionError, struct.error,
)  # fmt: skip


def decode(content: bytes, foreign: Foreign) -> Any:
    """Read what `encode` wrote; `foreign` makes an object of each value that is marked as foreign.

    Raises:
        WireError: `content` is not of this format.
    """
    reader = _Reader(content, foreign)
    try:
        value = reader.value()
    except (
        ValueError,
        TypeError,
        ArithmeticError,
        LookupError,
        AttributeError,
        ImportError,
        RecursionError,
        struct.error,
    ) as error:
        raise WireError(f"{type(error).__name__}: {error}") from error
    if reader.position != len(content):
        raise WireError("there is more after the value")
    return value


class _Reader:
    def __init__(self, content: bytes, foreign: Foreign) -> None:
        self._content = content
        self._foreign = foreign
        self.position = 0

    def _take(self, size: int) -> bytes:
        start = self.position
        self.position = start + size
        if self.position > len(self._content):
            raise ValueError("the message ends too early")
        return self._content[start : self.position]

    def _count(self) -> int:
        count: int = _COUNT.unpack(self._take(4))[0]
        return count

    def _number(self) -> float:
        number: float = _FLOAT.unpack(self._take(8))[0]
        return number

    def value(self) -> Any:
        tag = self._take(1)
        if tag in _CONSTANTS:
            return _CONSTANTS[tag]
        if tag == b"i":
            return int.from_bytes(self._take(self._count()), "big", signed=True)
        if tag == b"f":
            return self._number()
        if tag in _MAKERS:
            return _MAKERS[tag]([self.value() for _ in range(self._count())])
        if tag == b"d":
            return dict([(self.value(), self.value()) for _ in range(self._count())])
        return self._rare(tag)

    def _rare(self, tag: bytes) -> Any:
        if tag == b"s":
            return self._take(self._count()).decode("utf-8", "surrogatepass")
        if tag == b"b":
            return self._take(self._count())
        if tag == b"a":
            return bytearray(self._take(self._count()))
        if tag == b"c":
            return complex(self._number(), self._number())
        if tag == b"r":
            return range(*self.value())
        if tag == b"x":
            module, name, _, make = _BY_PLAIN[self._take(1)[0]]
            return make(getattr(__import__(module), name), self.value())
        if tag == b"n":
            name, fields, items = self.value()
            return _named_tuple(name, fields)._make(items)
        if tag == b"o":
            return self._foreign(self.value())
        raise ValueError(f"no tag: {tag!r}")


_CONSTANTS = {b"N": None, b"T": True, b"F": False, b"E": Ellipsis}


def send(descriptor: int, content: bytes) -> None:
    """Raises OSError when nobody reads."""
    view = memoryview(_counted(b"", content))
    while view:
        view = view[os.write(descriptor, view) :]


def receive(descriptor: int) -> bytes:
    """The next message.

    Raises:
        EOFError: The other side is gone.
        WireError: The message is longer than `MAX_BYTES`.
    """
    size: int = _COUNT.unpack(_exactly(descriptor, 4))[0]
    if size > MAX_BYTES:
        raise WireError(f"a message of {size} bytes")
    return _exactly(descriptor, size)


def _exactly(descriptor: int, size: int) -> bytes:
    parts = []
    while size > 0:
        part = os.read(descriptor, min(size, 1 << 16))
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def messages(content: bytes) -> list[bytes]:
    """The complete messages at the beginning of what was sent into a file."""
    found = []
    position = 0
    while position + 4 <= len(content):
        end = position + 4 + _COUNT.unpack(content[position : position + 4])[0]
        if end > len(content):
            break
        found.append(content[position + 4 : end])
        position = end
    return found
