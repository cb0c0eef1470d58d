"""What ``squeezebert-kernels bench`` is made of.

workload     models, shapes, inputs, and how much work they are
contestants  everything that is timed: ours and what a user would pick instead
build_tools  finds CMake and compilers, builds from a source checkout
native       peaks of this machine, from the compiled benchmark library
checking     what a right result is: the reference in float64, errors, tolerances
timing       times by the host's clock, calls in turns
runner       checks every contestant, then times them in turns
accuracy     how far every dtype is from stock float32 on real text, for bench/accuracy.py and the tests
memory       peak memory of one contestant in a process of its own
results      JSON, tables
charts       bar charts, of which bench/gpu draws too
plots        the charts of a run: bars and a roofline
"""
