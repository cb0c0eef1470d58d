"""Puts the kernels under a live model, takes them away again, and says what runs on them."""
