"""The cache of a GPU against lists: every row's keys are numbered, so what it may look at can be read off."""

from __future__ import annotations

import random
from typing import Any

import pytest

torch = pytest.importorskip("torch")
FixedCache = pytest.importorskip("halo_forge.engines._fixed_cache").FixedCache

LAYERS, HEADS, SIZE = 2, 2, 3
MAX_ROWS, MAX_LENGTH = 9, 200


def states(rows: list[list[int]], layer: int) -> Any:
    """(rows, heads, longest, size): position numbers, padded on the left with -1."""
    longest = max(map(len, rows))
    padded = torch.tensor([[-1] * (longest - len(row)) + row for row in rows], dtype=torch.float32)
    return (padded + 1000 * layer)[:, None, :, None].expand(-1, HEADS, -1, SIZE)


def append(cache: Any, prompts: list[list[int]], index: list[int]) -> list[list[int]]:
    """New rows with these prompts; several may have the same."""
    layers = [(states(prompts, layer), -states(prompts, layer)) for layer in range(LAYERS)]
    cache.append(layers, [len(prompt) for prompt in prompts], index)
    return [list(prompts[number]) for number in index]


def step(cache: Any, rows: list[list[int]], newest: list[int]) -> None:
    """One step of the model; what each row may look at must be its own list with the newest number."""
    num_slots = cache.num_slots
    hidden, windowed = cache.hidden(num_slots, None), cache.hidden(num_slots, 3)
    assert cache.lengths.tolist() == [len(row) for row in rows]
    for row, number in zip(rows, newest, strict=True):
        row.append(number)
    for layer in range(LAYERS):
        new = states([[number] for number in newest], layer)
        keys, values = cache.write(layer, new, -new)
        assert keys.shape == (len(rows), HEADS, num_slots, SIZE)
        assert torch.equal(keys, -values) and torch.isfinite(keys).all()
        for number, row in enumerate(rows):
            assert (keys[number, 0, ~hidden[number], 0] - 1000 * layer).tolist() == row
            assert (keys[number, 1, ~windowed[number], 2] - 1000 * layer).tolist() == row[-3:]
    cache.advance(MAX_LENGTH - 1)


@pytest.mark.parametrize("seed", range(12))
def test_rows_come_and_go_each_sees_its_own_and_nothing_moves(seed: int) -> None:
    rng = random.Random(seed)
    fresh = iter(range(10**6))
    cache = FixedCache(torch.device("cpu"), max_rows=MAX_ROWS, max_length=MAX_LENGTH)
    rows: list[list[int]] = []
    addresses = set()
    for _ in range(150):
        if (len(rows) < MAX_ROWS and rng.random() < 0.2) or not rows:
            prompts = [[next(fresh) for _ in range(rng.randint(1, 50))] for _ in range(rng.randint(1, 3))]
            rows += append(
                cache, prompts, [rng.randrange(len(prompts)) for _ in range(rng.randint(1, MAX_ROWS - len(rows)))]
            )
        kept = [number for number, row in enumerate(rows) if len(row) < 120 and rng.random() > 0.05]
        if len(kept) < len(rows):
            order = cache.keep(kept)
            assert sorted(order) == kept
            rows = [rows[number] for number in order]
        if rows:
            step(cache, rows, [next(fresh) for _ in rows])
        addresses.add(tuple(each.data_ptr() for layer in cache._layers for each in (*layer, cache._lengths)))
    assert len(addresses) == 1, "made once: a graph of the step would find everything where it was"


def test_attention_goes_over_the_slots_of_the_longest_row_and_no_further() -> None:
    cache = FixedCache(torch.device("cpu"), max_rows=4, max_length=MAX_LENGTH)
    append(cache, [[1, 2, 3], list(range(100))], [0, 1])
    assert cache.num_slots == 128
    cache.keep([0])
    assert cache.num_slots == 64


def test_a_position_stops_at_the_limit() -> None:
    cache = FixedCache(torch.device("cpu"), max_rows=1, max_length=4)
    append(cache, [[1, 2]], [0])
    for _ in range(5):
        step_of = cache.lengths.clone()
        cache.advance(3)
        assert cache.lengths.tolist() == [min(3, int(step_of[0]) + 1)]


def test_layers_do_not_look_through_all_rows() -> None:
    class Watched(list[int]):
        looks = 0

        def __iter__(self) -> Any:
            Watched.looks += 1
            return super().__iter__()

    cache = FixedCache(torch.device("cpu"), max_rows=4, max_length=MAX_LENGTH)
    append(cache, [[1, 2, 3], list(range(63))], [0, 1])
    cache._seen = Watched(cache._seen)
    for layer in range(LAYERS):
        keys, _ = cache.write(layer, states([[5], [6]], layer), states([[5], [6]], layer))
        assert keys.shape[2] == cache.num_slots == 64
    assert Watched.looks == 0
    cache.advance(MAX_LENGTH - 1)
    assert Watched.looks > 0 and cache.num_slots == 128, "the next step needs the 65th"
