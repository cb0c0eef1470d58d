"""Gradients of the ops: kernels, and plain torch where the gradient itself is to be differentiated.

The ops of inference leave nothing for their gradients, which compute again what they need. The ops of training
(:mod:`squeezebert_kernels.ops.training`) return it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .._native import DropoutSite
from . import reference

aten = torch.ops.aten
Grads = Sequence[Tensor | None]


def _kernels() -> Any:
    return torch.ops.squeezebert_kernels


def activation_backward(grad: Tensor, z: Tensor, activation: str) -> Tensor:
    """d activation(z) / dz * grad."""
    if activation == "gelu":
        return aten.gelu_backward(grad, z)
    if activation == "gelu_tanh":
        return aten.gelu_backward(grad, z, approximate="tanh")
    if activation == "relu":
        return aten.threshold_backward(grad, z, 0)
    return grad


class _Call:
    """The arguments of an op by name, as its backward pass finds them."""

    def __init__(self, names: Sequence[str], inputs: Sequence[Any], needs: Sequence[bool]) -> None:
        self.inputs = dict(zip(names, inputs))
        self.needs = dict(zip(names, needs))

    def __getitem__(self, name: str) -> Any:
        return self.inputs[name]

    def wants(self, *names: str) -> list[int]:
        return [int(self.needs[name]) for name in names]

    def values(self, *names: str) -> list[Any]:
        return [self.inputs[name] for name in names]


def _conv(grad: Tensor, call: _Call) -> dict[str, Tensor]:
    x, weight, groups, activation = call.values("x", "weight", "groups", "activation")
    if activation != "none":
        z = _kernels().grouped_pointwise_conv(x, weight, call["bias"], groups, "none", call["packed"])
        grad = activation_backward(grad, z, activation)
    names = ("x", "weight", "bias")
    return _named(names, _kernels().grouped_pointwise_conv_backward(
        grad, x, weight, groups, call.wants(*names), "float32"
    ))  # fmt: skip


def _conv_layer_norm(grad: Tensor, call: _Call) -> dict[str, Tensor]:
    x, weight, groups, gamma, beta = call.values("x", "weight", "groups", "norm_weight", "norm_bias")
    y = _kernels().grouped_pointwise_conv(x, weight, call["bias"], groups, "none", call["packed"]) + call["residual"]
    shape = [weight.shape[0]]
    _, mean, rstd = aten.native_layer_norm(y, shape, gamma, beta, call["eps"])
    mask = [True, *map(bool, call.wants("norm_weight", "norm_bias"))]
    dy, dgamma, dbeta = aten.native_layer_norm_backward(grad.contiguous(), y, shape, mean, rstd, gamma, beta, mask)
    names = ("x", "weight", "bias")
    grads = _kernels().grouped_pointwise_conv_backward(dy, x, weight, groups, call.wants(*names), "float32")
    return {**_named(names, grads), "residual": dy, "norm_weight": dgamma, "norm_bias": dbeta}


_ATTENTION = ("x", "q_weight", "q_bias", "k_weight", "k_bias", "v_weight", "v_bias")
_ATTENTION_SIZES = ("num_heads", "q_groups", "k_groups", "v_groups")


def _attention(grad: Tensor, call: _Call) -> dict[str, Tensor]:
    if call["offsets"] is not None:
        raise NotImplementedError("attention_block has no gradient with offsets")
    options = [*call.values(*_ATTENTION_SIZES), 0.0, "float32"]
    state = _kernels().attention_block_train(*call.values(*_ATTENTION, "attention_mask"), None, *options)
    return _attention_from(grad, call, None, state, options)


def _attention_train(grad: Tensor, call: _Call) -> dict[str, Tensor]:
    options = call.values(*_ATTENTION_SIZES, "dropout_p", "dtype")
    return _attention_from(grad, call, call["seed"], call["outputs"], options)


def _attention_from(
    grad: Tensor, call: _Call, seed: Tensor | None, state: Sequence[Tensor], options: Sequence[Any]
) -> dict[str, Tensor]:
    tensors = call.values("x", "q_weight", "k_weight", "v_weight", "attention_mask")
    grads = _kernels().attention_block_backward(grad, *tensors, seed, *state, *options, call.wants(*_ATTENTION))
    return _named(_ATTENTION, grads)


_POST = (
    "context", "residual", "post_weight", "post_bias", "post_norm_weight", "post_norm_bias", "intermediate_weight",
    "intermediate_bias", "output_weight", "output_bias", "output_norm_weight", "output_norm_bias",
)  # fmt: skip
_POST_OPTIONS = ("post_groups", "intermediate_groups", "output_groups", "activation", "post_eps", "output_eps")


def _post_attention(grad: Tensor, call: _Call) -> dict[str, Tensor]:
    options = [*call.values(*_POST_OPTIONS), 0.0, 0.0, "float32"]
    state = _kernels().post_attention_block_train(*call.values(*_POST), None, *options)
    return _post_attention_from(grad, call, None, state, options)


def _post_attention_train(grad: Tensor, call: _Call) -> dict[str, Tensor]:
    options = call.values(*_POST_OPTIONS, "post_dropout_p", "output_dropout_p", "dtype")
    return _post_attention_from(grad, call, call["seed"], call["outputs"], options)


def _post_attention_from(
    grad: Tensor, call: _Call, seed: Tensor | None, state: Sequence[Tensor], options: Sequence[Any]
) -> dict[str, Tensor]:
    tensors = call.values(
        "context", "post_weight", "post_norm_weight", "intermediate_weight", "output_weight", "output_norm_weight"
    )
    grads = _kernels().post_attention_block_backward(grad, *tensors, seed, *state[1:], *options, call.wants(*_POST))
    return _named(_POST, grads)


def _named(names: Sequence[str], grads: Sequence[Tensor]) -> dict[str, Tensor]:
    return dict(zip(names, grads))


def _plain(forward: Callable[..., Tensor], grad: Tensor, call: _Call) -> dict[str, Tensor]:
    """By autograd through ``forward``, a function of the reference: differentiable again."""
    with torch.enable_grad():
        # Each argument is a tensor of its own, even where two are the same.
        wanted = {name: call[name].view_as(call[name]) for name, need in call.needs.items() if need}
        y = forward(**{**call.inputs, **wanted})
        grads = torch.autograd.grad(y, list(wanted.values()), grad, create_graph=True, allow_unused=True)
    return {name: g for name, g in zip(wanted, grads) if g is not None}


def _plain_attention(
    seed: Any = None, dropout_p: float = 0.0, dtype: Any = None, outputs: Any = None, **arguments: Any
) -> Tensor:
    factors = None
    if seed is not None:
        x, heads = arguments["x"], arguments["num_heads"]
        batch, length = x.shape[:2]
        factors = _kernels().dropout_factors(
            seed, int(DropoutSite.PROBABILITIES), batch * heads * length, length, dropout_p
        )
        factors = factors.view(batch, heads, length, length).to(x.dtype)
    return reference.attention_block(**arguments, dropout_factors=factors)


def _plain_post_attention(
    seed: Any = None, post_dropout_p: float = 0.0, output_dropout_p: float = 0.0, dtype: Any = None,
    outputs: Any = None, **arguments: Any,
) -> Tensor:  # fmt: skip
    factors = None
    if seed is not None:
        residual = arguments["residual"]
        size = residual.numel() // residual.shape[-1], residual.shape[-1]
        factors = [
            _kernels().dropout_factors(seed, int(site), *size, p).view(residual.shape).to(residual.dtype)
            for site, p in ((DropoutSite.POST, post_dropout_p), (DropoutSite.OUTPUT, output_dropout_p))
        ]
    return reference.post_attention_block(**arguments, dropout_factors=factors)


def _register(library: Any, name: str, backward: Any, plain: Any, *, reads_result: bool = False) -> None:
    """``backward(grad, call)`` and ``plain(**arguments)`` -> gradients by name of argument; the others get None.

    ``reads_result``: whether the kernels of CUDA devices read the result of the forward pass, not only its state.
    """
    schema = getattr(getattr(torch.ops, library.ns), name).default._schema
    names = [argument.name for argument in schema.arguments]
    has_state = len(schema.returns) > 1

    def setup_context(ctx, inputs, output):
        tensors = [t if isinstance(t, Tensor) else None for t in inputs]
        ctx.is_tensor = [t is not None for t in tensors]
        ctx.options = [None if is_tensor else value for is_tensor, value in zip(ctx.is_tensor, inputs)]
        saved = [t for t in tensors if t is not None]
        if has_state:
            ctx.mark_non_differentiable(*output[1:])
            ctx.set_materialize_grads(False)
            saved += output if reads_result and output[0].is_cuda else output[1:]
        ctx.save_for_backward(*saved)

    def run(ctx, grad, *_):
        saved = iter(ctx.saved_tensors)
        inputs = [next(saved) if is_tensor else value for is_tensor, value in zip(ctx.is_tensor, ctx.options)]
        needs = ctx.needs_input_grad  # one entry for each argument of the call, which may leave out trailing ones
        if grad is None:
            return (None,) * len(needs)
        defaults = [argument.default_value for argument in schema.arguments[len(inputs) :]]
        call = _Call(names, [*inputs, *defaults], [*needs, *[False] * (len(names) - len(needs))])
        if has_state:
            outputs = list(saved)
            if len(outputs) < len(schema.returns):  # without the result, which its users may change
                outputs.insert(0, outputs[0])
            call.inputs["outputs"] = outputs
        # The kernels' gradients have none themselves, and know none of the mask.
        again = torch.is_grad_enabled() or call.needs.get("attention_mask", False)
        with torch.amp.autocast(grad.device.type, enabled=False):
            grads = _plain(plain, grad, call) if again else backward(grad, call)
        return tuple(grads.get(name) if need else None for name, need in zip(names, needs))

    torch.library.register_autograd(f"{library.ns}::{name}", run, setup_context=setup_context, lib=library)


def _register_none(library: Any, name: str, message: str) -> None:
    def run(ctx, *grads):
        raise NotImplementedError(message)

    torch.library.register_autograd(f"{library.ns}::{name}", run, setup_context=lambda *_, **__: None, lib=library)


def register(library: Any) -> None:
    """Registers the gradients of the ops that ``library`` (a torch.library.Library) defines."""
    _register(library, "grouped_pointwise_conv", _conv, reference.grouped_pointwise_conv)
    _register(
        library, "grouped_pointwise_conv_layer_norm", _conv_layer_norm, reference.grouped_pointwise_conv_layer_norm
    )
    _register(library, "attention_block", _attention, _plain_attention)
    _register(library, "attention_block_train", _attention_train, _plain_attention, reads_result=True)
    _register(library, "post_attention_block", _post_attention, _plain_post_attention)
    _register(library, "post_attention_block_train", _post_attention_train, _plain_post_attention)
    _register_none(
        library, "encoder_layer", "encoder_layer has no gradient: attention_block and post_attention_block have one"
    )
