"""The loss of one forward pass; imported late, because it needs torch."""

from __future__ import annotations

from typing import Any

import torch

from halo_forge.training._step_batch import Pass


def completion_loss(model: Any, batch: Pass, num_items: int, fused_head: bool = False) -> torch.Tensor:
    """Sum of the negative log-likelihood of the labelled tokens, in nats, over `num_items`.

    The output layer computes logits only where a label asks for them.  Prompts are longer than small models'
    completions, and the logits, (tokens, vocabulary), cost more time and memory than all layers below them.

    There is no attention mask.  Padding is on the right and attention is causal, so no real token attends to padding,
    and no label is on it; positions count from 0 at the left, with or without a mask.  Without one, torch uses its
    kernel for plain causal attention, which shares the keys and values of grouped heads; with one it would expand them.
    The model still applies its sliding window, if it has one.

    Args:
        model: A causal language model; any scaling that it applies to its logits is kept.
        batch: The tokens and labels of the pass.
        num_items: Labelled tokens of the whole optimizer step, which may take several passes.
        fused_head: Use TRL's loss, which holds the logits of only one tile of the vocabulary at a time; the model must
            have been prepared by TRL's trainer (`add_fused_lm_head`).

    Returns:
        A scalar in nats per labelled token of the optimizer step.
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
