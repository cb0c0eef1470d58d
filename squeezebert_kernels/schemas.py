"""The ops as torch knows them: their schemas, and the shapes of their results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from . import validation

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
_OTHER_OPS = (
    "pack(Tensor[] weights, int[] groups, int num_heads=0, str dtype='float32') -> Tensor",
    "packed_bytes(int[] n, int[] k, int[] groups, int num_heads=0, str dtype='float32') -> int",
    "unpack(Tensor packed, int[] n, int[] k, int[] groups, int num_heads, str dtype, int section) -> (Tensor, Tensor)",
    "packed_is_current(Tensor[] weights, Tensor packed) -> bool",
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


def _encoder_layer(
    x, q_w, q_b, k_w, k_b, v_w, v_b, mask,
    post_w, post_b, post_nw, post_nb, inter_w, inter_b, out_w, out_b, out_nw, out_nb,
    attention_packed, post_packed, num_heads, q_groups=1, k_groups=1, v_groups=1,
    post_groups=1, intermediate_groups=1, output_groups=1, activation="gelu", post_eps=1e-12, output_eps=1e-12,
    offsets=None,
):  # fmt: skip
    validation.activation_name(activation)
    validation.check_encoder_layer(
        x, q_w, q_b, k_w, k_b, v_w, v_b, mask,
        post_w, post_b, post_nw, post_nb, inter_w, inter_b, out_w, out_b, out_nw, out_nb,
        num_heads=num_heads, q_groups=q_groups, k_groups=k_groups, v_groups=v_groups, post_groups=post_groups,
        intermediate_groups=intermediate_groups, output_groups=output_groups, offsets=offsets,
    )  # fmt: skip
    return x.new_empty(x.shape)


def _pack(weights, groups, num_heads=0, dtype="float32"):
    n, k = [int(w.shape[0]) for w in weights], [int(w.shape[1]) for w in weights]
    size = torch.ops.squeezebert_kernels.packed_bytes(n, k, groups, num_heads, dtype)
    return weights[0].new_empty((size,), dtype=torch.uint8)


def _unpack(packed, n, k, groups, num_heads, dtype, section):
    int8 = dtype == "int8"
    values = packed.new_empty((n[section], k[section]), dtype=torch.int8 if int8 else torch.float32)
    return values, packed.new_empty((n[section] if int8 else 0,), dtype=torch.float32)


_SHAPES: dict[str, Callable[..., Any]] = {
    "grouped_pointwise_conv": _conv, "grouped_pointwise_conv_layer_norm": _conv_layer_norm,
    "attention_block": _attention_block, "post_attention_block": _post_attention_block,
    "encoder_layer": _encoder_layer, "pack": _pack, "unpack": _unpack,
}  # fmt: skip


def register(library: Any) -> None:
    """Defines the ops in ``library`` (a torch.library.Library), with their shape functions."""
    for schema in _TENSOR_OPS:
        library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    for schema in _OTHER_OPS:
        library.define(schema)
    for name, shape in _SHAPES.items():
        torch.library.register_fake(f"{library.ns}::{name}", shape, lib=library)
