"""From a configuration to what each cycle will do: the dry run and the real run ask the same plan."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from halo_forge.config import RaftConfig
from halo_forge.errors import TooFewSamples
from halo_forge.records import (
    Completion,
    CycleReport,
    Measurement,
    Prompt,
    SampleRequest,
    SamplingSettings,
    Selection,
    Trained,
    TrainingSettings,
    Verdict,
)
from halo_forge.seeds import derive_seed
from halo_forge.selection import without_flaky
from halo_forge.training import TrainingRow


@dataclass(frozen=True)
class PromptSets:
    """The three sets: train is learned from, dev decides, test is touched once at the end."""

    train: tuple[Prompt, ...]
    dev: tuple[Prompt, ...]
    test: tuple[Prompt, ...]

    def by_id(self) -> dict[str, Prompt]:
        """All prompts of the three sets; ids are unique across them (checked when they are loaded)."""
        return {prompt.id: prompt for prompt in (*self.train, *self.dev, *self.test)}


@dataclass(frozen=True)
class Plan:
    """A pure function of configuration and prompts: what to ask, at which settings, in which cycle."""

    config: RaftConfig
    prompts: PromptSets

    @property
    def num_cycles(self) -> int:
        """Cycles that train; the loop runs one lap more."""
        return self.config.raft.num_cycles

    @property
    def choose_by(self) -> str:
        """The dev metric whose highest value names the version to keep."""
        return self.config.evaluation.choose_by

    def sampling_settings(self, cycle: int, history: Sequence[Measurement]) -> SamplingSettings:
        """The scheduled sampling values of a cycle; `history` ends with v_{cycle-2}, measured one lap earlier."""
        engine, raft, at = self.config.engine, self.config.raft, self._at(cycle, history)
        return SamplingSettings(
            cycle=cycle,
            temperature=engine.temperature.value(*at),
            top_p=engine.top_p.value(*at),
            samples_per_prompt=round(raft.samples_per_prompt.value(*at)),
        )

    def training_settings(self, cycle: int, history: Sequence[Measurement]) -> TrainingSettings:
        """The scheduled values of selection and training; `history` ends with v_{cycle-1}, just measured."""
        training, selection, at = self.config.training, self.config.selection, self._at(cycle, history)
        return TrainingSettings(
            cycle=cycle,
            reward_threshold=selection.reward_threshold.value(*at),
            keep_fraction=selection.keep_fraction.value(*at),
            learning_rate=training.learning_rate.value(*at),
            num_train_epochs=training.num_train_epochs.value(*at),
            max_grad_norm=training.max_grad_norm.value(*at),
            weight_decay=training.weight_decay.value(*at),
        )

    def train_prompts(self, cycle: int) -> list[Prompt]:
        """The train prompts of a cycle: all of them, or the next `prompts_per_cycle` of endless seeded shuffles."""
        share = self.config.raft.prompts_per_cycle
        if share is None or share >= len(self.prompts.train):
            return list(self.prompts.train)
        start = (cycle - 1) * share
        chosen: list[Prompt] = []
        for position in range(start, start + share):
            deck = self._shuffled(position // len(self.prompts.train))
            chosen.append(deck[position % len(deck)])
        # Where one shuffle ends and the next begins a prompt may come twice; it is asked once.
        return list({prompt.id: prompt for prompt in chosen}.values())

    def train_requests(self, cycle: int, settings: SamplingSettings) -> list[SampleRequest]:
        """What cycle `cycle` samples from v_{cycle-1}; nothing in the last lap, which only measures."""
        if cycle > self.num_cycles:
            return []
        return [
            self._request(prompt, index, ("sample", cycle), settings.temperature, settings.top_p)
            for prompt in self.train_prompts(cycle)
            for index in range(settings.samples_per_prompt)
        ]

    def dev_requests(self) -> list[SampleRequest]:
        """The same requests, seeds included, for every policy version: differences between versions are paired."""
        return self._evaluation_requests(self.prompts.dev, "dev")

    def test_requests(self) -> list[SampleRequest]:
        """Asked once, at the end, of the versions in `tested_versions`."""
        return self._evaluation_requests(self.prompts.test, "test")

    def tested_versions(self, chosen: int) -> list[int]:
        """The chosen version, and the start model to compare it with; none where test is not to be measured."""
        return sorted({0, chosen}) if self.config.evaluation.test_at_end and self.prompts.test else []

    def select(
        self, completions: Sequence[Completion], verdicts: Sequence[Verdict], settings: TrainingSettings
    ) -> Selection:
        """The configured selection at this cycle's settings; flaky samples are still in it.

        Raises:
            TooFewSamples: Fewer than `raft.min_selected` are left.
        """
        selection = self.config.selection.select(
            completions,
            verdicts,
            threshold=settings.reward_threshold,
            keep_fraction=settings.keep_fraction,
            seed=derive_seed(self.config.seed, "selection", settings.cycle),
        )
        self._refuse_too_few(selection, settings.cycle)
        return selection

    def to_check_again(self, candidates: Selection, verdicts: Sequence[Verdict]) -> list[tuple[str, int]]:
        """The samples to run once more before they are trained on; those that only compile can only compile again."""
        if not self.config.verifier.rerun_kept:
            return []
        ran = {(verdict.prompt_id, verdict.index) for verdict in verdicts if verdict.stage in ("run", "tests")}
        return [key for key in candidates.kept if key in ran]

    def without_flaky(
        self, candidates: Selection, verdicts: Sequence[Verdict], again: Sequence[Verdict], cycle: int
    ) -> Selection:
        """The candidates without those whose second verdict differs from the first.

        Raises:
            TooFewSamples: Fewer than `raft.min_selected` are left.
        """
        selection = without_flaky(candidates, verdicts, again)
        self._refuse_too_few(selection, cycle)
        return selection

    def _refuse_too_few(self, selection: Selection, cycle: int) -> None:
        num_samples = len(selection.kept) + sum(len(keys) for keys in selection.dropped.values())
        if len(selection.kept) < self.config.raft.min_selected:
            truncated = len(selection.dropped.get("truncated", ())) > num_samples / 2
            advice = (
                "a larger engine.max_new_tokens, or an engine.stop string that ends an answer"
                if truncated
                else "easier prompts, more samples_per_prompt, or a lower selection.reward_threshold (such as 0.5: all"
                " that compiles)"
            )
            dropped = ", ".join(f"{reason} {len(keys)}" for reason, keys in selection.dropped.items() if keys)
            hint = (
                "nothing is lost and --resume continues here, but the same samples will give the same answer: start a"
                f" new run with {advice}; model.adapter can start it from an adapter of this run"
            )
            if len(selection.kept) + len(selection.dropped.get("flaky_unknown", ())) >= self.config.raft.min_selected:
                hint = (
                    "the verifier itself failed in the second run (second_verdicts.jsonl of the cycle says how): mend"
                    f" that, then `halo-forge raft resume RUN --from-cycle {cycle}`"
                )
            raise TooFewSamples(
                f"cycle {cycle}: {len(selection.kept)} of {num_samples} samples were selected, fewer than"
                f" raft.min_selected ({self.config.raft.min_selected}); dropped: {dropped}",
                hint,
            )

    def training_rows(self, completions: Sequence[Completion], selection: Selection) -> list[TrainingRow]:
        """The selected samples with their prompts, in training order."""
        prompts = {prompt.id: prompt for prompt in self.prompts.train}
        answers = {(completion.prompt_id, completion.index): completion for completion in completions}
        return [TrainingRow(prompts[prompt_id], answers[prompt_id, index]) for prompt_id, index in selection.kept]

    def report(
        self, measurement: Measurement, settings: TrainingSettings, selection: Selection, trained: Trained
    ) -> CycleReport:
        """One cycle in one file."""
        return CycleReport(
            cycle=settings.cycle,
            policy_version=measurement.policy_version,
            num_kept=len(selection.kept),
            num_dropped={reason: len(keys) for reason, keys in selection.dropped.items()},
            settings=settings.to_row(),
            measurement=measurement.metrics,
            trained=trained.metrics,
            adapter_digest=trained.adapter_digest,
        )

    def _at(self, cycle: int, history: Sequence[Measurement]) -> tuple[int, int, list[Mapping[str, float]]]:
        return cycle, self.num_cycles, [measurement.metrics for measurement in history]

    def _evaluation_requests(self, prompts: Sequence[Prompt], name: str) -> list[SampleRequest]:
        evaluation = self.config.evaluation
        return [
            self._request(prompt, index, (name,), evaluation.temperature, evaluation.top_p)
            for prompt in prompts
            for index in range(evaluation.samples_per_prompt)
        ]

    def _shuffled(self, round_number: int) -> list[Prompt]:
        deck = sorted(self.prompts.train, key=lambda prompt: prompt.id)
        random.Random(derive_seed(self.config.seed, "prompts", round_number)).shuffle(deck)
        return deck

    def _request(
        self, prompt: Prompt, index: int, names: tuple[str | int, ...], temperature: float, top_p: float
    ) -> SampleRequest:
        return SampleRequest(
            prompt_id=prompt.id,
            index=index,
            seed=derive_seed(self.config.seed, *names, prompt.id, index),
            temperature=temperature,
            top_p=top_p,
            top_k=self.config.engine.top_k,
            max_new_tokens=self.config.engine.max_new_tokens,
        )
