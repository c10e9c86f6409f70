"""The learning rate within one cycle: the number of optimizer steps, and the share of the peak that each step uses.

The preview and the optimizer both call these functions, so the preview shows what is applied.  Steps are numbered
t = 0 .. N-1.  No step has the factor 0: a warm-up that starts at 0 wastes the first of very few steps
(transformers issue 34754).

The types have the names of transformers' `lr_scheduler_type`.  `warmup_stable_decay` is the shape that papers and the
schedules across cycles call `wsd`: each place uses the name that its readers know.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, get_args

LrSchedulerType = Literal["constant", "linear", "cosine", "cosine_with_restarts", "polynomial", "warmup_stable_decay"]

# The settings of each shape, with their defaults; any other setting is an error.
SHAPE_SETTINGS: Mapping[LrSchedulerType, Mapping[str, float]] = {
    "constant": {},
    "linear": {"final_ratio": 0.0},
    "cosine": {"final_ratio": 0.0},
    "cosine_with_restarts": {"num_cycles": 1},
    "polynomial": {"power": 1.0, "final_ratio": 0.0},
    "warmup_stable_decay": {"decay_fraction": 0.3, "final_ratio": 0.0},
}

# The allowed values of each setting.  The upper limit of `power` keeps the factor of the last step far above the
# smallest float for any practical number of steps.
_RANGES: Mapping[str, tuple[str, Callable[[float], bool]]] = {
    "final_ratio": ("in [0, 1]", lambda value: 0.0 <= value <= 1.0),
    "num_cycles": ("a whole number of at least 1", lambda value: value >= 1 and float(value).is_integer()),
    "power": ("above 0 and at most 10", lambda value: 0.0 < value <= 10.0),
    "decay_fraction": ("in [0, 1]", lambda value: 0.0 <= value <= 1.0),
}


def num_optimizer_steps(
    num_rows: int, num_train_epochs: float, per_device_train_batch_size: int, gradient_accumulation_steps: int
) -> int:
    """Optimizer steps of one training: `ceil(E * ceil(ceil(n / b) / g))`; 0 without rows.

    The same count as in transformers' `Trainer.set_initial_training_values` (one device, no `max_steps`, last batch
    kept): each epoch ends with a step, however few batches it has, and a fractional epoch is rounded up to whole steps.

    Raises:
        ValueError: A negative number of rows, or another argument that is not positive.
    """
    if num_rows < 0:
        raise ValueError(f"num_rows is {num_rows}; it must be at least 0")
    if not (math.isfinite(num_train_epochs) and num_train_epochs > 0):
        raise ValueError(f"num_train_epochs is {num_train_epochs}; it must be above 0")
    if per_device_train_batch_size < 1 or gradient_accumulation_steps < 1:
        raise ValueError(
            f"per_device_train_batch_size is {per_device_train_batch_size} and gradient_accumulation_steps is "
            f"{gradient_accumulation_steps}; both must be at least 1"
        )
    num_batches = -(-num_rows // per_device_train_batch_size)
    return math.ceil(num_train_epochs * -(-num_batches // gradient_accumulation_steps))


def clamp_warmup(requested: int, num_steps: int) -> int:
    """The warm-up steps that are used: at most a fifth of the steps, so none below 5 steps.

    Raises:
        ValueError: A negative argument.
    """
    if requested < 0 or num_steps < 0:
        raise ValueError(f"found {requested} warm-up steps of {num_steps} steps; neither can be negative")
    return min(requested, num_steps // 5)


def learning_rate_factors(
    lr_scheduler_type: LrSchedulerType, num_steps: int, warmup_steps: int = 0, **settings: float
) -> list[float]:
    """The share of the peak learning rate that each step uses: `num_steps` numbers in (0, 1].

    Warm-up, for every shape: `(t+1) / (w+1)`.  After it, with `r = (N-t) / (N-w)`, which falls from 1 to
    `1 / (N-w)`, and `f = final_ratio`:

    - constant: 1;
    - linear: `f + (1-f) r`;
    - cosine: `f + (1-f) (1 - cos(pi r)) / 2`;
    - cosine_with_restarts: the cosine, `num_cycles` times in a row (at most once per step), down to 0;
    - polynomial: `f + (1-f) r^power`;
    - warmup_stable_decay: 1, then linear over the last `ceil(decay_fraction * N)` steps (at most all after warm-up).

    The decaying parts equal those of transformers' schedulers of the same names, whose last step is also above 0; the
    warm-up, which starts at 0 there, and the linear decay of warmup_stable_decay (a cosine there) differ.

    Raises:
        ValueError: Unknown type, a setting that the type does not have or that is out of range, or a warm-up that
            leaves no step at the peak (see `clamp_warmup`).
    """
    if num_steps < 0 or warmup_steps < 0:
        raise ValueError(f"found {warmup_steps} warm-up steps of {num_steps} steps; neither can be negative")
    shape = _checked_settings(lr_scheduler_type, settings)
    if num_steps == 0:
        return []
    if warmup_steps >= num_steps:
        raise ValueError(f"{warmup_steps} warm-up steps leave none of the {num_steps} steps at the peak")
    num_after = num_steps - warmup_steps
    warmup = [(step + 1) / (warmup_steps + 1) for step in range(warmup_steps)]
    final_ratio = shape.get("final_ratio", 0.0)
    fallen = _fall(lr_scheduler_type, num_after, num_steps, shape)
    return warmup + [min(1.0, final_ratio + (1.0 - final_ratio) * factor) for factor in fallen]


def learning_rate_mass(peak: float, factors: Sequence[float]) -> float:
    """The learning-rate mass `L_c`: the sum of the learning rates of all steps."""
    return peak * math.fsum(factors)


def peak_of_mass(mass: float, factors: Sequence[float]) -> float:
    """The peak learning rate at which steps with these factors have the learning-rate mass `mass`; 0.0 without steps.

    The mass does not depend on how many rows a cycle keeps: with fewer steps the peak is higher.
    """
    total = math.fsum(factors)
    return mass / total if total > 0.0 else 0.0


def _checked_settings(lr_scheduler_type: LrSchedulerType, settings: Mapping[str, float]) -> dict[str, float]:
    if lr_scheduler_type not in SHAPE_SETTINGS:
        allowed = ", ".join(get_args(LrSchedulerType))
        raise ValueError(f"lr_scheduler_type is {lr_scheduler_type!r}; it must be one of {allowed}")
    defaults = SHAPE_SETTINGS[lr_scheduler_type]
    unknown = sorted(settings.keys() - defaults.keys())
    if unknown:
        allowed = ", ".join(defaults) if defaults else "no settings"
        raise ValueError(f"lr_scheduler_type {lr_scheduler_type} has no setting {', '.join(unknown)}; it has {allowed}")
    shape = {**defaults, **settings}
    for name, value in shape.items():
        allowed, holds = _RANGES[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not holds(value):
            raise ValueError(f"{name} is {value!r}; it must be {allowed}")
    return shape


def _fall(
    lr_scheduler_type: LrSchedulerType, num_after: int, num_steps: int, shape: Mapping[str, float]
) -> list[float]:
    """The factors after the warm-up, with a final ratio of 0."""
    remaining = [(num_after - step) / num_after for step in range(num_after)]
    match lr_scheduler_type:
        case "constant":
            return [1.0] * num_after
        case "linear":
            return remaining
        case "cosine":
            return [_cosine(rest) for rest in remaining]
        case "cosine_with_restarts":
            num_waves = min(int(shape["num_cycles"]), num_after)
            # In integers, so that a restart is exactly at 1 and not just before the end of its wave.
            return [_cosine((num_after - num_waves * step % num_after) / num_after) for step in range(num_after)]
        case "polynomial":
            return [rest ** shape["power"] for rest in remaining]
        case "warmup_stable_decay":
            num_decay = min(num_after, math.ceil(shape["decay_fraction"] * num_steps - 1e-9))
            return [1.0] * (num_after - num_decay) + [(num_decay - step) / num_decay for step in range(num_decay)]


def _cosine(rest: float) -> float:
    """`(1 - cos(pi rest)) / 2` as a square, which does not round to 0 for a small rest."""
    return math.sin(0.5 * math.pi * rest) ** 2


class SftSettings(Protocol):
    """The `training` section of the configuration, as far as the plan, the preview and the trainers read it."""

    @property
    def lr_scheduler_type(self) -> LrSchedulerType: ...
    @property
    def lr_scheduler_kwargs(self) -> Mapping[str, Any]: ...
    @property
    def warmup_steps(self) -> int: ...
    @property
    def per_device_train_batch_size(self) -> int: ...
    @property
    def max_tokens_per_pass(self) -> int | Literal["auto"]: ...
    @property
    def gradient_checkpointing(self) -> bool | Literal["auto"]: ...


def planned_factors(
    settings: SftSettings, num_rows: int, num_train_epochs: float, gradient_accumulation_steps: int
) -> list[float]:
    """The factor on the cycle's learning rate at each of its optimizer steps; the preview and the optimizer use it."""
    num_steps = num_optimizer_steps(
        num_rows, num_train_epochs, settings.per_device_train_batch_size, gradient_accumulation_steps
    )
    warmup_steps = clamp_warmup(settings.warmup_steps, num_steps)
    return learning_rate_factors(settings.lr_scheduler_type, num_steps, warmup_steps, **settings.lr_scheduler_kwargs)
