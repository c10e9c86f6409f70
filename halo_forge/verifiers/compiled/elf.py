"""What an object file says about itself: the names it defines, the names it needs, and what runs before `main`."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

_HEADER = 64
_SYMBOL_TABLE, _DYNAMIC_SYMBOLS = 2, 11
# An object of a source of 256 KiB; what is larger costs time and memory here.
_MOST = 100_000
_LOCAL, _INDIRECT_FUNCTION, _UNDEFINED = 0, 10, 0
_STARTERS = (".init_array", ".preinit_array", ".ctors", ".fini_array", ".dtors", ".init", ".fini")


@dataclass(frozen=True, slots=True)
class ObjectFile:
    """Symbols that other objects see.

    Attributes:
        defined, undefined: Names, the weak ones included.
        starters: Sections of functions that nobody has to call, and "ifunc" for symbols that are chosen by code.
    """

    defined: frozenset[str]
    undefined: frozenset[str]
    starters: frozenset[str]


def read(content: bytes) -> ObjectFile:
    """Read an object, or a shared library, of 64 bits.

    Raises:
        ValueError: It is none, or is damaged.
    """
    if content[:5] != b"\x7fELF\x02" or content[5:6] not in (b"\x01", b"\x02"):
        raise ValueError("no ELF file of 64 bits")
    order = "<" if content[5] == 1 else ">"
    try:
        return _read(content, order)
    except (struct.error, IndexError) as error:
        raise ValueError(f"a damaged ELF file: {error}") from error


def _read(content: bytes, order: str) -> ObjectFile:
    (table,) = struct.unpack_from(f"{order}Q", content, 40)
    size, count, names = struct.unpack_from(f"{order}HHH", content, 58)
    if table == 0 or table < _HEADER or size != 64:
        raise ValueError("an ELF file without sections")
    first = struct.unpack_from(f"{order}IIQQQQIIQQ", content, table)
    # More sections than fit into the header are told by the first section.
    count = count if count > 0 else first[5]
    names = names if names != 0xFFFF else first[6]
    header = struct.Struct(f"{order}IIQQQQIIQQ")
    if count > _MOST or table + count * size > len(content):
        raise ValueError("an ELF file with too many sections, or an incomplete one")
    sections = list(header.iter_unpack(content[table : table + count * size]))
    texts = _part(content, sections[names])
    starters = {found for section in sections if section[5] > 0 for found in _starters(_text(texts, section[0]))}
    wanted = [section for section in sections if section[1] in (_SYMBOL_TABLE, _DYNAMIC_SYMBOLS)]
    defined: set[bytes] = set()
    undefined: set[bytes] = set()
    for section in wanted:
        strings = _part(content, sections[section[6]])
        for name, kind, place in _symbols(_part(content, section), strings, order):
            (undefined if place == _UNDEFINED else defined).add(name)
            if kind == _INDIRECT_FUNCTION:
                starters.add("ifunc")
    return ObjectFile(_decoded(defined), _decoded(undefined), frozenset(starters))


def _symbols(table: bytes, strings: bytes, order: str) -> Iterator[tuple[bytes, int, int]]:
    """Name, type and section of each; of local ones only those that are chosen by code."""
    entry = struct.Struct(f"{order}IBBHQQ")
    if len(table) > _MOST * entry.size:
        raise ValueError("an ELF file with too many symbols")
    for name, info, _, section, _, _ in entry.iter_unpack(table[: len(table) // entry.size * entry.size]):
        if name and (info >> 4 != _LOCAL or info & 15 == _INDIRECT_FUNCTION):
            yield strings[name : strings.index(b"\0", name)], info & 15, section


def _starters(name: str) -> Iterator[str]:
    yield from (starter for starter in _STARTERS if name == starter or name.startswith(f"{starter}."))


def _part(content: bytes, section: tuple[int, ...]) -> bytes:
    return content[section[4] : section[4] + section[5]]


def _text(strings: bytes, start: int) -> str:
    return strings[start : strings.index(b"\0", start)].decode("utf-8", errors="backslashreplace")


def _decoded(names: set[bytes]) -> frozenset[str]:
    return frozenset(name.decode("utf-8", errors="backslashreplace") for name in names)
