"""Compiles the Triton kernels ahead of time, without a GPU, as shipped configurations launch them on SqueezeBERT.

    python bench/gpu/ahead.py [--arch sm_80,sm_86,sm_90] [--dtypes bf16,fp16,fp32] [--markdown] [--json FILE]
    python bench/gpu/ahead.py --training ...    # the kernels of training
    python bench/gpu/ahead.py --cache FOLDER    # compiles only what has changed since it was last compiled

One line for each kernel: registers of a thread, shared memory of a program, spills, and the matrix instructions in
its code. Exit status 1 where a kernel spills or exceeds the device's shared memory, or where a 16-bit one has no
matrix instructions. What is compiled is what the launchers launch: they are called with tensors without memory, and a
recorder in the place of the launch.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[2]))
os.environ.pop("TRITON_INTERPRET", None)  # there is nothing to compile then

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from squeezebert_kernels.files import write_file
from squeezebert_kernels.ops.dtypes import FLOATING
from squeezebert_kernels.triton_kernels import configs, launchers
from squeezebert_kernels.triton_kernels.workload import train, workload

SHARED_LIMIT = {"sm_80": 163, "sm_86": 99, "sm_90": 227}
"""KiB of shared memory that a program may have: CUDA C++ Programming Guide, compute capabilities."""
TRITON_NAMES = {dtype: name for name, dtype in FLOATING.items()} | {torch.int32: "i32", torch.int64: "i64"}


class Launch(NamedTuple):
    """A call of a kernel: what of it is compiled."""

    kernel: Any
    arguments: tuple[Any, ...]
    constants: dict[str, Any]


class Compiled(NamedTuple):
    """What became of a launch."""

    arch: str
    dtype: str
    kernel: str
    config: str
    registers: int
    shared: int
    spilled: int
    matrix: str


def _recorded(call: Any) -> list[Launch]:
    """The launches that ``call`` would do."""
    launches: list[Launch] = []

    def record(kernel: Any, programs: int, x: Any, *arguments: Any, **constants: Any) -> None:
        constants |= {"PRECISION": launchers.precision(x.dtype), "UPCAST": False}
        launches.append(Launch(kernel, (x, *arguments), constants))

    original, launchers.launch = launchers.launch, record
    try:
        call()
    finally:
        launchers.launch = original
    return launches


def launches_of(kernel: str, config: dict[str, int], dtype: torch.dtype, size: int) -> list[Launch]:
    """What SqueezeBERT launches of ``kernel`` for ``size`` tokens (attention: for sequences of ``size``)."""
    with configs.override(**{kernel: config}):
        return _recorded(workload(kernel, dtype, size, "meta"))


NO_PRODUCTS = ("column_sums", "norm_backward")
_SHOWN = (
    "GROUPS", "N", "K", "C", "D", "THREE", "ACTIVATION", "SITE", "DROPOUT",
    "BLOCK_M", "BLOCK_N", "BLOCK_K", "BLOCK_T", "ROWS", "num_warps",
)  # fmt: skip


@functools.cache
def training_launches(dtype: torch.dtype, length: int) -> list[Launch]:
    """What training SqueezeBERT launches that its forward pass alone does not, each once."""
    found = {}
    for p in (0.1, 0.0):
        for launch in _recorded(lambda p=p: train(dtype, 64, length, "meta", p)):
            dtypes = [t.dtype for t in launch.arguments if isinstance(t, torch.Tensor)]
            found.setdefault(str((launch.kernel.fn.__name__, launch.constants, dtypes)), launch)
    return [launch for launch in found.values() if launch.kernel.fn.__name__ not in ("qkv_kernel", "norm_kernel")]


def _source(launch: Launch) -> ASTSource:
    """The specialization that Triton's launcher would make of a call."""
    names = launch.kernel.arg_names
    values = dict(zip(names, launch.arguments)) | launch.constants
    signature: dict[str, str] = {}
    constants: dict[tuple[int, ...], Any] = {}
    attributes: dict[tuple[int, ...], Any] = {}
    for i, parameter in enumerate(launch.kernel.params):
        value = values[parameter.name]
        if parameter.is_constexpr or (type(value) is int and value == 1 and not parameter.do_not_specialize):
            signature[parameter.name] = "constexpr"
            constants[(i,)] = value
        elif isinstance(value, torch.Tensor):
            signature[parameter.name] = f"*{TRITON_NAMES[value.dtype]}"
            attributes[(i,)] = [["tt.divisibility", 16]]
        elif isinstance(value, int):
            signature[parameter.name] = "i32"
            if value % 16 == 0 and not parameter.do_not_specialize:
                attributes[(i,)] = [["tt.divisibility", 16]]
        else:
            signature[parameter.name] = "fp32"
    return ASTSource(launch.kernel, signature, constants, attributes)


def _tool(name: str) -> str:
    return str(Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name)


def _run(tool: str, option: str, cubin: bytes) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([_tool(tool), option, file.name], capture_output=True, text=True, check=True).stdout


class Job(NamedTuple):
    """One configuration to compile."""

    arch: str
    dtype: str
    kernel: str
    config: dict[str, int]
    size: int


class Plan(NamedTuple):
    """What Triton compiles for a job, and how the table shows its configuration."""

    source: ASTSource
    options: dict[str, Any]
    shown: str


def _plan(job: Job) -> Plan:
    shown = f"<= {job.size}: " + " ".join(f"{n}={v}" for n, v in job.config.items())
    if "launch" in job.config:
        launch = training_launches(FLOATING[job.dtype], job.size)[job.config["launch"]]
        shown = " ".join(f"{n}={launch.constants[n]}" for n in _SHOWN if n in launch.constants)
    else:
        launch, *_ = launches_of(job.kernel, job.config, FLOATING[job.dtype], job.size)
    launch.constants["PDL"] = dependent = job.arch == "sm_90"
    options = {name: launch.constants[name] for name in ("num_warps", "num_stages")} | {"launch_pdl": dependent}
    return Plan(_source(launch), options, shown)


def compile_one(job: Job) -> Compiled:
    """Compiles a job for its architecture."""
    plan = _plan(job)
    compiled = triton.compile(plan.source, target=GPUTarget("cuda", int(job.arch[3:]), 32), options=plan.options)
    cubin = compiled.asm["cubin"]
    usage = _run("cuobjdump", "-res-usage", cubin)
    registers, stack = (int(re.search(rf"{name}:(\d+)", usage)[1]) for name in ("REG", "STACK"))  # type: ignore[index]
    local = int(re.search(r"LOCAL:(\d+)", usage)[1])  # type: ignore[index]
    code = _run("nvdisasm", "-c", cubin)
    matrix = "/".join(name for name in ("HGMMA", "HMMA") if re.search(rf"\b{name}\b", code))
    spilled = stack + local + len(re.findall(r"\b(?:LDL|STL)\b", code))
    return Compiled(job.arch, job.dtype, job.kernel, plan.shown, registers, compiled.metadata.shared, spilled, matrix)


def _key(job: Job) -> str:
    """A name for all that the outcome of a job depends on: the kernel's source with what it calls, the arguments that
    are part of its code, the compiler, and this file, which reads the outcome."""
    plan = _plan(job)
    parts = (triton.__version__, plan.source.hash(), sorted(plan.options.items()), job, Path(__file__).read_text())
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def compile_all(todo: list[Job], cache: Path | None) -> list[Compiled]:
    """Every job, in parallel. Outcomes that the folder ``cache`` has are taken from it, and new ones are put there."""
    files = [None if cache is None else cache / f"{_key(job)}.json" for job in todo]
    known = {i: Compiled(**json.loads(file.read_text())) for i, file in enumerate(files) if file and file.exists()}
    missing = [i for i in range(len(todo)) if i not in known]
    if missing:
        with multiprocessing.get_context("spawn").Pool() as pool:
            for i, result in zip(missing, pool.imap(compile_one, [todo[i] for i in missing])):
                known[i], file = result, files[i]
                if file is not None:  # whole or not at all: another process may be about to read it
                    file.parent.mkdir(parents=True, exist_ok=True)
                    write_file(file, json.dumps(result._asdict()))
    return [known[i] for i in range(len(todo))]


def jobs(archs: list[str], dtypes: list[str]) -> Iterator[Job]:
    """Every shipped configuration, at the largest size that it is for."""
    for arch in archs:
        for kernel, entries in configs.read(configs.SHIPPED / f"{arch}.json").items():
            for entry in entries:
                config = {k: v for k, v in entry.items() if k not in ("dtype", "up_to")}
                largest = {"attention": 32 if entry["dtype"] == "float32" else 128, "flash": 512}.get(kernel, 32768)
                size = largest if entry["up_to"] is None else entry["up_to"]
                if not config.get("FUSED", 1):
                    continue  # two convolutions
                for dtype in dtypes:
                    if (entry["dtype"] == "float32") == (dtype == "fp32"):
                        yield Job(arch, dtype, kernel, config, size)


def training_jobs(archs: list[str], dtypes: list[str]) -> Iterator[Job]:
    """Every kernel of training SqueezeBERT, with sequences of 128 tokens."""
    for arch in archs:
        for dtype in dtypes:
            for i, launch in enumerate(training_launches(FLOATING[dtype], 128)):
                yield Job(arch, dtype, launch.kernel.fn.__name__.removesuffix("_kernel"), {"launch": i}, 128)


def faults(result: Compiled) -> list[str]:
    """What is wrong with a compiled kernel."""
    found = []
    if result.spilled:
        found.append("spills")
    if result.shared > SHARED_LIMIT[result.arch] * 1024:
        found.append(f"needs {result.shared} bytes of shared memory")
    if result.dtype != "fp32" and not result.matrix and result.kernel not in NO_PRODUCTS:
        found.append("has no matrix instructions")
    return found


def _row(r: Compiled) -> list[str]:
    return [r.arch, r.dtype, r.kernel, r.config, str(r.registers), f"{r.shared / 1024:.1f}", str(r.spilled), r.matrix]


HEAD = ["arch", "dtype", "kernel", "configuration", "registers", "shared KiB", "spills", "matrix code"]


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--arch", default="sm_80,sm_86,sm_90", help="default %(default)s")
    parser.add_argument("--dtypes", default="bf16,fp16,fp32", help="default %(default)s")
    parser.add_argument("--kernels", default="", help="only these, separated by commas")
    parser.add_argument("--training", action="store_true", help="the kernels of training, in place of the others")
    parser.add_argument("--markdown", action="store_true", help="print a table for docs/performance.md")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to FILE")
    parser.add_argument("--cache", type=Path, metavar="FOLDER", help="compile only what FOLDER has no outcome of")
    arguments = parser.parse_args()
    choice = training_jobs if arguments.training else jobs
    todo = list(choice(arguments.arch.split(","), arguments.dtypes.split(",")))
    if arguments.kernels:
        todo = [job for job in todo if job.kernel in arguments.kernels.split(",")]
    results = compile_all(todo, arguments.cache)
    bad = [(r, faults(r)) for r in results if faults(r)]
    widths = [max(len(row[i]) for row in [HEAD, *map(_row, results)]) for i in range(len(HEAD))]
    separator = " | " if arguments.markdown else "  "
    for number, row in enumerate([HEAD, *map(_row, results)]):
        line = separator.join(cell.ljust(w) for cell, w in zip(row, widths))
        print(f"| {line} |" if arguments.markdown else line.rstrip())
        if arguments.markdown and number == 0:
            print("|" + "|".join("-" * (w + 2) for w in widths) + "|")
    for result, wrong in bad:
        print(f"FAULT: {result.arch} {result.dtype} {result.kernel} ({result.config}) {', '.join(wrong)}")
    if arguments.json:
        write_file(arguments.json, json.dumps([r._asdict() for r in results], indent=1) + "\n")
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
