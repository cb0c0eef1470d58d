"""optimize(free_original=True): one copy of the weights, and everything that a model can be asked besides."""

import copy
import gc
import pickle
import sys

import pytest
import torch
from support.hf_models import NO_DROPOUT
from support.optimized_models import all_fused, assert_same, batch, bert, kept_weights, run, squeezebert
from torch import nn

import squeezebert_kernels as sbk
from squeezebert_kernels import ops
from squeezebert_kernels.weights import stand_ins

OPTIONS = {"float32": {}, "bfloat16": {"dtype": torch.bfloat16}, "int8": {"quantization": "int8"}}
MODELS = {
    "squeezebert": squeezebert,
    "ours": lambda: sbk.SqueezeBertModel(squeezebert(**NO_DROPOUT).config).eval(),
    "bert": bert,
    "partly": lambda: squeezebert(hidden_act="silu"),
    "conv2d": lambda: nn.Sequential(nn.Conv2d(8, 16, 1, groups=2), nn.ReLU(), nn.Conv2d(16, 8, 1, groups=4)).eval(),
}


def one_copy(name="squeezebert", dtype="float32"):
    torch.manual_seed(3)
    return sbk.optimize(MODELS[name](), free_original=True, **OPTIONS[dtype])


def output(model):
    if isinstance(model, nn.Sequential):
        with torch.no_grad():
            return model(torch.linspace(-1, 1, 2 * 8 * 3 * 5).view(2, 8, 3, 5))
    return run(model, batch())


@pytest.mark.parametrize("dtype", OPTIONS)
@pytest.mark.parametrize("name", MODELS)
def test_same_results_as_with_two_copies(name, dtype):
    torch.manual_seed(3)
    model = MODELS[name]()
    two = sbk.optimize(copy.deepcopy(model), **OPTIONS[dtype])
    one = sbk.optimize(copy.deepcopy(model), free_original=True, **OPTIONS[dtype])
    assert kept_weights(one)
    if dtype == "int8" and name != "conv2d":  # its embeddings became int8 too
        for (_, mine), (_, theirs) in zip(one.named_modules(), two.named_modules()):
            if type(mine) is nn.Embedding:
                theirs.weight.data = mine.weight.dense()
    assert torch.equal(output(one), output(two))
    assert one.state_dict().keys() == model.state_dict().keys()
    assert all(type(value) is torch.Tensor for value in one.state_dict().values())
    if dtype == "float32":
        assert all(torch.equal(value, model.state_dict()[key]) for key, value in one.state_dict().items())
    assert [str(entry) for entry in sbk.report(one).entries] == [str(entry) for entry in sbk.report(two).entries]


@pytest.mark.parametrize("dtype", OPTIONS)
@pytest.mark.parametrize("name", MODELS)
def test_restore(name, dtype):
    torch.manual_seed(3)
    model = MODELS[name]()
    original = copy.deepcopy(model.state_dict())
    model.requires_grad_(True)
    sbk.optimize(model, free_original=True, **OPTIONS[dtype])
    rounded = model.state_dict()
    sbk.restore(model)
    assert not kept_weights(model)
    assert not any(module._state_dict_hooks for module in model.modules())
    assert all(type(p) is nn.Parameter and p.requires_grad for p in model.parameters())
    assert all(torch.equal(value, rounded[key]) for key, value in model.state_dict().items())
    if dtype == "float32":
        assert all(torch.equal(value, original[key]) for key, value in model.state_dict().items())
    sbk.optimize(model, dtype=torch.bfloat16)  # and anything else is possible again


def test_the_originals_are_gone():
    model = squeezebert()
    sbk.optimize(model, free_original=True)
    output(model)
    gc.collect()
    dense = [p for p in model.encoder.parameters() if p.dim() > 1 and not isinstance(p, stand_ins.FrozenWeight)]
    packed = {id(w.packed): w.packed.numel() for w in kept_weights(model)}
    assert packed
    assert not dense
    assert sbk.report(model).packed_bytes == sum(packed.values())
    caches = [v for m in model.modules() for v in m.__dict__.values() if type(v).__name__ == "PackedWeights"]
    assert not any(cache.nbytes for cache in caches)


def test_kernels_get_no_dense_weights(monkeypatch):
    model = one_copy()
    expected = output(model)
    monkeypatch.setattr(stand_ins.PackedWeight, "dense", lambda self: pytest.fail("unpacked"))
    assert torch.equal(output(model), expected)
    with torch.enable_grad():  # nothing of the graph is used
        assert torch.equal(model(**batch())[0], expected)


@pytest.mark.parametrize("dtype", OPTIONS)
def test_layers_that_fall_back(dtype):
    model = one_copy(dtype=dtype)
    expected, options = output(model), {"float32": 2e-5, "bfloat16": 0.02, "int8": 0.1}
    model.encoder.layers[0].attention.query.register_forward_hook(lambda *_: None)
    assert len(sbk.report(model).fallbacks) == 1
    assert_same(output(model), expected, options[dtype])
    assert run(model, batch(), output_attentions=True) is not None


def test_gradients_of_the_inputs():
    model = one_copy("ours")
    reference = sbk.restore(copy.deepcopy(model))
    grads = []
    for m in (model, reference):
        x = m.get_input_embeddings()(batch()["input_ids"]).detach().requires_grad_()
        out = m(inputs_embeds=x)[0]
        (out * torch.linspace(-1, 1, out.numel()).view(out.shape)).sum().backward()
        grads.append(x.grad)
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", OPTIONS)
def test_deepcopy_shares_and_pickle_unpacks(dtype):
    model = one_copy(dtype=dtype)
    copied = copy.deepcopy(model)
    assert [w.packed.data_ptr() for w in kept_weights(copied) if hasattr(w, "packed")] == [
        w.packed.data_ptr() for w in kept_weights(model) if hasattr(w, "packed")
    ]
    unpickled = pickle.loads(pickle.dumps(model))
    assert not kept_weights(unpickled)
    assert all_fused(unpickled)
    sbk.restore(model)
    assert torch.equal(output(copied), output(unpickled))


def test_a_conversion_makes_them_dense():
    for target in (torch.float64, torch.bfloat16, "meta"):
        model = one_copy().to(target)
        assert not kept_weights(model)
        assert target == "meta" or all(p.requires_grad for p in model.parameters())
    model = one_copy()
    expected = output(model)
    assert torch.equal(output(model.float()), expected)
    assert kept_weights(model)
    assert_same(output(model.double()).float(), expected)


def test_weights_are_read_only():
    model = one_copy()
    expected = output(model)
    state = {key: value + 1 for key, value in model.state_dict().items()}
    with pytest.raises(RuntimeError, match="only the packed form is left"):
        model.load_state_dict(state)
    weight = model.encoder.layers[0].attention.query.weight
    for change in (lambda: weight.add_(1), lambda: nn.init.normal_(weight), lambda: weight.__setitem__(0, 1.0),
                   lambda: torch._foreach_add_([weight], [torch.ones(weight.shape)])):  # fmt: skip
        with (
            pytest.raises(RuntimeError, match=r"free_original=True\): call squeezebert_kernels.restore"),
            torch.no_grad(),
        ):
            change()
    assert torch.equal(weight, model.state_dict()["encoder.layers.0.attention.query.weight"])
    model = one_copy()
    assert torch.equal(output(model), expected)


def test_training_needs_restore():
    with pytest.raises(ValueError, match=r"for inference: call model.eval\(\) first"):
        sbk.optimize(squeezebert().train(), free_original=True)
    model = one_copy("ours").train().requires_grad_(True)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model(**batch())[0].sum().backward()
    with pytest.raises(RuntimeError, match="restore"):
        optimizer.step()


def test_new_values_in_one_weight():
    model, other = one_copy(), one_copy()
    sbk.restore(other)
    new = torch.randn(32, 16, 1)
    for m in (model, other):
        m.encoder.layers[0].attention.query.weight = nn.Parameter(new)
    assert_same(output(model), output(other))
    assert all_fused(model)


def test_shared_weights_stay():
    model = squeezebert()
    model.encoder.layers[1].attention.key.weight = model.encoder.layers[0].attention.key.weight
    before = output(model)
    sbk.optimize(model, free_original=True)
    assert not kept_weights(model)
    assert_same(output(model), before)
    masked = squeezebert("SqueezeBertForMaskedLM")
    sbk.optimize(masked, free_original=True, quantization="int8")
    assert type(masked.get_input_embeddings().weight) is nn.Parameter  # the decoder's too
    assert kept_weights(masked.transformer.encoder)


def test_another_dtype_needs_restore():
    model = one_copy(dtype="int8")
    expected = output(model)
    for options in ({}, {"dtype": torch.bfloat16}):
        with pytest.raises(ValueError, match=r"packed for int8 is left.*call restore\(model\)"):
            sbk.optimize(model, **options)
    assert torch.equal(output(sbk.optimize(model, quantization="int8")), expected)


def test_nothing_is_freed_where_optimize_fails():
    model = squeezebert()
    model.encoder.layers[1].attention.query.register_forward_hook(lambda *_: None)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError, match="strict"):
        sbk.optimize(model, free_original=True, strict=True)
    assert not kept_weights(model)
    sbk.optimize(model, free_original=True)  # the layer that falls back keeps its weights
    assert {name.split(".")[2] for name, _, _ in stand_ins.frozen_weights(model)} == {"0"}
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_failure_halfway_frees_nothing(monkeypatch):
    model, calls = squeezebert(), []
    real = stand_ins.PackedWeight.__init__

    def fail_at_last(self, *args):
        calls.append(1)
        if len(calls) == 8:
            raise MemoryError
        real(self, *args)

    monkeypatch.setattr(stand_ins.PackedWeight, "__init__", fail_at_last)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(MemoryError):
        sbk.optimize(model, free_original=True)
    monkeypatch.undo()
    assert not kept_weights(model)
    assert not sbk.report(model).fused
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("dtype", OPTIONS)
def test_compile_and_export(dtype):
    model = one_copy(dtype=dtype)
    expected, inputs = output(model), batch()
    with torch.no_grad():
        exported = torch.export.export(model, (), inputs, strict=False)
        assert_same(exported.module()(**inputs)[0], expected)
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        assert_same(compiled(**inputs)[0], expected)


@pytest.mark.parametrize("shape", [(7,), (2, 3), ()])
def test_embedding_of_int8_rows(shape):
    torch.manual_seed(0)
    embedding = nn.Embedding(9, 5, padding_idx=2)
    with torch.no_grad():
        embedding.weight[3] = 0
        embedding.weight[4] = 1e-42
    exact, ids = embedding.weight.detach().clone(), torch.randint(0, 9, shape)
    stand_ins.freeze_rows(embedding)
    assert torch.equal(embedding(ids), embedding.weight.dense()[ids])
    step = exact.abs().amax(1, keepdim=True) / 127
    assert ((embedding.weight.dense() - exact).abs() <= 0.501 * step + 1e-38).all()
    again = nn.Embedding.from_pretrained(embedding.weight.dense())
    stand_ins.freeze_rows(again)
    assert torch.equal(again.weight.quantized, embedding.weight.quantized)
    assert torch.equal(again.weight.scale, embedding.weight.scale)


@pytest.mark.parametrize("dtype", OPTIONS)
def test_unpack_is_the_inverse_of_pack(dtype):
    torch.manual_seed(0)
    made = [torch.randn(24, 5, 1), torch.randn(24, 10, 1, dtype=torch.float16), torch.randn(24, 10)]
    groups = [4, 2, 2]
    packed = ops.pack(made, groups, num_heads=6, dtype=dtype)
    shapes = [w.shape for w in made]
    for i, weight in enumerate(made):
        values, scale = ops.unpack(packed, shapes, groups, i, num_heads=6, dtype=dtype)
        values = values * scale[:, None] if dtype == "int8" else values
        exact = weight.reshape(24, -1).float()
        step = {"float32": 0, "bfloat16": exact.abs() * 2**-8, "int8": exact.abs().amax(1, keepdim=True) / 127 * 0.501}
        assert ((values - exact).abs() <= step[dtype]).all()
    for arguments, message in (
        ((packed[:100].clone(), shapes, groups, 0), "result of ops.pack|truncated|made for"),
        ((packed, shapes[1:], groups[1:], 0), "made for a weight"),
        ((packed, shapes, groups, 3), "section=3 is none of the 3 sections"),
        ((packed, shapes, groups, -1), "section=-1 is none of the 3 sections"),
    ):
        with pytest.raises(ValueError, match=message):
            ops.unpack(*arguments, num_heads=6, dtype=dtype)
    with pytest.raises(ValueError, match="was not made for dtype="):
        ops.unpack(packed, shapes, groups, 0, num_heads=6, dtype="int8" if dtype == "float32" else "float32")


@pytest.mark.parametrize("bad", [-1, 9])
def test_embeddings_check_indices(bad):
    embedding = nn.Embedding(9, 5)
    stand_ins.freeze_rows(embedding)
    with pytest.raises(IndexError):
        embedding(torch.tensor([1, bad]))
    with pytest.raises(RuntimeError, match="Long"):
        embedding(torch.tensor([1], dtype=torch.uint8))


@pytest.mark.parametrize("dtype", OPTIONS)
def test_under_inference_mode(dtype):
    model = squeezebert()
    with torch.inference_mode():
        sbk.optimize(model, free_original=True, **OPTIONS[dtype])
        output(model)
    model(**batch())[0].sum().backward()
    with torch.inference_mode():
        sbk.restore(model)
    model(**batch())[0].sum().backward()


def test_a_failure_at_the_end_keeps_the_originals(monkeypatch):
    model = squeezebert()
    before = copy.deepcopy(model.state_dict())
    monkeypatch.setattr(sys.modules["squeezebert_kernels.fusion.optimize"], "mark_int8", lambda model: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        one_copy_of(model)
    assert not kept_weights(model)
    assert not any(module._state_dict_hooks for module in model.modules())
    assert not hasattr(model.config, "quantization_config")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def one_copy_of(model):
    return sbk.optimize(model, free_original=True, quantization="int8")
