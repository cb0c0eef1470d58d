"""The timer of CUDA graphs, on a CUDA of Python calls: what it captures, and which replays count."""

import contextlib

import pytest
import torch

timing = pytest.importorskip("squeezebert_kernels.triton_kernels.timing")


class FakeCuda:
    """A graph that repeats what was called under capture, and a clock that the calls set forward."""

    def __init__(self, monkeypatch):
        self.now, self.recording, self.graphs = 0.0, None, 0
        cuda = self

        class Stream:
            def wait_stream(self, other):
                pass

        class Graph:
            def __init__(self):
                self.calls = []
                cuda.graphs += 1

            def replay(self):
                for step in self.calls:
                    step()

        class Event:
            def __init__(self, enable_timing):
                assert enable_timing

            def record(self):
                self.at = cuda.now

            def synchronize(self):
                pass

            def elapsed_time(self, other):
                return other.at - self.at

        @contextlib.contextmanager
        def graph(made):
            self.recording = made.calls
            yield
            self.recording = None

        for name, fake in {
            "Stream": Stream, "current_stream": Stream, "stream": contextlib.nullcontext, "synchronize": lambda: None,
            "CUDAGraph": Graph, "graph": graph, "Event": Event,
        }.items():  # fmt: skip
            monkeypatch.setattr(torch.cuda, name, fake)

    def launch(self, work):
        """``work`` now, or in every replay of what is being captured."""
        (work if self.recording is None else lambda: self.recording.append(work))()


def test_microseconds_is_the_median_of_one_call_and_leaves_the_first_replay_out(monkeypatch):
    cuda = FakeCuda(monkeypatch)
    eager, replayed = [], []
    times = iter([1000.0] * 3 + [50.0] * 4 + [1.0] * 4 + [9.0] * 4 + [2.0] * 4)  # milliseconds: warm-up, then replays

    def work():
        (eager if len(eager) < 3 else replayed).append(step := next(times))
        cuda.now += step

    assert timing.microseconds(lambda: cuda.launch(work), calls=4, replays=3) == 2000.0
    assert eager == [1000.0] * 3
    assert len(replayed) == 4 * (1 + 3)
    assert cuda.graphs == 1


def test_device_ms_is_of_one_call(monkeypatch):
    cuda = FakeCuda(monkeypatch)

    def call():
        cuda.now += 3.0

    assert timing.device_ms(call, 5) == 3.0
    assert cuda.now == 15.0
