"""What tools and programs say, made readable: in one pass, whatever they say."""

from __future__ import annotations

import time

import pytest

from halo_forge.verifiers.diagnostics import num_warnings, readable


def test_the_directory_of_the_job_is_left_out() -> None:
    said = (
        b"/tmp/x/halo-forge-ab1/work/job/answer.c:3:"
        b" error: '/halo-forge/work/job/answer.h' (at /halo-forge/work/job/a.c)\n"
    )
    assert readable(said) == "answer.c:3: error: 'answer.h' (at a.c)\n"
    assert readable(b"/usr/include/stdio.h:1: /home/halo-forge/work/jobes /a/b") == (
        "/usr/include/stdio.h:1: /home/halo-forge/work/jobes /a/b"
    )


@pytest.mark.parametrize(
    "piece",
    [b"/a", b"/", b"/halo-forge", b"/halo-forge/work/job", b"/halo-forge-x/work", b"==1", b"=", b"0x", b":1", b"a:1:"],
)
def test_a_megabyte_of_anything_takes_no_time(piece: bytes) -> None:
    text = piece * (2**20 // len(piece))
    start = time.monotonic()
    num_warnings(readable(text))
    assert time.monotonic() - start < 20.0  # 0.1 s on one core; an expression that goes back takes hours
