"""halo-forge as a library: run, preview, read and verify (docs/library.md).  The command line uses the same functions.

`import halo_forge` offers these names, and those of a few other modules beside them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from halo_forge.config import LoadedConfig, load_config
from halo_forge.config.load import checked, overridden
from halo_forge.core.advice import Advised
from halo_forge.core.errors import ConfigError
from halo_forge.core.plan import Plan
from halo_forge.core.records import Decision, Measurement, Selection, Trained, TrainingSettings, Verdict
from halo_forge.core.wording import counted
from halo_forge.prompts import Row
from halo_forge.runtime.assembly import is_finished, open_run, planned, run_config
from halo_forge.runtime.effects import Observer, Runtime
from halo_forge.runtime.fork import ForkPoint, check_fork
from halo_forge.runtime.notify import notified
from halo_forge.runtime.preview import Preview
from halo_forge.runtime.prompt_sets import load_prompt_sets
from halo_forge.store.files import read_json
from halo_forge.store.rows import decision_rows, sample_rows, step_rows
from halo_forge.store.run import read_identity
from halo_forge.store.status import Status, read_status

if TYPE_CHECKING:
    from halo_forge.checks.compared import RunComparison

__all__ = [
    "RunDirectory",
    "SilentObserver",
    "compare_runs",
    "preview",
    "resumable",
    "resume",
    "run",
    "verify_completions",
    "verify_programs",
]

_log = logging.getLogger(__name__)
Item = TypeVar("Item")


def preview(config: LoadedConfig) -> Preview:
    """What a run of this configuration will do, one `CyclePlan` for each cycle; loads no model and writes nothing.

    Raises:
        ConfigError: A local prompt set cannot be read, or a prompt id is in two of them.
    """
    return planned(_loaded(config).config)


class SilentObserver:
    """An observer that does nothing; derive from it and override what you want to see."""

    def track(self, label: str, items: Iterable[Item], total: int) -> Iterator[Item]:
        """Yields `items` as they are; `total` is their number, `label` what is done with them."""
        yield from items

    def opened(self, plan: Plan) -> None:
        """When everything is loaded, before the first stage."""

    def warned(self, text: str) -> None:
        """When something beside the run did not work, such as a tracker; passed to `logging` unless overridden."""
        _log.warning("%s", text)

    def step(self, row: Mapping[str, float], num_steps: int) -> None:
        """After every optimizer step, with its row of training_log.jsonl."""

    def measured(self, measurement: Measurement) -> None:
        """When a policy version was measured."""

    def advised(self, advised: Advised) -> None:
        """With the advice that follows from the measurements so far."""

    def decided(self, decision: Decision) -> None:
        """When it was decided what follows."""

    def trained(self, settings: TrainingSettings, selection: Selection, trained: Trained) -> None:
        """When a cycle was trained."""


def run(
    config: LoadedConfig,
    *,
    resume: bool = False,
    from_cycle: int | None = None,
    share_from: Iterable[str | Path] = (),
    fork: ForkPoint | None = None,
    observer: Observer | None = None,
    opened: Callable[[Runtime], None] | None = None,
) -> RunDirectory:
    """Run all cycles of a configuration in its `output_dir`; returns when the run is finished.

    An interrupt (KeyboardInterrupt) loses nothing: call it again with `resume=True`.

    Args:
        resume: Continue the run of this configuration that is there, or start one; without it a directory in which a
            run was started is refused.
        from_cycle: With `resume`, redo the run from this cycle on; its old files move to superseded/.
        share_from: Run directories of other runs: stages that would be the same are taken from there.
        fork: The run that this one continues; use `fork` instead.
        observer: Is told of everything that happens.
        opened: Is called once all is loaded, before the first cycle; not for a run that is finished already.

    Raises:
        ConfigError: Prompts or model cannot be used, or `from_cycle` is not a cycle of the run.
        RunDirError: The run directory is in use, or holds another run.
        ToolMissing: A compiler, package or server is missing or does not work.
        StoppedByRule: A rule of the configuration ended the run; it stays resumable.
    """
    from halo_forge import loop  # late, as below: a preview does not pay for what it does not use

    config = _loaded(config)
    _check_cycle(config, from_cycle)
    root = Path(config.config.output_dir)
    if from_cycle is None and resume and is_finished(config, fork):
        return RunDirectory(root)
    watcher = SilentObserver() if observer is None else observer
    others = [_path(each) for each in share_from]
    opening = open_run(config, watcher, resume=resume, from_cycle=from_cycle, share_from=others, fork=fork)
    with (
        notified(config.config, watcher.warned),
        opening as (plan, directory, runtime),
    ):
        if opened is not None:
            opened(runtime)
        loop.run_raft(plan, directory, runtime)
        directory.event("run_finished")
    return RunDirectory(root)


def resume(path: str | Path, *, from_cycle: int | None = None, observer: Observer | None = None) -> RunDirectory:
    """Continue the run in a run directory, or redo it from a cycle on; as `run`.

    Raises:
        ConfigError: `from_cycle` is not a cycle of this run.
        RunDirError: The directory holds no run, or is in use.
    """
    return run(resumable(_path(path), from_cycle), resume=True, from_cycle=from_cycle, observer=observer)


def fork(
    path: str | Path,
    from_cycle: int,
    output_dir: str | Path,
    overrides: Iterable[str] | Mapping[str, Any] = (),
    *,
    resume: bool = False,
    share_from: Iterable[str | Path] = (),
    observer: Observer | None = None,
    opened: Callable[[Runtime], None] | None = None,
) -> RunDirectory:
    """Continue a run, finished or running, under other settings from a cycle on, in a run directory of its own.

    The cycles before are linked, and so are the samples of cycle `from_cycle` if its sampling settings stay the same.

    Args:
        path: The run directory of the run that is continued; nothing in it changes.
        from_cycle: The first cycle under the new settings.
        output_dir: The new run directory.
        overrides: What changes, as `load_config` takes it.
        resume: Continue this fork if it was started, or start it.
        share_from, observer, opened: As for `run`.

    Raises:
        ConfigError: A key is wrong or would change what is shared, or a cycle before `from_cycle` is not done.
        RunDirError: `root` is not a run directory, or the new directory holds something else.
    """
    point, loaded = forked(_path(path), from_cycle, output_dir, overrides)
    return run(
        loaded,
        resume=resume,
        share_from=[point.run, *share_from],
        fork=point,
        observer=observer,
        opened=opened,
    )


def forked(
    root: Path, from_cycle: int, output_dir: str | Path, overrides: Iterable[str] | Mapping[str, Any] = ()
) -> tuple[ForkPoint, LoadedConfig]:
    """Where a run is continued, and under which configuration; see `fork`.

    Raises:
        ConfigError: As `fork`.
        RunDirError: `root` is not a run directory.
    """
    if type(from_cycle) is not int:
        raise _wrong_type("from_cycle", from_cycle, "a whole number")
    parent = run_config(root)
    document = overridden(parent.document, overrides)
    loaded = checked(replace(document, data={**document.data, "output_dir": str(output_dir)}))
    point = ForkPoint(root, from_cycle)
    folder = Path(output_dir).resolve()
    if root.resolve() in (folder, *folder.parents):
        where = "is" if folder == root.resolve() else "is inside"
        raise ConfigError(f"output_dir: {output_dir} {where} the run that is continued", "name another folder")
    check_fork(point, parent.config, loaded)
    return point, loaded


def resumable(root: Path, from_cycle: int | None) -> LoadedConfig:
    """The configuration of the run in `root`, which has a cycle `from_cycle`.

    Raises:
        ConfigError: It has none.
        RunDirError: The directory holds no run.
    """
    if (root / "run.json").is_file():
        read_identity(root)  # first: the configuration and the prompts of an earlier version may not be readable
    loaded = run_config(root)
    _check_cycle(loaded, from_cycle)
    return loaded


def _check_cycle(loaded: LoadedConfig, from_cycle: int | None) -> None:
    num_cycles = loaded.config.raft.num_cycles
    if from_cycle is not None and type(from_cycle) is not int:
        raise _wrong_type("from_cycle", from_cycle, "a whole number, or None")
    if from_cycle is not None and not 1 <= from_cycle <= num_cycles + 1:
        raise ConfigError(
            f"from_cycle is {from_cycle!r}, but the run has {counted(num_cycles, 'cycle')}",
            f"name a cycle from 1 to {num_cycles} ({num_cycles + 1} measures the last model again)",
        )


class RunDirectory:
    """A run directory to read: running, stopped or finished.  Nothing is locked, and every call reads the files again.

    The lists of rows are plain dicts, as `pandas.DataFrame` takes them.

    Raises:
        RunDirError: The directory is not a run of halo-forge, or a file of it cannot be read; every method too.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = _path(path)
        self.config = run_config(self.path)

    def __repr__(self) -> str:
        return f"RunDirectory({str(self.path)!r})"

    @property
    def identity(self) -> dict[str, Any]:
        """run.json: versions, seed, digests, toolchain, hardware."""
        return read_json(self.path / "run.json")

    @property
    def result(self) -> dict[str, Any] | None:
        """result.json: the chosen version against the start model; None until the run is finished."""
        path = self.path / "result.json"
        return read_json(path) if path.is_file() else None

    @property
    def best_adapter(self) -> Path | None:
        """The PEFT folder of the version that is best so far; None while that is the start model."""
        found = self.status().best_adapter
        return None if found is None else Path(found)

    def status(self) -> Status:
        """Where the run stands, with everything that `halo-forge raft status` shows."""
        return read_status(self.path, self.config.config.raft.num_cycles)

    def cycles(self) -> list[dict[str, Any]]:
        """One row for each cycle: its state, settings, decision and all metrics (docs/metrics.md).

        The metrics of a row are those of `policy_version`, which the cycle sampled from, and of the training that
        followed; the last row has no training.
        """
        return [
            {
                "cycle": row.cycle,
                "policy_version": row.policy_version,
                "state": row.state,
                "outcome": row.decision.get("outcome"),
                "action": row.decision.get("action"),
                "num_kept": row.num_kept,
                **{key: value for key, value in row.settings.items() if key != "cycle"},
                **row.metrics,
            }
            for row in self.status().cycles
        ]

    def samples(self) -> list[dict[str, Any]]:
        """One row for each completion, with its verdict and what became of it; see `store.rows.sample_rows`."""
        return list(sample_rows(self.path))

    def training_steps(self) -> list[dict[str, Any]]:
        """One row for each optimizer step: cycle, step, learning rate, loss, gradient norm."""
        return list(step_rows(self.path))

    def decisions(self) -> list[dict[str, Any]]:
        """One row for each decision, with the comparisons it rests on."""
        return list(decision_rows(self.path))


def compare_runs(paths: Iterable[str | Path], *, metric: str | None = None) -> RunComparison:
    """Two or more run directories side by side: what each came to, how far they differ, and in which settings.

    Runs that differ only in their seed are one arm.  Every other arm is compared with the first one, paired by seed
    and by prompt.

    Args:
        metric: pass_rate, compile_rate or reward_mean; None is the one that the first run decided by.

    Raises:
        ConfigError: Fewer than two runs, an unknown metric, or runs that are not measured alike.
        RunDirError: A directory is not a run of halo-forge, or a file of it cannot be read.
    """
    from halo_forge.checks.arms import measured_run
    from halo_forge.checks.compared import compare_measured

    if isinstance(paths, str | os.PathLike):
        raise ConfigError("paths is one path, allowed: a list of run directories", "write [path, another path]")
    found = [RunDirectory(path) for path in _items("paths", paths)]
    return compare_measured([measured_run(each.path, each.config.config) for each in found], metric)


def verify_programs(
    verifier: LoadedConfig | Mapping[str, Any], sources: Iterable[str], *, prompt_id: str | None = None
) -> list[Verdict]:
    """Check program texts: by the tests of a prompt, or by compiling and running them without input.

    Args:
        verifier: A configuration; or, without `prompt_id`, the settings of a verifier alone, such as `{"kind": "c"}`.
        prompt_id: A prompt of the configuration.

    Raises:
        ConfigError: A setting is wrong, no prompt has this id, or a text is empty.
        ToolMissing: A compiler is missing or does not work.
    """
    from halo_forge.checks.programs import one_prompt, programs, verdicts_on, without_tests

    if not isinstance(verifier, LoadedConfig):
        if not isinstance(verifier, Mapping):
            raise _wrong_type("verifier", verifier, "a LoadedConfig, or the settings of a verifier as a mapping")
        if prompt_id is not None:
            raise ConfigError("prompt_id needs a configuration, which names the prompts", "give load_config(...)")
        verifier = load_config(
            {"model": {"model_name_or_path": "none"}, "verifier": dict(verifier), "output_dir": "none"}
        )
    spec, prompt = verifier.config.verifier, None
    if prompt_id is None:
        spec = without_tests(spec)
    else:
        prompt = one_prompt(prompt_id, load_prompt_sets(verifier.config).by_id())
    if isinstance(sources, str):
        raise ConfigError("sources is one text, allowed: a list of program texts", "write [source]")
    named = [(f"program {number}", source) for number, source in enumerate(_items("sources", sources), start=1)]
    for name, source in named:
        if not isinstance(source, str):
            raise _wrong_type(name, source, "the text of a program")
    return list(verdicts_on(spec, programs(named, spec, prompt)))


def verify_completions(config: LoadedConfig, rows: Iterable[Mapping[str, Any]]) -> list[Verdict]:
    """Check completions as a run does: the program is taken out of the text, and tested by the tests of its prompt.

    Args:
        rows: `{"prompt_id": ..., "text": ...}`; `index`, `finish` and `policy_version` may be there too.

    Raises:
        ConfigError: A row is wrong or names no prompt of the configuration.
        ToolMissing: A compiler is missing or does not work.
    """
    from halo_forge.checks.opened import as_sampled
    from halo_forge.checks.programs import completion_rows, verdicts_on

    given = list(_items("rows", rows))
    for number, row in enumerate(given, start=1):
        if not isinstance(row, Mapping):
            raise _wrong_type(f"row {number}", row, 'a mapping, {"prompt_id": ..., "text": ...}')
    numbered = (Row(f"row {number}", row) for number, row in enumerate(given, start=1))
    given_rows = completion_rows(numbered, load_prompt_sets(_loaded(config).config).by_id())
    named, notes = as_sampled(given_rows, config.config)
    for note in notes:
        _log.warning("%s", note)
    return list(verdicts_on(config.config.verifier, named))


def _path(path: object) -> Path:
    if not isinstance(path, str | os.PathLike):
        raise _wrong_type("path", path, "the path of a run directory")
    return Path(path)


def _items(name: str, values: Iterable[Item]) -> Iterable[Item]:
    if not isinstance(values, Iterable) or isinstance(values, Mapping):
        raise _wrong_type(name, values, "a list")
    return values


def _wrong_type(name: str, value: object, allowed: str) -> ConfigError:
    return ConfigError(f"{name} is of type {type(value).__name__}, allowed: {allowed}", "see `halo-forge docs library`")


def _loaded(config: object) -> LoadedConfig:
    if not isinstance(config, LoadedConfig):
        raise ConfigError(
            f"config is of type {type(config).__name__}, allowed: a LoadedConfig",
            "load it first: halo_forge.load_config(...)",
        )
    return config
