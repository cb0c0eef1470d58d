"""``squeezebert-kernels embed``: embeds or classifies a corpus, in chunks that can be interrupted and continued."""

from __future__ import annotations

import argparse
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import torch

from .. import machine
from ..console import UserError, checked_isa, make_console, shown
from ..corpus.encoder import Encoder
from ..corpus.engines import failure, run_local, run_ray
from ..corpus.job import TASKS, Job, need
from ..corpus.output import ERRORS, OutputFolder, about, manifest
from ..corpus.progress import Meter, Summary
from ..corpus.rows import cut
from ..corpus.sources import find_sources
from ..models.pooling import POOLING
from ..ops.dtypes import PACKED
from .arguments import comma_list

HELP = "embed or classify a corpus of Parquet, JSON lines or CSV files, here or on a Ray cluster"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("input", metavar="INPUT", help="a Parquet, JSON lines or CSV file, a folder of them, or a glob in quotes")
    add("out", metavar="OUT", help="folder for the results; what is finished in it is not done again")
    add(
        "--model",
        required=True,
        metavar="MODEL",
        help="folder of a SqueezeBERT or BERT checkpoint, or its name on the hub",
    )
    add("--task", choices=TASKS, default="embed", help="default: embed")
    add("--engine", choices=("local", "ray"), default="local", help="this process (default), or actors of Ray Data")
    add("--dtype", choices=PACKED, default="float32", help="what the encoder multiplies in (default: float32)")
    add(
        "--sentence-files", action=argparse.BooleanOptionalAction, default=True,
        help="follow what the model has of sentence-transformers: modules.json, ... (default: --sentence-files)",
    )  # fmt: skip
    add(
        "--pooling", type=comma_list(_pooling), metavar="NAME[,NAME]",
        help=f"of tokens: {', '.join(POOLING)}; several are joined (default: the model's, or mean)",
    )  # fmt: skip
    add(
        "--normalize", action=argparse.BooleanOptionalAction,
        help="embeddings of length 1 (default: as the model says, or --normalize)",
    )  # fmt: skip
    add("--prompt", metavar="TEXT", help="text to put before every row (default: the model's default_prompt_name)")
    add("--prompt-name", metavar="NAME", help="one of the model's prompts")
    add("--float16", action="store_true", help="store embeddings as float16 instead of float32")
    add("--text-column", metavar="NAME", default="text", help="column or field with the text (default: text)")
    add("--id-column", metavar="NAME", help="column or field that is copied to the results, as 'id'")
    add("--max-length", metavar="N", type=int, help="tokens of a row; the rest is cut (default: what the model takes)")
    add("--batch-tokens", metavar="N", type=int, default=4096, help="tokens of a batch (default: 4096)")
    add("--rows-per-shard", metavar="N", type=int, default=4096, help="input rows of an output file (default: 4096)")
    add("--threads", metavar="N", type=int, help="threads of a worker (default: local torch's choice, ray 1)")
    add("--workers", metavar="N", type=int, help="Ray actors (default: as many as there are CPUs for)")
    add("--ray-address", metavar="ADDRESS", help="a running Ray cluster (default: RAY_ADDRESS, or Ray is started here)")
    add("--overwrite", action="store_true", help="begin anew where OUT holds another run's results")
    add("--strict", action="store_true", help="exit status 1 if there are bad rows")
    add("--plan", metavar="ROWS", type=float, help="say what so many rows like these would take, e.g. 1e9")


def _pooling(text: str) -> str:
    if text not in POOLING:
        raise ValueError(f"{text!r} is none of {', '.join(POOLING)}")
    return text


def run(args: argparse.Namespace) -> int:
    _check(args)
    checked_isa()
    ray = args.engine == "ray"
    need("pyarrow", "corpus")
    if ray:
        need("ray.data", "ray")
    found = find_sources(args.input)
    sources = found.sources
    out = Path(args.out).resolve()
    inside = any(out.is_relative_to(folder) for folder in found.folders)
    if inside or any(Path(one.path).is_relative_to(out) for one in sources):
        raise UserError(f"OUT {args.out!r} and INPUT {args.input!r} must not lie in one another")
    job = Job(
        model=str(Path(args.model).resolve()) if Path(args.model).is_dir() else args.model,
        out=str(out), task=args.task, dtype=args.dtype, sentence_files=args.sentence_files,
        pooling=tuple(args.pooling) if args.pooling else None, normalize=args.normalize, prompt=args.prompt,
        prompt_name=args.prompt_name, max_length=args.max_length, half_output=args.float16,
        batch_tokens=args.batch_tokens, text_column=args.text_column, id_column=args.id_column,
        threads=args.threads or (1 if ray else torch.get_num_threads()),
    )  # fmt: skip
    console = make_console()
    with console.status("counting rows"):
        units, id_type = cut(sources, args.rows_per_shard, job)
    with console.status("loading the model"):
        encoder = Encoder(job)
    job = replace(job, identity=encoder.identity, max_length=encoder.max_length, id_type=id_type)
    options = manifest(job, encoder.config, sources, args.rows_per_shard)
    folder = OutputFolder(out, options, about(), overwrite=args.overwrite)
    rows = sum(one.rows for one in sources)
    try:
        left = folder.unfinished(units)
        console.print(machine.line())
        console.print(str(encoder.report), soft_wrap=True, markup=False)
        if job.task == "embed":
            console.print(f"embedding: {encoder.config}", soft_wrap=True, markup=False)
        for note in (*found.notes(), *filter(None, [encoder.note])):
            print(note, file=sys.stderr)
        console.print(
            f"{len(sources)} files ({found.counted()}), {rows} rows; "
            f"{len(units) - len(left)} of {len(units)} output files are finished"
        )
        summary = Summary()
        with Meter(console, sum(unit.rows for unit in left)) as meter:
            if ray and left:
                del encoder  # the actors have their own
                results = run_ray(job, left, args.workers, args.ray_address)
            else:
                results = run_local(job, left, encoder, meter.advance)
            with closing(results):
                for done in results:
                    summary.add(done)
                    meter.finished(summary)
            seconds = meter.seconds
        bad = folder.bad_rows()
    except OSError as error:
        raise UserError(failure(error)) from None
    finally:
        folder.close()
    for line in summary.lines(job, seconds, args.plan):
        console.print(line, soft_wrap=True, markup=False)
    for line in summary.first_bad:
        print(shown(line), file=sys.stderr)
    if bad:
        print(f"{bad} bad rows have no result: they are listed in {out / ERRORS}", file=sys.stderr)
    if bad and bad == rows:
        print(f"no row of {rows} has a result", file=sys.stderr)
    return 1 if bad and (args.strict or bad == rows) else 0


def _check(args: argparse.Namespace) -> None:
    for name in ("max_length", "batch_tokens", "rows_per_shard", "threads", "workers", "plan"):
        value = getattr(args, name)
        if value is not None and not 1 <= value < float("inf"):
            raise UserError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    for name in ("pooling", "normalize", "prompt", "prompt_name"):
        if getattr(args, name) is not None and args.task != "embed":
            raise UserError(f"--{name.replace('_', '-')} needs --task embed")
    for name in ("workers", "ray_address"):
        if getattr(args, name) is not None and args.engine != "ray":
            raise UserError(f"--{name.replace('_', '-')} needs --engine ray")
