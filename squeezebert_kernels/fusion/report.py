"""What of a model runs on the kernels, and why the rest does not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from .. import _native
from ..layers.conv import GroupedPointwiseConv1d, GroupedPointwiseConv2d, compute_dtype, why_not_pointwise
from ..layers.fused_layer import LayerFamily, last_fallback, why_not_trained
from ..layers.parts import activation_name, own_class, why_not_fused
from ..models.squeezebert import FAMILY, SqueezeBertModule
from ..ops import devices
from ..ops.devices import why_no_kernel
from ..weights.packing import PackedWeights
from ..weights.stand_ins import PackedWeight, frozen_weights
from .stock_classes import BERT, SQUEEZEBERT, STOCK_BERT_LAYER, STOCK_SQUEEZEBERT_ENCODER, STOCK_TO_FUSED

# Fewer channels per group than this leave most lanes of a vector idle.
MIN_GROUP_CHANNELS = 4


@dataclass(frozen=True)
class Entry:
    """One part of a model.

    ``state`` is "fused", "kernel" (a convolution on its own), "partly" or "fallback"; ``dtype`` is what its kernels
    multiply in, "" where none run; ``module`` is the part itself, ``family`` what kind of layer it is, if one.
    """

    name: str
    kind: str
    state: str
    reason: str
    dtype: str
    module: nn.Module = field(repr=False, compare=False)
    family: LayerFamily | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Report:
    """The result of :func:`report`; ``str()`` gives a table."""

    model: str
    isa: str
    threads: int
    packed_bytes: int
    entries: tuple[Entry, ...]
    device: str | None = None
    """Of a model on a CUDA device: the device, Triton's version and the file of launch configurations."""

    @property
    def fused(self) -> tuple[Entry, ...]:
        """Parts that run on the kernels."""
        return tuple(e for e in self.entries if e.state in ("fused", "kernel"))

    @property
    def fallbacks(self) -> tuple[Entry, ...]:
        """Parts that do not, or not wholly."""
        return tuple(e for e in self.entries if e.state in ("partly", "fallback"))

    def __str__(self) -> str:
        where = f"ISA {self.isa}, {self.threads} threads, {self.packed_bytes / 2**20:.1f} MiB packed"
        head = (
            f"{self.model}: {len(self.fused)} of {len(self.entries)} parts on the kernels "
            f"({where if self.device is None else self.device})"
        )
        rows = [("part", "kind", "runs", "dtype", "why")]
        rows += [(e.name, e.kind, e.state, e.dtype, e.reason) for e in self.entries]
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip() for row in rows]
        return "\n".join([head, *lines]) if self.entries else head + "\nnothing in this model is for the kernels"


def conv_reason(conv: Any) -> str | None:
    """Why a stock grouped convolution is left alone; None if the kernels compute it."""
    reason = why_not_pointwise(conv)
    if reason is None and min(conv.in_channels, conv.out_channels) // conv.groups < MIN_GROUP_CHANNELS:
        reason = f"fewer than {MIN_GROUP_CHANNELS} channels per group"
    if reason is None and type(conv.weight) not in (nn.Parameter, torch.Tensor):
        reason = f"its weight is a {type(conv.weight).__name__}, not a plain tensor"
    return reason or why_no_kernel(conv.weight)


def _multiplied_in(module: nn.Module) -> str:
    parameter = next(module.parameters(), None)
    if parameter is None or not parameter.is_cuda:
        asked_for = compute_dtype(module)
        trained_low = module.training and parameter is not None and parameter.dtype == torch.bfloat16
        return "bfloat16" if trained_low and asked_for == "float32" else asked_for
    return str(parameter.dtype).removeprefix("torch.")


def _entry(
    name: str, kind: str, state: str, module: nn.Module, reason: str | None, family: LayerFamily | None = None
) -> Entry:
    dtype = "" if state == "fallback" else _multiplied_in(module)
    return Entry(name, kind, state, reason or "", dtype, module, family)


def _layer_entry(name: str, kind: str, layer: Any, family: LayerFamily, reason: str | None) -> Entry:
    reason = reason or family.why_not(layer)
    parts = None if reason else family.parts_of(layer)
    if parts is not None:
        reason = why_not_fused(parts) or why_not_trained(layer, parts) or why_no_kernel(parts.query.weight)
    if reason is None and (last := last_fallback(layer)) is not None:
        reason = f"in the last call: {last}"
    if reason is not None:
        return _entry(name, kind, "fallback", layer, reason, family)
    assert parts is not None
    if activation_name(parts.activation) is None:
        reason = f"activation {type(parts.activation).__name__} is not fused: a pass of its own"
        return _entry(name, kind, "partly", layer, reason, family)
    weight = parts.query.weight
    kept = None if weight.is_cuda or weight.dtype == torch.float32 else f"weights kept in {weight.dtype}"
    return _entry(name, kind, "fused", layer, kept, family)


def _entries(model: nn.Module) -> Iterator[Entry]:
    inside: list[str] = []  # prefixes whose convolutions an encoder layer accounts for
    for name, module in model.named_modules():
        if any(name.startswith(prefix) for prefix in inside):
            continue
        if isinstance(module, STOCK_SQUEEZEBERT_ENCODER):
            for i, layer in enumerate(module.layers):
                layer_name = f"{name}.layers.{i}".lstrip(".")
                inside.append(layer_name + ".")
                yield _layer_entry(layer_name, "SqueezeBERT layer", layer, SQUEEZEBERT, _stock_reason(module))
        elif isinstance(module, STOCK_BERT_LAYER):
            inside.append(name + "." if name else "")
            yield _layer_entry(name, "BERT layer", module, BERT, _stock_reason(module))
        elif isinstance(module, SqueezeBertModule):
            inside.append(name + "." if name else "")
            yield _layer_entry(name, "SqueezeBERT layer", module, FAMILY, None)
        elif isinstance(module, (GroupedPointwiseConv1d, GroupedPointwiseConv2d)):
            reason = why_no_kernel(module.weight)
            yield _entry(name, "grouped 1x1 conv", "fallback" if reason else "kernel", module, reason)
        elif type(module) in (nn.Conv1d, nn.Conv2d) and module.groups > 1 and why_not_pointwise(module) is None:
            reason = conv_reason(module) or "not optimized: call optimize()"
            yield _entry(name, "grouped 1x1 conv", "fallback", module, reason)


def _stock_reason(module: nn.Module) -> str | None:
    if type(module) in STOCK_TO_FUSED:
        return "not optimized: call optimize()"
    if own_class(module) not in STOCK_TO_FUSED.values():
        return f"{type(module).__name__} is a subclass that the kernels do not know"
    if "forward" in module.__dict__:
        return f"{type(module).__name__}.forward is patched"
    return None


def _device(model: nn.Module) -> str | None:
    on_cuda = next((p for p in model.parameters() if p.is_cuda), None)
    if on_cuda is None or devices.why_no_triton(on_cuda.device.index) is not None:
        return None
    return devices.describe(on_cuda.device.index)


def _packed_bytes(model: nn.Module) -> int:
    only_copies = {id(w.packed): w.packed.numel() for _, _, w in frozen_weights(model) if isinstance(w, PackedWeight)}
    caches = (v.nbytes for m in model.modules() for v in m.__dict__.values() if isinstance(v, PackedWeights))
    return sum(only_copies.values()) + sum(caches)


def report(model: nn.Module) -> Report:
    """What of ``model`` runs on the kernels as it is now, what does not, and why.

    Reasons are those of the model's present state (hooks, replaced children, training with dropout, dtype, device) and
    of its last call (attention scores asked for).

    Raises:
        TypeError: ``model`` is not a torch.nn.Module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    return Report(
        type(model).__name__, _native.isa(), torch.get_num_threads(), _packed_bytes(model), tuple(_entries(model)),
        _device(model),
    )  # fmt: skip
