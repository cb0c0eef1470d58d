"""Hidden states to vectors, as a :class:`SentenceConfig` says: sentence-transformers' modules behind the encoder."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from .pooling import pooled
from .sentence_config import Layer, SentenceConfig

__all__ = ["SentenceHead"]


class SentenceHead(nn.Module):
    """Pooling, and what follows it, in float32.

    Args:
        config: what to do.
        folder: of the checkpoint, from which weights are read.
        hidden_size: channels of the encoder.

    Raises:
        ValueError: weights are missing, damaged or of another shape.
    """

    def __init__(self, config: SentenceConfig, folder: Path, hidden_size: int) -> None:
        super().__init__()
        self.config = config
        self.width = hidden_size * len(config.pooling)  # channels of a vector
        layers = []
        for layer in config.layers:
            layers.append(_module(layer, folder, self.width))
            if layer.kind == "Dense":
                self.width = layer.size[1]
            elif layer.kind == "Truncate":
                self.width = min(self.width, layer.size[1])
        self.layers = nn.Sequential(*layers).requires_grad_(False).eval()

    def forward(self, hidden: Tensor, mask: Tensor, prompt_length: int = 0) -> Tensor:
        """One vector of each text.

        Args:
            hidden: [B, S, C] float32.
            mask: [B, S], 1 for real tokens, which come first.
            prompt_length: tokens of the prompt with the special one before it, which are not pooled if the
                configuration says so.

        Returns:
            [B, width] float32.
        """
        if prompt_length and not self.config.include_prompt:
            mask = mask.clone()
            mask[:, :prompt_length] = 0
        vectors: Tensor = self.layers(pooled(hidden, mask, self.config.pooling, normalize=False))
        return vectors


class _Normalize(nn.Module):
    def forward(self, vectors: Tensor) -> Tensor:
        return nn.functional.normalize(vectors, dim=-1)


class _Truncate(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, vectors: Tensor) -> Tensor:
        return vectors[:, : self.size]


class _Dense(nn.Module):
    """The names of the parameters are those in the files of sentence-transformers."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        inputs, outputs = layer.size
        self.linear = nn.Linear(inputs, outputs, bias=layer.bias)
        self.activation_function = _activation(layer)
        self.skip = layer.residual
        self.residual = nn.Linear(inputs, outputs, bias=False) if layer.residual and inputs != outputs else None

    def forward(self, vectors: Tensor) -> Tensor:
        out: Tensor = self.activation_function(self.linear(vectors))
        if self.skip:
            out = out + (vectors if self.residual is None else self.residual(vectors))
        return out


class _LayerNorm(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(size)

    def forward(self, vectors: Tensor) -> Tensor:
        normed: Tensor = self.norm(vectors)
        return normed


def _activation(layer: Layer) -> nn.Module:
    cls = getattr(nn, layer.activation, None)
    try:
        made = cls() if isinstance(cls, type) and issubclass(cls, nn.Module) else None
    except TypeError:  # one that needs arguments, which the file does not have
        made = None
    if made is None:
        raise ValueError(f"{layer.folder}/config.json: activation_function {layer.activation!r} is not supported")
    return made


def _module(layer: Layer, folder: Path, width: int) -> nn.Module:
    """A layer with its weights; ``width``: channels of what it is given."""
    if layer.kind == "Normalize":
        return _Normalize()
    if layer.kind == "Truncate":
        return _Truncate(layer.size[0])
    if layer.size[0] != width:
        raise ValueError(f"{layer.folder}/config.json: {layer} takes {layer.size[0]} numbers, it is given {width}")
    with torch.device("meta"):  # no memory before the sizes are those of the file
        module = _Dense(layer) if layer.kind == "Dense" else _LayerNorm(layer.size[0])
    files = [folder / layer.folder / name for name in ("model.safetensors", "pytorch_model.bin")]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise ValueError(f"{layer.folder} has no model.safetensors or pytorch_model.bin")
    weights = _read(file)
    wanted = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in weights.items()}
    if wanted != found:
        raise ValueError(f"{str(file)!r} holds {found}, not {wanted}")
    module.load_state_dict({name: value.float() for name, value in weights.items()}, assign=True)
    return module


def _read(file: Path) -> dict[str, Tensor]:
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # safetensors, pickle and torch raise many kinds
        raise ValueError(f"{str(file)!r} cannot be read: {str(error).partition(chr(10))[0]}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{str(file)!r} holds a {type(state).__name__}, not tensors by name")
    return state
