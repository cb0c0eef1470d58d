"""Gradient formulas of the ops in plain differentiable torch: every forward value is recomputed from the inputs.

Each function returns the gradients of the op's floating inputs, None where ``needs`` says that none is wanted. They are
made of aten ops that have derivatives themselves, so second derivatives are right as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from . import reference

aten = torch.ops.aten
Grad = Tensor | None


class ConvGrads(NamedTuple):
    x: Grad
    weight: Grad
    bias: Grad


class ConvNormGrads(NamedTuple):
    x: Grad
    weight: Grad
    bias: Grad
    residual: Grad
    norm_weight: Grad
    norm_bias: Grad


def activation_backward(grad: Tensor, z: Tensor, activation: str) -> Tensor:
    """d activation(z) / dz * grad."""
    if activation == "gelu":
        return aten.gelu_backward(grad, z)
    if activation == "gelu_tanh":
        return aten.gelu_backward(grad, z, approximate="tanh")
    if activation == "relu":
        return aten.threshold_backward(grad, z, 0)
    return grad


_TOKENS_PER_SUM = 128


def _sum_of_outer_products(a: Tensor, b: Tensor) -> Tensor:
    """[T, G, N], [T, G, K] -> [G, N, K], summed over T.

    For small N and K, BLAS adds token after token to one sum, whose rounding error grows with T: sums of sums there.
    """
    tokens, n, k = a.shape[0], a.shape[2], b.shape[2]
    if n * k > 32 * 32:
        return torch.bmm(a.permute(1, 2, 0), b.transpose(0, 1))
    padding = (0, 0, 0, 0, 0, -tokens % _TOKENS_PER_SUM)
    parts = -(-tokens // _TOKENS_PER_SUM)
    a, b = (F.pad(t, padding).reshape(parts, _TOKENS_PER_SUM, *t.shape[1:]) for t in (a, b))
    return torch.matmul(a.permute(0, 2, 3, 1), b.transpose(1, 2)).sum(0)


def conv_backward(grad: Tensor, x: Tensor, weight: Tensor, groups: int, needs: Sequence[bool]) -> ConvGrads:
    """Gradients of ``reference.grouped_pointwise_conv`` without activation; ``needs`` for (x, weight, bias)."""
    c_out, k = weight.shape[0], weight.shape[1]
    tokens = math.prod(x.shape[:-1])
    grad_g = grad.reshape(tokens, groups, c_out // groups)
    dx = dw = db = None
    if needs[0]:
        per_group = weight.reshape(groups, c_out // groups, k)
        dx = torch.bmm(grad_g.transpose(0, 1), per_group).transpose(0, 1).reshape(x.shape)
    if needs[1]:
        dw = _sum_of_outer_products(grad_g, x.reshape(tokens, groups, k)).reshape(weight.shape)
    if needs[2]:
        db = grad.reshape(tokens, c_out).sum(0)
    return ConvGrads(dx, dw, db)


def conv_activation_backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Grad, groups: int, activation: str, needs: Sequence[bool]
) -> ConvGrads:
    """Gradients of ``grouped_pointwise_conv`` with its activation."""
    if activation != "none":
        z = reference.grouped_pointwise_conv(x, weight, bias, groups=groups)
        grad = activation_backward(grad, z, activation)
    return conv_backward(grad, x, weight, groups, needs)


def conv_layer_norm_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Grad,
    residual: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    *,
    groups: int,
    eps: float,
    needs: Sequence[bool],
) -> ConvNormGrads:
    """Gradients of ``grouped_pointwise_conv_layer_norm``, in the order of its tensors."""
    shape = [weight.shape[0]]
    y = reference.grouped_pointwise_conv(x, weight, bias, groups=groups) + residual
    _, mean, rstd = aten.native_layer_norm(y, shape, norm_weight, norm_bias, eps)
    dy, dgamma, dbeta = aten.native_layer_norm_backward(
        grad.contiguous(), y, shape, mean, rstd, norm_weight, norm_bias, [True, needs[4], needs[5]]
    )
    dx, dw, db = conv_backward(dy, x, weight, groups, needs)
    return ConvNormGrads(dx, dw, db, dy, dgamma, dbeta)


def attention_backward(
    grad: Tensor,
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Grad],
    attention_mask: Grad,
    num_heads: int,
    groups: Sequence[int],
    needs_x: bool,
    needs_weights: Sequence[bool],
    needs_biases: Sequence[bool],
) -> tuple[Grad, list[ConvGrads], Grad]:
    """Gradients of ``attention_block``: (dx, [q, k, v conv gradients], d attention_mask)."""
    q, k, v = (
        reference.split_heads(reference.grouped_pointwise_conv(x, w, b, groups=g), num_heads)
        for w, b, g in zip(weights, biases, groups)
    )
    scale = 1.0 / math.sqrt(q.shape[-1])
    scores = torch.matmul(q, k.transpose(-1, -2)) * scale
    if attention_mask is not None:
        scores = scores + attention_mask
    probs = torch.softmax(scores, dim=-1)
    grad_heads = reference.split_heads(grad, num_heads)
    dv = torch.matmul(probs.transpose(-1, -2), grad_heads)
    dprobs = torch.matmul(grad_heads, v.transpose(-1, -2))
    dscores = aten._softmax_backward_data(dprobs, probs, -1, probs.dtype)
    dq = torch.matmul(dscores, k) * scale
    dk = torch.matmul(dscores.transpose(-1, -2), q) * scale
    convs = [
        conv_backward(d.transpose(1, 2).reshape(x.shape[0], x.shape[1], -1), x, w, g, (needs_x, need_w, need_b))
        for d, w, g, need_w, need_b in zip((dq, dk, dv), weights, groups, needs_weights, needs_biases)
    ]
    dx = None
    for conv in convs:
        if conv.x is not None:
            dx = conv.x if dx is None else dx + conv.x
    dmask = None if attention_mask is None else dscores.sum_to_size(attention_mask.shape)
    return dx, convs, dmask


def post_attention_backward(
    grad: Tensor,
    post: Sequence[Tensor],
    intermediate: Sequence[Tensor],
    output: Sequence[Tensor],
    groups: Sequence[int],
    activation: str,
    eps: Sequence[float],
    needs: Sequence[Sequence[bool]],
) -> tuple[ConvNormGrads, ConvGrads, ConvNormGrads]:
    """Gradients of ``post_attention_block`` per phase.

    ``post`` is (context, weight, bias, residual, norm_weight, norm_bias), ``intermediate`` (weight, bias) and
    ``output`` (weight, bias, norm_weight, norm_bias); ``needs`` follows them.
    """
    context, post_w, post_b, residual, post_nw, post_nb = post
    h = reference.grouped_pointwise_conv_layer_norm(
        context, post_w, post_b, residual, post_nw, post_nb, groups=groups[0], eps=eps[0]
    )
    z = reference.grouped_pointwise_conv(h, intermediate[0], intermediate[1], groups=groups[1])
    hidden = reference.apply_activation(z, activation)
    need_out = (True, needs[2][0], needs[2][1], True, needs[2][2], needs[2][3])
    out = conv_layer_norm_backward(
        grad, hidden, output[0], output[1], h, output[2], output[3], groups=groups[2], eps=eps[1], needs=need_out
    )
    assert out.x is not None
    assert out.residual is not None
    dz = activation_backward(out.x, z, activation)
    inter = conv_backward(dz, h, intermediate[0], groups[1], (True, *needs[1]))
    assert inter.x is not None
    dh = out.residual + inter.x
    first = conv_layer_norm_backward(
        dh, context, post_w, post_b, residual, post_nw, post_nb, groups=groups[0], eps=eps[0], needs=needs[0]
    )
    return first, inter, out


def _register(library: Any, name: str, backward: Any) -> None:
    """``backward(grad, inputs, needs)`` -> the gradients of the leading inputs; the options behind them get None."""

    def setup_context(ctx, inputs, output):
        tensors = [t if isinstance(t, Tensor) else None for t in inputs]
        ctx.is_tensor = [t is not None for t in tensors]
        ctx.options = [None if is_tensor else value for is_tensor, value in zip(ctx.is_tensor, inputs)]
        ctx.save_for_backward(*[t for t in tensors if t is not None])

    def run(ctx, grad):
        saved = iter(ctx.saved_tensors)
        inputs = [next(saved) if is_tensor else value for is_tensor, value in zip(ctx.is_tensor, ctx.options)]
        # One entry for each argument of the call, which may leave out trailing ones.
        given = ctx.needs_input_grad
        needs = (*given, *[False] * (len(inputs) - len(given)))
        with torch.amp.autocast(grad.device.type, enabled=False):
            grads = list(backward(grad, inputs, needs))
        grads += [None] * (len(inputs) - len(grads))
        return tuple(g if need else None for g, need in zip(grads, given))

    torch.library.register_autograd(f"{library.ns}::{name}", run, setup_context=setup_context, lib=library)


def _conv_gradient(grad, inputs, needs):
    x, weight, bias, groups, activation, _ = inputs
    return conv_activation_backward(grad, x, weight, bias, groups, activation, needs)


def _conv_layer_norm_gradient(grad, inputs, needs):
    *tensors, groups, eps, _ = inputs
    return conv_layer_norm_backward(grad, *tensors, groups=groups, eps=eps, needs=needs)


def _attention_gradient(grad, inputs, needs):
    x, q_w, q_b, k_w, k_b, v_w, v_b, mask, num_heads, *groups, _, offsets = inputs
    if offsets is not None:
        raise NotImplementedError("attention_block has no gradient with offsets")
    dx, (q, k, v), dmask = attention_backward(
        grad, x, (q_w, k_w, v_w), (q_b, k_b, v_b), mask, num_heads, groups,
        needs[0], (needs[1], needs[3], needs[5]), (needs[2], needs[4], needs[6]),
    )  # fmt: skip
    return dx, q.weight, q.bias, k.weight, k.bias, v.weight, v.bias, dmask


def _post_attention_gradient(grad, inputs, needs):
    context, residual, post_w, post_b, post_nw, post_nb, inter_w, inter_b, out_w, out_b, out_nw, out_nb = inputs[:12]
    groups, activation, eps = inputs[12:15], inputs[15], inputs[16:18]
    post, inter, out = post_attention_backward(
        grad,
        (context, post_w, post_b, residual, post_nw, post_nb), (inter_w, inter_b), (out_w, out_b, out_nw, out_nb),
        groups, activation, eps,
        ((needs[0], needs[2], needs[3], needs[1], needs[4], needs[5]), needs[6:8], needs[8:12]),
    )  # fmt: skip
    return (
        post.x, post.residual, post.weight, post.bias, post.norm_weight, post.norm_bias,
        inter.weight, inter.bias, out.weight, out.bias, out.norm_weight, out.norm_bias,
    )  # fmt: skip


def _no_gradient(grad, inputs, needs):
    raise NotImplementedError("encoder_layer has no gradient: attention_block and post_attention_block have one")


def register(library: Any) -> None:
    """Registers the gradients of the ops that ``library`` (a torch.library.Library) defines."""
    _register(library, "grouped_pointwise_conv", _conv_gradient)
    _register(library, "grouped_pointwise_conv_layer_norm", _conv_layer_norm_gradient)
    _register(library, "attention_block", _attention_gradient)
    _register(library, "post_attention_block", _post_attention_gradient)
    _register(library, "encoder_layer", _no_gradient)
