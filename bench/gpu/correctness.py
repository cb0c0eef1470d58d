"""Every op and the whole model against squeezebert_kernels.reference, in float64 on the same rounded inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from contestants import BARS as MODEL_BARS
from contestants import Feed, Models, shape_named
from results import Run, reason_of
from torch import Tensor

from squeezebert_kernels import ops
from squeezebert_kernels.benchmark.checking import exact, relative_error
from squeezebert_kernels.ops.dtypes import FLOATING

BARS = {"fp32": 1e-5, "fp16": 2e-3, "bf16": 1.2e-2}
Arguments = tuple[list[Any], dict[str, Any]]


class Maker:
    """Random arguments, the same in every run."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype, self.device = dtype, device
        self.generator = torch.Generator().manual_seed(1)

    def normal(self, *shape: int, scale: float = 1.0, around: float = 0.0) -> Tensor:
        values = around + scale * torch.randn(*shape, generator=self.generator)
        return values.to(self.dtype).to(self.device)

    def conv(self, c_in: int, c_out: int, groups: int, *, bias: bool = True) -> list[Tensor | None]:
        """Weight and bias; results are about as large as the input."""
        k = c_in // groups
        return [self.normal(c_out, k, scale=k**-0.5), self.normal(c_out, scale=0.2) if bias else None]

    def norm(self, channels: int) -> list[Tensor]:
        return [self.normal(channels, scale=0.2, around=1.0), self.normal(channels, scale=0.2)]

    def visible(self, lengths: tuple[int, ...]) -> Tensor:
        """Which keys are tokens, [B, 1, 1, S]."""
        return (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None])[:, None, None].to(self.device)

    def additive(self, visible: Tensor) -> Tensor:
        zeros = torch.zeros(visible.shape, dtype=self.dtype, device=self.device)
        return zeros.masked_fill(~visible, torch.finfo(self.dtype).min)


@dataclass(frozen=True)
class Case:
    """``large`` is too much for the smoke mode."""

    op: str
    name: str
    make: Callable[[Maker], Arguments]
    large: bool = False


def conv(
    shape: tuple[int, ...], c_out: int, groups: int, activation: str | None, *, bias: bool = True, large: bool = False
) -> Case:
    def make(m: Maker) -> Arguments:
        options = {"groups": groups, "activation": activation}
        return [m.normal(*shape), *m.conv(shape[-1], c_out, groups, bias=bias)], options

    name = f"{sizes(shape)}->{c_out} g{groups} {activation or 'none'}{'' if bias else ' no bias'}"
    return Case("grouped_pointwise_conv", name, make, large)


def strided_conv() -> Case:
    """Channels-first memory, as a stock model hands it over."""

    def make(m: Maker) -> Arguments:
        return [m.normal(2, 64, 21).transpose(1, 2), *m.conv(64, 96, 4)], {"groups": 4}

    return Case("grouped_pointwise_conv", "2x21x64->96 g4 channels-first", make)


def conv_norm(shape: tuple[int, ...], c_out: int, groups: int, *, large: bool = False) -> Case:
    def make(m: Maker) -> Arguments:
        residual = m.normal(*shape[:-1], c_out)
        return [m.normal(*shape), *m.conv(shape[-1], c_out, groups), residual, *m.norm(c_out)], {"groups": groups}

    return Case("grouped_pointwise_conv_layer_norm", f"{sizes(shape)}->{c_out} g{groups}", make, large)


def attention(
    lengths: tuple[int, ...], channels: int, heads: int, groups: tuple[int, int, int], mask: str = "none", *,
    large: bool = False,
) -> Case:  # fmt: skip
    """``mask`` is "none", "additive", "boolean", "full" (of every head and query), "offsets" or "offsets+mask"."""

    def make(m: Maker) -> Arguments:
        batch, longest = len(lengths), max(lengths)
        rows = (sum(lengths),) if "offsets" in mask else (batch, longest)
        convs = [t for g in groups for t in m.conv(channels, channels, g)]
        given: Tensor | None = None
        if mask in ("additive", "boolean"):
            visible = m.visible(lengths)
            given = visible if mask == "boolean" else m.additive(visible)
        elif mask == "full":
            given = m.normal(batch, heads, longest, longest)
        elif mask == "offsets+mask":
            given = m.normal(batch, 1, 1, longest)
        options = dict(zip(("num_heads", "q_groups", "k_groups", "v_groups"), (heads, *groups)))
        if "offsets" in mask:
            options["offsets"] = torch.tensor([0, *accumulate(lengths)], device=m.device)
        return [m.normal(*rows, channels), *convs, given], options

    name = f"{commas(lengths)}x{channels} h{heads} g{commas(groups)} {mask}"
    return Case("attention_block", name, make, large)


def post_attention(
    shape: tuple[int, ...], context: int, wide: int, groups: tuple[int, int, int], activation: str | None = "gelu", *,
    bias: bool = True, large: bool = False,
) -> Case:  # fmt: skip
    def make(m: Maker) -> Arguments:
        c = shape[-1]
        first, second, third = groups
        arguments = [
            m.normal(*shape[:-1], context), m.normal(*shape),
            *m.conv(context, c, first, bias=bias), *m.norm(c),
            *m.conv(c, wide, second, bias=bias), *m.conv(wide, c, third, bias=bias), *m.norm(c),
        ]  # fmt: skip
        names = ("post_groups", "intermediate_groups", "output_groups")
        return arguments, {**dict(zip(names, groups)), "activation": activation}

    name = f"{context}->{sizes(shape)}->{wide} g{commas(groups)} {activation or 'none'}{'' if bias else ' no bias'}"
    return Case("post_attention_block", name, make, large)


def sizes(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def commas(numbers: tuple[int, ...]) -> str:
    return ",".join(map(str, numbers))


# The most important first: of a GPU's minutes, correctness has a share only.
CASES = (
    attention((128, 128), 768, 12, (4, 4, 4), large=True),
    post_attention((2, 128, 768), 768, 3072, (1, 4, 4), large=True),
    attention((128, 77, 5), 768, 12, (4, 4, 4), "additive", large=True),
    attention((128, 1, 77, 30), 768, 12, (4, 4, 4), "offsets", large=True),
    conv((2, 128, 768), 768, 4, None, large=True),
    conv((2, 128, 768), 3072, 4, "gelu", large=True),
    conv_norm((2, 128, 3072), 768, 4, large=True),
    conv_norm((2, 128, 768), 768, 1, large=True),
    attention((29, 16, 3), 48, 4, (1, 2, 4), "additive"),
    attention((29, 16, 3), 48, 4, (4, 1, 2), "offsets"),
    attention((7, 29), 64, 2, (2, 2, 2), "full"),
    attention((7, 29), 64, 2, (2, 2, 2), "boolean"),
    attention((7, 29), 64, 2, (1, 1, 1), "offsets+mask"),
    attention((1,), 64, 4, (4, 4, 4)),
    attention((515,), 64, 1, (1, 1, 1)),
    attention((384,), 768, 12, (1, 1, 1), large=True),
    post_attention((37, 48), 48, 96, (1, 2, 4)),
    post_attention((3, 5, 64), 96, 160, (4, 1, 2), "relu"),
    post_attention((1, 64), 64, 256, (2, 2, 2), "gelu_tanh"),
    post_attention((130, 64), 64, 256, (4, 4, 4), None, bias=False),
    *(conv((7, 60), 84, groups, None) for groups in (1, 2, 4)),
    *(conv((129, 64), 192, 4, activation) for activation in ("gelu", "gelu_tanh", "relu")),
    conv((3, 11, 52), 36, 2, "gelu", bias=False),
    conv((1, 64), 64, 4, None),
    strided_conv(),
    conv((5, 66), 3, 3, None),
    *(conv_norm((37, 48), 36, groups) for groups in (1, 2, 4)),
    conv_norm((2, 9, 64), 260, 4),
)


def error_of(case: Case, dtype: torch.dtype, device: torch.device) -> float:
    arguments, options = case.make(Maker(dtype, device))
    out = getattr(ops, case.op)(*arguments, **options)
    expected = exact(case.op, *arguments, **options)
    if (out.shape, out.dtype) != (expected.shape, dtype):
        raise ValueError(f"{out.dtype} {list(out.shape)} came out, expected {dtype} {list(expected.shape)}")
    return relative_error(out, expected)


def model_error(models: Models, dtype: str, shape: str, smoke: bool) -> float:
    feed = Feed.make(shape_named(shape, smoke=smoke), models.config.vocab_size, models.device)
    return relative_error(feed.hidden(feed.call(models.ours(dtype))()), models.expected(feed))


def checks(run: Run, models: Models) -> Iterator[tuple[dict[str, Any], Callable[[], float]]]:
    """(what is known of it beforehand, the check), the most important first."""
    dtypes = [*run.dtypes, *(d for d in ("fp16", "bf16", "fp32") if d not in run.dtypes and run.on_gpu)]
    cases = [case for case in CASES if run.on_gpu or not case.large]
    for shape in ("2x128", "ragged") if run.on_gpu else ("2x8", "ragged"):
        for dtype in dtypes:
            row = {"key": f"correctness/model/{shape}/{dtype}", "op": "model", "case": shape, "dtype": dtype,
                   "bar": MODEL_BARS[dtype]}  # fmt: skip
            yield row, lambda d=dtype, s=shape: model_error(models, d, s, not run.on_gpu)
    for case in cases:
        for dtype in dtypes:
            row = {"key": f"correctness/{case.op}/{case.name}/{dtype}", "op": case.op, "case": case.name,
                   "dtype": dtype, "bar": BARS[dtype]}  # fmt: skip
            yield row, lambda c=case, d=dtype: error_of(c, FLOATING[d], run.device)


@torch.no_grad()
def check(run: Run, models: Models, seconds: float) -> None:
    """Runs the checks that have not been run yet, for as long as that; the rest is recorded as left out."""
    end = run.budget.spent() + min(seconds, run.budget.left())
    counts = {"passed": 0, "failed": 0, "left out": 0}
    for row, measure in checks(run, models):
        known = run.results.get("correctness", row["key"])
        if not run.wants(row["key"]) or (known is not None and known["status"] != "left out"):
            continue
        row |= {"status": "left out", "error": None, "reason": "no time left"}
        if run.budget.spent() < end:
            run.current = row["key"]
            try:
                row["error"] = measure()
                passed = row["error"] <= row["bar"]
                row |= {"status": "passed" if passed else "failed", "reason": None}
                if not passed:
                    run.fail(row["key"], f"relative error {row['error']:.1e}, bar {row['bar']:.1e}")
            except Exception as error:
                row |= {"status": "failed", "reason": f"{type(error).__name__}: {error}"[:400]}
                run.results.put("correctness", row)
                run.fail(row["key"], reason_of(error, run.device))
        counts[row["status"]] += 1
        run.results.put("correctness", row)
    run.say("correctness: " + ", ".join(f"{count} {status}" for status, count in counts.items()))
