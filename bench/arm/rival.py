"""What ONNX Runtime executes on aarch64 for the same work, counted as our kernels are (count.py).

    python bench/arm/rival.py                     everything: tables, and JSON in build/arm-rival/results.json
    python bench/arm/rival.py --only conv,layer   some of the models
    python bench/arm/rival.py --onnx FILE ...     other models, float32 inputs of fixed shapes

Three things are needed, all kept in build/arm-rival. The script fetches and makes what is missing:

- `sys`: an aarch64 Python 3.11, unpacked from Debian packages. Where there is apt, the script does that itself, with
  lists in a folder of its own (nothing is installed, no root). Elsewhere, unpack these into it with `dpkg-deb -x`:
  python3.11-minimal libpython3.11-minimal libpython3.11-stdlib libc6 libgcc-s1 libstdc++6 libgomp1 zlib1g libexpat1
  libffi8 libbz2-1.0 liblzma5 libssl3 (Debian 12, arm64)
- `site`: ONNX Runtime and NumPy for aarch64, by `pip download --platform`. 1.22 is the last ONNX Runtime that runs so;
  later ones read the host's /proc/cpuinfo
- `site-torch`, with --torch: the same of PyTorch, which runs its own eager modules (run_torch.py)
- `*.onnx`: random weights in SqueezeBERT's architecture, exported with torch, transformers and onnx; the int8 model by
  the `onnxruntime` of this environment

A whole model takes minutes: multiply-adds are slow to emulate.
"""

from __future__ import annotations

import argparse
import json
import sys
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import emulation
from emulation import Counts, Unavailable, run_or_raise

FOLDER = emulation.BUILD / "arm-rival"
SYS, SITE, TORCH_SITE = FOLDER / "sys", FOLDER / "site", FOLDER / "site-torch"
PYTHON = SYS / "usr" / "bin" / "python3.11"
PYTHON_PACKAGES = ("python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib")
C_PACKAGES = ("libc6", "libgcc-s1", "libstdc++6", "libgomp1", "zlib1g", "libexpat1", "libffi8")
PYTHON_NEEDS = ("libbz2-1.0", "liblzma5", "libssl3")
DEBIAN_PACKAGES = (*PYTHON_PACKAGES, *C_PACKAGES, *PYTHON_NEEDS)
WHEELS = ("onnxruntime==1.22.1", "numpy==2.2.6")
TORCH_WHEELS = ("torch==2.9.1", "numpy==2.2.6")
TORCH_MODELS = ("conv", "layer")
PLATFORMS = tuple(f"manylinux{version}_aarch64" for version in ("2014", "_2_17", "_2_27", "_2_28"))
TOKENS = 128

# Multiply-adds of each model at 128 tokens; 12 layers' convolutions and attention, pooler left out.
CONV = TOKENS * 768 * 192
LAYER = 3 * CONV + TOKENS * 768 * 768 + 2 * TOKENS * 768 * 768 + 2 * TOKENS * TOKENS * 768
MODELS = {"conv": CONV, "ffn": 2 * TOKENS * 768 * 768, "layer": LAYER, "squeezebert": 12 * LAYER}
ABOUT = {
    "conv": "convolution 768 to 768, groups=4, bias",
    "ffn": "up 768 to 3072, GELU, down to 768, groups=4, residual, LayerNorm",
    "layer": "one encoder layer",
    "squeezebert": "the whole model, 12 layers, ids to pooled output",
}


def unpack_python() -> None:
    """An aarch64 Python in SYS from the Debian packages that this machine's apt knows, through lists of our own."""
    if PYTHON.exists():
        return
    if emulation.find_tool("apt-get") is None or emulation.find_tool("dpkg-deb") is None:
        raise Unavailable(f"no apt here: unpack {' '.join(DEBIAN_PACKAGES)} into {SYS} by hand")
    apt, debs = FOLDER / "apt", FOLDER / "debs"
    for folder in (apt / "lists" / "partial", apt / "cache" / "archives" / "partial", debs):
        folder.mkdir(parents=True, exist_ok=True)
    (apt / "status").touch()
    settings = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "Dir::State": apt,
        "Dir::State::status": apt / "status",
        "Dir::Cache": apt / "cache",
    }
    options = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
    emulation.run(["apt-get", *options, "update"])  # complains of sources without arm64, and goes on
    run_or_raise(["apt-get", *options, "download", *DEBIAN_PACKAGES], "apt-get download", cwd=debs)
    for deb in sorted(debs.glob("*.deb")):
        run_or_raise(["dpkg-deb", "-x", deb, SYS], f"unpacking {deb.name}")


def unpack_wheels(site: Path, wanted: tuple[str, ...]) -> None:
    """Wheels for aarch64 and what they depend on, unpacked into `site`."""
    if site.exists():
        return
    wheels = FOLDER / f"wheels-of-{site.name}"
    command = [sys.executable, "-m", "pip", "download", "--only-binary=:all:", "--python-version", "311", "-d", wheels]
    command += [word for name in PLATFORMS for word in ("--platform", name)]
    run_or_raise([*command, *wanted], "pip download")
    for wheel in wheels.glob("*.whl"):
        zipfile.ZipFile(wheel).extractall(site)


def export(name: str) -> Path:
    """The model as ONNX with fixed shapes; needs torch, transformers and onnx."""
    path = FOLDER / f"{name}.onnx"
    if path.exists():
        return path
    import torch
    from transformers import SqueezeBertConfig, SqueezeBertModel

    class Outputs(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, ids, mask):
            output = self.model(input_ids=ids, attention_mask=mask)
            return output.last_hidden_state, output.pooler_output

    class FeedForward(torch.nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.intermediate, self.output = layer.intermediate, layer.output

        def forward(self, x):
            return self.output(self.intermediate(x), x)

    class Layer(torch.nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return self.layer(x, torch.zeros(1, 1, 1, TOKENS), False)["feature_map"]

    torch.manual_seed(0)
    model = SqueezeBertModel(SqueezeBertConfig(vocab_size=30528)).eval()
    layer = model.encoder.layers[0]
    x = torch.randn(1, 768, TOKENS)
    ids = torch.randint(1, 99, (1, TOKENS))
    modules = {
        "conv": (torch.nn.Conv1d(768, 768, 1, groups=4).eval(), (x,)),
        "ffn": (FeedForward(layer).eval(), (x,)),
        "layer": (Layer(layer).eval(), (x,)),
        "squeezebert": (Outputs(model).eval(), (ids, torch.ones_like(ids))),
    }
    module, inputs = modules[name]
    names = ["ids", "mask"] if len(inputs) == 2 else ["x"]
    with torch.no_grad():
        torch.onnx.export(module, inputs, str(path), input_names=names, opset_version=17, dynamo=False)
    return path


def export_int8(name: str) -> Path:
    path = FOLDER / f"{name}-int8.onnx"
    if not path.exists():
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(str(export(name)), str(path), weight_type=QuantType.QUInt8)
    return path


def count_script(site: Path, script: str, model: str | Path, cpu: str, hottest: int) -> Counts:
    """One run of the model, not the first: the first one makes room in memory."""
    quiet = ("OMP_NUM_THREADS=1", "OPENBLAS_NUM_THREADS=1", "PYTHONHASHSEED=0")
    settings = [word for setting in (f"PYTHONPATH={site}", *quiet) for word in ("-E", setting)]
    return emulation.count_one_call(
        lambda calls: [PYTHON, emulation.HERE / script, model, calls],
        cpu=cpu,
        calls=(1, 2) if str(model).endswith(("squeezebert.onnx", "squeezebert-int8.onnx")) else (2, 4),
        hottest=hottest,
        options=["-L", SYS, *settings],
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="ONNX Runtime's instructions on aarch64, one thread.")
    parser.add_argument("--only", default="conv,ffn,layer", help=f"of {', '.join(MODELS)}; default: %(default)s")
    parser.add_argument("--int8", action="store_true", help="dynamically quantized besides (slow)")
    parser.add_argument("--torch", action="store_true", help=f"eager PyTorch besides, for {', '.join(TORCH_MODELS)}")
    parser.add_argument("--onnx", type=Path, nargs="*", default=[], help="other models")
    parser.add_argument("--cpu", default="cortex-a76", help="QEMU's; default: %(default)s")
    parser.add_argument("--hottest", type=int, default=0, metavar="N", help="print the N hottest blocks")
    parser.add_argument("--json", type=Path, default=FOLDER / "results.json")
    args = parser.parse_args(argv)
    wanted = [name for name in args.only.split(",") if name]
    unknown = set(wanted) - MODELS.keys()
    if unknown:
        parser.error(f"--only: no {', '.join(unknown)}; possible: {', '.join(MODELS)}")
    results = json.loads(args.json.read_text(encoding="utf-8")) if args.json.exists() else {}
    try:
        FOLDER.mkdir(parents=True, exist_ok=True)
        unpack_python()
        unpack_wheels(SITE, WHEELS)
        onnx = (SITE, "run_onnx.py")
        work = [(f"onnxruntime/{name}/float32", *onnx, export(name), MODELS[name]) for name in wanted]
        if args.int8:
            work += [(f"onnxruntime/{name}/int8", *onnx, export_int8(name), MODELS[name]) for name in wanted]
        work += [(f"onnxruntime/{path.stem}", *onnx, path, 0) for path in args.onnx]
        if args.torch:
            unpack_wheels(TORCH_SITE, TORCH_WHEELS)
            eager = (TORCH_SITE, "run_torch.py")
            work += [(f"torch/{name}/float32", *eager, name, MODELS[name]) for name in wanted if name in TORCH_MODELS]
        print(f"{' '.join(WHEELS)}, one thread, {args.cpu}; M = millions of instructions of one run")
        print(f"{'':32} {'total M':>9} {'multiply-adds M':>16} {'share %':>8} {'total / ideal':>14}")
        for key, site, script, model, products in work:
            counts = count_script(site, script, model, args.cpu, args.hottest)
            results[f"{args.cpu}/{key}"] = {"total": counts.total, "classes": counts.classes}
            ratio = f"{counts.total / (products / 4):.3f}" if products and "int8" not in key else ""
            share = 100 * counts.multiplies / counts.total
            print(
                f"{key:24} {counts.total / 1e6:9.2f} {counts.multiplies / 1e6:16.2f} {share:8.1f} {ratio:>14}",
                flush=True,
            )
            for block in counts.hottest:
                print(f"  {block['executions']} times:", *block["instructions"], sep="\n    ")
            args.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    except Unavailable as error:
        print(f"rival: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
