"""Padded batches at the cost of their real tokens: padding is left out between the first layer and the last."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .layers import LayerFamily, fused_layer, plan_of, remember_fallback
from .parts import has_hooks, why_no_kernel

_FLAG = "_sbk_skip_padding"


class Unpadded(NamedTuple):
    """The real tokens of a padded batch, one sequence behind the other."""

    tokens: Tensor  # [T, C]
    offsets: Tensor  # int64 [B + 1]
    rows: Tensor  # int64 [T]: the row of each token in the padded batch, flattened
    mask: Tensor  # additive, [B, 1, 1, S], of the padded batch
    shape: torch.Size  # of the padded batch, [B, S, C]

    def pad(self, tokens: Tensor) -> Tensor:
        """``tokens`` [T, C] back in a padded batch; the rows of padding are 0."""
        padded = tokens.new_zeros((self.shape[0] * self.shape[1], self.shape[2]))
        return padded.index_copy_(0, self.rows, tokens).view(self.shape)


def unpad(hidden_states: Tensor, attention_mask: Tensor | None) -> Unpadded | None:
    """Leaves out what stands behind the last token that ``attention_mask`` lets others attend to.

    The mask is additive or boolean, [B, 1, 1, S] or [B, 1, S, S] with equal rows; otherwise, and where there is nothing
    to leave out, the result is None. A wholly masked sequence keeps all of its rows; where the mask is boolean its
    context is 0, which no additive mask gives, and the result is None.
    """
    batch, length = hidden_states.shape[:2]
    if (
        attention_mask is None
        or length == 0
        or attention_mask.shape not in ((batch, 1, 1, length), (batch, 1, length, length))
    ):
        return None
    keys = attention_mask[:, 0, 0]
    if attention_mask.shape[2] > 1 and not torch.equal(attention_mask[:, 0], keys[:, None].expand(-1, length, -1)):
        return None
    if keys.dtype == torch.bool:
        if not keys.any(dim=1).all():
            return None
        # The kernels take no boolean mask with offsets.
        keys = hidden_states.new_zeros(keys.shape).masked_fill_(~keys, torch.finfo(hidden_states.dtype).min)
    real = keys > torch.finfo(keys.dtype).min / 2
    positions = torch.arange(1, length + 1, device=hidden_states.device)
    lengths = (real * positions).amax(dim=1)
    lengths = torch.where(lengths == 0, length, lengths)
    if int(lengths.sum()) == batch * length:
        return None
    rows = (positions <= lengths[:, None]).flatten().nonzero()[:, 0]
    offsets = nn.functional.pad(lengths.cumsum(0), (1, 0))
    return Unpadded(hidden_states.flatten(0, 1)[rows], offsets, rows, keys[:, None, None], hidden_states.shape)


def set_skip_padding(encoder: nn.Module, skip: bool) -> None:
    """Whether ``encoder`` leaves padding out: :func:`squeezebert_kernels.optimize`."""
    encoder.__dict__.pop(_FLAG, None)
    if skip:
        encoder.__dict__[_FLAG] = True


def skips_padding(encoder: nn.Module) -> bool:
    """What :func:`set_skip_padding` was told."""
    return encoder.__dict__.get(_FLAG, False)


def run_unpadded(
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

    That is: not asked for, gradients wanted, tracing, nothing to leave out, or a layer that does not run fused.
    ``why_not`` says why one that could does not in this call.
    """
    if not skips_padding(encoder) or torch.is_grad_enabled():
        return None
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return None
    if why_no_kernel(hidden_states) or hidden_states.device.type != "cpu":
        return None
    layers = list(layers)
    plans = [plan_of(layer, family) for layer in layers]
    if any(has_hooks(layer) or plan.reason or why_not(layer) for layer, plan in zip(layers, plans)):
        return None
    batch = unpad(hidden_states, attention_mask)
    if batch is None:
        return None
    states, tokens = [hidden_states], batch.tokens
    for layer, plan in zip(layers, plans):
        tokens = fused_layer(layer, plan, tokens, batch.mask, batch.offsets)
        remember_fallback(layer, None)
        if every_layer or layer is layers[-1]:
            states.append(batch.pad(tokens))
    return states
