"""A prediction for a phone that is not here: from exact instruction counts and stated assumptions, printed together.

    python bench/arm/count.py --json build/arm-counts.json
    python bench/arm/predict.py build/arm-counts.json [--rival build/arm-rival/results.json]

A prediction is not a measurement. What is known of the Pixel 3 is the peak of its big cores, measured by others. The
rest is arithmetic:

- floor: the multiply-adds that the model needs, at that peak
- vector: every vector instruction that is no load or store takes a slot of the multiply-add pipes, which the inner loop
  fills to `loop` per cent (inner_loops.py; the model of Cortex-A57, which like this core multiplies 128 bits a cycle)
- issue: all instructions at `ipc` a cycle, of the three that the core can decode
- memory: the weights once through the memory controller, at an assumed share of what it could do

The lower end is the slowest of vector, issue and memory, all overlapping; the upper end adds memory to the slower of
the other two, as if nothing fetched ahead. Threads share the work but for `serial` per cent, which stands for waiting
for each other and for what is around the encoder. Heat is not in it: a phone that throttles is slower than any of this.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from count import products
from emulation import PRODUCTS

CASE = "encoder_layer 128x768x3072 g4"
LAYERS = 12
WEIGHTS = 26.5e6  # of the encoder
# Bytes of a packed weight by the instruction that multiplies it; integers without dot products are kept wide.
BYTES = {"fma_fp32": 4, "fma_fp16": 2, "fma_widening": 2, "mla_int": 4, "dot_int8": 1, "dot_bf16": 2}


@dataclass
class Assumptions:
    """Of a Pixel 3: Snapdragon 845, four big cores (of Cortex-A75's kind) at 2.8 GHz."""

    one: float = 22.3  # GFLOP/s in fp32, one big core, measured by others: 2.79 G vector multiply-adds/s, 1 a cycle
    four: float = 84.4  # likewise, four
    clock: float = 2.8  # GHz
    ipc: float = 2.0  # sustained, all instructions
    loop: float = 97.0  # per cent of the multiply-add peak in the inner loop
    serial: float = 3.0  # per cent that four threads do not share
    bandwidth_one: float = 10.0  # GB/s of one core reading, of LPDDR4X's 29.9
    bandwidth_four: float = 15.0  # GB/s of four


# Published, same phone, 128 tokens, ms.
OTHERS = (
    ("the paper's SqueezeBERT (PyTorch, fp32)", "390"),
    ("MobileBERT, TFLite, 5.7 GFLOP", "123"),
    ("SqueezeBERT's 7.4 GFLOP at MobileBERT's speed", "160"),
)


@dataclass
class Prediction:
    floor: float
    vector: float
    issue: float
    memory: float

    @property
    def lower(self) -> float:
        return max(self.vector, self.issue, self.memory)

    @property
    def upper(self) -> float:
        return max(self.vector, self.issue) + self.memory


def predict(record: dict, needed: int, threads: int, layers: int, a: Assumptions) -> Prediction:
    """Milliseconds of `layers` times what `record` counts. `needed`: multiply-adds of values in one."""
    classes = record["classes"]
    one_thread = 1 if threads == 1 else (1 - a.serial / 100) / threads + a.serial / 100  # share of the work in a row
    # Peaks are per second and four cores clock lower together than alone.
    rate = a.one / 8 if threads == 1 else a.four / threads / 8  # vector instructions, G/s of a core
    clock = a.clock * rate / (a.one / 8)
    multiplies = {name: classes.get(name, 0) for name in PRODUCTS}
    used = max(multiplies, key=lambda name: multiplies[name] * PRODUCTS[name])
    vector = sum(multiplies.values()) + classes.get("vector_other", 0)
    bandwidth = a.bandwidth_one if threads == 1 else a.bandwidth_four
    return Prediction(
        floor=layers * needed / PRODUCTS[used] / threads / rate / 1e6,
        vector=layers * vector * one_thread / rate / (a.loop / 100) / 1e6,
        issue=layers * record["total"] * one_thread / (a.ipc * clock) / 1e6,
        memory=WEIGHTS * BYTES[used] / bandwidth / 1e6,
    )


def row(name: str, threads: int, p: Prediction) -> str:
    between = f"{p.lower:.0f} to {p.upper:.0f}"
    return (
        f"{name:44} {threads:7} {p.floor:6.0f} {p.vector:7.0f} {p.issue:6.0f} {p.memory:7.1f} {between:>13} "
        f"{100 * p.floor / p.lower:8.0f}"
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Milliseconds of SqueezeBERT, 1x128, on a Pixel 3: a prediction.")
    parser.add_argument("counts", type=Path, help="JSON of count.py")
    parser.add_argument("--rival", type=Path, help="JSON of rival.py")
    for field in fields(Assumptions):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=float, default=field.default, metavar="X")
    args = parser.parse_args(argv)
    assumed = Assumptions(**{field.name: getattr(args, field.name) for field in fields(Assumptions)})
    counted = json.loads(args.counts.read_text(encoding="utf-8"))

    print(f"Counts of {counted['compiler']}. Assumed:", ", ".join(f"{k} {v:g}" for k, v in asdict(assumed).items()))
    print(f"{'SqueezeBERT, 1x128, ms':44} threads  floor  vector  issue  memory     predicted  % of floor")
    rows = 0
    for key, record in counted["cases"].items():
        isa, dtype, case = key.split("/", 2)
        # This core has neither dot products nor bf16: tiers beyond fp16 do not run on it.
        if case != CASE or isa not in ("neon", "neonfp16"):
            continue
        for threads in (1, 4):
            found = predict(record, products(case), threads, LAYERS, assumed)
            print(row(f"ours, {isa}, {dtype}", threads, found))
            rows += 1
    if args.rival and args.rival.exists():
        for key, record in json.loads(args.rival.read_text(encoding="utf-8")).items():
            if not key.endswith("squeezebert/float32"):
                continue
            for threads in (1, 4):
                found = predict(record, LAYERS * products(CASE), threads, 1, assumed)
                print(row(f"ONNX Runtime, float32 ({key.split('/')[0]})", threads, found))
    for name, milliseconds in OTHERS:
        print(f"{name:44} {'':36} {milliseconds:>13}  published")
    if rows == 0:
        print(f"predict: error: no '{CASE}' of a tier that this phone has in {args.counts}", file=sys.stderr)
    return 0 if rows else 1


if __name__ == "__main__":
    sys.exit(main())
