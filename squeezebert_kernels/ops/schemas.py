"""The ops as torch knows them: their schemas, and the shapes of their results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..layer_arguments import LayerCall
from . import validation
from .dtypes import KERNEL_DTYPES

_TENSOR_OPS = (
    "grouped_pointwise_conv(Tensor x, Tensor weight, Tensor? bias=None, int groups=1, str activation='none', "
    "Tensor? packed=None) -> Tensor",
    "grouped_pointwise_conv_layer_norm(Tensor x, Tensor weight, Tensor? bias, Tensor residual, Tensor norm_weight, "
    "Tensor norm_bias, int groups=1, float eps=1e-12, Tensor? packed=None) -> Tensor",
    "attention_block(Tensor x, Tensor q_weight, Tensor? q_bias, Tensor k_weight, Tensor? k_bias, Tensor v_weight, "
    "Tensor? v_bias, Tensor? attention_mask, int num_heads, int q_groups=1, int k_groups=1, int v_groups=1, "
    "Tensor? packed=None, Tensor? offsets=None) -> Tensor",
    "post_attention_block(Tensor context, Tensor residual, Tensor post_weight, Tensor? post_bias, "
    "Tensor post_norm_weight, Tensor post_norm_bias, Tensor intermediate_weight, Tensor? intermediate_bias, "
    "Tensor output_weight, Tensor? output_bias, Tensor output_norm_weight, Tensor output_norm_bias, "
    "int post_groups=1, int intermediate_groups=1, int output_groups=1, str activation='gelu', "
    "float post_eps=1e-12, float output_eps=1e-12, Tensor? packed=None) -> Tensor",
    "encoder_layer(Tensor x, Tensor q_weight, Tensor? q_bias, Tensor k_weight, Tensor? k_bias, Tensor v_weight, "
    "Tensor? v_bias, Tensor? attention_mask, Tensor post_weight, Tensor? post_bias, "
    "Tensor post_norm_weight, Tensor post_norm_bias, Tensor intermediate_weight, Tensor? intermediate_bias, "
    "Tensor output_weight, Tensor? output_bias, Tensor output_norm_weight, Tensor output_norm_bias, "
    "Tensor attention_packed, Tensor post_packed, int num_heads, int q_groups=1, int k_groups=1, int v_groups=1, "
    "int post_groups=1, int intermediate_groups=1, int output_groups=1, str activation='gelu', "
    "float post_eps=1e-12, float output_eps=1e-12, Tensor? offsets=None) -> Tensor",
)
_TRAINING_OPS = (
    "grouped_pointwise_conv_backward(Tensor grad, Tensor x, Tensor weight, int groups, int[] needs, str dtype) "
    "-> (Tensor, Tensor, Tensor)",
    "attention_block_train(Tensor x, Tensor q_weight, Tensor? q_bias, Tensor k_weight, Tensor? k_bias, "
    "Tensor v_weight, Tensor? v_bias, Tensor? attention_mask, Tensor? seed, int num_heads, int q_groups, "
    "int k_groups, int v_groups, float dropout_p, str dtype) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    "attention_block_backward(Tensor grad, Tensor x, Tensor q_weight, Tensor k_weight, Tensor v_weight, "
    "Tensor? attention_mask, Tensor? seed, Tensor context, Tensor q, Tensor k, Tensor v, Tensor lse, int num_heads, "
    "int q_groups, int k_groups, int v_groups, float dropout_p, str dtype, int[] needs) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    "post_attention_block_train(Tensor context, Tensor residual, Tensor post_weight, Tensor? post_bias, "
    "Tensor post_norm_weight, Tensor post_norm_bias, Tensor intermediate_weight, Tensor? intermediate_bias, "
    "Tensor output_weight, Tensor? output_bias, Tensor output_norm_weight, Tensor output_norm_bias, Tensor? seed, "
    "int post_groups, int intermediate_groups, int output_groups, str activation, float post_eps, float output_eps, "
    "float post_dropout_p, float output_dropout_p, str dtype) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    "post_attention_block_backward(Tensor grad, Tensor context, Tensor post_weight, Tensor post_norm_weight, "
    "Tensor intermediate_weight, Tensor output_weight, Tensor output_norm_weight, Tensor? seed, Tensor post_sum, "
    "Tensor h, Tensor z, Tensor output_sum, int post_groups, int intermediate_groups, int output_groups, "
    "str activation, float post_eps, float output_eps, float post_dropout_p, float output_dropout_p, str dtype, "
    "int[] needs) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    "dropout_factors(Tensor seed, int site, int rows, int columns, float p) -> Tensor",
)
_OTHER_OPS = (
    "pack(Tensor[] weights, int[] groups, int num_heads=0, str dtype='float32') -> Tensor",
    "packed_bytes(int[] n, int[] k, int[] groups, int num_heads=0, str dtype='float32') -> int",
    "unpack(Tensor packed, int[] n, int[] k, int[] groups, int num_heads, str dtype, int section) -> (Tensor, Tensor)",
    "packed_is_current(Tensor[] weights, Tensor packed) -> bool",
    "checksums(Tensor[] weights) -> Tensor",
    "same_checksums(Tensor[] weights, Tensor checksums, int first, int count) -> bool",
    "isa() -> str",
    "available_isas() -> str",
    "build_info() -> str",
)


def _conv(x, weight, bias=None, groups=1, activation="none", packed=None):
    validation.activation_name(activation)
    validation.check_conv(x, weight, bias, groups)
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


def _conv_layer_norm(x, weight, bias, residual, norm_weight, norm_bias, groups=1, eps=1e-12, packed=None):
    validation.check_conv(x, weight, bias, groups)
    validation.check_norm(x, residual, weight, {"norm_weight": norm_weight, "norm_bias": norm_bias})
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


def _attention_block(
    x, q_weight, q_bias, k_weight, k_bias, v_weight, v_bias, attention_mask, num_heads,
    q_groups=1, k_groups=1, v_groups=1, packed=None, offsets=None,
):  # fmt: skip
    validation.check_attention(
        x, q_weight, q_bias, k_weight, k_bias, v_weight, v_bias, attention_mask, num_heads, q_groups, k_groups,
        v_groups, offsets,
    )  # fmt: skip
    return x.new_empty((*x.shape[:-1], v_weight.shape[0]))


def _post_attention_block(
    context, residual, post_w, post_b, post_nw, post_nb, inter_w, inter_b, out_w, out_b, out_nw, out_nb,
    post_groups=1, intermediate_groups=1, output_groups=1, activation="gelu", post_eps=1e-12, output_eps=1e-12,
    packed=None,
):  # fmt: skip
    validation.activation_name(activation)
    validation.check_post_attention(
        context, residual, post_w, post_b, post_nw, post_nb, inter_w, inter_b, out_w, out_b, out_nw, out_nb,
        post_groups=post_groups, intermediate_groups=intermediate_groups, output_groups=output_groups,
    )  # fmt: skip
    return residual.new_empty(residual.shape)


def _encoder_layer(*arguments, **named):
    call = LayerCall.bind(*arguments, **named)
    validation.activation_name(call.options.activation)
    validation.check_encoder_layer(call.tensors, call.options, call.offsets)
    return call.tensors.x.new_empty(call.tensors.x.shape)


def _pack(weights, groups, num_heads=0, dtype="float32"):
    validation.check_pack(weights, groups, num_heads, KERNEL_DTYPES)
    n, k = [int(w.shape[0]) for w in weights], [int(w.shape[1]) for w in weights]
    size = torch.ops.squeezebert_kernels.packed_bytes(n, k, groups, num_heads, dtype)
    return weights[0].new_empty((size,), dtype=torch.uint8)


def _unpack(packed, n, k, groups, num_heads, dtype, section):
    validation.check_unpack(packed, list(zip(n, k)), groups, section, num_heads, dtype)
    int8 = dtype == "int8"
    values = packed.new_empty((n[section], k[section]), dtype=torch.int8 if int8 else torch.float32)
    return values, packed.new_empty((n[section] if int8 else 0,), dtype=torch.float32)


def _state(x, *shape):
    """What is kept of values that a CPU computes in float32: float16 could not hold them all."""
    wide = x.dtype == torch.float16 and not x.is_cuda
    return x.new_empty(shape, dtype=torch.float32 if wide else x.dtype)


def _like(t):
    return t.new_empty(t.shape)


def _check_needs(needs, count):
    if len(needs) != count:
        raise ValueError(f"needs must have {count} entries, got {len(needs)}")


def _wanted(needs, *tensors):
    return tuple(t if need else t.new_empty((0,)) for need, t in zip(needs, tensors))


def _bias_of(weight):
    return weight.new_empty((weight.shape[0],))


def _conv_backward(grad, x, weight, groups, needs, dtype):
    _check_needs(needs, 3)
    validation.check_conv(x, weight, None, groups)
    return _wanted(needs, _like(x), _like(weight), _bias_of(weight))


def _attention_block_train(
    x, q_w, q_b, k_w, k_b, v_w, v_b, mask, seed, num_heads, q_groups, k_groups, v_groups, dropout_p, dtype
):  # fmt: skip
    validation.check_attention(x, q_w, q_b, k_w, k_b, v_w, v_b, mask, num_heads, q_groups, k_groups, v_groups, None)
    projections = [_state(x, *x.shape[:-1], w.shape[0]) for w in (q_w, k_w, v_w)]
    lse = (x.shape[0], num_heads, x.shape[1]) if x.is_cuda else (0,)  # which the kernels of a CPU have no use for
    return x.new_empty((*x.shape[:-1], v_w.shape[0])), *projections, x.new_empty(lse, dtype=torch.float32)


def _attention_block_backward(
    grad, x, q_w, k_w, v_w, mask, seed, context, q, k, v, lse, num_heads, q_groups, k_groups, v_groups, dropout_p,
    dtype, needs,
):  # fmt: skip
    _check_needs(needs, 7)
    validation.check_attention(x, q_w, None, k_w, None, v_w, None, mask, num_heads, q_groups, k_groups, v_groups)
    weights = [t for w in (q_w, k_w, v_w) for t in (_like(w), _bias_of(w))]
    return _wanted(needs, _like(x), *weights)


def _post_attention_block_train(
    context, residual, post_w, post_b, post_nw, post_nb, inter_w, inter_b, out_w, out_b, out_nw, out_nb, seed,
    post_groups, intermediate_groups, output_groups, activation, post_eps, output_eps, post_dropout_p,
    output_dropout_p, dtype,
):  # fmt: skip
    y = _post_attention_block(
        context, residual, post_w, post_b, post_nw, post_nb, inter_w, inter_b, out_w, out_b, out_nw, out_nb,
        post_groups, intermediate_groups, output_groups, activation,
    )  # fmt: skip
    post_sum, h, output_sum = (_state(context, *y.shape) for _ in range(3))
    return y, post_sum, h, _state(context, *y.shape[:-1], inter_w.shape[0]), output_sum


def _post_attention_block_backward(
    grad, context, post_w, post_nw, inter_w, out_w, out_nw, seed, post_sum, h, z, output_sum, post_groups,
    intermediate_groups, output_groups, activation, post_eps, output_eps, post_dropout_p, output_dropout_p, dtype,
    needs,
):  # fmt: skip
    _check_needs(needs, 12)
    validation.check_post_attention(
        context, output_sum, post_w, None, post_nw, post_nw, inter_w, None, out_w, None, out_nw, out_nw,
        post_groups=post_groups, intermediate_groups=intermediate_groups, output_groups=output_groups,
        residual_name="output_sum",
    )  # fmt: skip
    post, intermediate, output = (
        _wanted(needs[i : i + 2], _like(w), _bias_of(w)) for i, w in ((2, post_w), (6, inter_w), (8, out_w))
    )
    post_norm, output_norm = ((_like(w), _like(w)) for w in (post_nw, out_nw))
    return *_wanted(needs[:1], _like(context)), _like(grad), *post, *post_norm, *intermediate, *output, *output_norm


def _dropout_factors(seed, site, rows, columns, p):
    return seed.new_empty((rows, columns), dtype=torch.float32)


_SHAPES: dict[str, Callable[..., Any]] = {
    "grouped_pointwise_conv": _conv, "grouped_pointwise_conv_layer_norm": _conv_layer_norm,
    "attention_block": _attention_block, "post_attention_block": _post_attention_block,
    "encoder_layer": _encoder_layer, "pack": _pack, "unpack": _unpack,
    "grouped_pointwise_conv_backward": _conv_backward, "attention_block_train": _attention_block_train,
    "attention_block_backward": _attention_block_backward, "post_attention_block_train": _post_attention_block_train,
    "post_attention_block_backward": _post_attention_block_backward, "dropout_factors": _dropout_factors,
}  # fmt: skip


def register(library: Any) -> None:
    """Defines the ops in ``library`` (a torch.library.Library), with their shape functions."""
    for schema in (*_TENSOR_OPS, *_TRAINING_OPS):
        library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    for schema in _OTHER_OPS:
        library.define(schema)
    for name, shape in _SHAPES.items():
        torch.library.register_fake(f"{library.ns}::{name}", on_one_device(library, name, shape), lib=library)


def on_one_device(library: Any, name: str, run: Callable[..., Any]) -> Callable[..., Any]:
    """``run``, a kernel of the op ``name`` of ``library``, that refuses tensors of several devices.

    torch chooses a kernel by the device that comes first in an order of its own. So one ``meta`` tensor is enough for
    the shape function, which would return memory that nobody has written to; one CUDA tensor for the CUDA kernel.
    """
    schema = getattr(getattr(torch.ops, library.ns), name).default._schema
    names = [argument.name for argument in schema.arguments]

    def checked(*args: Any, **kwargs: Any) -> Any:
        validation.check_devices({**dict(zip(names, args)), **kwargs})
        return run(*args, **kwargs)

    return checked
