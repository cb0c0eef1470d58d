"""What is computed, and which code computes it: the torch ops behind every layer.

functions    the checked public functions, and the registration of the ops with torch
schemas      signatures and shape functions of the ops
dtypes       names of what is multiplied in
validation   what an argument must be, and the messages where it is not
reference    the plain formulas in torch: the oracle of every kernel, and the fallback
dispatch     how a call runs: on a kernel as it is, widened to float32, or by the reference
devices      which tensors have kernels; registration of the Triton kernels for CUDA
gradients    derivatives of the inference ops
training     which ops run in training, with dropout and gradients of whole blocks
autocast     what torch.autocast does to the ops
torch_state  what torch is doing around a call: tracing, transforming, recording gradients
"""

from .functions import (
    attention_block,
    encoder_layer,
    grouped_pointwise_conv,
    grouped_pointwise_conv_layer_norm,
    pack,
    packed_is_current,
    post_attention_block,
    try_encoder_layer,
    unpack,
)

__all__ = [
    "attention_block",
    "encoder_layer",
    "grouped_pointwise_conv",
    "grouped_pointwise_conv_layer_norm",
    "pack",
    "packed_is_current",
    "post_attention_block",
    "try_encoder_layer",
    "unpack",
]
