"""Weights in the forms that kernels and checkpoints have them in.

packing      packed for the kernels of this CPU, beside the parameters that they were made from
stand_ins    tensors that stand in for freed weights: only the packed or int8 form is left
int8_config  which weights of a checkpoint are int8, as its config.json says it
"""
