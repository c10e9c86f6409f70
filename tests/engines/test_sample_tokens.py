"""The draw from logits: `Sampler` against probabilities computed by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from tiny_models import request

from halo_forge.core.records import SampleRequest
from halo_forge.engines.transformers import BROKEN, STOPPED

torch = pytest.importorskip("torch")
sampling = pytest.importorskip("halo_forge.engines._sampling")
_nucleus = sampling.nucleus


Row = tuple[SampleRequest, list[float]]


def rows(uniforms: Any, **values: Any) -> list[Row]:
    return [(request("p0", **values), [uniform]) for uniform in uniforms]


def sampler_of(batch: list[Row], *, stop_ids: Any = ()) -> Any:
    made = sampling.Sampler(
        torch.device("cpu"), frozenset(stop_ids), max_rows=len(batch), max_new_tokens=batch[0][0].max_new_tokens
    )
    made.add([asked for asked, _ in batch], [uniforms for _, uniforms in batch])
    return made


def sample_tokens(logits: Any, batch: list[Row]) -> Any:
    return sampler_of(batch).draw(logits)


def draws(logits: list[float], num_draws: int = 20000, *, seed: int = 7, **values: Any) -> Any:
    """How often each token is drawn."""
    uniforms = numpy.random.default_rng(seed).random(num_draws)
    tokens = sample_tokens(torch.tensor(logits).expand(num_draws, -1), rows(uniforms, **values))
    return numpy.bincount(tokens.numpy(), minlength=len(logits))


def softmax(logits: list[float], temperature: float = 1.0) -> list[float]:
    weights = [math.exp(value / temperature) for value in logits]
    return [weight / sum(weights) for weight in weights]


LOGITS = [0.0, 1.5, -1.0, 2.0, 0.5, -2.5, 1.0, 0.2]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_with_their_softmax_probabilities(temperature: float) -> None:
    counts = draws(LOGITS, temperature=temperature)
    expected = numpy.array(softmax(LOGITS, temperature)) * counts.sum()
    assert chisquare(counts, expected).pvalue > 0.001
    # The test can fail: the probabilities of another temperature do not fit.
    other = numpy.array(softmax(LOGITS, temperature * 1.2)) * counts.sum()
    assert chisquare(counts, other).pvalue < 1e-6


def test_a_row_uses_one_uniform_number_for_each_of_its_tokens() -> None:
    logits = torch.zeros(1, 10)
    found = sampler_of([(request("p0"), [0.05, 0.95, 0.55])])
    assert [int(found.draw(logits)[0]) for _ in range(3)] == [0, 9, 5]


@pytest.mark.parametrize("top_k", [2, 3, 8, 100])
def test_top_k_keeps_exactly_the_likeliest(top_k: int) -> None:
    counts = draws(LOGITS, top_k=top_k)
    order = sorted(range(len(LOGITS)), key=lambda token: -LOGITS[token])
    kept = set(order[:top_k])
    assert set(numpy.flatnonzero(counts)) == kept
    weights = [softmax(LOGITS)[token] for token in sorted(kept)]
    expected = numpy.array(weights) / sum(weights) * counts.sum()
    assert chisquare([counts[token] for token in sorted(kept)], expected).pvalue > 0.001


def test_top_k_1_takes_the_likeliest() -> None:
    assert set(numpy.flatnonzero(draws(LOGITS, top_k=1))) == {3}


# Probabilities 0.5, 0.25, 0.125, 0.0625, 0.0625: sums that are exact in binary.
HALVES = [math.log(value) for value in (0.125, 0.5, 0.0625, 0.25, 0.0625)]


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [
        (0.01, {1}),
        (0.49, {1}),
        (0.51, {1, 3}),
        (0.74, {1, 3}),
        (0.76, {1, 3, 0}),
        (0.874, {1, 3, 0}),
        (1.0, set(range(5))),
    ],
)
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p: float, kept: set[int]) -> None:
    assert set(numpy.flatnonzero(draws(HALVES, top_p=top_p))) == kept


@given(
    st.lists(st.floats(-4, 4), min_size=2, max_size=20, unique=True),
    st.floats(0.05, 1.0, exclude_max=True),
)
@settings(max_examples=60, deadline=None)
def test_the_nucleus_is_minimal_and_sufficient(logits: list[float], top_p: float) -> None:
    probabilities = torch.tensor([logits], dtype=torch.float64).softmax(dim=1)
    kept = _nucleus(probabilities, torch.tensor([top_p], dtype=torch.float64))[0]
    inside = kept[kept > 0]
    assert float(inside.sum()) >= top_p - 1e-9
    assert float(inside.sum() - inside.min()) < top_p
    outside = probabilities[0][kept == 0]
    assert len(outside) == 0 or float(outside.max()) <= float(inside.min())


def test_rows_that_join_and_leave_keep_their_own_settings_and_their_place_in_their_stream() -> None:
    logits = torch.zeros(4, 10)
    found = sampling.Sampler(torch.device("cpu"), frozenset({7}), max_rows=4, max_new_tokens=3)
    found.add([request("p0"), request("p1", temperature=0.0)], [[0.15, 0.25, 0.35], [0.9, 0.9, 0.9]])
    assert found.draw(logits[:2]).tolist() == [1, 0]
    found.add([request("p2"), request("p3")], [[0.45, 0.75, 0.65], [0.55, 0.95, 0.85]])
    assert found.draw(logits[:2]).tolist() == [4, 5], "the rows that are new"
    assert found.tokens.tolist() == [1, 0, 4, 5]
    found.keep([0, 3, 2])
    assert found.tokens[:3].tolist() == [1, 5, 4]
    assert found.draw(logits[:3]).tolist() == [2, 9, STOPPED]
    assert found.tokens[:3].tolist() == [2, 9, 7], "the model gets the token itself"


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("options", [{}, {"top_p": 0.5}, {"min_p": 0.1}, {"top_k": 3}])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nothing_is_drawn_from_logits_that_are_not_finite(value: float, options: Any, temperature: float) -> None:
    logits = torch.arange(12.0).repeat(3, 1)
    logits[1, 5] = value
    found = sampler_of(rows([0.0, 0.0, 0.999], temperature=temperature, **options))
    codes = found.draw(logits).tolist()
    assert codes[1] == BROKEN and 0 <= codes[0] < 12 and codes[2] == 11
    assert ((0 <= found.tokens) & (found.tokens < 12)).all(), "the model gets a token that it knows all the same"


def test_top_p_and_temperature_belong_to_the_row() -> None:
    logits = torch.tensor(HALVES).expand(4, -1)
    mixed = [
        (request("p0", top_p=0.3), [0.999]),
        (request("p0", top_p=0.6), [0.999]),
        (request("p0", top_p=1.0), [0.999]),
        (request("p0", temperature=0.0), [0.999]),
    ]
    assert sample_tokens(logits, mixed).tolist() == [1, 3, 4, 1]


def test_top_k_then_top_p() -> None:
    """top_k 3 leaves 4/7, 2/7, 1/7: top_p 0.6 needs two of them."""
    assert set(numpy.flatnonzero(draws(HALVES, top_k=3, top_p=0.6))) == {1, 3}
    assert set(numpy.flatnonzero(draws(HALVES, top_k=3, top_p=0.55))) == {1}


@pytest.mark.parametrize("uniform", [0.0, 1.0 - 2**-53, 0.5])
def test_a_token_of_probability_0_is_never_drawn(uniform: float) -> None:
    """The ends of the unit interval, with impossible tokens at both ends of the vocabulary."""
    logits = torch.tensor([[float("-inf")] * 3 + [0.0, 1.0, 2.0] + [float("-inf")] * 3])
    assert int(sample_tokens(logits, rows([uniform]))[0]) in (3, 4, 5)
    large = torch.full((1, 50000), float("-inf"))
    large[0, 100:40000] = torch.linspace(-3, 3, 39900)
    assert 100 <= int(sample_tokens(large, rows([uniform]))[0]) < 40000
    assert 100 <= int(sample_tokens(large, rows([uniform], top_p=0.5))[0]) < 40000
    assert 100 <= int(sample_tokens(large, rows([uniform], top_k=50))[0]) < 40000


def test_low_precision_logits_are_computed_in_float32() -> None:
    logits = torch.randn(1, 1000, generator=torch.Generator().manual_seed(3)).bfloat16()
    assert torch.equal(sample_tokens(logits, rows([0.4])), sample_tokens(logits.float(), rows([0.4])))


def test_a_large_vocabulary_is_covered_evenly() -> None:
    """49152 equal tokens: the cumulative sum in float32 must not lose the tail."""
    uniforms = [0.0, 0.25, 0.5, 0.75, 0.99999]
    found = sample_tokens(torch.zeros(5, 49152), rows(uniforms)).tolist()
    assert found == pytest.approx([uniform * 49152 for uniform in uniforms], abs=40)


@pytest.mark.parametrize(("min_p", "kept"), [(0.0, 5), (0.2, 3), (0.49, 2), (0.51, 1), (1.0, 1)])
def test_min_p_keeps_what_is_likely_beside_the_likeliest(min_p: float, kept: int) -> None:
    """HALVES are 1, 1/2, 1/4, 1/8 and 1/8 of the likeliest."""
    counts = draws(HALVES, min_p=min_p)
    order = sorted(range(5), key=lambda token: -HALVES[token])
    assert set(numpy.flatnonzero(counts)) == set(order[:kept])
    expected = numpy.array([math.exp(HALVES[token]) for token in order[:kept]])
    assert counts[order[:kept]] / counts.sum() == pytest.approx(expected / expected.sum(), abs=0.02)


def test_min_p_is_a_share_after_the_temperature_and_before_nothing_else() -> None:
    """At temperature 2 the shares of HALVES are their square roots: 1, 0.71, 0.5, 0.35."""
    assert numpy.count_nonzero(draws(HALVES, min_p=0.45, temperature=2.0)) == 3
    # top_p leaves the likeliest, so that min_p means the same beside it.
    assert numpy.count_nonzero(draws(HALVES, min_p=0.2, top_p=0.99)) == 3


def test_min_p_belongs_to_the_row() -> None:
    batch = [(request("p0", min_p=min_p), [0.999]) for min_p in (0.0, 0.2, 0.6)]
    tokens = sample_tokens(torch.tensor([[3.0, 2.0, 1.0]] * 3), batch)
    assert tokens.tolist() == [2, 1, 0]


def test_the_nucleus_of_a_large_vocabulary_is_that_of_the_whole_order() -> None:
    """Rows that need a few tokens, more than are looked at first, and all; each alone and all together."""
    stream = torch.Generator().manual_seed(0)
    noise = torch.rand(3, 5000, generator=stream, dtype=torch.float64)
    probabilities = (noise * torch.tensor([[40.0], [0.5], [5.0]])).softmax(dim=1)
    top_p = torch.tensor([0.9, 0.8, 1.0], dtype=torch.float64)
    together = _nucleus(probabilities, top_p)
    sizes = []
    for row, limit in enumerate(top_p.tolist()):
        order = probabilities[row].sort(descending=True).indices
        needed = int((probabilities[row][order].cumsum(0) < limit).sum()) + 1 if limit < 1 else len(order)
        expected = torch.zeros_like(probabilities[row])
        expected[order[:needed]] = probabilities[row][order[:needed]]
        alone = _nucleus(probabilities[row : row + 1], top_p[row : row + 1])[0]
        assert torch.equal(together[row], expected) and torch.equal(alone, expected)
        sizes.append(needed)
    assert sizes[0] < 512 < sizes[1] < sizes[2] == 5000


def test_a_token_that_was_ruled_out_is_not_drawn_where_sums_do_not_rise(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU adds up in another order for each sum, so the sum at a token of probability 0 may lie above the one before.

    Shares 0.4, 0, 0, 0.6 whose second and third sum are too large, and a last token that is ruled out.
    """
    sums = torch.tensor([0.4, 0.45, 0.45, 1.0, 1.0])
    monkeypatch.setattr(torch.Tensor, "cumsum", lambda self, dim: sums.expand(len(self), -1).contiguous())
    logits = torch.tensor([math.log(0.4), -math.inf, -math.inf, math.log(0.6), -math.inf])
    found = sample_tokens(logits.expand(4, -1), rows([0.2, 0.42, 0.7, 0.9999999999]))
    assert found.tolist() == [0, 3, 3, 3]
