"""`halo-forge claim` packs a finished run into one file; `halo-forge recheck` checks such a file on any machine."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from halo_forge.cli.raft import JSON

if TYPE_CHECKING:
    from halo_forge.claims.findings import Difference
    from halo_forge.claims.pack import Packed
    from halo_forge.claims.recheck import Rechecked

DIFFERS = 1
"""Exit code: everything was checked that could be, and something is not as stored."""
_MOST_ROWS = 20
"""Differences of a group that are printed; --json has all."""

RUN = typer.Argument(metavar="RUN", help="Run directory, or the folder of an evaluation.", show_default=False)
OUTPUT = typer.Option(None, "-o", "--output", metavar="FILE", help="Default: RUN.claim.zip, beside the run directory.")
WITH_PROMPTS = typer.Option(
    False, "--with-prompts", help="Pack your own prompts, too; else only their ids, digest and source."
)
WITH_ADAPTER = typer.Option(False, "--with-adapter", help="Pack the adapter of the chosen version, too.")
FILE = typer.Argument(metavar="FILE", help="The file that `halo-forge claim` wrote.", show_default=False)
WORKERS = typer.Option(None, "--workers", metavar="N", min=1, help="Programs at the same time; default: one per core.")
NO_PROGRAMS = typer.Option(False, "--no-programs", help="Run no program: recompute the numbers alone.")
RERUNS = typer.Option(
    3, "--reruns", metavar="N", min=0, help="Run a program with another verdict N times more before it counts."
)
PROMPTS = typer.Option(
    None,
    "--prompts",
    metavar="SET=SOURCE",
    help="Where the prompts of train, dev or test are on this machine, if the claim does not hold them; repeatable.",
)
SET_HERE = typer.Option(
    None,
    "--set",
    metavar="KEY=VALUE",
    help="Where this machine has a tool: verifier.compiler, verifier.files or verifier.read_only; repeatable.",
)
TOKENIZER = typer.Option(
    None, "--tokenizer", metavar="MODEL", help="Folder or hub id of the model: check texts against their token ids."
)
WORK_DIR = typer.Option(
    None, "--work-dir", metavar="DIR", help="Keep what was verified in DIR, so that a killed recheck goes on there."
)


def claim(
    run: Path = RUN,
    output: Path | None = OUTPUT,
    with_prompts: bool = WITH_PROMPTS,
    with_adapter: bool = WITH_ADAPTER,
    as_json: bool = JSON,
) -> None:
    """Pack a finished run or evaluation into one file that anybody can check with `halo-forge recheck`."""
    from halo_forge.claims.pack import pack

    packed = pack(run, output, with_prompts=with_prompts, with_adapter=with_adapter)
    if as_json:
        print(json.dumps(packed.to_row(), indent=2))
        return
    _print_packed(packed)


def _print_packed(packed: Packed) -> None:
    from halo_forge.cli.render import print_paragraph, stdout

    lines = [f"{packed.path} ({packed.num_bytes / 1e6:.1f} MB, {packed.num_members} files)", f"sha256 {packed.sha256}"]
    for name, source in packed.prompts.items():
        held = "packed" if source.packed else "ids and digest only; --with-prompts packs them if you may pass them on"
        lines.append(f"prompts of {name}: {source.source} ({source.num_prompts} prompts): {held}")
    if packed.changed:
        lines.append(f"removed or shortened, because private: {', '.join(packed.changed)}")
    lines += [f"not in it: {each}" for each in packed.left_out]
    console = stdout()
    for line in lines:
        print_paragraph(console, line, indent="    ")


def recheck(
    file: Path = FILE,
    workers: int | None = WORKERS,
    no_programs: bool = NO_PROGRAMS,
    reruns: int = RERUNS,
    prompts: list[str] | None = PROMPTS,
    settings: list[str] | None = SET_HERE,
    tokenizer: str | None = TOKENIZER,
    work_dir: Path | None = WORK_DIR,
    as_json: bool = JSON,
) -> None:
    """Check a claim: verify every completion again, recompute every number, and name each difference.

    Exit code 0 if nothing differs, 1 otherwise.
    """
    from halo_forge.claims.opened import Options
    from halo_forge.claims.recheck import recheck
    from halo_forge.cli.observer import PlainObserver
    from halo_forge.core.errors import ClaimError
    from halo_forge.core.wording import counted

    sources: dict[str, str] = {}
    for each in prompts if prompts is not None else []:
        name, equals, source = each.partition("=")
        if not equals or not source:
            raise ClaimError(f"--prompts {each}: allowed: SET=SOURCE", "write for example --prompts dev=my_dev.jsonl")
        sources[name] = source

    def track(label: str, items: Iterable[Any], total: int) -> Iterator[Any]:
        return PlainObserver().track(label, items, total)

    given = tuple(settings) if settings is not None else ()
    options = Options(not no_programs, workers, reruns, sources, given, tokenizer, work_dir)
    found = recheck(file, options, track)
    if as_json:
        print(json.dumps(found.to_row(), indent=2))
    else:
        _print_rechecked(found)
    if not found.is_confirmed:
        print(f"not confirmed: {counted(len(found.findings.differences), 'difference')}", file=sys.stderr)
        raise typer.Exit(DIFFERS)


def _print_rechecked(found: Rechecked) -> None:
    from halo_forge.claims.findings import GROUPS
    from halo_forge.cli.render import print_paragraph, print_table, stdout
    from halo_forge.core.wording import counted

    console = stdout()
    for line in _head(found):
        print_paragraph(console, line, indent="    ")
    if found.versions:
        print_table(_version_columns(found), title="other versions than those of the claim")
    for group, meaning in GROUPS.items():
        own = [each for each in found.findings.differences if each.group == group]
        if own:
            print_table(_columns(own[:_MOST_ROWS]), title=f"{counted(len(own), 'difference')}: {meaning}")
            if len(own) > _MOST_ROWS:
                print_paragraph(console, f"and {len(own) - _MOST_ROWS} more (--json shows all)")
    if found.consequences:
        print_table(_columns(found.consequences[:_MOST_ROWS]), title="result.json by the verdicts of this machine")
    if found.findings.flaky:
        title = f"{counted(len(found.findings.flaky), 'flaky verdict')}, no differences: they change from run to run"
        print_table(_columns(found.findings.flaky[:_MOST_ROWS]), title=title)
    for each in found.findings.not_checked:
        print_paragraph(console, f"not checked: {each.what}: {each.why}", indent="    ")
    if found.is_confirmed:
        print_paragraph(console, "no difference")


def _head(found: Rechecked) -> list[str]:
    from halo_forge.core.wording import counted, duration

    lines = [f"{found.file}: sha256 {found.sha256}", *found.title]
    lines.append(
        f"{counted(found.num_completions, 'completion')}, {counted(found.num_verified, 'verdict')} verified again,"
        f" {counted(found.findings.num_values, 'value')} computed again, {duration(found.seconds)}"
    )
    return lines


def _version_columns(found: Rechecked) -> list[Any]:
    from halo_forge.cli.render import Column

    return [
        Column("what", list(found.versions), text=True),
        Column("of the claim", [_text(then) for then, _ in found.versions.values()], text=True),
        Column("here", [_text(now) for _, now in found.versions.values()], text=True),
    ]


def _columns(differences: Sequence[Difference]) -> list[Any]:
    from halo_forge.cli.render import Column

    return [
        Column("file", [each.file for each in differences], text=True),
        Column("prompt", ["" if each.prompt_id is None else each.prompt_id for each in differences], text=True),
        Column("sample", ["" if each.index is None else str(each.index) for each in differences]),
        Column("what", [each.what for each in differences], text=True),
        Column("stored", [_text(each.stored) for each in differences], text=True),
        Column("recomputed", [_text(each.recomputed) for each in differences], text=True),
    ]


def _text(value: Any) -> str:
    return "" if value is None else str(value)
