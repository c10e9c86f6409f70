"""scripts/bench_verification.py: what it compares is the same on both sides, and its last line is read by machines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import ModuleType

import benchmarks
import pytest
from benchmarks import last_object, run

from halo_forge.verifiers.languages.c import Spec


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    with benchmarks.script("bench_verification") as module:
        yield module


def test_programs_are_distinct_and_always_the_same(script: ModuleType) -> None:
    sources = script.make_sources(100)
    assert len(set(sources)) == 100
    assert sources[:10] == script.make_sources(10)
    assert all(20 <= len(source.splitlines()) <= 60 for source in sources)


def test_a_small_run_ends_in_one_json_object() -> None:
    done = run("bench_verification", "--programs", 4, "--repeats", 1)
    last, lines = last_object(done), done.stdout.splitlines()
    assert last["benchmark"] == "verification, distinct programs"
    assert last["ratio"] == pytest.approx(last["ours"] / last["baseline"], abs=0.02)
    halves = next(json.loads(line) for line in lines if line.startswith("{"))
    assert halves["benchmark"] == "verification, half duplicates"
    assert any("isolation" in figure["unit"] for figure in (last, halves))
    assert (
        sum("target ratio >= 0.9" in line for line in lines)
        == sum("target ratio >= 1.5" in line for line in lines)
        == 1
    )


def test_a_wrong_output_stops_it(script: ModuleType) -> None:
    task = script.Task("int main(void) { return 0; }\n", "", "something\n")
    with pytest.raises(SystemExit, match="1 of 1 harmless programs do not pass"):
        script.verifier_seconds([task], Spec(workers=1))


def test_endurance_counts_verdicts_and_what_is_held(script: ModuleType) -> None:
    found = script.endure(16, Spec(workers=1))
    assert found["verdicts"] == 16
    assert (found["parent_descriptors_more"], found["launcher_descriptors_more"], found["processes_more"]) == (0, 0, 0)
    assert (found["files_more"], found["files_left_at_the_end"]) == (0, 0)


def test_the_slope_is_of_the_later_part(script: ModuleType) -> None:
    points = [script.Usage(100 * n, 7 * 100 * n + (10**6 if n == 0 else 0), 5, 0, 0, 0, 0) for n in range(8)]
    assert script.bytes_per_verdict(points, "parent_bytes") == pytest.approx(7.0)
    assert script.bytes_per_verdict(points, "launcher_bytes") == 0.0


@pytest.mark.parametrize("arguments", [["--programs", "1"], ["--repeats", "0"], ["--endurance", "0"]])
def test_useless_numbers_are_refused(arguments: list[str]) -> None:
    done = run("bench_verification", *arguments)
    assert done.returncode == 2 and "must be at least" in done.stderr
