"""Checkpoints with the files of sentence-transformers, and the vectors that those files ask for."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file

KINDS = "sentence_transformers.models."
FLAGS = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")


def flags(*on: str) -> dict[str, Any]:
    """A pooling configuration of before version 5.4."""
    return {"word_embedding_dimension": 32, **{f"pooling_mode_{name}": name in on for name in FLAGS}}


def write_json(file: Path, value: Any) -> None:
    """The value as a file, in a folder that is made if need be."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value), encoding="utf-8")


def sentence_checkpoint(
    base: Path, folder: Path, pooling: Any, *, behind: Sequence[str] = (), files: Mapping[str, Any] | None = None
) -> Path:
    """A copy of ``base`` with modules.json: Transformer, Pooling and the modules ``behind``, in N_Name each.

    Args:
        base: a checkpoint.
        folder: to write to.
        pooling: of 1_Pooling/config.json.
        behind: names of classes.
        files: more files, as JSON. A Dense or LayerNorm gets random weights that fit its configuration.
    """
    shutil.copytree(base, folder)
    kinds = ["Transformer", "Pooling", *behind]
    paths = ["", *(f"{i}_{kind}" for i, kind in enumerate(kinds[1:], 1))]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": KINDS + kind}
        for i, (kind, path) in enumerate(zip(kinds, paths))
    ]
    write_json(folder / "modules.json", modules)
    write_json(folder / "1_Pooling/config.json", pooling)
    for name, value in (files or {}).items():
        write_json(folder / name, value)
        size = value.get("out_features")
        if size is not None:
            weights = {
                "linear.weight": torch.randn(size, value["in_features"]) / 4,
                "linear.bias": torch.randn(size) / 4,
            }
            if not value.get("bias", True):
                del weights["linear.bias"]
            if value.get("use_residual") and size != value["in_features"]:
                weights["residual.weight"] = torch.randn(size, value["in_features"]) / 4
            save_file(weights, (folder / name).with_name("model.safetensors"))
    return folder


@functools.lru_cache(maxsize=2)
def _loaded(folder: Path) -> tuple[Any, Any]:
    model = transformers.AutoModel.from_pretrained(folder).float().eval()
    return model, transformers.AutoTokenizer.from_pretrained(folder)


def hidden_states(folder: Path, texts: Sequence[str], length: int) -> list[torch.Tensor]:
    """[S, C] float32 for each text, by transformers, one at a time."""
    model, tokenizer = _loaded(folder)
    with torch.inference_mode():
        return [
            model(**tokenizer(text, truncation=True, max_length=length, return_tensors="pt")).last_hidden_state[0]
            for text in texts
        ]


def pool(hidden: torch.Tensor, kind: str) -> torch.Tensor:
    """[C]: one vector of [S, C], as sentence-transformers defines the kinds."""
    position = torch.arange(1.0, len(hidden) + 1)
    if kind == "weightedmean":
        return sum(h * p for h, p in zip(hidden, position)) / position.sum()
    return {
        "cls": hidden[0], "lasttoken": hidden[-1], "max": hidden.max(0).values, "mean": hidden.sum(0) / len(hidden),
        "mean_sqrt_len_tokens": hidden.sum(0) / len(hidden) ** 0.5,
    }[kind]  # fmt: skip


def dense(folder: Path, vector: torch.Tensor, activation: Any = torch.tanh, *, residual: bool = False) -> torch.Tensor:
    """What the Dense module in a folder makes of a vector."""
    weights = load_file(folder / "model.safetensors")
    out = activation(weights["linear.weight"] @ vector + weights.get("linear.bias", 0.0))
    if residual:
        out = out + (weights["residual.weight"] @ vector if "residual.weight" in weights else vector)
    return out


def in_a_folder_of_its_own(folder: Path) -> Path:
    """``folder`` after its encoder was moved to 0_Transformer, where modules.json may say that it is."""
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    write_json(folder / "modules.json", modules)
    (folder / "0_Transformer").mkdir()
    for file in [p for p in folder.iterdir() if p.is_file() and p.name != "modules.json"]:
        file.rename(folder / "0_Transformer" / file.name)
    return folder
