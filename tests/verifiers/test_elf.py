"""Objects as the compiler makes them, and as nobody should."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from halo_forge.verifiers.compiled import elf

_SOURCE = """
#include <stdio.h>
int common;
static int hidden(int n) { return n + common; }
int shown(int n) { return printf("%d", hidden(n)); }
__attribute__((weak)) int weak_one(void) { return 1; }
__attribute__((constructor)) static void first(void) { puts("first"); }
"""


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    folder: Path = tmp_path_factory.mktemp("elf")
    (folder / "a.c").write_text(_SOURCE)
    subprocess.run(["gcc", "-O1", "-fcommon", "-c", "a.c"], cwd=folder, check=True, timeout=60)
    return (folder / "a.o").read_bytes()


def test_names_and_starters(content: bytes) -> None:
    found = elf.read(content)
    assert found.defined == {"common", "shown", "weak_one"}
    assert {"printf", "puts"} <= found.undefined
    assert found.starters == {".init_array"}


def test_functions_with_what_the_linker_fills_in(content: bytes) -> None:
    if os.uname().machine != "x86_64":
        pytest.skip("the machine code below is for x86-64")
    found = {each.name: each for each in elf.functions(content)}
    assert {"shown", "weak_one", "first"} <= found.keys()
    assert bytes(found["weak_one"].code) in (b"\xb8\x01\0\0\0\xc3", b"\xf3\x0f\x1e\xfa\xb8\x01\0\0\0\xc3")
    assert {each.machine for each in found.values()} == {62}
    named = {name: {each.refers_to(at) for at in range(len(each.code))} - {None} for name, each in found.items()}
    assert {"common", "printf"} <= named["shown"] and "puts" not in named["shown"]
    assert "puts" in named["first"] and named["weak_one"] == set()


@pytest.mark.parametrize(
    "bad", [b"", b"\x7fELF", b"!<arch>\n", b"\x7fELF\x01\x01" + bytes(80), b"\x7fELF\x02\x01" + bytes(80)]
)
def test_what_is_no_object(bad: bytes) -> None:
    with pytest.raises(ValueError, match="ELF"):
        elf.read(bad)
    assert elf.functions(bad) == []


def test_a_damaged_object_is_refused_or_read(content: bytes) -> None:
    chance = random.Random(0)
    for _ in range(500):
        damaged = bytearray(content[: chance.choice([len(content), chance.randrange(len(content))])])
        for _ in range(chance.randrange(1, 8)):
            if damaged:
                damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        elf.functions(bytes(damaged))
        try:
            elf.read(bytes(damaged))
        except ValueError:
            continue
