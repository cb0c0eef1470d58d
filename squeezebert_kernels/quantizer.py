"""int8 checkpoints: models of which only int8 weights are left, to transformers' save_pretrained and from_pretrained.

The file holds ``weight`` (int8) and ``weight_scale`` (float32 per output channel, or per row of an embedding) in place
of each weight named in the ``quantization_config`` of config.json. transformers finds the classes below by its
``quant_method``, once this package is imported.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel
from transformers.quantizers import HfQuantizer
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from .frozen import QuantizedRows, frozen_weights, int8_state_dict, put, return_memory

__all__ = ["Int8Config", "Int8Quantizer", "mark_int8", "scale_names", "unmark_int8"]

QUANT_METHOD = "squeezebert_kernels"


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


@register_quantizer(QUANT_METHOD)
class Int8Quantizer(HfQuantizer):
    """transformers' hooks around loading and saving."""

    requires_calibration = True  # that is: only for checkpoints that are int8 already

    def update_dtype(self, dtype: Any) -> Any:
        """float32, which everything but the weights is computed in; in half precision the scales would be rounded."""
        if dtype not in (None, torch.float32):
            warnings.warn(f"an int8 model is loaded in float32, not in {dtype}", stacklevel=2)
        return torch.float32

    def _process_model_before_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        wanted = set(self.quantization_config.modules)
        for name, module in model.named_modules():
            if _bare(name, model) in wanted and module._parameters.get("weight") is not None:
                wanted.discard(_bare(name, model))
                shape, device = module.weight.shape, module.weight.device
                values = torch.empty(shape, dtype=torch.int8, device=device)
                module.weight = nn.Parameter(values, requires_grad=False)
                module.register_buffer("weight_scale", torch.empty(shape[0], dtype=torch.float32, device=device))
        # Of a head, which a base model does not have, there may be more.
        lost = sorted(name for name in wanted if name.startswith(("embeddings.", "encoder.")))
        if lost:
            raise ValueError(f"quantization_config names modules that {type(model).__name__} does not have: {lost[:3]}")
        _check_files(kwargs.get("checkpoint_files") or (), model, set(self.quantization_config.modules))
        return model

    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        from .optimize import leave_one_copy, optimize, report

        for module in model.modules():
            if "weight_scale" in module._buffers:
                if module.weight.dtype != torch.int8:
                    raise ValueError(f"the weight of a {type(module).__name__} is {module.weight.dtype}, not int8")
                values, scale = module.weight.detach(), module._buffers.pop("weight_scale")
                if not ((scale >= 0) & scale.isfinite()).all():
                    raise ValueError(f"weight_scale of a {type(module).__name__} is missing, negative or not finite")
                module.weight = nn.Parameter(torch.empty(0), requires_grad=True)
                put(module, QuantizedRows(values, scale, torch.float32))
        optimize(model, quantization="int8")
        leave_one_copy(model, report(model), only=QuantizedRows)
        return_memory()
        return model

    def get_state_dict_and_metadata(self, model: Any, safe_serialization: bool = False) -> tuple[Any, dict[str, Any]]:
        """The state dict with int8 weights as such.

        Raises:
            RuntimeError: weights that were int8 have been replaced since, say by ``model.to(torch.bfloat16)``.
        """
        left = {_bare(name, model) for name, _, weight in frozen_weights(model) if weight.is_int8}
        replaced = sorted(left.symmetric_difference(self.quantization_config.modules))
        if replaced:
            raise RuntimeError(
                f"the weights of {len(replaced)} modules have been replaced since optimize(quantization='int8', "
                f"free_original=True), such as {replaced[0]}: call squeezebert_kernels.restore(model) before saving"
            )
        with int8_state_dict():
            return model.state_dict(), {}

    def is_serializable(self, safe_serialization: bool | None = None) -> bool:
        """Yes."""
        return True

    @property
    def is_trainable(self) -> bool:
        """No: nothing can write to the weights."""
        return False

    def dequantize(self, model: Any, dtype: torch.dtype | None = None) -> Any:
        """``restore(model)``."""
        from .optimize import restore

        return restore(model)


def _check_files(files: Iterable[Any], model: Any, modules: set[str]) -> None:
    """Refuses a file in which something else stands for an int8 weight, which transformers would convert."""
    dtypes: dict[str, str] = {}
    for file in files:
        if not str(file).endswith(".safetensors"):
            return
        with safe_open(str(file), framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                dtypes[_bare(name, model)] = opened.get_slice(name).get_dtype()
    for module in sorted(modules) if dtypes else ():
        for name, wanted in ((f"{module}.weight", "I8"), (f"{module}.weight_scale", "F32")):
            if name in dtypes and dtypes[name] != wanted:
                raise ValueError(f"{name} is {dtypes[name]} in the checkpoint, but quantization_config says {wanted}")
            if name not in dtypes and module.startswith(("embeddings.", "encoder.")):
                raise ValueError(f"the checkpoint lacks {name}, which quantization_config says is there")


def scale_names(config: Any) -> set[str]:
    """The names of the scales in a checkpoint with this configuration, without the prefix of heads."""
    int8 = getattr(config, "quantization_config", None)
    modules = int8.get("modules", []) if isinstance(int8, dict) else getattr(int8, "modules", [])
    return {f"{name}.weight_scale" for name in modules}


def _bare(name: str, model: Any) -> str:
    return name.removeprefix(f"{model.base_model_prefix}.")


def _pretrained(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, PreTrainedModel)]


def mark_int8(model: nn.Module) -> None:
    """Lets every transformers model in ``model`` save what is int8 in it as such."""
    for module in _pretrained(model):
        names = sorted(_bare(name, module) for name, _, weight in frozen_weights(module) if weight.is_int8)
        quantizer = getattr(module, "hf_quantizer", None)
        if isinstance(quantizer, Int8Quantizer):
            quantizer.quantization_config.modules = names
        if quantizer is not None or not names:
            continue
        shared = module.config
        if not hasattr(shared, "quantization_config"):
            own = copy.deepcopy(shared)  # other models may have been made from the same object
            own.quantization_config = Int8Config(names)
            for part in model.modules():
                if part.__dict__.get("config") is shared:
                    part.config = own
        module.hf_quantizer = Int8Quantizer(module.config.quantization_config)
        module.quantization_method = QUANT_METHOD
        module.is_quantized = True


def unmark_int8(model: nn.Module) -> None:
    """Undoes :func:`mark_int8`."""
    for module in _pretrained(model):
        quantizer = getattr(module, "hf_quantizer", None)
        if isinstance(quantizer, Int8Quantizer):
            quantizer.remove_quantization_config(module)
