"""A Hugging Face BERT tokenizer as data for the C++ tokenizer: `tokenizer_data(tokenizer)`.

The form is described in csrc/model/tokenizer_data.h. What cannot be said in it is refused with a ValueError, so that
whatever is written gives the ids of the tokenizer that it was made from.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer, normalizers
from transformers import PreTrainedTokenizerBase

from . import unicode_tables

__all__ = ["tokenizer_data"]

VERSION = 1
NONE = 0xFFFFFFFF
SINGLE_WORD, STRIP_LEFT, STRIP_RIGHT, SPECIAL = 1, 2, 4, 8
CLEAN_TOKENS, CLEAN_TEXT = 1, 2
_HEADER = struct.Struct("<4sIQ8I")


def _kind(part: Mapping[str, Any] | None) -> str:
    return "no" if part is None else str(part.get("type"))


@dataclass
class _Parts:
    """A tokenizer of the `tokenizers` library without truncation and padding, and what it says of itself."""

    backend: Tokenizer
    model: Mapping[str, Any]
    vocabulary: Mapping[str, int]
    added: Sequence[Mapping[str, Any]]
    settings: unicode_tables.Settings
    decoder: Mapping[str, Any]


def _parts(tokenizer: PreTrainedTokenizerBase) -> _Parts:
    """The parts of a tokenizer; ValueError names the first that is not BERT's."""
    described = json.loads(tokenizer.backend_tokenizer.to_str())
    described["truncation"] = described["padding"] = None
    model, normalizer = described["model"], described["normalizer"]
    splitter, decoder = described["pre_tokenizer"], described["decoder"]
    if model.get("type") != "WordPiece":
        raise ValueError(f"tokenizer has a {model.get('type')} model, only WordPiece can be exported")
    if normalizer is not None and _kind(normalizer) != "BertNormalizer":
        raise ValueError(f"tokenizer has a {_kind(normalizer)} normalizer, only BertNormalizer can be exported")
    if _kind(splitter) not in ("BertPreTokenizer", "WhitespaceSplit"):
        raise ValueError(f"tokenizer has {_kind(splitter)} pre-tokenizer, only BertPreTokenizer can be exported")
    if _kind(decoder) != "WordPiece":
        raise ValueError(f"tokenizer has {_kind(decoder)} decoder, only WordPiece can be exported")
    if getattr(tokenizer.backend_tokenizer, "encode_special_tokens", False):
        raise ValueError("tokenizer has encode_special_tokens (split_special_tokens), which cannot be exported")
    if getattr(tokenizer, "truncation_side", "right") != "right":
        raise ValueError(f"tokenizer has truncation_side={tokenizer.truncation_side!r}, only 'right' can be exported")
    if model["unk_token"] not in model["vocab"]:
        raise ValueError(f"tokenizer has unk_token {model['unk_token']!r}, which is not in its vocabulary")

    def set_to(name: str) -> bool:
        return bool(normalizer and normalizer[name])

    strip = normalizer["strip_accents"] if normalizer else False
    settings = unicode_tables.Settings(
        clean_text=set_to("clean_text"),
        handle_chinese_chars=set_to("handle_chinese_chars"),
        strip_accents=set_to("lowercase") if strip is None else strip,
        lowercase=set_to("lowercase"),
        punctuation=_kind(splitter) == "BertPreTokenizer",
        word=any(token["single_word"] for token in described["added_tokens"]),
    )
    backend = Tokenizer.from_str(json.dumps(described))
    return _Parts(backend, model, model["vocab"], described["added_tokens"], settings, decoder)


def _check_template(parts: _Parts, cls: int, sep: int) -> None:
    """Sequences become [CLS] A [SEP] and [CLS] A [SEP] B [SEP], with type 1 from B on."""
    for texts, ids, types in (
        (("",), [cls, sep], [0, 0]),
        (("a",), [cls, None, sep], [0, 0, 0]),
        (("", ""), [cls, sep, sep], [0, 0, 1]),
        (("a", "a"), [cls, None, sep, None, sep], [0, 0, 0, 1, 1]),
    ):
        found = parts.backend.encode(*texts)
        alike = len(found.ids) == len(ids) and all(b in (None, a) for a, b in zip(found.ids, ids, strict=True))
        if not alike or found.type_ids != types:
            raise ValueError(
                f"tokenizer makes ids {found.ids} of types {found.type_ids} out of {texts!r}; only [CLS] A [SEP] and "
                f"[CLS] A [SEP] B [SEP] with [CLS] = {cls}, [SEP] = {sep} and types {types} can be exported"
            )


def trie(tokens: Mapping[bytes, int]) -> tuple[bytes, bytes, bytes]:
    """The sections `first`, `value` and `label` of a trie that maps tokens to values."""
    items = sorted(tokens.items())
    # A node is what its tokens have in common: items[begin:end] share the first `depth` bytes.
    nodes = [(0, len(items), 0)]
    first, value, label = [], [], bytearray(1)
    for begin, end, depth in nodes:  # which grows
        value.append(NONE)
        first.append(len(nodes))
        if begin < end and len(items[begin][0]) == depth:
            value[-1] = items[begin][1]
            begin += 1
        while begin < end:
            byte, stop = items[begin][0][depth], begin + 1
            while stop < end and items[stop][0][depth] == byte:
                stop += 1
            nodes.append((begin, stop, depth + 1))
            label.append(byte)
            begin = stop
    first.append(len(nodes))
    return struct.pack(f"<{len(first)}I", *first), struct.pack(f"<{len(value)}I", *value), bytes(label)


def _utf8(token: str) -> bytes:
    try:
        return token.encode()
    except UnicodeEncodeError:
        raise ValueError(f"token {token!r} is no text") from None


class _Text:
    """The section of text."""

    def __init__(self) -> None:
        self.bytes = bytearray()

    def put(self, text: str) -> tuple[int, int]:
        """Where `text` is kept, and its length."""
        data = _utf8(text)
        self.bytes += data
        return len(self.bytes) - len(data), len(data)


def _decoded(parts: _Parts, token: Mapping[str, Any], normal: str) -> str:
    """What decoding takes for an added token: newer libraries take what normalization makes of it."""
    content = str(token["content"])
    if normal == content:
        return content
    bare = Tokenizer.from_str(json.dumps({**json.loads(parts.backend.to_str()), "decoder": None}))
    return bare.decode([token["id"]], skip_special_tokens=False)


def _added(parts: _Parts, text: _Text) -> tuple[bytes, dict[bytes, int], dict[bytes, int]]:
    """The section of added tokens, and the tokens to find in raw and in normalized text, with their indices there."""
    normalizer = parts.backend.normalizer or normalizers.Sequence([])
    special = {token["content"] for token in parts.added if token["special"]}
    packed = b""
    patterns: tuple[dict[bytes, int], dict[bytes, int]] = {}, {}
    for index, token in enumerate(sorted(parts.added, key=lambda token: token["id"])):
        content = token["content"]
        pattern = normalizer.normalize_str(content) if token["normalized"] else content
        decoded = _decoded(parts, token, pattern)
        flags = (
            SINGLE_WORD * token["single_word"]
            | STRIP_LEFT * token["lstrip"]
            | STRIP_RIGHT * token["rstrip"]
            | SPECIAL * (decoded in special)
        )
        packed += struct.pack("<4I", token["id"], flags, *text.put(decoded))
        found = patterns[bool(token["normalized"])]
        if not pattern:
            raise ValueError(f"added token {content!r} is normalized to nothing")
        if found.setdefault(_utf8(pattern), index) != index:
            raise ValueError(f"added token {content!r} is normalized to {pattern!r}, and so is another one")
    return packed, patterns[False], patterns[True]


def tokenizer_data(tokenizer: PreTrainedTokenizerBase) -> bytes:
    """The data with which the C++ tokenizer (csrc/model/tokenizer.h) gives the ids of `tokenizer`.

    Args:
        tokenizer: a tokenizer of transformers over the `tokenizers` library, with BERT's parts: WordPiece,
            BertNormalizer with any settings (or none), BertPreTokenizer (or WhitespaceSplit), `[CLS] A [SEP] B [SEP]`.

    Returns:
        The data, some 1.2 MB for a vocabulary of 30522 tokens, of which 75 KB say what Unicode means to it.

    Raises:
        TypeError: `tokenizer` is no such object.
        ValueError: it is of another kind; the message names the part.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerBase) or not getattr(tokenizer, "is_fast", False):
        raise TypeError(f"tokenizer must be one over the tokenizers library, got {type(tokenizer).__name__}")
    parts = _parts(tokenizer)
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    if cls is None or sep is None:
        raise ValueError("tokenizer needs a cls_token and a sep_token")
    _check_template(parts, cls, sep)
    tables = unicode_tables.build(parts.settings)

    tokens = {number: token for token, number in parts.vocabulary.items()}
    tokens |= {token["id"]: token["content"] for token in parts.added}
    if max(tokens) > 100 * len(tokens) + 0xFFFF:
        raise ValueError(f"tokenizer has {len(tokens)} tokens with ids up to {max(tokens)}: too sparse to be exported")
    text, offsets = _Text(), [0]
    for number in range(max(tokens) + 1):
        text.put(tokens.get(number, ""))
        offsets.append(len(text.bytes))
    added, raw, normalized = _added(parts, text)
    prefixes = text.put(parts.model["continuing_subword_prefix"]), text.put(parts.decoder["prefix"])
    sections = [
        (tables.page_index, 2),
        (tables.pages, 2),
        (tables.records, 8),
        (tables.elements, 4),
        (struct.pack(f"<{len(offsets)}I", *offsets), 4),
        (bytes(text.bytes), 1),
        *zip(trie({_utf8(token): number for token, number in parts.vocabulary.items()}), (4, 4, 1), strict=True),
        (added, 16),
        *zip(trie(raw), (4, 4, 1), strict=True),
        *zip(trie(normalized), (4, 4, 1), strict=True),
    ]

    def or_none(number: int | None) -> int:
        return NONE if number is None else number

    body = b""
    directory = [field for prefix in prefixes for field in prefix]
    start = _HEADER.size + 8 * (len(prefixes) + len(sections))
    for data, size in sections:
        directory += [start + len(body), len(data) // size]
        body += data + bytes(-len(data) % 8)
    flags = CLEAN_TOKENS * parts.decoder["cleanup"] | CLEAN_TEXT * bool(tokenizer.clean_up_tokenization_spaces)
    return (
        _HEADER.pack(
            b"SBKT",
            VERSION,
            start + len(body),
            flags,
            min(parts.model["max_input_chars_per_word"], NONE),
            parts.vocabulary[parts.model["unk_token"]],
            cls,
            sep,
            or_none(tokenizer.pad_token_id),
            or_none(tokenizer.mask_token_id),
            0,
        )
        + struct.pack(f"<{len(directory)}I", *directory)
        + body
    )
