"""Puts the kernels under a live model, and takes them away again."""

from __future__ import annotations

import threading
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from ..layers.conv import GroupedPointwiseConv1d, GroupedPointwiseConv2d
from ..layers.cuda_graphs import set_cuda_graphs
from ..layers.fused_layer import forget_plan, remember_fallback
from ..layers.marks import CALL_CACHE, COMPUTE, ORIGINAL_CLASS, ORIGINAL_DTYPES, forget_packed
from ..layers.padding import set_skip_padding
from ..models.squeezebert import SqueezeBertEncoder
from ..weights.int8_config import mark_int8, unmark_int8
from ..weights.stand_ins import frozen_weights, return_memory, thaw
from .free_originals import leave_one_copy
from .report import Report, conv_reason, report
from .stock_classes import FUSED_TO_STOCK, HOMES, STOCK_TO_FUSED, WHOLE, FusedBertEncoder, FusedSqueezeBertEncoder

__all__ = ["Report", "disable", "enable", "optimize", "report", "restore"]

Model = TypeVar("Model", bound=nn.Module)

_CONVS: dict[type, type] = {nn.Conv1d: GroupedPointwiseConv1d, nn.Conv2d: GroupedPointwiseConv2d}
_enable_lock = threading.Lock()


def _replacement(module: Any) -> type | None:
    """The class that stands in for ``module``'s, None where it stays as it is."""
    if type(module) in STOCK_TO_FUSED:
        return STOCK_TO_FUSED[type(module)]
    if type(module) in _CONVS and module.groups > 1 and conv_reason(module) is None:
        return _CONVS[type(module)]
    return None


def _plan(model: nn.Module) -> list[tuple[nn.Module, type]]:
    """(module, new class) for everything that optimize changes. Convolutions inside a layer are the layer's."""
    plan: list[tuple[nn.Module, type]] = []
    inside: list[str] = []
    for name, module in model.named_modules():
        if any(name.startswith(prefix) for prefix in inside):
            continue
        new_class = _replacement(module)
        if new_class is not None:
            plan.append((module, new_class))
        if isinstance(module, WHOLE):
            inside.append(name + "." if name else "")
    return plan


def optimize(
    model: Model,
    *,
    dtype: torch.dtype | None = None,
    quantization: str | None = None,
    strict: bool = False,
    skip_padding: bool = False,
    free_original: bool = False,
    cuda_graphs: bool = False,
) -> Model:
    """Puts the kernels under ``model``, in place: its state dict, hooks and configuration stay as they are.

    It knows transformers' SqueezeBERT (with any head) and BERT encoders, and grouped 1x1 nn.Conv1d/nn.Conv2d anywhere.
    A part that cannot run on the kernels keeps its own code. This is decided anew in every call: see :func:`report`.

    Weights are packed at their first use and packed anew when they change. A change that torch does not record
    (through ``.data`` or ``.numpy()``) is seen in the next call where it concerns a whole matrix or small weights; one
    of a few values within 8192 tokens, say 64 calls with 128. :func:`weights_changed` makes it count at once.

    Args:
        model: any torch.nn.Module.
        dtype: what the kernels multiply in; sums, softmax, LayerNorm, GELU and residuals are float32 always.
            torch.bfloat16: weights and inputs of matrix products are rounded to bfloat16; the parameters stay as they
            are. torch.float32: full precision, and the model's floating parameters and buffers are converted to
            float32 (:func:`restore` converts them back). None: full precision, parameters as they are.
            On a CUDA device the kernels multiply in the dtype of the parameters: they are converted to ``dtype``, which
            may be torch.float16 too, and stay rounded when :func:`restore` brings their dtype back. float32 is
            multiplied to full precision, or in TF32 where ``torch.backends.cuda.matmul.allow_tf32``.
        quantization: "int8": weights symmetric per output channel, activations per token on the fly, in the layers
            and convolutions that the kernels run, embeddings and heads excepted (CPU only). None otherwise.
        strict: raise instead of falling back.
        skip_padding: compute only the real tokens of a padded batch, in encoders without gradients; hidden states of
            padding are 0 then; transformers has values there, which are of no use. A BERT encoder computes everything,
            as usual, while hidden states of its layers or attention probabilities are asked for. On a CUDA device the
            call waits for the mask before the first layer.
        free_original: keep one copy of the weights, the packed one, for inference in little memory. ``state_dict`` and
            parts that fall back unpack their weights each time; nothing can be trained or loaded into them until
            :func:`restore` brings back dense weights: the original ones, or with bfloat16 and int8 the rounded ones.
            Weights that several modules share stay as they are. With ``quantization="int8"`` embeddings become int8 too
            (symmetric per row), and ``save_pretrained`` writes an int8 checkpoint, a quarter of the size, which
            ``from_pretrained`` loads into a model like this one. On a CUDA device there is only one copy anyway.
        cuda_graphs: on a CUDA device, launch the layers of an encoder as one graph, captured once for each shape, for
            batches of up to 16384 tokens without gradients: launches of kernels no longer bound small batches. Graphs
            keep memory for the activations of their shape, 32 at most for each encoder.

    Returns:
        ``model`` itself.

    Raises:
        TypeError: ``model`` is not a module, ``dtype`` not a torch.dtype.
        ValueError: ``dtype`` or ``quantization`` has no kernels, or both are given; ``cuda_graphs`` is given for a
            model that is not on a CUDA device; nothing in ``model`` is for the
            kernels; ``free_original`` was given before, with another ``dtype`` or ``quantization``, or is given for
            a model in training mode.
        RuntimeError: ``strict``, and some part would fall back; ``model`` is as it was.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise TypeError(f"dtype must be a torch.dtype or None, got {dtype!r}")
    on_cuda = any(p.is_cuda for p in model.parameters())
    possible = [torch.float32, torch.bfloat16, *[torch.float16] * on_cuda]
    if dtype not in (None, *possible):
        raise ValueError(f"dtype={dtype} has no kernels; possible: None, {', '.join(map(str, possible))}")
    if quantization not in (None, "int8"):
        raise ValueError(f"quantization={quantization!r} has no kernels; possible: None, 'int8'")
    if quantization is not None and dtype is not None:
        raise ValueError(f"give dtype or quantization, not both: dtype={dtype}, quantization={quantization!r}")
    if quantization is not None and on_cuda:
        raise ValueError(f"quantization={quantization!r} has no kernels on CUDA devices; possible: None")
    if cuda_graphs and not on_cuda:
        raise ValueError("cuda_graphs=True needs a model on a CUDA device: call model.to('cuda') first")
    compute = quantization or ("bfloat16" if dtype == torch.bfloat16 else "float32")

    if free_original and model.training:
        raise ValueError("free_original=True is for inference: call model.eval() first")
    _check_frozen(model, compute, dtype)

    changed: list[nn.Module] = []
    # Until nothing can fail any more: what is packed may be rounded.
    originals = [(module, module._parameters.get("weight")) for module in model.modules()] if free_original else []
    converted: list[_Converted] = []
    try:
        if dtype is not None and (dtype == torch.float32 or on_cuda):
            _convert(model, dtype, converted)
        for module in model.modules():
            remember_fallback(module, None)  # of the modules as they are, not of a call long ago
        for module, new_class in _plan(model):
            if type(module) in _CONVS:  # our own models are made of these classes: only swapped ones go back
                module.__dict__[ORIGINAL_CLASS] = type(module)
            module.__class__ = new_class
            changed.append(module)
        found = report(model)
        if not found.entries:
            raise ValueError(
                f"nothing in {type(model).__name__} is for the kernels: no SqueezeBERT or BERT encoder, "
                "no grouped 1x1 conv"
            )
        if strict and found.fallbacks:
            parts = "; ".join(f"{e.name}: {e.reason}" for e in found.fallbacks)
            raise RuntimeError(f"optimize(strict=True): {len(found.fallbacks)} parts would not run fused: {parts}")
        for one in converted:
            one.module.__dict__.setdefault(ORIGINAL_DTYPES, {}).setdefault(one.name, one.data.dtype)
        for entry in found.entries:
            entry.module.__dict__[COMPUTE] = compute
        for module in model.modules():
            if type(module) in (
                FusedSqueezeBertEncoder,
                FusedBertEncoder,
                SqueezeBertEncoder,
            ):
                set_skip_padding(module, skip_padding)
                set_cuda_graphs(module, cuda_graphs)
        if free_original:
            leave_one_copy(model, found, embeddings=compute == "int8")
            mark_int8(model)
    except BaseException:
        for module, weight in originals:
            if weight is not None:
                thaw(module, weight)
        for module in changed:
            _restore_class(module)
        for one in converted:
            one.tensor.data = one.data
            one.tensor.grad = one.grad
        raise
    if free_original:
        originals.clear()
        return_memory()
    return model


def _check_frozen(model: nn.Module, compute: str, dtype: torch.dtype | None) -> None:
    for name, _, weight in frozen_weights(model):
        if weight.compute not in (None, compute) or (dtype == torch.float32 and weight.dtype != dtype):
            raise ValueError(
                f"of {name}.weight only the copy packed for {weight.compute} is left (free_original=True): "
                "call restore(model) before optimize() with another dtype or quantization"
            )


class _Converted(NamedTuple):
    """A parameter or buffer of ``module``, and what it held before."""

    module: nn.Module
    name: str
    tensor: Tensor
    data: Tensor
    grad: Tensor | None


def _own_tensors(module: nn.Module) -> dict[str, Tensor]:
    own = {**module._parameters, **module._buffers}
    return {name: t for name, t in own.items() if t is not None}


def _set_dtype(tensor: Tensor, dtype: torch.dtype) -> None:
    data, grad = tensor.data.to(dtype), None if tensor.grad is None else tensor.grad.to(dtype)
    tensor.data = data
    tensor.grad = grad


def _convert(model: nn.Module, dtype: torch.dtype, converted: list[_Converted]) -> None:
    """Converts floating parameters, their gradients and buffers; notes in ``converted`` what they held."""
    for module in model.modules():
        for name, tensor in _own_tensors(module).items():
            if tensor.is_floating_point() and tensor.dtype != dtype:
                converted.append(_Converted(module, name, tensor, tensor.data, tensor.grad))
                _set_dtype(tensor, dtype)


def _restore_class(module: nn.Module) -> None:
    if type(module) in FUSED_TO_STOCK:
        module.__class__ = FUSED_TO_STOCK[type(module)]
    elif type(module) in _CONVS.values() and ORIGINAL_CLASS in module.__dict__:  # not one parametrized since
        module.__class__ = module.__dict__.pop(ORIGINAL_CLASS)
    forget_plan(module)
    forget_packed(module)
    module.__dict__.pop(COMPUTE, None)
    module.__dict__.pop(CALL_CACHE, None)
    set_skip_padding(module, False)
    set_cuda_graphs(module, False)


def restore(model: Model) -> Model:
    """Undoes :func:`optimize`, in place; weights, and what they learned meanwhile, stay. Frees the packed copies.

    Raises:
        TypeError: ``model`` is not a torch.nn.Module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    with torch.inference_mode(False), torch.no_grad():
        for module in model.modules():
            thaw(module)
    for module in model.modules():
        _restore_class(module)
    unmark_int8(model)
    for module in model.modules():
        dtypes = module.__dict__.pop(ORIGINAL_DTYPES, {})
        for name, tensor in _own_tensors(module).items():
            if name in dtypes:
                _set_dtype(tensor, dtypes[name])
    return model


def _namespaces() -> list[tuple[Any, str, type, type]]:
    return [(HOMES[stock], stock.__name__, stock, fused) for stock, fused in STOCK_TO_FUSED.items()]


def enable() -> None:
    """Lets plain transformers build SqueezeBERT and BERT models on the kernels from now on, in this process.

    ``from_pretrained``, ``from_config`` and the constructors build them; existing models are not touched. Calling it
    twice is the same as once; :func:`disable` ends it.
    """
    with _enable_lock:
        for home, name, stock, fused in _namespaces():
            current = getattr(home, name)
            if current not in (stock, fused):
                raise RuntimeError(f"{home.__name__}.{name} is already replaced by {current!r}")
        for home, name, _, fused in _namespaces():
            setattr(home, name, fused)


def disable() -> None:
    """Ends :func:`enable`; models built meanwhile keep the kernels until :func:`restore`."""
    with _enable_lock:
        for home, name, stock, fused in _namespaces():
            if getattr(home, name) is fused:
                setattr(home, name, stock)
