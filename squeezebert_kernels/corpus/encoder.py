"""A checkpoint on the kernels, and texts through it in batches of like length."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..console import UserError, quiet_transformers
from ..fusion.optimize import Report, optimize, report
from ..models.hub import FILES, fetch_checkpoint
from ..models.sentence_config import SentenceConfig, read_sentence_config
from ..models.sentence_head import SentenceHead
from ..models.tokenization import make_lower_case
from .job import Job, one_line

Progress = Callable[[int, int], None]
"""Called after each batch with its numbers of rows and tokens."""


def find_model(name: str, *, sentence: bool = False) -> tuple[Path, str]:
    """(the folder of a checkpoint, a note): ``name`` itself, or that of the hub; UserError if there is none.

    ``sentence``: with the files of sentence-transformers.
    """
    if Path(name).is_dir():
        return Path(name), ""
    found, reason = fetch_checkpoint(name, sentence=sentence)
    if found is None:
        raise UserError(f"--model: {name!r} is no folder, and as a name on the hub: {reason}")
    note = f"{name}: no modules.json in the cache, and {reason}: whether the model has one is not known"
    return found, note if reason else ""


def identity(folder: Path, config: SentenceConfig) -> str:
    """A hash of the files of a checkpoint that decide what it computes."""
    there = {file for file in (folder / config.encoder).iterdir() if any(fnmatch.fnmatch(file.name, p) for p in FILES)}
    total = hashlib.sha256()
    for file in sorted(there | {folder / name for name in config.files}):
        with file.open("rb") as opened:
            one = hashlib.sha256()
            while block := opened.read(1 << 20):
                one.update(block)
        total.update(f"{file.relative_to(folder).as_posix()} {one.hexdigest()}\n".encode())
    return total.hexdigest()


@dataclass
class Encoded:
    """Results of texts, in their order."""

    values: Any  # embed: float32 [N, C]; classify: (names of labels [N], float32 scores [N])
    finite: np.ndarray  # bool [N]: False where the model gave no number
    tokens: int
    longest: int  # texts that have as many tokens as a text may have: they may have been cut
    seconds: dict[str, float]


class Encoder:
    """A model and its tokenizer.

    Raises:
        UserError: there is no such model, it does not load, it lacks weights or a head, or it is not for the kernels.
    """

    def __init__(self, job: Job) -> None:
        # Read once, at first use. A worker with one thread should not tokenize on all CPUs.
        os.environ.setdefault("RAYON_NUM_THREADS", str(job.threads))
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
        torch.set_num_threads(job.threads)
        quiet_transformers()
        self.job = job
        folder, self.note = find_model(job.model, sentence=job.task == "embed" and job.sentence_files)
        config = _sentence_config(folder, job)
        try:
            self.identity = identity(folder, config)
        except OSError as error:
            raise UserError(f"--model: {str(folder)!r} cannot be read: {one_line(error)}") from None
        if job.identity not in ("", self.identity):
            raise UserError(f"--model: {str(folder)!r} is not the model with which the run was begun")
        self.model, self.tokenizer = _load(folder / config.encoder, job)
        if (tokens := len(self.tokenizer)) > self.model.config.vocab_size:
            raise UserError(
                f"--model: in {str(folder)!r} the tokenizer has {tokens} tokens, "
                f"the model {self.model.config.vocab_size}"
            )
        if config.lower_case:
            make_lower_case(self.tokenizer)
        self.config = self._limited(config)
        self.max_length: int = self.config.max_length or 0
        self.prompt_length = self._prompt_length()
        self.head: SentenceHead | None = None
        if job.task == "embed":
            try:
                self.head = SentenceHead(self.config, folder, self.model.config.hidden_size)
            except ValueError as error:
                raise UserError(f"--model: {str(folder)!r}: {error}") from None
        # Packs the weights, so that the first rows are not slower; decides what falls back.
        self(["", "a longer text"])

    def _limited(self, config: SentenceConfig) -> SentenceConfig:
        """The configuration with a length that the model takes."""
        positions, length = self.model.config.max_position_embeddings, config.max_length
        if length is None:
            room = int(min(positions, self.tokenizer.model_max_length))
            config = replace(config, max_length=room, why={**config.why, "max_length": "what the model takes"})
        elif length > positions:
            if self.job.max_length is not None:
                raise UserError(f"--max-length {length}: the model takes {positions} tokens")
            why = f"what the model takes; {config.why['max_length']} says {length}"
            config = replace(config, max_length=positions, why={**config.why, "max_length": why})
        special = self.tokenizer.num_special_tokens_to_add()
        if (config.max_length or 0) <= special:
            by_hand = self.job.max_length is not None
            given = "--max-length" if by_hand else f"--model: {config.why['max_length']}: a length of"
            raise UserError(
                f"{given} {config.max_length} leaves no room for text: it must be at least {special + 1}, "
                f"{special} of which are special tokens"
            )
        return config

    def _prompt_length(self) -> int:
        """Tokens of the prompt with the special one before it."""
        if not self.config.prompt:
            return 0
        ids = self.tokenizer(self.config.prompt)["input_ids"]
        length = len(ids) - (ids[-1:] != [] and ids[-1] in self.tokenizer.all_special_ids)
        if length + 1 >= self.max_length:
            raise UserError(f"the prompt {self.config.prompt!r} leaves no room for text in {self.max_length} tokens")
        return length

    @property
    def report(self) -> Report:
        """What runs on the kernels."""
        return report(self.model)

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str], progress: Progress | None = None) -> Encoded:
        start = time.perf_counter()
        ids = self._tokenize([self.config.prompt + text for text in texts]) if texts else []
        tokenized = time.perf_counter()
        lengths = [len(row) for row in ids]
        results: list[Any] = [None] * len(ids)
        for batch in batches(lengths, self.job.batch_tokens):
            for i, result in zip(batch, self._run([ids[i] for i in batch])):
                results[i] = result
            if progress is not None:
                progress(len(batch), sum(lengths[i] for i in batch))
        values, finite = self._collect(results)
        seconds = {"tokenizing": tokenized - start, "model": time.perf_counter() - tokenized}
        return Encoded(values, finite, sum(lengths), sum(n >= self.max_length for n in lengths), seconds)

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        options = {"return_attention_mask": False, "return_token_type_ids": False}
        ids: list[list[int]] = self.tokenizer(texts, truncation=True, max_length=self.max_length, **options)[
            "input_ids"
        ]
        return ids

    def _run(self, rows: list[list[int]]) -> np.ndarray:
        """[B, C]: embeddings, or the scores of all labels."""
        shape = len(rows), max(1, *map(len, rows))
        ids = torch.full(shape, self.tokenizer.pad_token_id or 0)
        mask = torch.zeros(shape, dtype=torch.long)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1
        output = self.model(input_ids=ids, attention_mask=mask)
        if self.head is not None:
            return self.head(output.last_hidden_state.float(), mask, self.prompt_length).numpy()
        return _scores(output.logits.float(), self.model.config).numpy()

    def _collect(self, results: list[np.ndarray]) -> tuple[Any, np.ndarray]:
        table = np.stack(results) if results else np.empty((0, 1), np.float32)
        if self.head is not None:
            if not results:
                table = np.empty((0, self.head.width), np.float32)
            if self.job.half_output:
                with np.errstate(over="ignore"):
                    table = table.astype(np.float16)
            return table, finite_rows(table)
        best = table.argmax(1)
        names = [self.model.config.id2label[int(i)] for i in best]
        return (names, table[np.arange(len(table)), best]), finite_rows(table)


def finite_rows(table: Any) -> np.ndarray:
    """bool [N]: whether all values of a row of [N, C] are numbers."""
    return np.asarray(np.isfinite(table).all(axis=1))


def batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Indices in batches of at most ``batch_tokens`` tokens with their padding, or of one text; the longest first."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    result = []
    start = 0
    while start < len(order):
        count = max(1, batch_tokens // max(1, lengths[order[start]]))
        result.append(order[start : start + count])
        start += count
    return result


def _scores(logits: torch.Tensor, config: Any) -> torch.Tensor:
    """As transformers' pipeline has them: probabilities, except for a regression."""
    kind = getattr(config, "problem_type", None)
    if kind == "regression":
        return logits
    if kind == "multi_label_classification" or logits.shape[-1] == 1:
        return logits.sigmoid()
    return logits.softmax(-1)


def _sentence_config(folder: Path, job: Job) -> SentenceConfig:
    """What the checkpoint and the options say together; for labels only the options count."""
    embed = job.task == "embed"
    try:
        config = read_sentence_config(folder) if embed and job.sentence_files else SentenceConfig()
    except ValueError as error:
        raise UserError(
            f"--model: {str(folder)!r}: {one_line(error)}; --no-sentence-files takes the model without these files"
        ) from None
    try:
        return config.with_options(
            pooling=job.pooling, normalize=job.normalize, prompt=job.prompt, prompt_name=job.prompt_name,
            max_length=job.max_length,
        )  # fmt: skip
    except ValueError as error:
        raise UserError(error) from None


def _load(folder: Path, job: Job) -> tuple[Any, Any]:
    import transformers

    for needed in (("config.json",), ("vocab.txt", "tokenizer.json")):
        if not any((folder / file).is_file() for file in needed):
            raise UserError(f"--model: no {' or '.join(needed)} in {str(folder)!r}")
    classify = job.task == "classify"
    cls = transformers.AutoModelForSequenceClassification if classify else transformers.AutoModel
    try:
        model, info = cls.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # a damaged file makes transformers, safetensors and tokenizers raise many kinds
        raise UserError(f"--model: {str(folder)!r} does not load: {one_line(error)}") from None
    # transformers gives random values to weights that a checkpoint lacks. Embeddings need no pooler.
    lost = sorted(name for name in info["missing_keys"] if classify or not name.startswith("pooler."))
    if lost:
        what = "is no classifier" if any(n.startswith("classifier.") for n in lost) else "is not whole"
        raise UserError(f"--model: the checkpoint in {str(folder)!r} {what}: it has no {', '.join(lost[:3])}")
    try:
        compute: dict[str, Any] = (
            {"quantization": "int8"} if job.dtype == "int8" else {"dtype": getattr(torch, job.dtype)}
        )
        return optimize(model.eval(), skip_padding=True, **compute), tokenizer
    except ValueError as error:
        raise UserError(f"--model: {str(folder)!r}: {error}") from None
