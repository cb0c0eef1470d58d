"""The C library inside the extension, as far as exporting needs it; ``squeezebert_kernels.h`` documents it."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike, fspath
from typing import Any

from .. import _native

DTYPE_NUMBERS = {"float32": 1, "bfloat16": 2, "int8": 3, "float16": 4}
HEADS = {
    "default": 0, "none": 1, "masked_lm": 2, "sequence_classification": 3,
    "multiple_choice": 4, "token_classification": 5, "question_answering": 6,
}  # fmt: skip


class LoadOptions(ctypes.Structure):
    """sbk_load_options."""

    _fields_ = [
        ("size", ctypes.c_size_t),
        ("dtype", ctypes.c_int),
        ("head", ctypes.c_int),
        ("isa", ctypes.c_char_p),
        ("verify", ctypes.c_int32),
    ]


@functools.cache
def library() -> Any:
    """The library, its functions with their types."""
    _native.load()
    lib = ctypes.CDLL(str(_native.LIBRARY))
    lib.sbk_last_error.restype = ctypes.c_char_p
    lib.sbk_model_load.argtypes = [ctypes.c_char_p, ctypes.POINTER(LoadOptions), ctypes.POINTER(ctypes.c_void_p)]
    lib.sbk_model_save.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    lib.sbk_model_free.argtypes = [ctypes.c_void_p]
    lib.sbk_model_free.restype = None
    return lib


def _check(status: int) -> None:
    if status != 0:
        raise ValueError(library().sbk_last_error().decode(errors="replace"))


@contextmanager
def loaded(
    path: str | PathLike[str], dtype: str | None = None, tier: str | None = None, verify: bool = False
) -> Iterator[ctypes.c_void_p]:
    """A model, freed at the end. ValueError with the library's message."""
    options = LoadOptions(ctypes.sizeof(LoadOptions), DTYPE_NUMBERS[dtype] if dtype else 0, 0, None, int(verify))
    if tier is not None:
        options.isa = tier.encode()
    model = ctypes.c_void_p()
    _check(library().sbk_model_load(fspath(path).encode(), ctypes.byref(options), ctypes.byref(model)))
    try:
        yield model
    finally:
        library().sbk_model_free(model)


def save(model: ctypes.c_void_p, path: str | PathLike[str]) -> None:
    """sbk_model_save."""
    _check(library().sbk_model_save(model, fspath(path).encode()))
