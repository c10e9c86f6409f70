"""The comparison of outputs against oracles written in another way: regular expressions and exact fractions."""

from __future__ import annotations

import re
from fractions import Fraction

from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from halo_forge.core.output_rule import OutputRule
from halo_forge.verifiers.comparison import compare_lines, compare_output

# Few tokens and much white space: then many pairs are equal under one rule and not under the next.
TOKENS = st.sampled_from(["1", "1.0", "2", "-0", "0", "x", "é", "1e1", "10", "0.1", ".1", "1,", "nan"])
SPACES = st.sampled_from([" ", "  ", "\t", "\n", "\r\n", " \n", "\n\n", "\x0b", "\f", ""])


@st.composite
def texts(draw: st.DrawFn) -> str:
    words = draw(st.lists(st.tuples(TOKENS, SPACES), max_size=5))
    return draw(SPACES) + "".join(token + space for token, space in words)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[str, str]:
    """Two texts, of which the second is often the first with other white space."""
    first = draw(texts())
    if draw(st.booleans()):
        return first, draw(texts())
    return first, re.sub(r"\s+", lambda found: draw(st.just(found[0]) | SPACES.filter(bool)), first)


def line_ends(text: str) -> str:
    return re.sub(r"\n+\Z", "", re.sub(r"[ \t\r\x0b\x0c]+(?=\n|\Z)", "", text))


@given(pairs())
@examples(300)
def test_white_space_follows_the_oracle(pair: tuple[str, str]) -> None:
    found, expected = pair
    right = {
        "exact": found == expected,
        "line_ends": line_ends(found) == line_ends(expected),
        "tokens": re.findall(r"[^ \t\n\r\x0b\x0c]+", found) == re.findall(r"[^ \t\n\r\x0b\x0c]+", expected),
    }
    for whitespace, wanted in right.items():
        difference = compare_output(found.encode(), expected, OutputRule(whitespace=whitespace))  # type: ignore[arg-type]
        assert (difference is None) == wanted, (whitespace, difference)


DIGITS = st.text("0123456789", min_size=1, max_size=8)
NUMBERS = st.builds(
    lambda sign, whole, part, power: f"{sign}{whole}{part}{power}",
    st.sampled_from(["", "-", "+"]),
    DIGITS,
    st.just("") | DIGITS.map(".{}".format),
    st.just("") | st.integers(-9, 9).map("e{}".format),
)
TOLERANCES = st.sampled_from([None, 0.0, 1e-9, 1e-6, 0.001, 0.1, 0.5, 3.0])


@given(NUMBERS, NUMBERS, TOLERANCES, TOLERANCES)
@examples(300)
def test_tolerance_follows_exact_arithmetic(
    found: str, expected: str, absolute: float | None, relative: float | None
) -> None:
    rule = OutputRule(absolute_tolerance=absolute, relative_tolerance=relative)
    apart = abs(Fraction(found) - Fraction(expected))
    right = found == expected
    if absolute is not None:
        right |= apart <= Fraction(repr(absolute))
    if relative is not None:
        right |= apart <= Fraction(repr(relative)) * abs(Fraction(expected))
    assert (compare_output(found.encode(), expected, rule) is None) == right


@given(NUMBERS, st.integers(-3, 3), st.sampled_from([1e-6, 0.01, 0.5]))
@examples(200)
def test_the_edge_of_a_tolerance_is_inside(expected: str, steps: int, tolerance: float) -> None:
    """A number that is off by the tolerance, and one more digit, in text."""
    unit = Fraction(repr(tolerance))
    off = Fraction(expected) + (1 if steps > 0 else -1) * unit * abs(steps) / 2
    found = f"{off.numerator * 10**20 // off.denominator:d}e-20"
    rule = OutputRule(absolute_tolerance=tolerance)
    right = abs(Fraction(found) - Fraction(expected)) <= unit
    assert (compare_output(found.encode(), expected, rule) is None) == right


@given(texts(), st.lists(texts(), min_size=1, max_size=3), st.sampled_from(["exact", "line_ends", "tokens"]))
@examples(200)
def test_several_right_outputs_are_right_exactly_if_one_of_them_is(
    found: str, expected: list[str], whitespace: str
) -> None:
    rule = OutputRule(whitespace=whitespace, absolute_tolerance=0.5)  # type: ignore[arg-type]
    alone = [compare_output(found.encode(), each, rule) is None for each in expected]
    assert (compare_output(found.encode(), expected, rule) is None) == any(alone)


@given(st.lists(st.tuples(TOKENS, TOKENS), min_size=1, max_size=6), TOLERANCES)
@examples(200)
def test_lines_of_a_harness_are_counted_one_by_one(lines: list[tuple[str, str]], absolute: float | None) -> None:
    rule = OutputRule(absolute_tolerance=absolute)
    output = "".join(f"{found}\n" for found, _ in lines).encode()
    each = [compare_output(found.encode(), wanted, rule) is None for found, wanted in lines]
    compared = compare_lines(output, [wanted for _, wanted in lines], True, rule)
    assert (compared.num_equal, compared.right) == (sum(each), all(each))


@given(st.binary(max_size=60), st.text(max_size=30), st.sampled_from(["exact", "line_ends", "tokens"]), TOLERANCES)
@examples(200)
def test_no_output_breaks_the_comparison(output: bytes, expected: str, whitespace: str, absolute: float | None) -> None:
    rule = OutputRule(whitespace=whitespace, absolute_tolerance=absolute)  # type: ignore[arg-type]
    compare_output(output, expected, rule)
    compare_lines(output, [expected], False, rule)
    assert compare_output(expected.encode("utf-8", errors="backslashreplace"), expected, rule) is None
