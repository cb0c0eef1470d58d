"""Grouped convolutions as modules, and the encoder layers of any model on the kernels."""
