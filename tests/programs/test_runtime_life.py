"""squeezebert_runtime: models that are closed, pickled, copied and forked, and arrays that change during a call."""

from __future__ import annotations

import copy
import os
import pickle
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from support.hf_models import TINY, stock

from squeezebert_kernels.export.sbk_file import export

FOLDER = Path(__file__).resolve().parents[2] / "python"
sys.path.insert(0, str(FOLDER))
try:
    import squeezebert_runtime as runtime
except ImportError as error:
    pytest.skip(f"`make runtime` builds squeezebert_runtime: {error}", allow_module_level=True)

CLOSED = "the model is closed"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A classifier with a pooler."""
    path = tmp_path_factory.mktemp("models") / "model.sbk"
    export(stock("SqueezeBertForSequenceClassification", **TINY), path, tier=runtime.active_isa())
    return path


def inputs(batch=4, length=24):
    random = np.random.default_rng(3)
    return random.integers(0, TINY["vocab_size"], (batch, length), np.int32)


def same(a, b):
    return all((x is None and y is None) or np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_closed_model(file):
    ids = inputs()
    with runtime.Model(file, threads=2) as model:
        assert not model.closed
        model(ids)
    assert model.closed
    model.close()
    for call in (
        lambda: model(ids), lambda: model.tokenize("a"), lambda: model.encode_batch(["a"]), lambda: model.decode([1]),
        lambda: model.token_id("a"), lambda: pickle.dumps(model), lambda: copy.copy(model), model.__enter__,
    ):  # fmt: skip
        with pytest.raises(ValueError, match=CLOSED):
            call()
    assert model.info.head == "sequence_classification"
    assert len(model.labels) == model.info.num_labels
    assert model.threads == 2
    assert "sequence_classification" in repr(model)


def test_closing_unmaps_the_file(file):
    def is_mapped():
        return str(file) in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")

    if not Path("/proc/self/maps").exists():
        pytest.skip("only Linux tells what is mapped")
    model = runtime.Model(file)
    assert is_mapped()
    model.close()
    assert not is_mapped()


def test_closing_while_others_call(file):
    """Each call ends well or says that the model is closed."""
    model, ids = runtime.Model(file, threads=2), inputs(8)
    want, odd, started = model(ids), [], threading.Barrier(5)

    def work():
        started.wait()
        try:
            while True:
                if not same(model(ids), want):
                    odd.append("another result")
        except ValueError as error:
            if str(error) != CLOSED:
                odd.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    started.wait()
    model.close()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert not odd


def test_pickling_and_copying_keep_path_and_options(file, monkeypatch):
    monkeypatch.chdir(file.parent)
    model = runtime.Model(file.name, head="none", threads=1, verify=True)
    monkeypatch.chdir("/")
    for again in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert again.info == model.info
        assert (again.threads, again.info.head) == (1, "none")
        assert same(again(inputs()), model(inputs()))
    code = "import pickle, sys; print(pickle.load(sys.stdin.buffer).info.head)"
    done = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(model), capture_output=True, check=True,
        env={**os.environ, "PYTHONPATH": str(FOLDER)},
    )  # fmt: skip
    assert done.stdout.strip() == b"none"


def test_arrays_that_another_thread_writes_to(file):
    """Whatever a call sees, it reads and writes its own memory only: results are right, or the value is refused."""
    model = runtime.Model(file, threads=2)
    batch, length = 16, 32
    ids, lengths = inputs(batch, length), np.full(batch, length, np.int32)
    mask, types = np.ones((batch, length), np.int32), np.zeros((batch, length), np.int32)
    want = model(ids.copy(), types.copy(), lengths=lengths.copy())
    stop = threading.Event()

    def write():
        while not stop.is_set():
            for array in (ids, lengths, mask, types):
                before = array.copy()
                array.fill(2**31 - 1)
                array[...] = before

    writer = threading.Thread(target=write)
    writer.start()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    refused = right = odd = 0
    try:
        for i in range(400):
            given = {"lengths": lengths} if i % 2 else {"attention_mask": mask}
            try:
                got = model(ids, types, **given)
            except ValueError as error:
                odd += "2147483647" not in str(error)
                refused += 1
            else:
                assert same(got, want)
                right += 1
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        writer.join()
    assert not odd
    print(f"{right} calls went well, {refused} were refused")


def test_outputs_may_be_any_iterable(file):
    model, ids = runtime.Model(file), inputs()
    want = model(ids, outputs=["logits"])
    for names in ((name for name in ["logits"]), iter(["logits"]), {"logits"}, {"logits": 1}):
        assert same(model(ids, outputs=names), want)
    assert model(ids, outputs=()) == (None, None, None)
    with pytest.raises(ValueError, match="outputs must be of hidden_states, pooled, logits, got 'logit'"):
        model(ids, outputs=(name for name in ["logits", "logit"]))
    with pytest.raises(TypeError, match="outputs must be a sequence of names, got int"):
        model(ids, outputs=3)


def test_a_forked_child_goes_on(file):
    model, ids = runtime.Model(file, threads=3), inputs()
    want = model(ids)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.alarm(60)  # a call that hangs is a failure
            status = 7 if same(model(ids), want) and same(runtime.Model(file, threads=2)(ids), want) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def run_python(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(FOLDER)},
    )  # fmt: skip


def test_subinterpreters_are_refused():
    code = """
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
said = interpreters.run_string(interpreters.create(), "import squeezebert_runtime")
raise SystemExit(str(said))
"""
    done = run_python(code)
    assert done.returncode == 1
    assert "subinterpreter" in done.stderr


def test_a_python_without_its_gil_is_refused():
    done = run_python("import sys; sys._is_gil_enabled = lambda: False; import squeezebert_runtime")
    assert done.returncode == 1
    assert "squeezebert_runtime needs Python's GIL: start without PYTHON_GIL=0" in done.stderr
