"""What this package keeps in the ``__dict__`` of the modules that it runs: one list.

A mark is no attribute that torch knows: it is not in the state dict, and ``copy.deepcopy`` and pickle take it along;
of CALL_CACHE they make an empty one.

===================== =============================== ===================== ===================== ======================
mark                  value                           written by            read by               deleted by
===================== =============================== ===================== ===================== ======================
COMPUTE               what its kernels multiply in    fusion.optimize       layers.conv           fusion.optimize
ORIGINAL_CLASS        the class before optimize       fusion.optimize       fusion.optimize       fusion.optimize
ORIGINAL_DTYPES       {name: dtype} before optimize   fusion.optimize       fusion.optimize       fusion.optimize
SKIP_PADDING          True: leave padding out         layers.padding        layers.padding        layers.padding
CUDA_GRAPHS           True: replay CUDA graphs        layers.cuda_graphs    layers.cuda_graphs    layers.cuda_graphs
CALL_CACHE            CallCache of the last calls     layers.call_cache     fused_layer,          fusion.optimize
                                                                            cuda_graphs
PACKED_CONV           PackedWeights of a convolution  layers.conv           layers.conv           conv, forget,
                                                                                                  tensor_parallel
PACKED_ATTENTION      of q, k and v of a layer        layers.fused_layer    layers.fused_layer    fused_layer, forget
PACKED_POST_ATTENTION of what follows, one op         layers.fused_layer    layers.fused_layer    fused_layer, forget
PACKED_BY_PART        of what follows, op by op       layers.fused_layer    layers.fused_layer    fused_layer, forget
===================== =============================== ===================== ===================== ======================

Packed weights are caches. Deleting one costs the next call a packing, and nothing else. Reports count their bytes.
"""

from __future__ import annotations

from torch import nn

COMPUTE = "_sbk_compute"
ORIGINAL_CLASS = "_sbk_original_class"
ORIGINAL_DTYPES = "_sbk_original_dtypes"
SKIP_PADDING = "_sbk_skip_padding"
CUDA_GRAPHS = "_sbk_cuda_graphs"
CALL_CACHE = "_sbk_call_cache"
PACKED_CONV = "_sbk_packed"
PACKED_ATTENTION = "_sbk_attention"
PACKED_POST_ATTENTION = "_sbk_post_attention"
PACKED_BY_PART = ("_sbk_post", "_sbk_intermediate", "_sbk_output")

PACKED = (PACKED_CONV, PACKED_ATTENTION, PACKED_POST_ATTENTION, *PACKED_BY_PART)
"""Every mark that holds packed weights."""


def forget_packed(module: nn.Module) -> None:
    """Deletes the packed weights that ``module`` keeps."""
    for mark in PACKED:
        module.__dict__.pop(mark, None)
