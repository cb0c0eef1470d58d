"""SqueezeBERT and BERT inference on NumPy arrays, without PyTorch.

    from squeezebert_runtime import Model

    model = Model("model.sbk")
    ids, token_type_ids, lengths = model.encode_batch(["a film worth seeing", "a waste of an evening"])
    model(ids, token_type_ids, lengths=lengths).logits

A model is a ``.sbk`` file of ``squeezebert-kernels export``, or a folder with ``config.json`` and
``model.safetensors``.

The package needs the main interpreter: importing it into a subinterpreter is an ImportError. A free-threaded Python
turns its GIL on for it, with Python's own warning; where it is forced to stay off, importing is an ImportError too.
"""

from __future__ import annotations

import importlib
import sys


def _is_subinterpreter() -> bool:
    for name in ("_interpreters", "_xxsubinterpreters"):  # since Python 3.13, and before
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        return bool(module.get_current() != module.get_main())
    return False


if _is_subinterpreter():
    # Before the extension is loaded, which would wait for the main interpreter's lock for ever.
    raise ImportError("squeezebert_runtime works in the main interpreter only, not in subinterpreters")

from . import _native  # noqa: E402

if not getattr(sys, "_is_gil_enabled", lambda: True)():
    # A free-threaded Python turns its GIL on when it imports an extension that has not declared that it needs none;
    # it can be forced not to.
    raise ImportError("squeezebert_runtime needs Python's GIL: start without PYTHON_GIL=0 and -X gil=0")

from .model import Info, Model, Output, Tokens  # noqa: E402

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
