"""``squeezebert-kernels tune``: measures launch configurations of the Triton kernels on the GPU at hand."""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console

from ..console import UserError, make_console
from ..files import check_target, write_file
from ..ops import devices

HELP = "measure launch configurations of the Triton kernels on this GPU and use the fastest from now on"

TOKENS: dict[int, int | None] = {32: 64, 128: 256, 1024: 2048, 8192: None}
"""Numbers of tokens that are measured: the largest that each stands for."""
LENGTHS: dict[int, int | None] = {32: 32, 64: 64, 128: None}
FLASH_LENGTHS: dict[int, int | None] = {384: None}
MEASURED_IN = {"half": torch.bfloat16, "float32": torch.float32}
"""The two kinds of configurations, and the dtype that each is measured in."""
Config = dict[str, int]


class Trial(NamedTuple):
    """One configuration of one kernel at one size."""

    kernel: str
    dtype: str
    size: int
    config: Config


def sizes(kernel: str) -> dict[int, int | None]:
    """The sizes at which ``kernel`` is measured, and up to which each stands."""
    return LENGTHS if kernel == "attention" else FLASH_LENGTHS if kernel == "flash" else TOKENS


def _grid(**values: Sequence[int]) -> Iterator[Config]:
    for combination in itertools.product(*values.values()):
        yield dict(zip(values, combination))


def candidates(kernel: str, dtype: str, size: int) -> Iterator[Config]:
    """Configurations worth measuring: those that cannot be good are left out by simple rules."""
    half = dtype == "half"
    if kernel == "attention":
        for config in _grid(
            BLOCK_Q=(64, 128) if size == 128 else (size,), BLOCK_K=(32, 64), num_warps=(4, 8),
            num_stages=(1, 2, 3) if half else (1, 2),
        ):  # fmt: skip
            if config["BLOCK_Q"] < 128 or config["num_warps"] == 8:  # the scores of 128 queries do not fit 4 warps
                yield config
        return
    if kernel == "flash":
        yield from _grid(
            BLOCK_M=(64, 128) if half else (32, 64), BLOCK_N=(32, 64, 128) if half else (16, 32),
            num_warps=(4, 8), num_stages=(2, 3) if half else (1, 2),
        )  # fmt: skip
        return
    many, few = size >= 8192, size <= 128
    rows = (64, 128) if many else (16, 32) if few else (32, 64)
    if not half:
        rows = (32, 64) if many else (16, 32)
    if kernel == "ffn":
        hidden_blocks = (32, 64, 128) if many else (32, 64)
        for config in _grid(
            BLOCK_M=rows if half else (16, 32), BLOCK_H=hidden_blocks if half else (16, 32),
            CHUNK=(64, 128) if half else (64,), FUSED=(1,),
            num_warps=(4,) if few else (4, 8), num_stages=(1, 2, 3) if half else (1, 2),
        ):  # fmt: skip
            if config["num_warps"] * (16 if half else 4) <= config["BLOCK_M"] * (4 if few else 1) * 4:
                yield config
        if not many:
            yield config | {"FUSED": 0}
        return
    for config in _grid(
        BLOCK_M=rows, BLOCK_N=((64, 128, 256) if many else (32, 64) if few else (32, 64, 128)) if half else (32, 64),
        BLOCK_K=(64, 128) if half and not many else (64,) if half else (32,), num_warps=(4,) if few else (4, 8),
        num_stages=(2, 3, 4) if half else (2, 3),
    ):  # fmt: skip
        if config["BLOCK_M"] * config["BLOCK_N"] >= config["num_warps"] * 256:
            yield config


def _launch(trial: Trial) -> str | None:
    """Compiles and runs a trial once; why it cannot run, or None."""
    from ..triton_kernels import configs
    from ..triton_kernels.workload import workload

    try:
        with torch.inference_mode(), configs.override(**{trial.kernel: trial.config}):
            workload(trial.kernel, MEASURED_IN[trial.dtype], trial.size, "cuda")()
            torch.cuda.synchronize()
    except Exception as error:  # too much shared memory, most often
        return f"{type(error).__name__}: {error}"
    return None


def measure(trial: Trial, call: Any, others: dict[str, Config], replays: int = 5) -> float:
    """Median microseconds of a call, of launches that follow one another in a CUDA graph; ``others``: the best so far
    of kernels that the call may launch besides."""
    from ..triton_kernels import configs
    from ..triton_kernels.timing import microseconds

    with torch.inference_mode(), configs.override(**others | {trial.kernel: trial.config}):
        return microseconds(call, 20, replays)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: where this GPU's file is looked for")
    parser.add_argument("--kernels", default="", metavar="A,B", help="only these; the rest stays as it is")
    parser.add_argument("--dtypes", default="half,float32", help="default %(default)s")
    parser.add_argument("--minutes", type=float, default=30.0, help="stop measuring after that; default %(default)s")
    parser.add_argument("--log", type=Path, metavar="FILE", help="write every measurement to FILE, as JSON")


def run(args: argparse.Namespace) -> int:
    """The command."""
    if not torch.cuda.is_available() or (reason := devices.why_no_triton(None)) is not None:
        raise UserError(f"tune needs a GPU: {reason if torch.cuda.is_available() else 'CUDA is not available'}")
    from ..triton_kernels import configs

    kernels = args.kernels.split(",") if args.kernels else list(configs.KERNELS)
    dtypes = args.dtypes.split(",")
    for given, known, option in ((kernels, configs.KERNELS, "--kernels"), (dtypes, MEASURED_IN, "--dtypes")):
        if unknown := [name for name in given if name not in known]:
            raise UserError(f"{option}: unknown {', '.join(unknown)}; possible: {', '.join(known)}")
    device = torch.device("cuda", torch.cuda.current_device())
    output = args.output or configs.tuned_path(torch.cuda.get_device_name(device))
    try:  # now, rather than after half an hour
        output.parent.mkdir(parents=True, exist_ok=True)
        for path in (output, args.log):
            if path is not None:
                check_target(path)
    except OSError as error:
        raise UserError(f"{error.filename} cannot be written: {error.strerror}") from None
    entries = dict(configs.load(device))  # whose lists are replaced, not changed
    console = make_console()
    found, log = _tune(kernels, dtypes, args.minutes, console)
    for (kernel, dtype), best in found.items():
        kept = [entry for entry in entries[kernel] if entry["dtype"] != dtype]
        entries[kernel] = kept + best
    write(output, entries)
    configs.read(output)
    if args.log is not None:
        write_file(args.log, json.dumps(log))
    console.print(f"written: {output}")
    return 0


def write(path: Path, entries: dict[str, list[dict[str, Any]]]) -> None:
    """Writes a file of configurations, one on a line; all of it or nothing."""
    lists = []
    for kernel, of_kernel in entries.items():
        lines = ",\n".join(f"    {json.dumps(entry)}" for entry in of_kernel)
        lists.append(f'  "{kernel}": [\n{lines}\n  ]')
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, "{\n" + ",\n".join(lists) + "\n}\n")


def _tune(
    kernels: Sequence[str], dtypes: Sequence[str], minutes: float, console: Console
) -> tuple[dict[tuple[str, str], list[dict[str, Any]]], list[dict[str, Any]]]:
    """The fastest entries for each kernel and dtype, and every measurement."""
    from ..triton_kernels.workload import flops, workload

    end = time.monotonic() + 60 * minutes
    trials = [
        Trial(kernel, dtype, size, config)
        for dtype, kernel in itertools.product(dtypes, kernels)
        for size in sizes(kernel)
        for config in candidates(kernel, dtype, size)
    ]
    console.print(f"{len(trials)} configurations on {torch.cuda.get_device_name()}: compiling")
    workers = max(1, min(14, (os.cpu_count() or 1) - 1))
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    best_at: dict[tuple[str, int], dict[str, Config]] = {}
    log: list[dict[str, Any]] = []
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        # In order, so that what is compiled is measured while the rest is compiled. Timings are of the GPU alone, which
        # the workers use for a moment now and then: the best of each size are measured again below.
        compiled = pool.imap(_launch, trials)
        for (kernel, dtype, size), group in itertools.groupby(trials, key=lambda t: (t.kernel, t.dtype, t.size)):
            call = workload(kernel, MEASURED_IN[dtype], size, "cuda")
            others = best_at.setdefault((dtype, size), {})
            times: list[tuple[float, int, Trial]] = []
            for number, trial in enumerate(group):
                problem, us = next(compiled), None
                if problem is None and time.monotonic() < end:
                    us = measure(trial, call, others, 3)
                    times.append((us, number, trial))
                log.append({**trial._asdict(), "us": us})
            again = sorted((measure(t, call, others, 9), n, t) for _, n, t in sorted(times)[:3])
            if not again:
                continue
            best, _, trial = again[0]
            others[kernel] = trial.config
            log.append({**trial._asdict(), "us": best, "best": True})
            found.setdefault((kernel, dtype), []).append(
                {"dtype": dtype, "up_to": sizes(kernel)[size], **trial.config}
            )  # fmt: skip
            rate = flops(kernel, size) / best * 1e-6
            shown = " ".join(f"{name}={value}" for name, value in trial.config.items())
            console.print(f"{kernel} {dtype} {size}: {best:.1f} us, {rate:.0f} TFLOP/s, {shown}", highlight=False)
    return {key: best for key, best in found.items() if best[-1]["up_to"] is None}, log
