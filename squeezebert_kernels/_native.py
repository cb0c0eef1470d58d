"""Loads the compiled library, which registers the CPU kernels with torch, and tells what it is and what it found."""

from __future__ import annotations

import enum
import functools
import os
from pathlib import Path

import torch

LIBRARY = Path(__file__).with_name("_C.abi3.so")


class DropoutSite(enum.IntEnum):
    """The places in a layer where values are dropped.

    A site is one of the numbers that decide which values: the CPU's kernels have the same numbers (``DropoutSite`` of
    csrc/training/trained_blocks.h), and so have the Triton kernels and ``ops.dropout_factors``.
    """

    PROBABILITIES = 0
    """The softmax outputs of attention."""
    POST = 1
    """The result of the convolution behind attention."""
    OUTPUT = 2
    """The result of the last convolution."""


@functools.cache
def load() -> None:
    """Loads the library once. ImportError says how to build it where it is missing or does not fit this torch."""
    if not LIBRARY.exists():
        raise ImportError(
            f"{LIBRARY} is not built: install the package with `pip install --no-build-isolation -e .` (needs a C++20 "
            "compiler), or run `make demo`; if it is installed already, leave this checkout, which stands before it"
        )
    try:
        torch.ops.load_library(str(LIBRARY))
    except OSError as error:
        raise ImportError(
            f"{LIBRARY.name} does not load in torch {torch.__version__} (needs torch >= 2.10): {error}"
        ) from error


def available_isas() -> list[str]:
    """ISA tiers that this CPU can run, slowest first, e.g. ["scalar", "avx2", "avx512"]."""
    load()
    return torch.ops.squeezebert_kernels.available_isas().split(",")


@functools.cache
def isa() -> str:
    """The ISA tier in use: the best one, or the one that the environment variable SBK_ISA names.

    ValueError if SBK_ISA names a tier that this CPU or build does not have.
    """
    possible = available_isas()
    wanted = os.environ.get("SBK_ISA", "")
    if wanted and wanted not in possible:
        raise ValueError(f"SBK_ISA={wanted!r} is not possible on this machine; possible: {', '.join(possible)}")
    return torch.ops.squeezebert_kernels.isa()


def build_info() -> str:
    """Compiler and options that built the library, e.g. "GCC 12.2.0, Release, torch target 2.10"."""
    load()
    return torch.ops.squeezebert_kernels.build_info()
