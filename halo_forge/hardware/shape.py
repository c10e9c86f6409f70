"""The sizes of a decoder's layers, and what a training pass through them needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_LABELLED = 0.5
"""The share of a row's tokens that the loss falls on; the rest is its prompt."""
_TILE = 32_768
"""Words of the vocabulary whose logits TRL's fused head holds at once."""


@dataclass(frozen=True)
class ModelShape:
    """A Llama-like decoder.

    Attributes:
        query_size: Of all heads together.
        key_value_size: Of all keys of a token, and as much again of its values.
        tied: Embedding and output layer are one matrix.
    """

    hidden_size: int
    intermediate_size: int
    num_layers: int
    query_size: int
    key_value_size: int
    vocab_size: int
    tied: bool = False

    @classmethod
    def of(cls, config: Mapping[str, Any] | None) -> ModelShape | None:
        """The shape that a config.json tells; None for a kind of model whose keys are others."""
        if config is None:
            return None
        try:
            hidden, heads = config["hidden_size"], config["num_attention_heads"]
            head = config.get("head_dim")
            head = hidden // heads if head is None else head
            return cls(
                hidden,
                config["intermediate_size"],
                config["num_hidden_layers"],
                heads * head,
                config.get("num_key_value_heads", heads) * head,
                config["vocab_size"],
                bool(config.get("tie_word_embeddings", False)),
            )
        except (KeyError, TypeError):
            return None

    @property
    def num_parameters(self) -> int:
        """Those of the matrices: no biases and no norms."""
        layer = 2 * self.hidden_size * (self.query_size + self.key_value_size)
        layer += 3 * self.hidden_size * self.intermediate_size
        return (1 if self.tied else 2) * self.vocab_size * self.hidden_size + self.num_layers * layer

    @property
    def adapter_rank_size(self) -> int:
        """Weights of an adapter on every linear layer for each rank: inputs and outputs of all of them."""
        ends = 4 * self.hidden_size + 2 * (self.query_size + self.key_value_size)
        return self.num_layers * (ends + 3 * (self.hidden_size + self.intermediate_size))


_TYPICAL = (
    (0.25e9, ModelShape(576, 1536, 30, 576, 192, 49_152)),
    (0.9e9, ModelShape(896, 4864, 24, 896, 128, 151_936)),
    (2.2e9, ModelShape(1536, 8960, 28, 1536, 256, 151_936)),
    (4.5e9, ModelShape(2048, 11_008, 36, 2048, 256, 151_936)),
    (10e9, ModelShape(3584, 18_944, 28, 3584, 512, 152_064)),
    (20e9, ModelShape(5120, 13_824, 48, 5120, 1024, 152_064)),
    (float("inf"), ModelShape(5120, 27_648, 64, 5120, 1024, 152_064)),
)
"""SmolLM2-135M and Qwen2.5 of 0.5, 1.5, 3, 7, 14 and 32 billion parameters, by the most that each stands for."""


def typical_shape(num_parameters: int) -> ModelShape:
    """A shape for a model of which only the size is known."""
    return next(shape for most, shape in _TYPICAL if num_parameters <= most)


@dataclass(frozen=True)
class ModelSize:
    """How large a model is.

    Attributes:
        shape: None where only the number of parameters is known.
        element_bytes: Of one number of its activations: 2 in bfloat16, 4 in float32.
    """

    num_parameters: int
    shape: ModelShape | None = None
    element_bytes: int = 2

    def activation_bytes(self, *, checkpointing: bool = False, fused_head: bool = False) -> int:
        """Memory that one token of a training pass takes: LoRA on every linear layer of frozen base weights.

        With h, m, q, k for the sizes above, e bytes a number and V words, a layer keeps for its gradients: the input
        of both norms in float32, 8 h; the inputs of the adapters and of attention, 2 h + 2 q + 2 k; gate, its
        activation, up and their product, 4 m.  That is 8 h + e (2 h + 2 q + 2 k + 4 m), times layers; one layer more is
        at work.  With checkpointing each layer keeps its input alone, e h.  A labelled token has logits: in cross
        entropy their logarithms and two gradients, 12 V; with the fused head those of a tile, and 4 h.

        On the pretended GPU SmolLM2-135M's layers took 0.77 (bfloat16) and 1.36 MB (float32) a token in a pass of 256,
        where this gives 0.69 and 1.24 (what does not grow with the tokens is in the first), and logits 11.6 V.
        """
        shape = typical_shape(self.num_parameters) if self.shape is None else self.shape
        hidden, each = shape.hidden_size, self.element_bytes
        inputs = 2 * (hidden + shape.query_size + shape.key_value_size)
        layer = 8 * hidden + each * (inputs + 4 * shape.intermediate_size)
        layers = shape.num_layers * (each * hidden if checkpointing else layer) + layer
        logits = each * min(_TILE, shape.vocab_size) + 4 * hidden if fused_head else 12 * shape.vocab_size
        return int(layers + _LABELLED * logits)
