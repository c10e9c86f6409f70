"""What a set of prompts is checked by, in a line or two: a set that lost its tests must be seen before it is used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from halo_forge.core.records import Prompt
from halo_forge.core.wording import counted

_READ = ("reference", "wrong")


@dataclass(frozen=True, slots=True)
class SetSummary:
    """How the prompts of one set are checked.

    Attributes:
        kinds: Kind of tests -> number of prompts, the most frequent first; prompts without tests are in none.
        info: What rows carry besides, and no check reads: keys of `info`, sorted.
    """

    num_prompts: int
    kinds: Mapping[str, int]
    info: tuple[str, ...]

    @property
    def num_tested(self) -> int:
        """Prompts with tests."""
        return sum(self.kinds.values())

    @property
    def tests(self) -> str:
        """Such as "tests: 203 of 203 prompts (harness 180, stdio 23)"."""
        kinds = ", ".join(f"{kind} {number}" for kind, number in self.kinds.items())
        return f"tests: {self.num_tested} of {self.num_prompts} prompts{f' ({kinds})' if kinds else ''}"


def is_tested(prompt: Prompt) -> bool:
    """Whether a program of this prompt has more to do than to compile."""
    return prompt.tests is not None and prompt.tests.get("kind") != "compile"


def summarise(prompts: Sequence[Prompt]) -> SetSummary:
    """The summary of one set."""
    kinds = Counter(
        str(prompt.tests.get("kind", "of no kind"))
        for prompt in prompts
        if prompt.tests is not None and is_tested(prompt)
    )
    info = {key for prompt in prompts for key in prompt.info} - set(_READ)
    return SetSummary(
        len(prompts), dict(sorted(kinds.items(), key=lambda pair: (-pair[1], pair[0]))), tuple(sorted(info))
    )


def lines_of(sets: Mapping[str, SetSummary]) -> Iterator[str]:
    """One line on the tests of each set, and one on what is kept as info in any of them."""
    for name, summary in sets.items():
        yield f"{name} {summary.tests}"
    if kept := sorted({key for summary in sets.values() for key in summary.info}):
        yield f"kept as info: {', '.join(kept)}"


def warnings_of(sets: Mapping[str, SetSummary], runs_programs: bool, stages: Sequence[str]) -> Iterator[str]:
    """What a "pass" means where there are no tests.

    Args:
        sets: Name, as a message should call it, -> summary.
        runs_programs: A program without tests is only compiled; otherwise the verifier knows what to do with it.
        stages: Of the verifier.
    """
    if not runs_programs:
        return
    if "tests" not in stages:
        means = "compiles and runs to its end" if "run" in stages else "compiles"
        yield f"verifier.stages is [{', '.join(stages)}]: no tests are used; a pass means that a program {means}"
        return
    for name, summary in sets.items():
        num_without = summary.num_prompts - summary.num_tested
        if num_without == summary.num_prompts:
            yield f"no prompt of {name} has tests: a pass means that a program compiles, whatever it does"
        elif num_without:
            yield (
                f"{num_without} of {summary.num_prompts} prompts of {name} without tests: for these a pass means that a"
                " program compiles, whatever it does"
            )


def shared_tasks(sets: Mapping[str, Sequence[Prompt]]) -> Iterator[str]:
    """A warning for each pair of sets that hold the same messages under different ids.

    Args:
        sets: Name, as a message should call it, -> prompts.
    """
    earlier: dict[str, dict[tuple[tuple[str, str], ...], str]] = {}
    for name, prompts in sets.items():
        own = {tuple((each["role"], each["content"].strip()) for each in p.messages): p.id for p in prompts}
        for other, theirs in earlier.items():
            if same := [(theirs[messages], own[messages]) for messages in own if messages in theirs]:
                be = "is" if len(same) == 1 else "are"
                yield (
                    f"{counted(len(same), 'prompt')} of {name} {be} in {other} too, under another id ({same[0][1]!r} is"
                    f" {same[0][0]!r}): a model must not be measured on what it was trained on"
                )
        earlier[name] = own
