"""Whole models on AArch64 under emulation, against PyTorch: every tier on the CPU that chooses it.

``make test`` builds ``sbk_evaluate`` for AArch64; without it, or without QEMU, these tests are skipped.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from support.hf_models import stock

from squeezebert_kernels.export.sbk_file import export

PROGRAM = Path(__file__).parents[2] / "build" / "arm" / "tests" / "cpp" / "sbk_evaluate"
TIERS = Path(__file__).parents[2] / "csrc" / "isa" / "tiers.inc"
EMULATED = re.findall(r'^SBK_TIER_EMULATED\((\w+), "(.+)"\)$', TIERS.read_text(encoding="utf-8"), re.MULTILINE)
CPUS = {cpu: tier for tier, cpu in EMULATED}
# One rounding of an operand: half an ulp, or half a step of 254.
ROUNDING = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-9, "int8": 2.0**-8}
FIELDS = {
    "vocab_size": 997, "hidden_size": 192, "embedding_size": 192, "num_hidden_layers": 4, "num_attention_heads": 3,
    "intermediate_size": 768, "max_position_embeddings": 64, "num_labels": 3,
}  # fmt: skip


def emulator() -> list[str]:
    if platform.machine() in ("aarch64", "arm64"):
        return []
    found = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    missing = None if PROGRAM.exists() else f"{PROGRAM.name} is not built for AArch64 (make test builds it)"
    if found is None:
        missing = "qemu-aarch64 is not installed"
    if missing is not None:
        pytest.skip(missing)
    return [str(found)]


def evaluate(file: Path, inputs: dict[str, torch.Tensor], cpu: str, **environment: str) -> tuple[np.ndarray, str, int]:
    """(every output, tier, bytes that were packed anew)."""
    batch, length = inputs["input_ids"].shape
    names = ("input_ids", "token_type_ids", "attention_mask")
    values = [np.array([batch, length], np.int32), *(inputs[name].numpy().astype(np.int32).ravel() for name in names)]
    given, result = file.with_suffix(".in"), file.with_suffix(".out")
    given.write_bytes(np.concatenate(values).tobytes())
    command = [*emulator(), str(PROGRAM), str(file), str(given), str(result)]
    done = subprocess.run(
        command, env={**os.environ, "QEMU_CPU": cpu, **environment}, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    tier, repacked = done.stdout.split()
    return np.fromfile(result, np.float32), tier, int(repacked)


def bound(dtype: str, layers: int, largest: float) -> float:
    """Some dozen rounded operands stand between a layer's input and its output, and errors add up like steps of a
    random walk; the largest of thousands is some four deviations. docs/performance.md has what was seen."""
    return max(2e-5, 4 * ROUNDING[dtype] * (12 * layers) ** 0.5 * max(1.0, largest))


def batch_of(vocab: int, length: int = 37) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(0, vocab, (2, length), generator=generator)
    types = (torch.arange(length)[None] > torch.tensor([[20], [9]])).long()
    mask = (torch.arange(length)[None] < torch.tensor([[length], [23]])).long()
    return {"input_ids": ids, "token_type_ids": types, "attention_mask": mask}


def stock_outputs(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """(hidden states, pooled and logits in a row)."""
    with torch.no_grad():
        states = model.transformer(**inputs)
        logits = model(**inputs).logits
    return states[0].numpy(), np.concatenate([states[1].ravel(), logits.ravel()])


@pytest.mark.parametrize("cpu", CPUS)
def test_every_dtype_on_every_kind_of_cpu(cpu, tmp_path):
    emulator()
    model = stock("SqueezeBertForSequenceClassification", **FIELDS)
    inputs = batch_of(FIELDS["vocab_size"])
    expected, rest = stock_outputs(model, inputs)
    real = inputs["attention_mask"].bool().numpy()
    for dtype in ROUNDING:
        file = tmp_path / f"{dtype}.sbk"
        export(model, file, dtype=dtype)
        outputs, tier, repacked = evaluate(file, inputs, cpu)
        assert tier == CPUS[cpu]
        # The default file is for neondot: tiers that multiply alike use it in place.
        in_place = {
            "float32": True,
            "float16": tier != "neon",
            "bfloat16": tier != "neoni8mm",
            "int8": tier == "neondot",
        }
        assert (repacked == 0) == in_place[dtype], (dtype, tier, repacked)
        states = outputs[: expected.size].reshape(expected.shape)
        allowed = bound(dtype, FIELDS["num_hidden_layers"], np.abs(expected).max())
        assert np.abs(states - expected)[real].max() <= allowed, dtype
        assert not states[~real].any()
        assert np.abs(outputs[expected.size :] - rest).max() <= allowed, dtype


def test_a_tier_that_the_cpu_lacks_is_an_error(tmp_path):
    emulator()
    export(stock("SqueezeBertModel", **FIELDS), tmp_path / "model.sbk")
    with pytest.raises(AssertionError, match="SBK_ISA='neondot' is not possible .* possible: scalar, neon"):
        evaluate(tmp_path / "model.sbk", batch_of(FIELDS["vocab_size"]), "cortex-a57", SBK_ISA="neondot")


def test_minilm_with_real_weights(tmp_path, bert_vocab):
    """A whole network with real weights, on the tier of most phones."""
    emulator()
    import transformers

    folder = bert_vocab.parent
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    inputs = dict(transformers.AutoTokenizer.from_pretrained(folder)(
        ["How do volcanoes form?", "Rivers carry sediment from the mountains down to the sea."],
        padding=True, return_tensors="pt",
    ))  # fmt: skip
    with torch.no_grad():
        expected = model(**inputs).last_hidden_state.numpy()
    real = inputs["attention_mask"].bool().numpy()
    for dtype, cosine in (("float32", 0.9999999), ("float16", 0.9999), ("int8", 0.99)):
        export(model, tmp_path / "m.sbk", dtype=dtype)
        outputs, _, _ = evaluate(tmp_path / "m.sbk", inputs, "cortex-a76")
        states = outputs[: expected.size].reshape(expected.shape)[real].astype(np.float64)
        wanted = expected[real].astype(np.float64)
        assert np.abs(states - wanted).max() <= bound(dtype, 6, np.abs(wanted).max()), dtype
        similarity = (states * wanted).sum(-1) / np.linalg.norm(states, axis=-1) / np.linalg.norm(wanted, axis=-1)
        assert similarity.min() >= cosine, dtype
