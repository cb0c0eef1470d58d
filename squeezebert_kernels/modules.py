"""Modules on the kernels: drop-in grouped 1x1 convolutions and the fused encoder layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules import module as _torch_module

from . import ops, validation
from .packing import PackedWeights

__all__ = [
    "GroupedPointwiseConv1d",
    "GroupedPointwiseConv2d",
    "LayerParts",
    "TokenMajorConv1d",
    "fused_layer",
    "try_fused_layer",
]


def compute_dtype(module: nn.Module) -> str:
    """What the kernels under ``module`` multiply in: "float32", or what :func:`optimize` was asked for."""
    return module.__dict__.get("_sbk_compute", "float32")


class _GroupedPointwiseConv:
    """What the 1d and the 2d module share; a mixin in front of nn.Conv1d or nn.Conv2d."""

    channels_last = False

    def _check_pointwise(self: Any) -> None:
        reason = why_not_pointwise(self)
        if reason:
            raise ValueError(f"{type(self).__name__}: {reason}")

    def _packed_weights(self: Any) -> PackedWeights:
        packed = self.__dict__.get("_sbk_packed")
        if packed is None:
            packed = self.__dict__["_sbk_packed"] = PackedWeights()
        return packed

    def _token_major(self: Any, x: Tensor) -> Tensor:
        packed = self._packed_weights().get([self.weight], [self.groups], dtype=compute_dtype(self))
        return ops.grouped_pointwise_conv(x, self.weight, self.bias, groups=self.groups, packed=packed)

    def _channels_first(self: Any, x: Tensor, spatial: int) -> Tensor:
        validation.check_tensor("input", x)
        if x.dim() not in (spatial + 1, spatial + 2):
            raise ValueError(
                f"input must have {spatial + 1} (unbatched) or {spatial + 2} dimensions, got shape {list(x.shape)}"
            )
        y = self._token_major(x.movedim(-spatial - 1, -1)).movedim(-1, -spatial - 1)
        # nn.Conv2d keeps the channels_last memory format; everything else comes out contiguous.
        keeps = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
        return y if keeps else y.contiguous()

    def forward(self: Any, input: Tensor) -> Tensor:
        if isinstance(input, torch.fx.Proxy):  # torch.fx makes a leaf of every nn.Conv1d; of this class too
            tracer: Any = input.tracer
            return tracer.create_proxy("call_module", tracer.path_of_module(self), (input,), {})
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
    """GroupedPointwiseConv1d for token-major activations, [..., C].

    A class of its own so that code which builds layers like a given one (LoRA of peft: ``type(conv)(...)``) gets the
    layout right.
    """

    def __init__(self, *args: Any, channels_last: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, channels_last=channels_last, **kwargs)


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


class LayerParts(NamedTuple):
    """The modules that make up one encoder layer, whoever defined it. ``groups`` of an nn.Linear is 1."""

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
    dropouts: tuple[nn.Module, ...]
    containers: tuple[nn.Module, ...]

    @classmethod
    def of_squeezebert(cls, layer: Any) -> LayerParts:
        """Parts of a SqueezeBertModule, transformers' or ours."""
        attention, post, output = layer.attention, layer.post_attention, layer.output
        return cls(
            attention.query, attention.key, attention.value, post.conv1d, post.layernorm,
            layer.intermediate.conv1d, layer.intermediate.act, output.conv1d, output.layernorm,
            attention.num_attention_heads,
            (attention.dropout, post.dropout, output.dropout), (attention, post, layer.intermediate, output),
        )  # fmt: skip

    @classmethod
    def of_bert(cls, layer: Any) -> LayerParts:
        """Parts of a transformers BertLayer: a SqueezeBERT layer with all groups = 1."""
        own, post, output = layer.attention.self, layer.attention.output, layer.output
        return cls(
            own.query, own.key, own.value, post.dense, post.LayerNorm,
            layer.intermediate.dense, layer.intermediate.intermediate_act_fn, output.dense, output.LayerNorm,
            own.num_attention_heads,
            (own.dropout, post.dropout, output.dropout), (layer.attention, own, post, layer.intermediate, output),
        )  # fmt: skip

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
_TENSORS = (nn.Parameter, Tensor)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_GLOBAL_HOOKS = [
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
    for name in _HOOKS:
        hooks = module.__dict__.get(name)
        if hooks and not all(_only_collects_attentions(hook) for hook in hooks.values()):
            return True
    return False


_own_methods_of: dict[type, frozenset[str]] = {}


@torch.compiler.assume_constant_result
def _own_methods(cls: type) -> frozenset[str]:
    """The methods that make ``cls`` what it is: forward, and those that not every module has."""
    methods = _own_methods_of.get(cls)
    if methods is None:
        own = (name for name in dir(cls) if callable(getattr(cls, name)) and not hasattr(nn.Module, name))
        methods = _own_methods_of[cls] = frozenset(["forward", *own])
    return methods


_CODE_HOMES = ("torch.nn.", "transformers.", "squeezebert_kernels.")


def why_altered(module: nn.Module) -> str | None:
    """What calling ``module`` does beyond the code of its class (hooks, patched methods); None if nothing."""
    cls = type(module)
    if has_hooks(module):
        return f"{cls.__name__} has hooks"
    methods = _own_methods(cls)
    if not methods.isdisjoint(module.__dict__):
        return f"{cls.__name__}.{min(methods & module.__dict__.keys())} is patched"
    if not cls.forward.__module__.startswith(_CODE_HOMES):
        return f"{cls.__name__}.forward is replaced by one of {cls.forward.__module__}"
    return None


def why_no_kernel(x: Tensor) -> str | None:
    """Why no kernel computes on tensors like ``x``; None if one does."""
    if not isinstance(x, Tensor):
        return f"a {type(x).__name__} is no tensor"
    if ops.under_transform():
        return "a torch.func transform or forward-mode differentiation is at work"
    if x.device.type not in ("cpu", "meta"):
        return f"no kernels for device type {x.device.type!r}"
    if x.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return f"no kernels for {x.dtype}"
    return None


def why_not_fused(parts: LayerParts) -> str | None:
    """Why the fused kernels must not stand in for these modules; None if they may.

    A fused forward never calls the children, so it must not run where a child does anything of its own: another class
    (LoRA, quantized, parametrized), a hook, a patched forward, or dropout while training.
    """
    for hooks in _GLOBAL_HOOKS:
        if hooks:
            return "a global module hook is registered"
    for conv in parts.projections():
        if type(conv) not in _PROJECTIONS:
            return f"a projection is a {type(conv).__name__}, not a plain convolution or linear layer"
        if type(conv) is not nn.Linear and why_not_pointwise(conv):
            return f"a projection is not pointwise: {why_not_pointwise(conv)}"
        if type(conv.weight) not in _TENSORS:
            return f"a weight is a {type(conv.weight).__name__}, not a plain tensor"
    for norm in (parts.post_norm, parts.output_norm):
        if not _is_stock_norm(norm):
            return f"a layer norm is a {type(norm).__name__}, not an nn.LayerNorm"
        if norm.weight is None or norm.bias is None:
            return "a layer norm has no weight or bias"
    for dropout in parts.dropouts:
        if type(dropout) is not nn.Dropout:
            return f"a dropout is a {type(dropout).__name__}, not an nn.Dropout"
        if dropout.training and dropout.p > 0:
            return f"training with dropout {dropout.p}"
    for container in parts.containers:
        if not type(container).__module__.startswith(_CONTAINER_HOMES):
            return f"{type(container).__name__} is not a class of transformers"
        if hasattr(container, "distance_embedding"):
            return "relative position embeddings"
        # transformers 4's BertSdpaSelfAttention drops probabilities by this number, not by its dropout module.
        if container.training and getattr(container, "dropout_prob", 0) > 0:
            return f"training with dropout {container.dropout_prob}"
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


def _groups(conv: Any) -> int:
    return getattr(conv, "groups", 1)


def fused_layer(
    layer: nn.Module,
    parts: LayerParts,
    hidden_states: Tensor,
    attention_mask: Tensor | None,
    offsets: Tensor | None = None,
) -> Tensor:
    """One encoder layer by the fused kernels; the caller made sure that ``why_not_fused(parts)`` is None.

    Args:
        layer: keeps the packed weights.
        hidden_states: token-major, [B, S, C]; [T, C] with ``offsets``, as :func:`ops.attention_block` has it.
        attention_mask: additive, broadcastable to [B, H, S, S], or None.
    """
    q, k, v = parts.query, parts.key, parts.value
    post, inter, out = parts.post, parts.intermediate, parts.output
    post_norm, out_norm = parts.post_norm, parts.output_norm

    def packed(name: str, *convs: Any, num_heads: int = 0) -> Tensor | None:
        """Packed weights of ``convs``, which live with the layer, outside its state dict."""
        cache = layer.__dict__.get(name)
        if cache is None:
            cache = layer.__dict__[name] = PackedWeights()
        weights, groups = [conv.weight for conv in convs], [_groups(conv) for conv in convs]
        return cache.get(weights, groups, num_heads, compute_dtype(layer))

    context = ops.attention_block(
        hidden_states, q.weight, q.bias, k.weight, k.bias, v.weight, v.bias, attention_mask,
        num_heads=parts.num_heads, q_groups=_groups(q), k_groups=_groups(k), v_groups=_groups(v),
        offsets=offsets, packed=packed("_sbk_attention", q, k, v, num_heads=parts.num_heads),
    )  # fmt: skip
    activation = activation_name(parts.activation)
    if activation is not None:
        return ops.post_attention_block(
            context, hidden_states, post.weight, post.bias, post_norm.weight, post_norm.bias,
            inter.weight, inter.bias, out.weight, out.bias, out_norm.weight, out_norm.bias,
            post_groups=_groups(post), intermediate_groups=_groups(inter), output_groups=_groups(out),
            activation=activation, post_eps=post_norm.eps, output_eps=out_norm.eps,
            packed=packed("_sbk_post_attention", post, inter, out),
        )  # fmt: skip
    h = ops.grouped_pointwise_conv_layer_norm(
        context, post.weight, post.bias, hidden_states, post_norm.weight, post_norm.bias,
        groups=_groups(post), eps=post_norm.eps, packed=packed("_sbk_post", post),
    )  # fmt: skip
    hidden = ops.grouped_pointwise_conv(
        h, inter.weight, inter.bias, groups=_groups(inter), packed=packed("_sbk_intermediate", inter)
    )
    return ops.grouped_pointwise_conv_layer_norm(
        parts.activation(hidden), out.weight, out.bias, h, out_norm.weight, out_norm.bias,
        groups=_groups(out), eps=out_norm.eps, packed=packed("_sbk_output", out),
    )  # fmt: skip


def fused_or_reason(
    layer: nn.Module, parts: LayerParts, hidden_states: Tensor, attention_mask: Tensor | None
) -> Tensor | None:
    """``fused_layer``, or None where it must not run. A reason that lies in the input, not in the modules, is kept for
    :func:`squeezebert_kernels.report`."""
    if why_not_fused(parts) is not None:
        return None
    reason = why_no_kernel(hidden_states)
    remember_fallback(layer, reason)
    return fused_layer(layer, parts, hidden_states, attention_mask) if reason is None else None


def try_fused_layer(layer: Any, hidden_states: Tensor, attention_mask: Tensor | None) -> Tensor | None:
    """``fused_layer`` of a SqueezeBERT layer, or None where it must not run (:func:`why_not_fused`)."""
    return fused_or_reason(layer, LayerParts.of_squeezebert(layer), hidden_states, attention_mask)


def remember_fallback(layer: nn.Module, reason: str | None) -> None:
    """Keeps what in the last call of ``layer`` kept it from running fused (None: nothing)."""
    if not torch.compiler.is_compiling():
        layer.__dict__["_sbk_last_fallback"] = reason
