"""A model on NumPy arrays: what may be passed, what comes back, and the words for what may not be passed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _native

DTYPES = {"float32": 1, "bfloat16": 2, "int8": 3, "float16": 4}
HEADS = {
    "none": 1,
    "masked_lm": 2,
    "sequence_classification": 3,
    "multiple_choice": 4,
    "token_classification": 5,
    "question_answering": 6,
}
OUTPUTS = ("hidden_states", "pooled", "logits")
_PER_TOKEN = ("masked_lm", "token_classification", "question_answering")


@dataclass(frozen=True)
class Info:
    """What is known of a loaded model."""

    architecture: str  #: "squeezebert" or "bert"
    head: str  #: "none", "masked_lm", "sequence_classification", ...
    dtype: str  #: what the encoder multiplies in: "float32", "float16", "bfloat16" or "int8"
    isa: str  #: the tier whose layout the weights have
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    max_length: int  #: the longest sequence
    num_labels: int  #: values of logits per row or token; vocab_size for masked language models; 0 without a head
    has_pooler: bool
    has_tokenizer: bool
    mapped_bytes: int  #: of the file, used in place
    allocated_bytes: int  #: of weights in memory
    repacked_bytes: int  #: part of allocated_bytes: the file had them for another tier


class Output(NamedTuple):
    """Float32 arrays; None where an output was not asked for."""

    hidden_states: NDArray[np.float32] | None  #: [batch, length, hidden_size] of the last layer; 0: padding
    pooled: NDArray[np.float32] | None  #: [batch, hidden_size]: tanh(pooler(first token))
    logits: NDArray[np.float32] | None
    """[batch, num_labels] for sequence classification, [batch] for multiple choice (a row is a question with one of its
    choices), [batch, length, num_labels] for the heads with logits per token, [len(logit_tokens), num_labels] with
    logit_tokens."""


class Tokens(NamedTuple):
    """The tokens of one text or pair."""

    ids: NDArray[np.int32]  #: [tokens], with [CLS] and [SEP]
    token_type_ids: NDArray[np.int32]  #: [tokens]: 1 from the first token of the pair on
    offsets: NDArray[np.int64]  #: [tokens, 2]: characters [begin, end) of text or pair; 0, 0 for special tokens


def _int32(name: str, value: ArrayLike, shape: tuple[int | None, ...], booleans: bool = False) -> NDArray[np.int32]:
    """`value` as a dense int32 array: itself if it is one. None in `shape` is any size.

    Other threads may write to `value` meanwhile. So what is converted is copied before it is checked; int32 arrays are
    checked behind this, when they have been copied too.
    """
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} is not an array: {error}") from None
    if array.ndim != len(shape) or any(want not in (None, size) for want, size in zip(shape, array.shape, strict=True)):
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(f"{name} must have the shape [{wanted}], got {list(array.shape)}")
    if array.size == 0 and array.dtype.kind == "f":
        array = array.astype(np.int32)  # an empty list
    if array.dtype.kind not in ("iub" if booleans else "iu"):
        raise TypeError(f"{name} must be integers, got {array.dtype}")
    if array.dtype != np.int32:
        array = array.copy()
        limits = np.iinfo(np.int32)
        if array.size and array.dtype.kind != "b" and (int(array.min()) < limits.min or int(array.max()) > limits.max):
            worst = int(array.max()) if int(array.max()) > limits.max else int(array.min())
            raise ValueError(f"{name} has {worst}, which is no 32-bit integer")
        array = array.astype(np.int32)
    return np.ascontiguousarray(array)


def _characters(text: bytes, spans: NDArray[np.int64]) -> NDArray[np.int64]:
    """Byte offsets in UTF-8 as character offsets."""
    if text.isascii():
        return spans
    text = text[: int(spans.max(initial=0))]  # what is behind was cut off, however long it is
    starts = (np.frombuffer(text, np.uint8) & 0xC0) != 0x80
    before = np.concatenate([np.zeros(1, np.int64), np.cumsum(starts, dtype=np.int64)])
    return before[spans]


class Model:
    """A model, ready to run.

    Any number of Python threads may call one model at once: the GIL is released, weights are shared, and each call in
    progress has a context (threads and scratch memory) of its own, which is kept for later calls. So n concurrent
    callers use n * threads threads: pass ``threads=1`` to serve many.

    A model is a context manager: at the end of a ``with`` block it is closed. Pickling keeps the path and the options
    and loads again, also in another process, where the file must be there; so does copying. After ``fork()`` the child
    may go on with the model of its parent, on one thread.

    Args:
        path: a ``.sbk`` file, which is mapped and must not change meanwhile, or a folder with ``config.json`` and
            ``model.safetensors``.
        dtype: what the encoder multiplies in: "float32", "float16", "bfloat16" or "int8". None: as the file has it,
            float32 for a folder. A ``.sbk`` file has one dtype.
        head: "none", "masked_lm", "sequence_classification", "multiple_choice", "token_classification" or
            "question_answering". None: from ``architectures`` in the configuration.
        isa: the instruction set tier whose layout the weights get. None: the active one.
        threads: threads of a call, the calling one included; 0: one for each of `big_cores()`.
        verify: compare the checksums of all weights, and look for bytes that are hidden in the file, which reads all
            of it. None: of files of less than 200 MB.
        pin: keep threads (but the calling one) on `big_cores()`.

    Raises:
        OSError: a file cannot be read.
        ValueError: a file is damaged or not what its name says; an architecture, head, dtype or tier that is not
            supported; an argument out of range.
        MemoryError: no memory.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        dtype: str | None = None,
        head: str | None = None,
        isa: str | None = None,
        threads: int = 0,
        verify: bool | None = None,
        pin: bool = False,
    ) -> None:
        for name, value, known in (("dtype", dtype, DTYPES), ("head", head, HEADS)):
            if value is not None and value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        if not 0 <= threads <= 4096:
            raise ValueError(f"threads must be from 0 to 4096, got {threads}")
        raw_path = os.fsencode(path)
        if b"\0" in raw_path:
            raise ValueError(f"path {path!r} has a NUL in it")
        # What pickling keeps: the folder that a path counts from may be another one elsewhere.
        options = {"dtype": dtype, "head": head, "isa": isa, "threads": threads, "verify": verify, "pin": pin}
        self._origin: tuple[str, dict[str, Any]] = (os.path.abspath(os.fsdecode(raw_path)), options)
        self._closed = False
        self._native = _native.Model(
            raw_path,
            DTYPES[dtype] if dtype else 0,
            HEADS[head] if head else 0,
            isa,
            -1 if verify is None else int(verify),
            threads,
            pin,
        )
        raw: dict[str, Any] = self._native.info()
        raw["dtype"] = next(name for name, number in DTYPES.items() if number == raw["dtype"])
        raw["head"] = next(name for name, number in HEADS.items() if number == raw["head"])
        self.info = Info(**raw)
        self.labels: list[str] = self._native.labels()
        """Names of the labels, from ``id2label``."""

    @property
    def threads(self) -> int:
        """Threads of a call, the calling one included."""
        return self._native.threads

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._closed

    def close(self) -> None:
        """Frees weights, threads and scratch memory, and unmaps the file; what a call is using goes when it ends.

        After that calls, tokenizing and pickling are ValueErrors. ``info``, ``labels`` and ``threads`` stay. May be
        called again.
        """
        self._closed = True
        self._native.close()

    def __enter__(self) -> Model:
        self._require_open()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        self._require_open()
        return _load, self._origin

    def _require_open(self) -> None:
        if self._closed:
            raise ValueError("the model is closed")

    def __repr__(self) -> str:
        i = self.info
        return (
            f"Model({i.architecture}, {i.head}, {i.num_layers} layers of {i.hidden_size}, {i.dtype}, {i.isa}, "
            f"threads={self.threads})"
        )

    def __call__(
        self,
        ids: ArrayLike,
        token_type_ids: ArrayLike | None = None,
        *,
        lengths: ArrayLike | None = None,
        attention_mask: ArrayLike | None = None,
        logit_tokens: ArrayLike | None = None,
        outputs: Iterable[str] | None = None,
    ) -> Output:
        """Runs the model. The same input gives the same bits, for any number of threads.

        Inputs are copied first: what other threads write to them meanwhile changes nothing. Other integers than int32
        are converted.

        Args:
            ids: [batch, length] integers from 0 to vocab_size - 1; length is at most ``info.max_length``.
            token_type_ids: [batch, length]; None: all 0.
            lengths: [batch]: the first so many tokens of each row are real, at least 1. Padding costs nothing.
            attention_mask: [batch, length] of 0 and 1 (or booleans), a 1 in every row; instead of lengths.
            logit_tokens: [n] indices ``row * length + position``: logits of these tokens only, for heads with logits
                per token.
            outputs: of "hidden_states", "pooled" and "logits"; None: those that the model has.

        Raises:
            TypeError: an array of another type than integers, or outputs that are no names.
            ValueError: a shape or value that is not possible, or an output that the model does not have; the message
                names the argument. The model is closed.
            MemoryError: no memory.
        """
        self._require_open()
        info = self.info
        tokens = _int32("ids", ids, (None, None))
        batch, length = tokens.shape
        if batch > 1 << 20:
            raise ValueError(f"ids must have at most {1 << 20} rows, got {batch}")
        if not 1 <= length <= info.max_length:
            raise ValueError(f"ids must have from 1 to max_length={info.max_length} columns, got {length}")
        types = None if token_type_ids is None else _int32("token_type_ids", token_type_ids, (batch, length))
        counts = None if lengths is None else _int32("lengths", lengths, (batch,))
        mask = None if attention_mask is None else _int32("attention_mask", attention_mask, (batch, length), True)
        chosen = None if logit_tokens is None else _int32("logit_tokens", logit_tokens, (None,))
        if chosen is not None and info.head not in _PER_TOKEN:
            raise ValueError(f"logit_tokens is for heads with logits per token, not for head={info.head!r}")
        wanted = self._outputs(outputs)
        hidden = np.empty((batch, length, info.hidden_size), np.float32) if "hidden_states" in wanted else None
        pooled = np.empty((batch, info.hidden_size), np.float32) if "pooled" in wanted else None
        logits = np.empty(self._logits_shape(batch, length, chosen), np.float32) if "logits" in wanted else None
        self._native.run(tokens, types, counts, mask, chosen, hidden, pooled, logits)
        return Output(hidden, pooled, logits)

    def _outputs(self, outputs: Iterable[str] | None) -> Sequence[str]:
        has = ["hidden_states"]
        has += ["pooled"] if self.info.has_pooler else []
        has += ["logits"] if self.info.head != "none" else []
        if outputs is None:
            return has
        if isinstance(outputs, str):
            raise TypeError(f"outputs must be a sequence of names, got the string {outputs!r}")
        try:
            wanted = tuple(outputs)
        except TypeError:
            raise TypeError(f"outputs must be a sequence of names, got {type(outputs).__name__}") from None
        for name in wanted:
            if name not in OUTPUTS:
                raise ValueError(f"outputs must be of {', '.join(OUTPUTS)}, got {name!r}")
            if name not in has:
                raise ValueError(f"outputs: the model has no {name}, only {', '.join(has)}")
        return wanted

    def _logits_shape(self, batch: int, length: int, chosen: NDArray[np.int32] | None) -> tuple[int, ...]:
        info = self.info
        if info.head == "multiple_choice":
            return (batch,)
        if info.head == "sequence_classification":
            return (batch, info.num_labels)
        if chosen is not None:
            return (chosen.size, info.num_labels)
        return (batch, length, info.num_labels)

    def tokenize(
        self, text: str, pair: str | None = None, *, max_length: int | None = None, truncation: bool = True
    ) -> Tokens:
        """[CLS] text [SEP], or [CLS] text [SEP] pair [SEP], as the tokenizer that the model was exported with.

        Args:
            text, pair: any text.
            max_length: tokens to truncate to, the longer text first; None: ``info.max_length``.
            truncation: False: text that is too long is a ValueError.

        Raises:
            TypeError: text or pair is no str.
            ValueError: the model has no tokenizer; max_length is impossible; text is too long, or has half a surrogate
                pair.
        """
        self._require_open()
        if max_length is not None and not 1 <= max_length <= self.info.max_length:
            raise ValueError(f"max_length must be from 1 to {self.info.max_length}, got {max_length}")
        for name, value in (("text", text), ("pair", pair)):
            if not isinstance(value, str) and not (value is None and name == "pair"):
                raise TypeError(f"{name} must be a str, got {type(value).__name__}")
        first, second = text.encode(), None if pair is None else pair.encode()
        ids, types, spans = self._native.tokenize(first, second, max_length or 0, truncation)
        offsets = _characters(first, np.where(types[:, None] == 0, spans, 0))
        if second is not None:
            of_pair = _characters(second, np.where(types[:, None] == 1, spans, 0))
            offsets = np.where(types[:, None] == 1, of_pair, offsets)
        return Tokens(ids, types, offsets)

    def encode_batch(
        self, texts: Sequence[str | tuple[str, str]], *, max_length: int | None = None
    ) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
        """Texts, or (text, pair) tuples, as arrays for a call: ``ids, token_type_ids, lengths``.

        The first two are [len(texts), longest], filled up with [PAD] and 0; lengths is [len(texts)].

        Raises:
            TypeError: texts is one string.
            ValueError: texts is empty, or what tokenize() raises.
        """
        if isinstance(texts, str):
            raise TypeError("texts must be a sequence of texts, got one string")
        rows = [self.tokenize(*((text,) if isinstance(text, str) else text), max_length=max_length) for text in texts]
        if not rows:
            raise ValueError("texts is empty")
        lengths = np.array([row.ids.size for row in rows], np.int32)
        ids = np.full((len(rows), int(lengths.max())), max(self.token_id("[PAD]"), 0), np.int32)
        types = np.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : row.ids.size] = row.ids
            types[i, : row.ids.size] = row.token_type_ids
        return ids, types, lengths

    def decode(self, ids: ArrayLike) -> str:
        """The text of [tokens] ids, without special tokens and ids that are no token."""
        self._require_open()
        return self._native.decode(_int32("ids", ids, (None,)))

    def token_id(self, token: str) -> int:
        """The id of a token as it is written in the vocabulary ("[MASK]", "##ing"), -1 if there is none."""
        self._require_open()
        return -1 if "\0" in token else self._native.token_id(token)


def _load(path: str, options: dict[str, Any]) -> Model:
    """A pickled model."""
    return Model(path, **options)
