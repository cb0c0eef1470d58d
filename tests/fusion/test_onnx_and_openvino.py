"""While a model is exported to ONNX, or converted by OpenVINO, it is plain torch: nothing there knows our ops."""

import io
import warnings

import numpy as np
import onnxruntime
import openvino
import pytest
import torch
from support.hf_models import TINY, ours
from support.optimized_models import assert_same, batch, bert, squeezebert
from torch import nn

import squeezebert_kernels as sbk

MODELS = {
    "BERT": lambda: sbk.optimize(bert()),
    "SqueezeBERT": lambda: sbk.optimize(squeezebert()),
    "drop-in": lambda: ours("SqueezeBertModel", **TINY).eval(),
    "bfloat16": lambda: sbk.optimize(squeezebert(), dtype=torch.bfloat16),
    "int8": lambda: sbk.optimize(bert(), quantization="int8"),
    "one copy": lambda: sbk.optimize(squeezebert(), free_original=True),
    "int8, one copy": lambda: sbk.optimize(bert(), quantization="int8", free_original=True),
    "drop-in, int8, one copy": lambda: sbk.optimize(
        ours("SqueezeBertModel", **TINY).eval(), quantization="int8", free_original=True
    ),
    "convolutions": lambda: nn.Sequential(
        sbk.GroupedPointwiseConv1d(16, 24, groups=4), sbk.GroupedPointwiseConv1d(24, 8, groups=2)
    ),
    "convolution, one copy": lambda: sbk.optimize(
        nn.Sequential(sbk.GroupedPointwiseConv1d(16, 24, groups=4)).eval(), free_original=True
    ),
}
LOW = {"bfloat16", "int8"}
"""Their weights in float32 are there, and are what is exported."""
ONE_COPY = [name for name in MODELS if "one copy" in name]
QUICK = {"drop-in", "SqueezeBERT", "int8, one copy", "convolution, one copy"}


class OnlyTensors(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask):
        return self.model(input_ids=input_ids, attention_mask=attention_mask, return_dict=False)[0]


def wide_but(quick):
    return [pytest.param(name, marks=() if name in quick else pytest.mark.wide) for name in MODELS]


def model_and_inputs(name):
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    if "conv" in name:
        return model, (torch.randn(2, 16, 9),)
    return OnlyTensors(model).eval(), tuple(batch().values())


def by_onnx(model, inputs, dynamo):
    file = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, inputs, file, dynamo=dynamo, verbose=False)
    session = onnxruntime.InferenceSession(file.getvalue())
    return session.run(None, {i.name: t.numpy() for i, t in zip(session.get_inputs(), inputs)})[0]


def by_openvino(model, inputs):
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        converted = openvino.convert_model(model, example_input=inputs)
    compiled = openvino.compile_model(converted, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return compiled([t.numpy() for t in inputs])[0]


WAYS = {
    "TorchScript": lambda model, inputs: by_onnx(model, inputs, dynamo=False),
    "dynamo": lambda model, inputs: by_onnx(model, inputs, dynamo=True),
    "OpenVINO": by_openvino,
}


def check(name, way):
    model, inputs = model_and_inputs(name)
    with torch.no_grad():
        before = model(*inputs)
        dense = OnlyTensors(sbk.restore(MODELS[name]().eval())) if name in LOW else model
        expected = dense(*inputs)
        weights = list(model.parameters())
        exported = torch.from_numpy(np.array(WAYS[way](model, inputs)))
        # int8 rounds activations on the kernels, and nowhere else
        assert_same(exported, expected, 0.1 if "int8, one copy" in name else 2e-5)
        assert torch.equal(model(*inputs), before)
        assert all(a is b for a, b in zip(model.parameters(), weights, strict=True))
        assert not sbk.report(model).fallbacks


@pytest.mark.parametrize("name", wide_but(QUICK))
def test_onnx_by_torchscript(name):
    check(name, "TorchScript")


@pytest.mark.parametrize("name", wide_but({"drop-in"}))
def test_onnx_by_torch_export(name):
    if name not in ONE_COPY:
        check(name, "dynamo")
        return
    model, inputs = model_and_inputs(name)
    with pytest.raises(
        Exception, match=r"call squeezebert_kernels.restore\(model\) first, or export with dynamo=False"
    ):
        by_onnx(model, inputs, dynamo=True)
    if "int8" not in name:
        with torch.no_grad():
            expected = model(*inputs)
        sbk.restore(model)
        assert_same(torch.from_numpy(by_onnx(model, inputs, dynamo=True)), expected)


@pytest.mark.parametrize("name", wide_but({"drop-in", "int8, one copy"}))
def test_openvino(name):
    check(name, "OpenVINO")


def test_a_trace_that_stays_with_us_keeps_the_kernels():
    model, inputs = model_and_inputs("int8, one copy")
    with torch.no_grad():
        traced = torch.jit.trace(model, inputs, check_trace=False)
        assert "squeezebert_kernels::" in str(traced.inlined_graph)
        assert torch.equal(traced(*inputs), model(*inputs))
