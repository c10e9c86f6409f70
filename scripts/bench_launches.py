"""How many kernels a decode step and an optimizer step launch on a GPU, and how often the host waits for the GPU.

Counted on the simulated GPU of the tests, which needs g++ and no GPU: launches are operators that start a kernel, so a
real GPU launches a few more where one operator is several kernels.  Small steps on a GPU take as long as launching
their kernels.  The baselines are `generate` of transformers with the same rows, and a bare PyTorch LoRA step on the
same batches.

    python scripts/bench_launches.py [--model FOLDER | --tiny] [--rows 4 16] [--dtype bfloat16]

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _bench import Figure
from bench_training import bare_rate, make_rows, trainer_rate

from halo_forge.config.sections import LoraSection, ModelSection, TrainingSection
from halo_forge.core.records import Prompt, SampleRequest
from halo_forge.engines.transformers import TransformersEngine
from halo_forge.policy import Policy

sys.path.append(str(Path(__file__).parent.parent / "tests"))  # the simulated GPU, and the tiny model
if TYPE_CHECKING:
    from support.pretended_gpu import Counted

MODEL = "models/smollm2-135m-instruct"
MOST_WAITS, MOST_LAUNCHES = 1, 25
"""Limits for a decode step, and for one layer of it."""
WARM_UP, STEPS = 8, 8
"""Tokens before the counted ones, and the number of counted ones."""
TRAINING_STEPS = (2, 4)
"""The difference between the second and the first is counted."""
PROMPTS = {f"p{number}": Prompt(f"p{number}", ({"role": "user", "content": "add " * number},)) for number in (1, 3)}


@dataclass(frozen=True)
class DecodeStep:
    """The launches and waits of one decode step.

    Attributes:
        launches, waits: In the whole step.
        in_first, in_last: Launches of the first decoder layer, which also computes the rotary factors for all, and of
            the last.
        places: Where it waits: "kind file:line" -> how often.
    """

    launches: float
    waits: float
    in_first: float
    in_last: float
    places: dict[str, float]


def decode_step(policy: Policy, num_rows: int, **values: Any) -> DecodeStep:
    """One step of engine `transformers` with all rows in flight; `values` are the values of the requests."""
    sampled(policy, num_rows, 2, values)  # done once per model and number of rows
    short = sampled(policy, num_rows, WARM_UP, values)[0]
    found, layers = sampled(policy, num_rows, WARM_UP + STEPS, values)
    places = {" ".join(place): number / STEPS for place, number in (found.places - short.places).items()}
    launches, waits = ((getattr(found, name) - getattr(short, name)) / STEPS for name in ("launches", "waits"))
    return DecodeStep(launches, waits, *layers, places)


def sampled(
    policy: Policy, num_rows: int, num_tokens: int, values: dict[str, Any]
) -> tuple[Counted, tuple[float, float]]:
    """Counts of one call of the engine, and launches of the first and the last layer in a step."""
    from support.pretended_gpu import counted

    layers = policy.model.get_base_model().get_decoder().layers
    with (
        layer_launches(layers[0]) as first,
        layer_launches(layers[-1]) as last,
        counted(with_names=True) as found,
    ):
        sample_all(policy, num_rows, num_tokens, **values)
    return found, (max(first), max(last))


def sample_all(policy: Policy, num_rows: int, num_tokens: int, **values: Any) -> None:
    """One call of the engine, with all rows in flight, each of exactly this many tokens."""
    options: dict[str, Any] = {"temperature": 1.0, "top_p": 1.0, "top_k": None, **values}
    requests = [
        SampleRequest(f"p{1 + 2 * (number % 2)}", number, seed=number, max_new_tokens=num_tokens, **options)
        for number in range(num_rows)
    ]
    engine = TransformersEngine(policy, batch_size=num_rows, stop=())
    ends, policy.stop_ids = policy.stop_ids, frozenset({policy.end_of_turn_id + 10**6})  # no row ends early
    try:
        done = list(engine.sample(PROMPTS, requests, policy.version))
    finally:
        policy.stop_ids = ends
    assert all(len(each.token_ids) == num_tokens for each in done)


@contextmanager
def layer_launches(layer: Any) -> Iterator[list[int]]:
    """Launches of every call of a decoder layer with one position, during the block."""
    from support.pretended_gpu.device import plugin

    library, found, before = plugin(), [0], [0]

    def enter(layer: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        before[0] = library.count_of(0)

    def leave(layer: Any, arguments: tuple[Any, ...], options: dict[str, Any], output: Any) -> None:
        states = arguments[0] if arguments else options["hidden_states"]
        if states.shape[1] == 1:
            found.append(library.count_of(0) - before[0])

    hooks = [
        layer.register_forward_pre_hook(enter, with_kwargs=True),
        layer.register_forward_hook(leave, with_kwargs=True),
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def generate_step(policy: Policy, num_rows: int) -> float:
    """Launches of one decode step of `generate`."""
    import torch
    from support.pretended_gpu import counted

    ids = [policy.prompt_ids(PROMPTS["p3"])] * num_rows
    inputs = torch.tensor(ids, device=policy.device)
    launches = []
    for num_tokens in (WARM_UP, WARM_UP + STEPS):
        with torch.inference_mode(), counted() as found:
            policy.model.generate(
                input_ids=inputs,
                attention_mask=torch.ones_like(inputs),
                do_sample=True,
                min_new_tokens=num_tokens,
                max_new_tokens=num_tokens,
                pad_token_id=policy.tokenizer.pad_token_id,
            )
        launches.append(found.launches)
    return (launches[1] - launches[0]) / STEPS


Train = Callable[[Policy, TrainingSection, Sequence[Any], int], float]


def optimizer_step(policy: Policy, train: Train, *, batch: int = 4, **settings: Any) -> tuple[float, float]:
    """(launches, waits) of one optimizer step of `bench_training`'s trainer_rate or bare_rate."""
    from support.pretended_gpu import counted

    section = TrainingSection(per_device_train_batch_size=batch, **settings)
    counts = []
    for num_steps in TRAINING_STEPS:
        with counted() as found:
            train_steps(policy, train, section, num_steps)
        counts.append(found)
    one, other = counts
    steps = TRAINING_STEPS[1] - TRAINING_STEPS[0]
    return (other.launches - one.launches) / steps, (other.waits - one.waits) / steps


def train_steps(policy: Policy, train: Train, section: TrainingSection, num_steps: int) -> None:
    """This many optimizer steps on equal rows."""
    train(policy, section, make_rows(policy, 1) * (num_steps * section.per_device_train_batch_size), 1)


def load(folder: str, dtype: str) -> Policy:
    """The model on the simulated GPU."""
    from support.pretended_gpu import install

    install()
    return Policy.load(ModelSection(model_name_or_path=folder, dtype=dtype), LoraSection(), seed=0)


def show(policy: Policy, name: str, all_rows: Sequence[int]) -> None:
    """Print every number, and one result for each of the two steps."""
    steps = {num_rows: decode_step(policy, num_rows) for num_rows in all_rows}
    for num_rows, step in steps.items():
        print(
            f"decode step of {num_rows} rows: {step.launches:g} launches, {step.in_first:g} in the first layer and"
            f" {step.in_last:g} in the last; {step.waits:g} waits"
        )
        for place, number in sorted(step.places.items()):
            print(f"    {number:g} x {place}")
    first, last = steps[all_rows[0]], steps[all_rows[-1]]
    print(f"per additional row: {(last.launches - first.launches) / max(1, all_rows[-1] - all_rows[0]):g} launches")
    met = last.waits <= MOST_WAITS and last.in_first <= MOST_LAUNCHES and last.launches == first.launches
    print(f"ceilings: {MOST_WAITS} wait, {MOST_LAUNCHES} launches per layer, 0 per row: {'met' if met else 'MISSED'}")
    for checkpointing in (True, False):
        launches, waits = optimizer_step(policy, trainer_rate, gradient_checkpointing=checkpointing)
        print(f"optimizer step{', checkpointing' if checkpointing else ''}: {launches:g} launches, {waits:g} waits")
    bare = optimizer_step(policy, bare_rate)[0]
    Figure(f"launches of an optimizer step, {name}", [launches], [bare], "launches", less_is_better=True).show()
    baseline = generate_step(policy, all_rows[-1])
    words = f"launches of a decode step, {name}, {all_rows[-1]} rows"
    Figure(words, [last.launches], [baseline], "launches", less_is_better=True).show()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=MODEL, help=f"folder (default {MODEL})")
    parser.add_argument("--tiny", action="store_true", help="a generated model of 2 layers instead")
    parser.add_argument("--rows", type=int, nargs="+", default=[4, 16], help="rows in flight (default 4 16)")
    parser.add_argument("--dtype", default="bfloat16", help="dtype of the base weights (default bfloat16)")
    arguments = parser.parse_args()
    if min(arguments.rows) < 2:
        parser.error("--rows must be at least 2")
    with tempfile.TemporaryDirectory() as made:
        folder = arguments.model
        if arguments.tiny:
            from tiny_models import save_model

            folder = str(save_model(Path(made) / "tiny"))
        elif not Path(folder).exists():
            sys.exit(f"error: {folder} is missing\n  fix: make model, or --tiny")
        policy = load(folder, arguments.dtype)
    show(policy, Path(folder).name, arguments.rows)


if __name__ == "__main__":
    main()
