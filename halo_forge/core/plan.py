"""From a configuration to what each cycle will do: the dry run and the real run ask the same plan."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from halo_forge.core.decisions import Assessment, Decision, decide, dropped_cycles
from halo_forge.core.lr_scheduler import peak_of_mass, planned_factors
from halo_forge.core.records import (
    Completion,
    CycleReport,
    Measurement,
    SamplingSettings,
    Selection,
    SelectionSettings,
    Trained,
    TrainingRow,
    TrainingSettings,
    Verdict,
)
from halo_forge.core.requests import PromptSets, Requests
from halo_forge.core.schedules import Schedule
from halo_forge.core.seeds import derive_seed
from halo_forge.core.selection import (
    PastCycle,
    kept_before,
    kept_candidates,
    refuse_too_few,
    replay,
    without_flaky,
)

__all__ = ["Plan", "PromptSets"]


@dataclass(frozen=True)
class Plan(Requests):
    """A pure function of configuration and prompts: what to ask, at which settings, in which cycle."""

    def sampling_settings(
        self, cycle: int, history: Sequence[Measurement], decisions: Sequence[Decision] = ()
    ) -> SamplingSettings:
        """The scheduled sampling values of a cycle; `history` ends with v_{cycle-2}, measured one cycle earlier.

        Every return to an earlier version added to the temperature.
        """
        engine, raft, at = self.config.engine, self.config.raft, self._at(cycle, history)
        hotter = decisions[-1].temperature_add if decisions else 0.0
        return SamplingSettings(
            cycle=cycle,
            temperature=engine.temperature.value(*at) + hotter,
            top_p=engine.top_p.value(*at),
            samples_per_prompt=round(raft.samples_per_prompt.value(*at)),
            min_p=engine.min_p.value(*at),
            curriculum_fraction=raft.curriculum_fraction.value(*at),
        )

    def resampling_settings(self, history: Sequence[Measurement], decisions: Sequence[Decision]) -> SamplingSettings:
        """Those of the same cycle again, after the decision to go back: only the temperature is another."""
        return self.sampling_settings(len(history), history[:-1], decisions)

    def selection_settings(self, cycle: int, history: Sequence[Measurement]) -> SelectionSettings:
        """The scheduled values of selection; `history` ends with v_{cycle-1}, just measured."""
        selection, at = self.config.selection, self._at(cycle, history)
        return SelectionSettings(
            cycle=cycle,
            reward_threshold=selection.reward_threshold.value(*at),
            keep_fraction=selection.keep_fraction.value(*at),
        )

    def decide(self, assessment: Assessment, decisions: Sequence[Decision], history: Sequence[Measurement]) -> Decision:
        """The decision of the cycle after `decisions`; `history` ends with the version that was judged."""
        metrics, cycle = [measurement.metrics for measurement in history], len(history)
        rate = self._learning_rate()
        return decide(
            self.config.decisions,
            decisions,
            assessment,
            metrics,
            self.num_cycles,
            at_floor=rate.stalled_at_floor(cycle, max(cycle, self.num_cycles), metrics),
            start_from=self.config.training.start_from,
            schedule_lowers=rate.lowers_on_decline,
        )

    def training_settings(
        self, cycle: int, history: Sequence[Measurement], num_rows: int, decisions: Sequence[Decision] = ()
    ) -> TrainingSettings:
        """The values to train `num_rows` rows at, and those of selection beside them; `history` as above.

        Every decline lowered the learning rate (or its mass), unless its schedule looks at declines itself.
        """
        training, at = self.config.training, self._at(cycle, history)
        chosen = self.selection_settings(cycle, history)
        epochs = training.num_train_epochs.value(*at)
        accumulation = round(training.gradient_accumulation_steps.value(*at))
        lowered = decisions[-1].learning_rate_factor if decisions else 1.0
        mass = None if training.learning_rate_mass is None else lowered * training.learning_rate_mass.value(*at)
        if training.learning_rate is not None:
            peak = lowered * training.learning_rate.value(*at)
        else:
            assert mass is not None  # one of the two is given (config/rules.py)
            peak = peak_of_mass(mass, planned_factors(training, num_rows, epochs, accumulation))
        return TrainingSettings(
            cycle=cycle,
            parent_version=self._parent(cycle, decisions),
            reward_threshold=chosen.reward_threshold,
            keep_fraction=chosen.keep_fraction,
            learning_rate=peak,
            num_train_epochs=epochs,
            max_grad_norm=training.max_grad_norm.value(*at),
            weight_decay=training.weight_decay.value(*at),
            gradient_accumulation_steps=accumulation,
            learning_rate_mass=mass,
            optimizer=self._optimizer(cycle, decisions),
            average_weight=training.average_weight.value(*at) if training.start_from == "average" else 1.0,
        )

    def tested_versions(self, chosen: int, last: int) -> list[int]:
        """The chosen and the last version, and the start model to compare with; none where test is not measured."""
        return sorted({0, chosen, last}) if self.config.evaluation.test_at_end and self.prompts.test else []

    def select(
        self,
        completions: Sequence[Completion],
        verdicts: Sequence[Verdict],
        settings: SelectionSettings,
        past: Sequence[PastCycle] = (),
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
            kept_before=kept_before(past),
        )
        refuse_too_few(selection, settings.cycle, self.config.raft.min_selected)
        return selection

    def to_check_again(self, candidates: Selection, verdicts: Sequence[Verdict]) -> list[tuple[str, int]]:
        """The samples to run once more before they are trained on; those that only compile can only compile again."""
        if not self.config.verifier.rerun_kept or self.config.selection.is_control:
            return []
        ran = {(verdict.prompt_id, verdict.index) for verdict in verdicts if verdict.stage in ("run", "tests")}
        return [key for key in candidates.kept if key in ran]

    def selected(
        self,
        candidates: Selection,
        train: tuple[Sequence[Completion], Sequence[Verdict]],
        again: Sequence[Verdict],
        past: Sequence[PastCycle],
        decisions: Sequence[Decision] = (),
    ) -> Selection:
        """The candidates whose second verdict is that of the first, and what of earlier cycles is trained on with them.

        Raises:
            TooFewSamples: Fewer than `raft.min_selected` candidates are left.
        """
        cycle, section = len(past) + 1, self.config.replay
        selection = without_flaky(candidates, train[1], again)
        refuse_too_few(selection, cycle, self.config.raft.min_selected)
        # From the start model, what the good cycles found has to be learned again.
        from_base = bool(decisions) and decisions[-1].action == "from_base"
        if section.kind == "none" and not from_base:
            return selection
        since = cycle - section.window if section.kind == "window" and not from_base else 1
        degraded = dropped_cycles(decisions)
        rows = replay(
            [each for each in past if each.cycle >= since and each.cycle not in degraded],
            kept_candidates(*train, selection),
            share=section.share,
            cap=self.config.selection.per_prompt_cap,
            seed=derive_seed(self.config.seed, "replay", cycle),
        )
        return dataclasses.replace(selection, replayed=rows)

    def training_rows(
        self, completions: Sequence[Completion], selection: Selection, past: Sequence[PastCycle] = ()
    ) -> list[TrainingRow]:
        """The selected samples with their prompts, in training order, and then those of earlier cycles."""
        prompts = {prompt.id: prompt for prompt in self.prompts.train}
        answers = {(completion.prompt_id, completion.index): completion for completion in completions}
        earlier = {(each.cycle, *candidate.key): candidate.completion for each in past for candidate in each.kept}
        chosen = [*(answers[key] for key in selection.kept), *(earlier[key] for key in selection.replayed)]
        return [TrainingRow(prompts[answer.prompt_id], answer) for answer in chosen]

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

    def _learning_rate(self) -> Schedule:
        training = self.config.training
        schedule = training.learning_rate_mass if training.learning_rate is None else training.learning_rate
        assert schedule is not None  # one of the two is given (config/rules.py)
        return schedule

    def _parent(self, cycle: int, decisions: Sequence[Decision]) -> int:
        if decisions:
            return decisions[-1].train_from
        return cycle - 1 if self.config.training.start_from in ("previous", "average") else 0

    def _optimizer(self, cycle: int, decisions: Sequence[Decision]) -> Literal["reset", "carry", "carry_moments"]:
        """How the optimizer starts: the start model has no state, and a return to an earlier version leaves it."""
        returned = bool(decisions) and decisions[-1].action in ("rollback", "from_base")
        fresh = returned or self._parent(cycle, decisions) == 0
        return "reset" if fresh else self.config.training.optimizer.across_cycles
