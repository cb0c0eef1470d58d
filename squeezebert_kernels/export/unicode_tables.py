"""What a BERT tokenizer does with each code point, asked of the `tokenizers` library that is installed.

No Unicode data is written down here: normalizers and pre-tokenizers are given every code point, and their answers
become the tables that csrc/model/tokenizer_data.h describes. What the C++ tokenizer does is what this library does.
"""

from __future__ import annotations

import functools
import struct
import unicodedata
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordPiece

__all__ = ["Settings", "Tables", "build"]

PAGE = 128  # code points
REMOVED, SHIFT, DROPPED, LIST, HANGUL = range(5)  # kinds of records
SPACE, PUNCTUATION, WORD, SPACED = 1, 2, 4, 8  # flags of records
ELEMENT_DROPPED = 1 << 21

_LIMIT = 0x110000
_SURROGATES = range(0xD800, 0xE000)
_HANGUL = range(0xAC00, 0xAC00 + 11172)
_SEPARATORS = "|_"  # nothing changes them, and no mark is reordered across them
_CHUNK = 1 << 12


@dataclass(frozen=True)
class Settings:
    """All that decides what becomes of a code point.

    Args:
        clean_text, handle_chinese_chars, strip_accents, lowercase: BertNormalizer's, `strip_accents` resolved.
        punctuation: whether the pre-tokenizer splits at punctuation (BertPreTokenizer) or only at white space.
        word: whether the WORD flag is asked for, which tokens with `single_word` need.
    """

    clean_text: bool
    handle_chinese_chars: bool
    strip_accents: bool
    lowercase: bool
    punctuation: bool = True
    word: bool = False


@dataclass(frozen=True)
class Tables:
    """Sections of the tokenizer data, little-endian."""

    page_index: bytes  # uint16 per page of code points
    pages: bytes  # uint16 per code point: its record
    records: bytes
    elements: bytes  # uint32 each


def _answers(normalizer: Any, texts: Sequence[str]) -> list[str]:
    """`normalizer` of each text. They are joined for speed, by a separator that the chunk does not hold."""
    found: list[str] = []
    for begin in range(0, len(texts), _CHUNK):
        chunk = texts[begin : begin + _CHUNK]
        for separator in _SEPARATORS:
            parts = normalizer.normalize_str(separator.join(chunk)).split(separator)
            if len(parts) == len(chunk):
                break
        else:
            parts = [normalizer.normalize_str(text) for text in chunk]
        found += parts
    return found


def _bert(*, clean: bool = False, chinese: bool = False, strip: bool = False, lower: bool = False) -> Any:
    return normalizers.BertNormalizer(
        clean_text=clean, handle_chinese_chars=chinese, strip_accents=strip, lowercase=lower
    )


def combining_classes(characters: Sequence[str]) -> dict[str, int]:
    """The canonical combining classes, where not 0, of characters that NFD leaves alone, seen by how NFD orders them.

    NFD swaps neighbours a, b where class(a) > class(b) > 0. Python's own table only provides a mark of every class to
    compare with; classes of assigned characters never change.
    """
    nfd = normalizers.NFD()

    def ordered(text: str) -> bool:
        return nfd.normalize_str(text) == text

    lowest, highest = "\u0334", "\u0345"  # classes 1 and 240
    marks: dict[int, str] = {}
    for code in range(0x300, _LIMIT):
        mark = chr(code)
        number = unicodedata.combining(mark)
        # The library may not know a mark that Python knows.
        known = number and ordered(mark) and not (ordered(highest + mark) and ordered(mark + lowest))
        if known and number not in marks:
            marks[number] = mark
    behind = _answers(nfd, [highest + c for c in characters])
    before = _answers(nfd, [c + lowest for c in characters])
    classes: dict[str, int] = {}
    for c, b, a in zip(characters, behind, before, strict=True):
        if b == highest + c and a == c + lowest:
            continue
        for number, mark in marks.items():
            if ordered(mark + c) and ordered(c + mark):
                classes[c] = number
                break
        else:
            raise ValueError(f"U+{ord(c):04X} has a combining class unknown to Unicode {unicodedata.unidata_version}")
    return classes


def _split_flags(characters: Sequence[str], *, punctuation: bool) -> dict[str, int]:
    """SPACE or PUNCTUATION, for the characters that the pre-tokenizer treats so."""
    splitter = pre_tokenizers.BertPreTokenizer() if punctuation else pre_tokenizers.WhitespaceSplit()
    text = "x" + "x".join(characters) + "x"
    flags: dict[str, int] = {}
    end = 0
    for piece, (begin, stop) in splitter.pre_tokenize_str(text):
        for missing in text[end:begin]:
            flags[missing] = SPACE
        if len(piece) == 1 and piece != "x":
            flags[piece] = PUNCTUATION
        end = stop
    return flags


def _word_characters(characters: Sequence[str]) -> set[str]:
    r"""The characters that keep a single_word token beside them from being found (\w of the library's own engine)."""
    probe = Tokenizer(WordPiece({"[UNK]": 0}, unk_token="[UNK]"))
    probe.add_tokens([AddedToken("~", single_word=True, normalized=False)])
    number = probe.token_to_id("~")
    words: set[str] = set()
    for begin in range(0, len(characters), _CHUNK):
        chunk = [c for c in characters[begin : begin + _CHUNK] if c != "~"]
        found = probe.encode("".join(f"{c}~ " for c in chunk), add_special_tokens=False)
        alone = {start for token, (start, _) in zip(found.ids, found.offsets, strict=True) if token == number}
        words.update(c for i, c in enumerate(chunk) if 3 * i + 1 not in alone)
    return words


class _Builder:
    """Records and their elements, each kept once."""

    def __init__(self) -> None:
        # Record 0 is for what is no code point: surrogates.
        self.records: dict[tuple[int, int, int, int, int], int] = {(REMOVED, 0, 0, 0, 0): 0}
        self.lists: dict[tuple[int, ...], int] = {}
        self.elements = array("I")

    def record(self, kind: int, flags: int, combining: int = 0, count: int = 0, operand: int = 0) -> int:
        return self.records.setdefault((kind, flags, combining, count, operand), len(self.records))

    def of_elements(self, code: int, elements: list[int], flags: int) -> int:
        """The record of a code point that becomes `elements`, in the form of the section of elements."""
        if len(elements) == 1:
            character, combining = elements[0] & 0x1FFFFF, elements[0] >> 24
            if elements[0] & ELEMENT_DROPPED:
                return self.record(DROPPED, flags, combining)
            return self.record(SHIFT, flags, combining, 0, character - code)
        key = tuple(elements)
        if key not in self.lists:
            self.lists[key] = len(self.elements)
            self.elements.extend(elements)
        return self.record(LIST, flags, 0, len(elements), self.lists[key])


def hangul(code: int) -> list[int]:
    """The letters of the Hangul syllable `code`, as csrc/model/tokenizer.cpp computes them."""
    index = code - _HANGUL.start
    last = [0x11A7 + index % 28] if index % 28 else []
    return [0x1100 + index // 588, 0x1161 + index % 588 // 28, *last]


def _elements(characters: Sequence[str], settings: Settings) -> dict[str, list[int]]:
    """What NFD, the filter of marks and lower-casing make of each character, for the section of elements.

    Characters that stay what they are, with combining class 0, are left out.
    """
    lower = _bert(lower=settings.lowercase)
    if not settings.strip_accents:  # then nothing is reordered
        lowered = _answers(lower, characters)
        return {c: [ord(x) for x in low] for c, low in zip(characters, lowered, strict=True) if low != c}
    decomposed = [
        (c, text) for c, text in zip(characters, _answers(normalizers.NFD(), characters), strict=True) if text != c
    ]
    apart = {c for c, _ in decomposed}
    unchanged = (c for c in characters if c not in apart)
    letters = list(dict.fromkeys([*unchanged, *(letter for _, text in decomposed for letter in text)]))
    classes = combining_classes(letters)
    kept, lowered = _answers(_bert(strip=True), letters), _answers(lower, letters)
    of_letter: dict[str, int] = {}
    for letter, text, low in zip(letters, kept, lowered, strict=True):
        if text == letter == low and letter not in classes:
            continue
        if text not in ("", letter) or len(low) != 1:
            raise ValueError(f"BertNormalizer makes {text!r} and {low!r} of U+{ord(letter):04X}: not understood")
        of_letter[letter] = (ord(low) if text else ELEMENT_DROPPED) | classes.get(letter, 0) << 24
    found = {c: [of_letter.get(letter, ord(letter)) for letter in text] for c, text in decomposed}
    found.update((c, [element]) for c, element in of_letter.items())
    return found


@functools.lru_cache(maxsize=8)
def build(settings: Settings) -> Tables:
    """The tables of `settings`, from answers of the installed library.

    Raises:
        ValueError: the library does something with a code point that the tables cannot say.
    """
    characters = [chr(code) for code in range(_LIMIT) if code not in _SURROGATES]
    flags_of = _split_flags(characters, punctuation=settings.punctuation)
    if settings.word:
        for c in _word_characters(characters):
            flags_of[c] = flags_of.get(c, 0) | WORD
    whole = _answers(
        _bert(
            clean=settings.clean_text,
            chinese=settings.handle_chinese_chars,
            strip=settings.strip_accents,
            lower=settings.lowercase,
        ),
        characters,
    )
    cleaned = _answers(_bert(clean=settings.clean_text), characters)
    # Code points that clean_text removes, all that are unassigned among them, go no further.
    elements = _elements([c for c in dict.fromkeys(cleaned) if c], settings)
    syllables = all(elements.get(chr(code)) == hangul(code) for code in _HANGUL)

    builder = _Builder()
    removed, same = builder.record(REMOVED, 0), builder.record(SHIFT, 0)
    of_code = array("H", bytes(2 * _LIMIT))
    for c, clean, result in zip(characters, cleaned, whole, strict=True):
        code, flags = ord(c), flags_of.get(c, 0)
        if not flags and result == c == clean and c not in elements:
            of_code[code] = same
            continue
        if not clean:
            if result:
                raise ValueError(f"BertNormalizer removes U+{code:04X} and keeps {result!r}: not understood")
            of_code[code] = builder.record(REMOVED, flags) if flags else removed
            continue
        made = elements.get(clean) or [ord(clean)]
        text = "".join(chr(e & 0x1FFFFF) for e in made if not e & ELEMENT_DROPPED)
        if result != text:
            if result != f" {text} ":
                raise ValueError(f"BertNormalizer makes {result!r} of U+{code:04X}, not {text!r}: not understood")
            flags |= SPACED
        if syllables and code in _HANGUL:
            of_code[code] = builder.record(HANGUL, flags)
        else:
            of_code[code] = builder.of_elements(code, made, flags)
    if len(builder.records) > 0xFFFF:
        raise ValueError(f"{len(builder.records)} different records do not fit")

    numbers: dict[bytes, int] = {}
    index = array("H")
    for begin in range(0, _LIMIT, PAGE):
        index.append(numbers.setdefault(struct.pack(f"<{PAGE}H", *of_code[begin : begin + PAGE]), len(numbers)))
    return Tables(
        page_index=struct.pack(f"<{len(index)}H", *index),
        pages=b"".join(numbers),
        records=b"".join(struct.pack("<BBBBi", *key) for key in builder.records),
        elements=struct.pack(f"<{len(builder.elements)}I", *builder.elements),
    )
