"""What a result was measured on: this machine, its versions, and a GPU where there is one."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from . import _native
from .console import checked_isa

PACKAGES = ("squeezebert-kernels", "torch", "triton", "transformers", "onnx", "onnxruntime", "openvino", "numpy")


def cpu_name() -> str:
    """The processor's name as the operating system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def usable_cpus() -> int:
    """Logical processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def load_average() -> float | None:
    """Processes that wanted to run in the last minute, this one among them; None where the system does not say."""
    try:
        return round(os.getloadavg()[0], 2)
    except OSError:
        return None


def version_of(distribution: str) -> str | None:
    """The version of an installed package; None where it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def line() -> str:
    """One line about the machine that a result came from."""
    return (
        f"{cpu_name()}, {usable_cpus()} logical CPUs, {torch.get_num_threads()} threads, "
        f"ISA {checked_isa()}, torch {torch.__version__}"
    )


def facts(device: torch.device | None = None) -> dict[str, Any]:
    """Where and with what numbers are taken, for a JSON document; of ``device`` too, where one is given."""
    found = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "cpu": cpu_name(),
        "architecture": platform.machine(),
        "logical_cpus": usable_cpus(),
        "caches": _caches(),
        "memory_mib": _memory_mib(),
        "isa": checked_isa(),
        "isa_possible": _native.available_isas(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "build": _native.build_info(),
        "versions": {name: version_of(name) for name in PACKAGES},
        "load_average_at_start": load_average(),
    }
    return found if device is None else found | _device_facts(device)


def _caches() -> dict[str, str]:
    """Sizes of the first processor's caches, e.g. {"L1 Data": "32K", "L2 Unified": "1024K"}."""
    found = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        except OSError:
            continue
        found[f"L{level} {kind}"] = size
    return found


def _memory_mib() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20
    except (ValueError, OSError):
        return None


def _device_facts(device: torch.device) -> dict[str, Any]:
    if device.type != "cuda":
        return {"device": cpu_name()}
    properties = torch.cuda.get_device_properties(device)
    fields = "driver_version,power.limit,clocks.max.sm,clocks.max.mem,temperature.gpu"
    return {
        "device": properties.name,
        "multiprocessors": properties.multi_processor_count,
        "device_memory_mib": properties.total_memory // 2**20,
        "capability": f"{properties.major}.{properties.minor}",
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        fields: _nvidia_smi(fields),
    }


def _nvidia_smi(fields: str) -> str | None:
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
