"""Tensor parallelism for the drop-in classes: every process computes some heads and groups of every layer.

Parameters of the convolutions become DTensors; activations stay plain tensors, so that the kernels run as they always
do, with the groups of one process. A convolution's number of groups is an int in its op, which DTensor's sharding rules
cannot change from process to process: hence modules of their own instead of rules for the ops.

Importing this module imports torch.distributed.tensor; nothing else in the package does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard, distribute_tensor

from .. import ops
from ..layers.conv import TokenMajorConv1d, compute_dtype
from ..layers.marks import PACKED_CONV
from ..models.squeezebert import ConvActivation, SqueezeBertModule, SqueezeBertSelfAttention
from ..weights.packing import PackedWeights

__all__ = ["parallelize"]


def parallelize(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Shards every SqueezeBERT layer of ``model`` over the processes of ``mesh``, in place.

    Every process calls it with a model of the same configuration, and later with the same inputs; all get the same
    outputs. Weights are those of the first process of ``mesh``. Sharded parameters are DTensors, all others stay plain
    tensors and are the same in every process; gradients likewise, so make the optimizer afterwards, and step it and
    clip gradients under ``torch.distributed.tensor.experimental.implicit_replication()``.

    With n processes: n divides the number of heads; the groups of query, key, value and intermediate are a multiple or
    a divisor of n, those of post_attention and output a multiple of n, or 1.

    Args:
        model: a drop-in model or layer (``squeezebert_kernels.SqueezeBert*``), not changed by other code.
        mesh: of one dimension, on the device type of the model.

    Returns:
        ``model``. Its layers run child by child, each convolution on the kernels; ``report`` says so.

    Raises:
        TypeError: ``model`` or ``mesh`` is something else.
        ValueError: ``model`` has no such layers, or they cannot be split like that; ``model`` is unchanged then.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if not isinstance(mesh, DeviceMesh):
        raise TypeError(f"mesh must be a torch.distributed DeviceMesh, got {type(mesh).__name__}")
    if mesh.ndim != 1:
        raise ValueError(f"mesh must have one dimension, got {mesh.ndim}: take one by its name, such as mesh['tp']")
    layers = {name: module for name, module in model.named_modules() if isinstance(module, SqueezeBertModule)}
    if not layers:
        raise ValueError(
            "model must have layers of the drop-in classes (squeezebert_kernels.SqueezeBert*), but "
            f"{type(model).__name__} has none: load the checkpoint with one of them"
        )
    for name, layer in layers.items():
        _check(name, layer, mesh.size())
    inside = {id(conv) for layer in layers.values() for conv in (*_columns(layer), *_rows(layer))}
    sharded = {id(p) for module in model.modules() if id(module) in inside for p in module.parameters(recurse=False)}
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if id(tensor) not in sharded:
                tensor.copy_(distribute_tensor(tensor.detach(), mesh, [Replicate()]).to_local())
    for layer in layers.values():
        _shard(layer, mesh)
    by_head = {id(layer.attention.dropout) for layer in layers.values()}
    for module in model.modules():
        if type(module) is nn.Dropout and id(module) not in by_head:
            module.__class__ = ReplicatedDropout
            module.mesh = mesh  # type: ignore[assignment]
    return model


def _columns(layer: Any) -> Iterator[Any]:
    """Convolutions that make some of their output channels out of what every process has."""
    yield from (layer.attention.query, layer.attention.key, layer.attention.value, layer.intermediate.conv1d)


def _rows(layer: Any) -> Iterator[Any]:
    """Convolutions that read the channels of their process, and give all output channels to every process."""
    yield from (layer.post_attention.conv1d, layer.output.conv1d)


def _check(name: str, layer: Any, n: int) -> None:
    where = f"layer {name!r}" if name else "layer"
    for conv in (*_columns(layer), *_rows(layer)):
        if type(conv) is not TokenMajorConv1d or type(conv.weight) is not nn.Parameter:
            raise ValueError(
                f"{where} has a {type(conv).__name__} with a {type(conv.weight).__name__} for a weight: parallelize() "
                "wants convolutions as the drop-in class made them"
            )
    heads = layer.attention.num_attention_heads
    if heads % n:
        raise ValueError(f"{where} has {heads} heads, which {n} processes cannot share")
    for conv in _columns(layer):
        if conv.out_channels % n or (conv.groups % n and n % conv.groups):
            raise ValueError(
                f"{where} has a convolution of {conv.groups} groups to {conv.out_channels} channels: groups must be a "
                f"multiple or a divisor of the {n} processes, which must divide the channels"
            )
    for conv in _rows(layer):
        if conv.in_channels % n or (conv.groups % n and conv.groups != 1):
            raise ValueError(
                f"{where} has a convolution of {conv.groups} groups from {conv.in_channels} channels: groups must be 1 "
                f"or a multiple of the {n} processes, which must divide the channels"
            )


def _shard(layer: Any, mesh: DeviceMesh) -> None:
    for conv in _columns(layer):
        _distribute(conv, mesh, Shard(0), Shard(0))
        conv.__class__ = ColumnParallelConv1d
    for conv in _rows(layer):
        if conv.groups == 1:
            _distribute(conv, mesh, Shard(1), Replicate())
        else:
            _distribute(conv, mesh, Shard(0), Shard(0))
        conv.__class__ = RowParallelConv1d
    attention = layer.attention
    attention.num_attention_heads //= mesh.size()
    attention.all_head_size //= mesh.size()
    attention.__class__ = HeadParallelAttention
    layer.intermediate.__class__ = ColumnParallelActivation


def _distribute(conv: nn.Module, mesh: DeviceMesh, *placements: Placement) -> None:
    for name, placement in zip(("weight", "bias"), placements):
        parameter = getattr(conv, name)
        if parameter is not None:
            shards = distribute_tensor(parameter.detach(), mesh, [placement])
            setattr(conv, name, nn.Parameter(shards, requires_grad=parameter.requires_grad))
    conv.__dict__.pop(PACKED_CONV, None)


def _to_each(x: Tensor, mesh: DeviceMesh, *, split: bool) -> Tensor:
    """What every process has of its channels (``split``), or all of it, into computations that differ by process.

    Backward, the gradients of the channels are collected, or those of all processes summed.
    """
    everywhere = DTensor.from_local(x, mesh, [Replicate()], run_check=False)
    if split:
        return everywhere.redistribute(placements=[Shard(-1)]).to_local()
    return everywhere.to_local(grad_placements=[Partial()])


def _to_all(x: Tensor, mesh: DeviceMesh, placement: Placement) -> Tensor:
    """Shards or summands of the processes, put together in every one of them."""
    return DTensor.from_local(x, mesh, [placement], run_check=False).redistribute(placements=[Replicate()]).to_local()


class _ParallelConv1d(TokenMajorConv1d):
    """A convolution of which this process has a part. Sizes and groups are those of the whole."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise TypeError(f"{type(self).__name__} is made by parallelize() only: add adapters to another model")

    @property
    def mesh(self) -> DeviceMesh:
        """The processes that share the convolution."""
        weight: Any = self.weight
        return weight.device_mesh

    def _own(self, x: Tensor, bias: Any) -> Tensor:
        whole: Any = self.weight
        weight, groups = whole.to_local(), max(self.groups // self.mesh.size(), 1)
        # In every call: a DTensor does not tell its local tensor's version counter of a change.
        packed = PackedWeights(kept=False).get([weight], [groups], dtype=compute_dtype(self))
        own_bias = None if bias is None else bias.to_local()
        return ops.grouped_pointwise_conv(x, weight, own_bias, groups=groups, packed=packed)


class ColumnParallelConv1d(_ParallelConv1d):
    """[..., C_in], or the input channels of this process, to its own of the output channels, [..., C_out/n]."""

    def splits_input(self) -> bool:
        """Whether no two processes read the same channels."""
        return self.groups % self.mesh.size() == 0

    def _token_major(self, x: Tensor) -> Tensor:
        n, rank = self.mesh.size(), self.mesh.get_local_rank()
        first_group, groups = rank * self.groups // n, max(self.groups // n, 1)
        channels = self.in_channels // self.groups
        if x.shape[-1] == self.in_channels:
            x = x.narrow(-1, first_group * channels, groups * channels)
        return self._own(x, self.bias)


class RowParallelConv1d(_ParallelConv1d):
    """The input channels of this process, [..., C_in/n], to all output channels in every process, [..., C_out]."""

    def _token_major(self, x: Tensor) -> Tensor:
        if self.groups > 1:
            return _to_all(self._own(x, self.bias), self.mesh, Shard(-1))
        bias: Any = self.bias
        y = _to_all(self._own(x, None), self.mesh, Partial())
        return y if bias is None else y + bias.to_local()


class ColumnParallelActivation(ConvActivation):
    """activation(conv(x)) of the channels of this process."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[batch, length, channels_in] to [batch, length, channels_out/n]."""
        conv: Any = self.conv1d
        return super().forward(_to_each(hidden_states, conv.mesh, split=conv.splits_input()))


class HeadParallelAttention(SqueezeBertSelfAttention):
    """The heads of this process; ``num_attention_heads`` counts those."""

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, output_attentions: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Arguments as SqueezeBertSelfAttention.forward; the context is [batch, length, channels/n]."""
        convs: Any = (self.query, self.key, self.value)
        mesh, heads = convs[0].mesh, self.num_attention_heads
        if attention_mask is not None and attention_mask.dim() >= 3 and attention_mask.shape[-3] > 1:
            attention_mask = attention_mask.narrow(-3, mesh.get_local_rank() * heads, heads)
        x = _to_each(hidden_states, mesh, split=all(conv.splits_input() for conv in convs))
        result = super().forward(x, attention_mask, output_attentions)
        if not isinstance(result, tuple):
            return result
        context, scores = result
        return context, _to_all(scores, mesh, Shard(1))


class ReplicatedDropout(nn.Dropout):
    """nn.Dropout of values that all processes share. The first process draws, so all drop the same for any seeds."""

    mesh: DeviceMesh

    def forward(self, input: Tensor) -> Tensor:
        """[...] to [...]."""
        if not self.training or self.p == 0:
            return input
        drawn = super().forward(torch.ones_like(input, requires_grad=False))
        return input * distribute_tensor(drawn, self.mesh, [Replicate()]).to_local()
