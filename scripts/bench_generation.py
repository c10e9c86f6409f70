"""How fast the `transformers` engine samples, against others on the same work.

Real tokens per second (including the end of turn, without padding) of our engine and of a baseline, alternately, in one
run: the same prompts of builtin:c/train, the same number of samples, temperature 1, the same limit of new tokens, with
an adapter.  Baselines: the library's `generate` at its best batch size, its `generate_batch`, and OpenVINO GenAI and
vLLM in separate environments.  The ceiling is the speed of matrix products of the model's shapes on this machine.

    python scripts/bench_generation.py [--new-tokens 256] [--prompts 64] [--samples 8] [--repeats 1]
    python scripts/bench_generation.py --prompts 16 --against openvino --openvino FOLDER [--busy 1]
    python scripts/bench_generation.py --against vllm --vllm PYTHON
    python scripts/bench_generation.py --shape qwen2.5-1.5b      # random weights of that shape; for a GPU

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from _bench import Figure, alternately

from halo_forge.config.sections import LoraSection, ModelSection
from halo_forge.core.errors import HaloForgeError
from halo_forge.core.records import Completion, Prompt, SampleRequest
from halo_forge.core.seeds import derive_seed
from halo_forge.engines._server_engine import ServerEngine
from halo_forge.engines.transformers import TransformersSpec
from halo_forge.engines.vllm import VllmSpec
from halo_forge.policy import Policy
from halo_forge.prompts import load_prompts

MODEL = "models/smollm2-135m-instruct"
TARGETS = {("cpu", 256): 2.5, ("cpu", 512): 3.0}
GPU_TARGET = 5.0
OPENVINO_TARGETS = (1.2, 1.0)
"""On an idle machine, and beside a busy process."""
OPENVINO_SEQUENCES = 128
VLLM_IN_FLIGHT = 512
"""The number of our rows in flight on a GPU."""
BUSY = """
import os, sys
while os.getppid() == int(sys.argv[1]):
    for _ in range(10**6):
        pass
"""
AGAINST = ("generate", "generate_batch", "openvino", "vllm")
BATCH_SIZES = {"cpu": (32, 64, 128), "cuda": (64, 128, 256)}
SHAPES = {
    "qwen2.5-1.5b": {
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    },
    # Only shows that the script works.
    "qwen2-tiny": {
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    },
}


def random_model(name: str, tokenizer_of: str, folder: Path) -> str:
    """A model of that shape with random weights in `folder`, with the tokenizer of another one."""
    import torch
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_of)
    torch.manual_seed(0)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):  # billions of random numbers
        model = Qwen2ForCausalLM(Qwen2Config(**SHAPES[name], **ends)).to(torch.bfloat16)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def make_requests(prompts: Sequence[Prompt], num_samples: int, new_tokens: int) -> list[SampleRequest]:
    """Untruncated sampling at temperature 1."""
    return [
        SampleRequest(prompt.id, index, derive_seed(0, "bench", prompt.id, index), 1.0, 1.0, None, new_tokens)
        for prompt in prompts
        for index in range(num_samples)
    ]


def engine_rate(policy: Policy, prompts: Mapping[str, Prompt], requests: list[SampleRequest], rows: Any) -> float:
    """Real tokens per second of our engine."""
    engine = TransformersSpec(batch_size=rows, max_new_tokens=requests[0].max_new_tokens).open(policy)
    started = time.perf_counter()
    return num_real_tokens(engine.sample(prompts, requests, policy.version)) / (time.perf_counter() - started)


def num_real_tokens(done: Iterable[Completion]) -> int:
    """Sampled tokens including the end of turn."""
    return sum(len(each.token_ids) + (each.finish == "stop") for each in done)


def generate_rate(policy: Policy, prompts: Mapping[str, Prompt], requests: list[SampleRequest], rows: int) -> float:
    """Real tokens per second of `generate`, in batches of `rows` requests sorted by prompt length."""
    import torch

    ids = {prompt_id: policy.prompt_ids(prompt) for prompt_id, prompt in prompts.items()}
    ordered = sorted(requests, key=lambda each: len(ids[each.prompt_id]))
    pad = policy.tokenizer.pad_token_id
    num_tokens, started = 0, time.perf_counter()
    for first in range(0, len(ordered), rows):
        batch = [ids[request.prompt_id] for request in ordered[first : first + rows]]
        longest = max(map(len, batch))
        inputs = torch.tensor([[pad] * (longest - len(one)) + one for one in batch], device=policy.device)
        mask = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in batch], device=policy.device)
        with torch.inference_mode():
            made = policy.model.generate(
                input_ids=inputs,
                attention_mask=mask,
                do_sample=True,
                temperature=1.0,
                top_p=1.0,
                top_k=0,
                max_new_tokens=requests[0].max_new_tokens,
                eos_token_id=sorted(policy.stop_ids),
                pad_token_id=pad,
            )[:, longest:].tolist()
        for row in made:
            ends = [position for position, token in enumerate(row) if token in policy.stop_ids]
            num_tokens += ends[0] + 1 if ends else len(row)
    return num_tokens / (time.perf_counter() - started)


def best_batch_size(policy: Policy, prompts: Mapping[str, Prompt], requests: list[SampleRequest]) -> int:
    """The batch size at which `generate` is fastest, each tried on as many requests as the largest needs."""
    sizes = [size for size in BATCH_SIZES[policy.device.type] if size <= len(requests)] or [len(requests)]
    part = requests[:: max(1, len(requests) // max(sizes))][: max(sizes)]
    rates = {size: generate_rate(policy, prompts, part, size) for size in sizes}
    print("generate by batch size:", ", ".join(f"{size}: {rate:.0f} tokens/s" for size, rate in rates.items()))
    return max(rates, key=lambda size: rates[size])


def product_ceiling(policy: Policy) -> float:
    """Tokens per second if only the matrix products of one token were computed, at the best rate measured here."""
    import torch

    weights = [
        module.weight for module in policy.model.get_base_model().modules() if isinstance(module, torch.nn.Linear)
    ]
    shapes = {tuple(weight.shape) for weight in weights if min(weight.shape) > 64}  # not the adapter's
    num_flop = sum(2 * weight.numel() for weight in weights if tuple(weight.shape) in shapes)
    best = 0.0
    for rows in (64, 128, 256, 512):
        seconds = flop = 0.0
        for shape in shapes:
            left = torch.randn(rows, shape[1], device=policy.device, dtype=policy.model.dtype)
            right = torch.randn(shape[1], shape[0], device=policy.device, dtype=policy.model.dtype)
            seconds += min(_seconds(lambda a=left, b=right: a @ b) for _ in range(5))  # type: ignore[misc]
            flop += 2 * rows * shape[0] * shape[1]
        best = max(best, flop / seconds)
    print(f"matrix products: {best / 1e9:.0f} GFLOP/s; {num_flop / 1e6:.0f} MFLOP per token")
    return best / num_flop


def _seconds(action: Any) -> float:
    import torch

    started = time.perf_counter()
    action()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def batch_rate(policy: Policy, prompts: Mapping[str, Prompt], requests: list[SampleRequest]) -> float:
    """Real tokens per second of transformers' continuous batching, `generate_batch`."""
    from transformers import ContinuousBatchingConfig, GenerationConfig

    settings = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        max_new_tokens=requests[0].max_new_tokens,
        eos_token_id=sorted(policy.stop_ids),
        pad_token_id=policy.tokenizer.pad_token_id,
    )
    ids = {prompt_id: policy.prompt_ids(prompt) for prompt_id, prompt in prompts.items()}
    # Room for all requests at once; by default it clears most of the machine's memory, which takes longer than they do.
    longest = max(map(len, ids.values())) + requests[0].max_new_tokens
    cache = ContinuousBatchingConfig()
    tokens_per_block = getattr(cache, "page_size", cache.block_size)  # the old name, and the one of later versions
    cache.num_blocks = 2 * len(requests) * (longest // tokens_per_block + 1)
    started = time.perf_counter()
    # The adapter's layers are in the base model; PEFT's wrapper has no such method.
    done = policy.model.get_base_model().generate_batch(
        [ids[request.prompt_id] for request in requests],
        generation_config=settings,
        continuous_batching_config=cache,
    )
    if len(done) != len(requests):
        raise RuntimeError(f"generate_batch answered {len(done)} of {len(requests)} requests")
    num_tokens = sum(len(each.generated_tokens) for each in done.values())
    return num_tokens / (time.perf_counter() - started)


@contextlib.contextmanager
def openvino(
    policy: Policy, prompts: Sequence[Prompt], num_samples: int, new_tokens: int, folder: Path
) -> Iterator[Any]:
    """A function that lets OpenVINO GenAI do the work and returns its real tokens per second.

    Args:
        folder: The folder made by `scripts/setup_openvino.sh`.
    """
    with tempfile.TemporaryDirectory(prefix="halo-forge-bench-") as name:
        policy.save_adapter(Path(name))
        work = {
            "model": str(folder / "model"),
            "adapter": f"{name}/adapter_model.safetensors",
            "prompts": [policy.prompt_ids(prompt) for prompt in prompts],
            "samples": num_samples,
            "new_tokens": new_tokens,
            "stop_ids": sorted(policy.stop_ids),
            "sequences": OPENVINO_SEQUENCES,
            "warm_up": 2,
        }
        script = Path(__file__).with_name("openvino_rate.py")
        with subprocess.Popen(
            [folder / "bin/python", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdin is not None and child.stdout is not None

            def ask(line: str) -> dict[str, float]:
                assert child.stdin is not None and child.stdout is not None
                answer = ""
                with contextlib.suppress(BrokenPipeError):  # it has ended, so there is no reply
                    child.stdin.write(line + "\n")
                    child.stdin.flush()
                    answer = child.stdout.readline()
                if not answer:
                    with contextlib.suppress(BrokenPipeError):  # closing writes the rest of the buffer
                        child.stdin.close()
                    sys.exit("error: the OpenVINO process ended; its output is above")
                return dict(json.loads(answer))

            ask(json.dumps(work))

            def rate() -> float:
                found = ask("again")
                return found["tokens"] / found["seconds"]

            yield rate
            child.stdin.close()


@contextlib.contextmanager
def vllm(
    policy: Policy, prompts: Mapping[str, Prompt], requests: list[SampleRequest], python: str
) -> Iterator[Callable[[], float]]:
    """A function that lets engine `vllm` do the work and returns its real tokens per second.

    By then the server is warm and has proved that it uses our adapter; the timed calls do not repeat the proof.
    """
    spec = VllmSpec(python=python, max_in_flight=VLLM_IN_FLIGHT, max_new_tokens=requests[0].max_new_tokens)
    with spec.open(policy) as engine:
        vllm_rate(engine, prompts, requests[:64])
        engine.spec = spec.model_copy(update={"max_policy_gap": None})
        yield partial(vllm_rate, engine, prompts, requests)


def vllm_rate(engine: ServerEngine, prompts: Mapping[str, Prompt], requests: list[SampleRequest]) -> float:
    """Real tokens per second from the first request to the last response, so without waking up and going to sleep."""
    sent: list[float] = []
    post = engine.client.post

    def timed_post(path: str, body: Mapping[str, Any]) -> bytes:
        if path == "/completions":
            sent.append(time.perf_counter())
        return post(path, body)

    engine.client.post = timed_post  # type: ignore[method-assign]
    num_tokens, answered = 0, 0.0
    try:
        for completion in engine.sample(prompts, requests, engine.policy.version):
            num_tokens, answered = num_tokens + num_real_tokens([completion]), time.perf_counter()
    finally:
        engine.client.post = post  # type: ignore[method-assign]
    return num_tokens / (answered - min(sent))


@contextlib.contextmanager
def busy_processes(number: int) -> Iterator[None]:
    """This many processes, each keeping a processor busy during the block; they end if this process is killed."""
    command = [sys.executable, "-c", BUSY, str(os.getpid())]
    started = [subprocess.Popen(command) for _ in range(number)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def trained_adapter(policy: Policy) -> None:
    """A small random adapter instead of a new one, whose B is 0, so that no side can skip it."""
    import torch

    generator = torch.Generator().manual_seed(0)
    for name, parameter in policy.model.named_parameters():
        if "lora_B" in name:
            values = 0.002 * torch.randn(parameter.shape, generator=generator)
            parameter.data = values.to(parameter.device, parameter.dtype)


def compare(policy: Policy, arguments: argparse.Namespace) -> None:
    """Measure both sides and print the comparison."""
    chosen = load_prompts("builtin:c/train", language="c", limit=arguments.prompts)
    prompts = {prompt.id: prompt for prompt in chosen}
    requests = make_requests(chosen, arguments.samples, arguments.new_tokens)
    rows = "auto" if arguments.rows is None else arguments.rows
    device, target = policy.device.type, None
    ceiling = product_ceiling(policy)
    with contextlib.ExitStack() as stack:
        baseline: Callable[[], float]
        # Each call also warms up its side.
        if arguments.against == "generate":
            size = best_batch_size(policy, prompts, requests)
            unit = f"tokens/s (generate at batch size {size})"
            target = TARGETS.get((device, arguments.new_tokens)) if device == "cpu" else GPU_TARGET
            baseline = partial(generate_rate, policy, prompts, requests, size)
        elif arguments.against == "generate_batch":
            unit = "tokens/s (generate_batch)"
            baseline = partial(batch_rate, policy, prompts, requests)
            batch_rate(policy, prompts, requests[:8])
        elif arguments.against == "vllm":
            unit = f"tokens/s (vLLM, {VLLM_IN_FLIGHT} requests in flight)"
            baseline = stack.enter_context(vllm(policy, prompts, requests, arguments.vllm))
        else:
            unit = f"tokens/s (OpenVINO GenAI, {OPENVINO_SEQUENCES} sequences)"
            baseline = stack.enter_context(
                openvino(policy, chosen, arguments.samples, arguments.new_tokens, arguments.openvino)
            )
            target = OPENVINO_TARGETS[min(arguments.busy, 1)]
        engine_rate(policy, prompts, requests[:64], rows)
        stack.enter_context(busy_processes(arguments.busy))
        ours, theirs = alternately(arguments.repeats, baseline, lambda: engine_rate(policy, prompts, requests, rows))
    beside = f", beside {arguments.busy} busy processes" if arguments.busy else ""
    what = (
        f"{arguments.shape or Path(arguments.model).name}, {len(requests)} samples,"
        f" {arguments.new_tokens} new tokens{beside}"
    )
    Figure(f"generation, {what}", ours, theirs, unit, target, ceiling).show()


def check_exported(environment: Path, model: Path) -> None:
    """Exit if the model that `scripts/setup_openvino.sh` exported is not ours."""
    files = [model / "config.json", *sorted(model.glob("*.safetensors"))]
    if not files[0].exists():
        sys.exit(f"error: --against openvino needs a local --model, and {model} has no config.json")
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    recorded = environment / "model.sha256"
    if not recorded.exists() or recorded.read_text(encoding="ascii").strip() != digest.hexdigest():
        sys.exit(
            f"error: {environment}/model was not exported from {model} as it is now\n"
            f"  fix: scripts/setup_openvino.sh {environment} {model}"
        )


def parsed() -> argparse.Namespace:
    """The parsed and validated command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=MODEL, help=f"folder or hub id (default {MODEL})")
    parser.add_argument("--shape", choices=sorted(SHAPES), help="random weights of this shape instead of the model's")
    parser.add_argument("--new-tokens", type=int, default=256, help="limit of new tokens (default 256)")
    parser.add_argument("--prompts", type=int, default=64, help="prompts (default 64)")
    parser.add_argument("--samples", type=int, default=8, help="samples per prompt (default 8)")
    parser.add_argument("--repeats", type=int, default=1, help="alternations of both sides (default 1)")
    parser.add_argument("--rows", type=int, help="our rows in flight (default: what batch_size auto chooses)")
    parser.add_argument("--against", choices=AGAINST, default=AGAINST[0], help=f"the baseline (default {AGAINST[0]})")
    parser.add_argument("--openvino", type=Path, metavar="FOLDER", help="folder made by scripts/setup_openvino.sh")
    parser.add_argument("--vllm", metavar="PYTHON", help="Python interpreter of the environment that has vLLM")
    parser.add_argument("--busy", type=int, default=0, help="busy processes during both sides (default 0)")
    arguments = parser.parse_args()
    if min(arguments.new_tokens, arguments.prompts, arguments.samples, arguments.repeats) < 1 or arguments.busy < 0:
        parser.error("--new-tokens, --prompts, --samples and --repeats must be at least 1, --busy at least 0")
    if not Path(arguments.model).exists() and arguments.model == MODEL:
        sys.exit(f"error: {MODEL} is missing\n  fix: make model")
    if arguments.against == "vllm":
        if arguments.vllm is None:
            sys.exit("error: --against vllm needs a separate environment\n  fix: --vllm PYTHON, its interpreter")
        try:
            VllmSpec(python=arguments.vllm).check()
        except HaloForgeError as error:
            sys.exit(f"error: {error}")
    if arguments.against == "openvino":
        if arguments.shape is not None:
            parser.error("--against openvino uses an exported model, so --shape is not available")
        if arguments.openvino is None or not (arguments.openvino / "model/openvino_model.xml").exists():
            sys.exit(
                "error: --against openvino needs a separate environment\n"
                "  fix: scripts/setup_openvino.sh FOLDER, then --openvino FOLDER"
            )
        check_exported(arguments.openvino, Path(arguments.model))
    return arguments


def main() -> None:
    arguments = parsed()
    with tempfile.TemporaryDirectory(prefix="halo-forge-bench-") as name:
        model = (
            arguments.model if arguments.shape is None else random_model(arguments.shape, arguments.model, Path(name))
        )
        policy = Policy.load(ModelSection(model_name_or_path=model), LoraSection(), seed=0)
        trained_adapter(policy)
        try:
            compare(policy, arguments)
        except HaloForgeError as error:  # of a server
            sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
