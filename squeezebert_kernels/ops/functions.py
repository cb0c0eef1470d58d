"""The ops: registration and the checked public functions.

``torch.ops.squeezebert_kernels.*`` are the ops as registered; the functions of this module are their public face: the
same arguments, options keyword-only, arguments checked with messages that name them, any floating dtype.

Kernels exist for float32 on CPU (C++) and for float32, float16 and bfloat16 on CUDA devices of compute capability 8.0
or more (:mod:`squeezebert_kernels.triton_kernels`). Half-precision CPU inputs are computed in float32 and rounded once
at the end; float64, and devices without kernels, go to :mod:`squeezebert_kernels.ops.reference`.

Activations are token-major, [batch, sequence, channels]; weights are [C_out, C_in/groups] with any trailing 1s of a
Conv1d/Conv2d weight. ``packed`` is an optional result of :func:`pack` for the same weights: it saves packing them in
every call and changes no result.

Schemas and shape functions are in :mod:`squeezebert_kernels.ops.schemas`, gradients in
:mod:`squeezebert_kernels.ops.gradients`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import _native
from ..layer_arguments import LayerCall, LayerOptions, LayerTensors
from . import autocast, devices, gradients, reference, schemas, training, validation
from .devices import why_no_kernel
from .dispatch import in_own_words, is_refusal, run, run_trained
from .dtypes import KERNEL_DTYPES
from .torch_state import under_transform, wants_gradients

__all__ = [
    "attention_block",
    "encoder_layer",
    "grouped_pointwise_conv",
    "grouped_pointwise_conv_layer_norm",
    "pack",
    "packed_is_current",
    "post_attention_block",
    "unpack",
]

_library = torch.library.Library("squeezebert_kernels", "DEF")
schemas.register(_library)
_native.load()

_ops = torch.ops.squeezebert_kernels


def pack(weights: Sequence[Tensor], groups: Sequence[int], *, num_heads: int = 0, dtype: str = "float32") -> Tensor:
    """Packs weights into the layout that the kernels of this CPU read.

    Args:
        weights: float32, float16 or bfloat16 CPU tensors [C_out, C_in/groups(, 1(, 1))]: the weight of a conv,
            (q, k, v) of an attention block, or (post, intermediate, output) of a post-attention block.
        groups: the number of groups of each.
        num_heads: number of attention heads for (q, k, v), 0 otherwise.
        dtype: what an op given the result multiplies in: "float32", "bfloat16", or "int8" (weights symmetric per output
            channel, activations quantized per token and group on the fly). Sums and everything between convolutions
            are float32 (int8: int32 within a convolution).

    Returns:
        A 1-D uint8 tensor: opaque, self-describing, valid on this ISA tier only and checked on use.
    """
    validation.check_pack(weights, groups, num_heads, KERNEL_DTYPES)
    validation.check_packed_dtype(dtype)
    if not torch.compiler.is_compiling():
        _native.isa()
    try:
        return _ops.pack([w.detach().contiguous() for w in weights], list(groups), num_heads, dtype)
    except RuntimeError as error:
        raise in_own_words(error) from None


def unpack(
    packed: Tensor, shapes: Sequence[Sequence[int]], groups: Sequence[int], section: int, *, num_heads: int, dtype: str
) -> tuple[Tensor, Tensor]:
    """The inverse of :func:`pack` for one of its weights.

    Args:
        packed: a result of :func:`pack`.
        shapes: [C_out, C_in/groups(, 1(, 1))] of every weight in it.
        groups, num_heads, dtype: what was passed to :func:`pack`.
        section: the index of the weight.

    Returns:
        For "float32" and "bfloat16" the float32 values [C_out, C_in/groups] (as :func:`pack` rounded them) and an empty
        tensor; for "int8" the int8 values and their float32 scales [C_out]: the weight is values * scales[:, None].

    Raises:
        TypeError, ValueError: an argument does not fit, or ``packed`` does not hold that.
    """
    validation.check_unpack(packed, shapes, groups, section, num_heads, dtype)
    n, k = [shape[0] for shape in shapes], [shape[1] for shape in shapes]
    try:
        return _ops.unpack.default(packed, n, k, list(groups), num_heads, dtype, section)
    except RuntimeError as error:
        raise in_own_words(error) from None


def packed_is_current(weights: Sequence[Tensor], packed: Tensor) -> bool:
    """Whether ``packed`` was made from these values, by comparing a sample of every weight (not all of it)."""
    validation.check_pack(weights, [1] * len(weights), 0, KERNEL_DTYPES)
    validation.check_tensor("packed", packed)
    validation.check_packed(packed, weights[0].device)
    if packed.device.type != "cpu":
        raise ValueError(f"packed is on {packed.device}, where it has no values")
    try:
        return bool(_ops.packed_is_current.default(weights, packed))
    except RuntimeError as error:
        raise in_own_words(error) from None


def grouped_pointwise_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    groups: int = 1,
    activation: str | None = None,
    packed: Tensor | None = None,
) -> Tensor:
    """``activation(grouped 1x1 conv(x) + bias)``, the formula of torch.nn.Conv1d with kernel_size=1.

    Args:
        x: [..., C_in], any strides.
        weight: [C_out, C_in/groups], trailing 1s allowed.
        bias: [C_out] or None.
        groups: divides C_in and C_out.
        activation: None, "gelu" (erf), "gelu_tanh" or "relu".
        packed: ``pack([weight], [groups])`` or None.

    Returns:
        [..., C_out], contiguous, the dtype of x.

    Raises:
        TypeError, ValueError: an argument does not fit; the message names it and its values.
    """

    def check() -> None:
        validation.check_dtypes({"x": x, "weight": weight, "bias": bias}, "x")
        validation.check_conv(x, weight, bias, groups)
        validation.check_packed(packed, weight.device)

    options = {"groups": groups, "activation": validation.activation_name(activation), "packed": packed}
    op = _ops.grouped_pointwise_conv.default
    return run(op, reference.grouped_pointwise_conv, (x, weight, bias), (1,), options, check)


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
    """``layer_norm(grouped 1x1 conv(x) + bias + residual)`` over the channels.

    Args:
        x: [..., C_in]; weight: [C_out, C_in/groups]; bias: [C_out] or None.
        residual: [..., C_out], the leading dimensions of x.
        norm_weight, norm_bias: [C_out].
        groups, packed: as in :func:`grouped_pointwise_conv`.
        eps: added to the variance; transformers' SqueezeBERT uses 1e-12 for any config.

    Returns:
        [..., C_out], contiguous.
    """
    tensors = (x, weight, bias, residual, norm_weight, norm_bias)

    def check() -> None:
        names = ("x", "weight", "bias", "residual", "norm_weight", "norm_bias")
        validation.check_dtypes(dict(zip(names, tensors)), "x")
        validation.check_conv(x, weight, bias, groups)
        validation.check_norm(x, residual, weight, {"norm_weight": norm_weight, "norm_bias": norm_bias})
        validation.check_eps("eps", eps)
        validation.check_packed(packed, weight.device)

    op = _ops.grouped_pointwise_conv_layer_norm.default
    options = {"groups": groups, "eps": eps, "packed": packed}
    return run(op, reference.grouped_pointwise_conv_layer_norm, tensors, (1,), options, check)


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
    dtype: str | None = None,
) -> Tensor:
    """Self-attention up to its output projection: projections, ``softmax(q k^T / sqrt(d) + mask)``, times v.

    Args:
        x: [B, S, C]; with ``offsets`` [T, C].
        q_weight, k_weight, v_weight: [H*d, C/groups]; q_bias, k_bias, v_bias: [H*d] or None.
        attention_mask: additive, broadcastable to [B, H, S, S] (e.g. [B, 1, 1, S]), or boolean (True: attend), or None.
        num_heads: H, divides the output channels.
        q_groups, k_groups, v_groups: groups of the three convs.
        offsets: int64 tensor [B + 1], ascending from 0 to T: sequence b is rows offsets[b] to offsets[b + 1] of x. On
            the CPU, where its values are checked, or on the device of x, where sequences are clipped to 0..T and to the
            columns of the mask instead, and rows of no sequence are undefined. For batches without padding:
            ``attention_mask`` is that of the padded batch, of which a sequence of n tokens uses the first n rows and
            columns. No gradients.
        packed: ``pack([q_weight, k_weight, v_weight], [q_groups, k_groups, v_groups], num_heads=H)`` or None. With
            it, and without dropout, gradients compute again what they need: for training leave it out.
        dropout_p: probability that a softmax output is dropped, always, as F.scaled_dot_product_attention has it. Which
            are dropped is drawn from torch's generator. Not with ``offsets``.
        dtype: what a CPU multiplies in where dropout is at work, or gradients are wanted without ``packed``: "float32"
            or "bfloat16" (where it has instructions for that, float32 elsewhere). None: bfloat16 where x or autocast
            are.

    Returns:
        The context, [B, S, H*d] or [T, H*d], contiguous. A query that may attend to nothing gets
        0 with a boolean mask, as in scaled_dot_product_attention. With an additive mask of the least number it gets the
        mean of the values.
    """
    validation.check_training(dtype, dropout_p=dropout_p)
    visible: Tensor | None = None
    if isinstance(attention_mask, Tensor) and attention_mask.dtype == torch.bool:
        shown = _boolean_mask(attention_mask, x, offsets)
        hidden = torch.finfo(x.dtype).min
        if x.is_cuda and not torch.is_grad_enabled() and why_no_kernel(x) is None:
            # The Triton kernels leave 0 where all keys are at -inf: nothing to look for, which would wait for the GPU.
            hidden = -torch.inf
        else:
            visible = shown
        attention_mask = torch.zeros_like(shown, dtype=x.dtype).masked_fill(~shown, hidden)
    attention_mask = _for_every_key(attention_mask, x, offsets)
    tensors = (x, q_weight, q_bias, k_weight, k_bias, v_weight, v_bias, attention_mask)

    def check() -> None:
        validation.check_dtypes(dict(zip(LayerTensors._fields, tensors)), "x")
        validation.check_attention(*tensors, num_heads, q_groups, k_groups, v_groups, offsets)
        validation.check_packed(packed, q_weight.device)

    if offsets is not None and wants_gradients(tensors):
        raise ValueError("offsets has no gradient: call it under torch.no_grad() or pass the padded batch")
    if offsets is not None and dropout_p != 0:
        raise ValueError(f"dropout_p must be 0 with offsets, got {dropout_p}")
    options = {
        "num_heads": num_heads, "q_groups": q_groups, "k_groups": k_groups, "v_groups": v_groups,
        "packed": packed, "offsets": offsets,
    }  # fmt: skip
    if offsets is None and training.is_wanted(tensors, packed, dropout_p):
        check()
        if why_no_kernel(x) is not None or wants_gradients([attention_mask]):
            plain: Any = reference.attention_block
            context = plain(*tensors, **options, dropout_p=dropout_p)
        else:
            all_groups = (q_groups, k_groups, v_groups)
            context = run_trained(
                x, lambda: training.attention_block(tensors, num_heads, all_groups, dropout_p=dropout_p, dtype=dtype)
            )
            context = _as_autocast(context)
    else:
        context = run(_ops.attention_block.default, reference.attention_block, tensors, (1, 3, 5), options, check)
    return context if visible is None else _zero_blind_queries(context, visible, num_heads)


def _as_autocast(y: Tensor) -> Tensor:
    """``y`` in the dtype that a matrix product has under autocast, if that is on."""
    device = y.device.type
    return y.to(torch.get_autocast_dtype(device)) if training.is_autocast(device) else y


def _for_every_key(mask: Tensor | None, x: Tensor, offsets: Tensor | None) -> Tensor | None:
    """``mask`` with a column for every key, if it has one for all of them."""
    if offsets is None and isinstance(mask, Tensor):
        validation.check_tensor("attention_mask", mask)
        if mask.shape[-1:] == (1,) and isinstance(x, Tensor) and x.dim() == 3:
            return mask.expand(*mask.shape[:-1], x.shape[1])
    return mask


def _boolean_mask(mask: Tensor, x: Tensor, offsets: Tensor | None) -> Tensor:
    """``mask``, one row of it where it was expanded from one, if it can go with ``x``."""
    validation.check_dtypes({"x": x}, "x")
    validation.check_tensor("attention_mask", mask)
    if offsets is not None:
        raise TypeError(f"attention_mask must have the dtype of x with offsets, got {mask.dtype}")
    if mask.device != x.device:
        raise ValueError(f"attention_mask is on {mask.device}, but x is on {x.device}")
    return mask.narrow(-2, 0, 1) if mask.dim() >= 2 and mask.stride(-2) == 0 else mask


def _zero_blind_queries(context: Tensor, visible: Tensor, num_heads: int) -> Tensor:
    """``context`` [B, S, H*d] with 0 for queries that ``visible`` (broadcastable to [B, H, S, S]) lets see nothing."""
    sees = visible.any(-1)
    static = not (torch.compiler.is_compiling() or torch.jit.is_tracing() or under_transform() or sees.is_meta)
    if static and bool(sees.all()):
        return context
    sees = sees.reshape((1,) * (3 - sees.dim()) + tuple(sees.shape)).transpose(1, 2)[..., None]
    return torch.where(sees, context.unflatten(-1, (num_heads, -1)), 0).flatten(-2)


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
    dtype: str | None = None,
) -> Tensor:
    """A layer from the attention context to its output, in one pass over tiles of tokens.

    ``h = layer_norm(dropout(post(context)) + residual)``,
    ``y = layer_norm(dropout(output(activation(intermediate(h)))) + h)``.

    Args:
        context: [..., C_context]; residual: [..., C], the input of the layer.
        post_*: conv C_context -> C and its LayerNorm.
        intermediate_*: conv C -> I.
        output_*: conv I -> C and its LayerNorm.
        post_groups, intermediate_groups, output_groups: groups of the three convs, equal or not.
        activation: None, "gelu" (erf), "gelu_tanh" or "relu".
        packed: ``pack([post_weight, intermediate_weight, output_weight], [their groups])`` or None; see
            :func:`attention_block`.
        post_dropout_p, output_dropout_p, dtype: as in :func:`attention_block`, for the results of these two convs.

    Returns:
        [..., C], contiguous.
    """
    validation.check_training(dtype, post_dropout_p=post_dropout_p, output_dropout_p=output_dropout_p)
    tensors = (
        context, residual, post_weight, post_bias, post_norm_weight, post_norm_bias,
        intermediate_weight, intermediate_bias, output_weight, output_bias, output_norm_weight, output_norm_bias,
    )  # fmt: skip
    groups = {
        "post_groups": post_groups, "intermediate_groups": intermediate_groups, "output_groups": output_groups,
    }  # fmt: skip

    def check() -> None:
        validation.check_dtypes(dict(zip(("context", "residual", *LayerTensors._fields[8:]), tensors)), "context")
        validation.check_post_attention(*tensors, **groups)
        validation.check_eps("post_eps", post_eps)
        validation.check_eps("output_eps", output_eps)
        validation.check_packed(packed, post_weight.device)

    options = {
        **groups, "activation": validation.activation_name(activation),
        "post_eps": post_eps, "output_eps": output_eps, "packed": packed,
    }  # fmt: skip
    if training.is_wanted(tensors, packed, post_dropout_p, output_dropout_p):
        check()
        dropout_p = (post_dropout_p, output_dropout_p)
        if why_no_kernel(context) is not None:
            plain: Any = reference.post_attention_block
            return plain(*tensors, **options, post_dropout_p=post_dropout_p, output_dropout_p=output_dropout_p)
        sizes = (tuple(groups.values()), validation.activation_name(activation), (post_eps, output_eps))
        return run_trained(
            context, lambda: training.post_attention_block(tensors, *sizes, dropout_p=dropout_p, dtype=dtype)
        )
    op = _ops.post_attention_block.default
    return run(op, reference.post_attention_block, tensors, (2, 6, 8), options, check)


def encoder_layer(
    x: Tensor,
    q_weight: Tensor,
    q_bias: Tensor | None,
    k_weight: Tensor,
    k_bias: Tensor | None,
    v_weight: Tensor,
    v_bias: Tensor | None,
    attention_mask: Tensor | None,
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
    num_heads: int,
    q_groups: int = 1,
    k_groups: int = 1,
    v_groups: int = 1,
    post_groups: int = 1,
    intermediate_groups: int = 1,
    output_groups: int = 1,
    activation: str | None = "gelu",
    post_eps: float = 1e-12,
    output_eps: float = 1e-12,
    attention_packed: Tensor,
    post_packed: Tensor,
    offsets: Tensor | None = None,
) -> Tensor:
    """A whole layer for inference: ``post_attention_block(attention_block(x), x)`` in one call, in float32 bit for bit.

    Args:
        x, q_weight ... v_bias, num_heads, q_groups ... v_groups, offsets: as in :func:`attention_block`.
        attention_mask: additive, or None.
        post_*, intermediate_*, output_*, activation: as in :func:`post_attention_block`.
        attention_packed, post_packed: ``packed`` of the two ops. Needed, so that nothing is packed in every call.

    Returns:
        [B, S, C] or [T, C], contiguous. No gradients: the two ops have them.
    """
    tensors = LayerTensors(
        x, q_weight, q_bias, k_weight, k_bias, v_weight, v_bias, _for_every_key(attention_mask, x, offsets),
        post_weight, post_bias, post_norm_weight, post_norm_bias, intermediate_weight, intermediate_bias,
        output_weight, output_bias, output_norm_weight, output_norm_bias,
    )  # fmt: skip
    if wants_gradients(tensors):
        raise ValueError(
            "encoder_layer has no gradient: call it under torch.no_grad(), or attention_block and post_attention_block"
        )
    layer = LayerOptions(
        num_heads, q_groups, k_groups, v_groups, post_groups, intermediate_groups, output_groups,
        validation.activation_name(activation), post_eps, output_eps,
    )  # fmt: skip

    def check() -> None:
        validation.check_dtypes(tensors._asdict(), "x")
        validation.check_encoder_layer(tensors, layer, offsets)
        validation.check_eps("post_eps", post_eps)
        validation.check_eps("output_eps", output_eps)
        for name, packed in (("attention_packed", attention_packed), ("post_packed", post_packed)):
            validation.check_tensor(name, packed)
            validation.check_packed(packed, x.device, name)

    options = {
        **layer._asdict(), "attention_packed": attention_packed, "post_packed": post_packed, "offsets": offsets
    }  # fmt: skip
    op = _ops.encoder_layer.default
    return run(op, reference.encoder_layer, tensors, (1, 3, 5, 8, 12, 14), options, check)


def try_encoder_layer(call: LayerCall) -> Tensor | None:
    """The op without autograd, or None where it refuses its arguments.

    Raises:
        Exception: anything else that goes wrong, such as no memory.
    """
    try:
        with torch._C._AutoDispatchBelowAutograd():
            return _ops.encoder_layer.default(*call.in_order())
    except NotImplementedError:  # torch refuses for us: no kernel takes tensors of such a layout
        return None
    except RuntimeError as error:
        if is_refusal(error):
            return None
        raise


gradients.register(_library)
autocast.register(_library)
devices.register(_library)
