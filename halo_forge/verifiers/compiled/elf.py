"""What an object file says about itself: the names it defines and needs, what runs before `main`, and its functions."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_HEADER = 64
_SYMBOL_TABLE, _RELOCATIONS, _DYNAMIC_SYMBOLS = 2, 4, 11
# An object of a source of 256 KiB; what is larger costs time and memory here.
_MOST = 100_000
_LOCAL, _FUNCTION, _SECTION, _INDIRECT_FUNCTION, _UNDEFINED = 0, 2, 3, 10, 0
_Section = tuple[int, ...]
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


@dataclass(frozen=True, slots=True)
class CompiledFunction:
    """The machine code of one function.

    Attributes:
        machine: ELF's number of the processor: 62 is x86-64, 183 is AArch64.
        start: Where `code` begins in its section.
        relocations: Offset in that section -> name of the symbol or section whose address is put there by the linker.
    """

    name: str
    machine: int
    code: memoryview
    start: int
    relocations: Mapping[int, str]

    def refers_to(self, offset: int) -> str | None:
        """What the operand at this offset in `code` stands for; None where it is known without a linker."""
        return self.relocations.get(self.start + offset)


def read(content: bytes) -> ObjectFile:
    """Read an object, or a shared library, of 64 bits.

    Raises:
        ValueError: It is none, or is damaged.
    """
    order = _order(content)
    try:
        return _read(content, order)
    except (struct.error, IndexError) as error:
        raise ValueError(f"a damaged ELF file: {error}") from error


def functions(content: bytes) -> list[CompiledFunction]:
    """The functions that an object or a program defines, local ones included; of other files none."""
    try:
        return list(_functions(content, _order(content)))
    except (struct.error, IndexError, ValueError):
        return []


def _order(content: bytes) -> str:
    if content[:5] != b"\x7fELF\x02" or content[5:6] not in (b"\x01", b"\x02"):
        raise ValueError("no ELF file of 64 bits")
    return "<" if content[5] == 1 else ">"


def _sections(content: bytes, order: str) -> tuple[list[_Section], bytes]:
    """The section headers, and the text of their names."""
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
    return sections, _part(content, sections[names])


def _read(content: bytes, order: str) -> ObjectFile:
    sections, texts = _sections(content, order)
    starters = {found for section in sections if section[5] > 0 for found in _starters(_text(texts, section[0]))}
    defined: set[bytes] = set()
    undefined: set[bytes] = set()
    for section in sections:
        if section[1] not in (_SYMBOL_TABLE, _DYNAMIC_SYMBOLS):
            continue
        strings = _part(content, sections[section[6]])
        for name, info, _, place, _, _ in _symbols(content, section, order):
            kind = info & 15
            if name == 0 or (info >> 4 == _LOCAL and kind != _INDIRECT_FUNCTION):
                continue
            (undefined if place == _UNDEFINED else defined).add(strings[name : strings.index(b"\0", name)])
            if kind == _INDIRECT_FUNCTION:
                starters.add("ifunc")
    return ObjectFile(_decoded(defined), _decoded(undefined), frozenset(starters))


def _functions(content: bytes, order: str) -> Iterator[CompiledFunction]:
    sections, texts = _sections(content, order)
    (machine,) = struct.unpack_from(f"{order}H", content, 18)
    for number, table in enumerate(sections):
        if table[1] != _SYMBOL_TABLE:
            continue
        strings = _part(content, sections[table[6]])
        symbols = _symbols(content, table, order)
        names = [
            _text(texts, sections[place][0]) if info & 15 == _SECTION else _text(strings, name)
            for name, info, _, place, _, _ in symbols
        ]
        relocations: dict[int, dict[int, str]] = {}
        for section in sections:
            if section[1] == _RELOCATIONS and section[6] == number:
                relocations.setdefault(section[7], {}).update(_relocations(_part(content, section), names, order))
        for name, (_, info, _, place, value, size) in zip(names, symbols, strict=True):
            if info & 15 != _FUNCTION or not 0 < place < len(sections):
                continue
            # In an object a section has no address yet, and the value of a symbol is an offset.
            start = value - sections[place][3]
            if start < 0 or start + size > sections[place][5]:
                continue
            first = sections[place][4] + start
            code = memoryview(content)[first : first + size]
            yield CompiledFunction(name, machine, code, start, relocations.get(place, {}))


def _relocations(table: bytes, names: list[str], order: str) -> Iterator[tuple[int, str]]:
    entry = struct.Struct(f"{order}QQq")
    if len(table) > _MOST * entry.size:
        raise ValueError("an ELF file with too many relocations")
    for offset, info, _ in entry.iter_unpack(table[: len(table) // entry.size * entry.size]):
        yield offset, names[info >> 32]


def _symbols(content: bytes, section: _Section, order: str) -> list[tuple[int, ...]]:
    """Name, binding and type, visibility, section, value and size of each."""
    table = _part(content, section)
    entry = struct.Struct(f"{order}IBBHQQ")
    if len(table) > _MOST * entry.size:
        raise ValueError("an ELF file with too many symbols")
    return list(entry.iter_unpack(table[: len(table) // entry.size * entry.size]))


def _starters(name: str) -> Iterator[str]:
    yield from (starter for starter in _STARTERS if name == starter or name.startswith(f"{starter}."))


def _part(content: bytes, section: _Section) -> bytes:
    return content[section[4] : section[4] + section[5]]


def _text(strings: bytes, start: int) -> str:
    return strings[start : strings.index(b"\0", start)].decode("utf-8", errors="backslashreplace")


def _decoded(names: set[bytes]) -> frozenset[str]:
    return frozenset(name.decode("utf-8", errors="backslashreplace") for name in names)
