"""Classify sentences, or pairs of sentences: fine-tuning SqueezeBERT with transformers' Trainer.

The small data are sentences from the docstrings of Python's standard library (PSF licence); the label is the package
that a sentence documents. `--dataset glue/sst2 --model squeezebert/squeezebert-uncased` is the real thing.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter
from collections.abc import Sequence

import common
import numpy as np
import transformers

import squeezebert_kernels as sbk

PACKAGES = ("asyncio", "email", "unittest", "xml", "_pydecimal")


def small_data() -> common.Rows:
    """Rows of "text" and "label"."""
    found = {}
    for package, source in common.library_sources(*PACKAGES):
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Module)):
                text = ast.get_docstring(node) or ""
                for sentence in re.split(r"(?<=[.:?])\s+|\n\s*\n", text):
                    if 5 <= len(sentence.split()) <= 40 and ">>>" not in sentence:
                        found[" ".join(sentence.split())] = package.strip("_")
    return [{"text": text, "label": label} for text, label in found.items()]


def text_columns(rows: common.Rows) -> list[str]:
    """The first columns with text, two at most: "text", "sentence", "premise" and "hypothesis", ..."""
    columns = [name for name, value in rows[0].items() if isinstance(value, str)]
    return columns[:2] or common.stop(f"no column has text; there are {list(rows[0])}")


def features(tokenizer, rows: common.Rows, columns: Sequence[str], max_length: int) -> common.Rows:
    """What the model takes: a text, or two texts in one sequence, and a label."""
    texts = [[row[name] for row in rows] for name in columns]
    encoded = tokenizer(*texts, truncation=True, max_length=max_length)
    return [{"labels": row["label"], **{key: encoded[key][i] for key in encoded}} for i, row in enumerate(rows)]


def show_some(model, tokenizer, data: common.Data, columns: Sequence[str]) -> None:
    """Classify some of the test rows as an application would."""
    classify = transformers.pipeline("text-classification", model=model, tokenizer=tokenizer)
    for row in data.test[:3]:
        texts = dict(zip(("text", "text_pair"), (row[name] for name in columns)))
        best, right = classify([texts])[0], data.names[row["label"]]
        print(f"  {' | '.join(texts.values())}\n    {best['label']} {best['score']:.2f}, right: {right}")


def main(argv: Sequence[str] | None = None) -> int:
    args = common.parse(
        __doc__,
        argv,
        small={"epochs": 5, "batch_size": 32, "learning_rate": 2e-3, "max_length": 48, "at_least": 0.8},
        real={"epochs": 3, "max_length": 128},
    )
    data = common.load(args, small_data, columns=(), label="label")
    columns = text_columns(data.train)
    tokenizer = common.make_tokenizer(args, [row[name] for row in data.train for name in columns])
    model = common.make_model(args, sbk.SqueezeBertForSequenceClassification, tokenizer, data.names)
    train, test = (features(tokenizer, rows, columns, args.max_length) for rows in (data.train, data.test))

    def trainer_for(model) -> transformers.Trainer:
        return transformers.Trainer(
            model=model,
            args=common.training_arguments(args, len(train)),
            train_dataset=train,
            data_collator=transformers.DataCollatorWithPadding(tokenizer),
            compute_metrics=lambda p: {"accuracy": np.mean(p.predictions.argmax(-1) == p.label_ids)},
        )

    trainer_for(model).train()

    most_frequent = Counter(row["label"] for row in data.train).most_common(1)[0][0]
    return common.finish(
        args,
        model,
        tokenizer,
        evaluate=lambda model: trainer_for(model).predict(test).metrics,
        metric="accuracy",
        baseline=np.mean([row["label"] == most_frequent for row in data.test]),
        show=lambda model, tokenizer: show_some(model, tokenizer, data, columns),
    )


if __name__ == "__main__":
    sys.exit(main())
