"""Find entities in text: fine-tuning SqueezeBERT with transformers' Trainer.

The small data are lines of Python's standard library (PSF licence), split into tokens; the entities are what Python's
own parser finds in them: modules, classes, functions, parameters and calls. For CoNLL-2003:
`--dataset conll2003 --model squeezebert/squeezebert-uncased`.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

import common
import numpy as np
import transformers

import squeezebert_kernels as sbk

PACKAGES = ("asyncio", "email", "http", "json", "logging", "urllib")


def entities(tree: ast.AST) -> Iterator[tuple[int, int, str, str]]:
    """(line, column, name, kind) of what is named in Python code; a name may have dots."""
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            yield node.lineno, node.col_offset, node.arg, "PARAMETER"
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            start = node.col_offset + len("import " if isinstance(node, ast.Import) else "from ")
            yield node.lineno, start, names[0], "MODULE"
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            start = node.col_offset + len("def " if isinstance(node, ast.FunctionDef) else "async def ")
            yield node.lineno, start, node.name, "FUNCTION"
        elif isinstance(node, ast.ClassDef):
            yield node.lineno, node.col_offset + len("class "), node.name, "CLASS"
        elif isinstance(node, ast.Call):
            yield node.func.lineno, node.func.col_offset, ast.unparse(node.func), "CALL"


def small_data() -> common.Rows:
    """Rows of "tokens" and "ner_tags", one tag for every token: B-KIND, I-KIND or O."""
    rows = {}
    for _, source in common.library_sources(*PACKAGES):
        kinds = {(line, column): (name, kind) for line, column, name, kind in entities(ast.parse(source))}
        lines = defaultdict(list)
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type in (tokenize.NAME, tokenize.OP, tokenize.NUMBER, tokenize.STRING):
                lines[token.start[0]].append(token)
        for line in lines.values():
            tags, inside, end = [], "", 0
            for token in line:
                name, kind = kinds.get(token.start, ("", ""))
                if re.fullmatch(r"[\w.]+", name):
                    tags.append(f"B-{kind}")
                    inside, end = kind, token.start[1] + len(name)
                else:
                    tags.append(f"I-{inside}" if token.end[1] <= end else "O")
            # Python 3.12 splits f-strings into tokens, earlier ones do not.
            if 4 <= len(line) <= 24 and set(tags) != {"O"} and not re.search(r"\bf['\"]", line[0].line):
                rows[tuple(token.string for token in line)] = tags
    return [{"tokens": list(tokens), "ner_tags": tags} for tokens, tags in sorted(rows.items())]


def spans(tags: Sequence[str]) -> set[tuple[int, int, str]]:
    """(start, end, kind) of every entity."""
    found, start = set(), 0
    for i, tag in enumerate([*tags, "O"]):
        previous = tags[i - 1] if i else "O"
        if previous != "O" and (tag[:2] != "I-" or tag[2:] != previous[2:]):
            found.add((start, i, previous[2:]))
        if tag[:2] == "B-" or (tag[:2] == "I-" and tag[2:] != previous[2:]):
            start = i
    return found


def f1(predicted: Sequence[Sequence[str]], right: Sequence[Sequence[str]]) -> float:
    """F1 of whole entities, as CoNLL counts."""
    pairs = [(spans(a), spans(b)) for a, b in zip(predicted, right)]
    both, total = sum(len(a & b) for a, b in pairs), sum(len(a) + len(b) for a, b in pairs)
    return 2 * both / max(total, 1)


def main(argv: Sequence[str] | None = None) -> int:
    args = common.parse(
        __doc__,
        argv,
        small={"epochs": 6, "batch_size": 32, "learning_rate": 2e-3, "max_length": 64, "rows": 3000, "at_least": 0.75},
        real={"epochs": 3, "max_length": 128},
    )
    data = common.load(args, small_data, columns=["tokens"], label="ner_tags")
    tokenizer = common.make_tokenizer(args, [" ".join(row["tokens"]) for row in data.train])
    model = common.make_model(args, sbk.SqueezeBertForTokenClassification, tokenizer, data.names)

    def features(rows: common.Rows) -> common.Rows:
        encoded = tokenizer(
            [row["tokens"] for row in rows], is_split_into_words=True, truncation=True, max_length=args.max_length
        )
        result = []
        for i, row in enumerate(rows):
            words = encoded.word_ids(i)  # the first piece of a word has its tag, the others have none
            first = [word is not None and word != before for before, word in zip([None, *words], words)]
            labels = [row["ner_tags"][word] if new else -100 for word, new in zip(words, first)]
            result.append({"labels": labels, **{key: values[i] for key, values in encoded.items()}})
        return result

    train, test = features(data.train), features(data.test)

    def metrics(prediction: transformers.EvalPrediction) -> dict[str, float]:
        kept = prediction.label_ids != -100
        tags = np.array(data.names)
        predicted, right = (
            [tags[row[keep]].tolist() for row, keep in zip(numbers, kept)]
            for numbers in (prediction.predictions.argmax(-1), prediction.label_ids)
        )
        return {"f1": f1(predicted, right)}

    def trainer_for(model) -> transformers.Trainer:
        return transformers.Trainer(
            model=model,
            args=common.training_arguments(args, len(train)),
            train_dataset=train,
            data_collator=transformers.DataCollatorForTokenClassification(tokenizer),
            compute_metrics=metrics,
        )

    trainer_for(model).train()

    def show(model, tokenizer) -> None:
        find = transformers.pipeline("ner", model=model, tokenizer=tokenizer, aggregation_strategy="first")
        for row in data.test[:3]:
            text = " ".join(row["tokens"])
            print(f"  {text}\n    " + ", ".join(f"{e['word']}: {e['entity_group']}" for e in find(text)))

    counts = defaultdict(Counter)
    for row in data.train:
        for token, tag in zip(row["tokens"], row["ner_tags"]):
            counts[token][tag] += 1
    usual = {token: data.names[tags.most_common(1)[0][0]] for token, tags in counts.items()}
    return common.finish(
        args,
        model,
        tokenizer,
        evaluate=lambda model: trainer_for(model).predict(test).metrics,
        metric="f1",
        baseline=f1(
            [[usual.get(token, "O") for token in row["tokens"]] for row in data.test],
            [[data.names[tag] for tag in row["ner_tags"]] for row in data.test],
        ),
        show=show,
    )


if __name__ == "__main__":
    sys.exit(main())
