"""The modules that make up an encoder layer, and why the fused kernels must not stand in for them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.modules import module as _torch_module
from transformers import activations
from transformers.models.bert import modeling_bert
from transformers.models.squeezebert import modeling_squeezebert

from ..compat import TRANSFORMERS_5
from ..weights.packing import changes_unseen
from ..weights.stand_ins import PackedWeight, QuantizedRows, is_own_hook
from .conv import GroupedPointwiseConv1d, TokenMajorConv1d, why_not_pointwise

__all__ = [
    "LayerParts",
    "activation_name",
    "has_hooks",
    "is_elementwise",
    "why_altered",
    "why_class_altered",
    "why_not_fused",
]


class LayerParts(NamedTuple):
    """The modules that make up one encoder layer of any family. ``groups`` of an nn.Linear is 1."""

    query: Any
    key: Any
    value: Any
    post: Any
    post_norm: Any
    intermediate: Any
    activation: Any
    output: Any
    output_norm: Any
    num_heads: int
    dropouts: tuple[Any, ...]
    attention_mode: Any
    """The module whose mode decides on dropout of probabilities. Its ``dropout_prob``, if there is one, is how much."""
    containers: tuple[nn.Module, ...]

    @classmethod
    def of_squeezebert(cls, layer: Any) -> LayerParts:
        """Parts of a SqueezeBertModule, transformers' or ours."""
        attention, post, output = layer.attention, layer.post_attention, layer.output
        return cls(
            attention.query, attention.key, attention.value, post.conv1d, post.layernorm,
            layer.intermediate.conv1d, layer.intermediate.act, output.conv1d, output.layernorm,
            attention.num_attention_heads,
            (attention.dropout, post.dropout, output.dropout), attention.dropout,
            (attention, post, layer.intermediate, output),
        )  # fmt: skip

    @classmethod
    def of_bert(cls, layer: Any) -> LayerParts:
        """Parts of a transformers BertLayer: a SqueezeBERT layer with all groups = 1."""
        own, post, output = layer.attention.self, layer.attention.output, layer.output
        # transformers 5, and version 4's BertSdpaSelfAttention, ask the attention for its mode, not its dropout module.
        mode = own if TRANSFORMERS_5 or hasattr(own, "dropout_prob") else own.dropout
        return cls(
            own.query, own.key, own.value, post.dense, post.LayerNorm,
            layer.intermediate.dense, layer.intermediate.intermediate_act_fn, output.dense, output.LayerNorm,
            own.num_attention_heads,
            (own.dropout, post.dropout, output.dropout), mode,
            (layer.attention, own, post, layer.intermediate, output),
        )  # fmt: skip

    def dropout_p(self) -> tuple[float, float, float]:
        """The probabilities of dropout in the next call: of attention's, behind the post and the output conv."""
        attention, post, output = self.dropouts
        p = getattr(self.attention_mode, "dropout_prob", attention.p)
        return (
            p if self.attention_mode.training else 0.0,
            post.p if post.training else 0.0,
            output.p if output.training else 0.0,
        )

    def projections(self) -> tuple[Any, ...]:
        """The six convolutions."""
        return (self.query, self.key, self.value, self.post, self.intermediate, self.output)

    def children(self) -> Iterator[nn.Module]:
        """Every module whose forward a fused layer does not call."""
        yield from self.projections()
        yield from (self.post_norm, self.output_norm)
        yield from self.dropouts
        yield from self.containers
        if isinstance(self.activation, nn.Module) and activation_name(self.activation) is not None:
            yield self.activation


_PROJECTIONS = {nn.Conv1d, nn.Linear, GroupedPointwiseConv1d, TokenMajorConv1d}
_CONTAINER_HOMES = ("transformers.models.", "squeezebert_kernels.")
_TENSORS = (nn.Parameter, Tensor, PackedWeight, QuantizedRows, FakeTensor)  # fake: while torch.export traces
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
GLOBAL_HOOKS = [
    getattr(_torch_module, name)
    for name in ("_global_forward_hooks", "_global_forward_pre_hooks", "_global_backward_hooks",
                 "_global_backward_pre_hooks")
]  # fmt: skip


def _is_stock_norm(norm: nn.Module) -> bool:
    return type(norm) is nn.LayerNorm or (
        type(norm).__name__ == "SqueezeBertLayerNorm" and type(norm).__module__.startswith("transformers.")
    )


def _only_collects_attentions(hook: Any) -> bool:
    """transformers 5 leaves hooks in place that do nothing unless ``output_attentions`` is asked for.

    The layers that use them fall back on their own while attentions are collected.
    """
    return getattr(hook, "__module__", "") == "transformers.utils.output_capturing"


def has_hooks(module: nn.Module) -> bool:
    """Whether calling ``module`` does more than its forward."""
    for name in HOOKS:
        hooks = module.__dict__.get(name)
        if hooks and not all(is_own_hook(hook) or _only_collects_attentions(hook) for hook in hooks.values()):
            return True
    return False


def own_class(module: nn.Module) -> type:
    """The class of ``module``, or the one from which torch's ``fully_shard`` derived that."""
    cls = type(module)
    sharded = [c for c in cls.__mro__ if any(base.__name__ == "FSDPModule" for base in c.__mro__)]
    return cls.__mro__[len(sharded)]


_own_methods_of: dict[type, tuple[str, ...]] = {}


@torch.compiler.assume_constant_result
def _own_methods(cls: type) -> tuple[str, ...]:
    """The methods that make ``cls`` what it is: forward, and those that not every module has. Sorted."""
    methods = _own_methods_of.get(cls)
    if methods is None:
        own = (name for name in dir(cls) if callable(getattr(cls, name)) and not hasattr(nn.Module, name))
        methods = _own_methods_of[cls] = tuple(sorted({"forward", *own}))
    return methods


_CODE_HOMES = ("torch.nn.", "transformers.", "squeezebert_kernels.")


_functions_of: dict[type, tuple[str, ...]] = {}


def code_of(classes: Iterable[type]) -> list[Any]:
    """The functions that ``classes`` define: those of a patched class compare unequal to themselves before."""
    code = []
    for cls in classes:
        names = _functions_of.get(cls)
        if names is None:
            names = tuple(name for name, value in vars(cls).items() if isinstance(value, FunctionType))
            _functions_of[cls] = names
        own = cls.__dict__
        code += [own.get(name) for name in names]
    return code


def classes_of(cls: type) -> tuple[type, ...]:
    """``cls`` and its bases, up to what every module is."""
    return tuple(c for c in cls.__mro__ if c not in (nn.Module, object))


_STOCK_CODE = {
    cls: code_of(classes_of(cls))
    for home in (nn, modeling_bert, modeling_squeezebert, activations)
    for cls in vars(home).values()
    if isinstance(cls, type) and issubclass(cls, nn.Module) and cls is not nn.Module
}
"""As it was when this module was imported."""


def why_altered(module: nn.Module) -> str | None:
    """What calling ``module`` does beyond the code of its class (hooks, patched methods); None if nothing."""
    cls = type(module)
    if has_hooks(module):
        return f"{cls.__name__} has hooks"
    own = module.__dict__
    for name in _own_methods(cls):  # torch 2.10 can compile a lookup in this dict, and no set operation with it
        if name in own:
            return f"{cls.__name__}.{name} is patched"
    return why_class_altered(cls)


@torch.compiler.assume_constant_result
def why_class_altered(cls: Any) -> str | None:
    """How the code of ``cls`` differs from what it was at import; None if it does not."""
    stock = _STOCK_CODE.get(cls)
    if stock is not None and stock != code_of(classes_of(cls)):
        return f"{cls.__name__} is patched"
    home = str(cls.forward.__module__)
    return None if home.startswith(_CODE_HOMES) else f"{cls.__name__}.forward is one of {home}"


def _full_name(cls: type) -> str:
    """With its home where that says more: peft and torch both have a Conv1d."""
    return cls.__name__ if cls.__module__.startswith("torch.") else f"{cls.__module__}.{cls.__name__}"


def why_not_fused(parts: LayerParts) -> str | None:
    """Why the fused kernels must not stand in for these modules; None if they may.

    A fused forward never calls the children, so it must not run where a child does anything of its own: another class
    (LoRA, quantized, parametrized), a hook or a patched forward.
    """
    for hooks in GLOBAL_HOOKS:
        if hooks:
            return "a global module hook is registered"
    for conv in parts.projections():
        if type(conv) not in _PROJECTIONS:
            return f"a projection is a {_full_name(type(conv))}, not a plain convolution or linear layer"
        if type(conv) is not nn.Linear and why_not_pointwise(conv):
            return f"a projection is not pointwise: {why_not_pointwise(conv)}"
        if type(conv.weight) not in _TENSORS:
            found = "as FSDP has it between calls" if changes_unseen(conv) else "not a plain tensor"
            return f"a weight is a {type(conv.weight).__name__}, {found}"
    modules = (*parts.projections(), parts.post_norm, parts.output_norm)
    if len({t.dtype for m in modules for t in (m.weight, m.bias) if isinstance(t, Tensor)}) > 1:
        return "its parameters have different dtypes"
    for norm in (parts.post_norm, parts.output_norm):
        if not _is_stock_norm(norm):
            return f"a layer norm is a {type(norm).__name__}, not an nn.LayerNorm"
        if norm.weight is None or norm.bias is None:
            return "a layer norm has no weight or bias"
    for dropout in parts.dropouts:
        if type(dropout) is not nn.Dropout:
            return f"a dropout is a {type(dropout).__name__}, not an nn.Dropout"
    for container in parts.containers:
        if not type(container).__module__.startswith(_CONTAINER_HOMES):
            return f"{type(container).__name__} is not a class of transformers"
        if hasattr(container, "distance_embedding"):
            return "relative position embeddings"
    for child in parts.children():
        reason = why_altered(child)
        if reason:
            return reason
    known = {id(parts.activation), *(id(child) for child in parts.children())}
    for container in parts.containers:
        for child in container.children():
            if id(child) in known:
                continue
            # What transformers' SqueezeBertSelfAttention calls besides its projections.
            stock = type(child) is nn.Softmax or type(child).__name__ == "MatMulWrapper"
            reason = why_altered(child) if stock else f"{type(child).__name__} is not of a stock layer"
            if reason:
                return reason
    return None


_ELEMENTWISE = (
    nn.GELU, nn.ReLU, nn.ReLU6, nn.SiLU, nn.Mish, nn.Tanh, nn.Sigmoid, nn.ELU, nn.CELU, nn.SELU, nn.LeakyReLU,
    nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Softplus, nn.Softsign, nn.LogSigmoid, nn.Tanhshrink, nn.Softshrink,
    nn.Hardshrink, nn.Threshold, nn.Identity,
)  # fmt: skip


def is_elementwise(activation: Any) -> bool:
    """Whether ``activation`` is known to treat every element alike, so that the layout of its input does not matter."""
    kind = type(activation)
    return (
        kind in _ELEMENTWISE
        or kind.__module__ == "transformers.activations"
        or (kind is nn.PReLU and activation.num_parameters == 1)
        or activation_name(activation) is not None
    )


def activation_name(activation: Any) -> str | None:
    """The fused activation that ``activation`` (a module or function) equals, None where no kernel fuses it."""
    kind = type(activation)
    if kind is nn.GELU:
        return "gelu_tanh" if activation.approximate == "tanh" else "gelu"
    if kind is nn.ReLU or activation in (torch.relu, nn.functional.relu):
        return "relu"
    if activation is nn.functional.gelu:
        return "gelu"
    if kind.__module__ == "transformers.activations":
        return {
            "GELUActivation": "gelu", "GELUTanh": "gelu_tanh", "PytorchGELUTanh": "gelu_tanh",
            "NewGELUActivation": "gelu_tanh",
        }.get(kind.__name__)  # fmt: skip
    return None
