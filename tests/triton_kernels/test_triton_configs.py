"""Launch configurations of the Triton kernels: files, choice, tuning; and what needs a GPU says so."""

import json
from itertools import pairwise

import pytest
import torch
from transformers import SqueezeBertConfig, SqueezeBertModel

import squeezebert_kernels as sbk
from squeezebert_kernels import cli
from squeezebert_kernels.commands import tune
from squeezebert_kernels.layers import cuda_graphs
from squeezebert_kernels.ops import devices

configs = pytest.importorskip("squeezebert_kernels.triton_kernels.configs")
CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["sm_80", "sm_86", "sm_90"])
def test_shipped_files(name):
    entries = configs.read(configs.SHIPPED / f"{name}.json")
    assert set(entries) == set(configs.KERNELS)
    for of_kernel in entries.values():
        for dtype in ("half", "float32"):
            sizes = [e["up_to"] for e in of_kernel if e["dtype"] == dtype]
            assert sizes[-1] is None
            assert sizes[:-1] == sorted(set(sizes[:-1]))  # or one of them would never be chosen
        for entry in of_kernel:
            for key, value in entry.items():
                if key.startswith("BLOCK") or key == "CHUNK":
                    assert value >= 16, entry
                    assert value & (value - 1) == 0, entry


@pytest.mark.parametrize(
    ("capability", "name"),
    [((8, 0), "sm_80"), ((8, 6), "sm_86"), ((8, 7), "sm_80"), ((8, 9), "sm_86"), ((9, 0), "sm_90"), ((10, 0), "sm_90"),
     ((12, 0), "sm_86")],
)  # fmt: skip
def test_family(capability, name):
    assert configs.family(capability) == name


def test_choice_is_by_size_and_dtype():
    entries = configs.load(CPU)["qkv"]
    half = [e for e in entries if e["dtype"] == "half"]
    for entry, following in pairwise(half):
        for size, expected in ((entry["up_to"], entry), (entry["up_to"] + 1, following)):
            chosen = configs.choose("qkv", CPU, torch.float16, size)
            assert chosen == {k: v for k, v in expected.items() if k not in ("dtype", "up_to")}
    assert configs.choose("qkv", CPU, torch.float32, 7) != configs.choose("qkv", CPU, torch.bfloat16, 7)


def test_override_ends():
    before = configs.choose("conv", CPU, torch.float32, 5)
    with configs.override(conv={"BLOCK_M": 16}):
        assert configs.choose("conv", CPU, torch.float32, 5) == {"BLOCK_M": 16}
    assert configs.choose("conv", CPU, torch.float32, 5) == before


def _broken(change):
    entries = json.loads((configs.SHIPPED / "sm_90.json").read_text())
    change(entries)
    return json.dumps(entries)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no file of launch configurations"),
        ("[]", "no list of configurations under 'conv'"),
        (_broken(lambda e: e.pop("ffn")), "under 'ffn'"),
        (_broken(lambda e: e["ffn"][0].pop("CHUNK")), "'ffn' lacks CHUNK"),
        (_broken(lambda e: e["flash"].pop(0)), "'flash' has no configuration for half of any size"),
    ],
)
def test_a_bad_file_is_named(tmp_path, text, message):
    path = tmp_path / "gpu.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        configs.read(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="nothing.json"):
        configs.read(tmp_path / "nothing.json")


def test_where_tuned_files_are(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert (
        configs.tuned_path("NVIDIA H100 80GB HBM3") == tmp_path / "squeezebert_kernels" / "nvidia-h100-80gb-hbm3.json"
    )


def test_tune_writes_what_is_read(tmp_path):
    entries = configs.read(configs.SHIPPED / "sm_90.json")
    tune.write(tmp_path / "new" / "gpu.json", entries)
    assert configs.read(tmp_path / "new" / "gpu.json") == entries
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["gpu.json"]


@pytest.mark.parametrize("kernel", configs.KERNELS)
@pytest.mark.parametrize("dtype", ["half", "float32"])
def test_candidates_are_whole_configurations(kernel, dtype):
    for size, up_to in tune.sizes(kernel).items():
        candidates = list(tune.candidates(kernel, dtype, size))
        assert candidates
        assert len({tuple(sorted(c.items())) for c in candidates}) == len(candidates)
        wanted = {"num_warps", "num_stages", *configs._PARAMETERS[kernel]}
        assert all(set(c) == wanted for c in candidates)
        assert up_to is None or up_to >= size


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
class TestWithoutGpu:
    def test_tune(self, capsys):
        assert cli.main(["tune"]) == 1
        assert "needs a GPU" in capsys.readouterr().err

    def test_reason(self):
        assert "CUDA" in devices.why_no_triton(0)

    def test_reason_can_be_compiled(self):
        def function(x):
            return x + (1 if devices.why_no_triton(0) is None else 2)

        assert torch.compile(function, fullgraph=True, backend="eager")(torch.zeros(())).item() == 2

    def test_cuda_graphs(self):
        model = SqueezeBertModel(SqueezeBertConfig(num_hidden_layers=1, vocab_size=9)).eval()
        with pytest.raises(ValueError, match=r"cuda_graphs=True needs a model on a CUDA device.*model.to\('cuda'\)"):
            sbk.optimize(model, cuda_graphs=True)
        assert not cuda_graphs.uses_cuda_graphs(model.encoder)
        assert type(model.encoder).__name__ == "SqueezeBertEncoder"

    def test_float16_on_a_cpu(self):
        model = SqueezeBertModel(SqueezeBertConfig(num_hidden_layers=1, vocab_size=9)).eval()
        with pytest.raises(ValueError, match="dtype=torch.float16 has no kernels; possible: None, torch.float32"):
            sbk.optimize(model, dtype=torch.float16)


def test_reasons_of_tensors():
    assert devices.why_no_kernel(torch.zeros(1)) is None
    assert devices.why_no_kernel(torch.zeros(1, dtype=torch.float64)) == "no kernels for torch.float64"
    assert "NoneType" in devices.why_no_kernel(None)
