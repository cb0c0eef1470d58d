"""Models in training: autocast, compilation, memory, and whole runs beside transformers."""

import copy

import pytest
import torch
import transformers
from support import hf_models
from torch.utils._python_dispatch import TorchDispatchMode

import squeezebert_kernels as sbk
from squeezebert_kernels.ops import training


class Counted(TorchDispatchMode):
    """Counts our ops, and keeps what dtype they were told."""

    def __init__(self):
        super().__init__()
        self.calls, self.dtypes = [], set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "squeezebert_kernels":
            name = func._schema.name.split("::")[1]
            self.calls.append(name)
            self.dtypes.update(a for a in args if a in ("float32", "bfloat16"))
        return func(*args, **(kwargs or {}))


def batch_for(name, **sizes):
    return {**hf_models.inputs_for(name, **sizes), **hf_models.labels_for(name, **sizes)}


def make(name, **fields):
    return hf_models.ours(name, **{**hf_models.TINY, **fields}).train()


MLM = "SqueezeBertForMaskedLM"


@pytest.mark.parametrize("kind", ["ours", "optimized", "optimized bert"])
def test_training_with_dropout_runs_fused(kind):
    if kind == "optimized bert":
        config = transformers.BertConfig(
            vocab_size=99, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64
        )
        model = sbk.optimize(transformers.BertForMaskedLM(config)).train()
    else:
        model = make(MLM) if kind == "ours" else sbk.optimize(hf_models.stock(MLM, **hf_models.TINY)).train()
    assert not sbk.report(model).fallbacks
    with Counted() as counted:
        model(**batch_for(MLM)).loss.backward()
    names = ["attention_block_train", "post_attention_block_train"]
    back = ["post_attention_block_backward", "attention_block_backward"]
    assert counted.calls == names * 3 + back * 3
    assert counted.dtypes == {"float32"}


def test_fifty_steps_are_those_of_transformers():
    fields = {**hf_models.TINY, **hf_models.NO_DROPOUT, "num_hidden_layers": 2}
    stock, ours = hf_models.pair(MLM, **fields)
    sizes = {"batch": 2, "length": 12}
    losses = []
    for model in (stock.train(), ours.train()):
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        losses.append([])
        for step in range(50):
            inputs = hf_models.inputs_for(MLM, seed=step, **sizes)
            loss = model(**inputs, **hf_models.labels_for(MLM, **sizes)).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses[-1].append(loss.item())
    assert losses[0][-1] < losses[0][0] - 0.5, "nothing was learned"
    assert max(abs(a - b) for a, b in zip(*losses)) <= 1e-4


@pytest.fixture
def multiplied(monkeypatch):
    """The dtypes that blocks multiply in. (A dispatch mode would see them too, but is a tracer to the blocks.)"""
    dtypes, prepare = set(), training._prepare

    def spy(*args):
        result = prepare(*args)
        dtypes.add(result[1])
        return result

    monkeypatch.setattr(training, "_prepare", spy)
    return dtypes


def test_autocast(multiplied):
    stock, ours = hf_models.pair(MLM, **{**hf_models.TINY, **hf_models.NO_DROPOUT})
    inputs = batch_for(MLM)
    stock.train()(**inputs).loss.backward()
    with torch.autocast("cpu", torch.bfloat16):
        out = ours.train()(**inputs, output_hidden_states=True)
    out.loss.backward()
    assert multiplied == {"bfloat16"}
    assert out.hidden_states[-1].dtype == torch.float32  # as behind torch's own LayerNorm
    for (name, want), found in zip(stock.named_parameters(), ours.parameters()):
        if want.grad is not None and "key.bias" not in name:
            assert found.grad.dtype == torch.float32
            assert hf_models.relative(found.grad, want.grad) < 0.05, name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models(dtype, multiplied):
    model = make(MLM, **hf_models.NO_DROPOUT)
    inputs = batch_for(MLM)
    half = copy.deepcopy(model).to(dtype)
    model(**inputs).loss.backward()
    multiplied.clear()
    half(**inputs).loss.backward()
    assert multiplied == {"bfloat16" if dtype == torch.bfloat16 else "float32"}
    for (name, want), found in zip(model.named_parameters(), half.parameters()):
        if want.grad is not None and "key.bias" not in name:
            assert found.grad.dtype == dtype
            assert hf_models.relative(found.grad.float(), want.grad) < 0.1, name


def test_accumulated_gradients_are_those_of_the_whole_batch():
    model = make("SqueezeBertModel", **hf_models.NO_DROPOUT)
    inputs = hf_models.inputs_for("SqueezeBertModel", batch=6, ragged=False)

    def loss(rows):
        return model(**{name: t[rows] for name, t in inputs.items()}).last_hidden_state.pow(2).sum()

    loss(slice(0, 6)).backward()
    whole = [p.grad for p in model.encoder.parameters()]
    model.zero_grad()
    for first in (0, 2, 4):
        loss(slice(first, first + 2)).backward()
    for want, parameter in zip(whole, model.encoder.parameters()):
        scale = max(float(want.abs().max()), 1.0)
        torch.testing.assert_close(parameter.grad, want, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("deterministic", [False, True])
def test_the_same_bits_on_any_number_of_threads(deterministic):
    model = make(MLM)
    inputs = batch_for(MLM)
    before, threads = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    grads = []
    try:
        torch.use_deterministic_algorithms(deterministic)
        for count in (1, 3):
            torch.set_num_threads(count)
            torch.manual_seed(0)
            states = model.transformer.encoder(torch.randn(3, 17, 32, requires_grad=True)).last_hidden_state
            grads.append(torch.autograd.grad(states.sum(), list(model.transformer.encoder.parameters())))
        torch.manual_seed(0)
        model(**inputs).loss.backward()
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(before)
    assert all(map(torch.equal, *grads))


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_compiled_step_is_the_step(dropout):
    eager = make(MLM, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
    model = copy.deepcopy(eager)
    inputs = batch_for(MLM)
    compiled = torch.compile(lambda inputs: model(**inputs).loss, backend="aot_eager", fullgraph=True)
    for run, owner in ((lambda inputs: eager(**inputs).loss, eager), (compiled, model)):
        torch.manual_seed(3)
        run(inputs).backward()
        assert owner.transformer.encoder.layers[0].attention.query.weight.grad is not None
    for (name, want), found in zip(eager.named_parameters(), model.parameters()):
        if want.grad is not None:
            assert hf_models.relative(found.grad, want.grad) <= 1e-4 or hf_models.worst(found.grad, want.grad) < 1e-7, (
                name
            )


def saved_bytes(model, inputs):
    """Bytes that autograd keeps for the gradients of a forward pass, parameters not counted."""
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(**inputs).loss
    del loss
    return sum(kept.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_less_is_kept_for_gradients_than_by_transformers(dtype):
    fields = {**hf_models.TINY, "hidden_size": 64, "embedding_size": 64, "intermediate_size": 256}
    stock, ours = (model.to(dtype).train() for model in hf_models.pair(MLM, **fields))
    inputs = batch_for(MLM, batch=2, length=64)
    assert saved_bytes(ours, inputs) < 0.75 * saved_bytes(stock, inputs)


def test_results_may_be_changed_in_place():
    model = make("SqueezeBertModel", **hf_models.NO_DROPOUT)
    states = model(**hf_models.inputs_for("SqueezeBertModel")).last_hidden_state
    states.mul_(2)
    states[:, 0] = 0
    states.sum().backward()
    assert model.encoder.layers[0].attention.query.weight.grad.any()
