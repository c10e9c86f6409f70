"""The policy: base weights loaded once, one LoRA adapter on top, sampled from and trained in the same memory.

    model.py     the model in memory
    adapter.py   the adapter on it: made from a seed, or loaded and checked
    merged.py    the adapter added to the weights, as a plain model folder
    heap.py      freed memory: kept while sampling, given back for training
    quantized.py base weights in 4 bits
    packed.py    weights laid out for a CPU's matrix products, while nothing is trained
    turns.py     the chat template: what a prompt looks like, and which token ends an answer
    files.py     what can be found out about model and adapter folders before torch is imported

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
