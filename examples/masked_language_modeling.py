"""Predict masked words: pretraining SqueezeBERT, or adapting it to new text, with transformers' Trainer.

The small data are the names of the first characters of Unicode 3.2 (Unicode licence), which every Python carries. For
WikiText-2: `--dataset wikitext --model squeezebert/squeezebert-uncased`.
"""

from __future__ import annotations

import sys
import unicodedata
from collections import Counter
from collections.abc import Sequence

import common
import numpy as np
import torch
import transformers

import squeezebert_kernels as sbk


def small_data() -> common.Rows:
    """Rows of "text"."""
    characters = unicodedata.ucd_3_2_0  # the same in every version of Python
    names = (characters.name(chr(code), "") for code in range(0x3000))
    return [{"text": name.lower()} for name in names if name]


def main(argv: Sequence[str] | None = None) -> int:
    args = common.parse(
        __doc__,
        argv,
        small={"epochs": 4, "batch_size": 32, "learning_rate": 6e-3, "max_length": 32, "at_least": 0.25},
        real={"epochs": 3, "max_length": 128},
        mask={"type": float, "default": 0.15, "metavar": "P", "help": "the part of the tokens to predict"},
    )
    data = common.load(args, small_data, columns=["text"])
    tokenizer = common.make_tokenizer(args, [row["text"] for row in data.train])
    model = common.make_model(args, sbk.SqueezeBertForMaskedLM, tokenizer)
    mask = transformers.DataCollatorForLanguageModeling(tokenizer, mlm_probability=args.mask)

    pad = transformers.DataCollatorForTokenClassification(tokenizer)

    def features(rows: common.Rows) -> common.Rows:
        """The ids of every text, long texts in pieces."""
        texts = [row["text"] for row in rows if row["text"].strip()]
        encoded = tokenizer(texts, truncation=True, max_length=args.max_length, return_overflowing_tokens=True)
        return [{"input_ids": ids} for ids in encoded["input_ids"]]

    train = features(data.train)
    # Masks are drawn anew in every epoch, but once for the test, so that models are compared on the same ones.
    test = [{key: value[0] for key, value in mask([row]).items()} for row in features(data.test)]

    def trainer_for(model) -> transformers.Trainer:
        return transformers.Trainer(
            model=model,
            args=common.training_arguments(args, len(train)),
            train_dataset=train,
            data_collator=lambda rows: pad(rows) if "labels" in rows[0] else mask(rows),
            preprocess_logits_for_metrics=lambda logits, labels: logits.argmax(-1),
            compute_metrics=lambda p: {"accuracy": np.mean((p.predictions == p.label_ids)[p.label_ids != -100])},
        )

    trainer_for(model).train()

    def show(model, tokenizer) -> None:
        fill = transformers.pipeline("fill-mask", model=model, tokenizer=tokenizer, top_k=3)
        for text in ("latin small letter a with [MASK]", "greek [MASK] letter alpha"):
            print(f"  {text}\n    " + ", ".join(f"{guess['token_str']} {guess['score']:.2f}" for guess in fill(text)))

    hidden = torch.cat([row["labels"] for row in test])
    most_frequent = Counter(token for row in train for token in row["input_ids"][1:-1]).most_common(1)[0][0]
    return common.finish(
        args,
        model,
        tokenizer,
        evaluate=lambda model: trainer_for(model).predict(test).metrics,
        metric="accuracy",
        baseline=(hidden[hidden != -100] == most_frequent).double().mean().item(),
        show=show,
    )


if __name__ == "__main__":
    sys.exit(main())
