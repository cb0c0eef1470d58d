"""``squeezebert-kernels embed``: a corpus of any size through a model, in chunks that can be interrupted.

``embed.py`` is the command, ``job.py`` what it was asked for, ``rows.py`` reads, ``encoder.py`` computes, ``output.py``
writes, ``engines.py`` hands the chunks to this process or to Ray, ``progress.py`` tells how far it is. Nothing here
imports pyarrow or ray before it is needed.
"""
