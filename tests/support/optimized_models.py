"""Small transformers models to optimize, what to call them with, and what to compare."""

import torch
import transformers

import squeezebert_kernels as sbk
from squeezebert_kernels.weights.stand_ins import frozen_weights

from .hf_models import TINY, stock

HEADS = [
    "SqueezeBertModel", "SqueezeBertForMaskedLM", "SqueezeBertForSequenceClassification",
    "SqueezeBertForTokenClassification", "SqueezeBertForQuestionAnswering", "SqueezeBertForMultipleChoice",
]  # fmt: skip


def squeezebert(head="SqueezeBertModel", **changes):
    return stock(head, **{**TINY, "num_hidden_layers": 2, **changes})


def bert(**changes):
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=99, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, **changes
    )
    return transformers.BertModel(config).eval()


def batch(shape=(3, 11), padded=True):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, 99, shape, generator=generator)
    mask = torch.ones(shape, dtype=torch.long)
    if padded:
        mask[1, ..., 5:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def run(model, inputs, **options):
    with torch.no_grad():
        return model(**inputs, **options)[0]


def loss(model):
    """Not a sum of squares: behind a LayerNorm that is constant, and its gradients are rounding errors."""
    out = model(**batch())[0]
    return (out * torch.linspace(-1, 1, out.numel()).view(out.shape)).sum()


def assert_same(a, b, tolerance=2e-5):
    assert torch.isfinite(a).all()
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


def all_fused(model):
    found = sbk.report(model)
    return bool(found.entries) and not found.fallbacks


def parts(model):
    """(a layer, one of its convolutions with its owner and name, a norm) of a stock SqueezeBERT or BERT."""
    if isinstance(model, transformers.BertModel):
        layer = model.encoder.layer[1]
        return layer, layer.intermediate, "dense", layer.output.LayerNorm
    layer = model.encoder.layers[1]
    return layer, layer.intermediate, "conv1d", layer.output.layernorm


def changed_weight(model):
    return parts(model)[1].get_submodule(parts(model)[2]).weight


def kept_weights(model):
    """The weights that stand in for the originals after optimize(free_original=True)."""
    return [weight for _, _, weight in frozen_weights(model)]
