"""CUDA graphs of encoders without CUDA: what is captured when, and when a replay counts. The graphs are fakes that run
their layers again, on the reference ops; that real ones give the same is for bench/gpu/run.py to see."""

import contextlib
import copy

import pytest
import torch
from transformers import BertConfig, BertModel, SqueezeBertConfig, SqueezeBertModel

import squeezebert_kernels as sbk
from squeezebert_kernels.layers import cuda_graphs, fused_encoder, padding
from squeezebert_kernels.layers.call_cache import known_calls
from squeezebert_kernels.ops import devices, functions, reference

triton_kernels = pytest.importorskip("squeezebert_kernels.triton_kernels")
SIZES = {
    "vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 32,
}  # fmt: skip


class FakeGraph:
    """As cuda_graphs._Graph, of Python calls."""

    captured = 0
    replayed = 0

    def __init__(self, layers, x, mask, made_for, keep, side, pool):
        FakeGraph.captured += 1
        self.layers, self.made_for, self.kept = layers, made_for, keep
        self.pointers = [t.data_ptr() for t in keep]

    def replay(self, x, mask):
        FakeGraph.replayed += 1
        return [state.clone() for state in self.layers(x, mask)]


class Nothing:
    """Takes the place of streams and events."""

    def __init__(self, *args, **kwargs):
        pass

    def wait(self):
        pass

    record = wait


@pytest.fixture
def cuda(monkeypatch):
    """Every tensor says that it is on a CUDA device; the kernels there are the reference's."""
    FakeGraph.captured = FakeGraph.replayed = 0
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda self: True), raising=False)
    for module in (devices, fused_encoder, functions):
        monkeypatch.setattr(module, "why_no_kernel", lambda x: None)
    monkeypatch.setattr(devices, "describe", lambda index: "a fake")
    monkeypatch.setattr(devices, "why_no_triton", lambda index: None)
    monkeypatch.setattr(cuda_graphs, "_Graph", FakeGraph)
    monkeypatch.setattr(torch.cuda, "Stream", Nothing)
    monkeypatch.setattr(torch.cuda, "Event", Nothing)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: 0)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)

    def layer(tensors, options, offsets):
        return reference.encoder_layer(*tensors, **options._asdict(), offsets=offsets)

    monkeypatch.setattr(triton_kernels, "layer", layer)


def squeezebert():
    torch.manual_seed(0)
    return SqueezeBertModel(SqueezeBertConfig(**SIZES, embedding_size=32)).eval()


def run(model, ids, mask=None, **options):
    with torch.no_grad():
        return model(ids, mask, **options).last_hidden_state


def ids_of(batch=2, length=7):
    return torch.randint(1, 50, (batch, length), generator=torch.Generator().manual_seed(batch * length))


MASK = torch.tensor([[1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1, 1]])


@pytest.mark.parametrize("make", [squeezebert, lambda: BertModel(BertConfig(**SIZES)).eval()])
@pytest.mark.parametrize("mask", [None, MASK])
def test_results_are_those_of_the_model(cuda, make, mask):
    model, ids = make(), ids_of()
    expected = run(model, ids, mask)
    sbk.optimize(model, cuda_graphs=True)
    for _ in range(3):
        torch.testing.assert_close(run(model, ids, mask), expected, rtol=1e-5, atol=1e-5)
    assert FakeGraph.captured == 1
    assert FakeGraph.replayed == 3
    assert "a fake" in str(sbk.report(model))


def test_a_graph_for_each_shape(cuda):
    model = sbk.optimize(squeezebert(), cuda_graphs=True)
    for _ in range(2):
        for length in (3, 5):
            run(model, ids_of(2, length))
    run(model, ids_of(2, 7), MASK)
    assert FakeGraph.captured == 3


def test_every_layer_has_a_graph_of_its_own(cuda):
    model, ids = squeezebert(), ids_of()
    with torch.no_grad():
        expected = model(ids, output_hidden_states=True).hidden_states
        sbk.optimize(model, cuda_graphs=True)
        run(model, ids)
        states = model(ids, output_hidden_states=True).hidden_states
    assert FakeGraph.captured == 2
    for state, other in zip(states, expected):
        torch.testing.assert_close(state, other, rtol=1e-5, atol=1e-5)


def test_a_hook_is_never_left_out(cuda):
    model, ids = sbk.optimize(squeezebert(), cuda_graphs=True), ids_of()
    run(model, ids)
    seen = []
    handle = model.encoder.layers[1].attention.register_forward_hook(lambda *_: seen.append(1))
    run(model, ids)
    assert seen == [1]
    handle.remove()
    run(model, ids)
    assert seen == [1]


def test_other_memory_of_a_weight_is_captured_anew(cuda):
    model, ids = sbk.optimize(squeezebert(), cuda_graphs=True), ids_of()
    before = run(model, ids)
    weight = model.encoder.layers[0].output.conv1d.weight
    weight.data = weight.data * 2
    after = run(model, ids)
    assert FakeGraph.captured == 2
    assert not torch.equal(before, after)
    (graph,) = known_calls(model.encoder).graphs.of.values()  # the old one, and the old weight with it, is gone
    assert weight.data_ptr() in graph.pointers


def test_fallbacks_in_between_capture_nothing(cuda):
    model = sbk.optimize(BertModel(BertConfig(**SIZES, attn_implementation="eager")).eval(), cuda_graphs=True)
    ids, captured = ids_of(), []
    for _ in range(3):
        run(model, ids)
        run(model, ids, output_attentions=True)
        captured.append(FakeGraph.captured)
    # transformers 5 leaves hooks behind when it is first asked, which is a change of the modules.
    assert captured[0] == 1
    assert captured[1] == captured[2] <= 2


def test_what_is_no_graph(cuda):
    model, ids = sbk.optimize(squeezebert(), cuda_graphs=True), ids_of()
    model(ids).last_hidden_state.sum().backward()  # gradients
    with torch.no_grad():
        model.train()(ids)  # dropout
        model.eval()
        torch.compile(model, backend="eager")(ids)
    assert FakeGraph.captured == 0


def test_an_activation_in_python_is_no_graph(cuda):
    torch.manual_seed(0)
    model = SqueezeBertModel(SqueezeBertConfig(**SIZES, embedding_size=32, hidden_act="silu")).eval()
    ids = ids_of()
    expected = run(model, ids)
    sbk.optimize(model, cuda_graphs=True)
    seen = []
    model.encoder.layers[0].intermediate.act.register_forward_hook(lambda *_: seen.append(1))
    for _ in range(2):
        torch.testing.assert_close(run(model, ids), expected, rtol=1e-5, atol=1e-5)
    assert FakeGraph.captured == 0
    assert len(seen) == 2


def test_padding_left_out_is_no_graph(cuda):
    model, ids = squeezebert(), ids_of()
    expected = run(model, ids, MASK)
    sbk.optimize(model, cuda_graphs=True, skip_padding=True)
    torch.testing.assert_close(run(model, ids, MASK)[MASK.bool()], expected[MASK.bool()], rtol=1e-5, atol=1e-5)
    assert FakeGraph.captured == 0
    assert padding.skips_padding(model.encoder)


def test_graphs_are_few_and_freed(cuda, monkeypatch):
    monkeypatch.setattr(cuda_graphs, "MAX_GRAPHS", 2)
    model = sbk.optimize(squeezebert(), cuda_graphs=True)
    for length in (3, 4, 5):
        run(model, ids_of(1, length))
    assert len(known_calls(model.encoder).graphs.of) == 2
    monkeypatch.setattr(cuda_graphs, "MAX_TOKENS", 5)
    run(model, ids_of(1, 6))
    assert FakeGraph.captured == 3
    sbk.restore(model)
    assert known_calls(model.encoder) is None
    assert not cuda_graphs.uses_cuda_graphs(model.encoder)


def test_a_copy_captures_its_own(cuda):
    model = sbk.optimize(squeezebert(), cuda_graphs=True)
    expected = run(model, ids_of())
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    torch.testing.assert_close(run(twin, ids_of()), expected)
    assert FakeGraph.captured == 2


def test_a_layer_that_does_not_fit_is_named(cuda):
    model = sbk.optimize(squeezebert(), cuda_graphs=True)
    norm = model.encoder.layers[1].output.layernorm
    norm.weight = torch.nn.Parameter(torch.ones(31))
    with pytest.raises(ValueError, match="output_norm_weight must have shape"):
        run(model, ids_of())
