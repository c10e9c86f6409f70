"""The loss of a batch; imported late, because it needs torch."""

from __future__ import annotations

from typing import Any

import torch


def completion_loss(model: Any, inputs: dict[str, Any], num_items: Any) -> torch.Tensor:
    """Mean negative log-likelihood of the labelled tokens, in nats.

    The output layer computes logits only where a label asks for them.  Prompts are longer than small models' answers,
    and the logits, (tokens, vocabulary), cost more time and memory than all layers below them.

    Args:
        model: A causal language model; its own scaling of logits is kept.
        inputs: `input_ids` and `attention_mask`, (rows, length), and `labels`, -100 where there is none.
        num_items: Labelled tokens of the whole optimizer step, which gradient accumulation spreads over several
            batches; None counts those of this batch.
    """
    labels = inputs["labels"]
    # The state at a position predicts the token after it.
    asked = torch.zeros_like(labels, dtype=torch.bool)
    asked[:, :-1] = labels[:, 1:] != -100

    def only_asked(layer: Any, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (arguments[0][asked][None], *arguments[1:])

    hook = model.get_output_embeddings().register_forward_pre_hook(only_asked)
    try:
        output = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False)
    finally:
        hook.remove()
    targets = labels[:, 1:][asked[:, :-1]]
    total = torch.nn.functional.cross_entropy(output.logits[0].float(), targets, reduction="sum")
    return total / (targets.numel() if num_items is None else num_items)
