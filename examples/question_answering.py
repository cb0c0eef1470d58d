"""Find the answer to a question in a text: fine-tuning SqueezeBERT with transformers' Trainer.

The small data are functions of Python's standard library (PSF licence), their signatures and docstrings, with questions
about them. For SQuAD: `--dataset squad --model squeezebert/squeezebert-uncased`.
"""

from __future__ import annotations

import ast
import random
import re
import string
import sys
from collections import Counter
from collections.abc import Iterator, Sequence

import common
import numpy as np
import torch
import transformers

import squeezebert_kernels as sbk

MODULES = (
    *("asyncio", "concurrent", "email", "html", "http", "importlib", "json", "logging", "multiprocessing", "unittest"),
    *("urllib", "wsgiref", "xml", "xmlrpc", "argparse", "ast", "codecs", "difflib", "ftplib", "gettext", "imaplib"),
    *("inspect", "mailbox", "optparse", "pdb", "pydoc", "random", "shutil", "smtplib", "socket", "ssl", "statistics"),
    *("subprocess", "tarfile", "tempfile", "threading", "typing", "uuid", "zipfile", "_pydecimal", "_pyio"),
)


def questions(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[tuple[str, str, str, int]]:
    """(question, context, answer, where it starts)."""
    arguments = function.args
    parameters = [argument.arg for argument in arguments.args if argument.arg not in ("self", "cls")]
    signature = f"{function.name}({ast.unparse(arguments)})"
    document = " ".join((ast.get_docstring(function) or "").split("\n\n")[0].split())
    context = f"{signature}: {document}"
    yield "What is the function called?", context, function.name, 0
    if document:
        sentence = re.split(r"(?<=[.:;])\s", document)[0]
        yield "What does it do?", context, sentence, len(signature) + 2
    for which, name in zip(("first", "last"), (parameters[:1], parameters[-1:])):
        if name:
            places = list(re.finditer(rf"\b{re.escape(name[0])}\b", signature[len(function.name) :]))
            start = len(function.name) + places[0].start()
            yield f"What is the {which} parameter?", context, name[0], start
    if arguments.defaults:
        default = ast.unparse(arguments.defaults[-1])
        yield "What is the default of the last parameter?", context, default, signature.rindex(default)


def small_data() -> common.Rows:
    """Rows as in SQuAD: "question", "context" and "answers" with "text" and "answer_start"; one for each function."""
    draw, rows = random.Random(0), {}
    for _, source in common.library_sources(*MODULES):
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and ast.get_docstring(node):
                question, context, answer, start = draw.choice(list(questions(node)))
                if len(context) <= 250:
                    answers = {"text": [answer], "answer_start": [start]}
                    rows[context] = {"question": question, "context": context, "answers": answers}
    return list(rows.values())


def normalized(answer: str) -> str:
    """As SQuAD compares answers: without case, punctuation, articles and extra spaces."""
    kept = "".join(letter for letter in answer.lower() if letter not in string.punctuation)
    return " ".join(word for word in kept.split() if word not in ("a", "an", "the"))


def exact_match(predicted: Sequence[str], rows: common.Rows) -> float:
    """The part of the answers that are one of the right ones."""
    return float(np.mean([normalized(p) in map(normalized, row["answers"]["text"]) for p, row in zip(predicted, rows)]))


class Answers:
    """From rows to features, and from the model's scores to text. A long context becomes several features."""

    def __init__(self, tokenizer, rows: common.Rows, max_length: int, longest_answer: int = 30) -> None:
        self.rows, self.longest_answer = rows, longest_answer
        self.encoded = tokenizer(
            [row["question"].strip() for row in rows],
            [row["context"] for row in rows],
            truncation="only_second",
            max_length=max_length,
            stride=max_length // 4,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        self.row_of = self.encoded["overflow_to_sample_mapping"]
        # Where in the context a token comes from; None for what is no part of it.
        self.offsets = [
            [place if kind == 1 else None for place, kind in zip(offsets, self.encoded.sequence_ids(i))]
            for i, offsets in enumerate(self.encoded["offset_mapping"])
        ]

    def inputs(self) -> common.Rows:
        names = ("input_ids", "token_type_ids", "attention_mask")
        return [{name: self.encoded[name][i] for name in names} for i in range(len(self.offsets))]

    def features(self) -> common.Rows:
        result = self.inputs()
        for feature, offsets, row in zip(result, self.offsets, self.row_of):
            answers = self.rows[row]["answers"]
            start, end = self._tokens(offsets, answers["answer_start"][0], len(answers["text"][0]))
            feature |= {"start_positions": start, "end_positions": end}
        return result

    @staticmethod
    def _tokens(offsets, start: int, length: int) -> tuple[int, int]:
        """First and last token of an answer; [CLS], 0, where it is not in this part of the context."""
        inside = [i for i, at in enumerate(offsets) if at and at[0] < start + length and at[1] > start]
        whole = inside and offsets[inside[0]][0] <= start and offsets[inside[-1]][1] >= start + length
        return (inside[0], inside[-1]) if whole else (0, 0)

    def texts(self, start_logits, end_logits) -> list[str]:
        """The best answer to every question, over all parts of its context."""
        best = [(-np.inf, "")] * len(self.rows)
        for i, offsets in enumerate(self.offsets):
            length = len(offsets)
            scores = start_logits[i][:length, None] + end_logits[i][None, :length]
            possible = np.array([at is not None for at in offsets])
            allowed = np.tril(np.triu(possible[:, None] & possible), self.longest_answer)
            scores = np.where(allowed, scores, -np.inf)
            first, last = np.unravel_index(scores.argmax(), scores.shape)
            row = self.row_of[i]
            if scores[first, last] > best[row][0]:
                context = self.rows[row]["context"]
                best[row] = (scores[first, last], context[offsets[first][0] : offsets[last][1]])
        return [text for _, text in best]


def answer(model, tokenizer, rows: common.Rows, max_length: int) -> list[str]:
    """The answers to the rows' questions, in one batch."""
    asked = Answers(tokenizer, rows, max_length)
    with torch.inference_mode():
        output = model(**tokenizer.pad(asked.inputs(), return_tensors="pt"))
    return asked.texts(output.start_logits.numpy(), output.end_logits.numpy())


def main(argv: Sequence[str] | None = None) -> int:
    args = common.parse(
        __doc__,
        argv,
        small={"epochs": 5, "batch_size": 32, "learning_rate": 3e-3, "max_length": 128, "at_least": 0.5},
        real={"epochs": 2, "max_length": 384},
    )
    data = common.load(args, small_data, columns=["question", "context", "answers"])
    data.train, data.test = ([row for row in rows if row["answers"]["text"]] for rows in (data.train, data.test))
    tokenizer = common.make_tokenizer(args, [row[name] for row in data.train for name in ("question", "context")])
    model = common.make_model(args, sbk.SqueezeBertForQuestionAnswering, tokenizer)
    train = Answers(tokenizer, data.train, args.max_length).features()
    asked = Answers(tokenizer, data.test, args.max_length)
    test = asked.features()

    def trainer_for(model) -> transformers.Trainer:
        return transformers.Trainer(
            model=model,
            args=common.training_arguments(args, len(train)),
            train_dataset=train,
            data_collator=transformers.DataCollatorWithPadding(tokenizer),
            compute_metrics=lambda p: {"exact_match": exact_match(asked.texts(*p.predictions), data.test)},
        )

    trainer_for(model).train()

    def show(model, tokenizer) -> None:
        # transformers 5 has no pipeline for this task.
        rows = data.test[:3]
        for row, found in zip(rows, answer(model, tokenizer, rows, args.max_length)):
            print(f"  {row['context']}\n    {row['question']} {found!r}, right: {row['answers']['text'][0]!r}")

    most_frequent = Counter(row["answers"]["text"][0] for row in data.train).most_common(1)[0][0]
    return common.finish(
        args,
        model,
        tokenizer,
        evaluate=lambda model: trainer_for(model).predict(test).metrics,
        metric="exact_match",
        baseline=exact_match([most_frequent] * len(data.test), data.test),
        show=show,
    )


if __name__ == "__main__":
    sys.exit(main())
