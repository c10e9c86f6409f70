"""The experiment file: one base configuration, arms that change it, seeds, and the comparisons that decide.

It is read like a configuration: plain data with the line of each value, overrides by `--set`, and one error that lists
all problems.  Nothing is loaded and nothing is written.
"""

from __future__ import annotations

import difflib
import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from halo_forge.config import LoadedConfig, RaftConfig
from halo_forge.config.explain import problems_of
from halo_forge.config.load import as_error, checked, digest_of, influential
from halo_forge.config.names import fields
from halo_forge.config.problems import Problem, show
from halo_forge.config.spellings import Normalised
from halo_forge.config.yaml_io import Document, KeyPath, apply_overrides, apply_values, load_document
from halo_forge.core.errors import ConfigError, raise_together
from halo_forge.core.paths import PathText, Text
from halo_forge.core.registry import Spec
from halo_forge.runtime.assembly import run_config
from halo_forge.runtime.fork import ForkPoint, check_fork
from halo_forge.store.run import read_identity

MOST_RUNS = 1000
"""Runs of one experiment; more are a mistake in a grid."""

_RESERVED = {"seed": "seeds", "output_dir": "output_dir"}
"""Keys of a configuration that the experiment sets itself -> the key of the experiment file that says how."""
_OWN_NAMES = ("experiment.json", "state", "lock", "report.html")
"""What lies beside the folders of the arms."""
_LONGEST_FOLDER = 80
_HINT = "correct these keys; `halo-forge docs experiments#the-file` describes every key"

Metric = Literal[
    "test/pass_rate", "test/compile_rate", "test/reward_mean", "dev/pass_rate", "dev/compile_rate", "dev/reward_mean"
]
At = Literal["final", "chosen", "peak", "fall"]
Expect = Literal["higher", "lower", "different"]


class ComparisonSection(Spec):
    """One hypothesis: which of two arms is better, and by what."""

    treatment: Text
    """An arm."""
    control: Text
    """The arm that it is compared with."""
    metric: Metric = "test/pass_rate"
    """Of dev or test prompts."""
    at: At = "chosen"
    """final: the last version; chosen: the one chosen on dev; peak: the best dev value; fall: peak less final."""
    expect: Expect = "different"
    """What the hypothesis says of the treatment."""


class AssumptionsSection(Spec):
    """What the plan assumes where no earlier run was measured."""

    icc: Annotated[float, Field(ge=0.0, lt=1.0, allow_inf_nan=False)] | None = None
    """Intraclass correlation: the share of the variance of passing that is between prompts."""
    rate: Annotated[float, Field(gt=0.0, lt=1.0, allow_inf_nan=False)] | None = None
    """The rate of the control arm."""
    seed_standard_deviation: Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)] | None = None
    """Standard deviation of an arm's difference from seed to seed, beyond what its prompts explain."""


class ForkSection(Spec):
    """The run that all arms continue."""

    run: PathText
    """Its run directory."""
    from_cycle: Annotated[int, Field(ge=1)]
    """The first cycle that the arms do themselves; what lies before it is shared."""


class ExperimentSection(Spec):
    """The whole experiment file."""

    question: Text
    """What the experiment is to answer."""
    base: PathText | None = None
    """The configuration that all arms change, relative to this file; with `fork` that of the run, so none is given."""
    settings: dict[str, Any] = Field({}, alias="set")
    """Overrides of all arms: dotted key -> value, as `--set` takes them."""
    arms: dict[str, dict[str, Any] | None] | None = None
    """Name -> overrides of one arm."""
    grid: dict[str, list[Any]] | None = None
    """Instead of arms: dotted key -> values; every combination is an arm."""
    seeds: list[Annotated[int, Field(ge=0, lt=2**63)]] | None = None
    """Each arm is run once with each; with `fork` it is the run's seed, so none is given."""
    primary: list[ComparisonSection] = Field([])
    """The comparisons that answer the question, decided together (Holm)."""
    output_dir: PathText | None = None
    """The folder of the experiment; by default runs/experiments/<name of the file>."""
    share: bool = True
    """Do once what the arms of a seed have in common."""
    assumptions: AssumptionsSection = AssumptionsSection()
    fork: ForkSection | None = None


@dataclass(frozen=True)
class Arm:
    """One way of running, the same for all seeds.

    Attributes:
        folder: Its name as that of a folder.
        overrides: What it changes: dotted key -> value.
        place: `file:line` of where it was written.
        places: The same of each override.
    """

    name: str
    folder: str
    overrides: Mapping[str, Any]
    place: str
    places: Mapping[str, str]


@dataclass(frozen=True)
class Comparison:
    """A primary comparison; see `ComparisonSection`."""

    treatment: str
    control: str
    metric: Metric
    at: At
    expect: Expect

    def __str__(self) -> str:
        return f"{self.treatment} against {self.control}: {self.metric}, {self.at}, expected {self.expect}"


@dataclass(frozen=True)
class Experiment:
    """A checked experiment.

    Attributes:
        path: Its file, as the user named it.
        text: The text of that file.
        given: `--set` as given on the command line.
        root: Its folder, which need not exist.
        base: The document that all arms change, with the settings that all of them have.
        forked: Where run.json and the configuration of the run of `fork` are read: there, or in `kept_fork` once that
            run is gone.
    """

    path: Path
    text: str
    given: tuple[str, ...]
    question: str
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    primary: tuple[Comparison, ...]
    root: Path
    share: bool
    assumptions: AssumptionsSection
    fork: ForkPoint | None
    base: Document
    forked: Path | None = None

    def arm(self, name: str) -> Arm:
        """The arm of that name, which exists."""
        return next(arm for arm in self.arms if arm.name == name)

    def runs(self) -> Iterator[tuple[Arm, int]]:
        """(arm, seed) in the order in which they are run: all arms of one seed, then the next seed."""
        return ((arm, seed) for seed in self.seeds for arm in self.arms)

    def run_root(self, arm: Arm, seed: int) -> Path:
        """The run directory of an arm and a seed."""
        return self.root / arm.folder / f"seed-{seed}"

    def config(self, arm: Arm, seed: int) -> LoadedConfig:
        """The checked configuration of a run, with its seed and its run directory.

        Raises:
            ConfigError: All problems of it, each with where it was written.
        """
        place = f"{self.path}:"
        values = [(key, value, arm.places[key]) for key, value in arm.overrides.items()]
        own = [("seed", seed, place), ("output_dir", str(self.run_root(arm, seed)), place)]
        return checked(apply_values(self.base, [*self._tracking(arm, place), *values, *own], place))

    def _tracking(self, arm: Arm, place: str) -> Iterator[tuple[str, str, str]]:
        """Trackers show an experiment as a project and each arm as a group, unless the base says otherwise."""
        given = self.base.data.get("tracking")
        for key, value in (("project", self.root.absolute().name), ("group", arm.name)):
            if given is None or (isinstance(given, Mapping) and key not in given):
                yield f"tracking.{key}", value, place

    def identity(self) -> dict[str, Any]:
        """Everything that the answer depends on, as plain JSON data: settings of each arm, seeds, comparisons, fork."""
        arms = {}
        for arm in self.arms:
            arms[arm.name] = influential(self.config(arm, self.seeds[0]).config)
            del arms[arm.name]["seed"]
        fork = None
        if self.fork is not None and self.forked is not None:
            fork = {"run": read_identity(self.forked)["config_digest"], "from_cycle": self.fork.from_cycle}
        primary = [vars(comparison) for comparison in self.primary]
        return {"arms": arms, "seeds": list(self.seeds), "primary": primary, "fork": fork}

    @property
    def kept_fork(self) -> Path:
        """Where this experiment keeps what it needs of the run of `fork` for a status and a report."""
        return _kept_fork(self.root)

    @property
    def fork_is_gone(self) -> bool:
        """Whether the run of `fork` was removed after this experiment was started."""
        return self.fork is not None and self.forked != self.fork.run

    @property
    def digest(self) -> str:
        """SHA-256 of `identity`."""
        return digest_of(self.identity())


def load_experiment(path: str | Path, overrides: Iterable[str] = ()) -> Experiment:
    """Read and check an experiment file.

    Args:
        overrides: `KEY=VALUE`: of a key of the experiment file, or of a setting of all arms.

    Raises:
        ConfigError: All problems, one line per key: `file:line: key: found ..., allowed ...`.
        RunDirError: The run of `fork` cannot be read.
    """
    given = tuple(overrides)
    document = load_document(path)
    if ("extends",) in document.lines:
        raise ConfigError(
            f"{document.path}:{document.lines[('extends',)]}: extends: an experiment file does not extend another one",
            "write its keys out; the configuration of the runs, which `base` names, may extend one",
        )
    own = [each for each in given if each.partition("=")[0].partition(".")[0].strip() in fields(ExperimentSection)]
    document = apply_overrides(document, own)
    section = _section(document)
    root = Path(section.output_dir or f"runs/experiments/{document.path.stem}")
    forked = None if section.fork is None else _forked(Path(section.fork.run), root)
    values = [(key, value, document.where(("set", key))) for key, value in section.settings.items()]
    of_all = [each for each in given if each not in own]
    plain = _base(section, document, forked)
    base = apply_overrides(apply_values(plain, values, f"{document.path}:"), of_all)
    if problems := [*_replaced({("set",): section.settings}, plain), *_replaced(_places_of_arms(section), base)]:
        raise as_error(problems, Normalised(document.data), document, _HINT)
    experiment = Experiment(
        path=document.path,
        text=document.text,
        given=given,
        question=section.question,
        arms=_arms(section, document),
        seeds=_seeds(section, base, document),
        primary=tuple(Comparison(**each.model_dump()) for each in section.primary),
        root=root,
        share=section.share,
        assumptions=section.assumptions,
        fork=None if section.fork is None else ForkPoint(Path(section.fork.run), section.fork.from_cycle),
        base=base,
        forked=forked,
    )
    _refuse_hidden(experiment, of_all)
    _check_arms(experiment)
    return experiment


def _section(document: Document) -> ExperimentSection:
    """The keys of the file, and the rules between them."""
    data = document.data
    try:
        section = ExperimentSection.model_validate(data)
    except ValidationError as error:
        problems = problems_of(error, data, ExperimentSection)
        raise as_error([_moved(problem) for problem in problems], Normalised(data), document, _HINT) from error
    problems = [*_sources(section), *_reserved(section), *_lists(section)]
    if not problems:
        problems = list(_comparisons(section, list(_overrides_of_arms(section))))
    if problems:
        raise as_error(problems, Normalised(data), document, _HINT)
    return section


def _moved(problem: Problem) -> Problem:
    """An unknown key that is one of a configuration, with where it belongs."""
    if len(problem.path) == 1 and "unknown key" in problem.text:
        name = str(problem.path[0])
        if name in RaftConfig.model_fields:
            where = "seeds" if name == "seed" else f"`set`, as a dotted key such as {name}.KEY"
            return Problem(problem.path, f"unknown key; a setting of the runs belongs into {where}")
    return problem


def _sources(section: ExperimentSection) -> Iterator[Problem]:
    if (section.arms is None) == (section.grid is None):
        both = section.arms is not None
        yield Problem(
            ("grid" if both else "arms",), "given together with arms" if both else "missing; write arms, or a grid"
        )
    if section.fork is None:
        for key in ("base", "seeds"):
            if getattr(section, key) is None:
                yield Problem((key,), "missing; this key is required")
    elif section.base is not None:
        yield Problem(("base",), "given together with fork, whose run has the configuration that the arms change")


def _reserved(section: ExperimentSection) -> Iterator[Problem]:
    places: list[tuple[KeyPath, Iterable[str]]] = [(("set",), section.settings), (("grid",), section.grid or {})]
    places += [(("arms", name), overrides or {}) for name, overrides in (section.arms or {}).items()]
    for path, keys in places:
        for key in keys:
            if key in _RESERVED:
                yield Problem((*path, key), f"the experiment sets it; give {_RESERVED[key]} at the top of the file")
            elif not re.fullmatch(r"[^.\s]+(\.[^.\s]+)*", key):
                yield Problem((*path, key), f"found {show(key)}, allowed: a dotted key such as raft.num_cycles")


def _places_of_arms(section: ExperimentSection) -> dict[KeyPath, Mapping[str, Any]]:
    """Where the file writes what arms change -> dotted key -> value, of a grid each value by itself."""
    found: dict[KeyPath, Mapping[str, Any]] = {
        ("arms", name): overrides or {} for name, overrides in (section.arms or {}).items()
    }
    for key, values in (section.grid or {}).items():
        found |= {("grid", key, at): {key: value} for at, value in enumerate(values)}
    return found


def _replaced(places: Mapping[KeyPath, Mapping[str, Any]], base: Document) -> Iterator[Problem]:
    """Sections that would take the place of those of the base, so that keys which nobody names become the defaults."""
    for path, overrides in places.items():
        for key, value in overrides.items():
            before: Any = base.data
            for part in key.split("."):
                before = before.get(part) if isinstance(before, Mapping) else None
            if not isinstance(value, Mapping) or not isinstance(before, Mapping):
                continue
            is_other_kind = "kind" in value and ("." in key or value["kind"] != before.get("kind"))
            lost = [name for name in before if name not in value]
            if lost and not is_other_kind:
                own = next(iter(value), lost[0])
                text = f"would drop {', '.join(map(str, lost))} of the base; write dotted keys such as {key}.{own}"
                yield Problem(path if path[0] == "grid" else (*path, key), text)


def _lists(section: ExperimentSection) -> Iterator[Problem]:
    """Lists that hold nothing, or one thing twice."""
    lists: dict[KeyPath, list[Any]] = {("grid", key): values for key, values in (section.grid or {}).items()}
    if section.seeds is not None:
        lists[("seeds",)] = section.seeds
    for path, values in lists.items():
        twice = [value for number, value in enumerate(values) if value in values[:number]]
        if not values:
            yield Problem(path, "found an empty list, allowed: at least one value")
        elif twice:
            yield Problem(path, f"{show(twice[0])} is given twice")
    for key in ("arms", "grid"):
        if getattr(section, key) == {}:
            yield Problem((key,), "found none, allowed: at least one")
    names = [name for name in section.arms or {} if not name.strip()]
    yield from (Problem(("arms", name), "an arm needs a name") for name in names)
    num_arms = len(section.arms or {}) or math.prod(len(values) for values in (section.grid or {}).values())
    num_runs = num_arms * len(section.seeds or [0])
    if num_runs > MOST_RUNS:
        yield Problem(("grid" if section.grid else "arms",), f"{num_runs} runs, allowed: at most {MOST_RUNS}")


def _comparisons(section: ExperimentSection, names: list[str]) -> Iterator[Problem]:
    for number, each in enumerate(section.primary):
        path: KeyPath = ("primary", number)
        for key in ("treatment", "control"):
            name = getattr(each, key)
            if name not in names:
                near = difflib.get_close_matches(name, names, n=1)
                allowed = f"did you mean {near[0]}?" if near else f"allowed: {', '.join(names)}"
                yield Problem((*path, key), f"found {show(name)}, which is no arm; {allowed}")
        if each.treatment == each.control:
            yield Problem((*path, "control"), f"found {show(each.control)}, which is the treatment; name another arm")
        if each in section.primary[:number]:
            yield Problem(path, "the same comparison is given twice")
        if each.at in ("peak", "fall") and not each.metric.startswith("dev/"):
            yield Problem(
                (*path, "at"),
                f"found {show(each.at)} of {each.metric}, but only dev is measured in every cycle; allowed: final or"
                " chosen, or a dev/ metric",
            )


def _kept_fork(root: Path) -> Path:
    return root / "state" / "forked"


def _forked(run: Path, root: Path) -> Path:
    kept = _kept_fork(root)
    return kept if not (run / "run.json").is_file() and (kept / "run.json").is_file() else run


def _base(section: ExperimentSection, document: Document, forked: Path | None) -> Document:
    """The configuration that all arms change: of a file, or of the run that they continue."""
    if forked is not None:
        return run_config(forked).document
    assert section.base is not None  # _sources has looked
    path = document.path.parent / section.base
    try:
        return load_document(path)
    except ConfigError as error:
        raise ConfigError(f"{document.where(('base',))}: base: {error.message}", error.hint) from error


def _seeds(section: ExperimentSection, base: Document, document: Document) -> tuple[int, ...]:
    """The seeds; a run that is continued has one, from which all its samples are drawn."""
    if section.fork is None:
        return tuple(section.seeds or ())
    seed = int(base.data["seed"])
    if section.seeds not in (None, [seed]):
        text = f"found {show(section.seeds)}, allowed: [{seed}], the seed of the run that the arms continue, or none"
        raise as_error([Problem(("seeds",), text)], Normalised(document.data), document, _HINT)
    return (seed,)


def _arms(section: ExperimentSection, document: Document) -> tuple[Arm, ...]:
    named = _overrides_of_arms(section)
    folders = _folders(list(named))
    found = []
    for name, overrides in named.items():
        path: KeyPath = ("grid",) if section.arms is None else ("arms", name)
        places = {key: document.where((*path, key)) for key in overrides}
        found.append(Arm(name, folders[name], overrides, document.where(path), places))
    return tuple(found)


def _overrides_of_arms(section: ExperimentSection) -> dict[str, dict[str, Any]]:
    """Name of an arm -> what it changes; the arms of a grid are named after their values."""
    if section.arms is not None:
        return {name: {} if overrides is None else overrides for name, overrides in section.arms.items()}
    grid = section.grid or {}
    short = _short_keys(list(grid))
    named: dict[str, dict[str, Any]] = {}
    for values in itertools.product(*grid.values()):
        chosen = dict(zip(grid, values, strict=True))
        name = ",".join(f"{short[key]}={_written(value)}" for key, value in chosen.items())
        named[name] = chosen
    return named


def _short_keys(keys: list[str]) -> dict[str, str]:
    """Each dotted key -> its last part, or the whole key where two would be the same."""
    last = [key.rpartition(".")[2] for key in keys]
    return {key: own if last.count(own) == 1 else key for key, own in zip(keys, last, strict=True)}


def _written(value: Any) -> str:
    """A value as a person writes it: 3e-5, not 3e-05."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_written(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_written, value)) + "]"
    if isinstance(value, float):
        return re.sub(r"e([-+])0+(?=\d)", r"e\1", f"{value:.12g}").replace("e+", "e")
    return value if isinstance(value, str) else json.dumps(value)


def _folders(names: list[str]) -> dict[str, str]:
    """Each name as one of a folder: nothing that a file system, a shell or an eye could take for something else."""
    found: dict[str, str] = {}
    for name in names:
        safe = re.sub(r"[^A-Za-z0-9._=,+-]+", "_", name)[:_LONGEST_FOLDER]
        taken = {*_OWN_NAMES, *(each.casefold() for each in found.values())}
        if safe != name or safe.startswith((".", "-")) or safe.casefold() in taken:
            safe = f"{safe.strip('.-_') or 'arm'}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
        found[name] = safe
    return found


def _refuse_hidden(experiment: Experiment, overrides: Iterable[str]) -> None:
    """A `--set` that an arm overrides again would have no effect there, and nobody would notice."""
    for override in overrides:
        key = override.partition("=")[0].strip()
        for arm in experiment.arms:
            for own in arm.overrides:
                if f"{own}.".startswith(f"{key}.") or f"{key}.".startswith(f"{own}."):
                    raise ConfigError(
                        f"--set {override}: arm {arm.name} sets {own} itself ({arm.places[own]})",
                        "change the arm in the file; --set changes what all arms have in common",
                    )


def _check_arms(experiment: Experiment) -> None:
    """Every arm is a valid configuration, and no two of them are the same one."""
    problems, seen = [], dict[str, str]()
    for arm in experiment.arms:
        try:
            loaded = experiment.config(arm, experiment.seeds[0])
            if experiment.fork is not None and not experiment.fork_is_gone:
                check_fork(experiment.fork, run_config(experiment.fork.run).config, loaded)
            settings = digest_of(influential(loaded.config))
        except ConfigError as error:
            problems.append(ConfigError(f"arm {arm.name}: {error.message}", error.hint))
            continue
        other = seen.setdefault(settings, arm.name)
        if other != arm.name:
            text = f"{arm.place}: arm {arm.name} has the same settings as arm {other}: with equal seeds, equal results"
            problems.append(ConfigError(text, "drop one of them, or change what they are to differ in"))
    raise_together(problems)
