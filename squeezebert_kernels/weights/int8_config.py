"""What a checkpoint's config.json says about int8 weights, and how a model learns that it holds some.

The file of weights holds ``weight`` (int8) and ``weight_scale`` (float32 per output channel, or per row of an
embedding) in place of each weight that the ``quantization_config`` names. transformers finds this class by its
``quant_method``, and the quantizer of the same name in its own registry.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING, register_quantization_config
from transformers.utils.quantization_config import QuantizationConfigMixin

from .stand_ins import frozen_weights

__all__ = ["QUANT_METHOD", "Int8Config", "bare_name", "mark_int8", "scale_names", "unmark_int8"]

QUANT_METHOD = "squeezebert_kernels"
"""The key of the configuration and of the quantizer in transformers' registries."""


@register_quantization_config(QUANT_METHOD)
class Int8Config(QuantizationConfigMixin):
    """What of a checkpoint is int8.

    Args:
        modules: names of the modules with int8 weights, without the prefix that heads put before the base model.
        bits: 8.
    """

    def __init__(self, modules: list[str] | None = None, bits: int = 8, **_: Any) -> None:
        if bits != 8:
            raise ValueError(f"quantization_config: bits must be 8, got {bits!r}")
        if not isinstance(modules, (list, tuple)) or not all(isinstance(name, str) for name in modules):
            raise ValueError(f"quantization_config: modules must be a list of names, got {modules!r}")
        self.quant_method: Any = QUANT_METHOD
        self.bits = bits
        self.modules = list(modules)


def scale_names(config: Any) -> set[str]:
    """The names of the scales in a checkpoint with this configuration, without the prefix of heads."""
    int8 = getattr(config, "quantization_config", None)
    modules = int8.get("modules", []) if isinstance(int8, dict) else getattr(int8, "modules", [])
    return {f"{name}.weight_scale" for name in modules}


def bare_name(name: str, model: Any) -> str:
    """``name`` without the prefix that heads put before the base model."""
    return name.removeprefix(f"{model.base_model_prefix}.")


def _pretrained(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, PreTrainedModel)]


def _our_quantizer(module: Any) -> Any:
    """The quantizer of ``module`` if it is for int8 weights of this package, else None."""
    quantizer = getattr(module, "hf_quantizer", None)
    return quantizer if isinstance(getattr(quantizer, "quantization_config", None), Int8Config) else None


def mark_int8(model: nn.Module) -> None:
    """Lets every transformers model in ``model`` save what is int8 in it as such."""
    for module in _pretrained(model):
        names = sorted(bare_name(name, module) for name, _, weight in frozen_weights(module) if weight.is_int8)
        ours = _our_quantizer(module)
        if ours is not None:
            ours.quantization_config.modules = names
        if getattr(module, "hf_quantizer", None) is not None or not names:
            continue
        shared = module.config
        if not hasattr(shared, "quantization_config"):
            own = copy.deepcopy(shared)  # other models may have been made from the same object
            own.quantization_config = Int8Config(names)
            for part in model.modules():
                if part.__dict__.get("config") is shared:
                    part.config = own
        module.hf_quantizer = AUTO_QUANTIZER_MAPPING[QUANT_METHOD](module.config.quantization_config)
        module.quantization_method = QUANT_METHOD
        module.is_quantized = True


def unmark_int8(model: nn.Module) -> None:
    """Undoes :func:`mark_int8`."""
    for module in _pretrained(model):
        ours = _our_quantizer(module)
        if ours is not None:
            ours.remove_quantization_config(module)
