"""Grouped convolutions as modules, and the encoder layers of any model on the kernels.

conv           GroupedPointwiseConv1d and 2d; which convolutions the kernels compute
parts          the parts of a layer by role, and what keeps them from being fused
fused_layer    one encoder layer: what is known about it, and running it
fused_encoder  all layers at once: without padding, or as a CUDA graph
padding        leaves padding out of a batch, and puts it back
cuda_graphs    captured layers, one launch each
marks          what is kept on modules: one list
"""
