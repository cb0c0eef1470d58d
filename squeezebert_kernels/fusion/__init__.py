"""Puts the kernels under a live model, takes them away again, and says what runs on them.

optimize        optimize, restore, enable, disable
report          what runs on the kernels, and why the rest does not
stock_classes   transformers' own encoders, with the kernels under them
changed_weights  for weights that are changed in a way that torch does not record
free_originals  frees original weights where the packed ones are enough
int8_quantizer  int8 checkpoints through transformers' from_pretrained and save_pretrained
"""
