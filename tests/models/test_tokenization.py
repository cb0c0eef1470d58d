"""SqueezeBertTokenizer: BERT's ids in every script, transformers' documented helpers, files that others read."""

import copy
import json
import pickle
import warnings

import pytest
import transformers
from support.texts import TEXTS
from tokenizers import AddedToken, Tokenizer
from tokenizers.implementations import BertWordPieceTokenizer
from tokenizers.models import BPE

from squeezebert_kernels.models.tokenization import SqueezeBertTokenizer, SqueezeBertTokenizerFast


@pytest.fixture(scope="module")
def tokenizer(bert_vocab):
    return SqueezeBertTokenizer(vocab_file=bert_vocab)


def test_ids_are_those_of_the_tokenizers_library(tokenizer, bert_vocab):
    plain = BertWordPieceTokenizer(str(bert_vocab))
    for text in TEXTS:
        want = plain.encode(text)
        got = tokenizer(text, return_offsets_mapping=True)
        assert got["input_ids"] == want.ids, text
        assert got["offset_mapping"] == want.offsets, text
        assert got["token_type_ids"] == want.type_ids
        assert tokenizer.tokenize(text, add_special_tokens=True) == want.tokens
    for first, second in zip(TEXTS, reversed(TEXTS)):
        want = plain.encode(first, second)
        got = tokenizer([first], [second])
        assert (got["input_ids"], got["token_type_ids"]) == ([want.ids], [want.type_ids])


@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("accents", [None, True, False])
@pytest.mark.parametrize("chinese", [True, False])
def test_normalisation_options(bert_vocab, lower, accents, chinese):
    mine = SqueezeBertTokenizer(bert_vocab, do_lower_case=lower, strip_accents=accents, tokenize_chinese_chars=chinese)
    plain = BertWordPieceTokenizer(
        str(bert_vocab), lowercase=lower, strip_accents=accents, handle_chinese_chars=chinese
    )
    for text in TEXTS:
        assert mine(text)["input_ids"] == plain.encode(text).ids, text
    assert (mine.do_lower_case, mine.strip_accents, mine.tokenize_chinese_chars) == (lower, accents, chinese)


def test_vocabulary_may_be_given_in_every_form(tokenizer, bert_vocab, tmp_path):
    words = {line: number for number, line in enumerate(bert_vocab.read_text(encoding="utf-8").split("\n")[:-1])}
    tokenizer.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    made = [
        SqueezeBertTokenizer(str(bert_vocab)),
        SqueezeBertTokenizerFast(vocab_file=str(bert_vocab)),
        SqueezeBertTokenizer(vocab=words),
        SqueezeBertTokenizer(vocab=str(bert_vocab)),
        SqueezeBertTokenizer(tokenizer_file=tmp_path / "tokenizer.json"),
        SqueezeBertTokenizer(tokenizer_object=tokenizer.backend_tokenizer),
    ]
    for other in made:
        assert len(other) == other.vocab_size == 30522
        assert other.is_fast
        assert [other(text)["input_ids"] for text in TEXTS] == [tokenizer(text)["input_ids"] for text in TEXTS]


def test_helpers_build_and_mark_special_tokens(tokenizer):
    first, second = [7592, 2088], [2129, 2024, 2017]
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    assert (cls, sep, tokenizer.pad_token_id, tokenizer.mask_token_id, tokenizer.unk_token_id) == (
        101,
        102,
        0,
        103,
        100,
    )
    assert tokenizer.build_inputs_with_special_tokens(first) == [cls, *first, sep]
    joined = tokenizer.build_inputs_with_special_tokens(first, second)
    assert joined == [cls, *first, sep, *second, sep]
    assert tokenizer.create_token_type_ids_from_sequences(first) == [0] * 4
    assert tokenizer.create_token_type_ids_from_sequences(first, second) == [0] * 4 + [1] * 4
    assert tokenizer.get_special_tokens_mask(first) == [1, 0, 0, 1]
    assert tokenizer.get_special_tokens_mask(first, second) == [1, 0, 0, 1, 0, 0, 0, 1]
    assert tokenizer.get_special_tokens_mask(joined, already_has_special_tokens=True) == [1, 0, 0, 1, 0, 0, 0, 1]
    with pytest.raises(ValueError, match="token_ids_1"):
        tokenizer.get_special_tokens_mask(first, second, already_has_special_tokens=True)
    assert tokenizer("hello world", "how are you")["input_ids"] == joined
    assert first == [7592, 2088]  # arguments are left alone
    assert tokenizer.num_special_tokens_to_add() == 2
    assert tokenizer.num_special_tokens_to_add(pair=True) == 3


def test_helpers_agree_with_transformers_4_python_tokenizer(tokenizer, bert_vocab):
    theirs = transformers.BertTokenizer.from_pretrained(str(bert_vocab.parent))
    if not hasattr(theirs, "build_inputs_with_special_tokens"):  # transformers 5 has lost them
        assert int(transformers.__version__.split(".")[0]) >= 5
        return
    for pair in ((None, None), ([5, 6], None), ([5, 6], [7]), ([], [])):
        first, second = pair[0] or [], pair[1]
        for name in (
            "build_inputs_with_special_tokens",
            "create_token_type_ids_from_sequences",
            "get_special_tokens_mask",
        ):
            assert getattr(tokenizer, name)(first, second) == getattr(theirs, name)(first, second), name


def test_save_vocabulary_writes_vocab_txt(tokenizer, bert_vocab, tmp_path):
    assert tokenizer.save_vocabulary(str(tmp_path)) == (str(tmp_path / "vocab.txt"),)
    assert (tmp_path / "vocab.txt").read_bytes() == bert_vocab.read_bytes()
    (path,) = tokenizer.save_vocabulary(str(tmp_path / "new" / "folder"), filename_prefix="uncased")
    assert path == str(tmp_path / "new" / "folder" / "uncased-vocab.txt")
    with pytest.raises(ValueError, match="save_directory"):
        tokenizer.save_vocabulary(str(bert_vocab))


def test_a_hole_in_the_vocabulary_keeps_its_line(tmp_path):
    sparse = SqueezeBertTokenizer(vocab={"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "[PAD]": 3, "[MASK]": 4, "late": 7})
    with pytest.warns(UserWarning, match="2 ids"):
        sparse.save_vocabulary(str(tmp_path))
    assert SqueezeBertTokenizer(tmp_path / "vocab.txt")("late")["input_ids"] == [1, 7, 2]


@pytest.mark.parametrize("cls", [SqueezeBertTokenizer, SqueezeBertTokenizerFast])
@pytest.mark.parametrize("only", [None, "vocab.txt", "tokenizer.json"])
def test_saved_folder_is_read_by_us_and_by_transformers(bert_vocab, tmp_path, cls, only):
    saved = cls(bert_vocab, do_lower_case=False, model_max_length=77)
    written = {path.rsplit("/", 1)[1] for path in saved.save_pretrained(str(tmp_path))}
    assert {"vocab.txt", "tokenizer.json", "tokenizer_config.json"} <= written
    if only:
        (tmp_path / ({"vocab.txt", "tokenizer.json"} - {only}).pop()).unlink()
    want = [saved(text)["input_ids"] for text in TEXTS]
    readers = [cls, transformers.AutoTokenizer]
    if only is None:
        readers += [transformers.BertTokenizerFast, transformers.SqueezeBertTokenizerFast]
    for reader in readers:
        read = reader.from_pretrained(str(tmp_path))
        assert [read(text)["input_ids"] for text in TEXTS] == want, reader
        assert read.model_max_length == 77
        assert read.padding_side == "right"
    assert type(cls.from_pretrained(str(tmp_path))) is cls
    lowered = cls.from_pretrained(str(tmp_path), do_lower_case=True)
    assert lowered.tokenize("HELLO") == ["hello"]


def test_reads_what_transformers_wrote(tokenizer, bert_vocab, tmp_path):
    for reader in (transformers.BertTokenizer, transformers.BertTokenizerFast, transformers.SqueezeBertTokenizer):
        folder = tmp_path / reader.__name__
        reader.from_pretrained(str(bert_vocab.parent)).save_pretrained(str(folder))
        read = SqueezeBertTokenizer.from_pretrained(str(folder))
        for text in TEXTS:
            assert read(text)["input_ids"] == tokenizer(text)["input_ids"]


def test_a_tokenizer_json_that_does_not_lower_is_believed(bert_vocab, tmp_path):
    cased = BertWordPieceTokenizer(str(bert_vocab), lowercase=False)
    cased.save(str(tmp_path / "tokenizer.json"))
    read = SqueezeBertTokenizer(tokenizer_file=tmp_path / "tokenizer.json")
    assert read.do_lower_case is False
    assert read.tokenize("HELLO") == ["[UNK]"]
    assert SqueezeBertTokenizer(tokenizer_file=tmp_path / "tokenizer.json", do_lower_case=True).tokenize("HELLO") == [
        "hello"
    ]


def test_padding_truncation_and_overflow(tokenizer):
    batch = tokenizer(["a b c d", "a"], padding=True, truncation=True, max_length=5, return_tensors="pt")
    assert batch["input_ids"].tolist() == [[101, 1037, 1038, 1039, 102], [101, 1037, 102, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1] * 5, [1, 1, 1, 0, 0]]
    assert tokenizer(["a"], padding="max_length", max_length=4)["input_ids"] == [[101, 1037, 102, 0]]
    assert tokenizer("a", padding=True, pad_to_multiple_of=8)["input_ids"] == [101, 1037, 102, 0, 0, 0, 0, 0]
    pair = tokenizer("a b c d", "e f", truncation="only_first", max_length=7)
    assert tokenizer.convert_ids_to_tokens(pair["input_ids"]) == ["[CLS]", "a", "b", "[SEP]", "e", "f", "[SEP]"]
    spans = tokenizer("a b c d", truncation=True, max_length=4, stride=1, return_overflowing_tokens=True)
    assert [tokenizer.decode(ids, skip_special_tokens=True) for ids in spans["input_ids"]] == ["a b", "b c", "c d"]
    assert tokenizer.pad({"input_ids": [[1, 2], [3]]})["input_ids"] == [[1, 2], [3, 0]]


def test_left_padding_warns_and_right_padding_does_not(bert_vocab):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        right = SqueezeBertTokenizer(bert_vocab)
        right(["a b", "a"], padding=True)
    with pytest.warns(UserWarning, match="padding_side='left'"):
        left = SqueezeBertTokenizer(bert_vocab, padding_side="left")
    assert left(["a b", "a"], padding=True)["input_ids"][1][0] == 0
    with pytest.warns(UserWarning, match="padding_side='left'"):
        right(["a b", "a"], padding=True, padding_side="left")
    with pytest.warns(UserWarning, match="padding_side='left'"):
        right.padding_side = "left"


def test_decoding_words_and_offsets(tokenizer):
    text = "Unbelievably GOOD tokenizers, übermäßig!"
    found = tokenizer(text, return_offsets_mapping=True, return_special_tokens_mask=True)
    assert found["special_tokens_mask"] == [1, *[0] * (len(found["input_ids"]) - 2), 1]
    assert found.word_ids()[1] == 0
    start, end = found["offset_mapping"][1]
    assert text[start:end].lower() == tokenizer.convert_ids_to_tokens(found["input_ids"])[1]
    plain = tokenizer.decode(found["input_ids"], skip_special_tokens=True)
    assert plain.startswith("unbelievably good token")
    assert "##" not in plain


def test_decoding_cleans_up_as_bert_does(tokenizer, bert_vocab):
    ids = tokenizer("Isn't it, well, good?")["input_ids"]
    assert tokenizer.decode(ids) == transformers.BertTokenizer(str(bert_vocab)).decode(ids)


def test_white_space_behind_a_token_is_no_part_of_it(tmp_path):
    (tmp_path / "vocab.txt").write_text("[PAD] \n[UNK]\t\n[CLS]\n[SEP]\n[MASK]\nhello \n", encoding="utf-8")
    assert SqueezeBertTokenizer(tmp_path / "vocab.txt")("hello")["input_ids"] == [2, 5, 3]


SPECIAL = b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n"


@pytest.mark.filterwarnings("ignore:.* ids of the vocabulary have no token")
@pytest.mark.parametrize(
    ("lines", "ids"),
    [
        (b"a\rb\nthe\n", {"a\rb": 5, "the": 6}),
        (b"a\r\nthe\r\n", {"a": 5, "the": 6}),
        (b"a\r\rthe\nthe\n", {"a\r\rthe": 5, "the": 6}),
        (b"\rthe\nlate", {"\rthe": 5, "late": 6}),
        (b"a\x0bb\nc\x0cd\nthe\n", {"a\x0bb": 5, "c\x0cd": 6, "the": 7}),
        (b"x\x1c\ny \nz\xc2\x85\nw\xe2\x80\xa8q\nv\xe2\x80\xa9\n", {"x\x1c": 5, "y": 6, "z": 7, "w\u2028q": 8, "v": 9}),
        (b"\n\nthe\n", {"": 6, "the": 7}),
        (b"the\nthe \nlate\n", {"the": 6, "late": 7}),
    ],
)
def test_a_line_of_the_vocabulary_is_what_the_library_calls_one(lines, ids, tmp_path):
    """As transformers 5 reads it, too."""
    (tmp_path / "vocab.txt").write_bytes(SPECIAL + lines)
    mine = SqueezeBertTokenizer.from_pretrained(tmp_path)
    assert {token: number for token, number in mine.get_vocab().items() if number > 4} == ids
    mine.save_vocabulary(str(tmp_path / "saved"))
    assert SqueezeBertTokenizer(tmp_path / "saved/vocab.txt")("late the")["input_ids"] == mine("late the")["input_ids"]


def test_a_token_that_no_line_can_hold_shifts_no_other(tmp_path):
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a\nb", "c ", "d\r", "c", "d", "e\x1c", "late"]
    odd = SqueezeBertTokenizer(vocab={token: i for i, token in enumerate(tokens)})
    with pytest.warns(UserWarning, match=r"3 ids .*\[5, 6, 7\]"):
        odd.save_vocabulary(str(tmp_path))
    read = SqueezeBertTokenizer(tmp_path / "vocab.txt").get_vocab()
    assert {token: read.get(token) for token in tokens[8:]} == {"c": 8, "d": 9, "e\x1c": 10, "late": 11}


def test_copies_and_pickles(tokenizer):
    for other in (copy.deepcopy(tokenizer), pickle.loads(pickle.dumps(tokenizer))):
        assert [other(text)["input_ids"] for text in TEXTS] == [tokenizer(text)["input_ids"] for text in TEXTS]
        assert other.do_lower_case is True
        assert other.build_inputs_with_special_tokens([5]) == [101, 5, 102]


def test_added_tokens_survive_saving(bert_vocab, tmp_path):
    mine = SqueezeBertTokenizer(bert_vocab)
    assert mine.add_tokens(["squeezebertish", AddedToken("[NEW]", special=True)]) == 2
    want = mine("a squeezebertish [NEW] token")["input_ids"]
    assert 30522 in want
    assert 30523 in want
    mine.save_pretrained(str(tmp_path))
    for reader in (SqueezeBertTokenizer, transformers.AutoTokenizer):
        read = reader.from_pretrained(str(tmp_path))
        assert len(read) == 30524
        assert read("a squeezebertish [NEW] token")["input_ids"] == want
    assert len((tmp_path / "vocab.txt").read_text(encoding="utf-8").splitlines()) == 30522


def test_other_special_tokens(tmp_path):
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("\n".join(["<pad>", "<unk>", "<s>", "</s>", "<mask>", "low", "##er"]) + "\n", encoding="utf-8")
    made = SqueezeBertTokenizer(
        vocab, unk_token="<unk>", cls_token="<s>", sep_token="</s>", pad_token="<pad>", mask_token="<mask>"
    )
    assert made("lower what")["input_ids"] == [2, 5, 6, 1, 3]
    made.save_pretrained(str(tmp_path / "saved"))
    assert SqueezeBertTokenizer.from_pretrained(str(tmp_path / "saved"))("lower", "low")["input_ids"] == [
        2,
        5,
        6,
        3,
        5,
        3,
    ]


def test_never_split_and_no_basic_tokenization(bert_vocab):
    kept = SqueezeBertTokenizer(bert_vocab, never_split=["##ing"])
    assert kept.tokenize("say ##ing now") == ["say", "##ing", "now"]
    assert len(kept) == 30522
    raw = SqueezeBertTokenizer(bert_vocab, do_basic_tokenize=False)
    assert raw.tokenize("hello world") == ["hello", "world"]
    assert raw.tokenize("Hello world,") == ["[UNK]", "world", "##,"]


def test_bad_vocabularies_are_refused(bert_vocab, tmp_path):
    with pytest.raises(ValueError, match="no vocabulary: give vocab_file"):
        SqueezeBertTokenizer()
    with pytest.raises(ValueError, match=r"vocab_file '.*absent\.txt' is no file"):
        SqueezeBertTokenizer(tmp_path / "absent.txt")
    with pytest.raises(ValueError, match=r"tokenizer_file '.*absent\.json' is no file"):
        SqueezeBertTokenizer(tokenizer_file=tmp_path / "absent.json")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ValueError, match=r"binary\.txt' is no UTF-8 text"):
        SqueezeBertTokenizer(tmp_path / "binary.txt")
    (tmp_path / "other.txt").write_text("hello\nworld\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"other\.txt' has no unk_token '\[UNK\]'"):
        SqueezeBertTokenizer(tmp_path / "other.txt")
    (tmp_path / "broken.json").write_text(json.dumps({"model": 1}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"broken\.json' cannot be read"):
        SqueezeBertTokenizer(tokenizer_file=tmp_path / "broken.json")
    Tokenizer(BPE()).save(str(tmp_path / "bpe.json"))
    with pytest.raises(ValueError, match="holds a BPE model"):
        SqueezeBertTokenizer(tokenizer_file=tmp_path / "bpe.json")
    with pytest.raises(TypeError, match=r"tokenizer_object must be a Tokenizer, got str"):
        SqueezeBertTokenizer(tokenizer_object="x")
    with pytest.raises(ValueError, match="never_split token 'Zyxwv'"):
        SqueezeBertTokenizer(bert_vocab, never_split=["Zyxwv"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab_file": 5}, "vocab_file must be a str or PathLike, got int"),
        ({"tokenizer_file": 5}, "tokenizer_file must be a str or PathLike, got int"),
        ({"vocab_file": None, "vocab": [1]}, "vocab must be a Mapping or str or PathLike, got list"),
        ({"vocab_file": None, "vocab": {"[UNK]": -1}}, r"vocab must map tokens to ids >= 0, got '\[UNK\]': -1"),
        ({"cls_token": None}, "cls_token must be a str or AddedToken, got NoneType"),
        ({"never_split": 5}, "never_split must be a Iterable, got int"),
        ({"never_split": ["a", 5]}, "never_split: a token must be a str, got int"),
        ({"do_lower_case": "no"}, "do_lower_case must be a bool, got str"),
        ({"strip_accents": "x"}, "strip_accents must be a bool, got str"),
    ],
)
def test_arguments_of_the_wrong_type(bert_vocab, options, message):
    with pytest.raises(TypeError, match=message):
        SqueezeBertTokenizer(**{"vocab_file": bert_vocab, **options})
