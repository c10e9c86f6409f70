"""The claim of an evaluation: columns and differences of subjects on task sets."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from halo_forge.claims.archive import FOLDER, Manifest
from halo_forge.claims.findings import NONSENSE, Difference, Findings
from halo_forge.claims.opened import (
    NEEDS_MODEL,
    Options,
    native_prompts,
    read_config,
    read_part,
    read_set,
    refuse_unknown_sets,
    with_settings,
)
from halo_forge.claims.packaged import check_packaged
from halo_forge.claims.pairs import Pair, check_pairs, checkable, completions_of, joined
from halo_forge.claims.privacy import OUTPUT_DIR
from halo_forge.claims.programs import Programs
from halo_forge.claims.replay import TOO_MANY, Verdicts
from halo_forge.claims.tokens import TEXTS
from halo_forge.config import RaftConfig
from halo_forge.core.errors import ClaimError
from halo_forge.core.records import Prompt, Sample
from halo_forge.evaluations.ask import settings_of
from halo_forge.evaluations.plan import DECODINGS
from halo_forge.evaluations.result import EvaluationResult, result_of
from halo_forge.verifiers import ProgramSpec

_EVALUATION, _RESULT = "evaluation.json", "result.json"
_SHOWN = ("pass@1", "compile_rate", "reward_mean")
_SAMPLING = ("samples_per_prompt", "temperature", "top_p")


@dataclass(frozen=True)
class Measured:
    """One subject on one set under one decoding.

    Attributes:
        folder: Its name in the claim.
        prompts: Of the set; `whole` are the ids of those that are known with text and tests.
        config: How it was asked and checked, as a configuration.
        spec: The verifier's settings with what --set says of this machine; `given` are the keys of that.
    """

    name: tuple[str, str, str]
    folder: str
    prompts: dict[str, Prompt]
    whole: set[str]
    config: RaftConfig
    spec: ProgramSpec
    given: frozenset[str]
    toolchain: dict[str, Any]
    pairs: list[Pair]


@dataclass
class EvaluationClaim:
    """The claim of an evaluation, unpacked."""

    path: Path
    root: Path
    manifest: Manifest
    identity: dict[str, Any]
    result: dict[str, Any]
    measured: list[Measured]
    pairs: list[Pair]
    findings: Findings

    @staticmethod
    def read(path: Path, root: Path, manifest: Manifest, options: Options, findings: Findings) -> EvaluationClaim:
        """See `RunClaim.read`."""
        identity, result = (read_part(path, root / name) for name in (_EVALUATION, _RESULT))
        try:
            measured = list(_measured(path, root, manifest, identity, options, findings))
        except NONSENSE as error:
            if isinstance(error, ClaimError):
                raise
            raise ClaimError(
                f"{path}: {_EVALUATION}: not what halo-forge wrote: {error}", "get the file again: it is damaged"
            ) from error
        pairs = [pair for each in measured for pair in each.pairs]
        return EvaluationClaim(path, root, manifest, identity, result, measured, pairs, findings)

    def title(self) -> list[str]:
        """What it claims, in words."""
        columns = self.result.get("columns")
        lines = []
        for row in columns if isinstance(columns, list) else ():
            metrics = row.get("metrics") if isinstance(row, dict) else None
            if isinstance(metrics, dict):
                named = f"{row.get('subject')} on {row.get('task_set')}, {row.get('decoding')}"
                rates = [f"{name} {metrics[name]:.3f}" for name in _SHOWN if isinstance(metrics.get(name), float)]
                lines.append(f"the claim: {named}: {', '.join(rates)}")
        return lines

    def to_row(self) -> dict[str, Any]:
        """What --json says of it."""
        return {"evaluation": self.identity, "result": self.result}

    def check_numbers(self) -> bool:
        """Everything that needs no program; whether all samples are there."""
        complete = True
        for each in self.measured:
            check_pairs(
                [pair for pair in each.pairs if pair.completion.prompt_id in each.prompts],
                each.config, each.prompts, each.whole, self.findings,
            )  # fmt: skip
            complete &= self._check_rows(each)
        if complete:
            self._compare(self.findings, {})
        else:
            self.findings.leave_out("columns and differences", "rows are missing")
        self._check_files()
        self.findings.leave_out(*NEEDS_MODEL)
        return complete

    def _check_rows(self, each: Measured) -> bool:
        """Whether there is one completion for each request, by its seed."""
        file = f"{each.folder}/completions.jsonl"
        if (asked := each.config.evaluation.samples_per_prompt) > len(each.pairs) + 1:
            self.findings.add("row", file, f"samples_per_prompt: {TOO_MANY}", asked)
            return False
        requests = settings_of(each.config).requests(list(each.prompts.values()))
        wanted = {request.key: request for request in requests}
        found = {pair.key: pair.completion for pair in each.pairs}
        for key in found.keys() - wanted.keys():
            self.findings.add("row", file, "not asked for", key=key)
        for key, request in wanted.items():
            if key not in found:
                self.findings.add("row", file, "missing", key=key)
            else:
                self.findings.compare(file, found[key].seed, request.seed, key, "seed")
        return wanted.keys() <= found.keys()

    def _compare(self, findings: Findings, remade: Verdicts) -> None:
        """Compute the result again, from the verdicts of this machine where they are given."""
        samples: dict[tuple[str, str, str], list[Sample]] = {}
        for each in self.measured:
            requests = settings_of(each.config).requests(list(each.prompts.values()))
            by_key = {pair.key: pair for pair in each.pairs}
            own = remade.get(f"{each.folder}/verdicts.jsonl", {})
            samples[each.name] = [
                Sample(pair.completion, own.get(pair.key, pair.verdict))
                for pair in (by_key[request.key] for request in requests)
            ]
        try:
            stored = EvaluationResult.from_row(self.result)
            computed = result_of(samples, stored.notes)
        except NONSENSE as error:
            findings.add("value", _RESULT, "", "as stored", f"cannot be computed: {error}")
            return
        findings.compare(_RESULT, stored.to_row(), computed.to_row())

    def _check_files(self) -> None:
        known = {f"{each.folder}/{kind}.jsonl" for each in self.measured for kind in ("completions", "verdicts")}
        for name in self.manifest.members:
            if name.endswith(("completions.jsonl", "verdicts.jsonl")) and name not in known:
                self.findings.add("file", name, "belongs to no measurement")

    def check_texts(self, tokenizer: str | None) -> None:
        """Subjects may have different tokenizers."""
        if tokenizer is not None:
            raise ClaimError("--tokenizer: not for the claim of an evaluation", "leave --tokenizer out")
        self.findings.leave_out(TEXTS, "not done for evaluations")

    def programs(self) -> list[Programs]:
        """What can be verified again, for each measurement."""
        found = []
        for each in self.measured:
            pairs = checkable(each.pairs, each.prompts, each.whole, each.spec)
            found.append(Programs(pairs, each.prompts, each.spec, each.given, each.toolchain))
        return found

    def versions(self) -> dict[str, Any]:
        """An evaluation does not record what made it, beside its toolchain."""
        return {}

    def consequences(self, remade: Verdicts) -> list[Difference]:
        """What result.json would say by the verdicts of this machine."""
        findings = Findings()
        self._compare(findings, remade)
        return findings.differences


def _measured(
    path: Path,
    root: Path,
    manifest: Manifest,
    identity: Mapping[str, Any],
    options: Options,
    findings: Findings,
) -> Iterator[Measured]:
    refuse_unknown_sets(options.prompts, manifest.prompts)
    for set_name, task_set in identity["sets"].items():
        set_folder = _folder(task_set["folder"])
        source, given = manifest.prompts[set_folder], options.prompts.get(set_folder)
        findings.compare(_EVALUATION, task_set["prompts_sha256"], source.sha256, what=f"{set_name}.prompts_sha256")
        prompts, is_whole = read_set(path, root, set_folder, manifest, given, native_prompts, findings)
        if is_whole:
            check_packaged(set_name, set_folder, manifest, prompts, findings)
        by_id = {prompt.id: prompt for prompt in prompts}
        for decoding, asked in task_set["decodings"].items():
            if decoding not in DECODINGS:
                raise ValueError(f"decoding {decoding!r}")
            config = _config(path, root, asked, manifest.halo_forge_version)
            spec, keys = with_settings(config.verifier, options.settings)
            for subject, details in identity["subjects"].items():
                folder = f"sets/{set_folder}/{_folder(details['folder'])}/{decoding}"
                completions = completions_of(root, root / folder, "", findings)
                pairs = list(joined(root, root / folder / "verdicts.jsonl", completions, findings))
                toolchain = root / folder / "toolchain.json"
                yield Measured(
                    (set_name, subject, decoding),
                    folder,
                    by_id,
                    set(by_id) if is_whole else set(),
                    config,
                    spec,
                    keys,
                    read_part(path, toolchain) if toolchain.is_file() else {},
                    pairs,
                )


def _folder(name: object) -> str:
    """The name of a folder of the claim, and nothing that leads out of it."""
    if not isinstance(name, str) or re.fullmatch(FOLDER, name) is None:
        raise ValueError(f"folder {str(name)[:80]!r}")
    return name


def _config(path: Path, root: Path, asked: Mapping[str, Any], made_by: str) -> RaftConfig:
    """How a set was asked, as a configuration."""
    sampling = asked["sampling"]
    engine = {"kind": "transformers", **{key: sampling[key] for key in ("max_new_tokens", "top_k", "stop")}}
    data = {
        "model": {"model_name_or_path": "none"},
        "prompts": {"response_prefix": sampling["response_prefix"]},
        "engine": engine if sampling["kind"] != "scripted" else {**engine, "kind": "scripted", "answers": "none"},
        "verifier": asked["verifier"],
        "evaluation": {key: sampling[key] for key in _SAMPLING},
        "seed": sampling["seed"],
        "output_dir": OUTPUT_DIR,
    }
    return read_config(path, root / _EVALUATION, data, made_by)
