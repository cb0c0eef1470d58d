"""Memory of one contestant, in a process of its own: ``python -m squeezebert_kernels.benchmark.memory KEY MODEL``.

Prints one line of JSON: resident MiB after the imports, after the first two runs, and the highest ever. The stock model
that a contestant is made from stays alive, as it would for a user who has loaded it; the runtimes for ONNX get a file
made before.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from .contestants import Contestant

LENGTH = 128  # or as long as the model can


def _status(field: str) -> float | None:
    """MiB that Linux has in this field for this process."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return None


def _resident() -> float:
    resident = _status("VmRSS")
    return peak() if resident is None else resident


def peak() -> float:
    # Not ru_maxrss on Linux: a child begins with its parent's.
    highest = _status("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20 if highest is None else highest


def measure(contestant: Contestant, model: str, checkpoint: str | None, threads: int, exported: Path) -> dict[str, Any]:
    """The numbers of ``contestant``, from a new process; {"contestant", "model", "error"} where it fails.

    ``exported`` is the folder with the model's ONNX files, for contestants that start from one.
    """
    command = [sys.executable, "-m", __name__, contestant.key, model, str(threads), str(exported), checkpoint or ""]
    root = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False)
    name = {"contestant": contestant.key, "model": model}
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        return {**name, "error": lines[-1]}
    return {**name, **json.loads(done.stdout.strip().splitlines()[-1])}


def main(argv: list[str]) -> None:
    wanted, model, threads, exported, checkpoint = argv
    import tempfile

    import torch

    from ..console import quiet_transformers
    from .contestants import RUNTIME, VINO, Setting, onnx_path, select
    from .workload import Shape, load_stock, make_inputs

    quiet_transformers()
    contestant = select([wanted])[0]
    imported = _resident()
    torch.set_num_threads(int(threads))
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        from_file = contestant.needs in (RUNTIME, VINO)
        with torch.inference_mode(False):
            stock: Any = None if from_file else load_stock(model, checkpoint or None)[0]
        vocab, length = (1000, LENGTH) if stock is None else (stock.config.vocab_size, LENGTH)
        if stock is not None:
            length = min(length, stock.config.max_position_embeddings)
        shape = Shape(f"1x{length}", (length,))
        setting = Setting(model, stock, make_inputs(shape, vocab), int(threads), Path(folder))
        for key, kind in (("onnx", ""), ("onnx-int8", "-int8")):
            setting.cache[key] = onnx_path(Path(exported), model, kind)
        call = contestant.build(setting)
        call()
        call()
        after = _resident()
    print(json.dumps({"imports_mib": imported, "resident_mib": after, "peak_mib": peak()}))


if __name__ == "__main__":
    main(sys.argv[1:])
