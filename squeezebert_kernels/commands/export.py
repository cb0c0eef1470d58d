"""``squeezebert-kernels export``: a checkpoint as one .sbk file, for phones and boards without Python."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..console import UserError, make_console, quiet_transformers
from ..export.sbk_file import DEFAULT_TIER, export
from ..ops.dtypes import DTYPES

HELP = "write a checkpoint as one .sbk file for devices without Python"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL_DIR", help="a local checkpoint of a SqueezeBERT or BERT model")
    parser.add_argument("output", metavar="OUT.sbk", help="the file to write")
    parser.add_argument("--dtype", choices=DTYPES, default="fp32", help="what the encoder multiplies in; default: fp32")
    parser.add_argument(
        "--tier", default=DEFAULT_TIER, metavar="TIER",
        help=f"CPU to pack for: neon, neonfp16, neondot, neoni8mm, avx2, avx512, ... (default: {DEFAULT_TIER}, for "
        "ARM); other CPUs pack again at load",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    quiet_transformers()
    if not Path(args.model).is_dir():
        raise UserError(f"{args.model!r} is not a folder with a checkpoint")
    try:
        warnings = export(args.model, args.output, dtype=DTYPES[args.dtype], tier=args.tier)
    except (ValueError, OSError) as error:
        raise UserError(error) from None
    console = make_console()
    for warning in warnings:
        console.print(f"note: {warning}", soft_wrap=True, markup=False)
    size = Path(args.output).stat().st_size
    console.print(
        f"{args.output}: {size / 1e6:.1f} MB, {args.dtype}, packed for {args.tier}, checksums verified", soft_wrap=True
    )
    return 0
