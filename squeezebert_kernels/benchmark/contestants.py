"""Everything that is timed: ours, and what a user would pick instead.

A contestant is built for one model, one shape and one number of threads, and is then a call that takes nothing: ids and
mask to last_hidden_state and pooled output, the same work for all.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..fusion.optimize import optimize
from ..ops.dtypes import FLOATING
from .workload import Inputs, load_stock

EXTRA = "pip install 'squeezebert-kernels[bench]'"
OPTIMIZE: dict[str, dict[str, Any]] = {
    "fp32": {},
    "bf16": {"dtype": torch.bfloat16},
    "int8": {"quantization": "int8"},
}


class NotApplicable(Exception):
    """This contestant makes no sense for this model; the message says why."""


@dataclass
class Setting:
    """What contestants are built for. ``cache`` keeps what outlives a shape: exported files, sessions, copies."""

    name: str
    stock: Any
    inputs: Inputs
    threads: int
    folder: Path
    cache: dict[Any, Any] = field(default_factory=dict)

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """``make()``, kept under ``key`` for the model's other shapes and threads."""
        if key not in self.cache:
            self.cache[key] = make()
        return self.cache[key]


Build = Callable[[Setting], Callable[[], Any]]


@dataclass(frozen=True)
class Contestant:
    """``key`` is what --only selects by; ``scope`` is "model", "encoder" or "memory" (of which nothing but the memory
    is measured); ``needs`` are packages of the bench extra.

    ``reference`` names another model whose stock output this one is checked against and whose work it does;
    ``for_padding`` is for one that differs from another only where there is padding.
    """

    key: str
    label: str
    dtype: str
    build: Build
    needs: tuple[str, ...] = ()
    scope: str = "model"
    models: tuple[str, ...] | None = None
    in_quick: bool = False
    reference: str | None = None
    for_padding: bool = False

    @property
    def is_ours(self) -> bool:
        return self.key.startswith("ours-")

    def missing(self) -> list[str]:
        """Packages that it needs and that are not installed."""
        return [name for name in self.needs if importlib.util.find_spec(name) is None]


def hidden_of(output: Any) -> Tensor:
    """last_hidden_state, [batch, length, channels], out of what a contestant returns."""
    if isinstance(output, Tensor):
        return output
    if hasattr(output, "last_hidden_state"):
        return output.last_hidden_state
    first = output[0]
    return first if isinstance(first, Tensor) else torch.from_numpy(first)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """No warnings, log lines or prints of a peer's own while it exports or compiles."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)


# PyTorch


def shared_copy(model: Any) -> Any:
    """A copy of the modules with the same parameter tensors."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(t): t for t in tensors})


def _ours(setting: Setting, dtype: str, **options: Any) -> Any:
    key = ("ours", dtype, *options)
    return setting.once(key, lambda: optimize(shared_copy(setting.stock), **OPTIMIZE[dtype], **options))


def _eager(setting: Setting, dtype: str) -> Any:
    if dtype == "fp32":
        return setting.stock
    return setting.once(("eager", dtype), lambda: copy.deepcopy(setting.stock).to(FLOATING[dtype]))


def _call(model: Any, inputs: Inputs) -> Callable[[], Any]:
    return lambda: model(input_ids=inputs.ids, attention_mask=inputs.mask)


def build_ours(dtype: str, **options: Any) -> Build:
    return lambda setting: _call(_ours(setting, dtype, **options), setting.inputs)


def build_one_copy(dtype: str) -> Build:
    """The stock model itself, optimized. No other contestant can use it afterwards."""
    return lambda setting: _call(
        optimize(setting.stock, **OPTIMIZE[dtype], free_original=True), setting.inputs
    )  # fmt: skip


def build_eager(dtype: str) -> Build:
    return lambda setting: _call(_eager(setting, dtype), setting.inputs)


def build_encoder(make_model: Callable[[Setting, str], Any], dtype: str) -> Build:
    """The encoder alone, on the arguments that the whole model calls it with."""

    def build(setting: Setting) -> Callable[[], Any]:
        model = make_model(setting, dtype)
        encoder = model.encoder
        seen: dict[str, Any] = {}

        def record(*args: Any, **kwargs: Any) -> Any:
            seen["args"], seen["kwargs"] = args, kwargs
            return type(encoder).forward(encoder, *args, **kwargs)

        encoder.forward = record
        try:
            _call(model, setting.inputs)()
        finally:
            del encoder.forward
        return lambda: encoder(*seen["args"], **seen["kwargs"])

    return build


def build_compiled(dtype: str) -> Build:
    """torch.compile with weights frozen in, for this very shape: the fastest that it offers on CPU."""

    def build(setting: Setting) -> Callable[[], Any]:
        from torch._inductor import config

        torch._dynamo.reset()
        with quietly(), config.patch(freezing=True):
            compiled = torch.compile(shared_copy(_eager(setting, dtype)), dynamic=False)
            call = _call(compiled, setting.inputs)
            call()  # compiles, while freezing is on
        return call

    return build


class BatchedMatmulConv(nn.Module):
    """A grouped 1x1 convolution on [batch, channels, length] as one batched matrix product, weights reshaped once."""

    def __init__(self, conv: nn.Conv1d) -> None:
        super().__init__()
        groups, weight = conv.groups, conv.weight.detach()
        self.groups = groups
        self.weight = nn.Parameter(weight.reshape(groups, -1, weight.shape[1]).contiguous(), requires_grad=False)
        assert conv.bias is not None
        self.bias = nn.Parameter(conv.bias.detach().reshape(groups, -1, 1), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, length = x.shape
        grouped = x.reshape(batch, self.groups, -1, length)
        if batch == 1:
            return torch.baddbmm(self.bias, self.weight, grouped[0]).reshape(1, -1, length)
        return (torch.matmul(self.weight, grouped) + self.bias).reshape(batch, -1, length)


def build_bmm(setting: Setting) -> Callable[[], Any]:
    def make() -> Any:
        model = shared_copy(setting.stock)
        convs = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv1d) and m.groups > 1]
        if not convs:
            raise NotApplicable("no grouped convolutions")
        for name, conv in convs:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, BatchedMatmulConv(conv))
        return model

    return _call(setting.once("bmm", make), setting.inputs)


def build_bert_base(setting: Setting) -> Callable[[], Any]:
    bert, _ = setting.once("bert-base", lambda: load_stock("bert-base"))
    return _call(bert, setting.inputs)


# ONNX Runtime and OpenVINO


class _OnnxOutputs(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        output = self.model(input_ids=ids, attention_mask=mask)
        return output.last_hidden_state, output.pooler_output


def onnx_path(folder: Path, model: str, kind: str = "") -> Path:
    """Where the exported model is kept; ``kind`` is "" or "-int8"."""
    return folder / f"{model}{kind}.onnx"


def onnx_file(setting: Setting) -> Path:
    """The stock model as ONNX, any batch and length, exported once."""

    def export() -> Path:
        path = onnx_path(setting.folder, setting.name)
        model = shared_copy(setting.stock)
        if hasattr(model, "set_attn_implementation") and getattr(model, "_supports_sdpa", False):
            model.set_attn_implementation("eager")  # plain products and softmax, which both runtimes fuse
        axes = {name: {0: "batch", 1: "length"} for name in ("ids", "mask", "hidden")} | {"pooled": {0: "batch"}}
        ids = torch.randint(1, 99, (2, 16))
        with quietly(), torch.inference_mode(False), torch.no_grad():
            torch.onnx.export(
                _OnnxOutputs(model).eval(),
                (ids, torch.ones_like(ids)),
                str(path),
                input_names=["ids", "mask"],
                output_names=["hidden", "pooled"],
                dynamic_axes=axes,
                opset_version=17,
                dynamo=False,
            )
        return path

    return setting.once("onnx", export)


def _int8_onnx_file(setting: Setting) -> Path:
    def quantize() -> Path:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        path = onnx_path(setting.folder, setting.name, "-int8")
        with quietly():
            # Per channel: without it MiniLM's hidden states are a third off.
            quantize_dynamic(str(onnx_file(setting)), str(path), weight_type=QuantType.QInt8, per_channel=True)
        return path

    return setting.once("onnx-int8", quantize)


def build_onnxruntime(file: Callable[[Setting], Path]) -> Build:
    def build(setting: Setting) -> Callable[[], Any]:
        import onnxruntime

        def make() -> Any:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads, options.inter_op_num_threads = setting.threads, 1
            options.log_severity_level = 3
            # Its threads spin within a run, as they would alone, but not into the next contestant's turn.
            options.add_session_config_entry("session.force_spinning_stop", "1")
            return onnxruntime.InferenceSession(str(file(setting)), options, providers=["CPUExecutionProvider"])

        session = setting.once(("onnxruntime", file, setting.threads), make)
        feed = {"ids": setting.inputs.ids.numpy(), "mask": setting.inputs.mask.numpy()}
        return lambda: session.run(["hidden", "pooled"], feed)

    return build


def build_openvino(precision: str) -> Build:
    def build(setting: Setting) -> Callable[[], Any]:
        import openvino

        core = setting.once("openvino", openvino.Core)
        model = core.read_model(str(onnx_file(setting)))
        shape = list(setting.inputs.ids.shape)
        model.reshape({"ids": shape, "mask": shape})
        options = {
            "INFERENCE_NUM_THREADS": setting.threads,
            "INFERENCE_PRECISION_HINT": precision,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }
        compiled = core.compile_model(model, "CPU", options)
        request = compiled.create_infer_request()
        feed = {"ids": setting.inputs.ids.numpy(), "mask": setting.inputs.mask.numpy()}

        def call() -> Any:
            result = request.infer(feed, share_inputs=True, share_outputs=True)
            return result["hidden"], result["pooled"]

        return call

    return build


RUNTIME, VINO = ("onnx", "onnxruntime"), ("onnx", "openvino")

CONTESTANTS = (
    Contestant("ours-fp32", "ours, fp32", "fp32", build_ours("fp32"), in_quick=True),
    Contestant("ours-bf16", "ours, bf16", "bf16", build_ours("bf16"), in_quick=True),
    Contestant("ours-int8", "ours, int8", "int8", build_ours("int8"), in_quick=True),
    *(
        Contestant(
            f"ours-{d}-unpadded",
            f"ours, {d}, skip_padding",
            d,
            build_ours(d, skip_padding=True),
            in_quick=True,
            for_padding=True,
        )
        for d in OPTIMIZE
    ),
    Contestant("eager-fp32", "transformers, fp32", "fp32", build_eager("fp32"), in_quick=True),
    Contestant("eager-bf16", "transformers, bf16", "bf16", build_eager("bf16"), in_quick=True),
    Contestant(
        "eager-fp16",
        "transformers, fp16 (what v5 makes of the published checkpoint)",
        "fp16",
        build_eager("fp16"),
        models=("squeezebert",),
    ),
    Contestant("compile-fp32", "torch.compile, frozen, fp32", "fp32", build_compiled("fp32")),
    Contestant("compile-bf16", "torch.compile, frozen, bf16", "bf16", build_compiled("bf16")),
    Contestant("bmm-fp32", "grouped conv as bmm, fp32", "fp32", build_bmm, models=("squeezebert",), in_quick=True),
    Contestant("onnxruntime-fp32", "ONNX Runtime, fp32", "fp32", build_onnxruntime(onnx_file), RUNTIME, in_quick=True),
    Contestant("onnxruntime-int8", "ONNX Runtime, int8 dynamic", "int8", build_onnxruntime(_int8_onnx_file), RUNTIME),
    Contestant("openvino-fp32", "OpenVINO, fp32", "fp32", build_openvino("f32"), VINO, in_quick=True),
    Contestant("openvino-bf16", "OpenVINO, bf16", "bf16", build_openvino("bf16"), VINO, in_quick=True),
    Contestant(
        "bert-base-fp32",
        "BERT-base, transformers, fp32",
        "fp32",
        build_bert_base,
        models=("squeezebert",),
        reference="bert-base",
    ),
    *(
        Contestant(f"ours-{d}-one-copy", f"ours, {d}, free_original", d, build_one_copy(d), scope="memory")
        for d in OPTIMIZE
    ),
    *(
        Contestant(f"ours-{d}-encoder", f"ours, {d}: encoder only", d, build_encoder(_ours, d), scope="encoder")
        for d in OPTIMIZE
    ),
    Contestant(
        "eager-fp32-encoder", "transformers, fp32: encoder only", "fp32", build_encoder(_eager, "fp32"), scope="encoder"
    ),
)
"""In the order of the tables."""


def select(only: list[str] | None) -> list[Contestant]:
    """Contestants whose key is, or begins with, one of ``only``; all for None. ValueError for one that selects none."""
    if only is None:
        return list(CONTESTANTS)
    for wanted in only:
        if not any(c.key == wanted or c.key.startswith(f"{wanted}-") for c in CONTESTANTS):
            raise ValueError(f"{wanted!r} selects no contestant; possible: {', '.join(c.key for c in CONTESTANTS)}")
    return [c for c in CONTESTANTS if any(c.key == w or c.key.startswith(f"{w}-") for w in only)]
