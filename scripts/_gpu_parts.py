"""The parts of gpu_check.py that are implemented here; each runs in a separate process.

The last line of each is one JSON object: `passed`, `found` in words, `values`.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from bench_generation import make_requests, num_real_tokens

from halo_forge.config.sections import HardwareSection, LoraSection, ModelSection, TrainingSection
from halo_forge.core.records import Prompt, SampleRequest
from halo_forge.engines.transformers import TransformersSpec
from halo_forge.hardware import choose
from halo_forge.policy import Policy
from halo_forge.prompts import load_prompts
from halo_forge.sandbox import syscalls

NEAR_TIE = 1e-3
"""Difference of two logits that float32 kernels may reverse; their results differ by about 1e-5 to 1e-4."""
ADAPTER_SCALE = 0.02
"""Standard deviation of B: the adapter changes completions, which remain text."""


# ---- quickstart


def ended_with_this() -> None:
    """A run must not outlive the check: on a GPU it would hold memory that the next one needs."""
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)


def quickstart(arguments: argparse.Namespace) -> dict[str, Any]:
    """Two cycles through the command line, with few prompts: what a user runs first."""
    from halo_forge.store.files import read_json
    from halo_forge.store.status import read_status

    root, sizes = arguments.output, {"prompts": 24, "dev": 12, "samples": 4, "tokens": 160}
    if arguments.tiny:
        sizes = {"prompts": 4, "dev": 2, "samples": 2, "tokens": 24}
    values: dict[str, object] = {
        "model.model_name_or_path": arguments.model,
        "raft.num_cycles": 2,
        "raft.prompts_per_cycle": sizes["prompts"],
        "raft.samples_per_prompt": sizes["samples"],
        "raft.min_selected": 1,
        "prompts.dev_limit": sizes["dev"],
        "engine.max_new_tokens": sizes["tokens"],
        "evaluation.test_at_end": "false",
        "evaluation.num_drift_samples": 4,
    }
    if arguments.tiny:
        # A model with random weights writes nothing that compiles and never ends a completion.
        values |= {"selection.reward_threshold": 0, "engine.stop": json.dumps(list("eatnoisr "))}
    changes = [word for name, value in values.items() for word in ("--set", f"{name}={value}")]
    command = [sys.executable, "-m", "halo_forge", "raft", "run", "configs/quickstart.yaml"]
    done = subprocess.run([*command, "--output-dir", str(root), *changes], preexec_fn=ended_with_this)
    if done.returncode != 0:
        raise SystemExit(done.returncode)
    profile = read_json(root / "run.json")["hardware"]["profile"]
    status = read_status(root, 2)
    rates = [row.metrics["tokens_per_second/generate"] for row in status.cycles]
    first, last = (status.cycles[number].metrics["dev/compile_rate"] for number in (0, -1))
    seconds = sum(value for row in status.cycles for name, value in row.metrics.items() if name.startswith("seconds/"))
    on_device = arguments.device == "cpu" or profile != "cpu"
    words = f"{status.state}, profile {profile}, {seconds:.0f} s; dev compile rate {first:.2f} -> {last:.2f}"
    found = {"profile": profile, "tokens_per_second": rates, "compile_rate": [first, last], "seconds": seconds}
    return {"passed": status.state == "finished" and on_device, "found": words, "values": found}


# ---- greedy


def load_policy(model: str, device: str, dtype: str) -> Policy:
    """The model with an adapter that changes its completions, the same one on every device."""
    import torch

    profile = choose(HardwareSection(profile="cpu")) if device == "cpu" else None
    policy = Policy.load(ModelSection(model_name_or_path=model, dtype=dtype), LoraSection(), seed=0, profile=profile)
    if policy.device.type != device:
        raise SystemExit(f"error: the model is on {policy.device}, not on {device}")
    generator = torch.Generator().manual_seed(1)
    for name, parameter in sorted(policy.model.named_parameters()):
        if "lora_B" in name:
            drawn = torch.randn(parameter.shape, generator=generator) * ADAPTER_SCALE
            parameter.data.copy_(drawn)
    return policy


def greedy_answers(
    policy: Policy, prompts: Sequence[Prompt], num_tokens: int, *, cuda_graphs: bool = False
) -> dict[str, list[int]]:
    """The greedy completions of each prompt, from our engine."""
    requests = [SampleRequest(prompt.id, 0, 0, 0.0, 1.0, None, num_tokens) for prompt in prompts]
    engine = TransformersSpec(max_new_tokens=num_tokens, cuda_graphs=cuda_graphs).open(policy)
    done = engine.sample({prompt.id: prompt for prompt in prompts}, requests, policy.version)
    return {each.prompt_id: list(each.token_ids) for each in done}


def num_equal(left: Sequence[int], right: Sequence[int]) -> int:
    """Tokens before the first difference."""
    for number, pair in enumerate(zip(left, right, strict=False)):
        if pair[0] != pair[1]:
            return number
    return min(len(left), len(right))


def logit_gap(policy: Policy, prompt: Prompt, answer: Sequence[int], other: Sequence[int]) -> float:
    """How much larger the logit of the next token of `answer` is than that of `other`, where they diverge."""
    import torch

    same = num_equal(answer, other)
    tokens = torch.tensor([policy.prompt_ids(prompt) + list(answer[:same])], device=policy.device)
    with torch.inference_mode():
        logits = policy.model(input_ids=tokens, use_cache=False).logits[0, -1].float()
    ends = [policy.end_of_turn_id]  # a completion that ends here ended with the end of turn
    first, second = ([*each[same : same + 1], *ends][0] for each in (answer, other))
    return float(logits[first] - logits[second])


def gaps_of(
    policy: Policy, prompts: Sequence[Prompt], answers: dict[str, list[int]], others: dict[str, list[int]]
) -> dict[str, float]:
    """Prompt -> gap of the logits where its two completions diverge; equal ones are left out."""
    return {
        prompt.id: logit_gap(policy, prompt, answers[prompt.id], others[prompt.id])
        for prompt in prompts
        if answers[prompt.id] != others[prompt.id]
    }


def said_of(gaps: dict[str, float], num_completions: int) -> tuple[bool, str]:
    """Whether completions diverge only at near ties, and the comparison in words."""
    wrong = [abs(gap) for gap in gaps.values() if abs(gap) > NEAR_TIE]
    words = f"{num_completions - len(gaps)} of {num_completions} completions equal"
    words += f", {len(gaps) - len(wrong)} diverge at a near tie" if len(gaps) > len(wrong) else ""
    words += f", {len(wrong)} DIFFER (logits by up to {max(wrong):.3g})" if wrong else ""
    return not wrong, words


def greedy(arguments: argparse.Namespace) -> dict[str, Any]:
    """Float32 on both devices must agree, except where two tokens are almost equally likely."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    num_prompts, num_tokens = (3, 6) if arguments.tiny else (16, 64)
    prompts = load_prompts("builtin:c/train", language="c", limit=num_prompts)
    answers, seconds = {}, {}
    for device, dtype in (("cpu", "float32"), (arguments.device, "float32"), (arguments.device, "bfloat16")):
        policy = load_policy(arguments.model, device, dtype)
        started = time.perf_counter()
        name = f"{device} {dtype}" if (device, dtype) != ("cpu", "float32") else "reference"
        answers[name] = greedy_answers(policy, prompts, num_tokens)
        seconds[name] = round(time.perf_counter() - started, 2)
        if name == "reference":
            reference = policy
    ours = answers.get(f"{arguments.device} float32", answers["reference"])
    gaps = gaps_of(reference, prompts, answers["reference"], ours)
    passed, same = said_of(gaps, len(prompts))
    rough = answers[f"{arguments.device} bfloat16"]
    lengths = [max(len(answers["reference"][prompt.id]), 1) for prompt in prompts]
    shares = [
        num_equal(answers["reference"][prompt.id], rough[prompt.id]) / length
        for prompt, length in zip(prompts, lengths, strict=True)
    ]
    share = sum(shares) / len(shares)
    words = f"float32: {same}; bfloat16 agrees for {share:.0%} of a completion on average"
    values = {
        "num_prompts": len(prompts), "num_tokens": sum(map(len, ours.values())), "gaps": gaps,
        "near_tie": NEAR_TIE, "bfloat16_agreement": shares, "seconds": seconds,
    }  # fmt: skip
    return {"passed": passed, "found": words, "values": values}


# ---- launches

LAUNCH = re.compile(r"(cuda|cu|hip)\w*Launch\w*")
"""Also for a graph, which is one launch, whatever is in it."""
WAIT = re.compile(r"(cuda|cu|hip)\w*Synchronize|(cuda|hip)Memcpy")
COPY = re.compile(r"(cuda|cu|hip)Mem(cpy|set)\w*")
MOST_OF_PRETENDED = 1.5
"""One operator can be several kernels: cumulative sums, sorting, products that are split."""
TIMED_STEPS = 64


def host_calls(names: Iterable[str]) -> Counter[str]:
    """How often the host launched a kernel or a copy, or waited, by the names of its calls to CUDA or HIP."""
    found: Counter[str] = Counter()
    for name in names:
        for kind, pattern in (("launches", LAUNCH), ("waits", WAIT), ("copies", COPY)):
            found[kind] += pattern.fullmatch(name) is not None
    return found


def profiled(action: Callable[[], object]) -> Counter[str]:
    """What the host called while `action` ran, from torch's profiler."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        action()
        torch.cuda.synchronize()
    # Not `found.events()`, which takes minutes to build a tree of some hundred thousand calls.
    return host_calls(event.name() for event in found.profiler.kineto_results.events())


def pretended_launches(text: str) -> dict[str, float]:
    """Kind of step -> launches counted on the simulated GPU, from the output of bench_launches.py."""
    rows = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    kinds = {"decode": "launches of a decode step", "optimizer": "launches of an optimizer step"}
    return {kind: row["ours"] for row in rows for kind, words in kinds.items() if row["benchmark"].startswith(words)}


def launches(arguments: argparse.Namespace) -> dict[str, Any]:
    """Launches and waits of both steps in the profiler, beside those of the simulated GPU."""
    import bench_launches as bench
    import torch
    from bench_training import trainer_rate

    policy = load_policy(arguments.model, arguments.device, "bfloat16")
    rows, short, long = 16, bench.WARM_UP, bench.WARM_UP + bench.STEPS
    section = TrainingSection(per_device_train_batch_size=4, gradient_checkpointing=False)
    bench.sample_all(policy, rows, 2)
    bench.train_steps(policy, trainer_rate, section, 1)
    decode = [profiled(partial(bench.sample_all, policy, rows, number)) for number in (short, long)]
    seconds = []
    for number in (short, short + TIMED_STEPS):
        torch.cuda.synchronize()
        started = time.perf_counter()
        bench.sample_all(policy, rows, number)
        seconds.append(time.perf_counter() - started)
    training = [
        profiled(partial(bench.train_steps, policy, trainer_rate, section, number)) for number in bench.TRAINING_STEPS
    ]
    counts = {
        kind: {name: (pair[1][name] - pair[0][name]) / steps for name in ("launches", "copies", "waits")}
        for kind, pair, steps in (
            ("decode", decode, bench.STEPS),
            ("optimizer", training, bench.TRAINING_STEPS[1] - bench.TRAINING_STEPS[0]),
        )
    }
    carried = arguments.pretended.read_text(encoding="utf-8") if arguments.pretended else ""
    pretended = pretended_launches(carried)
    milliseconds = 1000 * (seconds[1] - seconds[0]) / TIMED_STEPS
    words = [
        f"{kind} step: {found['launches']:g} launches"
        + (f" (simulated {pretended[kind]:g})" if kind in pretended else "")
        + f", {found['waits']:g} waits"
        for kind, found in counts.items()
    ]
    few = all(found["launches"] <= MOST_OF_PRETENDED * pretended.get(kind, math.inf) for kind, found in counts.items())
    seen = all(found["launches"] > 0 for found in counts.values())
    passed = seen and few and counts["decode"]["waits"] <= bench.MOST_WAITS
    words += [f"decode step of {rows} rows: {milliseconds:.1f} ms"]
    words += [] if seen else ["the profiler saw no launches"]
    words += [] if pretended else ["there are no counts of the simulated GPU to compare with (pack_gpu_check.py)"]
    values = {"counts": counts, "pretended": pretended, "rows": rows, "milliseconds": milliseconds}
    return {"passed": passed, "found": "; ".join(words), "values": values}


# ---- CUDA graphs


@contextmanager
def warnings_of(name: str) -> Iterator[list[str]]:
    """Warnings logged below `name` during the block."""
    found: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: found.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger(name).addHandler(handler)
    try:
        yield found
    finally:
        logging.getLogger(name).removeHandler(handler)


def graphs(arguments: argparse.Namespace) -> dict[str, Any]:
    """Decoding steps as CUDA graphs: the same tokens as without, and tokens per second of both."""
    num_prompts, num_samples, num_tokens = (2, 2, 8) if arguments.tiny else (32, 8, 128)
    prompts = load_prompts("builtin:c/train", language="c", limit=num_prompts)
    requests = make_requests(prompts, num_samples, num_tokens)
    rates: dict[bool, float] = {}
    with warnings_of("halo_forge") as warned:
        policy = load_policy(arguments.model, arguments.device, "float32")
        answers = [greedy_answers(policy, prompts, num_tokens // 2, cuda_graphs=on) for on in (False, True)]
        gaps = gaps_of(policy, prompts, *answers)
        policy = load_policy(arguments.model, arguments.device, "bfloat16")
        for on in (False, True):
            engine = TransformersSpec(max_new_tokens=num_tokens, cuda_graphs=on).open(policy)
            for _ in range(2):  # the first call captures
                started = time.perf_counter()
                done = engine.sample({prompt.id: prompt for prompt in prompts}, requests, policy.version)
                rates[on] = num_real_tokens(done) / (time.perf_counter() - started)
    equal, same = said_of(gaps, num_prompts)
    words = f"float32: {same}; {rates[False]:.0f} tokens/s without graphs, {rates[True]:.0f} with"
    words += "".join(f"; WARNED: {each}" for each in dict.fromkeys(warned))
    values = {"gaps": gaps, "without": rates[False], "with": rates[True], "warnings": warned}
    return {"passed": equal and not warned, "found": words, "values": values}


PARTS = {"quickstart": quickstart, "greedy": greedy, "launches": launches, "graphs": graphs}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--model", required=True)
    parser.add_argument("--device", choices=("cuda", "cpu"), required=True)
    parser.add_argument("--output", type=Path, required=True, help="folder for the files of the part")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--pretended", type=Path, help="output of bench_launches.py")
    arguments = parser.parse_args()
    print(json.dumps(PARTS[arguments.part](arguments)), flush=True)


if __name__ == "__main__":
    main()
