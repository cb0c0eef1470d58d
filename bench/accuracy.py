"""How far the dtypes are from stock transformers in float32, as Markdown tables. Takes one to two minutes.

    python bench/accuracy.py                    the ISA tier in use
    SBK_ISA=avx2 python bench/accuracy.py       another one

Exit status 1 if a bar is missed: those of MEAN_COSINE and SAME_TOP in squeezebert_kernels/benchmark/accuracy.py.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from squeezebert_kernels import machine
from squeezebert_kernels.benchmark import accuracy
from squeezebert_kernels.benchmark.accuracy import share
from squeezebert_kernels.benchmark.contestants import CONTESTANTS
from squeezebert_kernels.benchmark.workload import load_stock
from squeezebert_kernels.console import UserError, quiet_transformers

LABELS = {contestant.key: contestant.label for contestant in CONTESTANTS}


def print_table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    header = list(header)
    for row in (header, ["---"] * len(header), *rows):
        print("|", " | ".join(row), "|")
    print()


def search() -> list[str]:
    """Prints MiniLM's tables; returns the bars that were missed."""
    stock, origin = load_stock("minilm")
    texts = accuracy.load_texts()
    found = accuracy.search_accuracy(stock, accuracy.variants(stock), texts)
    n = len(texts.sentences)
    print(
        f"MiniLM, {origin}: {len(texts.passages)} passages, {len(texts.queries)} queries, and {n} sentences of the "
        "passages as more queries.\n"
    )
    print_table(
        ("", "mean cosine", "least cosine", "hidden states", "same passage first"),
        (
            (
                LABELS[name],
                f"{f.cosines.mean():.6f}",
                f"{f.cosines.min():.6f}",
                f"{f.hidden_error:.1e}",
                share(f.same_top),
            )
            for name, f in found.items()
        ),
    )
    print_table(
        ("sentences", "mean cosine", "least cosine", "same passage first", "the same, own passage left out"),
        (
            (
                LABELS[name],
                f"{f.sentence_cosines.mean():.6f}",
                f"{f.sentence_cosines.min():.6f}",
                share(f.same_top_sentences),
                share(f.same_top_elsewhere),
            )
            for name, f in found.items()
        ),
    )
    return [f"{LABELS[name]}: {bar}" for name, f in found.items() for bar in accuracy.missed_bars(name, f)]


def squeezebert() -> None:
    """Prints SqueezeBERT's table."""
    stock, origin = load_stock("squeezebert")
    batch = accuracy.tokenize(accuracy.load_tokenizer(), accuracy.load_texts().passages)
    found = accuracy.output_errors(stock, accuracy.variants(stock), batch)
    mask = batch["attention_mask"]
    print(f"SqueezeBERT, {origin}: the passages as a batch of {len(mask)}x{mask.shape[1]}, {mask.sum()} real tokens.\n")
    print_table(
        ("", "hidden states, relative", "largest", "pooled output, relative", "largest"),
        (
            (LABELS[name], *(f"{value:.1e}" for e in errors for value in (e.relative, e.largest)))
            for name, errors in found.items()
        ),
    )


def main() -> int:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    quiet_transformers()
    try:
        print(f"{machine.line()}\n")
        missed = search()
    except UserError as error:
        print(f"accuracy: error: {error}", file=sys.stderr)
        return 2
    squeezebert()
    print("\n".join(f"MISSED  {bar}" for bar in missed) or "Every bar is met.")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
