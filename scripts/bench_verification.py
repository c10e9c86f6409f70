"""How fast the verifier is with full isolation, and whether its resource use stays constant.

Verdicts per second of the C verifier (compile and run, workers = cores) against `xargs -P` over the same compiler with
the same options on the same files, alternately, in one run: for distinct programs, and for completions of which half
are duplicates.  The programs are generated here and harmless, so xargs can run them without a sandbox.

    python scripts/bench_verification.py [--programs 100] [--repeats 5]
    python scripts/bench_verification.py --endurance 20000      # memory, descriptors and files over many verdicts

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from _bench import Figure, alternately, machine

from halo_forge.core.records import Completion, Prompt, Verdict
from halo_forge.sandbox import processes
from halo_forge.verifiers import open_verifier
from halo_forge.verifiers.languages.c import Spec

TARGET_DISTINCT, TARGET_DUPLICATES = 0.9, 1.5
ROUND_VERDICTS = 250

STEPS = (
    "static long step{i}(long a, long b) {{ long g = b; while (a % {k} > 0 && g > 1) {{ a -= g % 7 + 1; g /= 2; }}\n"
    "    return a + g; }}",
    "static long step{i}(long a, long b) {{ long s = 0; for (long j = 0; j < {k}; j++) s += (a ^ j) * (b + j) % 97;\n"
    "    return s; }}",
    "static int order{i}(const void *p, const void *q) {{ return *(const int *)p - *(const int *)q; }}\n"
    "static long step{i}(long a, long b) {{ int v[{k}];\n"
    "    for (int j = 0; j < {k}; j++) v[j] = (int)((a * j + b) % 101);\n"
    "    qsort(v, {k}, sizeof *v, order{i}); return v[{k} / 2]; }}",
    "static long step{i}(long a, long b) {{ char t[64]; snprintf(t, sizeof t, \"%ld:%ld:{k}\", a, b);\n"
    "    long h = 5381; for (size_t j = 0; j < strlen(t); j++) h = h * 33 + t[j]; return h % 100003; }}",
    "struct node{i} {{ long value; struct node{i} *next; }};\n"
    "static long step{i}(long a, long b) {{ struct node{i} *head = NULL; long s = 0;\n"
    "    for (long j = 0; j < {k}; j++) {{ struct node{i} *n = malloc(sizeof *n); if (!n) return -1;\n"
    "        n->value = a * j - b; n->next = head; head = n; }}\n"
    "    while (head) {{ struct node{i} *n = head; s = s * 31 % 65521 + n->value; head = n->next; free(n); }}\n"
    "    return s; }}",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Task:
    """One program with its input and its expected output."""

    source: str
    stdin: str
    stdout: str


def make_sources(num_programs: int, seed: int = 0) -> list[str]:
    """Distinct programs of the size of a short completion."""
    rng = random.Random(seed)
    return [_source(rng, number) for number in range(num_programs)]


def _source(rng: random.Random, number: int) -> str:
    chosen = rng.sample(STEPS, 3)
    functions = "\n\n".join(step.format(i=i, k=rng.randrange(3, 60)) for i, step in enumerate(chosen))
    return (
        f"#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n\n{functions}\n\nint main(void) {{\n"
        '    long a, b;\n    if (scanf("%ld %ld", &a, &b) != 2) return 1;\n'
        '    for (int i = 0; i < 3; i++)\n        printf("%ld %ld %ld\\n",'
        f" step0(a + i, b), step1(a, b + i), step2(a + i, {number}));\n"
        "    return 0;\n}\n"
    )


def xargs_seconds(folder: Path, names: Sequence[str], workers: int, spec: Spec) -> float:
    """Compile and run every file with xargs; outputs are written next to the sources."""
    settings = spec.settings_in_force()
    flags = " ".join([f"-std={settings['standard']}", *settings["flags"], "-pipe"])
    script = f'{spec.compiler} {flags} "$1.c" -o "$1.out" -lm && "./$1.out" < input > "$1.txt"'
    started = time.perf_counter()
    subprocess.run(
        ["xargs", "-P", str(workers), "-n", "1", "sh", "-c", script, "sh"],
        input="\n".join(names), text=True, cwd=folder, check=True, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    return time.perf_counter() - started


def make_tasks(folder: Path, num_programs: int, workers: int, spec: Spec) -> list[Task]:
    """Programs in `folder`, with the output that they have under xargs."""
    stdin = "123456 789\n"
    (folder / "input").write_text(stdin)
    sources = make_sources(num_programs)
    for number, source in enumerate(sources):
        (folder / f"{number}.c").write_text(source)
    xargs_seconds(folder, [str(number) for number in range(num_programs)], workers, spec)
    return [Task(source, stdin, (folder / f"{number}.txt").read_text()) for number, source in enumerate(sources)]


def verifier_seconds(tasks: Sequence[Task], spec: Spec) -> tuple[float, list[Verdict], str]:
    """Seconds from the first program to the last verdict, the verdicts, and the level of isolation.

    The verifier is fresh, without cached verdicts; opening it is not counted, because a run does that once.
    """
    pairs = [(_prompt(task), _completion(task.source, index)) for index, task in enumerate(tasks)]
    with open_verifier(spec) as verifier:
        level = str(verifier.toolchain()["isolation"])
        verifier.check_prompts([prompt for prompt, _ in pairs])  # as a run does, while the launchers start
        started = time.perf_counter()
        verdicts = list(verifier.verify(pairs))
        seconds = time.perf_counter() - started
    bad = [verdict for verdict in verdicts if not verdict.passed]
    if bad:
        raise SystemExit(f"error: {len(bad)} of {len(verdicts)} harmless programs do not pass: {bad[0]}")
    return seconds, verdicts, level


def _prompt(task: Task) -> Prompt:
    tests = {"kind": "stdio", "cases": [{"stdin": task.stdin, "stdout": task.stdout}]}
    return Prompt("bench", ({"role": "user", "content": "Write it."},), "c", tests)


def _completion(source: str, index: int) -> Completion:
    return Completion("bench", index, f"```c\n{source}```\n", (), "stop", 0, 0)


def compare(name: str, folder: Path, tasks: Sequence[Task], repeats: int, spec: Spec, target: float) -> Figure:
    """Both sides on the same programs, alternately, in verdicts per second."""
    workers = spec.num_workers
    names = [str(number) for number in range(len(tasks))]
    last: list[tuple[float, list[Verdict], str]] = []

    def ours() -> float:
        last[:] = [verifier_seconds(tasks, spec)]
        return len(tasks) / last[0][0]

    pairs = alternately(repeats, lambda: len(names) / xargs_seconds(folder, names, workers, spec), ours)
    ((seconds, verdicts, level),) = last
    inside = sum(verdict.wall_seconds for verdict in verdicts)
    num_checked = sum(verdict.wall_seconds > 0.0 for verdict in verdicts)
    around = max(0.0, seconds * workers - inside)
    print(
        f"{1000 * inside / num_checked:.1f} ms in sandboxes and {1000 * around / num_checked:.1f} ms around them"
        f" for each of {num_checked} checked programs"
    )
    return Figure(name, *pairs, f"verdicts/s (isolation {level}, {workers} workers)", target)


@dataclass(frozen=True, slots=True)
class Usage:
    """The resources of this process and its launchers at one moment."""

    num_verdicts: int
    parent_bytes: int
    launcher_bytes: int
    num_parent_descriptors: int
    num_launcher_descriptors: int
    num_launchers: int
    num_files: int


def usage(num_verdicts: int, folder: Path) -> Usage:
    """Measure this process, all its descendants, and the files in `folder`."""
    below = list(processes.below(os.getpid()))
    me = processes.read(os.getpid())
    assert me is not None
    return Usage(
        num_verdicts,
        me.rss_bytes,
        sum(process.rss_bytes for process in below),
        len(os.listdir("/proc/self/fd")),
        sum(len(os.listdir(f"/proc/{process.pid}/fd")) for process in below),
        len(below),
        sum(len(names) + len(folders) for _, folders, names in os.walk(folder)),
    )


def bytes_per_verdict(points: Sequence[Usage], name: str) -> float:
    """Slope of the least-squares line through the last three quarters of `points`."""
    later = points[len(points) // 4 :]
    return statistics.linear_regression(
        [float(point.num_verdicts) for point in later], [float(getattr(point, name)) for point in later]
    ).slope


def tiny_tasks(first: int, num_tasks: int) -> Iterator[Task]:
    """Distinct programs that are as cheap to check as possible."""
    for number in range(first, first + num_tasks):
        yield Task(f'int puts(const char *);\nint main(void) {{ return puts("{number}") < 0; }}\n', "", f"{number}\n")


def endure(num_verdicts: int, spec: Spec) -> dict[str, object]:
    """This many distinct programs through one verifier, with its resources after every round."""
    points: list[Usage] = []
    size = min(ROUND_VERDICTS, num_verdicts // 8)  # enough points for a slope
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="halo-forge-endurance-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        tempfile.tempdir = name  # so that exactly our files are counted
        try:
            with open_verifier(spec) as verifier:
                level = str(verifier.toolchain()["isolation"])
                for first in range(0, num_verdicts, size):
                    tasks = list(tiny_tasks(first, min(size, num_verdicts - first)))
                    pairs = [(_prompt(task), _completion(task.source, index)) for index, task in enumerate(tasks)]
                    if any(not verdict.passed for verdict in verifier.verify(pairs)):
                        raise SystemExit(f"error: a harmless program did not pass, among {first}..{first + len(tasks)}")
                    points.append(usage(first + len(tasks), folder))
                    if len(points) % 8 == 1 or points[-1].num_verdicts == num_verdicts:
                        print(points[-1], flush=True)
            num_left = len(os.listdir(folder))
        finally:
            tempfile.tempdir = None
    quarter, last = points[len(points) // 4], points[-1]
    return {
        "benchmark": "endurance",
        "verdicts": num_verdicts,
        "verdicts_per_second": round(num_verdicts / (time.perf_counter() - started), 1),
        "isolation": level,
        "parent_bytes_per_verdict": round(bytes_per_verdict(points, "parent_bytes"), 1),
        "launcher_bytes_per_verdict": round(bytes_per_verdict(points, "launcher_bytes"), 1),
        "parent_descriptors_more": last.num_parent_descriptors - quarter.num_parent_descriptors,
        "launcher_descriptors_more": last.num_launcher_descriptors - quarter.num_launcher_descriptors,
        "processes_more": last.num_launchers - quarter.num_launchers,
        "files_more": last.num_files - quarter.num_files,
        "files_left_at_the_end": num_left,
        "machine": machine(),
    }


def measure(num_programs: int, repeats: int, spec: Spec) -> Iterator[Figure]:
    """The two results, the main one last."""
    with tempfile.TemporaryDirectory(prefix="halo-forge-bench-") as name:
        folder = Path(name)
        tasks = make_tasks(folder, num_programs, spec.num_workers, spec)
        half = num_programs // 2
        order = [number % half for number in range(2 * half)]
        doubled = [tasks[number] for number in order]
        copies = folder / "copies"  # xargs must not write one program's output from two processes
        copies.mkdir()
        shutil.copy(folder / "input", copies)
        for position, number in enumerate(order):
            shutil.copy(folder / f"{number}.c", copies / f"{position}.c")
        yield compare("verification, half duplicates", copies, doubled, repeats, spec, TARGET_DUPLICATES)
        yield compare("verification, distinct programs", folder, tasks, repeats, spec, TARGET_DISTINCT)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--programs", type=int, default=100, help="number of programs (default 100)")
    parser.add_argument("--repeats", type=int, default=5, help="alternations of both sides (default 5)")
    parser.add_argument("--endurance", type=int, metavar="N", help="instead, N verdicts in a row")
    arguments = parser.parse_args()
    if arguments.programs < 2 or arguments.repeats < 1 or (arguments.endurance is not None and arguments.endurance < 8):
        parser.error("--programs must be at least 2, --repeats at least 1, --endurance at least 8")
    missing = [tool for tool in ("gcc", "xargs") if shutil.which(tool) is None]
    if missing:
        sys.exit(f"error: {', '.join(missing)} not found\n  fix: install gcc, libc6-dev, binutils and findutils")
    if arguments.endurance is not None:
        print(json.dumps(endure(arguments.endurance, Spec())))
        return
    for figure in measure(arguments.programs, arguments.repeats, Spec()):
        figure.show()


if __name__ == "__main__":
    main()
