"""CUDA graphs of the layers of an encoder: one launch where there would be some forty.

With few tokens a GPU is done with a kernel before Python has launched the next. A graph is captured for every shape
that comes, and replayed for every batch of it; the results are copied out of the memory that the next replay writes to.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .call_cache import call_cache, known_calls
from .marks import CUDA_GRAPHS

__all__ = ["MAX_TOKENS", "Replayed", "capture", "forget", "replay", "set_cuda_graphs", "uses_cuda_graphs"]

MAX_TOKENS = 16384
"""Batches of more tokens run as usual: their kernels take longer than their launches."""
MAX_GRAPHS = 32
"""The most graphs of one encoder. The one that has been idle for longest is freed first."""


def set_cuda_graphs(encoder: nn.Module, use: bool) -> None:
    """Whether ``encoder`` replays CUDA graphs: :func:`squeezebert_kernels.optimize`."""
    encoder.__dict__.pop(CUDA_GRAPHS, None)
    forget(encoder)
    if use:
        encoder.__dict__[CUDA_GRAPHS] = True


def uses_cuda_graphs(encoder: nn.Module) -> bool:
    """What :func:`set_cuda_graphs` was told."""
    return encoder.__dict__.get(CUDA_GRAPHS, False)


class _Graph:
    """A captured call of ``layers(x, mask)``."""

    def __init__(
        self,
        layers: Callable[..., list[Tensor]],
        x: Tensor,
        mask: Tensor | None,
        made_for: Any,
        keep: Sequence[Tensor],
        side: torch.cuda.Stream,
        pool: Any,
    ) -> None:
        self.made_for = made_for
        self.kept = [tensor.detach() for tensor in keep]
        self.x = x.clone(memory_format=torch.contiguous_format)
        self.mask = None if mask is None else mask.clone(memory_format=torch.contiguous_format)
        side.wait_stream(torch.cuda.current_stream(x.device))
        with torch.cuda.stream(side):  # compiles what is not compiled yet
            layers(self.x, self.mask)
        torch.cuda.current_stream(x.device).wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, pool=pool, stream=side, capture_error_mode="thread_local"):
            self.states = layers(self.x, self.mask)

    def replay(self, x: Tensor, mask: Tensor | None) -> list[Tensor]:
        """The states for other arguments of the same shapes."""
        self.x.copy_(x)
        if self.mask is not None and mask is not None:
            self.mask.copy_(mask)
        self.graph.replay()
        return [state.clone() for state in self.states]


class Replayed(NamedTuple):
    """What a graph left."""

    graph: _Graph
    states: list[Tensor]


class _Graphs:
    """The graphs of one encoder on one device. They share memory, so no two of them run at once."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.lock = threading.Lock()
        self.side = torch.cuda.Stream(device)
        self.pool = torch.cuda.graph_pool_handle()
        self.of: OrderedDict[Any, _Graph] = OrderedDict()
        self.done = torch.cuda.Event()
        """Of the last of them."""


_capturing = threading.Lock()
"""CUDA allows one capture at a time in a process."""


def forget(encoder: nn.Module) -> None:
    """Frees the graphs of ``encoder``."""
    if known := known_calls(encoder):
        known.graphs = None


def _key(variant: Any, x: Tensor, mask: Tensor | None) -> Any:
    from ..triton_kernels.launchers import precision

    kind = None if mask is None else (mask.shape, mask.dtype)
    return variant, x.shape, x.dtype, kind, precision(x.dtype)


def capture(
    encoder: nn.Module,
    layers: Callable[[Tensor, Tensor | None], list[Tensor]],
    variant: Any,
    x: Tensor,
    mask: Tensor | None,
    *,
    made_for: Any,
    keep: Sequence[Tensor],
) -> None:
    """Captures ``layers(x, mask)`` as the graph of ``encoder`` for arguments like these.

    Other threads must not wait for the whole device meanwhile (torch.cuda.synchronize): CUDA refuses that.

    Args:
        layers: launches the same kernels for all arguments of the same shapes, and waits for none.
        variant: what else ``layers`` depends on, hashable.
        made_for: kept with the graph, to be compared before a replay. Graphs for anything else are freed.
        keep: the tensors that ``layers`` reads besides. Their memory lives as long as the graph.
    """
    cache = call_cache(encoder)
    graphs: _Graphs | None = cache.graphs
    if graphs is None or graphs.device != x.device:
        graphs = cache.graphs = _Graphs(x.device)
    # What a graph keeps must not become inference tensors, which nothing may write to later.
    with graphs.lock, _capturing, torch.cuda.device(x.device), torch.inference_mode(False), torch.no_grad():
        graphs.done.wait()
        for key in [key for key, graph in graphs.of.items() if graph.made_for != made_for]:
            del graphs.of[key]
        graph = _Graph(layers, x, mask, made_for, keep, graphs.side, graphs.pool)
        graphs.of[_key(variant, x, mask)] = graph
        if len(graphs.of) > MAX_GRAPHS:
            graphs.of.popitem(last=False)


def replay(encoder: nn.Module, variant: Any, x: Tensor, mask: Tensor | None) -> Replayed | None:
    """Replays the graph that :func:`capture` made for arguments like these; None if there is none."""
    known = known_calls(encoder)
    graphs: _Graphs | None = None if known is None else known.graphs
    if graphs is None or graphs.device != x.device:
        return None
    key = _key(variant, x, mask)
    with graphs.lock, torch.cuda.device(x.device):
        graph = graphs.of.get(key)
        if graph is None:
            return None
        graphs.of.move_to_end(key)
        graphs.done.wait()  # maybe on another stream
        states = graph.replay(x, mask)
        graphs.done.record()
        return Replayed(graph, states)
