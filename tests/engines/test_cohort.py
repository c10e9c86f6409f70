"""A cohort against lists: every row's keys are numbered, so what it may look at can be read off."""

from __future__ import annotations

import random
from typing import Any

import pytest

torch = pytest.importorskip("torch")
Cohort = pytest.importorskip("halo_forge.engines._cohort").Cohort

LAYERS, HEADS, SIZE = 2, 2, 3


def states(rows: list[list[int]], layer: int) -> Any:
    """(rows, heads, longest, size): position numbers, padded on the left with -1."""
    longest = max(map(len, rows))
    padded = torch.tensor([[-1] * (longest - len(row)) + row for row in rows], dtype=torch.float32)
    return (padded + 1000 * layer)[:, None, :, None].expand(-1, HEADS, -1, SIZE)


def cohort_of(rows: list[list[int]]) -> Any:
    cohort = Cohort()
    append(cohort, rows)
    return cohort


def append(cohort: Any, rows: list[list[int]]) -> None:
    layers = [(states(rows, layer), -states(rows, layer)) for layer in range(LAYERS)]
    cohort.append(layers, [len(row) for row in rows], range(len(rows)))


def step(cohort: Any, rows: list[list[int]], newest: list[int]) -> None:
    """One step of the model; what each row may look at must be its own list with the newest number."""
    cohort.make_room()
    hidden = cohort.hidden(cohort.num_slots + 5, None)
    windowed = cohort.hidden(cohort.num_slots, 3)
    for row, number in zip(rows, newest, strict=True):
        row.append(number)
    for layer in range(LAYERS):
        new = states([[number] for number in newest], layer)
        keys, values = cohort.write(layer, new, -new)
        assert keys.is_contiguous() and torch.equal(keys, -values) and torch.isfinite(keys).all()
        for number, row in enumerate(rows):
            looked_at = keys[number, 0, ~hidden[number, : cohort.num_slots], 0] - 1000 * layer
            assert looked_at.tolist() == row
            near = keys[number, 1, ~windowed[number], 2] - 1000 * layer
            assert near.tolist() == row[-3:]
        assert hidden[:, cohort.num_slots :].all()
    cohort.advance(10**6)


@pytest.mark.parametrize("seed", range(20))
def test_rows_come_go_and_grow_and_each_sees_its_own_and_nothing_else(seed: int) -> None:
    rng = random.Random(seed)
    fresh = iter(range(10**6))

    def some_rows() -> list[list[int]]:
        return [[next(fresh) for _ in range(rng.randint(1, 50))] for _ in range(rng.randint(1, 5))]

    rows = some_rows()
    cohort = cohort_of([list(row) for row in rows])
    for _ in range(120):
        what = rng.random()
        if what < 0.06:
            added = some_rows()
            append(cohort, [list(row) for row in added])
            rows += added
        elif what < 0.12:
            added = some_rows()
            other = cohort_of([list(row) for row in added])
            for _ in range(rng.randint(0, 70)):
                step(other, added, [next(fresh) for _ in added])
            cohort.absorb(other)
            rows += added
        elif what < 0.2 and len(rows) > 1:
            kept = sorted(rng.sample(range(len(rows)), rng.randint(1, len(rows))))
            order = cohort.keep(kept)
            assert sorted(order) == kept
            rows = [rows[number] for number in order]
        step(cohort, rows, [next(fresh) for _ in rows])
    assert cohort.num_seen == max(map(len, rows)) <= cohort.slot <= cohort.num_slots <= cohort.slot + 32


def test_what_no_row_looks_at_any_more_is_left_out() -> None:
    rows = [list(range(200)), [7]]
    cohort = cohort_of(rows)
    cohort.keep([1])
    rows = rows[1:]
    for number in range(40):
        step(cohort, rows, [number])
    assert cohort.num_slots == 64


def test_a_position_stops_at_the_limit() -> None:
    rows = [[1, 2]]
    cohort = cohort_of(rows)
    cohort.make_room()
    for _ in range(5):
        cohort.advance(4)
    assert cohort.lengths.tolist() == [4]
