"""`halo-forge init`: asks, looks, and writes a first configuration; `--demo` brings the demo and its model."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

if TYPE_CHECKING:
    from halo_forge.starter.choose import Wanted
    from halo_forge.starter.init import Written
    from halo_forge.starter.prompts import PromptsFound

DIRECTORY = typer.Argument(Path("."), metavar="DIR", help="Folder for the configuration; made if missing.")
MODEL = typer.Option(None, metavar="MODEL", help="A model folder, or a hub id (owner/name).")
PROMPTS = typer.Option(
    None, metavar="PROMPTS", help="A .jsonl or .parquet file, a data set id, or builtin:c; split into train, dev, test."
)
DEV = typer.Option(None, metavar="PROMPTS", help="Dev prompts, if --prompts has the train prompts only; with --test.")
TEST = typer.Option(None, metavar="PROMPTS", help="Test prompts, if --prompts has the train prompts only; with --dev.")
LANGUAGE = typer.Option(None, metavar="LANGUAGE", help="c, cpp, rust, go or python; by default what the prompts say.")
MACHINE = typer.Option(
    None, metavar="PROFILE", help="auto (this machine), or the kind of another: gfx1151, cuda, rocm, cpu."
)
TIME = typer.Option(None, metavar="TIME", help="Time for the whole run, such as 90m, 8h or 1d; by default 8h.")
_DEFAULT_NAME = "raft"
NAME = typer.Option(_DEFAULT_NAME, metavar="NAME", help="Writes NAME.yaml, whose run directory is runs/NAME.")
YES = typer.Option(False, "--yes", "-y", help="Ask nothing; take the defaults.")
DEMO = typer.Option(False, "--demo", help="Write quickstart.yaml, and download the small model that it trains.")
JSON = typer.Option(False, "--json", help="Print the result as JSON; asks nothing.")

_LARGE_BYTES = 5_000_000
"""A larger prompt file is said to be read."""

Found = TypeVar("Found")


@dataclass(frozen=True)
class _Flags:
    """What the command line says; None is for asking."""

    model: str | None
    prompts: str | None
    dev: str | None
    test: str | None
    language: str | None
    machine: str | None
    time: str | None
    asks: bool


def init(
    directory: Path = DIRECTORY,
    model: str | None = MODEL,
    prompts: str | None = PROMPTS,
    dev: str | None = DEV,
    test: str | None = TEST,
    language: str | None = LANGUAGE,
    machine: str | None = MACHINE,
    time: str | None = TIME,
    name: str = NAME,
    yes: bool = YES,
    demo: bool = DEMO,
    as_json: bool = JSON,
) -> None:
    """Write a first configuration for a model, prompts and a machine, with the reason for each value.

    Never overwrites a file.
    """
    given = {"--model": model, "--prompts": prompts, "--dev": dev, "--test": test, "--language": language}
    given |= {"--machine": machine, "--time": time}
    if demo:
        given["--name"] = None if name == _DEFAULT_NAME else name
        _demo(directory, [flag for flag, value in given.items() if value is not None], as_json)
        return
    from halo_forge.starter.init import name_of, refuse_existing, write_configuration

    name = name_of(name)
    refuse_existing(directory / f"{name}.yaml")
    asks = not yes and not as_json and sys.stdin.isatty()
    _refuse_missing({flag: given[flag] for flag in ("--model", "--prompts")}, asks)
    wanted = _wanted(_Flags(model, prompts, dev, test, language, machine, time, asks), directory, name)
    written = write_configuration(wanted, directory)
    if as_json:
        print(json.dumps(_row(wanted, written), indent=2))
    else:
        _print(wanted, written, directory)


def _refuse_missing(needed: dict[str, str | None], asks: bool) -> None:
    from halo_forge.core.errors import ConfigError

    missing = [flag for flag, value in needed.items() if value is None]
    if missing and not asks:
        why = "nothing is asked" if sys.stdin.isatty() else "standard input is not a terminal, so nothing can be asked"
        raise ConfigError(
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing, and {why}",
            "halo-forge init --model MODEL --prompts PROMPTS; --language, --machine and --time have defaults",
        )


def _wanted(flags: _Flags, directory: Path, name: str) -> Wanted:
    from halo_forge.cli.render import stdout
    from halo_forge.starter.init import LANGUAGES, MACHINES, language_of, seconds_of, wanted_of
    from halo_forge.starter.model import look_at_model
    from halo_forge.starter.prompts import look_at_prompts

    console = stdout()

    def ask(question: str, given: str | None, default: str | None, look: Callable[[str], Found]) -> Found:
        if given is not None or not flags.asks:
            assert given is not None or default is not None
            return look(given if given is not None else str(default))
        return _asked(question, default, look)

    def look_at_sets(text: str) -> PromptsFound:
        _say_if_large(text)
        return look_at_prompts(text, flags.dev, flags.test)

    if flags.asks:
        console.print("Each question has a flag; halo-forge init --help lists them.")
    model = ask("Model (a folder, or a hub id)", flags.model, None, look_at_model)
    prompts = ask(
        "Prompts (a .jsonl or .parquet file, a data set id, or builtin:c)",
        flags.prompts,
        None,
        look_at_sets,
    )
    language = flags.language
    if language is None and flags.asks:
        language = _asked(
            f"Language ({', '.join(LANGUAGES)})", prompts.language, lambda text: language_of(text, prompts)[0]
        )
    machine = ask(f"Machine ({', '.join(MACHINES)})", flags.machine, "auto", lambda text: _one_of(text, MACHINES))
    seconds = ask("Time for the whole run", flags.time, "8h", seconds_of)
    return wanted_of(model, prompts, language=language, machine=machine, seconds=seconds, name=name, folder=directory)


def _say_if_large(prompts: str) -> None:
    """Reading checks every row, which takes minutes where there are a hundred thousand."""
    path = Path(prompts).expanduser()
    if path.is_file() and (size := path.stat().st_size) > _LARGE_BYTES:
        print(f"reading {size / 1e6:.0f} MB of prompts, and checking every row ...", file=sys.stderr, flush=True)


def _one_of(text: str, allowed: tuple[str, ...]) -> str:
    from halo_forge.core.errors import ConfigError

    if text not in allowed:
        raise ConfigError(f"found {text!r}, allowed: {', '.join(allowed)}", "choose one of them")
    return text


def _asked(question: str, default: str | None, look: Callable[[str], Found]) -> Found:
    """Ask until the answer can be used."""
    from halo_forge.core.errors import ConfigError
    from halo_forge.core.wording import visible

    while True:
        try:
            answer = typer.prompt(question, default=default, err=True).strip()
        except typer.Abort:  # Ctrl-C, or the end of the input
            raise KeyboardInterrupt from None
        try:
            return look(answer)
        except ConfigError as error:
            print(f"  {visible(str(error))}", file=sys.stderr)


def _print(wanted: Wanted, written: Written, directory: Path) -> None:
    from halo_forge.cli.render import print_paragraph, stdout
    from halo_forge.starter.write import assumed_lines, found_lines, memory_line, sight_line, time_line

    console = stdout()
    lines = [f"{label}: {text}" for label, text in found_lines(wanted)]
    lines += [f"assumed: {each}" for each in assumed_lines(wanted)]
    lines += [time_line(wanted, written.choice), memory_line(written.choice)]
    lines += [each for each in [sight_line(written.choice)] if each is not None]
    lines += [f"not checked: {each}" for each in written.check.not_checked]
    lines += [f"note: {each}" for each in written.check.notes]
    lines += [f"warning: {each}" for each in (*written.choice.warnings, *written.check.warnings)]
    for line in lines:
        print_paragraph(console, line, indent="    ")
    console.out("")
    print_paragraph(console, f"written: {written.path}")
    where = "" if directory.resolve() == Path.cwd() else f"cd {shlex.quote(str(directory))} && "
    print_paragraph(console, f"next: {where}halo-forge raft run {written.path.name} --dry-run")


def _row(wanted: Wanted, written: Written) -> dict[str, Any]:
    from halo_forge.starter.write import assumed_lines, found_lines

    choice = written.choice
    assert choice.sized is not None and choice.speed is not None
    return {
        "path": str(written.path),
        "found": dict(found_lines(wanted)),
        "assumed": assumed_lines(wanted),
        "cycle_seconds": round(choice.sized.cycle_seconds, 1),
        "run_seconds": round(choice.sized.run_seconds, 1),
        "fits": choice.sized.fits,
        "memory_bytes": choice.memory,
        "estimated_by": choice.speed.basis,
        "detectable": choice.detectable,
        "not_checked": list(written.check.not_checked),
        "notes": list(written.check.notes),
        "warnings": [*choice.warnings, *written.check.warnings],
        "values": {
            section: {setting.key: {"value": setting.value, "reason": setting.reason} for setting in settings}
            for section, settings in choice.sections.items()
        },
    }


def _demo(directory: Path, given: list[str], as_json: bool) -> None:
    from halo_forge.core.errors import ConfigError
    from halo_forge.starter.init import write_demo
    from halo_forge.starter.small_model import DEFAULT_TARGET, make_small_model

    if given:
        raise ConfigError(
            f"--demo has its own name, model and prompts, and takes no {', '.join(given)}", "leave them out"
        )
    path = write_demo(directory)
    model = directory / DEFAULT_TARGET
    make_small_model(model, lambda line: print(line, file=sys.stderr, flush=True))
    if as_json:
        print(json.dumps({"path": str(path), "model": str(model)}, indent=2))
        return
    where = "" if directory.resolve() == Path.cwd() else f"cd {shlex.quote(str(directory))} && "
    print(f"ready: {path} and {model}")
    print(f"next: {where}halo-forge raft run {path.name}")
