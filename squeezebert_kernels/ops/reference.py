"""Plain-torch version of every op: the oracle of the tests and the last fallback.

The functions have the names and signatures of :mod:`squeezebert_kernels.ops` and take any floating dtype on any device;
autograd through them is torch's own. Shapes use ``B`` batch, ``S`` sequence length, ``C`` channels, ``H`` heads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..layer_arguments import LayerCall, LayerTensors

__all__ = [
    "apply_activation",
    "attention_block",
    "attention_context",
    "encoder_layer",
    "grouped_pointwise_conv",
    "grouped_pointwise_conv_layer_norm",
    "post_attention_block",
]


def apply_activation(x: Tensor, activation: str | None) -> Tensor:
    """``activation(x)``; one of None, "gelu" (erf), "gelu_tanh", "relu"."""
    if activation is None or activation == "none":
        return x
    if activation == "gelu":
        return F.gelu(x)
    if activation == "gelu_tanh":
        return F.gelu(x, approximate="tanh")
    if activation == "relu":
        return F.relu(x)
    raise ValueError(f"activation must be None, 'gelu', 'gelu_tanh' or 'relu', got {activation!r}")


def grouped_pointwise_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    groups: int = 1,
    activation: str | None = None,
    packed: Tensor | None = None,
) -> Tensor:
    """``activation(conv1x1(x))`` on token-major ``x`` [..., C_in]; ``weight`` [C_out, C_in/groups(, 1(, 1))].

    Output channel ``o`` belongs to group ``o // (C_out/groups)`` and reads that group's slice of ``C_in`` only
    (torch.nn.Conv1d's grouping). ``packed`` is ignored here.
    """
    c_out, k = weight.shape[0], weight.shape[1]
    per_group = weight.reshape(groups, c_out // groups, k)
    tokens = math.prod(x.shape[:-1])
    grouped = x.reshape(tokens, groups, k).transpose(0, 1)
    y = torch.bmm(grouped, per_group.transpose(1, 2)).transpose(0, 1).reshape(*x.shape[:-1], c_out)
    if bias is not None:
        y = y + bias
    return apply_activation(y, activation)


def grouped_pointwise_conv_layer_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    *,
    groups: int = 1,
    eps: float = 1e-12,
    packed: Tensor | None = None,
) -> Tensor:
    """``layer_norm(conv1x1(x) + residual)`` over channels; ``residual`` [..., C_out]."""
    y = grouped_pointwise_conv(x, weight, bias, groups=groups) + residual
    return F.layer_norm(y, (y.shape[-1],), norm_weight, norm_bias, eps)


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """[B, S, H*d] -> [B, H, S, d]."""
    return x.reshape(*x.shape[:-1], num_heads, x.shape[-1] // num_heads).transpose(-3, -2)


def _drop(x: Tensor, p: float, factors: Tensor | None) -> Tensor:
    return F.dropout(x, p) if factors is None else x * factors


def attention_context(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attention_mask: Tensor | None,
    num_heads: int,
    dropout_p: float = 0.0,
    dropout_factors: Tensor | None = None,
) -> Tensor:
    """``dropout(softmax(q k^T / sqrt(d) + mask)) v`` per head; ``q``, ``k``, ``v`` and the result are [B, S, H*d]."""
    q, k, v = (split_heads(t, num_heads) for t in (q, k, v))
    scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(q.shape[-1])
    if attention_mask is not None:
        scores = scores + attention_mask
    probabilities = _drop(torch.softmax(scores, dim=-1), dropout_p, dropout_factors)
    return torch.matmul(probabilities, v).transpose(-3, -2).flatten(-2)


def attention_block(
    x: Tensor,
    q_weight: Tensor,
    q_bias: Tensor | None,
    k_weight: Tensor,
    k_bias: Tensor | None,
    v_weight: Tensor,
    v_bias: Tensor | None,
    attention_mask: Tensor | None = None,
    *,
    num_heads: int,
    q_groups: int = 1,
    k_groups: int = 1,
    v_groups: int = 1,
    packed: Tensor | None = None,
    offsets: Tensor | None = None,
    dropout_p: float = 0.0,
    dropout_factors: Tensor | None = None,
) -> Tensor:
    """Context of self-attention, before the output projection: [B, S, C] -> [B, S, C]; [T, C] with ``offsets``.

    ``dropout_factors`` [B, H, S, S] are what the probabilities are multiplied by in place of torch's dropout.
    """
    q = grouped_pointwise_conv(x, q_weight, q_bias, groups=q_groups)
    k = grouped_pointwise_conv(x, k_weight, k_bias, groups=k_groups)
    v = grouped_pointwise_conv(x, v_weight, v_bias, groups=v_groups)
    if offsets is None:
        return attention_context(q, k, v, attention_mask, num_heads, dropout_p, dropout_factors)
    parts = []
    bounds = offsets.tolist()
    for b, (first, last) in enumerate(pairwise(bounds)):
        mask = None
        if attention_mask is not None:
            full = attention_mask.reshape((1,) * (4 - attention_mask.dim()) + tuple(attention_mask.shape))
            full = full.expand(len(bounds) - 1, num_heads, -1, attention_mask.shape[-1])
            mask = full[b : b + 1, :, : last - first, : last - first]
        one = slice(first, last)
        parts.append(attention_context(q[None, one], k[None, one], v[None, one], mask, num_heads)[0])
    return torch.cat(parts) if parts else v


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
    *,
    post_groups: int = 1,
    intermediate_groups: int = 1,
    output_groups: int = 1,
    activation: str | None = "gelu",
    post_eps: float = 1e-12,
    output_eps: float = 1e-12,
    packed: Tensor | None = None,
    post_dropout_p: float = 0.0,
    output_dropout_p: float = 0.0,
    dropout_factors: Sequence[Tensor] | None = None,
) -> Tensor:
    """Everything of a layer behind attention: post conv + residual + LayerNorm, FFN + residual + LayerNorm.

    ``dropout_factors``, two of [..., C], are what the results of the post and the output conv are multiplied by in
    place of torch's dropout.
    """
    post_factors, output_factors = dropout_factors or (None, None)
    post = grouped_pointwise_conv(context, post_weight, post_bias, groups=post_groups)
    h = _drop(post, post_dropout_p, post_factors) + residual
    h = F.layer_norm(h, (h.shape[-1],), post_norm_weight, post_norm_bias, post_eps)
    hidden = grouped_pointwise_conv(
        h, intermediate_weight, intermediate_bias, groups=intermediate_groups, activation=activation
    )
    output = grouped_pointwise_conv(hidden, output_weight, output_bias, groups=output_groups)
    y = _drop(output, output_dropout_p, output_factors) + h
    return F.layer_norm(y, (y.shape[-1],), output_norm_weight, output_norm_bias, output_eps)


def encoder_layer(*tensors: Tensor | None, **named: Any) -> Tensor:
    """A whole layer: ``post_attention_block(attention_block(x), x)``, with their tensors and options.

    Arguments are those of :func:`squeezebert_kernels.ops.encoder_layer`: the 18 tensors by position or name, the rest
    by name.
    """
    if len(tensors) > len(LayerTensors._fields):
        raise TypeError(f"encoder_layer takes {len(LayerTensors._fields)} tensors by position, got {len(tensors)}")
    given = dict(zip(LayerTensors._fields, tensors))
    call = LayerCall.bind(**given, **named)
    layer, options = call.tensors, call.options
    context = attention_block(*layer.attention(), **options.attention(), offsets=call.offsets)
    return post_attention_block(context, layer.x, *layer.behind_attention(), **options.behind_attention())
