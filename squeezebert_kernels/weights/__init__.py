"""Weights in the forms that kernels and checkpoints have them in.

packing      packed for the kernels of this CPU, beside the parameters that they were made from
frozen       in one copy: parameters that exist only in their packed or int8 form
int8_config  which weights of a checkpoint are int8, as its config.json says it
"""
