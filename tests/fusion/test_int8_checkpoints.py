"""save_pretrained and from_pretrained of models with int8 weights only."""

import copy
import json
import sys

import pytest
import torch
import transformers
from safetensors.torch import load_file
from support.hf_models import NO_DROPOUT, PUBLISHED, TINY, inputs_for
from support.optimized_models import all_fused, assert_same, batch, bert, kept_weights, run, squeezebert

import squeezebert_kernels as sbk
from squeezebert_kernels.models.configuration import SqueezeBertConfig
from squeezebert_kernels.models.heads import ARCHITECTURES


def ours(name="SqueezeBertModel", **fields):
    torch.manual_seed(2)
    return ARCHITECTURES[name](SqueezeBertConfig(**{**TINY, **NO_DROPOUT, **fields})).eval()


def only_int8(model):
    return sbk.optimize(model, quantization="int8", free_original=True)


def same(a, b, inputs):
    with torch.no_grad():
        return all(torch.equal(x, y) for x, y in zip(a(**inputs).to_tuple(), b(**inputs).to_tuple()))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_round_trip_of_every_head(name, tmp_path):
    model, inputs = only_int8(ours(name)), inputs_for(name)
    model.save_pretrained(tmp_path)
    loaded = ARCHITECTURES[name].from_pretrained(tmp_path)
    assert not loaded.training
    assert all_fused(loaded)
    assert {entry.dtype for entry in sbk.report(loaded).entries} == {"int8"}
    with torch.no_grad():  # torch's own linear layers of a head depend on the alignment of their weights
        assert_same(loaded(**inputs)[0], model(**inputs)[0], 1e-6)
    if name != "SqueezeBertModel":
        flat = {key: value.flatten(0, -2) for key, value in inputs.items()}
        assert same(loaded.transformer, model.transformer, flat)
    assert [type(w) for w in kept_weights(loaded)] == [type(w) for w in kept_weights(model)]
    loaded.save_pretrained(tmp_path / "again")
    first, second = (load_file(folder / "model.safetensors") for folder in (tmp_path, tmp_path / "again"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_size_on_disk(tmp_path):
    model = sbk.SqueezeBertModel(SqueezeBertConfig(**PUBLISHED)).eval()
    model.save_pretrained(tmp_path / "float32")
    only_int8(model).save_pretrained(tmp_path / "int8")
    megabytes = [(tmp_path / folder / "model.safetensors").stat().st_size / 1e6 for folder in ("float32", "int8")]
    assert 204 < megabytes[0] < 205
    assert 51 < megabytes[1] < 54


@pytest.mark.parametrize("stock", [lambda: squeezebert(), lambda: bert()], ids=["squeezebert", "bert"])
def test_transformers_own_classes(stock, tmp_path):
    model = only_int8(stock())
    model.save_pretrained(tmp_path)
    for loaded in (type(model).from_pretrained(tmp_path), transformers.AutoModel.from_pretrained(tmp_path)):
        assert all_fused(loaded)
        assert same(loaded, model, batch())


def test_accelerate_is_not_needed(tmp_path, monkeypatch):
    """transformers 4.57 imports it for its own quantizers."""
    monkeypatch.setitem(sys.modules, "accelerate", None)
    model = only_int8(ours())
    model.save_pretrained(tmp_path)
    assert same(sbk.SqueezeBertModel.from_pretrained(tmp_path), model, batch())


def test_between_heads_and_base(tmp_path):
    head = only_int8(ours("SqueezeBertForSequenceClassification"))
    head.save_pretrained(tmp_path / "head")
    base = sbk.SqueezeBertModel.from_pretrained(tmp_path / "head")
    assert same(base, head.transformer, batch())
    base.save_pretrained(tmp_path / "base")
    other = sbk.SqueezeBertForTokenClassification.from_pretrained(tmp_path / "base")
    assert all_fused(other)
    assert same(other.transformer, base, batch())
    head.transformer.save_pretrained(tmp_path / "inner")
    assert same(sbk.SqueezeBertModel.from_pretrained(tmp_path / "inner"), base, batch())


def test_layers_that_were_not_int8_stay(tmp_path):
    model = ours()
    model.encoder.layers[1].attention.query.register_forward_hook(lambda *_: None)
    only_int8(model).save_pretrained(tmp_path)
    exact = model.state_dict()["encoder.layers.1.output.conv1d.weight"]
    state = load_file(tmp_path / "model.safetensors")
    assert state["encoder.layers.0.output.conv1d.weight"].dtype == torch.int8
    assert torch.equal(state["encoder.layers.1.output.conv1d.weight"], exact)
    loaded = sbk.SqueezeBertModel.from_pretrained(tmp_path)
    assert torch.equal(loaded.encoder.layers[1].output.conv1d.weight, exact)


def test_restored_models_save_what_they_saved_before(tmp_path):
    model = ours()
    model.save_pretrained(tmp_path / "before")
    only_int8(model).save_pretrained(tmp_path / "int8")
    sbk.restore(model).save_pretrained(tmp_path / "after")
    for folder in ("before", "after"):
        config = json.loads((tmp_path / folder / "config.json").read_text())
        assert "quantization_config" not in config
    before, after = (load_file(tmp_path / folder / "model.safetensors") for folder in ("before", "after"))
    assert {k: v.dtype for k, v in before.items()} == {k: v.dtype for k, v in after.items()}
    loaded = sbk.SqueezeBertModel.from_pretrained(tmp_path / "after")
    assert_same(run(loaded, batch()), run(model, batch()))


def test_with_the_originals_kept_the_originals_are_saved(tmp_path):
    model = ours()
    before = copy.deepcopy(model.state_dict())
    sbk.optimize(model, quantization="int8").save_pretrained(tmp_path)
    assert all(torch.equal(value, before[key]) for key, value in load_file(tmp_path / "model.safetensors").items())


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_one_copy_of_other_dtypes_saves_floats(dtype, tmp_path):
    model = sbk.optimize(ours(), dtype=dtype, free_original=True)
    model.save_pretrained(tmp_path)
    assert {value.dtype for value in load_file(tmp_path / "model.safetensors").values()} == {torch.float32}
    loaded = sbk.optimize(sbk.SqueezeBertModel.from_pretrained(tmp_path), dtype=dtype)
    assert same(loaded, model, batch())


def test_replaced_weights_are_not_saved_as_int8(tmp_path):
    model = only_int8(ours())
    model.to(torch.bfloat16)
    with pytest.raises(RuntimeError, match=r"replaced since optimize.*call squeezebert_kernels.restore\(model\)"):
        model.save_pretrained(tmp_path)
    sbk.restore(model).save_pretrained(tmp_path)
    assert run(sbk.SqueezeBertModel.from_pretrained(tmp_path), batch()).isfinite().all()


def test_transformers_dequantize(tmp_path):
    only_int8(ours()).save_pretrained(tmp_path)
    model = sbk.SqueezeBertModel.from_pretrained(tmp_path)
    before = run(model, batch())
    model.dequantize()
    assert not kept_weights(model)
    assert not hasattr(model.config, "quantization_config")
    assert_same(run(model, batch()), before, 0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modules": "all"}, "modules must be a list of names, got 'all'"),
        ({"bits": 4}, "bits must be 8, got 4"),
        ({"modules": ["encoder.layers.9.output.conv1d"]}, "does not have: .'encoder.layers.9.output.conv1d'"),
        ({"modules": ["encoder.layers.0"]}, "does not have: .'encoder.layers.0'"),
    ],
)
def test_bad_configurations(change, message, tmp_path):
    only_int8(ours()).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"].update(change)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        sbk.SqueezeBertModel.from_pretrained(tmp_path)


def test_a_scale_that_is_missing(tmp_path):
    from safetensors.torch import save_file

    only_int8(ours()).save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state["encoder.layers.1.output.conv1d.weight_scale"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks encoder.layers.1.output.conv1d.weight_scale"):
        sbk.SqueezeBertModel.from_pretrained(tmp_path)
    with pytest.raises((ValueError, RuntimeError)):  # transformers 4 starts missing weights at random, int8 or not
        transformers.AutoModel.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes()[:-1000])
    with pytest.raises(ValueError, match="no whole safetensors file"):
        sbk.SqueezeBertModel.from_pretrained(tmp_path)


def test_the_configuration_of_other_models_stays():
    config = SqueezeBertConfig(**TINY)
    one, other = sbk.SqueezeBertModel(config).eval(), sbk.SqueezeBertModel(config).eval()
    only_int8(one)
    assert hasattr(one.config, "quantization_config")
    assert all(layer.attention.config is one.config for layer in one.encoder.layers)
    assert not hasattr(config, "quantization_config")
    assert other.config is config
    sbk.restore(one)
    assert not hasattr(one.config, "quantization_config")


def test_layers_that_become_int8_later(tmp_path):
    model = ours("SqueezeBertForTokenClassification")
    hook = model.transformer.encoder.layers[1].attention.query.register_forward_hook(lambda *_: None)
    only_int8(model)
    hook.remove()
    only_int8(model).save_pretrained(tmp_path)
    loaded = sbk.SqueezeBertForTokenClassification.from_pretrained(tmp_path)
    assert same(loaded.transformer, model.transformer, batch())
    assert len(kept_weights(loaded)) == len(kept_weights(model))


def rewrite(folder, change):
    from safetensors.torch import save_file

    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("dtype", [torch.float32, torch.int32, torch.uint8])
def test_something_else_than_int8(dtype, tmp_path):
    only_int8(ours()).save_pretrained(tmp_path)
    name = "encoder.layers.1.output.conv1d.weight"
    rewrite(tmp_path, lambda state: state.update({name: state[name].to(dtype)}))
    for cls in (sbk.SqueezeBertModel, transformers.AutoModel):
        with pytest.raises(ValueError, match="int8|I8"):
            cls.from_pretrained(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_bad_scales(value, tmp_path):
    only_int8(ours()).save_pretrained(tmp_path)
    rewrite(tmp_path, lambda state: state["encoder.layers.0.output.conv1d.weight_scale"].__setitem__(3, value))
    with pytest.raises(ValueError, match="weight_scale of a TokenMajorConv1d is missing, negative or not finite"):
        sbk.SqueezeBertModel.from_pretrained(tmp_path)


def test_int8_weights_without_a_configuration_for_them(tmp_path):
    only_int8(ours()).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["quantization_config"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="holds int8 weights, but its config.json has no quantization_config|int8"):
        sbk.SqueezeBertModel.from_pretrained(tmp_path)


def test_half_precision_is_not_for_int8_models(tmp_path):
    model = only_int8(ours())
    model.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="loaded in float32, not in torch.bfloat16"):
        loaded = sbk.SqueezeBertModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert same(loaded, model, batch())


def test_a_base_in_a_head_that_is_not_int8(tmp_path):
    model = ours("SqueezeBertForSequenceClassification")
    only_int8(model.transformer)
    model.save_pretrained(tmp_path)  # the head was not asked for: it saves what its state dict holds
    loaded = sbk.SqueezeBertForSequenceClassification.from_pretrained(tmp_path)
    assert not kept_weights(loaded)
    assert_same(run(loaded, batch()), run(model, batch()), 0.1)
