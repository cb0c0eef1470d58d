"""int8 checkpoints: models of which only int8 weights are left, to transformers' save_pretrained and from_pretrained.

The file holds ``weight`` (int8) and ``weight_scale`` (float32 per output channel, or per row of an embedding) in place
of each weight named in the ``quantization_config`` of config.json. transformers finds the classes below by its
``quant_method``, once this package is imported.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers.quantizers import HfQuantizer
from transformers.quantizers.auto import register_quantizer

from ..weights.int8_config import QUANT_METHOD, bare_name
from ..weights.stand_ins import QuantizedRows, frozen_weights, int8_state_dict, put, return_memory
from .free_originals import leave_one_copy
from .optimize import optimize, restore
from .report import report

__all__ = ["Int8Quantizer"]


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
            if bare_name(name, model) in wanted and module._parameters.get("weight") is not None:
                wanted.discard(bare_name(name, model))
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
        left = {bare_name(name, model) for name, _, weight in frozen_weights(model) if weight.is_int8}
        replaced = sorted(left.symmetric_difference(self.quantization_config.modules))
        if replaced:
            raise RuntimeError(
                f"the weights of {len(replaced)} modules have been replaced since optimize(quantization='int8', "
                f"free_original=True), such as {replaced[0]}: call squeezebert_kernels.restore(model) before saving"
            )
        with int8_state_dict():
            return model.state_dict(), {}

    def _convert_model_for_quantization(self, model: Any) -> None:
        """Nothing: transformers exchanges experts of Llama 4 here, for which 4.57 needs the package accelerate."""

    def is_serializable(self, safe_serialization: bool | None = None) -> bool:
        """Yes."""
        return True

    @property
    def is_trainable(self) -> bool:
        """No: nothing can write to the weights."""
        return False

    def dequantize(self, model: Any, dtype: torch.dtype | None = None) -> Any:
        """``restore(model)``."""
        return restore(model)


def _check_files(files: Iterable[Any], model: Any, modules: set[str]) -> None:
    """Refuses a file in which something else stands for an int8 weight, which transformers would convert."""
    dtypes: dict[str, str] = {}
    for file in files:
        if not str(file).endswith(".safetensors"):
            return
        with safe_open(str(file), framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                dtypes[bare_name(name, model)] = opened.get_slice(name).get_dtype()
    for module in sorted(modules) if dtypes else ():
        for name, wanted in ((f"{module}.weight", "I8"), (f"{module}.weight_scale", "F32")):
            if name in dtypes and dtypes[name] != wanted:
                raise ValueError(f"{name} is {dtypes[name]} in the checkpoint, but quantization_config says {wanted}")
            if name not in dtypes and module.startswith(("embeddings.", "encoder.")):
                raise ValueError(f"the checkpoint lacks {name}, which quantization_config says is there")
