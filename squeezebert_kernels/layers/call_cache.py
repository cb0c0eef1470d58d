"""What calls of a module leave for its next calls: in the module itself, so that it dies with it.

A weak dictionary of modules would not do. Its values hold what a module's hooks and attributes refer to, and these
often refer back to the module (accelerate's hooks, helpers that collect activations): the dictionary would keep its
own keys alive for ever. In the module, such a circle is one that Python's garbage collector sees.
"""

from __future__ import annotations

import weakref
from typing import Any

from torch import nn

from .marks import CALL_CACHE


class CallCache:
    """Of one module. Copies of the module, pickled ones too, begin with an empty one."""

    __slots__ = ("__weakref__", "_module", "fallback", "graphs", "in_plans_of", "plan", "plans")

    def __init__(self, module: nn.Module | None = None) -> None:
        self._module = None if module is None else weakref.ref(module)
        self.plan: Any = None
        """Of a layer: layers.fused_layer."""
        self.plans: Any = None
        """Of an encoder, the plans of its layers: layers.fused_layer."""
        self.in_plans_of: weakref.WeakSet[CallCache] = weakref.WeakSet()
        """The encoders whose ``plans`` hold this layer's."""
        self.fallback: str | None = None
        """What kept the last call from running fused, where that was its input."""
        self.graphs: Any = None
        """Of an encoder: layers.cuda_graphs."""

    def __reduce__(self) -> tuple[type[CallCache], tuple[()]]:
        return CallCache, ()

    def is_of(self, module: nn.Module) -> bool:
        """Whether it is this module's. A shallow copy, such as a replica of DataParallel, has another module's."""
        return self._module is not None and self._module() is module


def known_calls(module: nn.Module) -> CallCache | None:
    """The cache of ``module``, if it has one."""
    found = module.__dict__.get(CALL_CACHE)
    return found if found is not None and found.is_of(module) else None


def call_cache(module: nn.Module) -> CallCache:
    """The cache of ``module``, which has one from now on."""
    found = known_calls(module)
    if found is None:
        found = module.__dict__[CALL_CACHE] = CallCache(module)
    return found
