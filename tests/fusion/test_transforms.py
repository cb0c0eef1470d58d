"""torch.func, forward-mode differentiation, torch.jit.trace and torch.fx over models on the kernels."""

import pytest
import torch
import transformers
from support.optimized_models import assert_same, batch, bert, squeezebert
from torch import nn
from torch.autograd import forward_ad

import squeezebert_kernels as sbk
from squeezebert_kernels import ops
from squeezebert_kernels.compat import TRANSFORMERS_5


def parameters(model):
    return {name: p.detach() for name, p in model.named_parameters()}


def call(model, params, ids, mask):
    return torch.func.functional_call(model, params, (ids,), {"attention_mask": mask})[0]


@pytest.fixture(params=["optimized", "drop-in", "bert"])
def models(request):
    """(stock, the same model on the kernels)."""
    if request.param == "bert":
        return bert(attn_implementation="eager"), sbk.optimize(bert(attn_implementation="eager"))
    theirs = squeezebert()
    if request.param == "optimized":
        return theirs, sbk.optimize(squeezebert())
    mine = sbk.SqueezeBertModel(theirs.config).eval()
    mine.load_state_dict(theirs.state_dict())
    return theirs, mine


def test_grad_vmap_and_jvp(models):
    ids = batch()["input_ids"]
    mask = batch()["attention_mask"]
    if TRANSFORMERS_5:  # looks into masks of two dimensions, which vmap forbids
        mask = torch.zeros(3, 1, 1, 11).masked_fill(mask[:, None, None] == 0, -1e30)
    loss = lambda model: lambda params, i, m: call(model, params, i[None], m[None]).square().mean()  # noqa: E731
    with torch.no_grad():
        models[1](**batch())  # weights are packed already
    per_sample, tangents = [], []
    for model in models:
        params = parameters(model)
        grad = torch.func.vmap(torch.func.grad(loss(model)), in_dims=(None, 0, 0))
        per_sample.append(grad(params, ids, mask))
        tangents.append(torch.func.jvp(lambda p, model=model: call(model, p, ids, mask), (params,), (params,))[1])
    assert_same(tangents[1], tangents[0], 2e-4)
    for name, expected in per_sample[0].items():
        assert_same(per_sample[1][name], expected)
    assert all(e.reason.startswith("in the last call: a torch.func transform") for e in sbk.report(models[1]).entries)
    with torch.no_grad():
        models[1](**batch())
    assert not sbk.report(models[1]).fallbacks


def test_forward_mode(models):
    tangents = []
    for model in models:
        embeds = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(2))
        with forward_ad.dual_level():
            out = model(inputs_embeds=forward_ad.make_dual(embeds, torch.ones_like(embeds)))[0]
            tangents.append(forward_ad.unpack_dual(out).tangent)
    assert_same(tangents[1], tangents[0], 1e-4)


def test_functions_under_transforms():
    x, w = torch.randn(5, 8), torch.randn(6, 4)
    loss = lambda x: ops.grouped_pointwise_conv(x, w, groups=2, activation="gelu").square().sum()  # noqa: E731
    x.requires_grad_()
    loss(x).backward()
    assert_same(torch.func.grad(loss)(x.detach()), x.grad)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("warm", [False, True])
def test_jit_trace(models, warm):
    model = models[1]
    model.config.return_dict = False
    inputs = batch()
    with torch.no_grad():
        if warm:
            model(**inputs)
        traced = torch.jit.trace(model, (inputs["input_ids"], inputs["attention_mask"]), strict=False)
        other = batch((3, 7))
        assert_same(traced(*other.values())[0], model(**other, return_dict=False)[0])


def test_fx_sees_leaves():
    net = nn.Sequential(nn.Conv1d(16, 24, 1, groups=4), nn.ReLU(), nn.Conv1d(24, 8, 1, groups=2))
    x = torch.randn(2, 16, 9)
    before = net(x)
    graph = torch.fx.symbolic_trace(sbk.optimize(net))
    assert [node.op for node in graph.graph.nodes].count("call_module") == 3
    assert_same(graph(x), before)


@pytest.mark.parametrize("model", ["optimized", "drop-in"])
def test_layers_built_like_ours(model):
    """What peft does to make LoRA's two factors: the class of the layer, arguments and shapes of nn.Conv1d."""
    theirs = nn.Conv1d(16, 3, (1,), (1,), (0,), bias=False)
    ours = sbk.optimize(nn.Conv1d(16, 24, 1, groups=4)) if model == "optimized" else sbk.SqueezeBertModel(
        transformers.SqueezeBertConfig(hidden_size=16, embedding_size=16, num_attention_heads=2, num_hidden_layers=1)
    ).encoder.layers[0].attention.query  # fmt: skip
    built = type(ours)(16, 3, (1,), (1,), (0,), bias=False)
    built.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 16, 9)
    assert_same(built(x), theirs(x))


def test_batched_gradients(models):
    embeds = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(2), requires_grad=True)
    found = []
    for model in models:
        out = model(inputs_embeds=embeds)[0]
        seeds = torch.randn(3, *out.shape, generator=torch.Generator().manual_seed(3))
        found.append(torch.autograd.grad(out, [embeds], seeds, is_grads_batched=True)[0])
    assert_same(found[1], found[0])


@pytest.mark.parametrize("strict", [False, True])
def test_export_keeps_the_precision(strict):
    model = sbk.optimize(squeezebert(), quantization="int8")
    inputs = batch()
    with torch.no_grad():
        program = torch.export.export(model, (), inputs, strict=strict)
        names = [str(node.target) for node in program.graph.nodes]
        assert sum("squeezebert_kernels.pack" in name for name in names) == 4
        assert_same(program.module()(**inputs)[0], model(**inputs)[0])
