"""Reading checkpoints with an answer to what is wrong with a file, where transformers would load random weights.

transformers itself does the loading. Before it starts, the weight files of a local folder are opened as far as is
needed to know that they are whole; after it, a backbone weight that the files did not hold is an error.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ..weights.int8_config import scale_names

__all__ = ["MismatchError", "check_loaded", "explain_mismatch", "read_shapes", "weight_files"]

Shapes = dict[str, tuple[int, ...]]


class MismatchError(ValueError, RuntimeError):
    """Weights do not go into the model. It is a RuntimeError too because that is what transformers raises."""


def weight_files(path: Any, kwargs: dict[str, Any]) -> list[Path]:
    """The files of a local checkpoint that transformers will read; none for a hub name or an absent folder.

    Raises:
        ValueError: an index of shards cannot be read, or names a file that is missing.
    """
    if path is None:
        return []
    folder = Path(path) / (kwargs.get("subfolder") or "")
    if not folder.is_dir():
        return []
    variant = f".{kwargs['variant']}" if kwargs.get("variant") else ""
    names = [f"model{variant}.safetensors", f"model.safetensors.index{variant}.json"]
    bins = [f"pytorch_model{variant}.bin", f"pytorch_model.bin.index{variant}.json"]
    use_safetensors = kwargs.get("use_safetensors")
    if use_safetensors is not True:
        names = bins if use_safetensors is False else names + bins
    file = next((folder / name for name in names if (folder / name).is_file()), None)
    if file is None:
        return []
    if file.suffix != ".json":
        return [file]
    try:
        shards = sorted(set(json.loads(file.read_text(encoding="utf-8"))["weight_map"].values()))
        if not shards or not all(isinstance(shard, str) and 0 < len(shard) < 256 for shard in shards):
            raise ValueError("weight_map must name the files of the weights")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{str(file)!r} is no index of shards: {error!r}") from error
    for shard in shards:
        if not (folder / shard).is_file():
            raise ValueError(f"{str(file)!r} names the shard {shard!r}, which is missing")
    return [folder / shard for shard in shards]


def read_shapes(files: Iterable[Path]) -> Shapes:
    """Name and shape of every tensor in the files, without reading the tensors where the format allows it.

    Raises:
        ValueError: a file is truncated, of another format, or holds something else than named tensors.
    """
    shapes: Shapes = {}
    for file in files:
        try:
            if file.suffix == ".safetensors":
                with safe_open(str(file), framework="pt") as opened:
                    shapes.update((name, tuple(opened.get_slice(name).get_shape())) for name in opened.keys())  # noqa: SIM118
                continue
            # Files from before torch 1.6 are no zip archives and cannot be mapped.
            state = torch.load(file, map_location="meta", weights_only=True, mmap=zipfile.is_zipfile(file))
        except SafetensorError as error:
            raise ValueError(f"{str(file)!r} is no whole safetensors file: {error}") from error
        except Exception as error:  # torch.load: RuntimeError, EOFError, UnpicklingError, OSError, ...
            reason = str(error).split("\n", 1)[0] or type(error).__name__
            raise ValueError(f"{str(file)!r} cannot be read as a torch checkpoint: {reason}") from error
        if not isinstance(state, dict) or not any(isinstance(value, torch.Tensor) for value in state.values()):
            raise ValueError(f"{str(file)!r} holds a {type(state).__name__} without tensors, not a state dict")
        shapes.update((name, tuple(value.shape)) for name, value in state.items() if isinstance(value, torch.Tensor))
    return shapes


def _source(path: Any, files: list[Path]) -> str:
    return ", ".join(repr(str(file)) for file in files) or ("state_dict" if path is None else repr(str(path)))


def _examples(names: Iterable[str]) -> str:
    ordered = sorted(names)
    return ", ".join(ordered[:3]) + (f", ... ({len(ordered)} in all)" if len(ordered) > 3 else "")


def _backbone(names: Iterable[str], base_prefix: str) -> set[str]:
    """The names of embeddings' and encoder's weights, without the prefix that heads put before them."""
    bare = (name.removeprefix(f"{base_prefix}.") for name in names)
    return {name for name in bare if name.startswith(("embeddings.", "encoder."))}


def _lacks(path: Any, files: list[Path], missing: set[str], unexpected: Iterable[str]) -> str:
    holds = _examples(unexpected)
    return (
        f"{_source(path, files)} is truncated or no SqueezeBERT checkpoint: it lacks {_examples(missing)}"
        f"{f'; it holds {holds} instead' if holds else ''}. "
        "Pass ignore_mismatched_sizes=True to start these weights at random"
    )


def _stray_scales(path: Any, files: list[Path], unexpected: Iterable[str]) -> str | None:
    scales = [name for name in unexpected if name.endswith(".weight_scale")]
    if not scales:
        return None
    return (
        f"{_source(path, files)} holds int8 weights, but its config.json has no quantization_config for them: "
        f"{_examples(scales)}"
    )


def explain_mismatch(model_class: Any, config: Any, path: Any, files: list[Path], shapes: Shapes) -> str | None:
    """Why weights in the files do not go into a model of this configuration; None if all of them would."""
    with torch.device("meta"):
        expected = {name: tuple(value.shape) for name, value in model_class(config).state_dict().items()}
    base = model_class.base_model_prefix
    stray = _stray_scales(path, files, _backbone(shapes, base) - scale_names(config))
    if stray:
        return stray
    missing = _backbone((*expected, *scale_names(config)), base) - _backbone(shapes, base)
    if missing:
        return _lacks(path, files, missing, _backbone(shapes, base) - _backbone(expected, base))
    wrong = []
    for name, shape in shapes.items():
        for candidate in (name, f"{base}.{name}", name.removeprefix(f"{base}.")):
            if candidate in expected:
                if expected[candidate] != shape:
                    wrong.append(f"{name} is {list(shape)} in the file and {list(expected[candidate])} in the model")
                break
    if not wrong:
        return None
    return f"{_source(path, files)} does not fit the configuration: {'; '.join(wrong[:3])}"


def check_loaded(path: Any, files: list[Path], base_prefix: str, info: dict[str, Any]) -> None:
    """Refuse a model whose embeddings or encoder kept random weights because the checkpoint had none for them.

    Heads and the pooler may be new: that is how a classifier starts from a pretrained encoder, and transformers warns.

    Raises:
        ValueError: names the files and the weights that are missing.
    """
    stray = _stray_scales(path, files, info["unexpected_keys"])
    if stray:
        raise ValueError(stray)
    missing = _backbone(info["missing_keys"], base_prefix)
    if missing:
        raise ValueError(_lacks(path, files, missing, info["unexpected_keys"]))
