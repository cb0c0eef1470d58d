"""Runs an ONNX model a number of times on one thread: what rival.py counts, in an emulated Python.

python run_onnx.py MODEL CALLS
"""

import sys

import numpy as np
import onnxruntime

model, calls = sys.argv[1], int(sys.argv[2])
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
options.log_severity_level = 3
session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
random = np.random.default_rng(0)
feed = {}
for wanted in session.get_inputs():
    if wanted.name == "mask":
        feed[wanted.name] = np.ones(wanted.shape, np.int64)
    elif wanted.type == "tensor(int64)":
        feed[wanted.name] = random.integers(1, 99, wanted.shape)
    else:
        feed[wanted.name] = random.standard_normal(wanted.shape).astype(np.float32)
for _ in range(calls):
    outputs = session.run(None, feed)
assert all(np.isfinite(output).all() for output in outputs)
