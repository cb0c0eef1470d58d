"""``squeezebert-kernels bench``: the models end to end, ours beside what a user would pick instead."""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from .. import machine
from ..benchmark import memory, plots, results
from ..benchmark.contestants import Contestant, Setting, select
from ..benchmark.runner import Heat, PeakMeter, run_heat
from ..benchmark.workload import MODELS, Shape, load_stock, make_inputs, parse_shape, text_ids
from ..console import UserError, checked_isa, make_console, make_progress, quiet_transformers
from .arguments import check_checkpoint, comma_list, one, parse_count

HELP = "time the models end to end: ours in fp32, bf16 and int8 beside PyTorch, ONNX Runtime and OpenVINO"

SHAPES = "1x32,1x128,1x384,8x128,32x128,ragged"
QUICK = {"models": "squeezebert", "shapes": "1x128", "rounds": 10, "seconds": 12.0}
FULL = {"models": ",".join(MODELS), "shapes": SHAPES, "rounds": 20, "seconds": 90.0}
BUSY = 0.5  # load average from which a warning is printed


def parse_model(text: str) -> str:
    if text not in MODELS:
        raise ValueError(f"{text!r} is no model; possible: {', '.join(MODELS)}")
    return text


def parse_contestant(text: str) -> str:
    select([text])
    return text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="SqueezeBERT at 1x128 without slow contestants: a minute")
    parser.add_argument("--models", metavar="LIST", type=comma_list(parse_model), help=f"of {', '.join(MODELS)}")
    parser.add_argument("--model", metavar="DIR", help="a local SqueezeBERT checkpoint instead of random weights")
    parser.add_argument("--shapes", metavar="LIST", type=comma_list(parse_shape), help=f"default: {SHAPES}")
    parser.add_argument("--threads", metavar="LIST", type=comma_list(parse_count), help="default: 1 and 2 (--quick: 2)")
    parser.add_argument(
        "--only", metavar="LIST", type=comma_list(parse_contestant), help="contestants, e.g. ours,eager-fp32,openvino"
    )
    parser.add_argument("--rounds", metavar="N", type=one(parse_count), help="turns of everybody (default: 20)")
    parser.add_argument(
        "--seconds", metavar="N", type=one(parse_count), help="of a table, after which no round begins (default: 90)"
    )
    parser.add_argument("--no-memory", action="store_true", help="leave out peak memory (--quick does)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write everything measured to FILE")
    parser.add_argument("--plot", metavar="DIR", type=Path, help="draw bar charts and a roofline into DIR, SVG and PNG")


def run(args: argparse.Namespace) -> int:
    preset: dict[str, Any] = QUICK if args.quick else FULL
    models = args.models or comma_list(parse_model)(preset["models"])
    shapes = args.shapes or comma_list(parse_shape)(preset["shapes"])
    cpus = machine.usable_cpus()
    threads = args.threads or ([min(2, cpus)] if args.quick else [n for n in (1, 2) if n <= cpus])
    if max(threads) > cpus:
        raise UserError(f"--threads {max(threads)}: this process may use {cpus} logical CPUs")
    if args.model is not None:
        check_checkpoint(Path(args.model))
        if "squeezebert" not in models:
            raise UserError("--model is a SqueezeBERT checkpoint, but --models leaves squeezebert out")
    if args.json is not None:
        results.check_json(args.json)
    if args.plot is not None:
        plots.check(args.plot)

    console = make_console()
    isa = checked_isa()
    quiet_transformers()
    facts = machine.facts()
    console.print(machine.line())
    load = facts["load_average_at_start"]
    if load is not None and load > BUSY:
        console.print(f"Other work is running (load average {load}): times will be too long, ratios less so.")
    contestants = select(args.only)
    left_out = {c.key: "not in --quick" for c in contestants if args.quick and args.only is None and not c.in_quick}
    meter = PeakMeter(isa)
    if meter.reason:
        console.print(f"Peaks are not measured: {meter.reason}", markup=False, soft_wrap=True)

    race = Race(
        console, contestants, left_out, meter, args.rounds or preset["rounds"], args.seconds or preset["seconds"]
    )
    with torch.inference_mode():
        for model in models:
            checkpoint = args.model if model == "squeezebert" else None
            race.run_model(model, checkpoint, shapes, threads, with_memory=not (args.quick or args.no_memory))

    settings = {
        "models": models,
        "shapes": {s.name: list(s.lengths) for s in shapes},
        "threads": threads,
        "rounds": race.rounds,
        "contestants": [c.key for c in contestants],
    }
    data = results.document(facts, settings, race.heats)
    data["memory"] = race.memory
    data["bandwidth"] = [{"threads": n, "bytes_per_second": meter.bandwidth(n)} for n in threads]
    if race.memory:
        console.print(results.memory_table(race.memory, {c.key: c.label for c in contestants}))
    if args.json is not None:
        results.write_json(args.json, data)
        console.print(f"Written: {args.json}", soft_wrap=True)
    if args.plot is not None:
        for path in plots.draw(data, args.plot):
            console.print(f"Written: {path}", soft_wrap=True)
    failed = [
        r for heat in race.heats for r in heat.results if r.status == "failed" and r.contestant.startswith("ours")
    ]
    return 1 if failed else 0


class Race:
    """All heats of a run."""

    def __init__(
        self, console: Console, contestants: list[Contestant], left_out: dict[str, str], meter: PeakMeter,
        rounds: int, seconds: float,
    ) -> None:  # fmt: skip
        self.console, self.contestants, self.left_out, self.meter = console, contestants, left_out, meter
        self.rounds, self.seconds = rounds, seconds
        self.heats: list[Heat] = []
        self.memory: list[dict[str, Any]] = []

    def run_model(
        self, model: str, checkpoint: str | None, shapes: list[Shape], threads: list[int], *, with_memory: bool
    ) -> None:
        contestants = [c for c in self.contestants if c.models is None or model in c.models]
        with tempfile.TemporaryDirectory(prefix="sbk-bench-") as folder:
            with self.console.status(f"loading {MODELS[model]}"), torch.inference_mode(False):
                stock, origin = load_stock(model, checkpoint)
            config: Any = stock.config
            longest = config.max_position_embeddings
            for shape in shapes:
                if shape.length > longest:
                    raise UserError(f"--shapes: {shape.name} is longer than {MODELS[model]}'s {longest} positions")
            vocab = min(config.vocab_size, 30522)  # BERT-base's, which may stand beside it
            text = text_ids() if model == "minilm" else None  # real weights want real text: int8 is checked on it
            setting = Setting(model, stock, make_inputs(shapes[0], vocab, text), threads[0], Path(folder))
            for count in threads:
                for shape in shapes:
                    padded = shape.tokens < shape.batch * shape.length
                    heat = self._run(
                        replace(setting, inputs=make_inputs(shape, vocab, text), threads=count),
                        shape,
                        [c for c in contestants if c.scope != "memory" and (padded or not c.for_padding)],
                    )
                    self.heats.append(heat)
                    results.print_heat(self.console, heat, shape, origin)
            if with_memory:
                self._measure_memory(setting, checkpoint, contestants, max(threads))

    def _run(self, setting: Setting, shape: Shape, contestants: list[Contestant]) -> Heat:
        with make_progress(self.console) as progress:
            task = progress.add_task(f"{MODELS[setting.name]} {shape.name}", total=100)

            def step(what: str, share: float) -> None:
                text = f"{MODELS[setting.name]} {shape.name}, threads {setting.threads}: {what}"
                progress.update(task, description=text, completed=round(100 * share))
                progress.refresh()

            return run_heat(
                setting,
                shape,
                contestants,
                left_out=self.left_out,
                rounds=self.rounds,
                seconds=self.seconds,
                meter=self.meter,
                step=step,
            )

    def _measure_memory(
        self, setting: Setting, checkpoint: str | None, contestants: list[Contestant], threads: int
    ) -> None:
        good = {r.contestant for h in self.heats for r in h.results if r.model == setting.name and r.status == "ok"}
        chosen = [
            c
            for c in contestants
            if c.scope == "memory" or (c.key in good and c.scope == "model" and not (c.reference or c.for_padding))
        ]
        with make_progress(self.console) as progress:
            task = progress.add_task(f"{MODELS[setting.name]}: memory", total=len(chosen))
            for contestant in chosen:
                progress.refresh()
                self.memory.append(memory.measure(contestant, setting.name, checkpoint, threads, setting.folder))
                progress.advance(task)
