"""SqueezeBERT and BERT inference on NumPy arrays, without PyTorch.

    from squeezebert_runtime import Model

    model = Model("model.sbk")
    ids, token_type_ids, lengths = model.encode_batch(["a film worth seeing", "a waste of an evening"])
    model(ids, token_type_ids, lengths=lengths).logits

A model is a ``.sbk`` file of ``squeezebert-kernels export``, or a folder with ``config.json`` and
``model.safetensors``.
"""

from __future__ import annotations

from . import _native
from .model import Info, Model, Output, Tokens

__all__ = ["Info", "Model", "Output", "Tokens", "active_isa", "big_cores", "isas", "version"]
__version__ = _native.version()


def version() -> str:
    """The version of the library: "0.1.0"."""
    return _native.version()


def isas() -> list[str]:
    """The instruction set tiers that this CPU can run, slowest first: ["scalar", "neon", "neonfp16", "neondot"]."""
    return _native.isas()


def active_isa() -> str:
    """The tier in use: the fastest, or what the environment variable SBK_ISA said at the first use.

    Raises:
        ValueError: SBK_ISA names a tier that is not possible here; the message lists those that are.
    """
    return _native.active_isa()


def big_cores() -> list[int]:
    """Numbers of the CPUs in fast clusters, which inference uses by default; all where they are alike."""
    return _native.big_cores()
