"""Launch configurations of the kernels: read from JSON, chosen by device family, dtype and size.

A file holds for each kernel a list of entries, tried in order: the first whose ``dtype`` ("half" or "float32") is that
of the call and whose ``up_to`` is at least its size (or null) is taken. The size is the number of tokens, of attention
kernels the length of the longest sequence. Nothing is tuned at import or in a call: ``squeezebert-kernels tune`` writes
a file for the GPU at hand, which is used from then on; SBK_TRITON_CONFIGS names another.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

__all__ = ["KERNELS", "SHIPPED", "choose", "family", "load", "override", "path_for", "read", "tuned_path"]

KERNELS = ("conv", "conv_residual", "qkv", "ffn", "attention", "flash")
"""What has configurations; "conv_residual" is the convolution in front of a residual and a LayerNorm."""
SHIPPED = Path(__file__).with_name("configs")
Config = dict[str, int]
_PARAMETERS = {
    "conv": ("BLOCK_M", "BLOCK_N", "BLOCK_K"),
    "conv_residual": ("BLOCK_M", "BLOCK_N", "BLOCK_K"),
    "qkv": ("BLOCK_M", "BLOCK_N", "BLOCK_K"),
    "ffn": ("FUSED", "BLOCK_M", "BLOCK_H", "CHUNK"),
    "attention": ("BLOCK_Q", "BLOCK_K"),
    "flash": ("BLOCK_M", "BLOCK_N"),
}
_override: dict[str, Config] = {}


def family(capability: tuple[int, int]) -> str:
    """The shipped file for a compute capability: by generation, and by how much shared memory a program may have."""
    if capability >= (9, 0) and capability[0] < 12:
        return "sm_90"  # 227 KiB
    return "sm_80" if capability in ((8, 0), (8, 7)) else "sm_86"  # 163 KiB, 99 KiB


def tuned_path(device_name: str) -> Path:
    """Where ``squeezebert-kernels tune`` leaves the configurations of a GPU."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "squeezebert_kernels" / f"{re.sub(r'[^a-z0-9]+', '-', device_name.lower())}.json"


def read(path: Path) -> dict[str, list[dict[str, Any]]]:
    """The entries in ``path``; ValueError names what is wrong with it."""
    try:
        entries = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is no file of launch configurations: {error}") from None
    for kernel in KERNELS:
        found = entries.get(kernel) if isinstance(entries, dict) else None
        if not isinstance(found, list) or not found:
            raise ValueError(f"{path} has no list of configurations under {kernel!r}")
        for entry in found:
            wanted = ("dtype", "up_to", "num_warps", "num_stages", *_PARAMETERS[kernel])
            missing = [name for name in wanted if not isinstance(entry, dict) or name not in entry]
            if missing:
                raise ValueError(f"{path}: a configuration of {kernel!r} lacks {', '.join(missing)}: {entry}")
        for dtype in ("half", "float32"):
            if not any(entry["dtype"] == dtype and entry["up_to"] is None for entry in found):
                raise ValueError(f"{path}: {kernel!r} has no configuration for {dtype} of any size ('up_to': null)")
    return entries


@functools.cache
def path_for(device: torch.device) -> Path:
    """The file that holds the configurations for ``device``."""
    named = os.environ.get("SBK_TRITON_CONFIGS")
    if named:
        return Path(named)
    if device.type != "cuda":
        return SHIPPED / "sm_90.json"  # Triton's interpreter takes any
    tuned = tuned_path(torch.cuda.get_device_name(device))
    return tuned if tuned.exists() else SHIPPED / f"{family(torch.cuda.get_device_capability(device))}.json"


@functools.cache
def load(device: torch.device) -> dict[str, list[dict[str, Any]]]:
    """The entries for ``device``, read once. ValueError if it is no such file."""
    path = path_for(device)
    try:
        return read(path)
    except ValueError as error:
        raise ValueError(f"{error}; `squeezebert-kernels tune` writes a new one") from None


@functools.lru_cache(maxsize=4096)
def _chosen(kernel: str, device: torch.device, dtype: torch.dtype, size: int) -> Config:
    wanted = "float32" if dtype == torch.float32 else "half"
    for entry in load(device)[kernel]:
        if entry["dtype"] == wanted and (entry["up_to"] is None or size <= entry["up_to"]):
            return {name: value for name, value in entry.items() if name not in ("dtype", "up_to")}
    raise AssertionError(f"{path_for(device)} was checked to have one")


def choose(kernel: str, device: torch.device, dtype: torch.dtype, size: int) -> Config:
    """The configuration of ``kernel`` for a call of ``size`` tokens (attention: longest sequence)."""
    return dict(_override.get(kernel) or _chosen(kernel, device, dtype, size))


@contextmanager
def override(**configs: Config) -> Iterator[None]:
    """Within it, kernels take these configurations for every size. For tuning and tests; not thread-safe."""
    before = dict(_override)
    _override.update(configs)
    try:
        yield
    finally:
        _override.clear()
        _override.update(before)
