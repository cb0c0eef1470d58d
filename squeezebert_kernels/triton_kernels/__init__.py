"""The ops on CUDA devices, as Triton kernels.

Functions of the names and signatures of :mod:`squeezebert_kernels.ops`, for float32, float16 and bfloat16 tensors on a
GPU of compute capability 8.0 or more (or anywhere under TRITON_INTERPRET=1). Products are summed, and softmax,
LayerNorm and activations computed, in float32. float32 is multiplied as three TF32 products, whose error is that of
float32; as one where ``torch.backends.cuda.matmul.allow_tf32``. Arguments are taken as they come: the functions of
``ops`` check them. ``packed`` is ignored, weights are read as they are.

A layer is five kernels: attention with its projections (two kernels where sequences have over 128 tokens, in float32
over 32, or where there are few of them); the convolution behind it, with the residual; LayerNorm; the feed-forward
network, with its residual (two kernels for few tokens); LayerNorm. Why five and not two: docs/gpu.md. Training has
kernels of its own: ``training.py``.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..layer_arguments import LayerCall, LayerOptions, LayerTensors
from . import configs, launchers
from .training import (
    attention_block_backward,
    attention_block_train,
    dropout_factors,
    grouped_pointwise_conv_backward,
    post_attention_block_backward,
    post_attention_block_train,
)

__all__ = [
    "attention_block",
    "attention_block_backward",
    "attention_block_train",
    "configs",
    "dropout_factors",
    "encoder_layer",
    "grouped_pointwise_conv",
    "grouped_pointwise_conv_backward",
    "grouped_pointwise_conv_layer_norm",
    "layer",
    "post_attention_block",
    "post_attention_block_backward",
    "post_attention_block_train",
]


def grouped_pointwise_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    groups: int = 1,
    activation: str | None = None,
    packed: Tensor | None = None,
) -> Tensor:
    """:func:`squeezebert_kernels.ops.grouped_pointwise_conv`."""
    return launchers.conv(x, weight, bias, groups, activation or "none")


def grouped_pointwise_conv_layer_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    groups: int = 1,
    eps: float = 1e-12,
    packed: Tensor | None = None,
) -> Tensor:
    """:func:`squeezebert_kernels.ops.grouped_pointwise_conv_layer_norm`."""
    z = launchers.conv_residual(x, weight, bias, residual, groups)
    return launchers.layer_norm(z, norm_weight, norm_bias, eps)


def attention_block(
    x: Tensor,
    q_weight: Tensor,
    q_bias: Tensor | None,
    k_weight: Tensor,
    k_bias: Tensor | None,
    v_weight: Tensor,
    v_bias: Tensor | None,
    attention_mask: Tensor | None = None,
    num_heads: int = 1,
    q_groups: int = 1,
    k_groups: int = 1,
    v_groups: int = 1,
    packed: Tensor | None = None,
    offsets: Tensor | None = None,
) -> Tensor:
    """:func:`squeezebert_kernels.ops.attention_block`."""
    weights, biases, groups = (q_weight, k_weight, v_weight), (q_bias, k_bias, v_bias), (q_groups, k_groups, v_groups)
    sequences, length = _sequences(x, attention_mask, offsets)
    if offsets is not None:
        offsets = offsets.to(x.device)
    if launchers.can_be_one_kernel(weights, groups, num_heads, sequences, length):
        return launchers.attention(x, weights, biases, attention_mask, num_heads, q_groups, offsets, sequences, length)
    q, k, v = launchers.project(x, weights, biases, groups)
    out = x.new_empty((*x.shape[:-1], q.shape[-1]))
    launchers.flash(q, k, v, attention_mask, num_heads, offsets, sequences, length, out)
    return out


def _sequences(x: Tensor, mask: Tensor | None, offsets: Tensor | None) -> tuple[int, int]:
    """The number of sequences, and a bound of their lengths."""
    if offsets is None:
        return x.shape[0], x.shape[1]
    if mask is not None:
        return offsets.shape[0] - 1, min(mask.shape[-1], x.shape[0])  # that of the padded batch
    longest = int(offsets.diff().max()) if offsets.shape[0] > 1 else 0
    return offsets.shape[0] - 1, max(0, min(longest, x.shape[0]))


def post_attention_block(
    context: Tensor,
    residual: Tensor,
    post_weight: Tensor,
    post_bias: Tensor | None,
    post_norm_weight: Tensor,
    post_norm_bias: Tensor,
    intermediate_weight: Tensor,
    intermediate_bias: Tensor | None,
    output_weight: Tensor,
    output_bias: Tensor | None,
    output_norm_weight: Tensor,
    output_norm_bias: Tensor,
    post_groups: int = 1,
    intermediate_groups: int = 1,
    output_groups: int = 1,
    activation: str | None = "gelu",
    post_eps: float = 1e-12,
    output_eps: float = 1e-12,
    packed: Tensor | None = None,
) -> Tensor:
    """:func:`squeezebert_kernels.ops.post_attention_block`."""
    h = launchers.conv_residual(context, post_weight, post_bias, residual, post_groups)
    h = launchers.layer_norm(h, post_norm_weight, post_norm_bias, post_eps)
    y = launchers.ffn(
        h, intermediate_weight, intermediate_bias, output_weight, output_bias, intermediate_groups, output_groups,
        activation or "none",
    )  # fmt: skip
    return launchers.layer_norm(y, output_norm_weight, output_norm_bias, output_eps)


def layer(tensors: LayerTensors, options: LayerOptions, offsets: Tensor | None) -> Tensor:
    """:func:`encoder_layer` of arguments that are named tuples already. By position, which costs the least time."""
    attention: Any = (*tensors.attention(), *options[:4], None, offsets)
    rest: Any = (tensors.x, *tensors.behind_attention(), *options[4:])
    return post_attention_block(attention_block(*attention), *rest)


def encoder_layer(*arguments: Any, **named: Any) -> Tensor:
    """:func:`squeezebert_kernels.ops.encoder_layer`."""
    call = LayerCall.bind(*arguments, **named)
    return layer(call.tensors, call.options, call.offsets)
