"""Padded batches at the cost of their real tokens: padding is left out between the first layer and the last."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from .marks import SKIP_PADDING

__all__ = ["Unpadded", "set_skip_padding", "skips_padding", "unpad"]


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
    encoder.__dict__.pop(SKIP_PADDING, None)
    if skip:
        encoder.__dict__[SKIP_PADDING] = True


def skips_padding(encoder: nn.Module) -> bool:
    """What :func:`set_skip_padding` was told."""
    return encoder.__dict__.get(SKIP_PADDING, False)
