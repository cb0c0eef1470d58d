"""The drop-in SqueezeBERT: transformers' classes and checkpoints, on the kernels."""
