"""The 31 arguments of ``ops.encoder_layer``: tensors and options as named tuples, packed weights, offsets.

What could be properties are methods: torch.compile of torch 2.10 knows no properties of named tuples.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

__all__ = ["LayerCall", "LayerOptions", "LayerTensors"]


class LayerTensors(NamedTuple):
    """What a layer reads: its input, its mask and its parameters; shapes as ``ops.encoder_layer`` has them."""

    x: Tensor
    q_weight: Tensor
    q_bias: Tensor | None
    k_weight: Tensor
    k_bias: Tensor | None
    v_weight: Tensor
    v_bias: Tensor | None
    attention_mask: Tensor | None
    post_weight: Tensor
    post_bias: Tensor | None
    post_norm_weight: Tensor
    post_norm_bias: Tensor
    intermediate_weight: Tensor
    intermediate_bias: Tensor | None
    output_weight: Tensor
    output_bias: Tensor | None
    output_norm_weight: Tensor
    output_norm_bias: Tensor

    def attention(self) -> Any:
        """The tensors of ``ops.attention_block``, as a tuple."""
        return self[:8]

    def behind_attention(self) -> Any:
        """The tensors of ``ops.post_attention_block``, as a tuple, without the context and the residual."""
        return self[8:]


class LayerOptions(NamedTuple):
    """What a layer is besides its tensors."""

    num_heads: int
    q_groups: int = 1
    k_groups: int = 1
    v_groups: int = 1
    post_groups: int = 1
    intermediate_groups: int = 1
    output_groups: int = 1
    activation: str | None = "gelu"
    post_eps: float = 1e-12
    output_eps: float = 1e-12

    def attention(self) -> dict[str, Any]:
        """The options of ``ops.attention_block``."""
        return dict(zip(self._fields[:4], self[:4]))

    def behind_attention(self) -> dict[str, Any]:
        """The options of ``ops.post_attention_block``."""
        return dict(zip(self._fields[4:], self[4:]))

    def groups_behind_attention(self) -> dict[str, int]:
        """The groups of the three convolutions of ``ops.post_attention_block``."""
        return dict(zip(self._fields[4:7], self[4:7]))


class LayerCall(NamedTuple):
    """One call of ``ops.encoder_layer``."""

    tensors: LayerTensors
    attention_packed: Tensor | None
    post_packed: Tensor | None
    options: LayerOptions
    offsets: Tensor | None = None

    @classmethod
    def bind(cls, *arguments: Any, **named: Any) -> LayerCall:
        """From ``arguments`` in the order of the schema, and ``named`` ones."""
        if not named:  # as torch's dispatcher calls: in little time
            tensors, options = LayerTensors._make(arguments[:18]), LayerOptions(*arguments[20:30])
            return cls(tensors, arguments[18], arguments[19], options, *arguments[30:])
        given = dict(zip(ORDER, arguments), **named)
        tensors = LayerTensors(**{name: given.pop(name) for name in LayerTensors._fields if name in given})
        options = LayerOptions(**{name: given.pop(name) for name in LayerOptions._fields if name in given})
        return cls(tensors, given.pop("attention_packed", None), given.pop("post_packed", None), options, **given)

    def in_order(self) -> tuple[Any, ...]:
        """The arguments in the order of the schema."""
        return (*self.tensors, self.attention_packed, self.post_packed, *self.options, self.offsets)


ORDER = (*LayerTensors._fields, "attention_packed", "post_packed", *LayerOptions._fields, "offsets")
"""The names of the arguments in the order of the schema."""
