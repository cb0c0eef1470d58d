"""Train SqueezeBERT on the scores of a larger teacher: distillation with transformers' Trainer.

The published `squeezebert-mnli` was fine-tuned so. Beside the right labels the student learns from the teacher's scores
for every label, softened by a temperature. The data, small or real, are those of text_classification.py. The teacher is
a BERT, trained first, or `--teacher NAME`: any classifier with the same labels and vocabulary.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence

import common
import numpy as np
import torch
import transformers
from text_classification import features, show_some, small_data, text_columns
from torch.nn import functional as F

import squeezebert_kernels as sbk


class DistillationTrainer(transformers.Trainer):
    """Adds the distance to the teacher's softened scores to the model's own loss.

    Args:
        teacher: gives `logits` for the same inputs, [batch, labels].
        temperature: what scores are divided by before softmax: the higher, the more the small ones tell.
        alpha: the part of the teacher in the loss, from 0 to 1.
        **kwargs: those of `Trainer`.
    """

    def __init__(self, *, teacher: torch.nn.Module, temperature: float, alpha: float, **kwargs) -> None:
        super().__init__(**kwargs)
        self.teacher, self.temperature, self.alpha = teacher.eval(), temperature, alpha

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(**inputs)
        with torch.no_grad():
            wanted = self.teacher(**inputs).logits
        given, wanted = (F.log_softmax(logits / self.temperature, -1) for logits in (outputs.logits, wanted))
        soft = F.kl_div(given, wanted, log_target=True, reduction="batchmean")
        # The gradient of softened scores shrinks with the square of the temperature.
        loss = self.alpha * self.temperature**2 * soft + (1 - self.alpha) * outputs.loss
        return (loss, outputs) if return_outputs else loss


def make_teacher(args: argparse.Namespace, tokenizer, names: Sequence[str]) -> torch.nn.Module:
    """The checkpoint `--teacher`, or a BERT with random weights, larger than the student."""
    if args.teacher:
        vocabulary = transformers.AutoTokenizer.from_pretrained(args.teacher).get_vocab()
        teacher = transformers.AutoModelForSequenceClassification.from_pretrained(args.teacher)
        if vocabulary != tokenizer.get_vocab():
            common.stop(f"--teacher {args.teacher} has another vocabulary than the student")
        if teacher.config.num_labels != len(names):
            common.stop(f"--teacher {args.teacher} has {teacher.config.num_labels} labels, the data {len(names)}")
        return teacher
    small = {**common.SMALL_MODEL, "hidden_size": 96, "intermediate_size": 192}
    config = transformers.BertConfig(**small, vocab_size=len(tokenizer), num_labels=len(names))
    return transformers.BertForSequenceClassification(config)


def main(argv: Sequence[str] | None = None) -> int:
    args = common.parse(
        __doc__,
        argv,
        small={"epochs": 4, "batch_size": 32, "learning_rate": 2e-3, "max_length": 48, "at_least": 0.8},
        real={"epochs": 3, "max_length": 128},
        teacher={"metavar": "NAME", "help": "a checkpoint with a classifier; default: a BERT that is trained first"},
        temperature={"type": float, "default": 2.0, "metavar": "T", "help": "softens the scores"},
        alpha={"type": float, "default": 0.7, "metavar": "A", "help": "the part of the teacher in the loss"},
    )
    data = common.load(args, small_data, columns=(), label="label")
    columns = text_columns(data.train)
    tokenizer = common.make_tokenizer(args, [row[name] for row in data.train for name in columns])
    train, test = (features(tokenizer, rows, columns, args.max_length) for rows in (data.train, data.test))

    def trainer_for(model, trainer_class=transformers.Trainer, **more) -> transformers.Trainer:
        return trainer_class(
            model=model,
            args=common.training_arguments(args, len(train)),
            train_dataset=train,
            data_collator=transformers.DataCollatorWithPadding(tokenizer),
            compute_metrics=lambda p: {"accuracy": np.mean(p.predictions.argmax(-1) == p.label_ids)},
            **more,
        )

    def evaluate(model) -> dict[str, float]:
        return trainer_for(model).predict(test).metrics

    teacher = make_teacher(args, tokenizer, data.names)
    if not args.teacher:
        trainer_for(teacher).train()
        sbk.optimize(teacher)  # the kernels know BERT too
    print(f"teacher: accuracy {evaluate(teacher)['test_accuracy']:.3f}, {teacher.num_parameters()} parameters")

    model = common.make_model(args, sbk.SqueezeBertForSequenceClassification, tokenizer, data.names)
    print(f"student: {model.num_parameters()} parameters")
    learning = {"teacher": teacher, "temperature": args.temperature, "alpha": args.alpha}
    trainer_for(model, DistillationTrainer, **learning).train()

    most_frequent = Counter(row["label"] for row in data.train).most_common(1)[0][0]
    return common.finish(
        args,
        model,
        tokenizer,
        evaluate=evaluate,
        metric="accuracy",
        baseline=np.mean([row["label"] == most_frequent for row in data.test]),
        show=lambda model, tokenizer: show_some(model, tokenizer, data, columns),
    )


if __name__ == "__main__":
    sys.exit(main())
