"""How long a cycle takes, by arithmetic: good within a factor of two or three, so that a run is not sized wildly wrong.

Nothing here is measured on the machine.  Once a run has done one cycle, its own progress says what is left.
"""

from __future__ import annotations

from dataclasses import dataclass

from halo_forge.hardware import LEAST_TOKENS, ModelShape, ModelSize, Profile

_LAUNCHES_PER_LAYER, _LAUNCH_SECONDS = 25, 7.5e-6
"""Kernels that a decoding step starts for each layer (docs/HARDWARE_NOTES.md), and the time each takes to start."""
_OF_THE_LIMIT = 0.5
"""The share of the arithmetic limit that decoding is assumed to reach: rows end early, batches are not full."""
_CHECK_SECONDS = 0.1
"""Processor seconds for compiling and running a program."""
_TRAINING_FLOPS, _RECOMPUTING_FLOPS = 4.0, 6.0
"""Operations per parameter and token of a training pass with frozen weights, without and with activation
checkpointing."""
_DRIFT, _OVERHEAD_SECONDS = 1.1, 15.0
"""What drift measurements add, and what every cycle takes besides: moving weights, saving, checking kept samples."""
_AT_THE_END = 3
"""Versions that the test prompts are measured for: the start model, the chosen one and the last one."""


@dataclass(frozen=True)
class Speed:
    """What a machine is assumed to do.

    Attributes:
        bandwidth: Bytes per second from memory.
        flops: Operations per second in the large products of training.
        launches: A step waits for kernels to be started.
        processors: Programs that are checked at the same time.
        basis: Where the figures come from, in words.
    """

    bandwidth: float
    flops: float
    launches: bool
    processors: int
    basis: str


def speed_of(profile: str, processors: int, dtype: str) -> Speed:
    """The speed of a kind of machine.

    Args:
        profile: As `hardware.profile` names it.
        processors: Processors of the machine, as far as they are known.
        dtype: Of the base weights.
    """
    workers = max(1, processors - (0 if profile == "cpu" else 2))
    if profile == "cpu":
        each = 47e9 if dtype == "bfloat16" else 20e9
        origin = "as in the demo, measured" if dtype == "bfloat16" else "assumed"
        basis = f"{each / 1e9:.0f} GFLOP/s for each of {processors} processors in {dtype} ({origin})"
        return Speed(20e9, each * processors, False, workers, basis)
    if profile == "gfx1151":
        return Speed(215e9, 20e12, True, workers, "215 GB/s and 20 TFLOP/s (published for gfx1151, not measured here)")
    flops = 40e12 if profile == "cuda" else 25e12
    basis = f"600 GB/s and {flops / 1e12:.0f} TFLOP/s (assumed: a mid-range card; scale it to yours)"
    return Speed(600e9, flops, True, workers, basis)


@dataclass(frozen=True)
class Work:
    """What one cycle does.

    Attributes:
        train_samples, dev_samples: Completions that are sampled.
        rows: The most sampled at the same time.
        prompt_tokens, completion_tokens: Mean lengths.
        kept: Rows that are trained on.
        checkpointing: Training recomputes activations.
    """

    train_samples: int
    dev_samples: int
    rows: int
    prompt_tokens: float
    completion_tokens: float
    kept: int
    checkpointing: bool = False


def sampling_seconds(shape: ModelShape, speed: Speed, work: Work, num_samples: int) -> float:
    """Time to sample and check so many completions.

    A decoding step reads the weights once and each row's keys and values, and computes 2 operations per parameter and
    row; on a GPU it also starts its kernels.  Checking goes on meanwhile, except on a CPU.
    """
    if num_samples == 0:
        return 0.0
    rows = min(work.rows, num_samples)
    cache = 4 * shape.num_layers * shape.key_value_size * (work.prompt_tokens + work.completion_tokens)
    memory = (2 * shape.num_parameters + rows * cache) / speed.bandwidth
    step = max(memory, 2 * shape.num_parameters * rows / speed.flops)
    if speed.launches:
        step = max(step, shape.num_layers * _LAUNCHES_PER_LAYER * _LAUNCH_SECONDS)
    else:
        # The measured speed of a CPU is that of whole cycles, so it has no limit to fall short of.
        step *= _OF_THE_LIMIT
    decoding = step * work.completion_tokens * num_samples / rows / _OF_THE_LIMIT
    checking = num_samples * _CHECK_SECONDS / speed.processors
    return max(decoding, checking) if speed.launches else decoding + checking


def cycle_seconds(shape: ModelShape, speed: Speed, work: Work) -> float:
    """Time of one cycle: sampling train and dev prompts, checking, training."""
    sampling = sampling_seconds(shape, speed, work, work.train_samples + work.dev_samples)
    tokens = work.kept * (work.prompt_tokens + work.completion_tokens)
    each = _RECOMPUTING_FLOPS if work.checkpointing else _TRAINING_FLOPS
    return _OVERHEAD_SECONDS + _DRIFT * (sampling + tokens * each * shape.num_parameters / speed.flops)


def run_seconds(shape: ModelShape, speed: Speed, work: Work, num_cycles: int, test_samples: int) -> float:
    """Time of a whole run, with its final evaluation.

    Args:
        test_samples: Completions for the test prompts, of one version.
    """
    final = sampling_seconds(shape, speed, work, work.dev_samples + _AT_THE_END * test_samples)
    return num_cycles * cycle_seconds(shape, speed, work) + _DRIFT * final


def least_memory_bytes(size: ModelSize, profile: Profile, rank: int) -> int:
    """Memory of the weights, of the adapter with its optimizer, and of the smallest training pass.

    16 bytes for each weight of the adapter: float32, with gradient and AdamW's two moments (docs/HARDWARE_NOTES.md).
    Passes are made larger, and more rows sampled together, where there is more memory.

    Args:
        rank: Of the adapter.
    """
    shape = size.shape
    assert shape is not None
    activations = size.activation_bytes(checkpointing=True, fused_head=profile.takes_fused_head())
    weights = size.num_parameters * size.element_bytes
    return weights + 16 * rank * shape.adapter_rank_size + LEAST_TOKENS * activations
