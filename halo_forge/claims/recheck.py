"""A claim checked on this machine: the file, the numbers, the programs, and what follows from other verdicts."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import halo_forge
from halo_forge.claims.archive import Manifest, extract, file_sha256
from halo_forge.claims.findings import GROUPS, Difference, Findings
from halo_forge.claims.opened import build_of, read_config, read_part, read_prompts, with_settings, without_overlong
from halo_forge.claims.pairs import Pair, check_pairs, stored_pairs
from halo_forge.claims.programs import Track, local_spec, toolchain_differences, verify_again
from halo_forge.claims.replay import Replay, Verdicts
from halo_forge.claims.tokens import TEXTS, check_texts
from halo_forge.config import RaftConfig, config_digest
from halo_forge.core.errors import ClaimError, ConfigError
from halo_forge.core.plan import Plan
from halo_forge.core.records import Prompt
from halo_forge.policy import ADAPTER_FILES, adapter_digest
from halo_forge.runtime.identity import git_commit, package_versions
from halo_forge.store.files import read_json
from halo_forge.store.run import SCHEMA_VERSION
from halo_forge.verifiers import ProgramSpec

NUM_RERUNS = 3
_MARK = "recheck.json"
"""In a work folder: which claim it belongs to."""
_RESULT = "result.json"


@dataclass(frozen=True)
class Options:
    """How a claim is rechecked.

    Attributes:
        programs: Verify every completion again; False recomputes numbers alone.
        workers: Programs at the same time; None is one for each core.
        num_reruns: Times that a program with another verdict is run again before that counts.
        prompts: Set -> where this machine has the prompts that the claim does not hold.
        settings: `verifier.compiler=...` and the like, see `programs.MACHINE_KEYS`.
        tokenizer: Folder or hub id of the model, whose tokenizer decodes the completions; None decodes nothing.
        work_dir: Kept, so that a recheck which was killed goes on there; None is a private folder that is removed.
    """

    programs: bool = True
    workers: int | None = None
    num_reruns: int = NUM_RERUNS
    prompts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    settings: Sequence[str] = ()
    tokenizer: str | None = None
    work_dir: Path | None = None


@dataclass(frozen=True)
class Rechecked:
    """What came of it.

    Attributes:
        manifest, run: manifest.json and run.json of the claim.
        num_completions: Completions in the claim; `num_verified` of their verdicts were checked by running programs.
        versions: Name -> (of the run, of this machine), where they are not the same.
        consequences: Where verdicts differ: what result.json is by those of this machine.
    """

    file: str
    sha256: str
    manifest: Manifest
    run: Mapping[str, Any]
    history: Mapping[str, Any]
    result: Mapping[str, Any]
    findings: Findings
    num_completions: int
    num_verified: int
    versions: Mapping[str, tuple[Any, Any]]
    consequences: Sequence[Difference]
    seconds: float

    @property
    def is_confirmed(self) -> bool:
        """Whether nothing differs."""
        return not self.findings.differences

    def to_row(self) -> dict[str, Any]:
        """As plain JSON data."""
        found = self.findings
        return {
            "file": self.file,
            "sha256": self.sha256,
            "confirmed": self.is_confirmed,
            "run": {**self.run},
            "history": {**self.history},
            "prompts": {name: source.model_dump(mode="json") for name, source in self.manifest.prompts.items()},
            "num_completions": self.num_completions,
            "num_verified": self.num_verified,
            "num_values": found.num_values,
            "versions": {name: {"run": then, "here": now} for name, (then, now) in self.versions.items()},
            "num_differences": {group: sum(each.group == group for each in found.differences) for group in GROUPS},
            "differences": [each.to_row() for each in found.differences],
            "flaky": [each.to_row() for each in found.flaky],
            "consequences": [each.to_row() for each in self.consequences],
            "not_checked": [each.to_row() for each in found.not_checked],
            "seconds": round(self.seconds, 3),
        }


def recheck(path: Path, options: Options, track: Track) -> Rechecked:
    """Check a claim.

    Args:
        track: Passes items on and counts them, see `runtime.effects.Observer`.

    Raises:
        ClaimError: The file is no claim, is damaged, or cannot be rechecked by this halo-forge or with these options.
        ToolMissing: A compiler or a sandbox is missing.
    """
    start = time.monotonic()
    with _work_folder(path, options.work_dir) as folder:
        root = folder / "claim"
        with _limited_memory(path):
            claim = _Claim.read(path, root, options)
            reached = claim.check_numbers()
        claim.check_texts(options.tokenizer)
        remade: Verdicts = {}
        versions = claim.version_differences({})
        checkable = claim.checkable_pairs() if options.programs else []
        if not options.programs:
            claim.findings.leave_out("programs", "--no-programs")
        elif checkable:
            spec = local_spec(claim.spec, claim.given, options.workers)
            toolchain = claim.toolchain
            again = folder / "verified"
            again.mkdir(exist_ok=True)
            remade, here = verify_again(
                checkable, claim.prompts, spec, again, track, options.num_reruns, toolchain, claim.findings
            )
            versions = claim.version_differences(here)
        with _limited_memory(path):
            consequences = claim.consequences(remade) if reached else []
    findings = claim.findings
    findings.differences.sort(key=lambda each: [*GROUPS].index(each.group))
    return Rechecked(
        str(path),
        file_sha256(path),
        claim.manifest,
        claim.run,
        claim.history,
        claim.result,
        findings,
        sum(not pair.is_second for pair in claim.pairs),
        len(checkable),
        versions,
        consequences,
        time.monotonic() - start,
    )


@contextlib.contextmanager
def _work_folder(path: Path, given: Path | None) -> Iterator[Path]:
    """A folder that only this user can enter, or the one that was named."""
    if given is None:
        with tempfile.TemporaryDirectory(prefix="halo-forge-recheck-") as name:
            yield Path(name)
        return
    mark = {"claim": file_sha256(path) if path.is_file() else None}
    try:
        given.mkdir(mode=0o700, parents=True, exist_ok=True)
        names = {each.name for each in given.iterdir()}
        if not names:
            (given / _MARK).write_text(json.dumps(mark), encoding="utf-8")
        elif _MARK not in names:
            raise ClaimError(f"--work-dir: {given} is not empty, and no folder of a recheck", "name a new folder")
        elif read_json(given / _MARK) != mark:
            raise ClaimError(f"--work-dir: {given} belongs to the recheck of another file", "name a new folder")
        if (given / "claim").exists():
            shutil.rmtree(given / "claim")
    except OSError as error:
        raise ClaimError(f"--work-dir: {given}: {error.strerror or error}", "name a folder that can be made") from error
    yield given


@contextlib.contextmanager
def _limited_memory(path: Path) -> Iterator[None]:
    """While a stranger's values are read and computed with: half of this machine's memory, on top of what is in use.

    Raises:
        ClaimError: They need more.
    """
    page = os.sysconf("SC_PAGE_SIZE")
    used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * page
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = used + os.sysconf("SC_PHYS_PAGES") * page // 2
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_AS, (allowed, hard))
    try:
        yield
    except MemoryError as error:
        raise ClaimError(
            f"{path}: needs more than half of this machine's memory to be read",
            "recheck it on a larger machine if you trust where it comes from",
        ) from error
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@dataclass
class _Claim:
    """An unpacked claim.

    Attributes:
        spec: The verifier's settings as the run had them, with what --set says of this machine.
        given: The keys that --set names.
        whole: Ids of the prompts that are known with their text and tests.
    """

    path: Path
    root: Path
    manifest: Manifest
    run: dict[str, Any]
    history: dict[str, Any]
    result: dict[str, Any]
    plan: Plan
    spec: ProgramSpec
    given: frozenset[str]
    prompts: dict[str, Prompt]
    whole: set[str]
    pairs: list[Pair]
    findings: Findings

    @staticmethod
    def read(path: Path, root: Path, options: Options) -> _Claim:
        """Unpack and read a claim.

        Raises:
            ClaimError: It cannot be used.
        """
        root.mkdir()
        manifest, changed = extract(path, root)
        findings = Findings()
        for name in changed:
            findings.add("file", name, "not the bytes of the manifest")
        run, history, result = (read_part(path, root / f"{name}.json") for name in ("run", "history", "result"))
        if run.get("schema_version") != SCHEMA_VERSION:
            raise ClaimError(
                f"{path}: the run is of schema_version {str(run.get('schema_version'))[:40]}, this halo-forge rechecks"
                f" {SCHEMA_VERSION}",
                f"recheck it with halo-forge {str(run.get('halo_forge_version'))[:40]}",
            )
        findings.is_same_build = build_of(run) == (halo_forge.__version__, git_commit())
        config = read_config(path, root / "config.json", run)
        sets, whole = read_prompts(path, root, manifest, config, options.prompts, findings)
        earlier = tuple(
            (int(each.stem), read_config(path, each, run)) for each in sorted((root / "forked_from").glob("*.json"))
        )
        used = without_overlong(sets, history.get("overlong_dropped"), config, findings)
        plan = Plan(config, used, earlier)
        spec, given = with_settings(config.verifier, options.settings)
        pairs = stored_pairs(root, findings)
        return _Claim(
            path, root, manifest, run, history, result, plan, spec, given, used.by_id(), whole, pairs, findings
        )

    @property
    def toolchain(self) -> dict[str, Any]:
        """That of the run."""
        found = self.run.get("toolchain")
        return found if isinstance(found, dict) else {}

    def check_numbers(self) -> bool:
        """Everything that needs no program; whether the replay came to the end."""
        config, findings = self.plan.config, self.findings
        self._check_identity(config)
        self._check_adapters()
        known = [pair for pair in self.pairs if pair.completion.prompt_id in self.prompts]
        for pair in self.pairs:
            if pair.completion.prompt_id not in self.prompts:
                findings.add("row", pair.file, "of no prompt of the run", key=pair.key)
        check_pairs(known, config, self.prompts, self.whole, findings)
        replay = Replay(self.root, findings, num_rows=len(self.pairs) + 1)
        reached = replay.run(self.plan)
        checked = {*replay.visited, "run.json", "config.json", "history.json"}
        for name in self.manifest.members:
            is_stage = name.startswith(("cycles/", "test/", "confirmation/")) and "/adapter/" not in name
            if is_stage and name not in checked:
                if reached:
                    findings.add("file", name, "belongs to no stage of the run")
                else:
                    findings.leave_out(name, "comes after what could not be computed")
        findings.leave_out("that the completions are the model's own, by the recorded seeds", "needs the model")
        return reached

    def check_texts(self, tokenizer: str | None) -> None:
        """Decode the completions, if there is a tokenizer."""
        config, findings = self.plan.config, self.findings
        if tokenizer is not None:
            rendering = self.run.get("rendering")
            check_texts(self.pairs, self.prompts, self.whole, config, rendering, tokenizer, findings)
        elif config.engine.needs_policy:
            findings.leave_out(TEXTS, "needs the tokenizer: --tokenizer MODEL")

    def _check_identity(self, config: RaftConfig) -> None:
        findings, run = self.findings, self.run
        findings.compare("run.json", run.get("seed"), config.seed, what="seed")
        if run.get("halo_forge_version") != halo_forge.__version__:
            findings.leave_out(
                "config_digest (run.json)", f"made by halo-forge {str(run.get('halo_forge_version'))[:40]}"
            )
        elif (digest := config_digest(config)) != run.get("config_digest"):
            if changed := _influential(self.manifest.changed):
                findings.leave_out("config_digest (run.json)", f"the claim has other values of {', '.join(changed)}")
            else:
                findings.add("value", "run.json", "config_digest", run.get("config_digest"), digest)
        for name, source in self.manifest.prompts.items():
            stored = run.get("prompts")
            findings.compare(
                "run.json",
                stored.get(name) if isinstance(stored, dict) else None,
                source.sha256,
                what=f"prompts.{name}",
            )

    def _check_adapters(self) -> None:
        """The digest of each adapter that is there."""
        for folder in sorted(self.root.glob("cycles/*/adapter")):
            file = folder.relative_to(self.root).as_posix()
            if all((folder / name).is_file() for name in ADAPTER_FILES):
                stored = read_part(self.path, folder.parent / "trained.json").get("adapter_digest")
                self.findings.compare(f"{file}/", stored, adapter_digest(folder), what="adapter_digest")
            else:
                self.findings.add("file", f"{file}/", "a file is missing")

    def checkable_pairs(self) -> list[Pair]:
        """Those whose prompt is known with its tests."""
        found = [pair for pair in self.pairs if pair.completion.prompt_id in self.whole]
        usable = []
        for pair in found:
            try:
                self.spec.tests_of(self.prompts[pair.completion.prompt_id])
            except ConfigError:
                continue  # `check_pairs` has said so
            usable.append(pair)
        return usable

    def version_differences(self, here: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
        """Versions side by side, where they differ.

        Args:
            here: The toolchain of this machine; empty if programs are not run.
        """
        found = toolchain_differences(self.toolchain, here) if here else {}
        numpy, theirs = package_versions()["numpy"], self.run.get("versions")
        mine = {"halo_forge_version": halo_forge.__version__, "git_commit": git_commit(), "numpy": numpy}
        stored = {name: self.run.get(name) for name in mine}
        stored["numpy"] = theirs.get("numpy") if isinstance(theirs, dict) else None
        return found | {name: (stored[name], mine[name]) for name in mine if stored[name] != mine[name]}

    def consequences(self, remade: Verdicts) -> list[Difference]:
        """What result.json would say by the verdicts of this machine; empty where none differs."""
        if not any(each.group in ("verdict", "toolchain") for each in self.findings.differences):
            return []
        findings = Findings()
        findings.is_same_build = self.findings.is_same_build
        Replay(self.root, findings, remade, num_rows=len(self.pairs) + 1).run(self.plan)
        return [each for each in findings.differences if each.file == _RESULT]


def _influential(changed: Sequence[str]) -> list[str]:
    return [key for key in changed if key not in ("output_dir", "report_to", "tracking", "notify_command")]
