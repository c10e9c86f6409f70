"""Likeness of answers, word by word, against numbers computed by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halo_forge.core.metrics import SetFacts
from halo_forge.core.metrics.ngrams import (
    VOCABULARY,
    bleu,
    expectation_adjusted_distinct,
    measure,
    self_bleu,
    vendi,
    words,
)
from halo_forge.core.records import Completion, Sample, Verdict

APART = [words(text) for text in ("a b c d e", "f g h i j", "k l m n o", "p q r s t")]
ANSWERS = st.lists(st.lists(st.sampled_from("abcd"), min_size=1, max_size=9).map(tuple), min_size=2, max_size=5)


def test_words() -> None:
    assert words("for (int i=0; i<10;)\n") == tuple("for ( int i = 0 ; i < 10 ; )".split())


def test_equal_and_unlike_answers() -> None:
    same = [APART[0]] * 4
    assert (self_bleu(same), self_bleu(APART)) == (pytest.approx(1.0), 0.0)
    assert (vendi(same), vendi(APART)) == (pytest.approx(1.0), pytest.approx(4.0))
    # Two pairs of equals are two answers.
    assert vendi([APART[0], APART[0], APART[1], APART[1]]) == pytest.approx(2.0)


def test_bleu_by_hand() -> None:
    # Words 5/6 (the second "the" is matched, the third is not), pairs 3/5, triples 2/4, fours 1/3.
    answer, reference = words("the cat sat on the the"), words("the cat sat on a the mat")
    expected = math.exp(1 - 7 / 6) * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25
    assert bleu(answer, [reference]) == pytest.approx(expected)
    # No penalty where another reference is as long; its counts help, but each word only up to its most in one.
    assert bleu(answer, [reference, words("x x x x x x")]) == pytest.approx(expected / math.exp(1 - 7 / 6))


def test_vendi_by_hand() -> None:
    # One word each, in common half: cosine of (a, b, ab) and (a, c, ac) is 1/3; eigenvalues 2/3 and 1/3.
    entropy = -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3))
    assert vendi([("a", "b"), ("a", "c")]) == pytest.approx(math.exp(entropy))


def test_distinct_pairs_over_those_expected() -> None:
    # 16 pairs, all different; as many draws from 50,000 kinds give a little less than 16.
    expected = VOCABULARY * (1 - (1 - 1 / VOCABULARY) ** 16)
    assert expectation_adjusted_distinct(APART) == pytest.approx(16 / expected)
    assert expectation_adjusted_distinct([APART[0]] * 4) == pytest.approx(4 / expected)
    assert expectation_adjusted_distinct([("a",)]) == 0.0


def facts(texts: dict[str, list[tuple[str, str]]]) -> SetFacts:
    keys = [(prompt_id, index, *each) for prompt_id, found in texts.items() for index, each in enumerate(found)]
    completions = [Completion(prompt_id, index, text, (), "stop", 0, 0) for prompt_id, index, text, _ in keys]
    verdicts = [
        Verdict(prompt_id=prompt_id, index=index, stage="tests", status=status, reward=1.0)  # type: ignore[arg-type]
        for prompt_id, index, _, status in keys
    ]
    return SetFacts(tuple(map(Sample, completions, verdicts)), tuple(texts), 8)


def test_four_answers_of_each_prompt_are_taken_and_prompts_with_fewer_left_out() -> None:
    four = [("a b c d e", "passed")] * 4
    found = measure(facts({"p": [*four, ("z z z", "passed")], "q": [("x y", "passed")] * 3}))
    assert found["diversity/vendi"] == found["diversity/passing/vendi"] == pytest.approx(1.0)
    assert measure(facts({"q": [("x y", "passed")] * 3})) == {}
    assert measure(facts({"p": [*four[:3], ("", "passed")]})) == {}


def test_errors_are_left_out_and_passing_answers_counted_apart() -> None:
    alike, unlike = [("a b c d e", "passed")] * 4, [(" ".join(each), "failed") for each in APART]
    found = measure(facts({"p": [("z", "error"), *unlike[:2], *alike]}))
    assert found["diversity/passing/self_bleu"] == pytest.approx(1.0)
    assert found["diversity/self_bleu"] < 0.9
    assert "diversity/passing/vendi" not in measure(facts({"p": unlike}))


@settings(max_examples=50, deadline=None)
@given(ANSWERS)
def test_bounds(answers: list[tuple[str, ...]]) -> None:
    assert 1 - 1e-6 <= vendi(answers) <= len(answers) + 1e-6
    assert -1e-9 <= self_bleu(answers) <= 1 + 1e-9
    assert 0 <= expectation_adjusted_distinct(answers) <= 1.01
