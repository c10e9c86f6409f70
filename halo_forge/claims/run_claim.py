"""The claim of a run: the loop over its stages, and everything beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import halo_forge
from halo_forge.claims.archive import Manifest
from halo_forge.claims.findings import Difference, Findings
from halo_forge.claims.opened import (
    NEEDS_MODEL,
    Options,
    build_of,
    read_config,
    read_part,
    read_run_prompts,
    with_settings,
    without_overlong,
)
from halo_forge.claims.pairs import Pair, check_pairs, checkable, stored_pairs
from halo_forge.claims.programs import Programs
from halo_forge.claims.replay import Replay, Verdicts
from halo_forge.claims.tokens import TEXTS, check_texts
from halo_forge.config import RaftConfig, config_digest
from halo_forge.core.errors import ClaimError
from halo_forge.core.plan import Plan
from halo_forge.core.records import Prompt
from halo_forge.policy import ADAPTER_FILES, adapter_digest
from halo_forge.runtime.identity import git_commit
from halo_forge.store.run import SCHEMA_VERSION
from halo_forge.verifiers import ProgramSpec

_RESULT = "result.json"


@dataclass
class RunClaim:
    """The claim of a run, unpacked.

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
    def read(path: Path, root: Path, manifest: Manifest, options: Options, findings: Findings) -> RunClaim:
        """Read what was unpacked.

        Args:
            root: The private folder that it was unpacked into.

        Raises:
            ClaimError: It cannot be used.
        """
        run, history, result = (read_part(path, root / f"{name}.json") for name in ("run", "history", "result"))
        if run.get("schema_version") != SCHEMA_VERSION:
            raise ClaimError(
                f"{path}: the run is of schema_version {str(run.get('schema_version'))[:40]}, this halo-forge rechecks"
                f" {SCHEMA_VERSION}",
                f"recheck it with halo-forge {str(run.get('halo_forge_version'))[:40]}",
            )
        findings.is_same_build = build_of(run) == (halo_forge.__version__, git_commit())
        made_by = run.get("halo_forge_version")
        file = root / "config.json"
        config = read_config(path, file, read_part(path, file), made_by)
        sets, whole = read_run_prompts(path, root, manifest, config, options.prompts, findings)
        earlier = tuple(
            (int(each.stem), read_config(path, each, read_part(path, each), made_by))
            for each in sorted((root / "forked_from").glob("*.json"))
        )
        used = without_overlong(sets, history.get("overlong_dropped"), config, findings)
        plan = Plan(config, used, earlier)
        spec, given = with_settings(config.verifier, options.settings)
        pairs = stored_pairs(root, findings)
        known = (used.by_id(), whole, pairs, findings)
        return RunClaim(path, root, manifest, run, history, result, plan, spec, given, *known)

    def title(self) -> list[str]:
        """What it claims, in words."""
        model, result = self.run.get("start_model"), self.result
        name = model.get("model_name_or_path", "no model") if isinstance(model, dict) else "no model"
        chosen, conclusion = result.get("chosen_version"), result.get("conclusion")
        lines = [f"the claim: {name}, chosen v{chosen}, {conclusion}: {result.get('reason')}"]
        redone = self.history.get("redone_from_cycles")
        if isinstance(redone, list) and redone:
            lines.append(f"by its own record the run was redone from cycle {', '.join(map(str, redone))}")
        return lines

    def to_row(self) -> dict[str, Any]:
        """What --json says of it."""
        return {"run": self.run, "history": self.history, "result": self.result}

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
        findings.leave_out(*NEEDS_MODEL)
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

    def programs(self) -> list[Programs]:
        """What can be verified again."""
        pairs = checkable(self.pairs, self.prompts, self.whole, self.spec)
        return [Programs(pairs, self.prompts, self.spec, self.given, self.toolchain)]

    def versions(self) -> dict[str, Any]:
        """What made the run: this halo-forge, and the library that numbers depend on."""
        theirs = self.run.get("versions")
        found = {name: self.run.get(name) for name in ("halo_forge_version", "git_commit")}
        return {**found, "numpy": theirs.get("numpy") if isinstance(theirs, dict) else None}

    def consequences(self, remade: Verdicts) -> list[Difference]:
        """What result.json would say by the verdicts of this machine."""
        findings = Findings()
        findings.is_same_build = self.findings.is_same_build
        Replay(self.root, findings, remade, num_rows=len(self.pairs) + 1).run(self.plan)
        return [each for each in findings.differences if each.file == _RESULT]


def _influential(changed: Sequence[str]) -> list[str]:
    return [key for key in changed if key not in ("output_dir", "report_to", "tracking", "notify_command")]
