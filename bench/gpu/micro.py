"""Times the ops alone, beside what a user of PyTorch would write: cuDNN's grouped convolutions, or batched products.

Rivals work in the layout that is best for them: conv1d on channels-first inputs, bmm on groups that are left where it
puts them. Each is a CUDA graph of 20 calls, so that launching costs nothing. All 20 read the same inputs, which
the L2 cache may hold: GB/s counts bytes that have to be touched, and can exceed the memory's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from results import Run, reason_of
from timing import Call, Timing, interleaved, synchronize
from torch import Tensor

from squeezebert_kernels import ops
from squeezebert_kernels.benchmark.checking import exact, relative_error
from squeezebert_kernels.benchmark.workload import Shape
from squeezebert_kernels.ops.dtypes import FLOATING

BARS = {"fp32": 1e-4, "fp16": 5e-3, "bf16": 3e-2}
"""Greatest relative error, from rivals too: they round between their steps."""
ROUNDS = 7
GRAPH_CALLS = 20  # in a captured graph


@dataclass(frozen=True)
class Sizes:
    """Of a layer of SqueezeBERT."""

    hidden: int = 768
    wide: int = 3072
    groups: int = 4
    heads: int = 12


SMOKE = Sizes(64, 256, 4, 4)


@dataclass(frozen=True)
class Rival:
    """``view`` brings what ``call`` returns to [tokens, channels], for the comparison only."""

    name: str
    call: Callable[[], Tensor]
    view: Callable[[Tensor], Tensor] = lambda y: y.flatten(0, -2)


@dataclass(frozen=True)
class Case:
    name: str
    flops: int
    bytes: int
    expected: Callable[[], Tensor]
    rivals: tuple[Rival, ...]


class Layer:
    """The inputs and weights of a layer, in the three layouts."""

    def __init__(self, shape: Shape, sizes: Sizes, dtype: torch.dtype, device: torch.device) -> None:
        self.batch, self.length, self.sizes = shape.batch, shape.length, sizes
        self.tokens = self.batch * self.length
        self.dtype, self.device = dtype, device
        torch.manual_seed(2)

    def normal(self, *shape: int, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(*shape, device=self.device)).to(self.dtype)

    def conv(self, c_in: int, c_out: int, groups: int) -> Conv:
        return Conv(self.normal(c_out, c_in // groups, scale=(groups / c_in) ** 0.5), self.normal(c_out), groups)

    def input(self, channels: int) -> tuple[Tensor, Tensor]:
        """Token-major [B, S, C] and, in memory of its own, channels-first [B, C, S]."""
        x = self.normal(self.batch, self.length, channels)
        return x, x.transpose(1, 2).contiguous()

    def traffic(self, *tensors: Tensor, values: int) -> int:
        """Bytes of tensors and ``values`` more values."""
        return (sum(t.numel() for t in tensors) + values) * self.dtype.itemsize


class Conv:
    """A grouped 1x1 convolution in every form."""

    def __init__(self, weight: Tensor, bias: Tensor, groups: int) -> None:
        self.weight, self.bias, self.groups = weight, bias, groups
        self.weight3 = weight[..., None].contiguous()  # conv1d's
        self.per_group = weight.unflatten(0, (groups, -1)).transpose(1, 2).contiguous()  # [G, K, N]
        self.bias_per_group = bias.reshape(groups, 1, -1)

    def conv1d(self, x: Tensor) -> Tensor:
        return F.conv1d(x, self.weight3, self.bias, groups=self.groups)

    def bmm(self, x: Tensor) -> Tensor:
        """[B, S, C_in] -> [G, B*S, C_out/G]."""
        grouped = x.reshape(-1, self.groups, self.weight.shape[1]).transpose(0, 1)
        return torch.baddbmm(self.bias_per_group, grouped, self.per_group)

    def token_major(self, x: Tensor) -> Tensor:
        """[..., C_in] -> [..., C_out] by products: one where there is one group."""
        if self.groups == 1:
            return F.linear(x, self.weight, self.bias)
        return from_groups(self.bmm(x)).unflatten(0, x.shape[:-1])


def from_groups(y: Tensor) -> Tensor:
    """[G, T, N] -> [T, G*N]."""
    return y.transpose(0, 1).flatten(1)


def from_channels_first(y: Tensor) -> Tensor:
    return y.transpose(1, 2).flatten(0, 1)


def conv_case(layer: Layer, name: str, c_in: int, c_out: int, groups: int) -> Case:
    conv, (x, first) = layer.conv(c_in, c_out, groups), layer.input(c_in)
    weight, bias = conv.weight, conv.bias
    rivals = (
        Rival("ours", lambda: ops.grouped_pointwise_conv(x, weight, bias, groups=groups)),
        Rival("conv1d", lambda: conv.conv1d(first), from_channels_first),
        Rival("bmm", lambda: conv.bmm(x), from_groups),
    )
    flops = 2 * layer.tokens * c_in * c_out // groups
    size = layer.traffic(x, weight, bias, values=layer.tokens * c_out)
    expected = lambda: exact("grouped_pointwise_conv", x, weight, bias, groups=groups)  # noqa: E731
    return Case(name, flops, size, expected, rivals)


def attention_case(layer: Layer) -> Case:
    c, groups, heads = layer.sizes.hidden, layer.sizes.groups, layer.sizes.heads
    convs, (x, first) = [layer.conv(c, c, groups) for _ in range(3)], layer.input(c)
    tensors = [t for conv in convs for t in (conv.weight, conv.bias)]
    options = {"num_heads": heads, "q_groups": groups, "k_groups": groups, "v_groups": groups}

    def sdpa_of(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """[B, H, S, d] -> [B, S, C]."""
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    def conv1d() -> Tensor:
        return sdpa_of(*(conv.conv1d(first).unflatten(1, (heads, -1)).transpose(2, 3) for conv in convs))

    def bmm() -> Tensor:
        return sdpa_of(*(conv.token_major(x).unflatten(2, (heads, -1)).transpose(1, 2) for conv in convs))

    rivals = (
        Rival("ours", lambda: ops.attention_block(x, *tensors, **options)),
        Rival("conv1d", conv1d),
        Rival("bmm", bmm),
    )
    flops = 3 * 2 * layer.tokens * c * c // groups + 4 * layer.tokens * layer.length * c
    size = layer.traffic(x, *tensors, values=layer.tokens * c)
    expected = lambda: exact("attention_block", x, *tensors, **options)  # noqa: E731
    return Case("attention block", flops, size, expected, rivals)


def post_attention_case(layer: Layer) -> Case:
    c, wide, groups = layer.sizes.hidden, layer.sizes.wide, layer.sizes.groups
    post, inter, out = layer.conv(c, c, 1), layer.conv(c, wide, groups), layer.conv(wide, c, groups)
    (context, context_first), (residual, residual_first) = layer.input(c), layer.input(c)
    norms = [(1 + layer.normal(c, scale=0.2), layer.normal(c, scale=0.2)) for _ in range(2)]
    arguments = (
        context, residual, post.weight, post.bias, *norms[0], inter.weight, inter.bias, out.weight, out.bias, *norms[1]
    )  # fmt: skip
    options = {"post_groups": 1, "intermediate_groups": groups, "output_groups": groups, "activation": "gelu"}

    def normed(y: Tensor, index: int) -> Tensor:
        return F.layer_norm(y, (c,), *norms[index], 1e-12)

    def conv1d() -> Tensor:
        """As transformers writes it."""
        h = normed((post.conv1d(context_first) + residual_first).transpose(1, 2), 0).transpose(1, 2)
        return normed((out.conv1d(F.gelu(inter.conv1d(h))) + h).transpose(1, 2), 1)

    def bmm() -> Tensor:
        h = normed(post.token_major(context) + residual, 0)
        return normed(out.token_major(F.gelu(inter.token_major(h))) + h, 1)

    rivals = (
        Rival("ours", lambda: ops.post_attention_block(*arguments, **options)),
        Rival("conv1d", conv1d),
        Rival("bmm", bmm),
    )
    flops = 2 * layer.tokens * (c * c + 2 * c * wide // groups)
    size = layer.traffic(*arguments, values=layer.tokens * c)
    expected = lambda: exact("post_attention_block", *arguments, **options)  # noqa: E731
    return Case("post-attention block", flops, size, expected, rivals)


def cases(layer: Layer) -> list[Callable[[], Case]]:
    """Made one after the other: their inputs are freed in between."""
    c, wide, groups = layer.sizes.hidden, layer.sizes.wide, layer.sizes.groups
    return [
        lambda: post_attention_case(layer),
        lambda: attention_case(layer),
        lambda: conv_case(layer, f"q, k or v: {c}->{c} g{groups}", c, c, groups),
        lambda: conv_case(layer, f"post: {c}->{c} g1", c, c, 1),
        lambda: conv_case(layer, f"intermediate: {c}->{wide} g{groups}", c, wide, groups),
        lambda: conv_case(layer, f"output: {wide}->{c} g{groups}", wide, c, groups),
    ]


@torch.no_grad()
def measure(run: Run, shapes: list[Shape], dtype: str) -> None:
    """Times every op at every shape."""
    sizes = Sizes() if run.on_gpu else SMOKE
    benchmark = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True  # cuDNN's best algorithm, not its guess
    try:
        for shape in shapes:
            for make in cases(Layer(shape, sizes, FLOATING[dtype], run.device)):
                if run.budget.left() <= 0:
                    run.say("micro: no time left")
                    return
                _measure(run, shape, dtype, make())
    finally:
        torch.backends.cudnn.benchmark = benchmark


def _measure(run: Run, shape: Shape, dtype: str, case: Case) -> None:
    prefix = f"micro/{dtype}/{shape.name}/{case.name}"
    rivals = [rival for rival in case.rivals if run.wants(f"{prefix}/{rival.name}")]
    if not rivals:
        return
    rows: dict[str, dict[str, Any]] = {}
    calls: dict[str, Call] = {}
    expected = case.expected().flatten(0, -2)
    for rival in rivals:
        row = {
            "key": f"{prefix}/{rival.name}", "case": case.name, "contestant": rival.name, "shape": shape.name,
            "dtype": dtype, "status": "ok", "reason": None, "error": None, "timer": None, "us": None,
            "flops": case.flops, "bytes": case.bytes, "tflops": None, "percent_of_peak": None, "gbs": None,
        }  # fmt: skip
        rows[rival.name] = row
        try:
            run.current = row["key"]
            row["error"] = relative_error(rival.view(rival.call()), expected)
            if row["error"] > BARS[dtype]:
                row |= {"status": "wrong", "reason": f"relative error {row['error']:.1e}, bar {BARS[dtype]:.1e}"}
                if rival.name == "ours":
                    run.fail(row["key"], row["reason"])
            calls[rival.name] = _timed_call(run, rival.call, row)
        except Exception as error:
            row |= {"status": "failed", "reason": reason_of(error, run.device)}
            if rival.name == "ours":
                run.fail(row["key"], row["reason"])
            else:
                run.say(f"{row['key']}: failed, {row['reason']}")
    for name, timing in interleaved(calls, run.device, latency=False, rounds=ROUNDS).items():
        row = rows[name]
        if isinstance(timing, Timing):
            ms = timing.throughput_ms / (GRAPH_CALLS if row["timer"] == "graph" else 1)
            tflops = case.flops / ms / 1e9
            row |= {"us": 1e3 * ms, "tflops": tflops, "gbs": case.bytes / ms / 1e6}
            row["percent_of_peak"] = run.percent_of_peak(dtype, tflops)
        else:
            row |= {"status": "failed", "reason": reason_of(timing, run.device)}
    for row in rows.values():
        run.results.put("micro", row)
    times = (f"{r['contestant']} " + (r["status"] if r["us"] is None else f"{r['us']:.1f} us") for r in rows.values())
    run.say(f"{prefix}: {', '.join(times)}")


def _timed_call(run: Run, call: Call, row: dict[str, Any]) -> Call:
    """``call`` in a CUDA graph, or itself where that cannot be captured."""
    if not run.on_gpu:
        row["timer"] = "wall"
        return call
    from squeezebert_kernels.triton_kernels.timing import captured

    try:
        replay = captured(call, GRAPH_CALLS)
        row["timer"] = "graph"
    except Exception as error:
        row |= {"timer": "events", "reason": f"not captured: {reason_of(error, run.device)}"}
        return call
    replay()
    synchronize(run.device)
    return replay
