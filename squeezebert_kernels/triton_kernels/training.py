"""The training ops on CUDA devices: what they launch. Signatures and results are those of ``schemas._TRAINING_OPS``.

Saved tensors and gradients between kernels have the dtype of x; sums are float32. ``dtype``, what a CPU multiplies in,
is ignored. Everything is deterministic. Arguments have been checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._native import DropoutSite
from . import launchers
from .attention_backward import key_value_grad_kernel, query_grad_kernel, training_flash_kernel
from .backward import (
    column_sums_kernel,
    input_grad_kernel,
    norm_backward_kernel,
    training_conv_kernel,
    weight_grad_kernel,
)
from .dropout import dropout_kernel

__all__ = [
    "attention_block_backward",
    "attention_block_train",
    "dropout_factors",
    "grouped_pointwise_conv_backward",
    "post_attention_block_backward",
    "post_attention_block_train",
]

BLOCKS: dict[str, dict[str, dict[str, int]]] = {
    "half": {
        "conv": {"BLOCK_M": 128, "BLOCK_N": 64, "BLOCK_K": 64, "num_warps": 4, "num_stages": 3},
        "wide_conv": {"BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 64, "num_warps": 8, "num_stages": 3},
        "activation_conv": {"BLOCK_M": 128, "BLOCK_N": 64, "BLOCK_K": 64, "num_warps": 8, "num_stages": 3},
        "weight": {"BLOCK_N": 64, "BLOCK_K": 64, "BLOCK_T": 64, "num_warps": 4, "num_stages": 3},
        "flash": {"BLOCK_M": 64, "BLOCK_N": 64, "num_warps": 4, "num_stages": 2},
        "query": {"BLOCK_M": 64, "BLOCK_N": 32, "num_warps": 4, "num_stages": 2},
        "key_value": {"BLOCK_M": 32, "BLOCK_N": 64, "num_warps": 4, "num_stages": 2},
    },
    "float32": {
        "conv": {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 32, "num_warps": 4, "num_stages": 3},
        "wide_conv": {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 32, "num_warps": 4, "num_stages": 3},
        "activation_conv": {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 32, "num_warps": 4, "num_stages": 3},
        "weight": {"BLOCK_N": 64, "BLOCK_K": 64, "BLOCK_T": 32, "num_warps": 4, "num_stages": 2},
        "flash": {"BLOCK_M": 32, "BLOCK_N": 32, "num_warps": 4, "num_stages": 2},
        "query": {"BLOCK_M": 16, "BLOCK_N": 32, "num_warps": 4, "num_stages": 2},
        "key_value": {"BLOCK_M": 32, "BLOCK_N": 16, "num_warps": 4, "num_stages": 2},
    },
}
"""Launch configurations, for all GPUs and sizes: chosen to compile without spills for heads of up to 128, not measured.
Blocks of attention are for heads of up to 64."""
PARTS = 256
"""The most parts into which a sum over tokens is split, for parallelism. One number for all GPUs: the same bits."""


def _blocks(kind: str, x: Tensor) -> dict[str, int]:
    return dict(BLOCKS["float32" if x.dtype == torch.float32 else "half"][kind])


def _rows(x: Tensor, like: Tensor) -> Tensor:
    """``x`` [..., C] as contiguous rows with the dtype of ``like``."""
    return x.reshape(-1, x.shape[-1]).to(like.dtype).contiguous()


def _dropout(p: float) -> tuple[int, float]:
    """Threshold and factor of kept elements for the kernels. Of 2^32 numbers p * 2^32 are below the threshold."""
    return min(round(p * 2**32), 2**32 - 1) - 2**31, 1.0 / (1.0 - p) if p < 1.0 else 0.0


def _given(results: Sequence[Tensor | None], like: Tensor) -> tuple[Tensor, ...]:
    """``results`` with an empty tensor for each None: as schemas promise, no two share memory."""
    return tuple(like.new_empty(0) if t is None else t for t in results)


def _conv_blocks(x: Tensor, tokens: int, k: int, n: int, activation: str) -> dict[str, int]:
    config = _blocks("activation_conv" if activation != "none" else "wide_conv" if n % 128 == 0 else "conv", x)
    for name, size in (("BLOCK_M", tokens), ("BLOCK_N", n), ("BLOCK_K", k)):
        config[name] = min(config[name], launchers.power_of_2(size))
    return config


def _conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, groups: int,
    activation: str = "none", site: DropoutSite | None = None, p: float = 0.0, seed: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """``dropout(conv(x) + bias) + residual`` [..., C_out], and its activation (itself with none)."""
    out = x.new_empty((*x.shape[:-1], weight.shape[0]))
    activated = torch.empty_like(out) if activation != "none" else out
    rows, weight = launchers.rows_of(x), launchers.matrix(weight)
    tokens, k, n = rows.shape[0], weight.shape[1], weight.shape[0] // groups
    added = rows if residual is None else launchers.rows_of(residual)
    drops = site is not None and seed is not None and p > 0.0
    config = _conv_blocks(rows, tokens, k, n, activation)
    if tokens:
        launchers.launch(
            training_conv_kernel, -(-tokens // config["BLOCK_M"]) * groups * -(-n // config["BLOCK_N"]),
            rows, weight, launchers.vector(bias, rows), added, seed if drops else rows, out, activated,
            tokens, rows.stride(0), added.stride(0), *_dropout(p),
            GROUPS=groups, K=k, N=n, HAS_BIAS=bias is not None, RESIDUAL=residual is not None, ACTIVATION=activation,
            SITE=int(site) if drops and site is not None else 0, **config,
        )  # fmt: skip
    return out, activated


def _input_grad(
    grads: Sequence[Tensor], weights: Sequence[Tensor], groups: int, residual: Tensor | None = None,
    z: Tensor | None = None, activation: str = "none", out_dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The gradient [T, C_in] of the input of one convolution, or of three of equal shape, ``+ residual``.

    With an activation: the gradient of ``z``, and ``activation(z)``; without, the second result is the first.
    """
    grad, weights = grads[0], [launchers.matrix(w) for w in weights]
    tokens, k, n = grad.shape[0], weights[0].shape[0] // groups, weights[0].shape[1]
    out = grad.new_empty((tokens, n * groups), dtype=out_dtype or grad.dtype)
    activated = torch.empty_like(out) if activation != "none" else out
    last = len(grads) - 1
    config = _conv_blocks(grad, tokens, k, n, activation)
    if tokens:
        launchers.launch(
            input_grad_kernel, -(-tokens // config["BLOCK_M"]) * groups * -(-n // config["BLOCK_N"]),
            grad, weights[0], grads[min(1, last)], weights[min(1, last)], grads[last], weights[last],
            grad if residual is None else residual, grad if z is None else z, out, activated, tokens, grad.stride(0),
            GROUPS=groups, K=k, N=n, THREE=last > 0, RESIDUAL=residual is not None, ACTIVATION=activation, **config,
        )  # fmt: skip
    return out, activated


def _parts(tokens: int, block: int, most: int) -> tuple[int, int]:
    """Into how many parts of how many tokens, a multiple of ``block``, to split them: at least one, about ``most``."""
    blocks = max(1, -(-tokens // block))
    part = -(-blocks // max(1, most))
    return -(-blocks // part), part * block


def _column_sums(x: Tensor, out: Tensor) -> Tensor:
    """Sums over the rows of ``x`` [T, columns], contiguous, into ``out``, as large as one; many rows in two steps."""
    tokens, columns = x.shape
    block_t, block_n = 32, 64
    blocks = -(-columns // block_n)
    parts, part = _parts(tokens, block_t, min(tokens // 256, PARTS // blocks))
    sums = out.new_empty((parts, columns), dtype=torch.float32) if parts > 1 else out
    launchers.launch(
        column_sums_kernel, parts * blocks, x, sums, tokens, columns, part,
        BLOCK_T=block_t, BLOCK_N=block_n, num_warps=4, num_stages=1,
    )  # fmt: skip
    return _column_sums(sums, out) if parts > 1 else out


def _weight_grad(grad: Tensor, x: Tensor, weight: Tensor, groups: int) -> Tensor:
    """The gradient of ``weight`` for rows ``grad`` and ``x``; parts of the tokens where blocks are few."""
    tokens, k, n = grad.shape[0], weight.shape[1], weight.shape[0] // groups
    out = torch.empty(weight.shape, dtype=weight.dtype, device=weight.device)
    config = _blocks("weight", grad)
    for name, size in (("BLOCK_N", n), ("BLOCK_K", k)):
        config[name] = min(config[name], launchers.power_of_2(size))
    blocks = groups * -(-n // config["BLOCK_N"]) * -(-k // config["BLOCK_K"])
    block_t = config["BLOCK_T"]
    parts, part = _parts(tokens, block_t, min(tokens // (4 * block_t), PARTS // blocks))
    sums = grad.new_empty((parts, out.numel()), dtype=torch.float32) if parts > 1 else out
    launchers.launch(
        weight_grad_kernel, parts * blocks, grad, x, sums, tokens, part, grad.stride(0), x.stride(0),
        GROUPS=groups, K=k, N=n, **config,
    )  # fmt: skip
    return _column_sums(sums, out) if parts > 1 else out


def _conv_grads(
    grad: Tensor, x: Tensor, weight: Tensor, groups: int, needs: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of weight and bias for rows ``grad``, where needed."""
    dw = _weight_grad(grad, launchers.rows_of(x), weight, groups) if needs[0] else None
    db = _column_sums(grad, weight.new_empty(weight.shape[0])) if needs[1] else None
    return dw, db


def grouped_pointwise_conv_backward(
    grad: Tensor, x: Tensor, weight: Tensor, groups: int, needs: Sequence[bool], dtype: str = "float32"
) -> tuple[Tensor, ...]:
    """Gradients of x, weight and bias of a convolution [..., C_out]; empty tensors for what ``needs`` does not."""
    rows = _rows(grad, x)
    dx = _input_grad([rows], [weight], groups)[0].view(x.shape) if needs[0] else None
    return _given([dx, *_conv_grads(rows, x, weight, groups, needs[1:])], x)


def _norm_backward(
    grad: Tensor, z: Tensor, gamma: Tensor, eps: float, site: DropoutSite, p: float, seed: Tensor | None,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor, list[Tensor | None]]:  # fmt: skip
    """Backward of ``layer_norm(dropout(conv) + residual)``, the sum of which is ``z`` [T, C].

    The gradients of the residual, of the convolution, and, where needed, of gamma, beta and the convolution's bias.
    """
    tokens, channels = z.shape
    drops = seed is not None and p > 0.0
    dz = torch.empty_like(z)
    dropped = torch.empty_like(z) if drops else dz
    block_c = launchers.power_of_2(channels)
    at_once = max(1, 2048 // block_c)
    programs, part = _parts(tokens, at_once, PARTS)
    sums = z.new_empty((3, programs, channels), dtype=torch.float32)
    launchers.launch(  # of no tokens too, for sums of 0
        norm_backward_kernel, programs,
        grad, z, gamma.contiguous(), seed if drops else z, dz, dropped, sums, tokens, part, eps, *_dropout(p),
        C=channels, SITE=int(site) if drops else 0, ROWS=at_once, BLOCK_C=block_c,
        num_warps=4 if block_c <= 2048 else 8, num_stages=1,
    )  # fmt: skip
    return dz, dropped, [_column_sums(t, gamma.new_empty(channels)) if n else None for t, n in zip(sums, needs)]


def post_attention_block_train(
    context: Tensor, residual: Tensor, post_weight: Tensor, post_bias: Tensor | None, post_norm_weight: Tensor,
    post_norm_bias: Tensor, intermediate_weight: Tensor, intermediate_bias: Tensor | None, output_weight: Tensor,
    output_bias: Tensor | None, output_norm_weight: Tensor, output_norm_bias: Tensor, seed: Tensor | None,
    post_groups: int, intermediate_groups: int, output_groups: int, activation: str, post_eps: float,
    output_eps: float, post_dropout_p: float, output_dropout_p: float, dtype: str = "float32",
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The block with dropout behind its first and last convolution: y, and what backward needs: the sum in front of
    the first LayerNorm, h, the input of the activation, the sum in front of the second."""
    post_sum, _ = _conv(
        context, post_weight, post_bias, residual, post_groups, site=DropoutSite.POST, p=post_dropout_p, seed=seed
    )
    h = launchers.layer_norm(post_sum, post_norm_weight, post_norm_bias, post_eps)
    z, hidden = _conv(h, intermediate_weight, intermediate_bias, None, intermediate_groups, activation)
    output_sum, _ = _conv(
        hidden, output_weight, output_bias, h, output_groups, site=DropoutSite.OUTPUT, p=output_dropout_p, seed=seed
    )
    y = launchers.layer_norm(output_sum, output_norm_weight, output_norm_bias, output_eps)
    return y, post_sum, h, z, output_sum


def post_attention_block_backward(
    grad: Tensor, context: Tensor, post_weight: Tensor, post_norm_weight: Tensor, intermediate_weight: Tensor,
    output_weight: Tensor, output_norm_weight: Tensor, seed: Tensor | None, post_sum: Tensor, h: Tensor, z: Tensor,
    output_sum: Tensor, post_groups: int, intermediate_groups: int, output_groups: int, activation: str,
    post_eps: float, output_eps: float, post_dropout_p: float, output_dropout_p: float, dtype: str,
    needs: Sequence[bool],
) -> tuple[Tensor, ...]:  # fmt: skip
    """Gradients of the twelve tensors of :func:`post_attention_block_train`, in its order."""
    x = context
    grad, post_sum, h, z, output_sum = (_rows(t, x) for t in (grad, post_sum, h, z, output_sum))
    d_sum, d_out, (d_out_gamma, d_out_beta, d_out_bias) = _norm_backward(
        grad, output_sum, output_norm_weight, output_eps, DropoutSite.OUTPUT, output_dropout_p, seed,
        (needs[10], needs[11], needs[9]),
    )  # fmt: skip
    dx = d_residual = d_post_w = d_post_bias = d_post_gamma = d_post_beta = d_inter_w = d_inter_b = d_out_w = None
    below = any(needs[:6])  # what is in front of the first LayerNorm, and its parameters
    if below or any(needs[6:9]):
        dz, hidden = _input_grad([d_out], [output_weight], output_groups, None, z, activation)
        if needs[8]:
            d_out_w = _weight_grad(d_out, hidden if activation != "none" else z, output_weight, output_groups)
        d_inter_w, d_inter_b = _conv_grads(dz, h, intermediate_weight, intermediate_groups, needs[6:8])
    if below:
        dh, _ = _input_grad([dz], [intermediate_weight], intermediate_groups, d_sum)
        d_sum, d_post, (d_post_gamma, d_post_beta, d_post_bias) = _norm_backward(
            dh, post_sum, post_norm_weight, post_eps, DropoutSite.POST, post_dropout_p, seed,
            (needs[4], needs[5], needs[3]),
        )  # fmt: skip
        d_residual = d_sum.view((*x.shape[:-1], d_sum.shape[-1])) if needs[1] else None
        d_post_w = _weight_grad(d_post, launchers.rows_of(context), post_weight, post_groups) if needs[2] else None
        dx = _input_grad([d_post], [post_weight], post_groups)[0].view(x.shape) if needs[0] else None
    results = (
        dx, d_residual, d_post_w, d_post_bias, d_post_gamma, d_post_beta, d_inter_w, d_inter_b, d_out_w, d_out_bias,
        d_out_gamma, d_out_beta,
    )  # fmt: skip
    return _given(results, x)


def _attention_blocks(kind: str, q: Tensor, length: int, size: int) -> dict[str, int]:
    config = _blocks(kind, q)
    block_d = launchers.power_of_2(size)
    for name in ("BLOCK_M", "BLOCK_N"):
        config[name] = min(max(16, config[name] * 64 // max(64, block_d)), launchers.power_of_2(length))
    return config | {"BLOCK_D": block_d}


def attention_block_train(
    x: Tensor, q_weight: Tensor, q_bias: Tensor | None, k_weight: Tensor, k_bias: Tensor | None, v_weight: Tensor,
    v_bias: Tensor | None, attention_mask: Tensor | None, seed: Tensor | None, num_heads: int, q_groups: int,
    k_groups: int, v_groups: int, dropout_p: float, dtype: str = "float32",
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Context [B, S, C] with dropout of the probabilities; q, k, v [B, S, C]; lse float32 [B, H, S]."""
    batch, length = x.shape[:2]
    weights, biases, groups = (q_weight, k_weight, v_weight), (q_bias, k_bias, v_bias), (q_groups, k_groups, v_groups)
    projected = launchers.project(x, weights, biases, groups)
    q, k, v = (t.view((batch, length, t.shape[-1])) for t in projected)
    out, lse = torch.empty_like(q), q.new_empty((batch, num_heads, length), dtype=torch.float32)
    if x.numel():
        size = q.shape[-1] // num_heads
        config = _attention_blocks("flash", q, length, size)
        blocks = -(-length // config["BLOCK_M"])
        mask, strides, kind = launchers.mask_arguments(attention_mask, q)
        drops = seed is not None and dropout_p > 0.0
        launchers.launch(
            training_flash_kernel, batch * blocks * num_heads,
            q, k, v, mask, seed if drops else q, out, lse, length, blocks, size**-0.5, *strides, *_dropout(dropout_p),
            HEADS=num_heads, D=size, MASK=kind, DROPOUT=drops, **config,
        )  # fmt: skip
    return out, q, k, v, lse


def _attention_grads(
    grad: Tensor, mask: Tensor | None, seed: Tensor | None, context: Tensor, q: Tensor, k: Tensor, v: Tensor,
    lse: Tensor, heads: int, p: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of q, k and v as rows [T, C]."""
    batch, length, channels = q.shape
    q, k, v, grad, context = (_rows(t, q) for t in (q, k, v, grad, context))
    dq, dk, dv = (torch.empty_like(q) for _ in range(3))
    if not q.numel():
        return dq, dk, dv
    lse = lse.contiguous()
    delta, inverse = torch.empty_like(lse), torch.empty_like(lse)
    size = channels // heads
    mask, strides, kind = launchers.mask_arguments(mask, q)
    drops = seed is not None and p > 0.0
    key = seed if drops else q
    scalars = (size**-0.5, *strides, *_dropout(p))
    constants: dict[str, Any] = {"HEADS": heads, "D": size, "MASK": kind, "DROPOUT": drops}
    config = _attention_blocks("query", q, length, size)
    blocks = -(-length // config["BLOCK_M"])
    launchers.launch(
        query_grad_kernel, batch * blocks * heads,
        q, k, v, grad, context, mask, key, lse, dq, delta, inverse, length, blocks, *scalars, **constants, **config,
    )  # fmt: skip
    config = _attention_blocks("key_value", q, length, size)
    blocks = -(-length // config["BLOCK_N"])
    launchers.launch(
        key_value_grad_kernel, batch * blocks * heads,
        q, k, v, grad, mask, key, lse, delta, inverse, dk, dv, length, blocks, *scalars, **constants, **config,
    )  # fmt: skip
    return dq, dk, dv


def attention_block_backward(
    grad: Tensor, x: Tensor, q_weight: Tensor, k_weight: Tensor, v_weight: Tensor, attention_mask: Tensor | None,
    seed: Tensor | None, context: Tensor, q: Tensor, k: Tensor, v: Tensor, lse: Tensor, num_heads: int,
    q_groups: int, k_groups: int, v_groups: int, dropout_p: float, dtype: str, needs: Sequence[bool],
) -> tuple[Tensor, ...]:  # fmt: skip
    """Gradients of x, and of the weights and biases of q, k and v, in the order of :func:`attention_block_train`."""
    weights, groups = (q_weight, k_weight, v_weight), (q_groups, k_groups, v_groups)
    grads = _attention_grads(grad, attention_mask, seed, context, q, k, v, lse, num_heads, dropout_p)
    dx = None
    if needs[0]:
        if len(set(groups)) == 1 and len({w.shape for w in weights}) == 1:
            dx, _ = _input_grad(grads, weights, q_groups)
        else:
            dq, dk, dv = grads
            dx, _ = _input_grad([dq], [q_weight], q_groups, out_dtype=torch.float32)
            dx, _ = _input_grad([dk], [k_weight], k_groups, dx, out_dtype=torch.float32)
            dx, _ = _input_grad([dv], [v_weight], v_groups, dx)
        dx = dx.view(x.shape)
    results = [dx]
    for i, (d, weight, g) in enumerate(zip(grads, weights, groups)):
        results += _conv_grads(d, x, weight, g, needs[1 + 2 * i : 3 + 2 * i])
    return _given(results, x)


def dropout_factors(seed: Tensor, site: int, rows: int, columns: int, p: float) -> Tensor:
    """What the kernels multiply by at ``site``: float32 [rows, columns] of 0 and 1 / (1 - p)."""
    out = torch.empty((rows, columns), dtype=torch.float32, device=seed.device)
    if out.numel():
        launchers.launch(
            dropout_kernel, -(-rows // 16) * -(-columns // 64), seed, out, rows, columns, *_dropout(p),
            SITE=site, BLOCK_M=16, BLOCK_N=64, num_warps=4, num_stages=1,
        )  # fmt: skip
    return out
