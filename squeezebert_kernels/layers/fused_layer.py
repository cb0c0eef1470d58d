"""An encoder layer on the fused kernels: what is known about it, and running it.

Whether a layer may be fused, and with which tensors, is decided in every call. Looking at some twenty modules takes
longer than the kernels' own dispatch, so the answer is kept as a plan, beside a record of everything that it was drawn
from; as long as the record fits, the plan holds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .. import ops
from ..layer_arguments import LayerCall, LayerOptions, LayerTensors
from ..ops import training
from ..ops.devices import why_no_kernel
from ..ops.torch_state import is_tracing, under_transform, wants_gradients
from ..weights.packing import PackedWeights, changes_unseen
from ..weights.stand_ins import FrozenWeight, for_kernels, freeze
from .call_cache import call_cache, known_calls
from .conv import compute_dtype
from .marks import CALL_CACHE, PACKED_ATTENTION, PACKED_BY_PART, PACKED_POST_ATTENTION
from .parts import GLOBAL_HOOKS, HOOKS, LayerParts, activation_name, classes_of, code_of, why_not_fused

__all__ = [
    "LayerFamily",
    "LayerPlan",
    "forget_plan",
    "freeze_layer",
    "fused_layer",
    "fused_or_none",
    "last_fallback",
    "plan_of",
    "plans_of",
    "remember_fallback",
    "why_not_trained",
]


class LayerFamily(NamedTuple):
    """A kind of layer, as one library defines it: transformers' SqueezeBERT, its BERT, or ours."""

    parts_of: Callable[[Any], LayerParts]
    why_not: Callable[[Any], str | None]
    """Why a layer is not what ``parts_of`` expects, or computes something else; None if it does."""
    outside: Callable[[Any], object] = lambda layer: None
    """What ``why_not`` depends on besides the modules of the layer and their attributes, to be compared."""


def _groups(conv: Any) -> int:
    return getattr(conv, "groups", 1)


class _Convs:
    """Convolutions of one op: their weights, packed."""

    def __init__(self, layer: nn.Module, name: str, *convs: Any, num_heads: int = 0) -> None:
        self.modules = convs
        self.weights = [conv.weight for conv in convs]
        self.groups = [_groups(conv) for conv in convs]
        self.num_heads = num_heads
        # They live with the layer, outside its state dict, and longer than a plan.
        self.name = name
        cache = layer.__dict__.get(name)
        self.cache: PackedWeights = PackedWeights() if cache is None else cache
        if cache is None and not torch.compiler.is_compiling():
            layer.__dict__[name] = self.cache

    def packed(self, layer: nn.Module, x: Tensor | None = None) -> Tensor | None:
        cache = PackedWeights(kept=False) if changes_unseen(layer) else self.cache
        return cache.get(self.weights, self.groups, self.num_heads, compute_dtype(layer), x)

    def freeze(self, layer: nn.Module) -> None:
        """Leaves the packed weights as the only ones."""
        packed = self.packed(layer)
        if packed is not None:
            freeze(self.modules, packed, self.groups, self.num_heads, compute_dtype(layer))
            layer.__dict__.pop(self.name, None)  # it holds the weights that it was made from


def why_not_trained(layer: nn.Module, parts: LayerParts) -> str | None:
    """Why dropout keeps a layer of these parts, which could run fused, from doing so now; None if it does not."""
    drops = max(parts.dropout_p())
    if drops == 0:
        return None
    if activation_name(parts.activation) is None:
        return f"training with dropout {drops} and an activation that no kernel fuses"
    if compute_dtype(layer) == "int8":
        return f"training with dropout {drops} in int8"
    if any(isinstance(conv.weight, FrozenWeight) for conv in parts.projections()):
        return f"training with dropout {drops} without the original weights"
    return None


class LayerPlan:
    """How a layer runs. ``reason`` says why it is not fused; where it is None, ``parts`` and tensors are there."""

    def __init__(self, layer: nn.Module, family: LayerFamily) -> None:
        self.checked: set[object] = set()
        """Kinds of input that were found to fit the tensors."""
        self.parts: LayerParts | None = None
        self.dropout_p = (0.0, 0.0, 0.0)
        self.reason = family.why_not(layer)
        if self.reason is None:
            self.parts = family.parts_of(layer)
            self.reason = why_not_fused(self.parts)
        if self.reason is None:
            self._take(layer, self.parts)
            self.dropout_p = self.parts.dropout_p()  # type: ignore[union-attr]
            self.reason = why_not_trained(layer, self.parts)  # type: ignore[arg-type]

    def has_dense_weights(self) -> bool:
        """Whether the weights are there as the optimizer has them, not only packed."""
        return not any(isinstance(t, FrozenWeight) for t in self.tensors())

    def _take(self, layer: nn.Module, parts: Any) -> None:
        q, k, v = parts.query, parts.key, parts.value
        post, inter, out = parts.post, parts.intermediate, parts.output
        post_norm, out_norm = parts.post_norm, parts.output_norm
        self.activation = activation_name(parts.activation)
        self.weights = (
            q.weight, q.bias, k.weight, k.bias, v.weight, v.bias,
            post.weight, post.bias, post_norm.weight, post_norm.bias, inter.weight, inter.bias,
            out.weight, out.bias, out_norm.weight, out_norm.bias,
        )  # fmt: skip
        self.options = LayerOptions(
            parts.num_heads, _groups(q), _groups(k), _groups(v), _groups(post), _groups(inter), _groups(out),
            self.activation, post_norm.eps, out_norm.eps,
        )  # fmt: skip
        self.for_kernels = tuple(map(for_kernels, self.weights))
        self.attention_convs = _Convs(layer, PACKED_ATTENTION, q, k, v, num_heads=parts.num_heads)
        if self.activation is not None:
            self.post_convs = [_Convs(layer, PACKED_POST_ATTENTION, post, inter, out)]
        else:
            self.post_convs = [_Convs(layer, name, conv) for name, conv in zip(PACKED_BY_PART, (post, inter, out))]

    def tensors(self) -> list[Tensor]:
        """Every parameter that the layer reads, of those that the plan knows."""
        return [tensor for tensor in self.weights if tensor is not None]

    def with_input(self, x: Tensor, mask: Tensor | None, weights: Any = None) -> LayerTensors:
        """The tensors of a call: the plan's own, or ``weights`` in their place."""
        given: Any = self.weights if weights is None else weights
        return LayerTensors._make((x, *given[:6], mask, *given[6:]))


def fused_layer(
    layer: nn.Module,
    plan: LayerPlan,
    hidden_states: Tensor,
    attention_mask: Tensor | None,
    offsets: Tensor | None = None,
) -> Tensor:
    """One encoder layer by the fused kernels: by one op where it can be, by two or more otherwise, to the same bits.

    Args:
        layer: keeps the packed weights.
        plan: of this layer, without a reason.
        hidden_states: token-major, [B, S, C]; [T, C] with ``offsets``, as :func:`ops.attention_block` has it.
        attention_mask: additive or boolean, broadcastable to [B, H, S, S], or None.
    """
    if offsets is None and _is_trained(layer, plan, hidden_states):
        return _trained_layer(layer, plan, hidden_states, attention_mask)
    attention_packed = plan.attention_convs.packed(layer, hidden_states)
    packed = [convs.packed(layer, hidden_states) for convs in plan.post_convs]
    is_packed = attention_packed is not None and packed[0] is not None
    if is_packed and _is_one_op(plan, hidden_states, attention_mask, offsets):
        tensors = plan.with_input(hidden_states, attention_mask, plan.for_kernels)
        y = ops.try_encoder_layer(LayerCall(tensors, attention_packed, packed[0], plan.options, offsets))
        if y is not None:
            return y
    tensors, options = plan.with_input(hidden_states, attention_mask), plan.options
    context = ops.attention_block(*tensors.attention(), **options.attention(), packed=attention_packed, offsets=offsets)
    if plan.activation is not None:
        rest = tensors.behind_attention()
        return ops.post_attention_block(context, hidden_states, *rest, **options.behind_attention(), packed=packed[0])
    return _by_convolutions(plan, tensors, context, packed)


def _by_convolutions(plan: LayerPlan, t: LayerTensors, context: Tensor, packed: Sequence[Tensor | None]) -> Tensor:
    """What follows attention, op by op: with an activation that no kernel fuses."""
    assert plan.parts is not None
    (post, intermediate, output), options = packed, plan.options
    h = ops.grouped_pointwise_conv_layer_norm(
        context, t.post_weight, t.post_bias, t.x, t.post_norm_weight, t.post_norm_bias,
        groups=options.post_groups, eps=options.post_eps, packed=post,
    )  # fmt: skip
    hidden = ops.grouped_pointwise_conv(
        h, t.intermediate_weight, t.intermediate_bias, groups=options.intermediate_groups, packed=intermediate
    )
    return ops.grouped_pointwise_conv_layer_norm(
        plan.parts.activation(hidden), t.output_weight, t.output_bias, h, t.output_norm_weight, t.output_norm_bias,
        groups=options.output_groups, eps=options.output_eps, packed=output,
    )  # fmt: skip


def _is_trained(layer: nn.Module, plan: LayerPlan, x: Tensor) -> bool:
    """Whether the ops of training run: in training mode, where gradients are wanted or dropout is at work.

    In evaluation mode packed weights are worth more: gradients are rarely asked for then, however the grad mode is.
    """
    if any(plan.dropout_p):
        return True
    if not layer.training or plan.activation is None or compute_dtype(layer) == "int8":
        return False
    return plan.has_dense_weights() and training.is_wanted((x, *plan.tensors()), None)


def _trained_layer(layer: nn.Module, plan: LayerPlan, x: Tensor, mask: Tensor | None) -> Tensor:
    """``fused_layer`` in training: weights change with every step, so none is packed for long."""
    asked_for = compute_dtype(layer)
    dtype = None if asked_for == "float32" else asked_for
    attention_p, post_p, output_p = plan.dropout_p
    tensors, options = plan.with_input(x, mask), plan.options
    context = ops.attention_block(*tensors.attention(), **options.attention(), dropout_p=attention_p, dtype=dtype)
    rest, rest_options = tensors.behind_attention(), options.behind_attention()
    return ops.post_attention_block(
        context, x, *rest, **rest_options, post_dropout_p=post_p, output_dropout_p=output_p, dtype=dtype
    )


def _is_one_op(plan: LayerPlan, x: Tensor, mask: Tensor | None, offsets: Tensor | None) -> bool:
    """Whether ``ops.encoder_layer`` is what the two ops would be: inference in plain float32, an additive mask.

    What the kernel refuses, such as a shape, need not be looked at here.
    """
    if plan.activation is None:
        return False
    tensors = (x, mask, *plan.for_kernels, offsets)
    return (
        type(x) is Tensor
        and x.dtype == torch.float32
        and (mask is None or (type(mask) is Tensor and mask.dtype == torch.float32))
        and not is_tracing()
        and not under_transform()
        and not torch.is_autocast_enabled("cpu")
        and all(t is None or t.is_cpu for t in tensors)  # a meta tensor would send the op to its shape function
        and not wants_gradients(tensors)
    )


def freeze_layer(layer: nn.Module, family: LayerFamily) -> None:
    """Leaves the packed weights of ``layer``, which runs fused, as the only ones."""
    plan = LayerPlan(layer, family)
    forget_plan(layer)
    for convs in (plan.attention_convs, *plan.post_convs):
        convs.freeze(layer)


class _Anything:
    """Equal to whatever it is compared with."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


_WHATEVER_IS_CACHED = {CALL_CACHE: _Anything()}
"""A layer's attributes, with this among them, hold no cache, and compare as if they did."""


class _Record:
    """Everything that the plans of ``layers`` were drawn from: their modules, and the attributes, parameters and hooks
    of these.

    The layers and their attributes are not held: they hold the record (layers/call_cache.py), and should die when their
    last user lets go, not when Python next looks for circles.
    """

    def __init__(self, layers: Sequence[nn.Module], family: LayerFamily) -> None:
        for layer in layers:
            call_cache(layer)  # before their attributes are noted
        self.family = family
        self.below = [module for layer in layers for module in list(layer.modules())[1:]]
        modules = [*layers, *self.below]
        self.types = list(map(type, modules))
        self.classes = list({c: None for m in modules for c in classes_of(type(m))})
        self.code = code_of(self.classes)
        self.outside = list(map(family.outside, layers))
        # Compared as a whole, by the interpreter's own comparison of lists and dicts, which looks no further where it
        # finds the same object. Parameters by identity: tensors do not compare to a truth value, or only by theirs.
        inner = ("_buffers", "_modules", *HOOKS)
        self.attributes = [layer.__dict__ | _WHATEVER_IS_CACHED for layer in layers]
        self.live = [m.__dict__ for m in self.below] + [m.__dict__[name] for m in modules for name in inner]
        self.seen = [dict(d) for d in self.live]
        self.holders = [m._parameters for m in modules]
        self.parameters = self._parameters_now()

    def _parameters_now(self) -> list[int]:
        return list(map(id, chain.from_iterable(map(dict.values, self.holders))))

    def fits(self, layers: Sequence[nn.Module]) -> bool:
        """Whether they are as they were."""
        if any(GLOBAL_HOOKS):
            return False
        try:
            return (
                [layer.__dict__ for layer in layers] == self.attributes
                and self.live == self.seen
                and self._parameters_now() == self.parameters
                and list(map(type, (*layers, *self.below))) == self.types
                and code_of(self.classes) == self.code
                and bool(list(map(self.family.outside, layers)) == self.outside)
            )
        except Exception:  # attributes that do not compare, such as tensors
            return False


class _Plan(NamedTuple):
    """The plan of one layer."""

    plan: LayerPlan
    record: _Record


def plan_of(layer: nn.Module, family: LayerFamily) -> LayerPlan:
    """The plan of ``layer`` as it is now."""
    if torch.compiler.is_compiling() or under_transform():
        return LayerPlan(layer, family)
    cache = known_calls(layer)
    known: _Plan | None = None if cache is None else cache.plan
    if known is not None and known.record.fits([layer]):
        return known.plan
    plan = LayerPlan(layer, family)
    if not any(GLOBAL_HOOKS):
        call_cache(layer).plan = _Plan(plan, _Record([layer], family))
    return plan


class _Plans(NamedTuple):
    """The plans of several layers, looked at together, which is quicker."""

    layers: list[nn.Module]
    plans: list[LayerPlan]
    record: _Record


def plans_of(owner: nn.Module, layers: list[nn.Module], family: LayerFamily) -> list[LayerPlan]:
    """The plans of the ``layers`` of ``owner`` as they are now."""
    cache = known_calls(owner)
    known: _Plans | None = None if cache is None else cache.plans
    if known is not None and known.layers == layers and known.record.family is family and known.record.fits(layers):
        return known.plans
    plans = [plan_of(layer, family) for layer in layers]
    if not any(GLOBAL_HOOKS):
        cache = call_cache(owner)
        cache.plans = _Plans(layers, plans, _Record(layers, family))
        for layer in layers:
            call_cache(layer).in_plans_of.add(cache)
    return plans


def forget_plan(layer: nn.Module) -> None:
    """Lets go of the tensors in the plan of ``layer``."""
    if known := known_calls(layer):
        known.plan = None
        for owner in known.in_plans_of:
            owner.plans = None


def fused_or_none(
    layer: nn.Module, plan: LayerPlan, hidden_states: Tensor, attention_mask: Tensor | None
) -> Tensor | None:
    """``fused_layer``, or None where it must not run. A reason that lies in the input, not in the modules, is kept for
    :func:`squeezebert_kernels.report`."""
    if plan.reason is not None:
        return None
    reason = why_no_kernel(hidden_states)
    remember_fallback(layer, reason)
    return fused_layer(layer, plan, hidden_states, attention_mask) if reason is None else None


def remember_fallback(layer: nn.Module, reason: str | None) -> None:
    """Keeps what in the last call of ``layer`` kept it from running fused (None: nothing)."""
    if torch.compiler.is_compiling():
        return
    if cache := known_calls(layer) if reason is None else call_cache(layer):
        cache.fallback = reason


def last_fallback(layer: nn.Module) -> str | None:
    """What :func:`remember_fallback` was told last."""
    cache = known_calls(layer)
    return None if cache is None else cache.fallback
