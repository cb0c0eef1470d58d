"""The C++ tokenizer on tokenizer_data(): ids, types, offsets, texts of the Hugging Face tokenizer, in all Unicode."""

from __future__ import annotations

import random
import unicodedata
from itertools import accumulate, pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.native_tokenizer import NativeTokenizer, Refused, command
from support.texts import TEXTS
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from squeezebert_kernels.export import unicode_tables
from squeezebert_kernels.export.tokenizer_data import tokenizer_data
from squeezebert_kernels.models.tokenization import SqueezeBertTokenizer

OPTIONS = {
    "uncased": {},
    "cased": {"do_lower_case": False},
    "accents kept": {"strip_accents": False},
    "accents stripped, case kept, no CJK": {
        "do_lower_case": False,
        "strip_accents": True,
        "tokenize_chinese_chars": False,
    },
    "no basic tokenization": {"do_basic_tokenize": False},
    "never split": {"never_split": ["##ing", "new"]},
}
SMALL = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, "a": 5, "##a": 6, "ab": 7, "##c": 8, ".": 9}
ASSIGNED = [chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) not in ("Cn", "Cs", "Co")] + [
    "\ue000",
    "\uf8ff",
    "\U00100000",
    "\u0378",
    "\uffff",
    "\U000e0fff",
    "\U0010ffff",
]
MARKS = [c for c in ASSIGNED if unicodedata.combining(c) or unicodedata.category(c) in ("Mn", "Mc", "Me")]


class Both:
    """A tokenizer, and the C++ one made of it."""

    def __init__(self, theirs: PreTrainedTokenizerFast, folder) -> None:
        self.theirs = theirs
        path = folder / f"tokenizer-{id(theirs)}.bin"
        path.write_bytes(tokenizer_data(theirs))
        self.ours = NativeTokenizer(command(), path)
        self.compared = 0

    def check(self, text: str, pair: str | None = None, **options) -> None:
        """Everything about `text` is alike."""
        got = self.ours.encode(text, pair, **options)
        # As a batch: to transformers, one text with an empty pair is no pair.
        for wanted in ("offsets_mapping", "special_tokens_mask", "token_type_ids"):
            options[f"return_{wanted}"] = True
        want = self.theirs([text], None if pair is None else [pair], **options)
        where = [list(accumulate((len(c.encode()) for c in t), initial=0)) for t in (text, pair or "")]
        spans = [
            (where[which or 0][begin], where[which or 0][end])
            for which, (begin, end) in zip(want.sequence_ids(0), want["offset_mapping"][0], strict=True)
        ]
        shown = (ascii(text)[:300], ascii(pair)[:300], options)
        assert got.ids == want["input_ids"][0], shown
        assert got.type_ids == want["token_type_ids"][0], shown
        assert got.special == want["special_tokens_mask"][0], shown
        assert got.spans == spans, shown
        self.compared += len(text)


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """Both of a tokenizer; programs end with the module."""
    made: list[Both] = []

    def make(theirs: PreTrainedTokenizerFast) -> Both:
        made.append(Both(theirs, tmp_path_factory.mktemp("data")))
        return made[-1]

    yield make
    for both in made:
        both.ours.close()


# Three that differ most; what is between them is wide.
LESS_TELLING = ("accents kept", "accents stripped, case kept, no CJK", "no basic tokenization")


@pytest.fixture(
    scope="module", params=[pytest.param(o, marks=pytest.mark.wide) if o in LESS_TELLING else o for o in OPTIONS]
)
def both(request, make, bert_vocab):
    return make(SqueezeBertTokenizer(bert_vocab, **OPTIONS[request.param]))


@pytest.fixture(scope="module")
def uncased(make, bert_vocab):
    return make(SqueezeBertTokenizer(bert_vocab))


def test_texts_and_pairs(both):
    for text in TEXTS:
        both.check(text)
    for first, second in pairwise(TEXTS):
        both.check(first, second)


def test_every_code_point(both):
    """Alone, in a word, beside marks that move, between letters that decompose; many to a text, for speed."""
    for begin in range(0, len(ASSIGNED), 2000):
        some = ASSIGNED[begin : begin + 2000]
        for between in (" ", "", "a", "x x", "\u0301\u302e", "\u1100", "é"):
            both.check(between.join(some))
    assert both.compared > 1e6


def test_marks_in_any_order(both):
    pick = random.Random(5)
    others = [
        "a",
        "é",
        "ẹ̀",
        "한",
        "中",
        "豈",
        " ",
        ".",
        "\u0344",
        "\u0f73",
        "\U0001d15e",
        "\u200d",
        "\u00ad",
        "[MASK]",
        "ﬁ",
    ]
    for _ in range(1500):
        marks = [*pick.sample(MARKS, 6), "\u302e", "\U0001d165", "\U0001d16d"]
        both.check("".join(pick.choice(marks if pick.random() < 0.8 else others) for _ in range(pick.randrange(1, 40))))


def test_special_tokens_within_texts(both):
    for text in (
        "[MASK]",
        "[MASK][MASK] [CLS]a[SEP]b [PAD]",
        "[mask] [Mask] [MASK",
        "x[MASK]y  [MASK]\t中[MASK]中",
        "[[MASK]] [UNK]\u0301 [CL S] [CLS\u0301]",
        "say ##ing now, a##ing ##ings new newer renew (new) é##ing",
    ):
        both.check(text)
        both.check(text, text)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(st.text(max_size=60), st.none() | st.text(alphabet=st.sampled_from("ab中é\u0301 .,[MASK]#'N"), max_size=60))
def test_any_text(uncased, first, second):
    uncased.check(first, second)


@pytest.mark.parametrize("truncation", [True, "only_first", "only_second"])
def test_truncation(uncased, truncation):
    texts = ["", "a", "a b c", "one two three four five six", "unaffable é words [MASK] 中文"]
    for first in texts:
        for second in [None, *texts]:
            for max_length in range(2 if second is None else 3, 16):
                options = {"max_length": max_length, "truncation": truncation}
                total = len(uncased.ours.encode(first, second).ids)
                of_target = {"only_first": first, "only_second": second}.get(str(truncation), "")
                short = of_target is None or (
                    truncation is not True and len(uncased.ours.encode(of_target).ids) - 2 <= total - max_length
                )
                room = max_length - (2 if second is None else 3)
                if total > max_length and short and room > 0:
                    with pytest.raises(Refused, match=rf"text has more than max_length={max_length} tokens, and"):
                        uncased.ours.encode(first, second, **options)
                else:
                    uncased.check(first, second, **options)


def test_what_does_not_fit_is_refused(uncased):
    with pytest.raises(Refused, match="text has more than max_length=3 tokens, and truncation is off"):
        uncased.ours.encode("a b", max_length=3)
    with pytest.raises(Refused, match="max_length is 1, the special tokens alone are 2"):
        uncased.ours.encode("a b", max_length=1, truncation=True)
    with pytest.raises(Refused, match="max_length is 2, the special tokens alone are 3"):
        uncased.ours.encode("a b", "c", max_length=2, truncation=True)


def test_bytes_that_are_no_text(uncased):
    pick = random.Random(3)
    parts = [
        b"a",
        b"\xc3\xa9",
        b"\xe4\xb8\x80",
        b"\xf0\x9f\x98\x80",
        b"\xff",
        b"\x80",
        b"\xc3",
        b"\xe4\xb8",
        b"\xed\xa0\x80",
    ]
    parts += [b"\xf0\x9f", b"\xf4\x90\x80\x80", b"\xc0\xaf", b"\xe0\x80", b"\0", b" ", b"[MASK]", b"\xf8\x88"]
    for _ in range(2000):
        data = b"".join(pick.choice(parts) for _ in range(pick.randrange(12)))
        got = uncased.ours.encode(data)
        assert got.ids == uncased.theirs(data.decode(errors="replace"))["input_ids"], data
        assert all(0 <= begin <= end <= len(data) for begin, end in got.spans)


def test_decoding_and_single_tokens(both):
    pick = random.Random(4)
    size = len(both.theirs)
    frequent = both.theirs("isn't it? Well, 'do not' we've they're I'm 's n't don't ##s ! a.b [MASK] [SEP]")[
        "input_ids"
    ]
    for _ in range(300):
        ids = [
            pick.choice(frequent) if pick.random() < 0.7 else pick.randrange(size) for _ in range(pick.randrange(20))
        ]
        for skip in (True, False):
            assert both.ours.decode(ids, skip_special=skip) == both.theirs.decode(ids, skip_special_tokens=skip), ids
    for number in [*range(0, size, 97), size - 1]:
        token = both.theirs.convert_ids_to_tokens(number)
        assert both.ours.token(number) == token
        assert both.ours.id(token) == both.theirs.convert_tokens_to_ids(token)
    for bad in (-1, size, 2**31 - 1):
        with pytest.raises(Refused, match="no token"):
            both.ours.token(bad)
    with pytest.raises(Refused, match="no such token"):
        both.ours.id("no such token")


def test_decoding_with_cleaned_text(make, bert_vocab):
    both = make(SqueezeBertTokenizer(bert_vocab, clean_up_tokenization_spaces=True))
    ids = both.theirs("isn ' t it, well? I do not say 'so', we ' ve 's n't")["input_ids"]
    assert both.ours.decode(ids) == both.theirs.decode(ids, skip_special_tokens=True)


def test_added_tokens(make, bert_vocab):
    theirs = SqueezeBertTokenizer(bert_vocab)
    theirs.add_tokens(
        [
            "Squeezebertish",  # found in normalized text
            "naïvely",
            "squeeze",
            AddedToken("<L>", lstrip=True, normalized=False),
            AddedToken("<R>", rstrip=True, normalized=False, special=True),
            AddedToken("<Both>", lstrip=True, rstrip=True, single_word=True),
            AddedToken(" gap", rstrip=True, normalized=False),
            AddedToken("Word", single_word=True),
        ]
    )
    both = make(theirs)
    pick = random.Random(6)
    parts = [
        "squeezebertish",
        "SQUEEZEBERTISH",
        "squeezebert",
        "NAI\u0308VELY",
        "naively",
        "<L>",
        "<R>",
        "<both>",
        "<BOTH>",
    ]
    parts += [
        " gap",
        "word",
        "WORD",
        "wörd",
        "\u0301",
        " ",
        "  ",
        "\t\n",
        "\u00a0",
        "\u2003",
        "a",
        "中",
        ".",
        "[MASK]",
        "_",
        "é",
    ]
    for _ in range(1500):
        text = "".join(pick.choice(parts) for _ in range(pick.randrange(1, 12)))
        both.check(text)
        ids = theirs(text)["input_ids"]
        for skip in (True, False):
            assert both.ours.decode(ids, skip_special=skip) == theirs.decode(ids, skip_special_tokens=skip), ascii(text)


def test_separators_of_lines_in_tokens(make):
    """A token is what the tokenizers library has read: nothing here splits a vocabulary into lines again."""
    separators = ["\r", "\r\n", "\n", "\x0b", "\x0c", "\x1c", "\x1e", "\x85", "\u2028", "\u2029", "\0"]
    names = [f"x{c}y" for c in separators] + [f"##{c}" for c in separators] + separators
    vocabulary = {**SMALL, **{name: len(SMALL) + i for i, name in enumerate(names)}}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(clean_text=False)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    backend.decoder = decoders.WordPiece()
    special = {"cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]", "pad_token": "[PAD]"}
    both = make(PreTrainedTokenizerFast(tokenizer_object=backend, **special))
    for name, number in vocabulary.items():
        assert both.ours.id(name) == number
        assert both.ours.token(number) == name
    for name in (*names, *separators):
        both.check(f"a{name} {name}ab.")


def test_other_vocabularies_and_limits(make):
    backend = Tokenizer(
        models.WordPiece(SMALL, unk_token="[UNK]", max_input_chars_per_word=4, continuing_subword_prefix="##")
    )
    backend.normalizer = normalizers.BertNormalizer(clean_text=False)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "cls", "sep", "pad", "mask")}
    both = make(PreTrainedTokenizerFast(tokenizer_object=backend, **names))
    for text in ("aaaa", "aaaaa", "abc", "ab c", "éa ÀC", "\x00a\ufffd a\u0301aaaa.", "a\u200ba a\u2028a\x0ba", "中a"):
        both.check(text)
        ids = both.theirs(text)["input_ids"]
        assert both.ours.decode(ids) == both.theirs.decode(ids, skip_special_tokens=True)


def test_long_texts_take_linear_time(uncased):
    for text in ("a" * 1_000_000, "word " * 50_000, "中" * 100_000, "\u0301\u0316" * 100_000, "[MASK" * 50_000):
        uncased.check(text, max_length=512, truncation=True)


def test_tables_are_small_and_ready_at_once(bert_vocab):
    tables = unicode_tables.build(unicode_tables.Settings(True, True, True, True))
    size = sum(map(len, (tables.page_index, tables.pages, tables.records, tables.elements)))
    assert size < 100_000
    assert tokenizer_data(SqueezeBertTokenizer(bert_vocab)) == tokenizer_data(SqueezeBertTokenizer(bert_vocab))


def test_combining_classes_are_those_of_unicode():
    known = {c: unicodedata.combining(c) for c in MARKS if unicodedata.normalize("NFD", c) == c}
    found = unicode_tables.combining_classes(list(known))
    # The library may know fewer characters than Python, but no other classes.
    assert all(known[c] == number for c, number in found.items())
    assert len(found) > 600


def described(**parts) -> PreTrainedTokenizerFast:
    backend = Tokenizer(parts.get("model") or models.WordPiece(SMALL, unk_token="[UNK]"))
    backend.normalizer = parts.get("normalizer", normalizers.BertNormalizer())
    backend.pre_tokenizer = parts.get("pre_tokenizer", pre_tokenizers.BertPreTokenizer())
    backend.decoder = parts.get("decoder", decoders.WordPiece())
    backend.post_processor = parts.get("post_processor", processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2)))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]", pad_token="[PAD]"
    )


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"model": models.BPE({"[CLS]": 0, "[SEP]": 1, "[UNK]": 2, "[PAD]": 3}, [])}, "has a BPE model"),
        ({"model": models.WordPiece({"[CLS]": 2, "[SEP]": 3}, unk_token="?")}, r"unk_token '\?', which is not in"),
        ({"normalizer": normalizers.NFKC()}, "has a NFKC normalizer"),
        ({"pre_tokenizer": pre_tokenizers.ByteLevel()}, "has ByteLevel pre-tokenizer"),
        ({"pre_tokenizer": pre_tokenizers.Sequence([])}, "has Sequence pre-tokenizer"),
        ({"decoder": decoders.ByteLevel()}, "has ByteLevel decoder"),
        ({"post_processor": processors.RobertaProcessing(("[SEP]", 3), ("[CLS]", 2))}, r"makes ids \[2, 3, 3, 3\]"),
    ],
)
def test_other_tokenizers_are_refused(parts, message):
    with pytest.raises(ValueError, match=message):
        tokenizer_data(described(**parts))


def test_what_is_no_tokenizer_is_refused(bert_vocab):
    with pytest.raises(TypeError, match="must be one over the tokenizers library, got str"):
        tokenizer_data("bert")
    with pytest.raises(ValueError, match="truncation_side='left'"):
        tokenizer_data(SqueezeBertTokenizer(bert_vocab, truncation_side="left"))
    twice = SqueezeBertTokenizer(bert_vocab)
    twice.add_tokens([AddedToken("\u0301", normalized=True)])
    with pytest.raises(ValueError, match="normalized to nothing"):
        tokenizer_data(twice)
