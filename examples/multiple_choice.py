"""Choose the best of several endings: fine-tuning SqueezeBERT with transformers' Trainer.

The small data are names of characters of Unicode 3.2 (Unicode licence), which every Python carries: which of four
characters is, say, a punctuation mark? For SWAG: `--dataset swag --model squeezebert/squeezebert-uncased`.
"""

from __future__ import annotations

import random
import sys
import unicodedata
from collections import Counter
from collections.abc import Sequence

import common
import numpy as np
import torch
import transformers

import squeezebert_kernels as sbk

QUESTIONS = {
    "Lu": "Which character is an uppercase letter?",
    "Ll": "Which character is a lowercase letter?",
    "Lo": "Which character is a letter without case?",
    "M": "Which character is a mark that combines with others?",
    "N": "Which character is a number?",
    "P": "Which character is punctuation?",
    "Sm": "Which character is a symbol of mathematics?",
    "So": "Which character is some other symbol?",
}
CHOICES = 4


def small_data() -> common.Rows:
    """Rows as in SWAG: "sent1", "sent2", "ending0" to "ending3" and "label"."""
    characters = unicodedata.ucd_3_2_0  # the same in every version of Python
    names = {kind: [] for kind in QUESTIONS}
    for code in range(0x20000):
        name, category = characters.name(chr(code), ""), characters.category(chr(code))
        kind = category if category in names else category[0]
        if name and kind in names and not name.startswith(("CJK", "HANGUL SYLLABLE", "YI ")):
            names[kind].append(name.lower())
    rows, draw = [], random.Random(0)
    for _ in range(2500):
        kinds = draw.sample(sorted(names), CHOICES)
        label = draw.randrange(CHOICES)
        endings = {f"ending{i}": draw.choice(names[kind]) for i, kind in enumerate(kinds)}
        rows.append({"sent1": QUESTIONS[kinds[label]], "sent2": "", **endings, "label": str(label)})
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    args = common.parse(
        __doc__,
        argv,
        small={"epochs": 4, "batch_size": 16, "learning_rate": 2e-3, "max_length": 64, "at_least": 0.8},
        real={"epochs": 3, "max_length": 128},
    )
    endings = [f"ending{i}" for i in range(CHOICES)]
    data = common.load(args, small_data, columns=["sent1", "sent2", *endings], label="label")
    tokenizer = common.make_tokenizer(args, [row[name] for row in data.train for name in ("sent1", "sent2", *endings)])
    model = common.make_model(args, sbk.SqueezeBertForMultipleChoice, tokenizer)

    def features(rows: common.Rows) -> common.Rows:
        encoded = tokenizer(
            [row["sent1"] for row in rows for _ in endings],
            [f"{row['sent2']} {row[name]}".strip() for row in rows for name in endings],
            truncation=True,
            max_length=args.max_length,
        )
        starts = range(0, CHOICES * len(rows), CHOICES)
        return [
            {"labels": row["label"], **{key: encoded[key][start : start + CHOICES] for key in encoded}}
            for start, row in zip(starts, rows)
        ]

    train, test = features(data.train), features(data.test)

    def trainer_for(model) -> transformers.Trainer:
        return transformers.Trainer(
            model=model,
            args=common.training_arguments(args, len(train)),
            train_dataset=train,
            data_collator=transformers.DataCollatorForMultipleChoice(tokenizer),
            compute_metrics=lambda p: {"accuracy": np.mean(p.predictions.argmax(-1) == p.label_ids)},
        )

    trainer_for(model).train()

    def show(model, tokenizer) -> None:
        # There is no pipeline for this task: a batch of one row has the shape [1, choices, length].
        for row in data.test[:3]:
            texts = [f"{row['sent2']} {row[name]}".strip() for name in endings]
            inputs = tokenizer([row["sent1"]] * CHOICES, texts, padding=True, return_tensors="pt")
            with torch.inference_mode():
                best = model(**{key: value[None] for key, value in inputs.items()}).logits.argmax(-1).item()
            print(f"  {row['sent1']}\n    " + " | ".join(texts) + f"\n    {texts[best]}, right: {texts[row['label']]}")

    most_frequent = Counter(row["label"] for row in data.train).most_common(1)[0][0]
    return common.finish(
        args,
        model,
        tokenizer,
        evaluate=lambda model: trainer_for(model).predict(test).metrics,
        metric="accuracy",
        baseline=np.mean([row["label"] == most_frequent for row in data.test]),
        show=show,
    )


if __name__ == "__main__":
    sys.exit(main())
