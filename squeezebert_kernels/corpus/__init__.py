"""``squeezebert-kernels embed``: a corpus of any size through a model, in chunks that can be interrupted.

``embed.py`` is the command, ``rows.py`` reads, ``encoder.py`` computes, ``output.py`` writes and ``engines.py`` hands
the chunks to this process or to Ray. Nothing here imports pyarrow, ray or transformers before it is needed.
"""
