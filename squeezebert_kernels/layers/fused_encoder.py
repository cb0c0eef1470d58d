"""All layers of an encoder at once: where padding can be left out between them, or a CUDA graph replays them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..ops import validation
from ..ops.devices import why_no_kernel
from ..ops.torch_state import is_tracing
from . import cuda_graphs
from .fused_layer import LayerFamily, LayerPlan, fused_layer, plans_of, remember_fallback
from .padding import skips_padding, unpad
from .parts import has_hooks

__all__ = ["run_layers", "runs_layers_at_once"]


def runs_layers_at_once(encoder: nn.Module, hidden_states: Tensor) -> bool:
    """Whether :func:`run_layers` may do anything for ``encoder``."""
    return skips_padding(encoder) or (isinstance(hidden_states, Tensor) and hidden_states.is_cuda)


def run_layers(
    encoder: nn.Module,
    layers: Iterable[Any],
    family: LayerFamily,
    hidden_states: Tensor,
    attention_mask: Tensor | None,
    *,
    every_layer: bool = False,
    why_not: Callable[[Any], str | None] = lambda layer: None,
) -> list[Tensor] | None:
    """The padded hidden states in front of the layers, of ``every_layer`` or none, and behind the last; None where the
    encoder must run as usual.

    That is: on a CPU without padding to leave out, where gradients are wanted, while tracing, or with a layer that does
    not run fused. ``why_not`` says why one that could does not in this call.
    """
    if torch.is_grad_enabled() or not runs_layers_at_once(encoder, hidden_states):
        return None
    if is_tracing() or type(hidden_states) is not Tensor:
        return None
    if why_no_kernel(hidden_states) is not None or hidden_states.is_meta or torch.is_autocast_enabled("cuda"):
        return None
    layers = list(layers)
    early = None
    if not hidden_states.is_cuda:
        cuda_graphs.forget(encoder)
    elif _may_be_a_graph(encoder, hidden_states) and (attention_mask is None or isinstance(attention_mask, Tensor)):
        # Looking at every module takes as long as the GPU takes for a small batch. So the graph of the last time is
        # launched first, and what comes of it counts only if nothing has changed.
        attention_mask = _mask_once(attention_mask, hidden_states)
        early = cuda_graphs.replay(encoder, every_layer, hidden_states, attention_mask)
    plans = plans_of(encoder, layers, family)
    if any(has_hooks(layer) or plan.reason or why_not(layer) for layer, plan in zip(layers, plans)):
        return None
    if any(any(plan.dropout_p) for plan in plans):
        return None
    if early is not None and early.graph.made_for == (plans, _pointers(plans)):
        states: list[Tensor] | None = early.states
    else:
        states = _run(encoder, layers, plans, hidden_states, attention_mask, every_layer)
    if states is None:
        return None
    for layer in layers:
        remember_fallback(layer, None)
    return [hidden_states, *states]


def _run(
    encoder: nn.Module, layers: Sequence[Any], plans: list[LayerPlan], x: Tensor, mask: Tensor | None, every_layer: bool
) -> list[Tensor] | None:
    batch = unpad(x, mask) if skips_padding(encoder) else None
    if batch is None and not x.is_cuda:
        return None
    run = _on_cuda if x.is_cuda and all(plan.activation for plan in plans) else _layer_by_layer
    if batch is not None:
        states = run(layers, plans, batch.tokens, batch.mask, batch.offsets, every_layer)
        return [batch.pad(tokens) for tokens in states]
    # A user's own activation runs as Python, which a graph would leave out.
    if run is _layer_by_layer or not _may_be_a_graph(encoder, x):
        return run(layers, plans, x, _mask_once(mask, x), None, every_layer)
    cuda_graphs.capture(
        encoder, lambda x, mask: run(layers, plans, x, mask, None, every_layer), every_layer, x, mask,
        made_for=(plans, _pointers(plans)), keep=[t for plan in plans for t in plan.tensors()],
    )  # fmt: skip
    replayed = cuda_graphs.replay(encoder, every_layer, x, mask)
    return run(layers, plans, x, mask, None, every_layer) if replayed is None else replayed.states


def _layer_by_layer(
    layers: Sequence[Any], plans: Sequence[LayerPlan], x: Tensor, mask: Tensor | None, offsets: Tensor | None,
    every_layer: bool,
) -> list[Tensor]:  # fmt: skip
    states = []
    for number, (layer, plan) in enumerate(zip(layers, plans), 1):
        x = fused_layer(layer, plan, x, mask, offsets)
        if every_layer or number == len(plans):
            states.append(x)
    return states


def _on_cuda(
    layers: Sequence[Any], plans: Sequence[LayerPlan], x: Tensor, mask: Tensor | None, offsets: Tensor | None,
    every_layer: bool,
) -> list[Tensor]:  # fmt: skip
    """``_layer_by_layer`` without the checks of the ops, and without autograd: their time is that of a kernel."""
    from .. import triton_kernels

    states = []
    for number, plan in enumerate(plans, 1):
        _check(plan, x, mask, offsets)
        x = triton_kernels.layer(plan.with_input(x, mask), plan.options, offsets)
        if every_layer or number == len(plans):
            states.append(x)
    return states


_MAX_KINDS = 64


def _check(plan: LayerPlan, x: Tensor, mask: Tensor | None, offsets: Tensor | None) -> None:
    """Raises where the tensors of a layer do not fit its input: as the ops do, once for each kind of input."""
    kinds = tuple(None if t is None else (t.shape, t.dtype, t.device) for t in (x, mask, offsets))
    key = (kinds, tuple(t.data_ptr() for t in plan.tensors()))
    if key in plan.checked:
        return
    tensors = plan.with_input(x, mask)
    validation.check_tensors(tensors._asdict(), like="x")
    validation.check_encoder_layer(tensors, plan.options, offsets)
    if len(plan.checked) >= _MAX_KINDS:
        plan.checked.clear()
    plan.checked.add(key)


def _pointers(plans: Sequence[LayerPlan]) -> list[int]:
    return [tensor.data_ptr() for plan in plans for tensor in plan.tensors()]


def _may_be_a_graph(encoder: nn.Module, x: Tensor) -> bool:
    if not x.is_cuda or not cuda_graphs.uses_cuda_graphs(encoder) or skips_padding(encoder):
        return False
    return 0 < x.numel() <= cuda_graphs.MAX_TOKENS * x.shape[-1] and not torch.cuda.is_current_stream_capturing()


def _mask_once(mask: Tensor | None, x: Tensor) -> Tensor | None:
    """What every layer would make of ``mask``: without copies of its only row of queries, additive (see ops)."""
    if not isinstance(mask, Tensor):  # which only the layer itself knows to read
        return mask
    if mask.dim() >= 2 and mask.stride(-2) == 0:
        mask = mask.narrow(-2, 0, 1)
    if mask.dtype == torch.bool and x.is_cuda:
        mask = torch.zeros_like(mask, dtype=x.dtype).masked_fill(~mask, -torch.inf)
    return mask
