"""A claim checked on this machine: the file, the numbers, the programs, and what follows from other verdicts."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import halo_forge
from halo_forge.claims.archive import Manifest, extract, file_sha256
from halo_forge.claims.evaluation_claim import EvaluationClaim
from halo_forge.claims.findings import GROUPS, Difference, Findings
from halo_forge.claims.opened import Options
from halo_forge.claims.pairs import Pair
from halo_forge.claims.programs import Programs, Track, toolchain_differences, verify_again
from halo_forge.claims.replay import Verdicts
from halo_forge.claims.run_claim import RunClaim
from halo_forge.core.errors import ClaimError
from halo_forge.runtime.identity import git_commit, package_versions
from halo_forge.store.files import read_json

_MARK = "recheck.json"
"""In a work folder: which claim it belongs to."""


class Claim(Protocol):
    """An unpacked claim of either kind."""

    pairs: list[Pair]
    findings: Findings

    def title(self) -> list[str]: ...

    def to_row(self) -> dict[str, Any]: ...

    def check_numbers(self) -> bool: ...

    def check_texts(self, tokenizer: str | None) -> None: ...

    def programs(self) -> list[Programs]: ...

    def versions(self) -> dict[str, Any]: ...

    def consequences(self, remade: Verdicts) -> list[Difference]: ...


@dataclass(frozen=True)
class Rechecked:
    """What came of it.

    Attributes:
        title: What is claimed, in words; `claimed` is the same as data.
        num_completions: Completions in the claim; `num_verified` of their verdicts were checked by running programs.
        versions: Name -> (of the claim, of this machine), where they are not the same.
        consequences: Where verdicts differ: what result.json is by those of this machine.
    """

    file: str
    sha256: str
    title: Sequence[str]
    claimed: Mapping[str, Any]
    manifest: Manifest
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
            "kind": self.manifest.kind,
            "confirmed": self.is_confirmed,
            **self.claimed,
            "prompts": {name: source.model_dump(mode="json") for name, source in self.manifest.prompts.items()},
            "num_completions": self.num_completions,
            "num_verified": self.num_verified,
            "num_values": found.num_values,
            "versions": {name: {"claim": then, "here": now} for name, (then, now) in self.versions.items()},
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
    start, findings = time.monotonic(), Findings()
    with _work_folder(path, options.work_dir) as folder:
        root = folder / "claim"
        with _limited_memory(path):
            root.mkdir()
            manifest, changed = extract(path, root)
            for name in changed:
                findings.add("file", name, "not the bytes of the manifest")
            kind = RunClaim if manifest.kind == "run" else EvaluationClaim
            claim: Claim = kind.read(path, root, manifest, options, findings)
            reached = claim.check_numbers()
        claim.check_texts(options.tokenizer)
        remade: dict[str, Any] = {}
        versions, num_verified = _differing(claim.versions(), _made_by()), 0
        if not options.programs:
            findings.leave_out("programs", "--no-programs")
        for number, programs in enumerate(claim.programs() if options.programs else ()):
            if programs.pairs:
                again = folder / f"verified{number}"
                own, here = verify_again(programs, options.workers, again, track, options.num_reruns, findings)
                remade |= own
                versions |= toolchain_differences(programs.toolchain, here)
                num_verified += len(programs.pairs)
        with _limited_memory(path):
            confirms = not any(each.group in ("verdict", "toolchain") for each in findings.differences)
            consequences = claim.consequences(remade) if reached and not confirms else []
    findings.differences.sort(key=lambda each: [*GROUPS].index(each.group))
    num = sum(not pair.is_second for pair in claim.pairs)
    seconds = time.monotonic() - start
    made = (claim.title(), claim.to_row(), manifest, findings)
    return Rechecked(str(path), file_sha256(path), *made, num, num_verified, versions, consequences, seconds)


def _made_by() -> dict[str, Any]:
    numpy = package_versions()["numpy"]
    return {"halo_forge_version": halo_forge.__version__, "git_commit": git_commit(), "numpy": numpy}


def _differing(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {name: (value, now[name]) for name, value in then.items() if value != now[name]}


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
