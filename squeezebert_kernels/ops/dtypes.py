"""Dtypes by name: "bf16" in the options and tables of commands and benchmarks, "bfloat16" in Python."""

from __future__ import annotations

import torch

DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "int8": "int8"}
"""What an encoder can multiply in: short names and Python's."""
PACKED = ("float32", "bfloat16", "int8")
"""What :func:`squeezebert_kernels.ops.pack` packs weights for; float16 is for the C library alone."""
KERNEL_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
"""Of activations, and of weights that :func:`squeezebert_kernels.ops.pack` takes."""
FLOATING = {short: getattr(torch, name) for short, name in DTYPES.items() if short != "int8"}
"""Short names and torch's dtypes of the floating-point ones."""
