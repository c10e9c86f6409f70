"""From a checked configuration to an open run: prompts, runtime, and a locked run directory that belongs to it.

The order is the order of cost: what can be refused cheaply is refused before anything is loaded.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import halo_forge
from halo_forge.config import LoadedConfig, RaftConfig, config_digest, differing_keys, resolved
from halo_forge.config.explain import problems_of
from halo_forge.config.problems import dotted
from halo_forge.config.rules import SCHEDULED, value_at
from halo_forge.config.yaml_io import dump, load_document
from halo_forge.core.errors import ConfigError, RunDirError, raise_together
from halo_forge.core.plan import Plan, PromptSets
from halo_forge.core.records import Prompt
from halo_forge.core.registry import PROMPTS_GROUP, plugins, used_plugins
from halo_forge.engines import Engine, KeepsLogs, ReportsEvents
from halo_forge.hardware import Profile, choose, prepare
from halo_forge.hardware.telemetry import telemetry
from halo_forge.policy import Policy, check_local, check_quantization
from halo_forge.policy.drift_probe import DriftProbe
from halo_forge.policy.lengths import Overlong, overlong_prompts
from halo_forge.policy.rendering import Renderer
from halo_forge.prompts import hub, is_remote, load_prompts
from halo_forge.prompts.row_limits import limit_warnings
from halo_forge.prompts.summary import SetSummary, is_tested, lines_of, shared_tasks, summarise, warnings_of
from halo_forge.runtime.auto_settings import hardware_choices, verifier_workers
from halo_forge.runtime.effects import Observer, Runtime
from halo_forge.runtime.fork import FOLDER as FORK_FOLDER
from halo_forge.runtime.fork import ForkPoint, check_same_fork, complete_fork, stage_fork
from halo_forge.runtime.library_warnings import LibraryWarnings
from halo_forge.runtime.preview import Preview, cut_prompts, preview
from halo_forge.runtime.sharing import Sharing, Source
from halo_forge.runtime.tracking import check_trackers, reporting
from halo_forge.store.files import EDITED, read_json
from halo_forge.store.run import CONTINUE_ELSEWHERE, Run, is_earlier, read_identity
from halo_forge.supervisor import heartbeat
from halo_forge.training.lora_sft import LoraSftTrainer
from halo_forge.training.scripted import ScriptedTrainer
from halo_forge.verifiers import open_verifier
from halo_forge.verifiers.limits import reference_warnings, refuse_long_outputs

PACKAGES = ("torch", "transformers", "peft", "trl", "accelerate", "datasets", "tokenizers", "numpy")
SETS = ("train", "dev", "test")
IDENTITY_KEYS = {
    "prompts": "the prompts are not those the run was started with",
    "start_model": "the start model is not the one the run was started with",
    "rendering": "the prompts have other token ids than when the run was started: the chat template, the tokenizer or"
    " the version of transformers is not the same",
}

NOTED_KEYS = ("toolchain", "versions", "plugins", "hardware")
"""Of run.json: another value does not make another run, but an event."""


def load_prompt_sets(config: RaftConfig) -> PromptSets:
    """Read the three prompt sets and put the system prompt in front.

    Raises:
        ConfigError: A set cannot be read, nothing of it is left by `prompts.where`, or a prompt id is in two sets.
    """
    sets = {name: _load_set(config, name) for name in SETS}
    _refuse_shared_ids(sets)
    return PromptSets(**sets)


def prompts_as_started(config: RaftConfig, identity: Mapping[str, Any]) -> tuple[dict[str, Prompt], list[str]]:
    """The prompts of a run by id, as far as they are on this machine and the same as when the run was started.

    Returns:
        The prompts, and for each set that is missing, why.
    """
    found: dict[str, Prompt] = {}
    missing = []
    for name in SETS:
        source = getattr(config.prompts, name)
        if is_remote(source):
            missing.append(f"prompts.{name}: {source} is a data set that would have to be downloaded")
            continue
        try:
            prompts = _load_set(config, name)
        except ConfigError as error:
            missing.append(f"prompts.{name}: {error.message}")
            continue
        if identity.get("prompts", {}).get(name) != _prompt_digest(prompts):
            missing.append(f"prompts.{name}: {source} has changed since the run was started")
            continue
        found |= {prompt.id: prompt for prompt in prompts}
    return found, missing


def _refuse_shared_ids(sets: Mapping[str, Sequence[Prompt]]) -> None:
    seen: dict[str, str] = {}
    for name, prompts in sets.items():
        for prompt in prompts:
            other = seen.setdefault(prompt.id, name)
            if other != name:
                raise ConfigError(
                    f"prompt id {prompt.id!r} is in prompts.{other} and in prompts.{name}",
                    "keep the sets apart: a model must not be measured on what it was trained on; give a file that"
                    " holds them all as FILE.jsonl:train, FILE.jsonl:dev and FILE.jsonl:test",
                )


def _load_set(config: RaftConfig, name: str) -> tuple[Prompt, ...]:
    section = config.prompts
    try:
        prompts = load_prompts(
            getattr(section, name),
            language=config.verifier.language,
            where=section.where,
            limit=getattr(section, f"{name}_limit"),
            check=lambda prompt: _check_tests(config, prompt),
        )
    except ConfigError as error:
        raise ConfigError(f"prompts.{name}: {error.message}", error.hint) from error
    return tuple(with_system(prompt, section.system_prompt) for prompt in prompts)


def _check_tests(config: RaftConfig, prompt: Prompt) -> None:
    """Whether the verifier can use the prompt's tests, as far as no program has to be run.

    Raises:
        ConfigError: It cannot.
    """
    tests, _ = config.verifier.tests_of(prompt)
    try:
        config.verifier.refuse_unsupported(tests)
    except ConfigError as error:
        raise ConfigError(f"prompt {prompt.id!r}: {error.message}", error.hint) from error


def with_system(prompt: Prompt, system_prompt: str | None) -> Prompt:
    """The prompt with a system message, unless it has one or `system_prompt` is None."""
    if system_prompt is None or prompt.messages[0]["role"] == "system":
        return prompt
    return dataclasses.replace(prompt, messages=({"role": "system", "content": system_prompt}, *prompt.messages))


def planned(config: RaftConfig) -> Preview:
    """The preview of a configuration; prompt sets on a hub are not read.

    Raises:
        ConfigError: A local prompt set cannot be read, or a prompt id is in two of them.
    """
    return planned_with(config, load_local_sets(config))


def load_local_sets(config: RaftConfig) -> dict[str, tuple[Prompt, ...]]:
    """The prompt sets that are not on a hub, by name.

    Raises:
        ConfigError: A set cannot be read or has no name that a hub can know (all of these are named), a prompt id is
            in two of them, or no program may print what tests expect.
    """
    local, problems = {}, []
    for name in SETS:
        try:
            if is_remote(source := getattr(config.prompts, name)):
                hub.parts_of(source)
            else:
                local[name] = _load_set(config, name)
        except ConfigError as error:
            problems.append(error)
    raise_together(problems)
    _refuse_shared_ids(local)
    every = (prompt for prompts in local.values() for prompt in prompts)
    refuse_long_outputs(config.verifier, ((prompt.id, config.verifier.tests_of(prompt)[0]) for prompt in every))
    return local


def planned_with(config: RaftConfig, local: Mapping[str, Sequence[Prompt]]) -> Preview:
    """The preview of a configuration whose local prompt sets were read.

    Raises:
        ConfigError: A schedule reads the pass rate of a set without tests.
    """
    sets = _summaries(config, local)
    num = {name: len(prompts) for name, prompts in local.items()}
    has_tests = "train" not in local or any(map(is_tested, local["train"]))
    found = preview(config, num.get("train"), num.get("dev"), has_tests, num.get("test"))
    return dataclasses.replace(
        found, prompts=sets, warnings=(*_prompt_warnings(config, sets), *_row_warnings(config, local), *found.warnings)
    )


def _summaries(config: RaftConfig, prompts: Mapping[str, Sequence[Prompt]]) -> dict[str, SetSummary]:
    """How each set is checked.

    A schedule that reads the pass rate of a set without tests would never act, and nobody would notice.

    Raises:
        ConfigError: There is one.
    """
    sets = {name: summarise(own) for name, own in prompts.items()}
    for path in SCHEDULED:
        metric = getattr(value_at(config, path), "metric", None)
        name, _, bare = str(metric).partition("/")
        untested = name in sets and (sets[name].num_tested == 0 or config.verifier.stages == ["compile"])
        if untested and config.verifier.runs_programs and (bare == "pass_rate" or bare.startswith("pass@")):
            raise ConfigError(
                f"{dotted(path)}.metric is {metric}, but no prompt of prompts.{name} is tested, so there is only a"
                " compile rate",
                f"write metric: {name}/compile_rate, or give the prompts tests",
            )
    return sets


def _prompt_warnings(config: RaftConfig, sets: Mapping[str, SetSummary]) -> Iterator[str]:
    named = {f"prompts.{name}": summary for name, summary in sets.items()}
    return warnings_of(named, config.verifier.runs_programs, config.verifier.stages)


def _row_warnings(config: RaftConfig, prompts: Mapping[str, Sequence[Prompt]]) -> Iterator[str]:
    named = {f"prompts.{name}": own for name, own in prompts.items()}
    yield from shared_tasks(named)
    yield from limit_warnings(named, config.verifier.timeout_seconds, config.verifier.memory_limit_bytes)


def _start_warnings(
    config: RaftConfig, sets: Mapping[str, SetSummary], prompts: PromptSets, dropped: Overlong | None
) -> Iterator[str]:
    if dropped is not None:
        yield f"{dropped}; prompts.overlong leaves them out"
    yield from _prompt_warnings(config, sets)
    yield from cut_prompts(config, len(prompts.train))
    yield from _row_warnings(config, prompts.by_name())


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
        _check_schema(Path(config.output_dir))
    # Before anything imports torch.
    profile = prepare(config.hardware) if config.engine.needs_policy else choose(config.hardware)
    with ExitStack() as stack, ExitStack() as until_loaded:
        until_loaded.enter_context(heartbeat.loading())
        library_warnings = stack.enter_context(LibraryWarnings().collected())
        prompts = load_prompt_sets(config)
        _check_engine(config)
        sources = [Source.read(root) for root in share_from]
        run = stack.enter_context(Run(Path(config.output_dir)))
        if not run.is_new:
            _check_same_run(run, config, prompts, resume=resume, fork=fork)
        workers = verifier_workers(config, profile)
        verifier = stack.enter_context(open_verifier(config.verifier.model_copy(update={"workers": workers})))
        prompts, dropped = _fitting(config, read := prompts, date := _date(run, config, sources))
        asked = list(prompts.by_id().values())
        verifier.check_prompts(asked)
        failing = verifier.check_references(asked) if run.is_new else iter(())  # while the model is loaded
        sets = _summaries(config, prompts.by_name())
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
            warnings=(*_start_warnings(config, sets, prompts, dropped), *reference_warnings(failing)),
            checked_by=tuple(lines_of(sets)),
            notes=() if policy is None else policy.rendering.notes(),
        )
        identity = _identity(config, read, verifier.toolchain(), policy)
        identity |= {"hardware": _choices(config, profile, policy, workers), "rendering": _rendering(policy, asked)}
        _identify(run, loaded, identity, policy, fork)
        runtime = _with_sharing(runtime, run, sources)
        if from_cycle is not None:
            run.supersede(from_cycle)
        until_loaded.close()
        _begin(run, sets, dropped, library_warnings, resumed=resume)
        plan = Plan(config, prompts, _earlier(run.root))
        yield plan, run, _reported(runtime, plan, run, stack)


def _identify(
    run: Run, loaded: LoadedConfig, identity: dict[str, Any], policy: Policy | None, fork: ForkPoint | None
) -> None:
    """Write the identity of a new run, or compare it with that of the run which is there."""
    if not run.is_new:
        _check_start_model(run, identity, policy)
    else:
        if fork is not None:
            now = {key: identity[key] for key in IDENTITY_KEYS if identity[key] is not None}
            _compare(fork.run, read_identity(fork.run), now)
            stage_fork(run.root, fork)
            identity["fork"] = fork.record()
        run.start(identity, given=loaded.document.text, resolved=dump(resolved(loaded.config)))
    complete_fork(run)


def _earlier(root: Path) -> tuple[tuple[int, RaftConfig], ...]:
    """Of a run that continues another one: (cycle, configuration of the cycles before it), in order."""
    paths = sorted((root / FORK_FOLDER).glob("[0-9]*.yaml"), key=lambda path: int(path.stem))
    return tuple((int(path.stem), _stored_config(path, root).config) for path in paths)


def _begin(
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


def _fitting(config: RaftConfig, prompts: PromptSets, date: datetime) -> tuple[PromptSets, Overlong | None]:
    """The prompts that leave room for a completion, and those that `prompts.overlong` drops; None where there are none.

    Which these are follows from the prompts, the tokenizer and the configuration, which identify the run.

    Raises:
        ConfigError: Some leave none and are not to be dropped, or no prompt of a set is left.
        ModelError: The tokenizer or its chat template cannot be used.
    """
    if not config.engine.needs_policy:
        return prompts, None
    prefix, limit = config.prompts.response_prefix, config.engine.max_new_tokens
    marks = config.verifier.own_marks
    every = prompts.by_id().values()
    found = overlong_prompts(config.model, every, prefix, limit, date=date, reasoning_marks=marks)
    if not found.num_tokens:
        return prompts, None
    if config.prompts.overlong == "error":
        raise ConfigError(
            str(found),
            "shorten or remove them, leave them out with prompts.overlong: drop, lower engine.max_new_tokens, or use a"
            " model with more positions",
        )
    left = {
        name: tuple(each for each in own if each.id not in found.num_tokens) for name, own in prompts.by_name().items()
    }
    for name, own in left.items():
        if not own:
            raise ConfigError(f"prompts.overlong: no prompt of prompts.{name} is left: {found}", "lower max_new_tokens")
    return PromptSets(**left), found


def _rendering(policy: Policy | None, prompts: Sequence[Prompt]) -> dict[str, Any] | None:
    return None if policy is None else policy.rendering.record(prompts)


def _choices(config: RaftConfig, profile: Profile, policy: Policy | None, workers: int) -> dict[str, Any]:
    """What every `auto` became."""
    if policy is None:
        return hardware_choices(config, profile, None)
    choices = hardware_choices(config, profile, policy.size.num_parameters, policy.size.shape)
    choices["verifier.workers"] = workers  # chosen before torch could say that there is a GPU, or none
    return choices


def _check_engine(config: RaftConfig) -> None:
    check_trackers(config.report_to)
    config.engine.check()
    if config.engine.needs_policy:
        check_local(config.model)
        check_quantization(config.model.quantization)


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
    _check_schema(root)
    with Run(root) as run:
        _check_same_run(run, loaded.config, load_prompt_sets(loaded.config), resume=True, fork=fork)
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
    policy.check_tokens(prompts)
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


def _check_schema(root: Path) -> None:
    """Refuse a run of another schema before its prompts are read: they may no longer be there or readable."""
    if (root / "run.json").exists():
        read_identity(root)


def _check_same_run(
    run: Run, config: RaftConfig, prompts: PromptSets, *, resume: bool, fork: ForkPoint | None = None
) -> None:
    if not resume:
        raise RunDirError(
            f"{run.root}: a run was already started here",
            f"continue it with --resume (`resume=True` in Python, or `halo-forge raft resume {run.root}`), look at it"
            f" with `halo-forge raft status {run.root}`, or choose another output_dir",
        )
    identity = run.identity()
    for key, kind in {"config_digest": str, "prompts": dict, "start_model": dict}.items():
        if not isinstance(identity.get(key), kind):
            raise RunDirError(f"{run.root / 'run.json'}: {key} is {str(identity.get(key))[:80]!r}", EDITED)
    if identity["config_digest"] != config_digest(config):
        stored = load_document(run.root / "config.resolved.yaml").data
        changes = differing_keys(stored, resolved(config))
        rows = "\n".join(f"  {key}: was {old!r}, is {new!r}" for key, old, new in changes if key != "output_dir")
        raise RunDirError(
            f"{run.root}: started with another configuration:\n{rows}",
            "put the values back, or choose another output_dir for the new configuration",
        )
    _compare(run.root, identity, {"prompts": _prompt_digests(prompts)})
    if fork is not None:
        check_same_fork(run, fork.record())


def _check_start_model(run: Run, identity: dict[str, Any], policy: Policy | None) -> None:
    stored = run.identity()
    _compare(run.root, stored, {"start_model": identity["start_model"]})
    if "rendering" in stored and identity["rendering"] is not None:
        _compare(run.root, stored, {"rendering": identity["rendering"]})
    elif "rendering" not in stored and policy is not None:
        _refuse_unknown_rendering(run, policy.rendering)
    stored.setdefault("plugins", {})  # a run of an earlier version knew none
    changed = {key: identity[key] for key in NOTED_KEYS if stored.get(key) != identity[key]}
    if changed:
        run.event("environment_changed", **changed)


def _refuse_unknown_rendering(run: Run, rendering: Renderer) -> None:
    """Refuse to continue a run of a version that recorded no rendering, where it rendered prompts otherwise.

    Raises:
        RunDirError: The chat template reads the clock, or opens the reasoning, which was no part of completions then.
    """
    if rendering.reads_clock:
        raise RunDirError(
            f"{run.root}: its chat template reads the clock, and the version that started it did not record the date",
            CONTINUE_ELSEWHERE,
        )
    if opened := rendering.opened_reasoning:
        raise RunDirError(
            f"{run.root}: its chat template opens the reasoning ({opened.strip()}), and in the version that started it"
            " completions did not begin with that: its completions were checked in another way",
            CONTINUE_ELSEWHERE,
        )


def _compare(root: Path, stored: dict[str, Any], now: dict[str, Any]) -> None:
    for key, value in now.items():
        was = stored[key]
        changed = [name for name in sorted(was.keys() | value.keys()) if was.get(name) != value.get(name)]
        if changed:
            raise RunDirError(
                f"{root}: {IDENTITY_KEYS[key]} ({', '.join(changed)} changed)",
                "put them back as they were, or choose another output_dir for a new run",
            )


def _identity(
    config: RaftConfig, prompts: PromptSets, toolchain: dict[str, Any], policy: Policy | None
) -> dict[str, Any]:
    return {
        "halo_forge_version": halo_forge.__version__,
        "config_digest": config_digest(config),
        "seed": config.seed,
        "prompts": _prompt_digests(prompts),
        "start_model": {**({} if policy is None else policy.identity), **config.engine.inputs()},
        "toolchain": toolchain,
        "versions": {"python": platform.python_version(), **_versions()},
        "plugins": _plugins(config),
        "git_commit": _git_commit(),
    }


def _prompt_digests(prompts: PromptSets) -> dict[str, Any]:
    return {name: _prompt_digest(own) for name, own in prompts.by_name().items()}


def _prompt_digest(prompts: Sequence[Prompt]) -> str:
    rows = [prompt.to_row() for prompt in prompts]
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


def _plugins(config: RaftConfig) -> dict[str, str]:
    """Distribution -> version of the plugins that take part: kinds that are used, and all shapes of prompt rows.

    Every shape is asked whether it recognises the rows, so each can decide how they are read.
    """
    shapes = {plugin.distribution: plugin.version for plugin in plugins(PROMPTS_GROUP)}
    return dict(sorted({**shapes, **used_plugins(config)}.items()))


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _git_commit() -> str | None:
    """The commit this package runs from, where it is a checkout; a wheel has none."""
    root = Path(halo_forge.__file__).parent.parent
    if not (root / ".git").exists():
        return None
    done = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else None
