"""How far every dtype is from stock transformers in float32, on real text."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..data.samples import Embedder, load_passages, mean_pooled, minilm_folder
from ..fusion.optimize import optimize
from .checking import relative_error
from .contestants import OPTIMIZE, shared_copy

MEAN_COSINE = {"ours-fp32": 0.999999, "ours-bf16": 0.9999, "ours-int8": 0.998}
SAME_TOP = 0.99  # share of queries, sentences included
SHORTEST_SENTENCE = 4  # words: fewer are headwords ("WAR, n.") and pieces that an abbreviation has cut off


@dataclass(frozen=True)
class Texts:
    """``homes`` are the passages that the sentences come from."""

    passages: list[str]
    queries: list[str]
    sentences: list[str]
    homes: Tensor


def load_texts() -> Texts:
    """The demo's passages and queries. Every sentence of a passage is a query too, because queries are few.

    A sentence ends at . ! or ?, closing quotation marks included, in front of white space.
    """
    data = load_passages()
    passages = [passage["text"] for passage in data["passages"]]
    sentences, homes = [], []
    for home, passage in enumerate(passages):
        for sentence in re.findall(r"\S.*?(?:[.!?]['\"]*(?=\s)|$)", passage):
            if len(sentence.split()) >= SHORTEST_SENTENCE:
                sentences.append(sentence)
                homes.append(home)
    return Texts(passages, [query["text"] for query in data["queries"]], sentences, torch.tensor(homes))


def variants(stock: nn.Module) -> dict[str, nn.Module]:
    """What is held against ``stock``, by the contestants' names: ours in every dtype, transformers in bfloat16."""
    ours: dict[str, nn.Module] = {
        f"ours-{dtype}": optimize(shared_copy(stock), **options) for dtype, options in OPTIMIZE.items()
    }
    return {**ours, "eager-bf16": copy.deepcopy(stock).to(torch.bfloat16)}


def load_tokenizer() -> Any:
    """MiniLM's: BERT's uncased vocabulary, which is SqueezeBERT's too."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(minilm_folder())


def tokenize(tokenizer: Any, texts: Sequence[str]) -> dict[str, Tensor]:
    """All ``texts`` as one batch, padded to the longest."""
    return dict(tokenizer(list(texts), padding=True, truncation=True, max_length=256, return_tensors="pt"))


@dataclass(frozen=True)
class SearchAccuracy:
    """MiniLM's sentence embeddings and what a search finds with them, beside stock's.

    Cosines with stock's embeddings: of passages and queries, and of sentences. ``same_top``: queries for which the same
    passage comes first, ``same_top_sentences`` sentences (their own passage is there to be found), and
    ``same_top_elsewhere`` sentences with their own passage left out, which makes for close races. ``hidden_error``:
    relative error (Frobenius norm) of the hidden states of all real tokens.
    """

    cosines: Tensor
    sentence_cosines: Tensor
    same_top: Tensor
    same_top_sentences: Tensor
    same_top_elsewhere: Tensor
    hidden_error: float


def search_accuracy(stock: nn.Module, models: dict[str, nn.Module], texts: Texts) -> dict[str, SearchAccuracy]:
    """Of each of ``models``."""
    tokenizer = load_tokenizer()
    everything = [*texts.passages, *texts.queries, *texts.sentences]
    sizes = [len(texts.passages), len(texts.queries), len(texts.sentences)]

    def measure(model: nn.Module) -> tuple[Tensor, list[Tensor], Tensor]:
        """Embeddings, first passages, and hidden states of real tokens, of everything in one order."""
        vectors, real = [torch.empty(0)] * len(everything), []
        for part, hidden, mask in Embedder(model, tokenizer).hidden_states(everything):
            for i, vector in zip(part, mean_pooled(hidden, mask)):
                vectors[i] = vector
            real.append(hidden[mask.bool()])
        embeddings = torch.stack(vectors)
        passages, queries, sentences = embeddings.split(sizes)
        scores = sentences @ passages.T
        tops = [(queries @ passages.T).argmax(1), scores.argmax(1)]
        scores[torch.arange(len(scores)), texts.homes] = -torch.inf
        return embeddings, [*tops, scores.argmax(1)], torch.cat(real)

    result = {}
    with torch.inference_mode():
        embeddings, tops, hidden = measure(stock)
        for name, model in models.items():
            other_embeddings, other_tops, other_hidden = measure(model)
            cosines = torch.nn.functional.cosine_similarity(other_embeddings.double(), embeddings.double(), dim=-1)
            queries, sentences, elsewhere = (other == top for other, top in zip(other_tops, tops))
            result[name] = SearchAccuracy(
                cosines=cosines[: -sizes[2]],
                sentence_cosines=cosines[-sizes[2] :],
                same_top=queries,
                same_top_sentences=sentences,
                same_top_elsewhere=elsewhere,
                hidden_error=relative_error(other_hidden, hidden),
            )
    return result


def share(same: Tensor) -> str:
    """E.g. "11 of 12"."""
    return f"{int(same.sum())} of {len(same)}"


def missed_bars(name: str, found: SearchAccuracy) -> list[str]:
    """The bars that ``found`` misses, in words; only ours have any."""
    if name not in MEAN_COSINE:
        return []
    missed = []
    for what, cosines in (("passages and queries", found.cosines), ("sentences", found.sentence_cosines)):
        if cosines.mean() < MEAN_COSINE[name]:
            missed.append(f"mean cosine of {what}: {cosines.mean():.6f}, bar {MEAN_COSINE[name]}")
    same = torch.cat([found.same_top, found.same_top_sentences])
    if same.double().mean() < SAME_TOP:
        missed.append(f"same passage first, queries and sentences: {share(same)}, bar {SAME_TOP:.0%}")
    return missed


@dataclass(frozen=True)
class OutputError:
    """``relative``: in the Frobenius norm. ``largest``: of any element, absolute. Padding does not count."""

    relative: float
    largest: float


def output_errors(
    stock: nn.Module, models: dict[str, nn.Module], batch: dict[str, Tensor]
) -> dict[str, tuple[OutputError, OutputError]]:
    """Errors of last_hidden_state and of pooler_output."""
    mask = batch["attention_mask"]

    def error(actual: Tensor, expected: Tensor, mask: Tensor | None = None) -> OutputError:
        difference = actual.float() - expected
        largest = (difference if mask is None else difference[mask.bool()]).abs().max().item()
        return OutputError(relative_error(actual, expected, mask), largest)

    with torch.inference_mode():
        expected = stock(**batch)
        actual = {name: model(**batch) for name, model in models.items()}
    return {
        name: (
            error(output.last_hidden_state, expected.last_hidden_state, mask),
            error(output.pooler_output, expected.pooler_output),
        )
        for name, output in actual.items()
    }
