"""From a checked configuration to an open run: prompts, runtime, and a locked run directory that belongs to it.

The order is the order of cost: what can be refused cheaply is refused before anything is loaded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import halo_forge
from halo_forge.config import LoadedConfig, RaftConfig, resolved
from halo_forge.config.explain import problems_of
from halo_forge.config.yaml_io import dump, load_document
from halo_forge.core.errors import RunDirError
from halo_forge.core.plan import Plan, PromptSets
from halo_forge.core.records import Prompt
from halo_forge.engines import Engine, KeepsLogs, ReportsEvents
from halo_forge.hardware import Profile, choose, prepare
from halo_forge.hardware.telemetry import telemetry
from halo_forge.policy import Policy, check_local, check_quantization
from halo_forge.policy.drift_probe import DriftProbe
from halo_forge.policy.lengths import Overlong
from halo_forge.prompts.summary import SetSummary, is_tested, lines_of
from halo_forge.runtime.auto_settings import hardware_choices, verifier_workers
from halo_forge.runtime.effects import Observer, Runtime
from halo_forge.runtime.fork import FOLDER as FORK_FOLDER
from halo_forge.runtime.fork import ForkPoint, complete_fork, stage_fork
from halo_forge.runtime.identity import (
    IDENTITY_KEYS,
    check_same_model,
    check_same_run,
    check_schema,
    compare_identity,
    identity_of,
)
from halo_forge.runtime.library_warnings import LibraryWarnings
from halo_forge.runtime.preview import Preview, preview
from halo_forge.runtime.prompt_sets import (
    fitting_prompts,
    load_local_sets,
    load_prompt_sets,
    prompt_warnings,
    row_warnings,
    start_warnings,
    summaries,
)
from halo_forge.runtime.sft_start import check_same_base, start_notes
from halo_forge.runtime.sharing import Sharing, Source
from halo_forge.runtime.tracking import check_trackers, reporting
from halo_forge.store.files import read_json
from halo_forge.store.run import CONTINUE_ELSEWHERE, Run, is_earlier, read_identity
from halo_forge.store.sft import is_sft_run
from halo_forge.supervisor import heartbeat
from halo_forge.training.lora_sft import LoraSftTrainer
from halo_forge.training.scripted import ScriptedTrainer
from halo_forge.verifiers import open_verifier
from halo_forge.verifiers.limits import reference_warnings


def planned(config: RaftConfig) -> Preview:
    """The preview of a configuration; prompt sets on a hub are not read.

    Raises:
        ConfigError: A local prompt set cannot be read, or a prompt id is in two of them.
    """
    return planned_with(config, load_local_sets(config))


def planned_with(config: RaftConfig, local: Mapping[str, Sequence[Prompt]]) -> Preview:
    """The preview of a configuration whose local prompt sets were read.

    Raises:
        ConfigError: A schedule reads the pass rate of a set without tests, or the SFT run that the run starts
            from does not fit.
    """
    sets = summaries(config, local)
    num = {name: len(prompts) for name, prompts in local.items()}
    has_tests = "train" not in local or any(map(is_tested, local["train"]))
    found = preview(config, num.get("train"), num.get("dev"), has_tests, num.get("test"))
    return dataclasses.replace(
        found,
        prompts=sets,
        warnings=(*prompt_warnings(config, sets), *row_warnings(config, local), *found.warnings),
        notes=start_notes(config, local),
    )


@contextmanager
def open_run(
    loaded: LoadedConfig,
    observer: Observer,
    *,
    resume: bool,
    from_cycle: int | None = None,
    share_from: Sequence[Path] = (),
    fork: ForkPoint | None = None,
) -> Iterator[tuple[Plan, Run, Runtime]]:
    """Everything the loop needs, ready to go.

    Args:
        resume: Continue a run directory that already holds this run; without it such a directory is refused.
        from_cycle: Move what was made from this cycle on out of the way, once nothing else can be refused.
        share_from: Other runs, from which stages that would be the same are taken.
        fork: The run that this one continues.

    Raises:
        ConfigError: Prompts or model cannot be used.
        RunDirError: The directory is in use, or holds another run; or what is to be shared from is not a run.
        ToolMissing: A compiler is missing or does not work.
    """
    config = loaded.config
    if resume:
        check_schema(Path(config.output_dir))
    # Before anything imports torch.
    profile = prepare(config.hardware) if config.engine.needs_policy else choose(config.hardware)
    with ExitStack() as stack, ExitStack() as until_loaded:
        until_loaded.enter_context(heartbeat.loading())
        library_warnings = stack.enter_context(LibraryWarnings().collected())
        prompts = load_prompt_sets(config)
        start = _checked_start(config, prompts)
        sources = [Source.read(root) for root in share_from]
        run = stack.enter_context(Run(Path(config.output_dir)))
        if not run.is_new:
            check_same_run(run, config, prompts, resume=resume, fork=fork)
        workers = verifier_workers(config, profile)
        verifier = stack.enter_context(open_verifier(config.verifier.model_copy(update={"workers": workers})))
        prompts, dropped = fitting_prompts(config, read := prompts, date := _date(run, config, sources))
        asked = list(prompts.by_id().values())
        verifier.check_prompts(asked)
        failing = verifier.check_references(asked) if run.is_new else iter(())  # while the model is loaded
        sets = summaries(config, prompts.by_name())
        policy = _load_policy(config, profile, date, asked)
        profile = profile if policy is None else policy.profile
        runtime = Runtime(
            prompts=prompts.by_id(),
            engine=_open_engine(config, policy, run, stack),
            verifier=verifier,
            trainer=_trainer(config, policy),
            adapters=policy,
            observer=observer,
            max_error_fraction=config.verifier.max_error_fraction,
            probe=_drift_probe(config, prompts, policy),
            telemetry=stack.enter_context(telemetry(profile)).take,
            hardware=profile.described(),
            warnings=(*start_warnings(config, sets, prompts, dropped), *reference_warnings(failing)),
            checked_by=tuple(lines_of(sets)),
            notes=(*start, *([] if policy is None else policy.rendering.notes())),
        )
        identity = identity_of(config, read, verifier.toolchain(), policy)
        identity |= {"hardware": _choices(config, profile, policy, workers), "rendering": _rendering(policy, asked)}
        _start_or_compare(run, loaded, identity, policy, fork)
        runtime = _with_sharing(runtime, run, sources)
        if from_cycle is not None:
            run.supersede(from_cycle)
        until_loaded.close()
        _note_attempt(run, sets, dropped, library_warnings, resumed=resume)
        plan = Plan(config, prompts, _earlier(run.root))
        yield plan, run, _reported(runtime, plan, run, stack)


def _start_or_compare(
    run: Run, loaded: LoadedConfig, identity: dict[str, Any], policy: Policy | None, fork: ForkPoint | None
) -> None:
    """Write the identity of a new run, or compare it with that of the run which is there."""
    if not run.is_new:
        check_same_model(run, identity, policy)
    else:
        if fork is not None:
            now = {key: identity[key] for key in IDENTITY_KEYS if identity[key] is not None}
            compare_identity(fork.run, read_identity(fork.run), now)
            stage_fork(run.root, fork)
            identity["fork"] = fork.record()
        run.start(identity, given=loaded.document.text, resolved=dump(resolved(loaded.config)))
    complete_fork(run)


def _earlier(root: Path) -> tuple[tuple[int, RaftConfig], ...]:
    """Of a run that continues another one: (cycle, configuration of the cycles before it), in order."""
    paths = sorted((root / FORK_FOLDER).glob("[0-9]*.yaml"), key=lambda path: int(path.stem))
    return tuple((int(path.stem), _stored_config(path, root).config) for path in paths)


def _note_attempt(
    run: Run,
    sets: Mapping[str, SetSummary],
    dropped: Overlong | None,
    library_warnings: LibraryWarnings,
    *,
    resumed: bool,
) -> None:
    said = {"prompts": list(lines_of(sets)), "overlong_dropped": {} if dropped is None else dropped.num_tokens}
    run.event("attempt_started", resumed=resumed, halo_forge_version=halo_forge.__version__, **said)
    library_warnings.send_to(run.event)


def _reported(runtime: Runtime, plan: Plan, run: Run, stack: ExitStack) -> Runtime:
    observer = stack.enter_context(reporting(plan.config, run, runtime.observer))
    observer.opened(plan)
    return dataclasses.replace(runtime, observer=observer)


def _rendering(policy: Policy | None, prompts: Sequence[Prompt]) -> dict[str, Any] | None:
    return None if policy is None else policy.rendering.record(prompts)


def _choices(config: RaftConfig, profile: Profile, policy: Policy | None, workers: int) -> dict[str, Any]:
    """What every `auto` became."""
    if policy is None:
        return hardware_choices(config, profile, None)
    choices = hardware_choices(config, profile, policy.size.num_parameters, policy.size.shape)
    choices["verifier.workers"] = workers  # chosen before torch could say that there is a GPU, or none
    return choices


def _checked_start(config: RaftConfig, prompts: PromptSets) -> tuple[str, ...]:
    """What a person should know of where the run starts, after what can be refused without loading a model."""
    check_trackers(config.report_to)
    config.engine.check()
    if config.engine.needs_policy:
        check_local(config.model)
        check_quantization(config.model.quantization)
    return start_notes(config, prompts.by_name())


def _open_engine(config: RaftConfig, policy: Policy | None, run: Run, stack: ExitStack) -> Engine:
    engine: Engine = config.engine.open(policy)  # type: ignore[attr-defined]  # every kind has it, for its own policy
    if isinstance(engine, AbstractContextManager):  # it may have started a server
        stack.enter_context(engine)
    if isinstance(engine, ReportsEvents):
        engine.note = run.event
    if isinstance(engine, KeepsLogs):
        engine.keep_logs(run.root / "server_logs")
    return engine


def _drift_probe(config: RaftConfig, prompts: PromptSets, policy: Policy | None) -> DriftProbe | None:
    num_samples = config.evaluation.num_drift_samples
    return None if policy is None or num_samples == 0 else DriftProbe(policy, prompts.by_id(), num_samples)


def _trainer(config: RaftConfig, policy: Policy | None) -> ScriptedTrainer | LoraSftTrainer:
    if policy is None:
        return ScriptedTrainer(config.training)
    keep_optimizer = config.training.optimizer.across_cycles != "reset"
    return LoraSftTrainer(policy, config.training, seed=config.seed, keep_optimizer=keep_optimizer)


def is_finished(loaded: LoadedConfig, fork: ForkPoint | None = None) -> bool:
    """Whether the run of this configuration is done, so that nothing has to be loaded to resume it.

    Raises:
        RunDirError: The directory is in use, or holds another run.
    """
    root = Path(loaded.config.output_dir)
    if not (root / "result.json").is_file():
        return False
    check_schema(root)
    with Run(root) as run:
        check_same_run(run, loaded.config, load_prompt_sets(loaded.config), resume=True, fork=fork)
    return True


def run_config(root: Path) -> LoadedConfig:
    """The configuration that a run directory was started with, writing to where the directory is now.

    Raises:
        RunDirError: The directory holds no run, or one whose configuration this version does not know.
    """
    path = root / "config.resolved.yaml"
    if not (root / "run.json").is_file() or not path.is_file():
        raise RunDirError(
            f"{root}: not a run directory of halo-forge", "name the output_dir of a run (it holds run.json)"
        )
    if is_sft_run(root):
        raise RunDirError(
            f"{root}: an SFT run, not a RAFT run",
            f"look at it with `halo-forge sft status {root}` and `halo-forge report {root}`; a RAFT run starts from it"
            f" with model.adapter: {root}/best",
        )
    return _stored_config(path, root)


def _stored_config(path: Path, root: Path) -> LoadedConfig:
    """A configuration that the run in `root` has stored."""
    document = load_document(path)
    try:
        config = RaftConfig.model_validate({**document.data, "output_dir": str(root)})
    except ValidationError as error:
        problem = problems_of(error, document.data)[0]
        line = problem.line(lambda _: "default")
        earlier = is_earlier(read_json(root / "run.json").get("schema_version"))
        hint = (
            f"look at it or {CONTINUE_ELSEWHERE}"
            if earlier
            else "use the halo-forge version and the plugins that the run was started with (halo_forge_version,"
            " git_commit and plugins in run.json), or start a new run with another output_dir"
        )
        raise RunDirError(f"{path}: not a configuration of this version: {line}", hint) from error
    return LoadedConfig(config, document)


def _load_policy(config: RaftConfig, profile: Profile, date: datetime, prompts: Sequence[Prompt]) -> Policy | None:
    if not config.engine.needs_policy:
        return None
    policy = Policy.load(
        config.model,
        config.lora,
        seed=config.seed,
        response_prefix=config.prompts.response_prefix,
        profile=profile,
        date=date,
        reasoning_marks=config.verifier.own_marks,
    )
    check_same_base(config, policy.identity)
    policy.check_tokens(prompts)
    check_same_base(config, policy.identity)
    return policy


def _with_sharing(runtime: Runtime, run: Run, sources: Sequence[Source]) -> Runtime:
    """The same, which takes from other runs what they have in common with this one."""
    if not sources:
        return runtime
    sharing = Sharing(run, sources)
    notes = [
        f"nothing is taken over from {root}, because {key} is not the same"
        if key is not None
        else f"what {root} has in common with this run is taken over from it"
        for root, key in sharing.differences.items()
    ]
    return dataclasses.replace(runtime, sharing=sharing, notes=(*runtime.notes, *notes))


def _date(run: Run, config: RaftConfig, sources: Sequence[Source] = ()) -> datetime:
    """What the chat template gets for the current time, to the second; what it got in a run that is shared from."""
    for identity in [*([] if run.is_new else [run.identity()]), *(source.identity for source in sources)]:
        recorded = (identity.get("rendering") or {}).get("date")
        if recorded is not None and (not run.is_new or config.prompts.date is None):
            return datetime.fromisoformat(recorded)
    given = config.prompts.date
    return datetime.now().replace(microsecond=0) if given is None else datetime.fromisoformat(given)
