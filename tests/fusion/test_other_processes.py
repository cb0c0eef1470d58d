"""Models whose weights are left in one copy, in other processes of this machine."""

import pickle
import queue
from multiprocessing.reduction import ForkingPickler

import pytest
import torch
import torch.multiprocessing
from support.optimized_models import all_fused, batch, bert, run, squeezebert
from torch import nn
from torch.utils.data import DataLoader, Dataset

import squeezebert_kernels as sbk

X = torch.linspace(-1, 1, 48).view(1, 16, 3)


def one_convolution():
    return nn.Sequential(sbk.GroupedPointwiseConv1d(16, 16, groups=2)).eval()


MODELS = {
    "float32": lambda: sbk.optimize(bert(), free_original=True),
    "bfloat16": lambda: sbk.optimize(squeezebert(), dtype=torch.bfloat16, free_original=True),
    "int8": lambda: sbk.optimize(bert(), quantization="int8", free_original=True),
    "one convolution": lambda: sbk.optimize(one_convolution(), free_original=True),
    "twice packed": lambda: sbk.optimize(bert()),
}


def answer(model):
    if isinstance(model, nn.Sequential):
        with torch.no_grad():
            return model(X)
    return run(model, batch())


def is_as_it_was(model):
    """Whether it runs fused, and, where that was so, on one copy of its weights in shared memory."""
    kept = [w.packed for w in model.parameters() if hasattr(w, "packed")]
    return all_fused(model) and all(packed.is_shared() for packed in kept)


def work(tasks, answers):
    """Of the other process: one answer for every model, the exception where there is one."""
    for name, model in iter(tasks.get, None):
        try:
            answers.put((name, answer(model).numpy(), is_as_it_was(model)))
        except Exception as error:
            answers.put((name, repr(error), False))


class Answers(Dataset):
    """What people do who compute features in the workers of a DataLoader."""

    def __init__(self, model):
        self.model = model

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return answer(self.model)


def next_of(answers, process):
    """The next answer; an error where the process ends without one, rather than waiting for ever."""
    while True:
        alive = process.is_alive()
        try:
            return answers.get(timeout=2)
        except queue.Empty:
            assert alive, f"the process ended with {process.exitcode}"


@pytest.fixture(scope="module")
def answers_elsewhere():
    """{name: (answer, whether it was as it should be)} from one spawned process, which gets models as arguments of its
    start, as mp.spawn and start_multi_process_pool do it, and by a queue."""
    models = {name: make().eval() for name, make in MODELS.items()}
    expected = {name: answer(model) for name, model in models.items()}
    context = torch.multiprocessing.get_context("spawn")
    tasks, answers = context.Queue(), context.Queue()
    process = context.Process(target=started_with_models, args=(models, tasks, answers), daemon=True)
    process.start()
    for name, model in models.items():
        tasks.put((f"{name}, by a queue", model))
    tasks.put(None)
    found = {}
    for _ in range(2 * len(models)):
        name, value, good = next_of(answers, process)
        found[name] = (value, good)
    process.join(60)
    return expected, found


def started_with_models(models, tasks, answers):
    for name, model in models.items():
        answers.put((f"{name}, as an argument", answer(model).numpy(), is_as_it_was(model)))
    work(tasks, answers)


@pytest.mark.parametrize("way", ["as an argument", "by a queue"])
@pytest.mark.parametrize("name", MODELS)
def test_spawned_processes(answers_elsewhere, name, way):
    expected, found = answers_elsewhere
    value, good = found[f"{name}, {way}"]
    assert not isinstance(value, str), value
    assert torch.equal(torch.from_numpy(value), expected[name])
    assert good


def test_the_sender_goes_on():
    """Its packed weights move to shared memory, and stay the only ones."""
    model = MODELS["int8"]().eval()
    expected = answer(model)
    data = bytes(ForkingPickler.dumps(model))
    assert torch.equal(answer(model), expected)
    assert is_as_it_was(model)
    received = pickle.loads(data)
    assert torch.equal(answer(received), expected)
    assert is_as_it_was(received)
    sbk.restore(model)
    assert torch.equal(answer(received), expected)


@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.wide)])
def test_workers_of_a_data_loader(start):
    model = MODELS["one convolution"]().eval()
    loader = DataLoader(Answers(model), batch_size=None, num_workers=1, multiprocessing_context=start)
    expected = answer(model)
    assert all(torch.equal(y, expected) for y in loader)
