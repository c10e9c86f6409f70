"""Plain values as bytes, between the process that holds the tests and the one that holds the program.

The types that are written are exactly the builtin ones; a value of a subclass is written as what it is underneath.  So
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

# Values of the standard library that tests compare, and that a text holds exactly: module, type, how text is read.
_BY_TEXT = (
    ("decimal", "Decimal", None),
    ("fractions", "Fraction", None),
    ("datetime", "datetime", "fromisoformat"),
    ("datetime", "date", "fromisoformat"),
    ("datetime", "time", "fromisoformat"),
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
        raise WireError("the value is too large")
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


def _degraded(value: Any) -> tuple[int | None, Any]:
    """The row of `_BY_TEXT` and the text; or None and the builtin value underneath, `value` itself if there is none."""
    for base, plain in _BASES:
        if isinstance(value, base):
            return None, plain(value)
    for number, (module, name, _) in enumerate(_BY_TEXT):
        # A value of the type exists only where its module is loaded.
        if type(value) is getattr(sys.modules.get(module), name, None):
            return number, value.isoformat() if module == "datetime" else str(value)
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


def decode(content: bytes, foreign: Foreign) -> Any:
    """Read what `encode` wrote; `foreign` makes an object of each value that is marked as foreign.

    Raises:
        WireError: `content` is not of this format.
    """
    reader = _Reader(content, foreign)
    try:
        value = reader.value()
    except (ValueError, TypeError, ArithmeticError, LookupError, RecursionError, struct.error) as error:
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
            module, name, method = _BY_TEXT[self._take(1)[0]]
            kind = getattr(__import__(module), name)
            return (kind if method is None else getattr(kind, method))(self.value())
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
