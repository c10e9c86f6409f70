"""Trackers besides the run directory: `report_to` names them, none is needed.

A tracker is one small class with `log(metrics, step)` and `close()`.  A resumed run reports its finished cycles
again from their files, so every attempt's record is whole.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from halo_forge.core.errors import ToolMissing


class Tracker(Protocol):
    """Where metrics go; `step` is the policy version they describe."""

    def log(self, metrics: Mapping[str, float], step: int) -> None: ...

    def close(self) -> None: ...


class _TensorBoard:
    def __init__(self, root: Path, config: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(root / "tensorboard"))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _RunTracker:
    """wandb and trackio share one interface: init, log, finish."""

    def __init__(self, module: str, root: Path, config: Mapping[str, Any]) -> None:
        self._module = importlib.import_module(module)
        self._module.init(project="halo-forge", name=root.name, config=dict(config))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._module.log(dict(metrics), step=step)

    def close(self) -> None:
        self._module.finish()


class _MLflow:
    def __init__(self, root: Path, config: Mapping[str, Any]) -> None:
        self._mlflow = importlib.import_module("mlflow")
        self._mlflow.set_experiment("halo-forge")
        self._mlflow.start_run(run_name=root.name)
        self._mlflow.log_params({name: str(value)[:500] for name, value in config.items()})

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        # MLflow allows no "@" in a metric's name.
        self._mlflow.log_metrics({name.replace("@", "_at_"): value for name, value in metrics.items()}, step=step)

    def close(self) -> None:
        self._mlflow.end_run()


TRACKERS: dict[str, Callable[[Path, Mapping[str, Any]], Tracker]] = {
    "tensorboard": _TensorBoard,
    "wandb": lambda root, config: _RunTracker("wandb", root, config),
    "trackio": lambda root, config: _RunTracker("trackio", root, config),
    "mlflow": _MLflow,
}


def check_trackers(names: Sequence[str]) -> None:
    """Find a missing package before anything is loaded.

    Raises:
        ToolMissing: A tracker's package is not installed.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ToolMissing(f"report_to: {name} is not installed", f"pip install {name}, or take it out of report_to")


def open_trackers(names: Sequence[str], root: Path, config: Mapping[str, Any]) -> list[Tracker]:
    """The trackers that `report_to` names."""
    return [TRACKERS[name](root, config) for name in names]
