"""What triton_training_cases.py asks of one function of the kernels; imported under TRITON_INTERPRET=1 only."""

import torch
import triton
import triton.language as tl

from squeezebert_kernels.triton_kernels.dropout import dropout_tile


@triton.jit
def _kernel(seed, out, row, first, BY_FOUR: tl.constexpr):
    ns = tl.arange(0, 16)
    tl.store(out + ns[:, None] * 16 + ns[None, :], dropout_tile(seed, row + ns, first, 0, 1.0, 2, 16, BY_FOUR))


def kept_half(seed, row, first):
    """Whether elements [16, 16] from ``row`` and column ``first`` are kept at site 2, with p = 1/2."""
    out = torch.empty(16, 16)
    _kernel[(1,)](seed, out, row, first, BY_FOUR=first % 4 == 0)
    return out != 0
