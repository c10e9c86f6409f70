"""The requests of a run: the prompts that `prompt_sampling` chooses, each with its seed and sampling settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from halo_forge.core import prompt_sampling
from halo_forge.core.prompt_sampling import PromptStats
from halo_forge.core.records import Prompt, Sample, SampleRequest, SamplingSettings, Training, pass_counts
from halo_forge.core.seeds import derive_seed

if TYPE_CHECKING:
    from halo_forge.config import RaftConfig  # built of the settings of engines and verifiers, so it lies above


@dataclass(frozen=True)
class PromptSets:
    """The three sets: train is trained on, dev decides, test is sampled once at the end."""

    train: tuple[Prompt, ...]
    dev: tuple[Prompt, ...]
    test: tuple[Prompt, ...]

    def by_id(self) -> dict[str, Prompt]:
        """All prompts of the three sets; ids are unique across them (checked when they are loaded)."""
        return {prompt.id: prompt for prompt in (*self.train, *self.dev, *self.test)}

    def by_name(self) -> dict[str, tuple[Prompt, ...]]:
        """Name of a set -> its prompts."""
        return {"train": self.train, "dev": self.dev, "test": self.test}


@dataclass(frozen=True)
class Requests:
    """Every request of a run."""

    config: RaftConfig
    prompts: PromptSets

    @property
    def num_cycles(self) -> int:
        """Cycles that train; one more is the final evaluation."""
        return self.config.raft.num_cycles

    def train_prompts(
        self, cycle: int, curriculum_fraction: float = 1.0, past: Sequence[Training] = ()
    ) -> list[Prompt]:
        """The train prompts of a cycle, given the results of earlier cycles: all, or a choice of them."""
        raft, seed = self.config.raft, self.config.seed
        stats = {
            prompt_id: PromptStats(training.cycle, *counts)
            for training in past
            for prompt_id, counts in training.pass_counts.items()
        }
        allowed = prompt_sampling.easiest(self.prompts.train, curriculum_fraction, raft.curriculum_by, stats, seed)
        if raft.prompt_weights == "learnable":
            return prompt_sampling.learnable(allowed, raft.prompts_per_cycle, stats, cycle, raft.anchor_fraction, seed)
        num = len(allowed) if raft.prompts_per_cycle is None else raft.prompts_per_cycle
        return prompt_sampling.next_in_turn(allowed, num, cycle, seed)

    def train_requests(
        self, settings: SamplingSettings, past: Sequence[Training] = (), seed_tag: str = "sample"
    ) -> list[SampleRequest]:
        """What the cycle of `settings` samples, or the first round of it; nothing in the final evaluation."""
        cycle, num = settings.cycle, settings.samples_per_prompt
        if cycle > self.num_cycles:
            return []
        if self.config.raft.sampling == "budgeted":
            num = prompt_sampling.first_round(num)
        prompts = self.train_prompts(cycle, settings.curriculum_fraction, past)
        return self._train_requests(prompts, {prompt.id: range(num) for prompt in prompts}, settings, seed_tag, cycle)

    def second_round(
        self, settings: SamplingSettings, samples: Sequence[Sample], seed_tag: str = "sample"
    ) -> list[SampleRequest]:
        """The second round of budgeted sampling, after the samples of the first; else nothing."""
        if self.config.raft.sampling == "uniform":
            return []
        num, counts = settings.samples_per_prompt, pass_counts(samples)
        further = prompt_sampling.second_round(counts, num, derive_seed(self.config.seed, "budget", settings.cycle))
        first = prompt_sampling.first_round(num)
        prompts = [prompt for prompt in self.prompts.train if prompt.id in counts]
        indexes = {prompt_id: range(first, first + more) for prompt_id, more in further.items()}
        return self._train_requests(prompts, indexes, settings, seed_tag, settings.cycle)

    def _train_requests(
        self,
        prompts: Sequence[Prompt],
        indexes: Mapping[str, range],
        settings: SamplingSettings,
        *names: str | int,
    ) -> list[SampleRequest]:
        return [
            self._request(prompt, index, names, settings.temperature, settings.top_p, settings.min_p)
            for prompt in prompts
            for index in indexes[prompt.id]
        ]

    def confirm_requests(self, version: int) -> list[SampleRequest]:
        """The dev prompts again, with seeds that only the confirmation of a suspect v_version uses."""
        return self._evaluation_requests(self.prompts.dev, "confirm", version)

    def resampling_requests(self) -> list[SampleRequest]:
        """The dev prompts again, with seeds that only the confirmation of a lead at the end uses."""
        return self._evaluation_requests(self.prompts.dev, "confirm_lead")

    def dev_requests(self) -> list[SampleRequest]:
        """The same requests, seeds included, for every policy version: differences between versions are paired."""
        return self._evaluation_requests(self.prompts.dev, "dev")

    def test_requests(self) -> list[SampleRequest]:
        """Sampled once, at the end, from the versions in `tested_versions`."""
        return self._evaluation_requests(self.prompts.test, "test")

    def _evaluation_requests(self, prompts: Sequence[Prompt], *names: str | int) -> list[SampleRequest]:
        evaluation = self.config.evaluation
        return [
            self._request(prompt, index, names, evaluation.temperature, evaluation.top_p)
            for prompt in prompts
            for index in range(evaluation.samples_per_prompt)
        ]

    def _request(
        self,
        prompt: Prompt,
        index: int,
        names: tuple[str | int, ...],
        temperature: float,
        top_p: float,
        min_p: float = 0.0,
    ) -> SampleRequest:
        return SampleRequest(
            prompt_id=prompt.id,
            index=index,
            seed=derive_seed(self.config.seed, *names, prompt.id, index),
            temperature=temperature,
            top_p=top_p,
            top_k=self.config.engine.top_k,
            max_new_tokens=self.config.engine.max_new_tokens,
            min_p=min_p,
        )
