"""The sizes of a decoder's layers, and what a training pass through them needs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_LABELLED = 0.5
"""The assumed share of labelled tokens in a row; the rest is its prompt."""
_TILE = 32_768
"""Vocabulary entries whose logits TRL's fused head holds at once."""


@dataclass(frozen=True)
class ModelShape:
    """A Llama-like decoder.

    Attributes:
        query_size: Size of the queries of all heads together.
        key_value_size: Size of the keys of all heads together; the values have the same size.
        tied: Embedding and output layer share one matrix.
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
        """The shape according to a config.json; None for an architecture with other keys, or sizes below 1."""
        if config is None:
            return None
        try:
            hidden, heads = config["hidden_size"], config["num_attention_heads"]
            head = config.get("head_dim")
            head = hidden // heads if head is None else head
            found = cls(
                hidden,
                config["intermediate_size"],
                config["num_hidden_layers"],
                heads * head,
                config.get("num_key_value_heads", heads) * head,
                config["vocab_size"],
                bool(config.get("tie_word_embeddings", False)),
            )
        except (KeyError, TypeError, ZeroDivisionError):
            return None
        sizes = (getattr(found, each.name) for each in dataclasses.fields(found))
        return found if all(isinstance(size, int) and (size > 0 or size is False) for size in sizes) else None

    @property
    def num_parameters(self) -> int:
        """The number of weights in the matrices, without biases and norms."""
        layer = 2 * self.hidden_size * (self.query_size + self.key_value_size)
        layer += 3 * self.hidden_size * self.intermediate_size
        return (1 if self.tied else 2) * self.vocab_size * self.hidden_size + self.num_layers * layer

    @property
    def adapter_rank_size(self) -> int:
        """Weights per rank of an adapter on every linear layer: the sum of all input and output sizes."""
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
"""(largest number of parameters, shape): SmolLM2-135M, and Qwen2.5 with 0.5, 1.5, 3, 7, 14 and 32 billion."""


def typical_shape(num_parameters: int) -> ModelShape:
    """The assumed shape of a model whose number of parameters alone is known."""
    return next(shape for most, shape in _TYPICAL if num_parameters <= most)


@dataclass(frozen=True)
class ModelSize:
    """How large a model is.

    Attributes:
        shape: None if only the number of parameters is known.
        element_bytes: Bytes of one activation value: 2 in bfloat16, 4 in float32.
    """

    num_parameters: int
    shape: ModelShape | None = None
    element_bytes: int = 2

    def activation_bytes(self, *, checkpointing: bool = False, fused_head: bool = False) -> int:
        """Bytes per token of a training pass, with LoRA on every linear layer and frozen base weights.

        With the sizes above (h hidden, m intermediate, q queries, k keys), e bytes per value and V vocabulary entries,
        a layer keeps for its backward pass: the inputs of both norms in float32, 8 h bytes; the inputs of the adapters
        and of attention, 2 h + 2 q + 2 k values; gate, its activation, up and their product, 4 m values.  That is
        8 h + e (2 h + 2 q + 2 k + 4 m) bytes per layer, plus one layer that is being computed.  With checkpointing each
        layer keeps only its input, e h.  A labelled token also has logits: cross entropy holds their log-probabilities
        and two gradients in float32, 12 V bytes; the fused head those of a tile, and 4 h.

        On the simulated GPU SmolLM2-135M's layers took 0.77 (bfloat16) and 1.36 MB (float32) a token in a pass of 256,
        where this gives 0.69 and 1.24 (the measured values include a part that does not grow with the tokens), and the
        logits 11.6 V bytes.
        """
        shape = typical_shape(self.num_parameters) if self.shape is None else self.shape
        hidden, each = shape.hidden_size, self.element_bytes
        inputs = 2 * (hidden + shape.query_size + shape.key_value_size)
        layer = 8 * hidden + each * (inputs + 4 * shape.intermediate_size)
        layers = shape.num_layers * (each * hidden if checkpointing else layer) + layer
        logits = each * min(_TILE, shape.vocab_size) + 4 * hidden if fused_head else 12 * shape.vocab_size
        return int(layers + _LABELLED * logits)
