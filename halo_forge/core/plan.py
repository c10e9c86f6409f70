"""What each cycle does, as a function of the configuration: the dry run and the real run use the same plan."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from halo_forge.core.decisions import Assessment, DecisionsSection, decide, dropped_cycles
from halo_forge.core.lr_scheduler import peak_of_mass, planned_factors
from halo_forge.core.records import (
    CycleReport,
    Decision,
    Key,
    Measurement,
    PolicyVersion,
    Sample,
    SamplingSettings,
    Selection,
    SelectionSettings,
    Trained,
    Training,
    TrainingRow,
    TrainingSettings,
    Verdict,
    history_row,
    trainings,
)
from halo_forge.core.requests import PromptSets, Requests
from halo_forge.core.schedules import Schedule
from halo_forge.core.seeds import derive_seed
from halo_forge.core.selection import kept_before, kept_samples, refuse_too_few, replay, without_flaky

if TYPE_CHECKING:
    from halo_forge.config import RaftConfig  # built of the settings of engines and verifiers, so it lies above

__all__ = ["Plan", "PromptSets"]

History = Sequence[Mapping[str, float]]
"""What schedules see: the metrics of v_0, v_1 ..."""


@dataclass(frozen=True)
class Plan(Requests):
    """A pure function of configuration, prompts and past versions: what to do in each cycle, with which settings.

    `versions` are v_0 .. v_{cycle-1} once the cycle's decision is made, and v_0 .. v_{cycle-2} before that.

    Attributes:
        earlier: Of a run that continues another one: (cycle, configuration of the cycles before it), in order.
    """

    earlier: tuple[tuple[int, RaftConfig], ...] = ()

    def in_cycle(self, cycle: int) -> Plan:
        """The plan of one cycle: in a run that continues another one, early cycles are planned as they were there."""
        config = next((config for first, config in self.earlier if cycle < first), self.config)
        return Plan(config, self.prompts)

    def sampling_settings(self, versions: Sequence[PolicyVersion]) -> SamplingSettings:
        """The scheduled sampling values of the cycle after `versions`; v_{cycle-1} is not measured yet.

        Every return to an earlier version has added to the temperature.
        """
        hotter = versions[-1].decision.temperature_add if versions else 0.0
        return self._sampling_settings(_history(versions), len(versions) + 1, hotter)

    def resampling_settings(self, versions: Sequence[PolicyVersion]) -> SamplingSettings:
        """The values for resampling the same cycle after a return to an earlier version: only temperature differs."""
        return self._sampling_settings(_history(versions[:-1]), len(versions), versions[-1].decision.temperature_add)

    def _sampling_settings(self, history: History, cycle: int, temperature_add: float) -> SamplingSettings:
        engine, raft, at = self.config.engine, self.config.raft, (cycle, self.num_cycles, history)
        return SamplingSettings(
            cycle=cycle,
            temperature=engine.temperature.value(*at) + temperature_add,
            top_p=engine.top_p.value(*at),
            samples_per_prompt=round(raft.samples_per_prompt.value(*at)),
            min_p=engine.min_p.value(*at),
            curriculum_fraction=raft.curriculum_fraction.value(*at),
        )

    def decide(
        self,
        assessment: Assessment,
        earlier: Sequence[PolicyVersion],
        measurement: Measurement,
        training: Training | None,
    ) -> Decision:
        """The decision that follows from the assessment of the version that was just measured.

        Args:
            earlier: All versions before it.
            measurement: Its measurement.
            training: The training that produced it.
        """
        rate, cycle = self._learning_rate(), len(earlier) + 1
        history = [*_history(earlier), history_row(measurement, training, assessment.outcome)]
        return decide(
            self.decisions(measurement),
            [version.decision for version in earlier],
            assessment,
            history,
            self.num_cycles,
            at_floor=rate.stalled_at_floor(cycle, max(cycle, self.num_cycles), history),
            start_from=self.config.training.start_from,
        )

    def decisions(self, measurement: Measurement) -> DecisionsSection:
        """The settings as they are applied.

        A schedule that lowers itself after a decline leaves nothing for the decisions to lower.

        Where no dev prompt has tests, a pass is a compilation, and what is compared is called so.
        """
        changes: dict[str, Any] = {"learning_rate_factor": 1.0} if self._learning_rate().lowers_on_decline else {}
        metrics = measurement.metrics
        if (
            self.config.decisions.metric == "dev/pass_rate"
            and "dev/pass_rate" not in metrics
            and "dev/compile_rate" in metrics
        ):
            changes["metric"] = "dev/compile_rate"
        return self.config.decisions.model_copy(update=changes)

    def selection_settings(self, versions: Sequence[PolicyVersion]) -> SelectionSettings:
        """The scheduled values of selection."""
        selection, at = self.config.selection, self._at(versions)
        return SelectionSettings(
            cycle=len(versions),
            reward_threshold=selection.reward_threshold.value(*at),
            keep_fraction=selection.keep_fraction.value(*at),
        )

    def select(
        self, samples: Sequence[Sample], settings: SelectionSettings, versions: Sequence[PolicyVersion]
    ) -> Selection:
        """The configured selection at this cycle's settings; flaky samples are still in it.

        Raises:
            TooFewSamples: Fewer than `raft.min_selected` are left.
        """
        selection = self.config.selection.select(
            samples,
            threshold=settings.reward_threshold,
            keep_fraction=settings.keep_fraction,
            seed=derive_seed(self.config.seed, "selection", settings.cycle),
            kept_before=kept_before(trainings(versions)),
        )
        refuse_too_few(selection, settings.cycle, self.config.raft.min_selected)
        return selection

    def to_check_again(self, candidates: Selection, samples: Sequence[Sample]) -> list[Key]:
        """The samples to run a second time before training; samples that were only compiled are not run."""
        if not self.config.verifier.rerun_kept or self.config.selection.is_control:
            return []
        ran = {sample.key for sample in samples if sample.verdict.stage in ("run", "tests")}
        return [key for key in candidates.kept if key in ran]

    def selected(
        self,
        candidates: Selection,
        samples: Sequence[Sample],
        again: Sequence[Verdict],
        versions: Sequence[PolicyVersion],
    ) -> Selection:
        """The candidates whose second verdict equals the first, and samples of earlier cycles to train on with them.

        Raises:
            TooFewSamples: Fewer than `raft.min_selected` candidates are left.
        """
        cycle, section = len(versions), self.config.replay
        selection = without_flaky(candidates, samples, again)
        refuse_too_few(selection, cycle, self.config.raft.min_selected)
        # Training from the start model has to learn again what the good cycles found.
        from_base = versions[-1].decision.action == "from_base"
        if section.kind == "none" and not from_base:
            return selection
        since = cycle - section.window if section.kind == "window" and not from_base else 1
        degraded = dropped_cycles([version.decision for version in versions])
        rows = replay(
            [each for each in trainings(versions) if each.cycle >= since and each.cycle not in degraded],
            kept_samples(samples, selection),
            share=section.share,
            cap=self.config.selection.per_prompt_cap,
            seed=derive_seed(self.config.seed, "replay", cycle),
        )
        return dataclasses.replace(selection, replayed=rows)

    def training_rows(
        self, samples: Sequence[Sample], selection: Selection, versions: Sequence[PolicyVersion]
    ) -> list[TrainingRow]:
        """The selected samples with their prompts, in training order, then those of earlier cycles."""
        prompts = {prompt.id: prompt for prompt in self.prompts.train}
        earlier = {(each.cycle, *sample.key): sample for each in trainings(versions) for sample in each.kept}
        chosen = [*kept_samples(samples, selection), *(earlier[key] for key in selection.replayed)]
        return [TrainingRow(prompts[sample.prompt_id], sample.completion) for sample in chosen]

    def training_settings(self, versions: Sequence[PolicyVersion], num_rows: int) -> TrainingSettings:
        """The settings for training on `num_rows` rows.

        Every decline has lowered the learning rate (or its mass), unless its schedule lowers itself after a decline.
        """
        training, decision, at = self.config.training, versions[-1].decision, self._at(versions)
        epochs = training.num_train_epochs.value(*at)
        accumulation = round(training.gradient_accumulation_steps.value(*at))
        lowered = decision.learning_rate_factor
        mass = None if training.learning_rate_mass is None else lowered * training.learning_rate_mass.value(*at)
        if training.learning_rate is not None:
            peak = lowered * training.learning_rate.value(*at)
        else:
            assert mass is not None  # one of the two is given (config/rules.py)
            peak = peak_of_mass(mass, planned_factors(training, num_rows, epochs, accumulation))
        return TrainingSettings(
            cycle=len(versions),
            parent_version=decision.train_from,
            learning_rate=peak,
            num_train_epochs=epochs,
            max_grad_norm=training.max_grad_norm.value(*at),
            weight_decay=training.weight_decay.value(*at),
            gradient_accumulation_steps=accumulation,
            learning_rate_mass=mass,
            optimizer=self._optimizer(decision),
            average_weight=training.average_weight.value(*at) if training.start_from == "average" else 1.0,
        )

    def tested_versions(self, decision: Decision) -> list[int]:
        """The chosen and the last version, and those to compare them with; none if test is not measured."""
        measured = self.config.evaluation.test_at_end and self.prompts.test
        return sorted({*_to_confirm(decision), 0, decision.best_version, decision.policy_version}) if measured else []

    @property
    def confirms_on(self) -> Literal["test", "dev"]:
        """The prompts that confirm a lead: test if it is measured and large enough, else dev with new seeds."""
        enough = len(self.prompts.test) >= self.config.decisions.min_prompts
        return "test" if self.config.evaluation.test_at_end and enough else "dev"

    def resampled_versions(self, decision: Decision) -> list[int]:
        """The versions that are sampled on the dev prompts once more at the end, to confirm the lead of one."""
        return sorted(_to_confirm(decision)) if self.confirms_on == "dev" else []

    def report(
        self,
        measurement: Measurement,
        chosen: SelectionSettings,
        selection: Selection,
        settings: TrainingSettings,
        trained: Trained,
    ) -> CycleReport:
        """One cycle in one file."""
        return CycleReport(
            cycle=settings.cycle,
            policy_version=measurement.policy_version,
            num_kept=len(selection.kept),
            num_dropped={reason: len(keys) for reason, keys in selection.dropped.items()},
            settings={**chosen.to_row(), **settings.to_row()},
            measurement=measurement.metrics,
            trained=trained.metrics,
            adapter_digest=trained.adapter_digest,
        )

    def _at(self, versions: Sequence[PolicyVersion]) -> tuple[int, int, History]:
        """The state of a schedule after v_{cycle-1} was measured."""
        return len(versions), self.num_cycles, _history(versions)

    def _learning_rate(self) -> Schedule:
        training = self.config.training
        schedule = training.learning_rate_mass if training.learning_rate is None else training.learning_rate
        assert schedule is not None  # one of the two is given (config/rules.py)
        return schedule

    def _optimizer(self, decision: Decision) -> Literal["reset", "carry", "carry_moments"]:
        """How the optimizer starts: the start model has no state, and a return to an earlier version discards it."""
        fresh = decision.action in ("rollback", "from_base") or decision.train_from == 0
        return "reset" if fresh else self.config.training.optimizer.across_cycles


def _to_confirm(decision: Decision) -> set[int]:
    """The chosen version, the start model, and the one that the last version is ahead of; none without a lead."""
    if decision.best_version == 0:
        return set()
    goes_on = decision.ending == "completed" and decision.outcome == "ahead"
    return {0, decision.best_version, *({decision.compared_with} if goes_on else ())} - {None}


def _history(versions: Sequence[PolicyVersion]) -> list[Mapping[str, float]]:
    return [version.metrics for version in versions]
