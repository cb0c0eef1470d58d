"""BERT's uncased WordPiece tokenizer over the `tokenizers` library, as SqueezeBERT uses it.

One implementation under both of transformers' names, on transformers 4 and 5 alike. A sequence becomes
`[CLS] A [SEP]`, a pair becomes `[CLS] A [SEP] B [SEP]` with segment type 1 from the first token of B on.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece
from transformers import PreTrainedTokenizerFast

from ..compat import TRANSFORMERS_5
from ..files import write_file

__all__ = ["SqueezeBertTokenizer", "SqueezeBertTokenizerFast", "make_lower_case"]

VOCAB_FILES_NAMES = {"vocab_file": "vocab.txt", "tokenizer_file": "tokenizer.json"}

# Unicode's White_Space, which the library takes off the end of a line of vocab.txt; str.rstrip() takes off more.
_WHITE_SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))

_LEFT_PADDING = (
    "padding_side='left': SqueezeBERT numbers positions from the first column, padding included, so text padded on the "
    "left meets other position embeddings than it was trained with. Pad on the right."
)


def _check_type(name: str, value: Any, *types: type) -> None:
    if not isinstance(value, types):
        wanted = " or ".join(t.__name__ for t in types)
        raise TypeError(f"{name} must be a {wanted}, got {type(value).__name__}")


def _check_arguments(arguments: Mapping[str, Any]) -> None:
    """Types of the arguments of `SqueezeBertTokenizer`, by name."""
    for name in ("vocab_file", "tokenizer_file"):
        if arguments[name] is not None:
            _check_type(name, arguments[name], str, os.PathLike)
    for name in ("unk_token", "sep_token", "pad_token", "cls_token", "mask_token"):
        _check_type(name, arguments[name], str, AddedToken)
    for name in ("do_lower_case", "tokenize_chinese_chars", "strip_accents"):
        if arguments[name] is not None:
            _check_type(name, arguments[name], bool)
    vocab, never_split = arguments["vocab"], arguments["never_split"]
    if vocab is not None:
        _check_type("vocab", vocab, Mapping, str, os.PathLike)
    if isinstance(vocab, Mapping):
        for token, number in vocab.items():
            if not isinstance(token, str) or not isinstance(number, int) or number < 0:
                raise TypeError(f"vocab must map tokens to ids >= 0, got {token!r}: {number!r}")
    if never_split is not None:
        _check_type("never_split", never_split, Iterable)
        for token in never_split:
            _check_type("never_split: a token", token, str)
    if arguments["tokenizer_object"] is not None:
        _check_type("tokenizer_object", arguments["tokenizer_object"], Tokenizer)


def _read_vocab(vocab_file: str | os.PathLike[str]) -> dict[str, int]:
    """The tokens of a `vocab.txt`, one a line, each mapped to the number of its line from 0.

    The library decides what a line is: a line feed ends it, a carriage return inside it is part of the token, and white
    space behind a token is not. Any other answer would shift the id of every later token.
    """
    path = Path(vocab_file)
    if not path.is_file():
        raise ValueError(f"vocab_file {str(path)!r} is no file")
    try:
        tokens: dict[str, int] = WordPiece.read_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"vocab_file {str(path)!r} is no UTF-8 text: {error}") from error
    return tokens


def _read_backend(tokenizer_file: str | os.PathLike[str]) -> Tokenizer:
    """The tokenizer that a `tokenizer.json` describes, which must be a WordPiece one."""
    path = Path(tokenizer_file)
    if not path.is_file():
        raise ValueError(f"tokenizer_file {str(path)!r} is no file")
    try:
        backend = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"tokenizer_file {str(path)!r} cannot be read: {error}") from error
    if not isinstance(backend.model, WordPiece):
        raise ValueError(
            f"tokenizer_file {str(path)!r} holds a {type(backend.model).__name__} model, SqueezeBERT needs WordPiece"
        )
    return backend


def _normalizer_settings(backend: Tokenizer) -> dict[str, Any]:
    """What the normalizer of `backend` is set to, where it is BERT's."""
    found = backend.normalizer
    if not isinstance(found, normalizers.BertNormalizer):
        return {}
    return {
        "clean_text": found.clean_text,
        "handle_chinese_chars": found.handle_chinese_chars,
        "strip_accents": found.strip_accents,
        "lowercase": found.lowercase,
    }


def make_lower_case(tokenizer: PreTrainedTokenizerFast) -> None:
    """Lets a tokenizer lower-case every text first of all; accents are kept or dropped as before."""
    backend = tokenizer.backend_tokenizer
    settings = _normalizer_settings(backend)
    if settings:  # to lower-case in between, as this one does, gives the same for every code point
        if settings["strip_accents"] is None:
            settings["strip_accents"] = settings["lowercase"]
        backend.normalizer = normalizers.BertNormalizer(**{**settings, "lowercase": True})
    else:
        others = [backend.normalizer] if backend.normalizer is not None else []
        backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *others])


class SqueezeBertTokenizer(PreTrainedTokenizerFast):
    """Text to token ids and back, with BERT's uncased WordPiece vocabulary.

    Give exactly one of `vocab_file`, `tokenizer_file`, `vocab` and `tokenizer_object`; where both files are named, as
    `from_pretrained` does for a folder that has both, `tokenizer.json` is the one that is read.

    Args:
        vocab_file: a `vocab.txt`, one token a line.
        tokenizer_file: a `tokenizer.json` of the `tokenizers` library.
        do_lower_case: lower the text first. Left out, it is what `tokenizer_file` says, else True.
        do_basic_tokenize: normalise, and split at punctuation and around CJK characters, before WordPiece; without it
            text is only split at white space.
        never_split: tokens of the vocabulary to keep whole wherever they stand as a word of their own.
        unk_token, sep_token, pad_token, cls_token, mask_token: the special tokens.
        tokenize_chinese_chars: set white space around every CJK character. Left out, as `do_lower_case`.
        strip_accents: drop combining marks. Left out, it is what `tokenizer_file` says, else what `do_lower_case` says.
        vocab: a mapping of token to id, or the path of a `vocab.txt` (transformers 5 spells it so).
        tokenizer_object: a `tokenizers.Tokenizer` with a WordPiece model.
        **kwargs: as transformers' `PreTrainedTokenizerFast` (`model_max_length`, `padding_side`, ...).

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: no vocabulary was given; a file is missing, unreadable or of another kind; the vocabulary lacks
            `unk_token` or a token of `never_split`.
    """

    vocab_files_names = VOCAB_FILES_NAMES
    model_input_names: ClassVar[list[str]] = ["input_ids", "token_type_ids", "attention_mask"]
    padding_side = "right"
    slow_tokenizer_class = None
    # transformers 5 checks which model a subclass builds.
    model = WordPiece

    def __init__(
        self,
        vocab_file: str | os.PathLike[str] | None = None,
        tokenizer_file: str | os.PathLike[str] | None = None,
        do_lower_case: bool | None = None,
        do_basic_tokenize: bool = True,
        never_split: Iterable[str] | None = None,
        unk_token: str | AddedToken = "[UNK]",
        sep_token: str | AddedToken = "[SEP]",
        pad_token: str | AddedToken = "[PAD]",
        cls_token: str | AddedToken = "[CLS]",
        mask_token: str | AddedToken = "[MASK]",
        tokenize_chinese_chars: bool | None = None,
        strip_accents: bool | None = None,
        *,
        vocab: Mapping[str, int] | str | os.PathLike[str] | None = None,
        tokenizer_object: Tokenizer | None = None,
        **kwargs: Any,
    ) -> None:
        if isinstance(never_split, Iterable):  # which may be read only once
            never_split = list(never_split)
        _check_arguments(locals())
        if tokenizer_object is not None:
            source, backend = "tokenizer_object", Tokenizer.from_str(tokenizer_object.to_str())
            if not isinstance(backend.model, WordPiece):
                raise ValueError(
                    f"tokenizer_object holds a {type(backend.model).__name__} model, SqueezeBERT needs WordPiece"
                )
        elif tokenizer_file is not None:
            source, backend = f"tokenizer_file {os.fspath(tokenizer_file)!r}", _read_backend(tokenizer_file)
        elif vocab_file is not None or vocab is not None:
            if vocab_file is None and isinstance(vocab, Mapping):
                source, tokens = "vocab", dict(vocab)
            else:
                path: Any = vocab_file if vocab_file is not None else vocab
                source, tokens = f"vocab_file {os.fspath(path)!r}", _read_vocab(path)
            backend = Tokenizer(WordPiece(tokens, unk_token=str(unk_token)))
        else:
            raise ValueError(
                "no vocabulary: give vocab_file (a vocab.txt), tokenizer_file (a tokenizer.json), vocab or "
                "tokenizer_object, or call from_pretrained"
            )
        if backend.token_to_id(str(unk_token)) is None:
            raise ValueError(f"{source} has no unk_token {str(unk_token)!r}: is it a BERT vocabulary?")

        settings: dict[str, Any] = {
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        }
        settings |= _normalizer_settings(backend)
        given = {
            "handle_chinese_chars": tokenize_chinese_chars,
            "strip_accents": strip_accents,
            "lowercase": do_lower_case,
        }
        settings |= {name: value for name, value in given.items() if value is not None}
        if do_basic_tokenize:
            backend.normalizer = normalizers.BertNormalizer(**settings)
            backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        else:
            backend.normalizer = None
            backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        backend.decoder = decoders.WordPiece(prefix="##")
        # The base class of transformers 5 puts a template of its own where it finds none.
        backend.post_processor = processors.TemplateProcessing(single="$A:0", pair="$A:0 $B:1", special_tokens=[])

        never_split = sorted(set(never_split)) if never_split is not None else None
        for token in never_split or ():
            if backend.token_to_id(token) is None:
                raise ValueError(f"never_split token {token!r} is not in {source}")
            backend.add_tokens([AddedToken(token, single_word=True, normalized=False)])

        if not TRANSFORMERS_5:  # as its BERT tokenizers: decode() takes away the space before punctuation
            kwargs.setdefault("clean_up_tokenization_spaces", True)
        self.do_lower_case = settings["lowercase"]
        self.do_basic_tokenize = do_basic_tokenize
        self.never_split = never_split
        self.tokenize_chinese_chars = settings["handle_chinese_chars"]
        self.strip_accents = settings["strip_accents"]
        super().__init__(
            tokenizer_object=backend,
            do_lower_case=self.do_lower_case,
            do_basic_tokenize=do_basic_tokenize,
            never_split=never_split,
            unk_token=unk_token,
            sep_token=sep_token,
            pad_token=pad_token,
            cls_token=cls_token,
            mask_token=mask_token,
            tokenize_chinese_chars=self.tokenize_chinese_chars,
            strip_accents=self.strip_accents,
            **kwargs,
        )
        # Only now does every special token have an id: the base class adds those that the vocabulary lacks.
        cls, sep = str(self.cls_token), str(self.sep_token)
        self._tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{cls}:0 $A:0 {sep}:0",
            pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
            special_tokens=[(cls, self.cls_token_id), (sep, self.sep_token_id)],
        )

    @classmethod
    def convert_to_native_format(cls, **kwargs: Any) -> dict[str, Any]:
        """Leave the files to `__init__`, which reads either of them (transformers 5 would unpack them beforehand)."""
        kwargs.pop("trust_remote_code", None)
        return kwargs

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """`[CLS] A [SEP]`, or `[CLS] A [SEP] B [SEP]` for a pair.

        Args:
            token_ids_0: ids of A, without special tokens.
            token_ids_1: ids of B, without special tokens, for a pair.

        Returns:
            The ids with the special tokens in place.
        """
        ids = [self.cls_token_id, *token_ids_0, self.sep_token_id]
        return ids if token_ids_1 is None else [*ids, *token_ids_1, self.sep_token_id]

    def create_token_type_ids_from_sequences(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """The segment type of every id that `build_inputs_with_special_tokens` returns for the same arguments.

        Returns:
            0 for `[CLS] A [SEP]`, 1 for `B [SEP]`.
        """
        first = [0] * (len(token_ids_0) + 2)
        return first if token_ids_1 is None else first + [1] * (len(token_ids_1) + 1)

    def get_special_tokens_mask(
        self,
        token_ids_0: list[int],
        token_ids_1: list[int] | None = None,
        already_has_special_tokens: bool = False,
    ) -> list[int]:
        """Which positions hold special tokens.

        Args:
            token_ids_0: ids of the first sequence.
            token_ids_1: ids of the second, for a pair.
            already_has_special_tokens: `token_ids_0` is a finished input, special tokens included, to be searched for
                them; otherwise the answer is for the input that `build_inputs_with_special_tokens` would make.

        Returns:
            1 for a special token, 0 for any other.

        Raises:
            ValueError: a second sequence beside `already_has_special_tokens=True`.
        """
        if already_has_special_tokens:
            if token_ids_1 is not None:
                raise ValueError(
                    "token_ids_1 must be None with already_has_special_tokens=True: a finished pair is one sequence"
                )
            special = set(self.all_special_ids)
            return [int(int(token) in special) for token in token_ids_0]
        mask = [1, *[0] * len(token_ids_0), 1]
        return mask if token_ids_1 is None else [*mask, *[0] * len(token_ids_1), 1]

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str]:
        """Write the vocabulary, without added tokens, as `[filename_prefix-]vocab.txt`.

        Args:
            save_directory: the folder to write to, made where it is missing.
            filename_prefix: put before the file's name, with a dash.

        Returns:
            The path written, alone in a tuple.

        Raises:
            ValueError: `save_directory` is a file.
        """
        _check_type("save_directory", save_directory, str, os.PathLike)
        folder = Path(save_directory)
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"save_directory {str(folder)!r} is a file, it must be a folder")
        folder.mkdir(parents=True, exist_ok=True)
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        path = folder / f"{prefix}{VOCAB_FILES_NAMES['vocab_file']}"
        tokens = {number: token for token, number in self._tokenizer.get_vocab(with_added_tokens=False).items()}
        size = max(tokens, default=-1) + 1
        # A line's number is its id, so every id takes a line; no text can spell one of the placeholders.
        lines = [tokens.get(number, "\n") for number in range(size)]
        unsaid = [n for n, token in enumerate(lines) if "\n" in token or token != token.rstrip(_WHITE_SPACE)]
        if unsaid:
            warnings.warn(
                f"{len(unsaid)} ids of the vocabulary have no token, or one that a line of vocab.txt cannot hold: "
                f"{unsaid[:5]}",
                stacklevel=2,
            )
        for number in unsaid:
            lines[number] = f"[no token {number}]"
        write_file(path, "".join(f"{line}\n" for line in lines))
        return (str(path),)

    def _save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        file_names: tuple[str, ...],
        legacy_format: bool | None = None,
        filename_prefix: str | None = None,
    ) -> tuple[str, ...]:
        """`tokenizer.json`, and `vocab.txt` for readers that know only that one."""
        written = super()._save_pretrained(save_directory, file_names, None, filename_prefix)
        if legacy_format is not False:
            written = (*written, *self.save_vocabulary(os.fspath(save_directory), filename_prefix))
        return written

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "padding_side" and value == "left":
            warnings.warn(_LEFT_PADDING, stacklevel=2)
        super().__setattr__(name, value)

    def set_truncation_and_padding(self, *args: Any, **kwargs: Any) -> None:
        """As the base class; warns where one call asks for padding on the left."""
        if kwargs.get("padding_side") == "left":
            warnings.warn(_LEFT_PADDING, stacklevel=2)
        super().set_truncation_and_padding(*args, **kwargs)

    def _pad(self, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("padding_side") == "left":
            warnings.warn(_LEFT_PADDING, stacklevel=2)
        return super()._pad(*args, **kwargs)


class SqueezeBertTokenizerFast(SqueezeBertTokenizer):
    """The same tokenizer under the name that transformers 4 gives the one over the `tokenizers` library."""
