"""Whole models that are timed: ours, the same model as transformers has it, and BERT-base.

All of SqueezeBERT's share one set of random weights, rounded to bfloat16 once, so that every dtype holds the same
values and an error is that of the computation.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel, SqueezeBertConfig, SqueezeBertModel

import squeezebert_kernels as sbk
from squeezebert_kernels.benchmark.contestants import hidden_of, shared_copy
from squeezebert_kernels.benchmark.workload import Inputs, Shape, make_inputs, parse_shape
from squeezebert_kernels.ops.dtypes import FLOATING

BARS = {"fp32": 1e-5, "fp16": 5e-3, "bf16": 3e-2}
"""Greatest relative error of a model's hidden states."""
SHAPES = ("64x128", "1x128", "8x128", "1x32", "1x384", "256x128", "64x384", "ragged")
SMOKE_SHAPES = ("1x8", "2x8", "ragged")
AUTOTUNED = ("64x128", "1x128")  # shapes for which stock is compiled with max-autotune, a minute or more each
RAGGED_SEED = 0


def shape_named(name: str, *, smoke: bool) -> Shape:
    """The shape "BATCHxLENGTH", or "ragged": lengths drawn uniformly, the first of them the longest."""
    if name != "ragged":
        return parse_shape(name)
    batch, shortest, longest = (4, 2, 8) if smoke else (64, 8, 128)
    generator = torch.Generator().manual_seed(RAGGED_SEED)
    lengths = torch.randint(shortest, longest + 1, (batch - 1,), generator=generator).tolist()
    return Shape("ragged", (longest, *lengths))


@dataclass(frozen=True)
class Feed:
    """The arguments of a model: a mask only where there is padding."""

    ids: Tensor
    mask: Tensor | None
    real: Tensor  # which positions are tokens

    @classmethod
    def make(cls, shape: Shape, vocab_size: int, device: torch.device) -> Feed:
        inputs: Inputs = make_inputs(shape, vocab_size)
        padded = shape.tokens != shape.batch * shape.length
        mask = inputs.mask.to(device)
        return cls(inputs.ids.to(device), mask if padded else None, mask.bool())

    def decoy(self) -> Feed:
        """Other ids of the same shape, in other memory: a contestant that replays old inputs is found out."""
        return Feed(self.ids.roll(1, dims=-1).clamp(min=1), self.mask, self.real)

    def call(self, model: Any) -> Callable[[], Any]:
        if self.mask is None:
            return lambda: model(input_ids=self.ids)
        return lambda: model(input_ids=self.ids, attention_mask=self.mask)

    def hidden(self, output: Any) -> Tensor:
        """Hidden states of the real tokens, a copy: a graph's next replay overwrites the original."""
        return hidden_of(output)[self.real].clone()


class Models:
    """Every model, built once per dtype."""

    def __init__(self, device: torch.device, *, smoke: bool) -> None:
        self.device = device
        if smoke:
            tiny = {
                "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256,
                "vocab_size": 1000,
            }  # fmt: skip
            self.config, self.bert_config = SqueezeBertConfig(**tiny, embedding_size=64), BertConfig(**tiny)
        else:
            self.config = SqueezeBertConfig(vocab_size=30528, embedding_size=768)
            self.bert_config = BertConfig(vocab_size=30528)  # both models get the same ids
        self.bert_config._attn_implementation = "sdpa"
        self._built: dict[tuple[Any, ...], Any] = {}

    def _once(self, key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        if key not in self._built:
            self._built[key] = make()
        return self._built[key]

    def _random(self, make: Callable[[], nn.Module]) -> nn.Module:
        torch.manual_seed(0)
        model = make().eval().requires_grad_(False)
        for parameter in model.parameters():
            if parameter.dim() == 1:  # biases of 0 and scales of 1 would hide that they are used wrongly
                parameter.add_(0.05 * torch.randn_like(parameter))
            parameter.copy_(parameter.bfloat16())
        return model.to(self.device)

    def stock(self, dtype: str) -> Any:
        first = self._once(("stock", "fp32"), lambda: self._random(lambda: SqueezeBertModel(self.config)))
        return self._once(("stock", dtype), lambda: copy.deepcopy(first).to(FLOATING[dtype]))

    def bert(self, dtype: str) -> Any:
        make = lambda: self._random(lambda: BertModel(self.bert_config)).to(FLOATING[dtype])  # noqa: E731
        return self._once(("bert", dtype), make)

    def ours(self, dtype: str, **options: bool) -> Any:
        key = ("ours", dtype, *sorted(options.items()))
        return self._once(key, lambda: sbk.optimize(shared_copy(self.stock(dtype)), **options))

    def expected(self, feed: Feed) -> Tensor:
        """Hidden states of the real tokens as transformers computes them in float32."""
        return feed.hidden(feed.call(self.stock("fp32"))())


@dataclass(frozen=True)
class Contestant:
    """``family`` is "ours", "stock" or "bert"; ``compiled`` is None, "plain" or "graphs", of torch.compile."""

    name: str
    label: str
    family: str
    compiled: str | None = None
    cuda_graphs: bool = False  # those of sbk.optimize

    @property
    def needs_cuda(self) -> bool:
        return self.cuda_graphs or self.compiled is not None

    def mode(self, shape: Shape, *, autotune: str) -> str | None:
        """The mode of torch.compile: max-autotune takes too long for every shape of a short run."""
        if self.compiled is None:
            return None
        if self.family == "ours":
            return "reduce-overhead"
        first = autotune == "first" and self.family == "stock" and shape.name in AUTOTUNED
        autotuned = autotune == "always" or first
        if self.compiled == "graphs":
            return "max-autotune" if autotuned else "reduce-overhead"
        return "max-autotune-no-cudagraphs" if autotuned else "default"

    def options(self, shape: Shape) -> dict[str, bool]:
        """Arguments of sbk.optimize."""
        found = {}
        if self.cuda_graphs:
            found["cuda_graphs"] = True
        # Not under torch.compile: how many tokens are real is data, which breaks its graph.
        if shape.name == "ragged" and self.compiled is None:
            found["skip_padding"] = True
        return found

    def model(self, models: Models, dtype: str, shape: Shape, mode: str | None) -> Any:
        """The module to call; what torch.compile makes is compiled by its first call."""
        if self.family == "ours":
            module = models.ours(dtype, **self.options(shape))
        else:
            module = models.stock(dtype) if self.family == "stock" else models.bert(dtype)
        return module if mode is None else torch.compile(module, mode=mode, dynamic=False)


CONTESTANTS = (
    Contestant("ours", "ours", "ours"),
    Contestant("ours+graphs", "ours, CUDA graphs", "ours", cuda_graphs=True),
    Contestant("ours+compile", "ours, torch.compile+graphs", "ours", compiled="graphs"),
    Contestant("stock-eager", "transformers, eager", "stock"),
    Contestant("stock-compile", "transformers, torch.compile", "stock", compiled="plain"),
    Contestant("stock-compile+graphs", "transformers, torch.compile+graphs", "stock", compiled="graphs"),
    Contestant("bert-sdpa", "BERT-base, SDPA, eager", "bert"),
    Contestant("bert-compile+graphs", "BERT-base, torch.compile+graphs", "bert", compiled="graphs"),
)
"""In the order of the tables."""

BUILD_ORDER = sorted(CONTESTANTS, key=lambda c: (c.compiled is not None, c.family == "ours" and c.needs_cuda))
"""What takes a minute to compile comes last, and of that first what the bars need."""
