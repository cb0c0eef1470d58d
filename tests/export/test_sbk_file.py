"""``squeezebert-kernels export``: what goes into a .sbk file, and what is refused."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import transformers
from support.hf_models import stock

import squeezebert_kernels as sbk
from squeezebert_kernels.cli import main
from squeezebert_kernels.export import c_library
from squeezebert_kernels.export.sbk_file import export

FIELDS = {
    "vocab_size": 99, "hidden_size": 32, "embedding_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 64, "max_position_embeddings": 40, "q_groups": 2, "k_groups": 2, "v_groups": 2,
    "post_attention_groups": 2, "intermediate_groups": 4, "output_groups": 1,
}  # fmt: skip
HEADS = [
    "SqueezeBertModel", "SqueezeBertForMaskedLM", "SqueezeBertForSequenceClassification",
    "SqueezeBertForMultipleChoice", "SqueezeBertForTokenClassification", "SqueezeBertForQuestionAnswering",
]  # fmt: skip


def weights(path):
    """Everything behind the configuration, from the first packed weight on."""
    data = path.read_bytes()
    return data[data.index(b"SBKP") :]


def opens(path):
    with c_library.loaded(path, tier="scalar", verify=True) as model:
        return bool(model)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
def test_every_head_and_dtype(name, dtype, tmp_path):
    file = tmp_path / "model.sbk"
    notes = export(stock(name, **FIELDS), file, dtype=dtype)
    assert notes == ["no tokenizer was given: the file takes token ids only"]
    assert file.read_bytes()[:8] == b"SBKMODEL"
    assert opens(file)


def test_a_folder_from_the_command_line(tmp_path, bert_vocab, capsys):
    model = stock("SqueezeBertForSequenceClassification", **{**FIELDS, "vocab_size": 30522})
    model.save_pretrained(tmp_path / "model")
    sbk.SqueezeBertTokenizer(str(bert_vocab)).save_pretrained(tmp_path / "model")
    for dtype in ("fp32", "fp16", "int8"):
        assert main(["export", str(tmp_path / "model"), str(tmp_path / f"{dtype}.sbk"), "--dtype", dtype]) == 0
        assert "packed for neondot, checksums verified" in capsys.readouterr().out
        assert opens(tmp_path / f"{dtype}.sbk")
    sizes = [(tmp_path / f"{dtype}.sbk").stat().st_size for dtype in ("fp32", "fp16", "int8")]
    assert sizes == sorted(sizes, reverse=True)


def test_half_precision_and_bin_checkpoints(tmp_path):
    """The published form: float16 in pytorch_model.bin."""
    model = stock("SqueezeBertModel", **FIELDS).half()
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    export(tmp_path, tmp_path / "from_bin.sbk")
    export(model.float(), tmp_path / "from_model.sbk")
    assert weights(tmp_path / "from_bin.sbk") == weights(tmp_path / "from_model.sbk")


def test_int8_checkpoints_keep_their_integers(tmp_path):
    """Weights that were int8 already come out as from the model they were made of."""
    model = stock("SqueezeBertForSequenceClassification", **FIELDS)
    export(model, tmp_path / "from_float.sbk", dtype="int8")
    sbk.optimize(model, quantization="int8", free_original=True)
    model.save_pretrained(tmp_path / "int8")
    export(tmp_path / "int8", tmp_path / "from_int8.sbk", dtype="int8")
    assert weights(tmp_path / "from_float.sbk") == weights(tmp_path / "from_int8.sbk")


def test_bert(tmp_path):
    torch.manual_seed(0)
    sizes = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    fields = {name: FIELDS[name] for name in sizes}
    model = transformers.BertForTokenClassification(transformers.BertConfig(**fields, num_labels=5)).eval()
    model.save_pretrained(tmp_path / "bert")
    export(tmp_path / "bert", tmp_path / "bert.sbk", dtype="float16")
    assert opens(tmp_path / "bert.sbk")


def test_what_is_refused(tmp_path, capsys):
    model = stock("SqueezeBertModel", **FIELDS)
    with pytest.raises(ValueError, match="dtype must be one of float32, bfloat16, int8, float16, got 'int4'"):
        export(model, tmp_path / "x.sbk", dtype="int4")
    with pytest.raises(ValueError, match="options->isa='sse2' is none of scalar, avx2"):
        export(model, tmp_path / "x.sbk", tier="sse2")
    gpt = transformers.GPT2Model(transformers.GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=9))
    with pytest.raises(ValueError, match="'gpt2' model"):
        export(gpt, tmp_path / "x.sbk")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        export(model, tmp_path / "no such folder" / "x.sbk")
    assert not list(tmp_path.iterdir())
    assert main(["export", str(tmp_path / "nothing"), "out.sbk"]) == 1
    assert "is not a folder with a checkpoint" in capsys.readouterr().err


def test_a_file_that_exists_stays_whole_if_writing_fails(tmp_path):
    """As on a full disk: the process may write no more than the first page of a file."""
    model = stock("SqueezeBertModel", **FIELDS)
    model.save_pretrained(tmp_path / "model")
    file = tmp_path / "model.sbk"
    export(model, file)
    before = file.read_bytes()
    code = """
import resource, signal, sys
from squeezebert_kernels.export import c_library
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with c_library.loaded(sys.argv[1], "float16", "neondot") as model:
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    try:
        c_library.save(model, sys.argv[2])
    except ValueError as error:
        sys.exit(str(error))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "model"), str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "cannot write" in done.stderr
    assert file.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "model.sbk"]


def test_help_needs_no_library():
    done = subprocess.run(
        [sys.executable, "-m", "squeezebert_kernels", "export", "--help"], capture_output=True, text=True, check=True
    )
    assert "--tier" in done.stdout
