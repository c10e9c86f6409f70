"""From a checked configuration to an open SFT run, in the order of cost."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import halo_forge
from halo_forge.config.explain import problems_of
from halo_forge.config.yaml_io import dump, load_document
from halo_forge.core.errors import RunDirError
from halo_forge.hardware import choose, prepare
from halo_forge.hardware.telemetry import telemetry
from halo_forge.policy import Policy, check_local, check_quantization
from halo_forge.runtime.config_check import ConfigCheck
from halo_forge.runtime.identity import git_commit, other_configuration, package_versions
from halo_forge.runtime.library_warnings import LibraryWarnings
from halo_forge.runtime.notify import notified
from halo_forge.runtime.tracking import check_trackers, reported_to
from halo_forge.sft.config import LoadedSft, SftConfig, resolved_sft, sft_digest
from halo_forge.sft.data import Rows, is_local, read_sources, tokenized
from halo_forge.sft.plan import SftPlan, SftResult, advice_of, segments_of
from halo_forge.sft.run import SftObserver, SftRuntime, own_hints, run_sft
from halo_forge.sft.trackers import reporting_sft
from halo_forge.store.files import EDITED, read_json
from halo_forge.store.run import check_root
from halo_forge.store.sft import KIND, SftRun, is_sft_run
from halo_forge.supervisor import heartbeat
from halo_forge.training.lora_sft import LoraSftTrainer
from halo_forge.verifiers import Verifier, open_verifier


@dataclass(frozen=True)
class SftPreview:
    """What a configuration will do, before anything is loaded.

    Attributes:
        plan: As if no row were too long or dropped by the filter; None where rows are on a hub.
        lines: The rows, the machine.
        warnings: What should be known before it starts.
    """

    config: SftConfig
    plan: SftPlan | None
    lines: tuple[str, ...]
    warnings: tuple[str, ...]

    def to_row(self) -> dict[str, Any]:
        """As `--json` prints it."""
        plan = self.plan
        return {
            "segments": [] if plan is None else segments_of(plan),
            "num_rows": None if plan is None else plan.num_rows,
            "num_steps": None if plan is None else plan.num_steps,
            "warmup_steps": None if plan is None else plan.warmup_steps,
            "batch_size": self.config.batch_size,
            "lines": list(self.lines),
            "warnings": list(self.warnings),
            "advice": [advice.to_row() for advice in advice_of(plan, self.config)],
        }


def preview_sft(config: SftConfig) -> SftPreview:
    """Read the rows, and plan; loads no model and no tokenizer, and writes nothing.

    Raises:
        ConfigError: Rows cannot be read, or the model's folder cannot be used.
    """
    check_local(config.model)
    check_root(Path(config.output_dir))
    warnings: list[str] = []
    lines: list[str] = []
    plan = None
    if is_local(config):
        rows = read_sources(config)
        plan = SftPlan(config, len(rows.of("train")))
        lines += rows.lines()
    else:
        warnings.append("rows on the Hub are only read by a run, so the number of steps is not known")
    if config.data.filter != "none":
        warnings.append(f"the filter ({config.data.filter}) may leave fewer rows, and so fewer steps")
    profile = choose(config.hardware)
    lines.append(f"hardware: {profile.name} ({profile.why})")
    return SftPreview(config, plan, tuple(lines), tuple(warnings))


def check_sft(config: SftConfig) -> ConfigCheck:
    """Look at the rows, the model's folder and the run directory; loads no model and writes nothing.

    Raises:
        ConfigError: Rows cannot be read, or the model's folder cannot be used.
    """
    found = preview_sft(config)
    checked = ["keys, values and the rules between them", *found.lines[:-1]]
    not_checked = [
        "rows that are too long, or do not begin as completions do (sft run says so before it trains)",
        f"whether {config.model.model_name_or_path} loads and fits into the memory",
    ]
    return ConfigCheck(tuple(checked), tuple(not_checked), found.warnings)


def execute_sft(loaded: LoadedSft, observer: SftObserver, *, resume: bool) -> SftResult:
    """Do an SFT run, or what is left of it.

    Args:
        resume: Continue a run directory that already holds this training; without it such a directory is refused.

    Raises:
        ConfigError: Rows or model cannot be used.
        RunDirError: The directory is in use, or holds something else.
        ToolMissing: A compiler, package or tracker is missing or does not work.
        StoppedByRule: A rule ended it; it stays resumable.
    """
    opening = _opened(loaded, observer, resume=resume)
    with notified(loaded.config, observer.warned), own_hints(), opening as (rows, run, runtime):
        result = run_sft(rows, run, runtime)
        run.event("run_finished")
    return result


@contextmanager
def _opened(loaded: LoadedSft, observer: SftObserver, *, resume: bool) -> Iterator[tuple[Rows, SftRun, SftRuntime]]:
    config, root = loaded.config, Path(loaded.config.output_dir)
    profile = prepare(config.hardware)  # before anything imports torch
    with ExitStack() as stack, ExitStack() as until_loaded:
        until_loaded.enter_context(heartbeat.loading())
        library_warnings = stack.enter_context(LibraryWarnings().collected())
        check_trackers(config.report_to)
        check_local(config.model)
        check_quantization(config.model.quantization)
        sources = read_sources(config)
        run = stack.enter_context(SftRun(root))
        if not run.is_new:
            _check_same(run, config, resume=resume)
        date = _date(run, config)
        rows = tokenized(config, sources, date)
        verifier = _verifier(config, rows, stack)
        policy = Policy.load(
            config.model,
            config.lora,
            seed=config.seed,
            response_prefix=config.data.response_prefix,
            profile=profile,
            date=date,
            reasoning_marks=config.verifier.own_marks,
        )
        policy.check_tokens([row.prompt for row in (*rows.train, *rows.held_out)])
        identity = _identity(config, rows, policy, verifier)
        if run.is_new:
            run.start(identity, given=loaded.document.text, resolved=dump(resolved_sft(config)))
        else:
            _check_same_inputs(run, identity)
        until_loaded.close()
        run.event("attempt_started", resumed=resume, halo_forge_version=halo_forge.__version__, rows=rows.lines())
        library_warnings.send_to(run.event)
        trackers = stack.enter_context(reported_to(config, resolved_sft(config), run, observer.warned))
        yield (
            rows,
            run,
            SftRuntime(
                config,
                LoraSftTrainer(policy, config.training, seed=config.seed, keep_optimizer=True),
                observer if trackers is None else reporting_sft(observer, trackers, run),
                verifier,
                stack.enter_context(telemetry(policy.profile)).take,
            ),
        )


def _verifier(config: SftConfig, rows: Rows, stack: ExitStack) -> Verifier | None:
    if config.data.filter == "none":
        return None
    verifier = stack.enter_context(open_verifier(config.verifier))
    verifier.check_prompts([row.prompt for row in (*rows.train, *rows.held_out)])
    return verifier


def _identity(config: SftConfig, rows: Rows, policy: Policy, verifier: Verifier | None) -> dict[str, Any]:
    """What run.json holds."""
    renders = policy.rendering
    return {
        "kind": KIND,
        "halo_forge_version": halo_forge.__version__,
        "config_digest": sft_digest(config),
        "seed": config.seed,
        "learning_rate": config.training.learning_rate,
        "rows_sha256": rows.digest(),
        "start_model": policy.identity,
        "date": renders.date.isoformat(sep=" ") if renders.reads_clock else None,
        "toolchain": None if verifier is None else verifier.toolchain(),
        "versions": {"python": platform.python_version(), **package_versions()},
        "hardware": {"profile": policy.profile.described(), "num_parameters": policy.num_parameters},
        "git_commit": git_commit(),
    }


_INPUTS = {
    "start_model": "the start model is not the one that it was started with",
    "rows_sha256": "the rows, or their token ids, are not those that it was started with",
}


def _check_same(run: SftRun, config: SftConfig, *, resume: bool) -> None:
    """Refuse to continue under another configuration, or without having been asked to.

    Raises:
        RunDirError: It is not the same training.
    """
    if not is_sft_run(run.root):
        raise RunDirError(f"{run.root}: holds a RAFT run, not an SFT run", "choose another output_dir")
    if not resume:
        raise RunDirError(
            f"{run.root}: a training was already started here",
            f"continue it with --resume, look at it with `halo-forge sft status {run.root}`, or choose another"
            " output_dir",
        )
    identity = run.identity()
    for key in ("config_digest", "rows_sha256"):
        if not isinstance(identity.get(key), str):
            raise RunDirError(f"{run.root / 'run.json'}: {key} is {str(identity.get(key))[:80]!r}", EDITED)
    if identity["config_digest"] != sft_digest(config):
        raise other_configuration(run.root, resolved_sft(config))


def _check_same_inputs(run: SftRun, identity: dict[str, Any]) -> None:
    stored = run.identity()
    for key, words in _INPUTS.items():
        if stored.get(key) != identity[key]:
            raise RunDirError(
                f"{run.root}: {words}", "put them back as they were, or choose another output_dir for a new run"
            )
    changed = {key: identity[key] for key in ("toolchain", "versions", "hardware") if stored.get(key) != identity[key]}
    if changed:
        run.event("environment_changed", **changed)


def _date(run: SftRun, config: SftConfig) -> datetime:
    """What the chat template gets for the current time: that of the start of the run."""
    recorded = None if run.is_new else run.identity().get("date")
    given = config.data.date
    if recorded is not None and given is None:
        return datetime.fromisoformat(recorded)
    return datetime.now().replace(microsecond=0) if given is None else datetime.fromisoformat(given)


def is_finished_sft(loaded: LoadedSft) -> bool:
    """Whether the training of this configuration is done, so that nothing has to be loaded to resume it.

    Raises:
        RunDirError: The directory is in use, or holds something else.
    """
    root = Path(loaded.config.output_dir)
    if not (root / "result.json").is_file():
        return False
    with SftRun(root) as run:
        _check_same(run, loaded.config, resume=True)
    return True


def stored_config(root: Path) -> SftConfig:
    """The configuration that a run directory was started with.

    Raises:
        RunDirError: This version does not know it.
    """
    path = root / "config.resolved.yaml"
    data = load_document(path).data
    try:
        return SftConfig.model_validate({**data, "output_dir": str(root)})
    except ValidationError as error:
        problem = problems_of(error, data, SftConfig)[0].line(lambda _: "default")
        raise RunDirError(
            f"{path}: not a configuration of this version: {problem}",
            "use the halo-forge version that it was started with (halo_forge_version in run.json)",
        ) from error


def stored_result(root: Path) -> SftResult | None:
    """How a training ended; None while it is not finished."""
    path = root / "result.json"
    return SftResult.from_row(read_json(path)) if path.is_file() else None
