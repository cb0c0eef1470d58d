"""Runs an AArch64 wheel of squeezebert_runtime under qemu-user and compares its results with those of this machine.

    python python/check_arm_wheel.py dist/squeezebert_runtime-*-manylinux_2_28_aarch64.whl

Needed: qemu-aarch64; this machine's squeezebert_runtime (`make runtime`); an aarch64 Python of the wheel's version
unpacked into --sys (Debian's arm64 packages, by dpkg-deb -x), and NumPy for aarch64 unpacked into --site (`pip download
--platform manylinux_2_28_aarch64`). bench/arm/rival.py makes both, in the folders that are the defaults here.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "python"))  # behind the wheel that is under test

SIZES = {
    "vocab_size": 101, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128,
    "max_position_embeddings": 32, "type_vocab_size": 2, "num_labels": 3,
}  # fmt: skip
GROUPS = ["q_groups", "k_groups", "v_groups", "intermediate_groups", "output_groups"]
DTYPES = ["float32", "float16", "bfloat16", "int8"]
# Sums are in another order there, and float16 is float32 here.
TOLERANCE = {"float32": 2e-6, "float16": 5e-3, "bfloat16": 2e-2, "int8": 5e-2}


def write_checkpoint(folder: Path) -> None:
    """A SqueezeBERT with random weights, as config.json and model.safetensors."""
    config = {"model_type": "squeezebert", "architectures": ["SqueezeBertForSequenceClassification"], **SIZES}
    config |= dict.fromkeys(GROUPS, 4) | {"post_attention_groups": 1}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    random = np.random.default_rng(0)
    hidden, wide = SIZES["hidden_size"], SIZES["intermediate_size"]
    tensors: dict[str, np.ndarray] = {}

    def add(name: str, *shape: int, scale: float = 0.1, center: float = 0.0) -> None:
        tensors[name] = (center + scale * random.standard_normal(shape)).astype(np.float32)

    def conv(name: str, out: int, inputs: int) -> None:
        add(f"{name}.weight", out, inputs)
        add(f"{name}.bias", out)

    def norm(name: str) -> None:
        add(f"{name}.weight", hidden, center=1.0)
        add(f"{name}.bias", hidden)

    add("embeddings.word_embeddings.weight", SIZES["vocab_size"], hidden, scale=1.0)
    add("embeddings.position_embeddings.weight", SIZES["max_position_embeddings"], hidden, scale=1.0)
    add("embeddings.token_type_embeddings.weight", 2, hidden, scale=1.0)
    norm("embeddings.LayerNorm")
    for i in range(SIZES["num_hidden_layers"]):
        layer = f"encoder.layers.{i}."
        for name in ("query", "key", "value"):
            conv(f"{layer}attention.{name}", hidden, hidden // 4)
        conv(f"{layer}post_attention.conv1d", hidden, hidden)
        norm(f"{layer}post_attention.layernorm")
        conv(f"{layer}intermediate.conv1d", wide, hidden // 4)
        conv(f"{layer}output.conv1d", hidden, wide // 4)
        norm(f"{layer}output.layernorm")
    conv("pooler.dense", hidden, hidden)
    conv("classifier", SIZES["num_labels"], hidden)
    header, at = {}, 0
    for name, tensor in tensors.items():
        header[name] = {"dtype": "F32", "shape": tensor.shape, "data_offsets": [at, at + tensor.nbytes]}
        at += tensor.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    values = b"".join(tensor.tobytes() for tensor in tensors.values())
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + values)


def evaluate(folder: Path, output: Path) -> None:
    """The hidden states and logits of every dtype; runs on both machines."""
    import squeezebert_runtime as runtime

    random = np.random.default_rng(1)
    ids = random.integers(0, SIZES["vocab_size"], (3, 21), np.int32)
    results = {}
    for dtype in DTYPES:
        model = runtime.Model(folder, dtype=dtype, threads=2)
        got = model(ids, lengths=[21, 4, 13])
        results[f"{dtype}.hidden"], results[f"{dtype}.logits"] = got.hidden_states, got.logits
    np.savez(output, **results)
    print(f"squeezebert_runtime {runtime.version()}: {model}; tiers {', '.join(runtime.isas())}")


def main() -> int:
    parser = argparse.ArgumentParser(description="An AArch64 wheel under qemu-user, beside this machine.")
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--cpu", default="cortex-a76", help="QEMU's; default: %(default)s")
    parser.add_argument("--sys", type=Path, default=ROOT / "build" / "arm-rival" / "sys", help="an aarch64 system")
    parser.add_argument("--site", type=Path, default=ROOT / "build" / "arm-rival" / "site", help="with NumPy for it")
    args = parser.parse_args()
    python = args.sys / "usr" / "bin" / f"python3.{sys.version_info.minor}"
    if not python.exists():
        print(f"check_arm_wheel: error: no {python}; see --help", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_checkpoint(folder)
        zipfile.ZipFile(args.wheel).extractall(folder / "package")
        evaluate(folder, folder / "here.npz")
        there = "import sys, check_arm_wheel as c; c.evaluate(c.Path(sys.argv[1]), c.Path(sys.argv[1]) / 'there.npz')"
        path = os.pathsep.join(map(str, (folder / "package", args.site, ROOT / "python")))
        environment = {
            "PYTHONPATH": path,
            "PYTHONDONTWRITEBYTECODE": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "OPENBLAS_CORETYPE": "ARMV8",
        }
        options = [word for key, value in environment.items() for word in ("-E", f"{key}={value}")]
        subprocess.run(
            ["qemu-aarch64", "-cpu", args.cpu, "-L", args.sys, *options, python, "-c", there, name], check=True
        )
        here, other = np.load(folder / "here.npz"), np.load(folder / "there.npz")
        status = 0
        for key in here.files:
            error = float(np.abs(here[key] - other[key]).max())
            good = error <= TOLERANCE[key.split(".")[0]]
            status |= not good
            print(f"{key:16} {error:.1e} {'' if good else 'is too much'}")
    return status


if __name__ == "__main__":
    sys.exit(main())
