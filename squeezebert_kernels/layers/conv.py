"""Drop-in grouped 1x1 convolutions on the kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .. import ops
from ..ops import validation
from ..ops.torch_state import target_of_export
from ..weights.packing import PackedWeights, changes_unseen
from ..weights.stand_ins import freeze
from .marks import COMPUTE, PACKED_CONV

__all__ = [
    "GroupedPointwiseConv1d",
    "GroupedPointwiseConv2d",
    "TokenMajorConv1d",
    "compute_dtype",
    "on_token_major",
    "why_not_pointwise",
]


def compute_dtype(module: nn.Module) -> str:
    """What the kernels under ``module`` multiply in: "float32", or what :func:`optimize` was asked for."""
    return module.__dict__.get(COMPUTE, "float32")


class _GroupedPointwiseConv:
    """What the 1d and the 2d module share; a mixin in front of nn.Conv1d or nn.Conv2d."""

    channels_last = False

    def _check_pointwise(self: Any) -> None:
        reason = why_not_pointwise(self)
        if reason:
            raise ValueError(f"{type(self).__name__}: {reason}")

    def _packed_weights(self: Any) -> PackedWeights:
        if changes_unseen(self):
            return PackedWeights(kept=False)
        packed = self.__dict__.get(PACKED_CONV)
        if packed is None:
            packed = self.__dict__[PACKED_CONV] = PackedWeights()
        return packed

    def freeze_weight(self: Any) -> None:
        """Leaves the packed weight as the only one."""
        packed = self._packed_weights().get([self.weight], [self.groups], dtype=compute_dtype(self))
        if packed is not None:
            freeze([self], packed, [self.groups], 0, compute_dtype(self))
            del self.__dict__[PACKED_CONV]

    def _token_major(self: Any, x: Tensor) -> Tensor:
        packed = self._packed_weights().get([self.weight], [self.groups], dtype=compute_dtype(self), x=x)
        return ops.grouped_pointwise_conv(x, self.weight, self.bias, groups=self.groups, packed=packed)

    def _channels_first(self: Any, x: Tensor, spatial: int) -> Tensor:
        validation.check_tensor("input", x)
        if x.dim() not in (spatial + 1, spatial + 2):
            raise ValueError(
                f"input must have {spatial + 1} (unbatched) or {spatial + 2} dimensions, got shape {list(x.shape)}"
            )
        y = self._token_major(x.movedim(-spatial - 1, -1)).movedim(-1, -spatial - 1)
        return y if self._gives_channels_last(x) else y.contiguous()

    def _gives_channels_last(self, x: Tensor) -> bool:
        """nn.Conv2d keeps the channels_last memory format; everything else comes out contiguous."""
        return x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()

    def _as_torch(self: Any, x: Tensor) -> Tensor:
        """What torch's own class does, which other software knows."""
        if self.channels_last:
            return self._conv_forward(x.transpose(-1, -2), self.weight, self.bias).transpose(-1, -2)
        return self._conv_forward(x, self.weight, self.bias)

    def forward(self: Any, input: Tensor) -> Tensor:
        if isinstance(input, torch.fx.Proxy):  # torch.fx makes a leaf of every nn.Conv1d; of this class too
            tracer: Any = input.tracer
            return tracer.create_proxy("call_module", tracer.path_of_module(self), (input,), {})
        if target_of_export() is not None:
            return self._as_torch(input)
        if self.channels_last:
            return self._token_major(input)
        return self._channels_first(input, self.weight.dim() - 2)


class GroupedPointwiseConv1d(_GroupedPointwiseConv, nn.Conv1d):
    """nn.Conv1d with kernel_size=1 on the kernels; same parameters and state dict.

    Input and output are [N, C, L] or [C, L]; with ``channels_last=True`` they are token-major, [..., C].

    Args:
        channels_last: see above; the other arguments are those of nn.Conv1d.

    Raises:
        ValueError: kernel size, stride, padding or dilation are not those of a 1x1 convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any = 1,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Any = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        channels_last: bool = False,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype
        )
        self._check_pointwise()
        self.channels_last = channels_last


class TokenMajorConv1d(GroupedPointwiseConv1d):
    """GroupedPointwiseConv1d between token-major activations, whose channels lie closest in memory.

    Shapes are nn.Conv1d's, [N, C, L], so that hooks, adapters (peft) and quantizers find what they know. The output is
    a transposed view of [N, L, C]. Given such a view, nothing is copied. See :func:`on_token_major`.
    """

    def _gives_channels_last(self, x: Tensor) -> bool:
        return True


def on_token_major(conv: nn.Module, x: Tensor) -> Tensor:
    """``conv``, with the shapes of an nn.Conv1d, on token-major activations: [N, L, C_in] to [N, L, C_out]."""
    return conv(x.transpose(1, 2)).transpose(1, 2)


class GroupedPointwiseConv2d(_GroupedPointwiseConv, nn.Conv2d):
    """nn.Conv2d with kernel_size=1 on the kernels; same parameters and state dict.

    Input and output are [N, C, H, W] or [C, H, W]. An input in torch.channels_last memory format is read without a
    copy and gives an output in that format; otherwise the output is contiguous.

    Args and Raises: those of nn.Conv2d; ValueError where they do not make a 1x1 convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any = 1,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Any = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype
        )
        self._check_pointwise()


def why_not_pointwise(conv: Any) -> str | None:
    """Why ``conv`` (an nn.Conv1d or nn.Conv2d) is not a 1x1 convolution that the kernels compute; None if it is."""
    for name, wanted in (("kernel_size", 1), ("stride", 1), ("dilation", 1), ("padding", 0)):
        value = getattr(conv, name)
        if isinstance(value, str) or any(v != wanted for v in value):
            return f"{name} must be {wanted}, got {value}"
    return None
