"""Frees the original weights of a model whose parts run on their packed copies."""

from __future__ import annotations

from collections import Counter
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from ..layers.fused_layer import freeze_layer
from ..weights.stand_ins import freeze_rows
from .report import Report

__all__ = ["leave_one_copy"]


@torch.inference_mode(False)  # parameters must not become inference tensors, which autograd refuses later
@torch.no_grad()
def leave_one_copy(model: nn.Module, found: Report, *, embeddings: bool = False, only: type = Tensor) -> None:
    """Frees the originals of weights that run on the kernels according to ``found``, where they are tensors of type
    ``only``; with ``embeddings``, turns those into int8."""
    users = Counter(id(p) for module in model.modules() for p in module._parameters.values() if p is not None)
    shared = {key for key, count in users.items() if count > 1}
    for entry in found.entries:
        parameters = list(entry.module.parameters())
        if entry.state == "fallback" or not shared.isdisjoint(map(id, parameters)):
            continue
        if not any(isinstance(p, only) for p in parameters):
            continue
        module: Any = entry.module
        if entry.family is None:
            module.freeze_weight()
        else:
            freeze_layer(module, entry.family)
    if embeddings:
        for embedding in model.modules():
            if _can_be_int8(embedding, shared):
                freeze_rows(embedding)


def _can_be_int8(module: nn.Module, shared: set[int]) -> TypeGuard[nn.Embedding]:
    return (
        type(module) is nn.Embedding
        and module.max_norm is None  # its lookups write to the weight
        and type(module.weight) is nn.Parameter
        and id(module.weight) not in shared
        and bool(module.weight.isfinite().all())
    )
