"""transformers' own encoders with the fused kernels under them.

The classes add no state: :func:`squeezebert_kernels.optimize` turns a live module into one by changing its class, and
:func:`squeezebert_kernels.enable` lets transformers build them in the first place. A layer that the kernels cannot
compute is handed to the class it derives from.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPastAndCrossAttentions
from transformers.models.bert import modeling_bert
from transformers.models.squeezebert import modeling_squeezebert

from ..compat import ATTENTION_FUNCTIONS, STOCK_ATTENTION, active_collector, eager_attention_forward
from ..layers.fused_encoder import run_layers, runs_layers_at_once
from ..layers.fused_layer import LayerFamily, fused_or_none, plan_of, remember_fallback
from ..layers.parts import LayerParts, has_hooks, is_elementwise, own_class, why_altered, why_class_altered

# enable() puts other classes under their names.
STOCK_BERT_LAYER = modeling_bert.BertLayer
STOCK_BERT_ENCODER = modeling_bert.BertEncoder
STOCK_SQUEEZEBERT_ENCODER = modeling_squeezebert.SqueezeBertEncoder

_ENCODER_OPTIONS = tuple(inspect.signature(modeling_squeezebert.SqueezeBertEncoder.forward).parameters)[3:]
_BERT_ENCODER_OPTIONS = tuple(inspect.signature(modeling_bert.BertEncoder.forward).parameters)[3:]
_BERT_OPTIONS = tuple(inspect.signature(modeling_bert.BertLayer.forward).parameters)[3:]
# transformers 4 passes head masks around and returns tuples from a BertLayer.
_BERT_RETURNS_TUPLE = "head_mask" in _BERT_OPTIONS


def _asks_for_head_mask(head_mask: Any) -> bool:
    # A list, one for every layer, or a tensor.
    return isinstance(head_mask, Tensor) or (head_mask is not None and any(mask is not None for mask in head_mask))


def squeezebert_layer_reason(layer: Any) -> str | None:
    """Why a layer of a transformers SqueezeBERT encoder is not one that the kernels know; None if it is."""
    if type(layer) is not modeling_squeezebert.SqueezeBertModule:
        return f"the layer is a {type(layer).__name__}"
    activation = layer.intermediate.act
    if not is_elementwise(activation):  # its input is channels-first there, token-major here
        return f"activation {getattr(activation, '__name__', type(activation).__name__)} may depend on the layout"
    altered = why_altered(activation) if isinstance(activation, nn.Module) else None
    return altered or why_altered(layer)


SQUEEZEBERT = LayerFamily(LayerParts.of_squeezebert, squeezebert_layer_reason)
"""Layers of transformers' SqueezeBERT."""


class FusedSqueezeBertEncoder(modeling_squeezebert.SqueezeBertEncoder):
    """transformers' SqueezeBertEncoder, token-major between layers: no transposes, two kernels a layer."""

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """Arguments and results of SqueezeBertEncoder.forward."""
        options = dict(zip(_ENCODER_OPTIONS, args), **kwargs)
        in_call = None
        if options.get("output_attentions") or _asks_for_head_mask(options.get("head_mask")):
            in_call = "attention scores or a head mask were asked for"
        elif attention_mask is not None and attention_mask.dtype != hidden_states.dtype:
            in_call = f"attention_mask has dtype {attention_mask.dtype}, the hidden states {hidden_states.dtype}"
        if in_call is not None or own_class(self) is not FusedSqueezeBertEncoder:
            for layer in self.layers:
                remember_fallback(layer, in_call)
            return super().forward(hidden_states, attention_mask, *args, **kwargs)
        wants_all = bool(options.get("output_hidden_states"))
        skipped = run_layers(
            self, self.layers, SQUEEZEBERT, hidden_states, attention_mask, every_layer=wants_all
        )  # fmt: skip
        all_hidden_states = skipped or [hidden_states]
        for layer in () if skipped else self.layers:
            fused = fused_or_none(layer, plan_of(layer, SQUEEZEBERT), hidden_states, attention_mask)
            if fused is None:
                outputs = layer.forward(hidden_states.permute(0, 2, 1), attention_mask, False)
                fused = outputs["feature_map"].permute(0, 2, 1)
            hidden_states = fused
            all_hidden_states.append(hidden_states)
        hidden_states = all_hidden_states[-1]
        wanted = tuple(all_hidden_states) if wants_all else None
        if not options.get("return_dict", True):
            return (hidden_states,) if wanted is None else (hidden_states, wanted)
        return BaseModelOutput(last_hidden_state=hidden_states, hidden_states=wanted, attentions=None)


def _collected() -> Collection[str]:
    """The outputs that transformers 5 is recording through hooks during this call."""
    return () if active_collector is None else active_collector.get() or ()


def bert_layer_reason(layer: Any) -> str | None:
    """Why a BertLayer is not an encoder layer that the kernels know; None if it is."""
    if own_class(layer) not in (STOCK_BERT_LAYER, FusedBertLayer):
        return f"{type(layer).__name__} is a subclass that the kernels do not know"
    if layer.is_decoder or layer.add_cross_attention:
        return "a decoder layer"
    if layer.chunk_size_feed_forward:
        return f"chunk_size_feed_forward={layer.chunk_size_feed_forward}"
    # Hooks of the layer itself run in any case.
    altered = why_class_altered(STOCK_BERT_LAYER) or (None if has_hooks(layer) else why_altered(layer))
    if altered is not None:
        return altered
    return _attention_reason(layer.attention.self)


def _attention_reason(attention: Any) -> str | None:
    """Why transformers 5 computes something else than softmax(q k^T / sqrt(head size) + mask) v here; None if not."""
    if ATTENTION_FUNCTIONS is None:
        return None
    scaling, head_size = getattr(attention, "scaling", None), attention.attention_head_size
    if scaling is not None and scaling != head_size**-0.5:
        return f"attention scaling is {scaling}, not 1/sqrt({head_size})"
    if _attention_function(attention) not in STOCK_ATTENTION:
        return f"attention implementation {attention.config._attn_implementation!r}"
    return None


def _attention_function(attention: Any) -> object:
    """The function that computes attention in transformers 5; None in transformers 4."""
    if ATTENTION_FUNCTIONS is None:
        return None
    name = attention.config._attn_implementation
    # An unknown name is None: the layer's own code, which then runs, raises for it.
    return ATTENTION_FUNCTIONS.get(name, eager_attention_forward if name == "eager" else None)


def _takes_boolean_masks(layer: Any) -> bool:
    return ATTENTION_FUNCTIONS is None or layer.attention.self.config._attn_implementation != "eager"


def _bert_call_reason(layer: Any, attention_mask: Any, options: dict[str, Any]) -> str | None:
    """Why the arguments of a call keep a BertLayer from running fused; None if they do not."""
    if options.get("output_attentions") or "attentions" in _collected():
        return "attention probabilities were asked for"
    passed = options.get("encoder_hidden_states") is not None or options.get("past_key_values") is not None
    if passed or _asks_for_head_mask(options.get("head_mask")):
        return "a head mask, encoder states or a key/value cache were passed"
    if attention_mask is not None and not (isinstance(attention_mask, Tensor) and attention_mask.dim() == 4):
        return f"attention_mask is no 4-D tensor but {type(attention_mask).__name__}"
    if attention_mask is not None and attention_mask.dtype == torch.bool and not _takes_boolean_masks(layer):
        return "a boolean mask under eager attention, which adds it as it stands"
    return None


def _in_dtype_of(hidden_states: Tensor, attention_mask: Any) -> Any:
    """The mask as the kernels take it: boolean, or in the dtype of the hidden states."""
    if not isinstance(attention_mask, Tensor) or attention_mask.dtype == torch.bool:
        return attention_mask
    return attention_mask.to(hidden_states.dtype)


BERT = LayerFamily(LayerParts.of_bert, bert_layer_reason, lambda layer: _attention_function(layer.attention.self))
"""Layers of transformers' BERT."""


class FusedBertLayer(modeling_bert.BertLayer):
    """transformers' BertLayer on the fused kernels: a SqueezeBERT layer with one group."""

    def forward(self, hidden_states: Tensor, attention_mask: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Arguments and results of BertLayer.forward."""
        options = dict(zip(_BERT_OPTIONS, args), **kwargs)
        plan, in_call = plan_of(self, BERT), None
        if plan.reason is None:
            in_call = _bert_call_reason(self, attention_mask, options)
            remember_fallback(self, in_call)
        if plan.reason is not None or in_call is not None:
            return super().forward(hidden_states, attention_mask, *args, **kwargs)
        fused = fused_or_none(self, plan, hidden_states, _in_dtype_of(hidden_states, attention_mask))
        if fused is None:
            return super().forward(hidden_states, attention_mask, *args, **kwargs)
        return (fused,) if _BERT_RETURNS_TUPLE else fused


def _needs_stock_encoder(options: dict[str, Any]) -> bool:
    """Whether a BertEncoder is asked for more than its last hidden states."""
    asked = any(options.get(name) for name in ("output_hidden_states", "use_cache"))
    # What is collected comes from hooks on the layers, which must be called on the whole batch for that.
    return asked or bool(_collected()) or why_class_altered(STOCK_BERT_ENCODER) is not None


class FusedBertEncoder(modeling_bert.BertEncoder):
    """transformers' BertEncoder, which can run its layers at once (encoders.py). They are fused one by one."""

    def forward(self, hidden_states: Tensor, attention_mask: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Arguments and results of BertEncoder.forward."""
        states, options = None, dict(zip(_BERT_ENCODER_OPTIONS, args), **kwargs)
        if (
            runs_layers_at_once(self, hidden_states)
            and own_class(self) is FusedBertEncoder
            and not _needs_stock_encoder(options)
        ):
            states = run_layers(
                self, self.layer, BERT, hidden_states, _in_dtype_of(hidden_states, attention_mask),
                why_not=lambda layer: _bert_call_reason(layer, attention_mask, options),
            )  # fmt: skip
        if states is None:
            return super().forward(hidden_states, attention_mask, *args, **kwargs)
        output = BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=states[-1])
        # In transformers 5 tuples are a matter of the model.
        return output.to_tuple() if _BERT_RETURNS_TUPLE and not options.get("return_dict", True) else output


STOCK_TO_FUSED: dict[type, type] = {
    STOCK_SQUEEZEBERT_ENCODER: FusedSqueezeBertEncoder,
    STOCK_BERT_ENCODER: FusedBertEncoder,
    STOCK_BERT_LAYER: FusedBertLayer,
}
"""Stock class -> the class that stands in for it; the keys are exact classes, not their subclasses."""

WHOLE: tuple[type, ...] = (STOCK_SQUEEZEBERT_ENCODER, STOCK_BERT_LAYER)
"""What accounts for every module inside it. A BertEncoder does not: its layers stand for themselves."""

FUSED_TO_STOCK = {fused: stock for stock, fused in STOCK_TO_FUSED.items()}

HOMES = {
    STOCK_SQUEEZEBERT_ENCODER: modeling_squeezebert,
    STOCK_BERT_ENCODER: modeling_bert,
    STOCK_BERT_LAYER: modeling_bert,
}
"""The module in whose namespace transformers looks each stock class up when it builds a model."""
