"""What a cycle costs besides sampling and training, on the real model.

One cycle of configs/quickstart.yaml with fewer prompts, as `halo-forge raft run` runs it: its wall-clock seconds from
the events of the run.  The baseline is the same work without overlap: its sampling, the same completions verified
afterwards by a fresh verifier, its training and the drift metrics, one after the other.  Only the verification is
measured again, so this says little if verification slows sampling down; where the CPU samples, nothing overlaps.  Also
printed: the share of drift (target at most 10 %), the share of everything else (at most 3 %), and peak memory.

    python scripts/bench_cycle.py [--prompts 16] [--repeats 1] [--set KEY=VALUE]

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from _bench import Figure

from halo_forge.core.records import Completion
from halo_forge.runtime.assembly import run_config
from halo_forge.runtime.prompt_sets import load_prompt_sets
from halo_forge.store.files import read_jsonl
from halo_forge.store.status import read_status
from halo_forge.verifiers import open_verifier

CONFIG = Path("configs/quickstart.yaml")
LIMITS = {"drift": 0.1, "other": 0.03}
"""Phase -> the largest acceptable share of a cycle."""


def one_cycle(root: Path, num_prompts: int, overrides: Sequence[str]) -> None:
    """A run of one cycle in `root`."""
    values = {
        "raft.num_cycles": 1,
        "raft.prompts_per_cycle": num_prompts,
        "raft.min_selected": 1,
        "prompts.dev_limit": max(2, num_prompts // 2),
        "evaluation.test_at_end": "false",
    }
    changes = [*(f"{name}={value}" for name, value in values.items()), *overrides]
    settings = [word for change in changes for word in ("--set", change)]
    command = [sys.executable, "-m", "halo_forge", "raft", "run", str(CONFIG), "--output-dir", str(root), *settings]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"error: the run failed\n{done.stderr}")


def checking_seconds(root: Path) -> float:
    """Seconds that a fresh verifier needs for the completions of the cycle, with nothing else running."""
    config = run_config(root).config
    prompts = load_prompt_sets(config).by_id()
    folder = root / "cycles" / "001"
    rows = [row for name in ("completions", "dev_completions") for row in read_jsonl(folder / f"{name}.jsonl")]
    completions = [Completion.from_row(row) for row in rows]
    with open_verifier(config.verifier) as verifier:
        started = time.perf_counter()
        list(verifier.verify([(prompts[each.prompt_id], each) for each in completions]))
        return time.perf_counter() - started


PHASES = ("generate", "verify", "drift", "train", "other")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=16, help="train prompts of the cycle (default 16)")
    parser.add_argument("--repeats", type=int, default=1, help="runs (default 1)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as for raft run; repeatable")
    arguments = parser.parse_args()
    if arguments.prompts < 4 or arguments.repeats < 1:
        parser.error("--prompts must be at least 4, --repeats at least 1")
    ours, baseline = [], []
    for _ in range(arguments.repeats):
        with tempfile.TemporaryDirectory(prefix="halo-forge-bench-") as name:
            root = Path(name) / "run"
            one_cycle(root, arguments.prompts, arguments.set)
            metrics = read_status(root, 1).cycles[0].metrics
            phases = {phase: metrics.get(f"seconds/{phase}", 0.0) for phase in PHASES}
            alone = checking_seconds(root)
        ours.append(sum(phases.values()))
        baseline.append(phases["generate"] + alone + phases["train"] + phases["drift"])
        shares = {name: phases[name] / ours[-1] for name in LIMITS}
        print(
            f"sampling {phases['generate']:.1f} s, checking {phases['verify']:.1f} s after it ({alone:.1f} s alone),"
            f" training {phases['train']:.1f} s, drift {phases['drift']:.1f} s, other {phases['other']:.2f} s;"
            f" peak memory {metrics['peak_memory_bytes'] / 1e9:.2f} GB"
        )
        for name, share in shares.items():
            met = "met" if share <= LIMITS[name] else "MISSED"
            print(f"{name}: {100 * share:.1f} % of the cycle; target <= {100 * LIMITS[name]:g} %: {met}")
        print(
            json.dumps(
                {"other_share": round(shares["other"], 4), **{name: round(value, 2) for name, value in phases.items()}}
            )
        )
    Figure("cycle, quickstart", ours, baseline, "seconds", less_is_better=True).show()


if __name__ == "__main__":
    main()
