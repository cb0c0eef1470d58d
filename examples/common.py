"""What the programs in this folder share: arguments, data, tokenizer, model, and what follows on training.

A program describes its small data and how rows become features; everything here is the same for every task.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import transformers
from tokenizers import Tokenizer, normalizers, pre_tokenizers, trainers
from tokenizers.models import WordPiece

import squeezebert_kernels as sbk

Rows = list[dict[str, Any]]

# Short names of data sets on the Hugging Face hub, and the configuration where none is given.
SHORT_NAMES = {
    "glue": ("nyu-mll/glue", "sst2"),
    "conll2003": ("lhoestq/conll2003", None),
    "squad": ("rajpurkar/squad", None),
    "swag": ("allenai/swag", "regular"),
    "wikitext": ("Salesforce/wikitext", "wikitext-2-raw-v1"),
}
# A model that learns in seconds on one core; its groups are those of the published one.
SMALL_MODEL = {
    "hidden_size": 64,
    "embedding_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 256,
    "initializer_range": 0.1,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
SMALL_VOCABULARY = 1000


def stop(message: str) -> NoReturn:
    """End the program with a message for the user."""
    sys.exit(f"error: {message}")


def parse(
    description: str, argv: Sequence[str] | None, *, small: dict[str, Any], real: dict[str, Any], **more: Any
) -> argparse.Namespace:
    """The arguments of a program.

    Args:
        description: the first line is shown by --help.
        argv: what to parse; None is the command line.
        small, real: defaults of epochs, batch_size, learning_rate, max_length, rows and at_least: those of the small
            data, and what differs with --dataset or --model.
        **more: further options, name to the arguments of `add_argument`.
    """
    parser = argparse.ArgumentParser(description=description.splitlines()[0], allow_abbrev=False)
    parser.add_argument(
        "--dataset",
        metavar="NAME",
        help=f"a data set of the hub, OWNER/NAME[/CONFIG] or one of {', '.join(SHORT_NAMES)} (as in glue/sst2), or a "
        "folder that datasets' save_to_disk wrote; default: small data that this computer has",
    )
    parser.add_argument("--model", metavar="NAME", help="a checkpoint; default: a small model with random weights")
    parser.add_argument("--output", metavar="DIR", help="where the model is saved; default: a temporary folder")
    parser.add_argument("--epochs", type=float, metavar="N", help="passes over the training data")
    parser.add_argument("--batch-size", type=int, metavar="N", help="rows in a training step")
    parser.add_argument("--learning-rate", type=float, metavar="X", help="the highest one")
    parser.add_argument("--max-length", type=int, metavar="N", help="tokens of a sequence at most")
    parser.add_argument("--rows", type=int, metavar="N", help="read at most N rows of each split")
    parser.add_argument("--at-least", type=float, metavar="X", help="the metric to reach, or exit with status 1")
    parser.add_argument("--bf16", action="store_true", help="train under bfloat16 autocast")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    for name, options in more.items():
        parser.add_argument(f"--{name.replace('_', '-')}", **options)
    args = parser.parse_args(argv)
    defaults = {"rows": None, "at_least": None, **small}
    if args.dataset or args.model:
        defaults |= {"rows": None, "at_least": None, "learning_rate": 5e-5 if args.model else small["learning_rate"]}
        defaults |= real
    for name, value in defaults.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    for name in ("epochs", "batch_size", "learning_rate", "max_length", "rows"):
        value = getattr(args, name)
        if value is not None and not 0 < value < math.inf:
            parser.error(f"--{name.replace('_', '-')} must be above 0, got {value}")
    args.output = args.output or tempfile.mkdtemp(prefix="squeezebert-")
    transformers.set_seed(args.seed)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return args


# --- data


@dataclass
class Data:
    """Rows to train on, rows to judge by, and the names of the labels where there are labels."""

    train: Rows
    test: Rows
    names: list[str]


def load(args: argparse.Namespace, small_data: Callable[[], Rows], columns: Sequence[str], label: str = "") -> Data:
    """The small data, or what --dataset names.

    Args:
        small_data: makes the rows of the small data, their labels as text.
        columns: columns that the task needs.
        label: the column that has a label, or a list of them, in every row. Each becomes an index of `names`.
    """
    limit = args.rows or sys.maxsize
    names: list[Any] | None = None
    if args.dataset is None:
        rows = small_data()
        random.Random(0).shuffle(rows)
        train, test = _cut(rows[:limit])
    else:
        splits = _read_dataset(args.dataset)
        if not isinstance(splits, dict) or "train" not in splits:
            stop(f"--dataset {args.dataset} has no split 'train'")
        found = splits["train"].features
        for column in (*columns, *filter(None, [label])):
            if column not in found:
                stop(f"--dataset {args.dataset} has no column {column!r}; it has {list(found)}")
        if label:
            names = getattr(getattr(found[label], "feature", found[label]), "names", None)
        held_out = [name for kind in ("validation", "test") for name in splits if name.startswith(kind)]
        shuffled = (splits[name].shuffle(seed=0) for name in ["train", *held_out[:1]])
        train, *tests = (list(rows.select(range(min(limit, len(rows))))) for rows in shuffled)
        train, test = (train, tests[0]) if tests else _cut(train)
    if label:  # -1 stands for a label that is kept secret
        train, test = ([row for row in rows if row[label] != -1] for rows in (train, test))
    if not train or not test:
        stop(f"{len(train)} rows to train on and {len(test)} to test on are not enough")
    if label and names is None:
        names = sorted({name for row in train for name in _flat(row[label])})
        numbers = {name: number for number, name in enumerate(names)}
        for row in (*train, *test):
            for name in _flat(row[label]):
                if isinstance(name, float) or name not in numbers:
                    stop(f"{label} {name!r} is no label of the training data; it has {len(numbers)} labels")
            row[label] = [numbers[n] for n in row[label]] if isinstance(row[label], list) else numbers[row[label]]
    names = [str(name) for name in names or []]
    print(f"{len(train)} rows to train on, {len(test)} to test on" + (f", labels {', '.join(names)}" if names else ""))
    return Data(train, test, names)


def _cut(rows: Rows) -> tuple[Rows, Rows]:
    """Six sevenths to train on, the rest to test on."""
    cut = len(rows) * 6 // 7
    return rows[:cut], rows[cut:]


def _flat(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _read_dataset(name: str) -> Any:
    try:
        import datasets
    except ImportError:
        stop("--dataset needs the package datasets: pip install datasets")
    parts = name.split("/")
    if parts[0] in SHORT_NAMES:
        repository, config = SHORT_NAMES[parts[0]]
        config = "/".join(parts[1:]) or config
    else:
        repository, config = "/".join(parts[:2]), "/".join(parts[2:]) or None
    try:
        return datasets.load_from_disk(name) if Path(name).is_dir() else datasets.load_dataset(repository, config)
    except Exception as error:  # of the network, the hub, the name or the files
        stop(f"--dataset {name}: {type(error).__name__}: {str(error).splitlines()[0]}")


def library_sources(*names: str) -> Iterator[tuple[str, str]]:
    """(name, text) of every source file, tests excepted, of these parts of Python's standard library."""
    library = Path(sysconfig.get_paths()["stdlib"])
    for name in names:
        path = library / name
        files = sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
        for file in files:
            if "test" in file.relative_to(library).parts:  # some versions have them there
                continue
            try:
                yield name, file.read_text(encoding="utf-8")
            except OSError as error:
                stop(f"the small data is the source of Python's standard library, which is not all here: {error}")


# --- tokenizer and model


def make_tokenizer(args: argparse.Namespace, texts: Sequence[str]) -> sbk.SqueezeBertTokenizerFast:
    """The checkpoint's tokenizer, or one with a small vocabulary of WordPieces learned from `texts`."""
    if args.model:
        return sbk.SqueezeBertTokenizerFast.from_pretrained(args.model)
    backend = Tokenizer(WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=SMALL_VOCABULARY, special_tokens=special, show_progress=False)
    backend.train_from_iterator(texts, trainer)
    # The trainer finds the same tokens every time, but not in the same order.
    tokens = [*special, *sorted(backend.get_vocab().keys() - set(special))]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    return sbk.SqueezeBertTokenizerFast(vocab=vocabulary, model_max_length=args.max_length)


def make_model(args: argparse.Namespace, model_class: Any, tokenizer: Any, names: Sequence[str] = ()) -> Any:
    """The checkpoint with this task's head, or a small model with random weights.

    Args:
        names: of the labels, kept in the configuration for pipelines.
    """
    labels: dict[str, Any] = {}
    if names:
        labels = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    if args.model:
        model = model_class.from_pretrained(args.model, **labels)
    else:
        model = model_class(sbk.SqueezeBertConfig(**SMALL_MODEL, vocab_size=len(tokenizer), **labels))
    longest = model.config.max_position_embeddings
    if args.max_length > longest:
        stop(f"--max-length {args.max_length}: the model has {longest} positions")
    return model


def training_arguments(args: argparse.Namespace, rows: int) -> transformers.TrainingArguments:
    """What `Trainer` is told; `rows` is the number of features to train on."""
    steps = math.ceil(rows / args.batch_size) * args.epochs
    return transformers.TrainingArguments(
        args.output,
        num_train_epochs=args.epochs,
        per_device_train_batch_size=args.batch_size,
        per_device_eval_batch_size=64,
        learning_rate=args.learning_rate,
        warmup_steps=math.ceil(steps / 10),
        bf16=args.bf16,
        seed=args.seed,
        save_strategy="no",
        logging_steps=max(1, math.ceil(steps / 5)),
        report_to=[],
        disable_tqdm=not sys.stderr.isatty(),
        use_cpu=True,  # leave it out to train on a GPU; what `finish` does is for CPUs
    )


# --- after training


def finish(
    args: argparse.Namespace,
    model: Any,
    tokenizer: Any,
    evaluate: Callable[[Any], dict[str, float]],
    metric: str,
    baseline: float,
    show: Callable[[Any, Any], None],
) -> int:
    """Save, load back, use, optimize to int8 and judge.

    Args:
        model, tokenizer: what was trained.
        evaluate: gives a model's `test_<metric>` and `test_loss` on the test rows, as `Trainer.predict` does.
        metric: the name of what `args.at_least` is about.
        baseline: the metric of a guess that looks at as little as possible.
        show: uses the model and the tokenizer that were loaded back, as an application would.

    Returns:
        The exit status: 0 if the model reached `args.at_least`, in float32 and in int8.
    """
    model.save_pretrained(args.output)
    tokenizer.save_pretrained(args.output)
    loaded = type(model).from_pretrained(args.output).eval()
    loaded_tokenizer = sbk.SqueezeBertTokenizerFast.from_pretrained(args.output)
    print(f"saved in {args.output} and loaded back")
    show(loaded, loaded_tokenizer)

    print(sbk.report(loaded))
    results = {"float32": evaluate(loaded)}
    sbk.optimize(loaded, quantization="int8", strict=True)
    results["int8"] = evaluate(loaded)
    print(f"\n{'':10}{metric:>{len(metric) + 2}}{'loss':>10}")
    print(f"{'baseline':10}{baseline:{len(metric) + 2}.3f}")
    for name, result in results.items():
        print(f"{name:10}{result[f'test_{metric}']:{len(metric) + 2}.3f}{result['test_loss']:10.4f}")
    missed = [name for name in results if results[name][f"test_{metric}"] < (args.at_least or -math.inf)]
    for name in missed:
        print(f"FAILED: {metric} in {name} is below {args.at_least}", file=sys.stderr)
    return 1 if missed else 0
