"""An SFT run in the trackers of `report_to`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from halo_forge.runtime.tracker_process import CYCLES, STEPS
from halo_forge.runtime.tracking import Trackers
from halo_forge.sft.data import Rows
from halo_forge.sft.plan import Evaluation, SftPlan, best_version
from halo_forge.sft.run import SftObserver
from halo_forge.store.files import read_jsonl
from halo_forge.store.sft import SftRun, segment_folder

_MEASURED, _STEP = range(2)
"""The order of what is reported about version k: how it is, and how v_{k+1} is made of it."""


class _Reporting:
    def __init__(self, observer: SftObserver, trackers: Trackers, run: SftRun) -> None:
        self._observer = observer
        self._trackers = trackers
        self._run = run
        self._version = 0
        self.warned = observer.warned

    def track(self, label: str, items: Any, total: int) -> Iterator[Any]:
        return self._observer.track(label, items, total)

    def planned(self, rows: Rows, plan: SftPlan) -> None:
        self._observer.planned(rows, plan)

    def step(self, row: Mapping[str, float], num_steps: int) -> None:
        self._observer.step(row, num_steps)
        self._report_step(row)

    def evaluated(self, evaluations: Sequence[Evaluation]) -> None:
        self._observer.evaluated(evaluations)
        last = evaluations[-1]
        # The steps of a segment that an earlier attempt trained; those of this attempt are skipped.
        path = segment_folder(self._run.root, last.version) / "training_log.jsonl"
        for row in read_jsonl(path) if path.is_file() else ():
            self._report_step(row)
        self._version = last.version
        values = {"step": float(last.step), "best_version": float(best_version(evaluations))}
        if last.held_out_loss is not None:
            values["held_out_loss"] = last.held_out_loss
        self._trackers.report([last.version, _MEASURED, 0], CYCLES, last.version, values)

    def _report_step(self, row: Mapping[str, float]) -> None:
        step = int(row["step"])
        values = {f"step/{name}": value for name, value in row.items() if name != "step"}
        self._trackers.report([self._version, _STEP, step], STEPS, step, values)


def reporting_sft(observer: SftObserver, trackers: Trackers, run: SftRun) -> SftObserver:
    """An observer that passes everything on to `observer`, and the metrics to the trackers."""
    return _Reporting(observer, trackers, run)
