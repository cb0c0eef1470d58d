"""Weights in one copy: parameters that exist only in the form in which they are read.

An optimized module has its weights twice: as the parameters of its state dict, and packed for the kernels. In place of
the former, :func:`freeze` puts tensors that have a shape and a dtype but no values of their own. Code that asks for
values (``state_dict``, a layer that falls back, a gradient of the inputs) gets a dense tensor, made anew each time. A
kernel, which reads what was packed, gets the shape alone.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from multiprocessing.reduction import ForkingPickler
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from .. import ops
from ..ops.torch_state import target_of_export

__all__ = [
    "FrozenWeight",
    "PackedWeight",
    "QuantizedRows",
    "for_kernels",
    "freeze",
    "freeze_rows",
    "frozen_weights",
    "int8_state_dict",
    "is_own_hook",
    "packed_of",
    "put",
    "return_memory",
    "thaw",
]

aten = torch.ops.aten
_SAME = (aten.detach.default, aten.alias.default, aten.clone.default)
_PACKED_ARGUMENTS = ("packed", "attention_packed", "post_packed")


class FrozenWeight(Tensor):
    """A tensor that is made when its values are asked for. It cannot be written to."""

    trainable = False
    """Whether the parameter that it stands for required gradients."""
    _inner: tuple[str, ...] = ()
    """The attributes that are tensors; the others are in ``_context``."""

    def dense(self) -> Tensor:
        """The values, as a plain tensor of this shape and dtype."""
        raise NotImplementedError

    @property
    def compute(self) -> str | None:
        """The only dtype whose kernels can read it (see :func:`ops.pack`); None if any."""
        raise NotImplementedError

    @property
    def is_int8(self) -> bool:
        """Whether the values are int8 with a scale per row."""
        raise NotImplementedError

    def int8(self) -> tuple[Tensor, Tensor]:
        """int8 values in this shape and float32 scales [rows], where ``is_int8``."""
        raise NotImplementedError

    def _context(self) -> tuple[Any, ...]:
        raise NotImplementedError

    def again(self) -> FrozenWeight:
        """Another tensor on the same memory."""
        return type(self)(*(getattr(self, name) for name in self._inner), *self._context())

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _SAME:
            return args[0].again()
        if func is aten.embedding.default and isinstance(args[0], QuantizedRows):
            return args[0].rows(args[1])
        arguments = func._schema.arguments
        if func.namespace == "squeezebert_kernels" and _reads_packed(arguments, args, kwargs):
            return func(*map(for_kernels, args), **kwargs)
        for argument, value in zip(arguments, args):
            values = value if isinstance(value, (list, tuple)) else (value,)
            if argument.is_write and any(isinstance(v, FrozenWeight) for v in values):
                raise RuntimeError(
                    f"{func} would change a weight of which only the packed form is left (free_original=True): "
                    "call squeezebert_kernels.restore(model) first"
                )
        return func(*tree_map_only(FrozenWeight, _dense, args), **tree_map_only(FrozenWeight, _dense, kwargs))

    # torch.compile and torch.export look inside, and trace the making of the values.
    def __tensor_flatten__(self) -> tuple[list[str], tuple[Any, ...]]:
        return list(self._inner), self._context()

    @classmethod
    def __tensor_unflatten__(cls, inner: dict[str, Tensor], context: Any, size: Any, stride: Any) -> FrozenWeight:
        return cls(*(inner[name] for name in cls._inner), *context)

    @property
    def data(self) -> Tensor:
        """Another tensor on the same memory."""
        return self.again()

    @data.setter
    def data(self, value: Tensor) -> None:  # as Module.to does: with other values, the packed ones are of no use
        torch.utils.swap_tensors(self, nn.Parameter(value, requires_grad=self.trainable))

    def __setitem__(self, key: Any, value: Any) -> None:
        self.copy_(self.dense())  # raises: it would be lost otherwise

    def share_memory_(self) -> FrozenWeight:
        """Moves what it is made from to shared memory."""
        for name in self._inner:
            getattr(self, name).share_memory_()
        return self

    def _stable_hash_for_caching(self) -> str:  # of what a compiled graph depends on, for torch's cache of graphs
        return f"{type(self).__name__}{tuple(self.shape)}{self._context()}"

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copied = _stand_in(self.again(), self) if isinstance(self, nn.Parameter) else self.again()
        memo[id(self)] = copied
        return copied

    def __reduce_ex__(self, protocol: Any) -> Any:
        # It may be unpickled on another CPU, which packs anew. Not so in another process of this machine: _shared.
        dense = self.dense()
        if isinstance(self, nn.Parameter):
            return (nn.Parameter, (dense, self.trainable))
        return dense.__reduce_ex__(protocol)

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"{type(self).__name__}(shape={list(self.shape)}, dtype={self.dtype})"


def _dense(weight: FrozenWeight) -> Tensor:
    return weight.dense()


def for_kernels(tensor: Any) -> Any:
    """What a kernel that finds its weights packed gets for ``tensor``: of a frozen weight a tensor of its shape, one
    element large; anything else as it is."""
    if not isinstance(tensor, FrozenWeight):
        return tensor
    return torch.empty(1, dtype=tensor.dtype).expand(tensor.shape)


def _reads_packed(arguments: Sequence[Any], args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    """Whether an op with these arguments finds its weights packed. Not while tracing, which needs the values."""
    if torch.compiler.is_compiling() or not isinstance(args[0], Tensor):
        return False
    given = {argument.name: value for argument, value in zip(arguments, args)} | kwargs
    packed = [given.get(argument.name) for argument in arguments if argument.name in _PACKED_ARGUMENTS]
    return bool(packed) and all(type(p) is Tensor for p in packed)


class Layout(NamedTuple):
    """What ``ops.pack`` was called with: all that it takes to unpack."""

    shapes: tuple[tuple[int, ...], ...]
    groups: tuple[int, ...]
    num_heads: int
    compute: str


class PackedWeight(FrozenWeight):
    """One weight out of a result of ``ops.pack``."""

    _inner = ("packed",)

    @staticmethod
    def __new__(cls, packed: Tensor, layout: Layout, section: int, dtype: torch.dtype) -> Any:
        """A tensor of the section's shape, without memory."""
        return Tensor._make_wrapper_subclass(cls, layout.shapes[section], dtype=dtype, device=packed.device)

    def __init__(self, packed: Tensor, layout: Layout, section: int, dtype: torch.dtype) -> None:
        self.packed, self.source, self.section = packed, layout, section

    def _context(self) -> tuple[Any, ...]:
        return (self.source, self.section, self.dtype)

    def _unpacked(self) -> tuple[Tensor, Tensor]:
        shapes, groups, num_heads, compute = self.source
        return ops.unpack(self.packed, shapes, groups, self.section, num_heads=num_heads, dtype=compute)

    def dense(self) -> Tensor:
        if torch.compiler.is_compiling() and target_of_export() is not None:
            raise RuntimeError(
                "torch.onnx.export(dynamo=True) cannot read packed weights (free_original=True, int8 checkpoints): "
                "call squeezebert_kernels.restore(model) first, or export with dynamo=False"
            )
        values, scale = self._unpacked()
        if self.is_int8:
            values = values * scale[:, None]
        return values.view(self.shape).to(self.dtype)

    @property
    def compute(self) -> str | None:
        return self.source.compute

    @property
    def is_int8(self) -> bool:
        return self.source.compute == "int8"

    def int8(self) -> tuple[Tensor, Tensor]:
        values, scale = self._unpacked()
        return values.view(self.shape), scale


class QuantizedRows(FrozenWeight):
    """int8 values [rows, ...] and a float32 scale [rows]: an embedding, or a weight out of an int8 checkpoint."""

    _inner = ("quantized", "scale")

    @staticmethod
    def __new__(cls, values: Tensor, scale: Tensor, dtype: torch.dtype) -> Any:
        """A tensor of the shape of ``values``, without memory."""
        return Tensor._make_wrapper_subclass(cls, values.shape, dtype=dtype, device=values.device)

    def __init__(self, values: Tensor, scale: Tensor, dtype: torch.dtype) -> None:
        self.quantized, self.scale = values, scale

    def _context(self) -> tuple[Any, ...]:
        return (self.dtype,)

    def dense(self) -> Tensor:
        return (self.quantized * self.scale.view(-1, *[1] * (self.dim() - 1))).to(self.dtype)

    @property
    def compute(self) -> str | None:
        return None

    @property
    def is_int8(self) -> bool:
        return True

    def int8(self) -> tuple[Tensor, Tensor]:
        return self.quantized, self.scale

    def rows(self, indices: Tensor) -> Tensor:
        """The rows at ``indices``: what torch.nn.functional.embedding gives."""
        # Each by torch's own lookup, for its checks of the indices.
        scale = aten.embedding.default(self.scale[:, None], indices)
        return (aten.embedding.default(self.quantized, indices) * scale).to(self.dtype)


def _shared(frozen: FrozenWeight) -> tuple[Any, ...]:
    """How multiprocessing sends ``frozen``: what it is made from goes to shared memory, as torch's own tensors do.

    Dense values would be temporary. The receiver finds them closed, or finds others in their place, because torch
    sends a file descriptor and expects the tensor behind it to live on.
    """
    inner = tuple(getattr(frozen, name) for name in frozen._inner)
    return (_received, (type(frozen), inner, frozen._context(), isinstance(frozen, nn.Parameter), frozen.trainable))


def _received(cls: Any, inner: Sequence[Tensor], context: Sequence[Any], is_parameter: bool, trainable: bool) -> Any:
    frozen = cls(*inner, *context)
    if not is_parameter:
        return frozen
    parameter: Any = nn.Parameter(frozen, requires_grad=False)
    parameter.trainable = trainable
    return parameter


for _kind in (PackedWeight, QuantizedRows):
    ForkingPickler.register(_kind, _shared)


def packed_of(weights: Sequence[Tensor], dtype: str) -> Tensor | None:
    """The packed buffer of which exactly these ``weights`` are left, if kernels for ``dtype`` read it."""
    first = weights[0]
    if not isinstance(first, PackedWeight) or first.source.compute != dtype or len(first.source.shapes) != len(weights):
        return None
    for section, weight in enumerate(weights):
        if not isinstance(weight, PackedWeight) or weight.packed is not first.packed or weight.section != section:
            return None
    return first.packed


def _stand_in(frozen: FrozenWeight, weight: Tensor) -> nn.Parameter:
    """``frozen`` as a parameter in place of ``weight``."""
    parameter: Any = nn.Parameter(frozen, requires_grad=False)
    parameter.trainable = weight.trainable if isinstance(weight, FrozenWeight) else weight.requires_grad
    return parameter


def put(module: nn.Module, frozen: FrozenWeight) -> None:
    """Puts ``frozen`` in place of ``module.weight``; a state dict of ``module`` will hold its values."""
    module.weight = _stand_in(frozen, module.weight)  # type: ignore[arg-type]
    if _to_plain not in module._state_dict_hooks.values():
        module._register_state_dict_hook(_to_plain)
        module.register_forward_pre_hook(_dense_while_traced)
        module.register_forward_hook(_frozen_again, always_call=True)


def freeze(modules: Sequence[Any], packed: Tensor, groups: Sequence[int], num_heads: int, compute: str) -> None:
    """Leaves ``packed`` as the only copy of the weights of ``modules``, from which ``ops.pack`` made it."""
    layout = Layout(tuple(tuple(m.weight.shape) for m in modules), tuple(groups), num_heads, compute)
    for section, module in enumerate(modules):
        put(module, PackedWeight(packed, layout, section, module.weight.dtype))


def freeze_rows(embedding: nn.Embedding) -> None:
    """Leaves ``embedding`` with int8 rows, symmetric, rounded as the kernels round the columns of a weight."""
    weight = embedding.weight.detach()
    values, scales = [], []
    for rows in weight.split(4096):  # little memory on the way
        most = rows.float().abs().amax(1) / 127
        # 16 significant bits, upwards: products with int8 are exact, and quantizing them gives the same again.
        scale = ((most.view(torch.int32) + 0xFF) & ~0xFF).view(torch.float32)
        inverse = 1 / scale
        usable = inverse.isfinite()
        values.append((rows.float() * inverse.where(usable, 0)[:, None]).round_().to(torch.int8))
        scales.append(scale.where(usable, 0))
    put(embedding, QuantizedRows(torch.cat(values), torch.cat(scales), weight.dtype))


def return_memory() -> None:
    """Gives freed memory back to the system: on its own glibc keeps what lies between blocks in use."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def thaw(module: nn.Module, original: Tensor | None = None) -> None:
    """Gives ``module`` the ``original`` in place of a frozen weight, or a dense one; what was rounded stays rounded."""
    weight = module._parameters.get("weight")
    if not isinstance(weight, FrozenWeight):
        return
    if original is None:
        original = nn.Parameter(weight.dense(), requires_grad=weight.trainable)
    module._parameters["weight"] = original
    if isinstance(original, FrozenWeight):
        return
    for hooks in (module._state_dict_hooks, module._forward_pre_hooks, module._forward_hooks):
        for key, hook in list(hooks.items()):
            if is_own_hook(hook):
                del hooks[key]
                module._forward_hooks_always_called.pop(key, None)


def is_own_hook(hook: Any) -> bool:
    """Whether :func:`put` registered it. Such hooks do not change what a module computes."""
    return hook in (_to_plain, _dense_while_traced, _frozen_again)


def _dense_while_traced(module: nn.Module, args: Any) -> None:
    """A trace (torch.jit's, and through it ONNX's and OpenVINO's) gets the values as a constant: it would record an op
    on the frozen weight, and write down the memory that this does not have."""
    weight = module._parameters.get("weight")
    state = torch._C._get_tracing_state() if torch.jit.is_tracing() else None
    if state is None or not isinstance(weight, FrozenWeight):
        return
    torch._C._set_tracing_state(None)
    try:
        dense = weight.dense()
    finally:
        torch._C._set_tracing_state(state)
    constant: Any = nn.Parameter(dense, requires_grad=False)
    constant.stands_for = weight
    module._parameters["weight"] = constant


def _frozen_again(module: nn.Module, args: Any, output: Any) -> None:
    frozen = getattr(module._parameters.get("weight"), "stands_for", None)
    if frozen is not None:
        module._parameters["weight"] = frozen


def frozen_weights(model: nn.Module) -> Iterator[tuple[str, nn.Module, FrozenWeight]]:
    """Name, module and weight of every module of ``model`` whose weight is frozen."""
    for name, module in model.named_modules():
        weight = module._parameters.get("weight")
        if isinstance(weight, FrozenWeight):
            yield name, module, weight


_as_int8: ContextVar[bool] = ContextVar("_as_int8", default=False)


def _to_plain(module: nn.Module, state_dict: dict[str, Any], prefix: str, local_metadata: Any) -> None:
    name = f"{prefix}weight"
    weight = state_dict.get(name)
    if not isinstance(weight, FrozenWeight):
        return
    if _as_int8.get() and weight.is_int8:
        state_dict[name], state_dict[f"{prefix}weight_scale"] = weight.int8()
    else:
        state_dict[name] = weight.dense()


@contextmanager
def int8_state_dict() -> Iterator[None]:
    """Within it, state dicts hold int8 weights as such: ``weight`` and ``weight_scale``."""
    token = _as_int8.set(True)
    try:
        yield
    finally:
        _as_int8.reset(token)
