"""Packed weights of a module: made at first use, kept out of the state dict, remade when a weight changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

from .. import ops
from ..ops.dtypes import KERNEL_DTYPES
from ..ops.torch_state import is_tracing, under_transform
from .stand_ins import QuantizedRows, packed_of

_ops = torch.ops.squeezebert_kernels
_PACKABLE = (torch.nn.Parameter, Tensor, QuantizedRows)


class _Stamp:
    """What one weight was when it was packed.

    When a tensor dies, another one can get its address and version number. So the tensor itself is part of the stamp,
    and is held (torch swaps no tensors that are weakly referenced). Inference tensors have no version; a sample of
    their values stands in for it.
    """

    def __init__(self, weight: Tensor) -> None:
        self.tensor = weight
        self.address, self.dtype = weight.data_ptr(), weight.dtype
        self.version = None if weight.is_inference() else weight._version

    def fits(self, weight: Tensor) -> bool:
        return (
            self.tensor is weight
            and self.address == weight.data_ptr()
            and self.dtype is weight.dtype
            and (self.version is None or self.version == weight._version)
        )


_ALL = 8192
"""Parts into which a weight is divided, and the tokens within which all of them are looked at."""
_SMALL = 24
"""Weights of so few checksums, one for 4096 bytes, are looked at wholly in every call."""


class _Watch:
    """Looks for changes that torch does not record, at some of the memory of every weight in every call.

    All of it would cost as much time as a small call takes to read its weights. So each call looks at what follows that
    of the last one (memory is read fastest in order), at the more of it the more it computes, at 4096 bytes at least.
    """

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self.sums = _ops.checksums.default(weights)
        self.is_small = self.sums.numel() <= _SMALL
        self.next = 0

    def sees_no_change(self, weights: Sequence[Tensor], tokens: int) -> bool:
        """Looks at what is the turn of a call with so many tokens."""
        if self.is_small or tokens >= _ALL:
            return self.nothing_changed(weights)
        first, self.next = self.next, (self.next + tokens) % _ALL
        return _ops.same_checksums.default(weights, self.sums, first, tokens)

    def nothing_changed(self, weights: Sequence[Tensor]) -> bool:
        """Looks at everything."""
        return _ops.same_checksums.default(weights, self.sums, 0, _ALL)


def _note_fused_step(optimizer: Any, *_: Any) -> None:
    """Fused optimizers change parameters without telling their version counters."""
    for group in optimizer.param_groups:
        if group.get("fused"):
            torch.autograd.graph.increment_version([p for p in group["params"] if not p.is_inference()])


register_optimizer_step_post_hook(_note_fused_step)


def changes_unseen(module: torch.nn.Module) -> bool:
    """Whether ``fully_shard`` manages ``module``: it fills the same parameters anew for every call, and preserves their
    version counters, often at the same address."""
    return module.__dict__.get("_is_fsdp_managed_module", False)


class _State(NamedTuple):
    """What was packed, and from what."""

    dtype: str
    stamps: list[_Stamp]
    packed: Tensor
    watch: _Watch | None

    def fits(self, weights: Sequence[Tensor]) -> bool:
        """Whether ``weights`` are what was packed, as far as torch knows."""
        for stamp, weight in zip(self.stamps, weights):  # noqa: SIM110  (a generator costs a microsecond in every call)
            if not stamp.fits(weight):
                return False
        return True


class PackedWeights:
    """The packed form of the weights of one op, remade when their version, storage, dtype or device changes.

    A change that torch does not record (``weight.data.add_(...)``) is noticed by checksums (_Watch).
    """

    def __init__(self, *, kept: bool = True) -> None:
        """``kept``: for more than one call."""
        self._kept = kept
        # One attribute, so that a thread never sees the stamps of one state and the buffer of another.
        self._state: _State | None = None

    def get(
        self,
        weights: Sequence[Tensor],
        groups: Sequence[int],
        num_heads: int = 0,
        dtype: str = "float32",
        x: Tensor | None = None,
    ) -> Tensor | None:
        """The weights packed for ``dtype``, or None where the op has to pack on its own (no CPU kernels for them).

        ``x``, [..., channels], is what they are multiplied with: a large one pays for a closer look at them.

        While tracing, packing becomes part of the graph: slower, but never stale.
        """
        tracing = is_tracing()
        if self._state is not None and not tracing:
            state = self._state
            if state.dtype == dtype and state.fits(weights):
                tokens = 1 if x is None else x.numel() // (x.shape[-1] or 1)
                if state.watch is None or state.watch.sees_no_change(weights, tokens):
                    return state.packed
        if not tracing and (only_copy := packed_of(weights, dtype)) is not None:
            return only_copy
        if any(w.device.type not in ("cpu", "meta") or w.dtype not in KERNEL_DTYPES for w in weights):
            return None
        if under_transform():  # weights may have no storage, and the reference does the work
            return None
        if tracing:
            return None if dtype == "float32" else ops.pack(weights, groups, num_heads=num_heads, dtype=dtype)
        if any(w.device.type != "cpu" or type(w) not in _PACKABLE for w in weights):
            return None
        stamps = [_Stamp(w) for w in weights]
        # Under inference_mode the buffer would become an inference tensor, which autograd refuses later.
        with torch.inference_mode(False), torch.no_grad():
            packed = ops.pack(weights, groups, num_heads=num_heads, dtype=dtype)
            watched = self._kept and not any(isinstance(w, QuantizedRows) for w in weights)  # those are read-only
            self._state = _State(dtype, stamps, packed, _Watch(weights) if watched else None)
        return packed

    def forget_if_changed(self) -> bool:
        """Looks at every value. Whether one differs from what was packed, which is forgotten then."""
        state = self._state
        if state is None:
            return False
        weights = [stamp.tensor for stamp in state.stamps]
        if state.fits(weights) and (state.watch is None or state.watch.nothing_changed(weights)):
            return False
        self._state = None
        return True

    @property
    def nbytes(self) -> int:
        """Size of the packed copy in bytes, 0 before first use."""
        return 0 if self._state is None else self._state.packed.numel()

    # A copied or unpickled module has other weights: it packs its own.
    def __deepcopy__(self, memo: object) -> PackedWeights:
        return PackedWeights()

    def __reduce__(self) -> tuple[type[PackedWeights], tuple[()]]:
        return (PackedWeights, ())
