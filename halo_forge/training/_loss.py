"""The loss of a pass; imported late, because it needs torch."""

from __future__ import annotations

from typing import Any

import torch

from halo_forge.training._step_batch import Pass


def completion_loss(model: Any, batch: Pass, num_items: int, fused_head: bool = False) -> torch.Tensor:
    """Sum of the negative log-likelihood of the labelled tokens, in nats, over `num_items`.

    The output layer computes logits only where a label asks for them.  Prompts are longer than small models'
    completions, and the logits, (tokens, vocabulary), cost more time and memory than all layers below them.

    There is no attention mask.  Padding is on the right and attention is causal, so no real token sees it, and what
    padding computes for itself goes into no loss; positions count from 0 at the left, with a mask or without.  Without
    one, attention takes its kernel for plain causal attention, which shares the keys of grouped heads; for a mask it
    would spread out both.  A sliding window is laid over it by the model all the same.

    Args:
        model: A causal language model; its own scaling of logits is kept.
        num_items: Labelled tokens of the whole optimizer step, which may take several passes.
        fused_head: Take TRL's loss, which never holds the logits of more than a tile; the model is one that TRL's
            trainer has prepared (`add_fused_lm_head`).
    """
    if fused_head:
        return _fused_loss(model, batch) / num_items

    def only_labelled(layer: Any, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (arguments[0].flatten(0, 1)[batch.positions][None], *arguments[1:])

    hook = model.get_output_embeddings().register_forward_pre_hook(only_labelled)
    try:
        output = model(input_ids=batch.input_ids, use_cache=False)
    finally:
        hook.remove()
    return torch.nn.functional.cross_entropy(output.logits[0].float(), batch.targets, reduction="sum") / num_items


def _fused_loss(model: Any, batch: Pass) -> torch.Tensor:
    def only_labelled(layer: Any, arguments: Any, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state.flatten(0, 1)[batch.positions][None]
        return output

    # Not the decoder's name: this is the layer stack that TRL's forward calls.
    hook = model.get_base_model().base_model.register_forward_hook(only_labelled)
    try:
        output = model(input_ids=batch.input_ids, use_cache=False, shift_labels=batch.targets[None], fused_lm_head=True)
    finally:
        hook.remove()
    log_probabilities: torch.Tensor = output.log_probs
    return -log_probabilities.sum()
