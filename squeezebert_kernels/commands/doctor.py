"""``squeezebert-kernels doctor``: what this machine and this build can do, and whether they do it right."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from .. import machine, ops
from ..console import checked_isa, make_console, quiet_transformers
from ..fusion.optimize import optimize, report
from ..ops import devices, reference

HELP = "check this machine and this build: ISA, versions, a self-test of every op, what falls back"

TOKENS = (3, 37)  # batch and length of the self-test: odd on purpose, to leave remainders everywhere
CHANNELS, HIDDEN, GROUPS, HEADS = 96, 384, 4, 6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No options."""


def run(args: argparse.Namespace) -> int:
    console = make_console()
    isa = checked_isa()
    quiet_transformers()
    print_environment(console, isa)
    healthy = print_self_test(console)
    healthy &= print_models(console)
    console.print("healthy" if healthy else "NOT HEALTHY: see the lines marked FAILED above", style="bold")
    return 0 if healthy else 1


def print_environment(console: Console, isa: str) -> None:
    chosen = "SBK_ISA" if os.environ.get("SBK_ISA") else "the best one here"
    table = Table(title="environment", title_justify="left", show_header=False)
    facts = machine.facts()
    versions = {name: version or "not installed" for name, version in facts["versions"].items()}
    rows = {
        "CPU": f"{facts['cpu']} ({facts['architecture']}), {facts['logical_cpus']} logical CPUs usable",
        "ISA possible": ", ".join(facts["isa_possible"]),
        "ISA in use": f"{isa} ({chosen})",
        "threads": str(torch.get_num_threads()),
        "squeezebert-kernels": versions["squeezebert-kernels"],
        "built with": facts["build"],
        "python": facts["python"],
        "torch": str(torch.__version__),
        "transformers": versions["transformers"],
        "triton": versions["triton"],
        "CUDA device": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }
    if torch.cuda.is_available():
        reason = devices.why_no_triton(None)
        rows["GPU kernels"] = devices.describe(None) if reason is None else f"none, plain torch instead: {reason}"
    for row in rows.items():
        table.add_row(*row)
    console.print(table)


def op_cases() -> Iterator[tuple[str, str, int, tuple[Tensor | None, ...], dict[str, object]]]:
    """(op, what is special, longest sum, arguments, options) of every case of the self-test, in float64."""
    generator = torch.Generator().manual_seed(0)

    def rand(*shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64) * scale

    def conv(c_out: int, c_in: int, groups: int) -> tuple[Tensor, Tensor]:
        k = c_in // groups
        return rand(c_out, k, 1, scale=k**-0.5), rand(c_out)

    def norm(channels: int) -> tuple[Tensor, Tensor]:
        return 1 + rand(channels, scale=0.1), rand(channels)

    x = rand(*TOKENS, CHANNELS)
    for groups, activation in ((1, None), (GROUPS, "gelu"), (GROUPS, "gelu_tanh"), (GROUPS, "relu")):
        options: dict[str, object] = {"groups": groups, "activation": activation}
        yield (
            "grouped_pointwise_conv",
            f"groups={groups}, activation={activation}",
            CHANNELS // groups,
            (x, *conv(HIDDEN, CHANNELS, groups)),
            options,
        )
    yield (
        "grouped_pointwise_conv_layer_norm",
        f"groups={GROUPS}",
        HIDDEN // GROUPS,
        (rand(*TOKENS, HIDDEN), *conv(CHANNELS, HIDDEN, GROUPS), x, *norm(CHANNELS)),
        {"groups": GROUPS},
    )
    padding = torch.zeros(TOKENS[0], 1, 1, TOKENS[1], dtype=torch.float64)
    padding[1, ..., 20:] = torch.finfo(torch.float32).min
    for mask, name in ((None, "no mask"), (padding, "padded")):
        qkv = [t for _ in range(3) for t in conv(CHANNELS, CHANNELS, GROUPS)]
        yield (
            "attention_block",
            f"groups={GROUPS}, heads={HEADS}, {name}",
            CHANNELS,
            (x, *qkv, mask),
            {"num_heads": HEADS, "q_groups": GROUPS, "k_groups": GROUPS, "v_groups": GROUPS},
        )
    for groups in (1, GROUPS):
        yield (
            "post_attention_block",
            f"post groups=1, FFN groups={groups}",
            HIDDEN,
            (
                rand(*TOKENS, CHANNELS),
                x,
                *conv(CHANNELS, CHANNELS, 1),
                *norm(CHANNELS),
                *conv(HIDDEN, CHANNELS, groups),
                *conv(CHANNELS, HIDDEN, groups),
                *norm(CHANNELS),
            ),
            {"post_groups": 1, "intermediate_groups": groups, "output_groups": groups},
        )


def print_self_test(console: Console) -> bool:
    """Every op in float32 against the float64 reference; True if all agree."""
    table = Table(title="self-test of the ops: float32 against the float64 reference", title_justify="left")
    for column in ("op", "case", "max error", "allowed", ""):
        table.add_column(column, justify="right" if column in ("max error", "allowed") else "left")
    problems: list[str] = []
    for name, case, longest_sum, arguments, options in op_cases():
        ours: Callable[..., Tensor] = getattr(ops, name)
        oracle: Callable[..., Tensor] = getattr(reference, name)
        expected = oracle(*arguments, **options)
        # Rounding errors of a sum of k terms grow like sqrt(k); a few sums follow one another in a block.
        allowed = 8 * torch.finfo(torch.float32).eps * longest_sum**0.5 * max(1.0, expected.abs().max().item())
        error = float("nan")
        try:
            result = ours(*(None if t is None else t.float() for t in arguments), **options)
            error = (result.double() - expected).abs().max().item()
            problem = None if error <= allowed else "wrong result"
        except Exception as exception:  # a broken build may fail in any way; report it and go on
            problem = f"{type(exception).__name__}: {exception}"
        if problem is not None:
            problems.append(f"FAILED {name}, {case}: {problem}")
        table.add_row(name, case, f"{error:.1e}", f"{allowed:.1e}", "ok" if problem is None else "FAILED")
    console.print(table)
    for line in problems:
        console.print(line, markup=False, soft_wrap=True)
    return not problems


def tiny_models() -> Iterator[tuple[str, torch.nn.Module, bool]]:
    """(name, model, whether all of it has to be fused): plain models, and examples of what falls back."""
    from transformers import BertConfig, BertModel, SqueezeBertConfig, SqueezeBertModel

    sizes = {
        "vocab_size": 99,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
    }
    squeezebert = {**sizes, "embedding_size": 32}
    yield "SqueezeBERT", SqueezeBertModel(SqueezeBertConfig(**squeezebert)), True
    yield "BERT", BertModel(BertConfig(**sizes)), True
    yield "SqueezeBERT, activation silu", SqueezeBertModel(SqueezeBertConfig(**squeezebert, hidden_act="silu")), False
    hooked = SqueezeBertModel(SqueezeBertConfig(**squeezebert))
    hooked.encoder.layers[1].attention.register_forward_hook(lambda module, inputs, output: None)
    yield "SqueezeBERT, a hook on layer 1's attention", hooked, False


def print_models(console: Console) -> bool:
    """Optimizes tiny models: outputs must not change; the reports say what falls back and why."""
    good = True
    ids = torch.randint(0, 99, (2, 17), generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    for name, model, all_fused in tiny_models():
        model.eval()
        with torch.no_grad():
            expected = model(ids).last_hidden_state
            optimize(model)
            error = (model(ids).last_hidden_state - expected).abs().max().item()
        result = report(model)
        passed = error <= 1e-5 and not (all_fused and result.fallbacks)
        good &= passed
        verdict = "ok" if passed else "FAILED"
        console.print(f"optimize({name}): {verdict}, largest change {error:.1e}", style="bold")
        console.print(str(result), markup=False)
        console.print()
    return good
