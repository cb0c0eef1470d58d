"""Calls every op with hostile arguments, which must raise or compute. Runs as a program, for a crash to be its own:

    python -m support.hostile_calls SHARE PAIRS

Its output names every call before it is made, so the last line tells where it crashed or hung.
"""

import faulthandler
import inspect
import random
import resource
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from support import op_cases
from support.hostile_values import Hostile, of_type
from torch import Tensor

from squeezebert_kernels import ops
from squeezebert_kernels.layer_arguments import LayerTensors

NAMESPACE = "squeezebert_kernels"
_ops = torch.ops.squeezebert_kernels
HANGS_AFTER = 120  # seconds, for some hundred calls: they take a hundredth of that
# What torch says of a copy that is too large, or of a tensor whose memory was given back, is not of our making.
NO_MEMORY = ("allocate memory", "aten::contiguous", "unallocated storage", "storage of size 0")
REFUSALS = {"raw": (RuntimeError, ValueError, TypeError), "public": (ValueError, TypeError)}


def schemas() -> dict[str, Any]:
    """The schemas of all ops that are registered, by name."""
    found = {}
    for schema in torch._C._jit_get_all_schemas():
        namespace, _, name = schema.name.partition("::")
        if namespace == NAMESPACE:
            found[name] = schema
    return found


def _named(case: tuple[Any, Any], names: Any) -> dict[str, Any]:
    args, options = case
    return {**dict(zip(names, args)), **options}


def _blocks() -> tuple[dict[str, Any], dict[str, Any]]:
    attention = _named(op_cases.attention_case(length=5), LayerTensors._fields[:8])
    post = _named(op_cases.post_case(rows=(2, 5), hidden=48), ("context", "residual", *LayerTensors._fields[8:]))
    return attention, {**post, "post_eps": 1e-5, "output_eps": 1e-5}


def _pack(arguments: dict[str, Any], prefixes: tuple[str, ...], num_heads: int = 0, dtype: str = "float32") -> Tensor:
    weights = [arguments[f"{p}weight"] for p in prefixes]
    return _ops.pack(weights, [arguments[f"{p}groups"] for p in prefixes], num_heads, dtype)


QKV, POST = ("q_", "k_", "v_"), ("post_", "intermediate_", "output_")


def good_calls() -> dict[str, dict[str, Any]]:
    """Arguments by name of one good call of every op. A new op needs an entry here."""
    conv = _named(op_cases.conv_case(), ("x", "weight", "bias"))
    norm = _named(op_cases.conv_norm_case(), ("x", "weight", "bias", "residual", "norm_weight", "norm_bias"))
    attention, post = _blocks()
    packed = {"attention": _pack(attention, QKV, 4), "post": _pack(post, POST)}
    seed = torch.tensor([5])
    train = {**attention, "seed": seed, "dropout_p": 0.1, "dtype": "float32"}
    post_train = {**post, "seed": seed, "post_dropout_p": 0.1, "output_dropout_p": 0.1, "dtype": "float32"}
    state = dict(zip(("context", "q", "k", "v", "lse"), _ops.attention_block_train(**train)))
    post_state = dict(zip(("y", "post_sum", "h", "z", "output_sum"), _ops.post_attention_block_train(**post_train)))
    sizes = {"n": [24, 24, 24], "k": [12, 12, 12], "groups": [2, 2, 2], "num_heads": 4, "dtype": "float32"}
    qkv = [attention[f"{p}weight"] for p in QKV]
    calls = {
        "grouped_pointwise_conv": {**conv, "packed": _pack(conv, ("",))},
        "grouped_pointwise_conv_layer_norm": {**norm, "packed": _pack(norm, ("",), dtype="int8")},
        "attention_block": {**attention, "packed": packed["attention"], "offsets": None},
        "post_attention_block": {**post, "packed": packed["post"]},
        "encoder_layer": {
            **attention, **post, "attention_packed": packed["attention"], "post_packed": packed["post"],
            "x": attention["x"].flatten(0, 1), "attention_mask": attention["attention_mask"],
            "offsets": torch.tensor([0, 5, 10]),
        },
        "grouped_pointwise_conv_backward": {
            **conv, "grad": op_cases.randn(3, 5, 40), "needs": [1, 1, 1], "dtype": "float32",
        },
        "attention_block_train": train,
        "attention_block_backward": {**train, **state, "grad": torch.ones(2, 5, 24), "needs": [1] * 7},
        "post_attention_block_train": post_train,
        "post_attention_block_backward": {
            **post_train, **post_state, "grad": torch.ones(2, 5, 24), "needs": [1] * 12, "dtype": "bfloat16",
        },
        "dropout_factors": {"seed": seed, "site": 1, "rows": 7, "columns": 5, "p": 0.25},
        "pack": {"weights": qkv, "groups": [2, 2, 2], "num_heads": 4, "dtype": "int8"},
        "packed_bytes": sizes,
        "unpack": {**sizes, "packed": packed["attention"], "section": 1},
        "packed_is_current": {"weights": qkv, "packed": packed["attention"]},
        "same_checksums": {"weights": qkv, "checksums": _ops.checksums(qkv), "first": 0, "count": 2},
        "checksums": {"weights": qkv},
        "isa": {}, "available_isas": {}, "build_info": {},
    }  # fmt: skip
    found = schemas()
    return {
        name: {a.name: calls[name][a.name] for a in found[name].arguments if a.name in calls[name]} for name in found
    }


def _hostile(good: dict[str, Any], kinds: dict[str, str]) -> dict[str, list[Hostile]]:
    values = {argument: of_type(kinds[argument], value) for argument, value in good.items()}
    tensors = [argument for argument, kind in kinds.items() if "Tensor" in kind]
    if len(tensors) == 1 and isinstance(good[tensors[0]], Tensor):  # alone on meta it has a shape
        values = {
            k: [h._replace(outcome="either") if h.label == "on meta" else h for h in v] for k, v in values.items()
        }
    return values


def raw_calls() -> Iterator[tuple[str, Callable[..., Any], dict[str, Any], dict[str, list[Hostile]]]]:
    """(name, op, good arguments, hostile ones by argument) of every op as torch has it."""
    calls, found = good_calls(), schemas()
    for name, good in calls.items():
        kinds = {a.name: str(a.type) for a in found[name].arguments}
        assert set(good) == set(kinds), f"{name}: no good value for {set(kinds) - set(good)}"
        yield name, getattr(_ops, name), good, _hostile(good, kinds)


def public_calls() -> Iterator[tuple[str, Callable[..., Any], dict[str, Any], dict[str, list[Hostile]]]]:
    """The same for the functions of squeezebert_kernels.ops."""
    calls = good_calls()
    calls["unpack"]["shapes"] = [[24, 12]] * 3
    for name in ops.__all__:
        if name == "try_encoder_layer":  # for arguments that were checked
            continue
        function = getattr(ops, name)
        parameters = inspect.signature(function).parameters
        defaults = {p.name: p.default for p in parameters.values() if p.default is not p.empty}
        good = {k: v for k, v in {**defaults, **calls[name]}.items() if k in parameters}
        assert set(good) == set(parameters), f"ops.{name}: no good value for {set(parameters) - set(good)}"
        kinds = {
            p.name: str(p.annotation).replace("Sequence[Sequence[int]]", "Sequence[int]") for p in parameters.values()
        }
        hostile = _hostile(good, kinds)
        if name == "encoder_layer":  # has no gradients, and says so
            for argument, values in hostile.items():
                hostile[argument] = [h for h in values if h.label != "requires gradients"]
        yield name, function, good, hostile


def _bits(result: Any) -> Any:
    """Something that is equal for equal results, to the bit."""
    if isinstance(result, (list, tuple)):
        return [_bits(r) for r in result]
    if not isinstance(result, Tensor):
        return result
    plain = result.detach()
    shape = (plain.device.type, plain.dtype, tuple(plain.shape))
    return shape if plain.device.type != "cpu" else (*shape, bytes(plain.reshape(-1).view(torch.uint8).numpy()))


def _soil(result: Any) -> None:
    """Memory that is given back with values in it, where a result like this one would be put."""
    for r in result if isinstance(result, (list, tuple)) else (result,):
        if isinstance(r, Tensor):
            dirty = [torch.full(r.shape, 77, dtype=r.dtype) for _ in range(3)]
            del dirty


class Caller:
    """Makes calls and remembers what came of them."""

    def __init__(self, mode: str) -> None:
        self.refusals = REFUSALS[mode]
        self.failures: list[str] = []
        self.counts = {"computed": 0, "refused": 0}

    def call(self, label: str, function: Callable[..., Any], arguments: dict[str, Any], outcome: str, bits: Any) -> Any:
        """Two calls, which must agree. ``bits`` are those of the good call."""
        sys.stdout.write(label + "\n")
        try:
            result = function(**arguments)
            found = _bits(result)
            _soil(result)
            again = _bits(function(**arguments))
        except self.refusals as error:
            self.counts["refused"] += 1
            if outcome == "same" or not str(error):
                self.failures.append(f"{label}: refused, {type(error).__name__}: {str(error)[:300]}")
            return None
        except Exception as error:
            if not any(words in str(error) for words in NO_MEMORY):
                self.failures.append(f"{label}: {type(error).__name__}: {str(error)[:300]}")
            return None
        self.counts["computed"] += 1
        if outcome == "error" or found != again:
            self.failures.append(f"{label}: {'not refused' if found == again else 'not the same twice'}")
        if outcome == "same" and found != bits:
            self.failures.append(f"{label}: another result than that of the good call")
        return found


def _try_all(mode: str, share: int, pairs: int) -> Caller:
    caller = Caller(mode)
    calls = list(raw_calls() if mode == "raw" else public_calls())
    for name, function, good, hostile in calls:
        bits = caller.call(f"{mode} {name}: good", function, good, "either", None)
        if bits is None:
            caller.failures.append(f"{mode} {name}: the good call is none")
        for place, (argument, values) in enumerate(hostile.items()):
            faulthandler.dump_traceback_later(HANGS_AFTER, exit=True)
            # Other values for each argument, and all of them for some.
            chosen = [h for i, h in enumerate(values) if h.outcome != "either" or (i + place) % share == 0]
            for h in chosen:
                label = f"{mode} {name}: {argument} {h.label}"
                caller.call(label, function, {**good, argument: h.value}, h.outcome, bits)
    rng = random.Random(1)
    calls = [c for c in calls if len(c[3]) > 1]
    for i in range(pairs):
        if i % 100 == 0:
            faulthandler.dump_traceback_later(HANGS_AFTER, exit=True)
        name, function, good, hostile = rng.choice(calls)
        pair = {argument: rng.choice(hostile[argument]) for argument in rng.sample(sorted(hostile), 2)}
        label = f"{mode} {name}: " + ", ".join(f"{argument} {h.label}" for argument, h in pair.items())
        caller.call(label, function, {**good, **{k: h.value for k, h in pair.items()}}, "either", None)
    return caller


def main(share: int, pairs: int) -> int:
    """Every op with one in ``share`` hostile values of every argument, and with ``pairs`` random pairs of all of them.

    Values that must be refused, or must not make a difference, are all tried.
    """
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    torch.set_num_threads(1)  # threads only make it slower here
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    limit = now + 3 * 2**30  # what does not fit is no test of ours, and must not take the machine's memory
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
    callers = [_try_all(mode, share, pairs) for mode in REFUSALS]
    faulthandler.cancel_dump_traceback_later()
    failures = [failure for caller in callers for failure in caller.failures]
    print(f"{len(failures)} failures", *failures, sep="\n")
    print(*(caller.counts for caller in callers))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
