"""Values that may be passed for an argument of an op and should not be, by the argument's type."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

INTS = (
    0,
    1,
    -1,
    2,
    3,
    7,
    48,
    2**31,
    2**34,
    2**40,
    2**48,
    2**62,
    2**63 - 1,
    -(2**63),
    2**63,
    2**70,
    True,
    1.5,
    "1",
    None,
)
FLOATS = (0.0, 1, -1.0, 1e-300, 1e300, float("nan"), float("inf"), -float("inf"), "1", None)
STRINGS = (
    "",
    "none",
    "gelu",
    "relu",
    "swish",
    "float32",
    "bfloat16",
    "int8",
    "float16",
    "x" * 5000,
    "\0",
    "é",
    1,
    None,
)
DTYPES = (
    torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int8, torch.uint8, torch.uint16,
    torch.bool, torch.complex64, torch.float8_e4m3fn,
)  # fmt: skip


class Hostile(NamedTuple):
    """A value; ``outcome`` is what a call with it must come to: "same" result, "error", or "either"."""

    label: str
    value: Any
    outcome: str = "either"


def _same_values(good: Tensor) -> Iterator[Hostile]:
    """The values of ``good`` in memory that looks different."""
    if good.dim() >= 2:
        yield Hostile("transposed", good.transpose(0, -1).contiguous().transpose(0, -1), "same")
    wide = torch.stack([good, good], -1)
    yield Hostile("strided", wide[..., 0], "same" if good.dtype == torch.float32 else "either")
    if good.is_floating_point() and good.numel():
        yield Hostile("negative bit", torch._neg_view(-good), "same")
        yield Hostile("requires gradients", good.detach().clone().requires_grad_(), "same")
        memory = bytearray(good.numel() * good.element_size() + 1)
        odd = torch.frombuffer(memory, dtype=good.dtype, offset=1, count=good.numel()).view(good.shape)
        yield Hostile("odd address", odd.copy_(good), "same")


def _other_kinds(good: Tensor) -> Iterator[Hostile]:
    yield Hostile("on meta", good.to("meta"), "error")
    yield Hostile("sparse", good.to_sparse(), "error")
    if good.dim() == 2:
        yield Hostile("CSR", good.to_sparse_csr(), "error")
    if good.dtype == torch.float32:
        yield Hostile("quantized", torch.quantize_per_tensor(good, 0.1, 0, torch.qint8), "error")
        yield Hostile("of MKL-DNN", good.to_mkldnn(), "error")
    yield Hostile("nested", torch.nested.nested_tensor([good, good]), "error")
    yield Hostile("jagged", torch.nested.nested_tensor([good, good], layout=torch.jagged), "error")
    yield Hostile("efficient zeros", torch._efficientzerotensor(good.shape, dtype=good.dtype))
    freed = good.clone()
    freed.untyped_storage().resize_(0)
    yield Hostile("without memory", freed)
    for dtype in DTYPES:
        if dtype != good.dtype:
            yield Hostile(f"of {dtype}", good.to(dtype))
    yield Hostile("conjugate", good.to(torch.complex64).conj())


def _other_shapes(good: Tensor) -> Iterator[Hostile]:
    one = good.new_zeros(1)
    shapes = [(), (0,), (1,), (*good.shape, 1), (1, *good.shape), good.shape[1:], good.shape[:-1], (1,) * 70]
    for i in range(good.dim()):
        for size in (0, 1, max(good.shape[i] - 1, 0), good.shape[i] + 1, 2 * good.shape[i]):
            shapes.append((*good.shape[:i], size, *good.shape[i + 1 :]))
        # Nothing in it, or one value of memory, and more than any loop gets through.
        huge = (*good.shape[:i], 2 ** (34, 40, 44)[(i + good.numel()) % 3], *good.shape[i + 1 :])
        yield Hostile(f"expanded to {huge}", one.expand(huge))
        for j in range(good.dim()):
            if j != i:
                none = (*huge[:j], 0, *huge[j + 1 :])
                yield Hostile(f"of shape {none}", good.new_empty(none))
    for shape in shapes:
        yield Hostile(f"of shape {tuple(shape)}", torch.ones(shape, dtype=good.dtype))
    yield Hostile("expanded to 2**61", one.expand(2**61))


def _packed(good: Tensor) -> Iterator[Hostile]:
    """Buffers that were packed, and then damaged."""
    for begin, end in ((1, None), (4, None), (64, None), (0, 0), (0, 1), (0, 63), (0, 64), (0, -1), (0, -64)):
        yield Hostile(f"[{begin}:{end}]", good[begin:end])
    yield Hostile("twice", torch.cat([good, good]), "same")
    yield Hostile("reversed", good.flip(0))
    sections = (good.view(-1, 64)[:, :4] == torch.tensor([*b"SBKP"])).all(-1).nonzero().flatten().tolist()
    for i, section in enumerate(sections):
        for at in range(64):
            damaged = good.clone()
            damaged[64 * section + at] ^= (0x01, 0x80, 0xFF)[(at + i) % 3]
            yield Hostile(f"byte {at} of section {i}", damaged)


def of_tensor(good: Tensor) -> list[Hostile]:
    """Values in place of the tensor ``good``."""
    values = [*_other_kinds(good), *_other_shapes(good)]
    if good.dtype == torch.uint8:
        values += _packed(good)
    else:
        values += _same_values(good)
    values += [Hostile("None", None), Hostile("a number", 1.0), Hostile("a list", [1.0])]
    return values


def of_type(kind: str, good: Any) -> list[Hostile]:
    """Values in place of ``good``, an argument that a schema calls ``kind``."""
    if "Tensor" in kind and ("List" in kind or "Sequence" in kind):
        values = [Hostile("empty", []), Hostile("one more", [*good, good[0]]), Hostile("one", good[:1])]
        values += [Hostile("None", None), Hostile("a list of None", [None]), Hostile("a tensor", good[0])]
        for i, t in enumerate(good):
            values += [
                Hostile(f"[{i}] {h.label}", [*good[:i], h.value, *good[i + 1 :]], h.outcome) for h in of_tensor(t)
            ]
        return values
    if "Tensor" in kind:
        if good is not None:
            return of_tensor(good)
        return [h._replace(outcome="either") if h.outcome == "same" else h for h in of_tensor(torch.ones(2))]
    if "List" in kind or "Sequence" in kind:
        values = [Hostile("empty", []), Hostile("one more", [*good, good[0]]), Hostile("a number", 1)]
        for i in range(len(good)):
            values += [Hostile(f"[{i}] = {v!r}", [*good[:i], v, *good[i + 1 :]]) for v in INTS]
        return values
    plain = {"int": INTS, "float": FLOATS, "str": STRINGS}
    return [Hostile(repr(value), value) for name, found in plain.items() if name in kind for value in found]
