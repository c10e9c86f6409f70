"""The parts of gpu_check.py that are measured here; each runs in a process of its own.

The last line of each is one JSON object: `passed`, `found` in words, `values`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from halo_forge.config.sections import HardwareSection, LoraSection, ModelSection
from halo_forge.engines.transformers import TransformersSpec
from halo_forge.hardware import choose
from halo_forge.policy import Policy
from halo_forge.prompts import load_prompts
from halo_forge.records import Prompt, SampleRequest

NEAR_TIE = 1e-3
"""Difference of two logits that float32 kernels may turn round; theirs differ by about 1e-5 to 1e-4."""
ADAPTER_SCALE = 0.02
"""Standard deviation of B: the adapter changes answers, and they stay text."""


# ---- quickstart


def quickstart(arguments: argparse.Namespace) -> dict[str, Any]:
    """Two cycles through the command line, with few prompts: what a user does first."""
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
        # A model with random weights writes nothing that compiles, and comes to no end by itself.
        values |= {"selection.reward_threshold": 0, "engine.stop": json.dumps(list("eatnoisr "))}
    changes = [word for name, value in values.items() for word in ("--set", f"{name}={value}")]
    command = [sys.executable, "-m", "halo_forge", "raft", "run", "configs/quickstart.yaml"]
    done = subprocess.run([*command, "--output-dir", str(root), *changes])
    if done.returncode != 0:
        raise SystemExit(done.returncode)
    profile = read_json(root / "run.json")["hardware"]["profile"]
    status = read_status(root, 2)
    rates = [lap.metrics["tokens_per_second/generate"] for lap in status.laps]
    first, last = (status.laps[number].metrics["dev/compile_rate"] for number in (0, -1))
    seconds = sum(value for lap in status.laps for name, value in lap.metrics.items() if name.startswith("seconds/"))
    on_device = arguments.device == "cpu" or profile != "cpu"
    words = f"{status.state}, profile {profile}, {seconds:.0f} s; dev compile rate {first:.2f} -> {last:.2f}"
    found = {"profile": profile, "tokens_per_second": rates, "compile_rate": [first, last], "seconds": seconds}
    return {"passed": status.state == "finished" and on_device, "found": words, "values": found}


# ---- greedy


def load_policy(model: str, device: str, dtype: str) -> Policy:
    """The model with an adapter that changes its answers, the same one on every device."""
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


def greedy_answers(policy: Policy, prompts: Sequence[Prompt], num_tokens: int) -> dict[str, list[int]]:
    """The likeliest tokens of each prompt, by our engine."""
    requests = [SampleRequest(prompt.id, 0, 0, 0.0, 1.0, None, num_tokens) for prompt in prompts]
    engine = TransformersSpec(max_new_tokens=num_tokens).open(policy)
    done = engine.sample({prompt.id: prompt for prompt in prompts}, requests, policy.version)
    return {each.prompt_id: list(each.token_ids) for each in done}


def num_equal(left: Sequence[int], right: Sequence[int]) -> int:
    """Tokens before the first difference."""
    for number, pair in enumerate(zip(left, right, strict=False)):
        if pair[0] != pair[1]:
            return number
    return min(len(left), len(right))


def logit_gap(policy: Policy, prompt: Prompt, answer: Sequence[int], other: Sequence[int]) -> float:
    """How much larger the logit of the next token of `answer` is than that of `other`'s, where they part."""
    import torch

    same = num_equal(answer, other)
    tokens = torch.tensor([policy.prompt_ids(prompt) + list(answer[:same])], device=policy.device)
    with torch.inference_mode():
        logits = policy.model(input_ids=tokens, use_cache=False).logits[0, -1].float()
    ends = [policy.end_of_turn_id]  # an answer that is over at this place ended in it
    first, second = ([*each[same : same + 1], *ends][0] for each in (answer, other))
    return float(logits[first] - logits[second])


def greedy(arguments: argparse.Namespace) -> dict[str, Any]:
    """Float32 on both devices has to agree, but where two tokens are as good as equally likely."""
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
    gaps = {
        prompt.id: logit_gap(reference, prompt, answers["reference"][prompt.id], ours[prompt.id])
        for prompt in prompts
        if answers["reference"][prompt.id] != ours[prompt.id]
    }
    wrong = {name: gap for name, gap in gaps.items() if abs(gap) > NEAR_TIE}
    rough = answers[f"{arguments.device} bfloat16"]
    lengths = [max(len(answers["reference"][prompt.id]), 1) for prompt in prompts]
    shares = [
        num_equal(answers["reference"][prompt.id], rough[prompt.id]) / length
        for prompt, length in zip(prompts, lengths, strict=True)
    ]
    share = sum(shares) / len(shares)
    words = (
        f"float32: {len(prompts) - len(gaps)} of {len(prompts)} answers equal"
        + (f", {len(gaps) - len(wrong)} part at a near tie" if len(gaps) > len(wrong) else "")
        + (f", {len(wrong)} DIFFER (logits by up to {max(map(abs, wrong.values())):.3g})" if wrong else "")
        + f"; bfloat16 agrees for {share:.0%} of an answer on average"
    )
    values = {
        "num_prompts": len(prompts), "num_tokens": sum(map(len, ours.values())), "gaps": gaps,
        "near_tie": NEAR_TIE, "bfloat16_agreement": shares, "seconds": seconds,
    }  # fmt: skip
    return {"passed": not wrong, "found": words, "values": values}


PARTS = {"quickstart": quickstart, "greedy": greedy}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--model", required=True)
    parser.add_argument("--device", choices=("cuda", "cpu"), required=True)
    parser.add_argument("--output", type=Path, required=True, help="what the part leaves goes to this folder")
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    print(json.dumps(PARTS[arguments.part](arguments)), flush=True)


if __name__ == "__main__":
    main()
