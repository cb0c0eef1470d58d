"""Times the kernels of a SqueezeBERT layer, and twelve layers, on a GPU: bf16, as CUDA graphs, without any model.

    python bench/gpu/layers.py [--shapes 1x32,1x128,8x128,64x128,256x128] [--json FILE]

One line a shape: microseconds of one call of each kernel, of twelve layers, TFLOP/s of these. The tables in docs/gpu.md
are from bench/gpu/results/h100-layers.json, written by its first version.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from squeezebert_kernels import triton_kernels
from squeezebert_kernels.files import write_file
from squeezebert_kernels.triton_kernels import launchers
from squeezebert_kernels.triton_kernels.timing import microseconds
from squeezebert_kernels.triton_kernels.workload import CHANNELS, GROUPS, HEADS, HIDDEN

LAYERS = 12
K = CHANNELS // GROUPS


def timed(call: Callable[[], Any], calls: int = 10) -> float:
    """Microseconds of one of ``calls`` in a CUDA graph."""
    return round(microseconds(call, calls, replays=9), 1)


def measure(batch: int, length: int) -> dict[str, float]:
    """Every kernel and twelve layers, on random values."""
    generator = torch.Generator("cuda").manual_seed(0)

    def random(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(shape, generator=generator, device="cuda") * scale).bfloat16()

    x, bias, ones = random(batch, length, CHANNELS), random(CHANNELS, scale=0.1), random(CHANNELS, scale=0.0) + 1
    q, k, v = (random(CHANNELS, K, scale=K**-0.5) for _ in range(3))
    post, down = random(CHANNELS, CHANNELS, scale=CHANNELS**-0.5), random(CHANNELS, HIDDEN // GROUPS, scale=0.036)
    up, up_bias = random(HIDDEN, K, scale=K**-0.5), random(HIDDEN, scale=0.1)
    weights, biases, groups = (q, k, v), (bias, bias, bias), (GROUPS,) * 3
    norm = (ones, bias)
    context = torch.empty_like(x)

    def two_kernels() -> None:
        launchers.flash(*launchers.project(x, weights, biases, groups), None, HEADS, None, batch, length, context)

    def layers() -> Tensor:
        y = x
        for _ in range(LAYERS):
            y = triton_kernels.encoder_layer(
                y, q, bias, k, bias, v, bias, None, post, bias, *norm, up, up_bias, down, bias, *norm, None, None,
                HEADS, *groups, 1, GROUPS, GROUPS, "gelu",
            )  # fmt: skip
        return y

    found = {}
    if length <= 128:
        found["attention"] = timed(
            lambda: launchers.attention(x, weights, biases, None, HEADS, GROUPS, None, batch, length)
        )
    found["qkv + flash"] = timed(two_kernels)
    found["post"] = timed(lambda: launchers.conv_residual(context, post, bias, x, 1))
    found["ffn"] = timed(lambda: launchers.ffn(x, up, up_bias, down, bias, GROUPS, GROUPS, "gelu"))
    found["layer norm"] = timed(lambda: launchers.layer_norm(x, ones, bias, 1e-12))
    found["12 layers"] = timed(layers, 3)
    flops = 2.0 * batch * length * (3 * CHANNELS * K + CHANNELS**2 + 2 * HIDDEN * K + 2 * length * CHANNELS)
    found["TFLOP/s"] = round(LAYERS * flops / found["12 layers"] * 1e-6)
    return found


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--shapes", default="1x32,1x128,8x128,64x128,256x128", help="default %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to FILE")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("there is no CUDA device")
    results = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "us": {}}
    with torch.inference_mode():
        for shape in arguments.shapes.split(","):
            batch, length = map(int, shape.split("x"))
            results["us"][shape] = measure(batch, length)
            print(shape, results["us"][shape], flush=True)
    if arguments.json:
        write_file(arguments.json, json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
