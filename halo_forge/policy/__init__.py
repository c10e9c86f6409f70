"""The policy: base weights loaded once, one LoRA adapter on top, sampled from and trained in the same memory.

    model.py          the model in memory
    adapter.py        the adapter on it: initialised from a seed, or loaded and checked
    merged.py         the adapter added to the weights, as a plain model folder
    chat_template.py  what messages look like at a fixed date, and which token ends a completion
    rendering.py      prompts as the model sees them, each rendered once
    local_template.py the same from the files of a model folder, as text; jinja.py is the language of templates
    drift_probe.py    what one version makes of another's completions, token by token
    packed.py         weights laid out for a CPU's matrix products, while nothing is trained
    grouped.py        linear layers as fewer kernels on a GPU, while nothing is trained
    forwards.py       replaces the forward of modules for a while
    threads.py        as many threads as processors are idle
    heap.py           freed memory: kept while sampling, returned for training
    quantized.py      base weights in 4 bits
    device.py         the hardware profile once torch has been asked, and torch's own memory limit
    files.py          what can be learned about model and adapter folders before torch is imported

torch, transformers and peft are imported inside functions: nothing here costs anything until a model is needed.
"""

from __future__ import annotations

from halo_forge.policy.adapter import fused_adapter, moved_together
from halo_forge.policy.files import (
    ADAPTER_FILES,
    OPTIMIZER_FILE,
    adapter_digest,
    check_local,
    disk_full_is_os_error,
    explained,
    file_digest,
)
from halo_forge.policy.merged import save_merged
from halo_forge.policy.model import Policy, resolve_dtype
from halo_forge.policy.quantized import check_quantization

__all__ = [
    "ADAPTER_FILES",
    "OPTIMIZER_FILE",
    "Policy",
    "adapter_digest",
    "check_local",
    "check_quantization",
    "disk_full_is_os_error",
    "explained",
    "file_digest",
    "fused_adapter",
    "moved_together",
    "resolve_dtype",
    "save_merged",
]
