"""What every part of the suite shares: the document of results, the time left, and what went wrong."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from squeezebert_kernels.files import write_file

SCHEMA = "squeezebert-gpu-bench 2"
SECTIONS = ("correctness", "models", "micro", "bars")


class DeviceLost(Exception):
    """A kernel broke the CUDA context: nothing can run in this process any more."""


class Budget:
    """Seconds that the suite may take, from its construction on."""

    def __init__(self, minutes: float) -> None:
        self.started, self.seconds = time.monotonic(), 60 * minutes

    def spent(self) -> float:
        return time.monotonic() - self.started

    def left(self) -> float:
        return self.seconds - self.spent()


class Results:
    """The JSON document, written anew after every measurement: a program that is killed has lost only the last."""

    def __init__(self, path: Path, machine: dict[str, Any], settings: dict[str, Any]) -> None:
        self.path = path
        self.data: dict[str, Any] = {"schema": SCHEMA, "machine": machine, "settings": settings, "peaks": {}}
        self.data.update({section: [] for section in SECTIONS})

    def put(self, section: str, row: dict[str, Any]) -> None:
        """Adds ``row``, or puts it in the place of the one with its key, and writes the document."""
        rows = self.data[section]
        for index, old in enumerate(rows):
            if old["key"] == row["key"]:
                rows[index] = row
                break
        else:
            rows.append(row)
        self.save()

    def get(self, section: str, key: str) -> dict[str, Any] | None:
        return next((row for row in self.data[section] if row["key"] == key), None)

    def save(self) -> None:
        write_file(self.path, json.dumps(self.data, indent=1) + "\n")


@dataclass
class Run:
    """One run of the suite: where, for how long, and what of it."""

    device: torch.device
    dtypes: list[str]
    budget: Budget
    results: Results
    only: str | None = None
    autotune: str = "first"  # when torch.compile autotunes: run.py
    failures: list[str] = field(default_factory=list)
    current: str = ""  # the key of what is being run, for the case that it takes the device down

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def wants(self, key: str) -> bool:
        return self.only is None or self.only in key

    def say(self, text: str) -> None:
        print(f"[{self.budget.spent():5.0f} s] {text}", flush=True)

    def fail(self, key: str, text: str) -> None:
        """Something of ours that is wrong: printed, and the exit status is 1 at the end."""
        self.failures.append(key)
        self.say(f"FAILED {key}: {text}")

    def percent_of_peak(self, dtype: str, tflops: float) -> float | None:
        peak = self.results.data["peaks"].get("matmul_tflops", {}).get(dtype)
        return 100 * tflops / peak if peak else None


def reason_of(error: BaseException, device: torch.device) -> str:
    """``error`` in one line. DeviceLost where the device does not answer afterwards."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = f"{type(error).__name__}: {' | '.join(lines)}"[:400]
    if device.type == "cuda":
        try:
            torch.cuda.synchronize(device)
        except RuntimeError as second:
            raise DeviceLost(text) from second
        if isinstance(error, torch.cuda.OutOfMemoryError):
            torch.cuda.empty_cache()
    return text
