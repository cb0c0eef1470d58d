"""A training step of SqueezeBERT, ours beside transformers, in turns; and the peak memory of each in its own process.

    python bench/train.py                   8x128 tokens, two threads, AdamW, default dropout: a Markdown table
    python bench/train.py --batch 32 --length 64 --steps 9 --only bfloat16

A step is forward, backward, the optimizer and zero_grad. First the losses of both are compared, with dropout off.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import squeezebert_kernels as sbk
from squeezebert_kernels import machine
from squeezebert_kernels.benchmark import memory, native
from squeezebert_kernels.benchmark.timing import in_turns
from squeezebert_kernels.console import quiet_transformers

MODES = ("float32", "autocast", "bfloat16")
CONTESTANTS = ("transformers", "ours")
NAME = "SqueezeBertForSequenceClassification"
TOLERANCE = {"float32": 1e-4, "autocast": 2e-2, "bfloat16": 5e-2}
"""Of the first losses: what bfloat16 rounds away, several times over."""


def build(contestant: str, mode: str, args: argparse.Namespace, **fields: Any) -> tuple[Any, Callable[[], float]]:
    """A model with random weights, always the same, and its step."""
    torch.manual_seed(0)
    stock = getattr(transformers, NAME)(transformers.SqueezeBertConfig(num_labels=3, **fields))
    model = stock
    if contestant == "ours":
        model = getattr(sbk, NAME)(sbk.SqueezeBertConfig(num_labels=3, **fields))
        model.load_state_dict(stock.state_dict())
    del stock
    model.train()
    if mode == "bfloat16":
        model.bfloat16()
    generator = torch.Generator().manual_seed(1)
    shape = (args.batch, args.length)
    inputs = {
        "input_ids": torch.randint(1, 30000, shape, generator=generator),
        "attention_mask": torch.ones(shape, dtype=torch.long),
        "labels": torch.randint(0, 3, shape[:1], generator=generator),
    }
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16) if mode == "autocast" else nullcontext():
            loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return model, step


def operations(model: Any, args: argparse.Namespace) -> float:
    """Of the products of the layers: a forward pass, and twice as many backward."""
    config, tokens = model.config, args.batch * args.length
    convs = sum(p.numel() for n, p in model.named_parameters() if ".layers." in n and p.dim() == 3)
    scores = 2 * args.length * config.hidden_size * config.num_hidden_layers
    return 3 * 2 * tokens * (convs + scores)


def compare(mode: str, args: argparse.Namespace) -> None:
    """Raises SystemExit where the losses of the two differ, over two steps without dropout."""
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    losses = []
    for contestant in CONTESTANTS:
        _, step = build(contestant, mode, args, **no_dropout)
        losses.append([step(), step()])
    if max(abs(a - b) for a, b in zip(*losses)) > TOLERANCE[mode]:
        raise SystemExit(f"the losses differ in {mode}: {losses}")


def times(mode: str, args: argparse.Namespace) -> tuple[dict[str, list[float]], float]:
    """Seconds of the steps of each contestant, in turns, and the operations of a step."""
    steps, count = {}, 0.0
    for contestant in CONTESTANTS:
        model, steps[contestant] = build(contestant, mode, args)
        count = operations(model, args)
        steps[contestant]()
    return in_turns(steps, args.steps), count


def peak_mib(contestant: str, mode: str, args: argparse.Namespace) -> float:
    """Peak resident memory of a process that makes three steps."""
    command = [sys.executable, __file__, "--memory-of", contestant, "--only", mode, "--batch", str(args.batch)]
    command += ["--length", str(args.length), "--threads", str(args.threads)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--only", choices=MODES)
    parser.add_argument("--memory-of", choices=CONTESTANTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    quiet_transformers()
    torch.set_num_threads(args.threads)
    if args.memory_of:
        _, step = build(args.memory_of, args.only, args)
        for _ in range(3):
            step()
        print(memory.peak())
        return
    print(f"{machine.line()}\nSqueezeBERT, {args.batch}x{args.length} tokens, {args.threads} threads, AdamW\n")
    print("| step | transformers, ms | ours, ms | ratio | ours, % of peak | peak memory, MiB: transformers | ours |")
    print("|---|---|---|---|---|---|---|")
    isa = torch.ops.squeezebert_kernels.isa()
    for mode in MODES if args.only is None else (args.only,):
        compare(mode, args)
        seconds, count = times(mode, args)
        stock, ours = (statistics.median(seconds[contestant]) for contestant in CONTESTANTS)
        multiplied = "fp32" if mode == "float32" else "bf16"
        peak = native.peak(isa, multiplied, threads=args.threads)
        peaks = [peak_mib(contestant, mode, args) for contestant in CONTESTANTS]
        print(
            f"| {mode} | {stock * 1e3:.0f} | {ours * 1e3:.0f} | {stock / ours:.2f} | {100 * count / ours / peak:.0f} "
            f"| {peaks[0]:.0f} | {peaks[1]:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
