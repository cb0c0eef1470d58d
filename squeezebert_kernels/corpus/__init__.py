"""A corpus of any size through a model, in chunks that can be interrupted: the parts of ``squeezebert-kernels embed``.

job       what was asked for
sources   finds the input files
rows      cuts them into units, and reads them
lines     reads a line of JSON
encoder   computes
output    writes, and knows what is finished
engines   hands the chunks to this process or to Ray
progress  tells how far it is

Nothing here imports pyarrow or ray before it is needed.
"""
