"""Argument checks of the ops: every message names the argument and the values it had."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..layer_arguments import LayerOptions, LayerTensors
from .dtypes import PACKED

ACTIVATIONS = ("none", "gelu", "gelu_tanh", "relu")
"""Activations that the kernels fuse; "none" and None are the same."""


def activation_name(activation: str | None) -> str:
    """The op-level name of ``activation``; ValueError for one that no kernel fuses."""
    if activation is None:
        return "none"
    if not isinstance(activation, str):
        raise TypeError(f"activation must be None or a str, got {type(activation).__name__}")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be None or one of {ACTIVATIONS[1:]}, got {activation!r}")
    return activation


def _shape(t: Tensor) -> list[int]:
    return list(t.shape)


def check_tensor(name: str, t: object) -> None:
    """``t`` is a dense tensor."""
    if not isinstance(t, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(t).__name__}")
    if t.is_nested or t.layout != torch.strided:
        kind = "a nested tensor" if t.is_nested else f"layout {t.layout}"
        raise TypeError(f"{name} must be a dense (strided) tensor, got {kind}")


def _is_optional(name: str) -> bool:
    return name == "attention_mask" or (name.endswith("bias") and not name.endswith("norm_bias"))


def check_tensors(named: Mapping[str, Tensor | None], *, like: str, mixed_dtypes: bool = False) -> None:
    """All tensors are floating tensors with the dtype (unless ``mixed_dtypes``) and device of ``named[like]``.

    Biases of convolutions and the attention mask may be None.
    """
    first = named[like]
    for name, t in named.items():
        if t is None and _is_optional(name):
            continue
        check_tensor(name, t)
        assert isinstance(t, Tensor)
        if not t.is_floating_point():
            raise TypeError(f"{name} must have a floating dtype, got {t.dtype}")
        assert isinstance(first, Tensor)
        if t.device != first.device:
            raise ValueError(f"{name} is on {t.device}, but {like} is on {first.device}")
        if t.dtype != first.dtype and not mixed_dtypes:
            raise ValueError(f"{name} has dtype {t.dtype}, but {like} has {first.dtype}")


def check_devices(named: Mapping[str, object]) -> None:
    """All tensors, those in sequences too, are on one device. Only ``offsets`` may stay on the CPU."""
    first: tuple[str, torch.device] | None = None
    for name, value in named.items():
        for t in value if isinstance(value, (list, tuple)) else (value,):
            if not isinstance(t, Tensor) or (name == "offsets" and t.device.type == "cpu"):
                continue
            if first is None:
                first = name, t.device
            elif t.device != first[1]:
                raise ValueError(f"{name} is on {t.device}, but {first[0]} is on {first[1]}")


def check_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, groups: int, *, x_name: str = "x", prefix: str = ""
) -> None:
    """Shapes of one grouped pointwise conv: x [..., C_in], weight [C_out, C_in/groups(, 1(, 1))], bias [C_out]."""
    w_name, b_name, g_name = f"{prefix}weight", f"{prefix}bias", f"{prefix}groups"
    if x.dim() < 1:
        raise ValueError(f"{x_name} must have at least one dimension [..., C_in], got shape {_shape(x)}")
    if not 2 <= weight.dim() <= 4 or any(n != 1 for n in weight.shape[2:]):
        raise ValueError(f"{w_name} must be [C_out, C_in/groups], optionally with trailing 1s, got {_shape(weight)}")
    check_int(g_name, groups)
    c_out, k = weight.shape[0], weight.shape[1]
    if c_out < 1 or k < 1:
        raise ValueError(f"{w_name} must not be empty, got {_shape(weight)}")
    if groups < 1 or c_out % groups:
        raise ValueError(f"{g_name}={groups} must be positive and divide C_out={c_out} of {w_name} {_shape(weight)}")
    if x.shape[-1] != k * groups:
        raise ValueError(
            f"{x_name} has {x.shape[-1]} channels (shape {_shape(x)}), but {w_name} {_shape(weight)} with "
            f"{g_name}={groups} takes {k}*{groups}={k * groups}"
        )
    if bias is not None:
        check_shape(b_name, bias, [c_out])


def check_int(name: str, value: int) -> None:
    """``value`` is an int (a symbolic one counts)."""
    if not isinstance(value, (int, torch.SymInt)) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")


def check_shape(name: str, t: Tensor, expected: list[int]) -> None:
    """``t`` has exactly the ``expected`` shape."""
    if t.dim() != len(expected) or any(a != b for a, b in zip(t.shape, expected)):
        raise ValueError(f"{name} must have shape {expected}, got {_shape(t)}")


def check_eps(name: str, eps: float) -> None:
    """``eps`` is a finite number >= 0."""
    if not isinstance(eps, (int, float)) or isinstance(eps, bool):
        raise TypeError(f"{name} must be a number, got {type(eps).__name__}")
    if not 0 <= eps < float("inf"):
        raise ValueError(f"{name} must be finite and not negative, got {eps}")


def check_heads(num_heads: int, channels: int) -> None:
    """``num_heads`` divides ``channels``."""
    check_int("num_heads", num_heads)
    if num_heads < 1 or channels % num_heads:
        raise ValueError(f"num_heads={num_heads} must be positive and divide the {channels} output channels")


def check_mask(mask: Tensor, batch: int, num_heads: int, length: int) -> None:
    """``mask`` broadcasts to [batch, num_heads, length, length] without expanding its result."""
    target = [batch, num_heads, length, length]
    ok = 1 <= mask.dim() <= 4 and all(
        have == 1 or have == want for have, want in zip(reversed(mask.shape), reversed(target))
    )
    if not ok:
        raise ValueError(
            f"attention_mask of shape {_shape(mask)} does not broadcast to [batch, heads, query, key] = {target}"
        )


def check_offsets(offsets: Tensor | None, tokens: int, device: torch.device) -> int:
    """``offsets`` is an int64 vector on the CPU or with x, and on the CPU ascends from 0 to ``tokens``.

    Returns the length of the longest sequence, 0 where it cannot be known, or not without waiting for a device.
    """
    if offsets is None:
        return 0
    check_tensor("offsets", offsets)
    if offsets.dtype != torch.int64 or offsets.dim() != 1 or offsets.shape[0] < 1:
        raise ValueError(f"offsets must be an int64 tensor [batch + 1], got {offsets.dtype} {_shape(offsets)}")
    if offsets.device.type != "cpu" and offsets.device != device:
        raise ValueError(f"offsets is on {offsets.device}, it must be on cpu or with x on {device}")
    if type(offsets) is not Tensor or offsets.device.type != "cpu" or torch.compiler.is_compiling():
        return 0
    first, last = int(offsets[0]), int(offsets[-1])
    if first != 0 or last != tokens:
        raise ValueError(f"offsets must ascend from 0 to the {tokens} tokens of x, got {first} to {last}")
    lengths = offsets.diff()
    if bool((lengths < 0).any()):
        raise ValueError(f"offsets must ascend from 0 to the {tokens} tokens of x, got {offsets.tolist()}")
    return int(lengths.max()) if len(lengths) else 0


def check_packed(packed: Tensor | None, device: torch.device, name: str = "packed") -> None:
    """``packed`` looks like a result of ``ops.pack``: 1-D, uint8, on ``device``. The kernel checks its content."""
    if packed is None:
        return
    check_tensor(name, packed)
    if packed.dtype != torch.uint8 or packed.dim() != 1:
        raise ValueError(f"{name} must be a 1-D uint8 tensor from ops.pack, got {packed.dtype} {_shape(packed)}")
    if packed.device != device:
        raise ValueError(f"{name} is on {packed.device}, but the weights are on {device}")


def check_packed_dtype(dtype: str) -> None:
    """``dtype`` is one that weights are packed for."""
    if dtype not in PACKED:
        raise ValueError(f"dtype must be 'float32', 'bfloat16' or 'int8', got {dtype!r}")


def check_pack(weights: Sequence[Tensor], groups: Sequence[int], num_heads: int, dtypes: Sequence[torch.dtype]) -> None:
    """The arguments of ``ops.pack``: at least one conv weight on CPU, and as many groups."""
    if isinstance(weights, Tensor) or not isinstance(weights, Sequence):
        raise TypeError(f"weights must be a sequence of tensors, got {type(weights).__name__}")
    if isinstance(groups, (str, Tensor)) or not isinstance(groups, Sequence):
        raise TypeError(f"groups must be a sequence of ints, got {type(groups).__name__}")
    if not weights or len(weights) != len(groups):
        raise ValueError(
            f"weights and groups must be equally many, got {len(weights)} weights and {len(groups)} groups"
        )
    check_int("num_heads", num_heads)
    check_devices({f"weights[{i}]": w for i, w in enumerate(weights)})
    for i, (w, g) in enumerate(zip(weights, groups)):
        check_tensor(f"weights[{i}]", w)
        check_int(f"groups[{i}]", g)
        if w.dtype not in dtypes or w.device.type not in ("cpu", "meta"):
            raise ValueError(f"weights[{i}] must be on CPU with one of {dtypes}, got {w.dtype} on {w.device}")
        if not 2 <= w.dim() <= 4 or any(n != 1 for n in w.shape[2:]) or w.shape[0] < 1 or w.shape[1] < 1:
            raise ValueError(f"weights[{i}] must be [C_out, C_in/groups], optionally with trailing 1s, got {_shape(w)}")
        if not 1 <= g <= w.shape[0] or w.shape[0] % g:
            raise ValueError(f"groups[{i}]={g} must be positive and divide C_out={w.shape[0]} of weights[{i}]")
        if num_heads:
            check_heads(num_heads, w.shape[0])


def check_unpack(
    packed: Tensor, shapes: Sequence[Sequence[int]], groups: Sequence[int], section: int, num_heads: int, dtype: str
) -> None:
    """The arguments of ``ops.unpack``; what ``packed`` holds is for the kernel to see."""
    check_tensor("packed", packed)
    check_packed(packed, packed.device)
    check_packed_dtype(dtype)
    for name, values in (("shapes", shapes), ("groups", groups)):
        if isinstance(values, (str, Tensor)) or not isinstance(values, Sequence):
            raise TypeError(f"{name} must be a sequence, got {type(values).__name__}")
    if len(shapes) != len(groups):
        raise ValueError(f"shapes and groups must be equally many, got {len(shapes)} and {len(groups)}")
    check_int("section", section)
    check_int("num_heads", num_heads)
    if not 0 <= num_heads < 2**63:
        raise ValueError(f"num_heads={num_heads} must not be negative and fit 64 bits")
    if not 0 <= section < len(shapes):
        raise ValueError(f"section={section} is none of the {len(shapes)} sections")
    for i, (shape, g) in enumerate(zip(shapes, groups)):
        if isinstance(shape, (str, Tensor)) or not isinstance(shape, Sequence) or len(shape) < 2:
            raise TypeError(f"shapes[{i}] must be [C_out, C_in/groups], got {shape!r}")
        for name, value in ((f"shapes[{i}][0]", shape[0]), (f"shapes[{i}][1]", shape[1]), (f"groups[{i}]", g)):
            check_int(name, value)
            if not 1 <= value < 2**63:
                raise ValueError(f"{name}={value} must be positive and fit 64 bits")


def check_dtypes(named: dict[str, Tensor | None], like: str) -> None:
    """Tensors with the dtype and device of ``named[like]``; under autocast dtypes may differ."""
    x = named[like]
    mixed = isinstance(x, Tensor) and torch.is_autocast_enabled(x.device.type if x.device.type != "meta" else "cpu")
    check_tensors(named, like=like, mixed_dtypes=mixed)


def check_norm(x: Tensor, residual: Tensor, weight: Tensor, norms: dict[str, Tensor]) -> None:
    """The residual and the weights of a LayerNorm behind a conv of ``x`` by ``weight``."""
    check_shape("residual", residual, [*x.shape[:-1], weight.shape[0]])
    for name, t in norms.items():
        check_shape(name, t, [weight.shape[0]])


def check_attention(
    x: Tensor, q_w, q_b, k_w, k_b, v_w, v_b, mask, num_heads, q_groups, k_groups, v_groups, offsets=None
) -> None:
    """Shapes of the arguments of ``ops.attention_block``."""
    if x.dim() != (3 if offsets is None else 2):
        expected = "[batch, sequence, channels]" if offsets is None else "[tokens, channels] with offsets"
        raise ValueError(f"x must be {expected}, got shape {list(x.shape)}")
    longest = check_offsets(offsets, x.shape[0], x.device)
    for prefix, w, b, g in (("q_", q_w, q_b, q_groups), ("k_", k_w, k_b, k_groups), ("v_", v_w, v_b, v_groups)):
        if w.dim() > 0 and w.shape[0] != q_w.shape[0]:
            raise ValueError(f"{prefix}weight has {w.shape[0]} output channels, but q_weight has {q_w.shape[0]}")
        check_conv(x, w, b, g, prefix=prefix)
    check_heads(num_heads, q_w.shape[0])
    if mask is None:
        return
    if offsets is None:
        check_mask(mask, x.shape[0], num_heads, x.shape[1])
    else:
        columns = mask.shape[-1] if mask.dim() else 0
        if columns < longest:
            raise ValueError(f"attention_mask of shape {list(mask.shape)} ends before sequences of {longest} tokens do")
        check_mask(mask, offsets.shape[0] - 1, num_heads, columns)


def check_post_attention(
    context, residual, post_w, post_b, post_nw, post_nb, inter_w, inter_b, out_w, out_b, out_nw, out_nb,
    *, post_groups, intermediate_groups, output_groups, residual_name="residual",
) -> None:  # fmt: skip
    """Shapes of the arguments of ``ops.post_attention_block``."""
    check_conv(context, post_w, post_b, post_groups, x_name="context", prefix="post_")
    check_norm(context, residual, post_w, {"post_norm_weight": post_nw, "post_norm_bias": post_nb})
    check_conv(residual, inter_w, inter_b, intermediate_groups, x_name=residual_name, prefix="intermediate_")
    channels = residual.shape[-1]
    if out_w.dim() > 0 and out_w.shape[0] != channels:
        raise ValueError(f"output_weight has {out_w.shape[0]} output channels, but {residual_name} has {channels}")
    hidden = residual.new_empty((0, inter_w.shape[0]))
    check_conv(hidden, out_w, out_b, output_groups, x_name="the output of the intermediate conv", prefix="output_")
    for name, t in (("output_norm_weight", out_nw), ("output_norm_bias", out_nb)):
        check_shape(name, t, [out_w.shape[0]])


def check_encoder_layer(tensors: LayerTensors, options: LayerOptions, offsets: Tensor | None) -> None:
    """Shapes of the arguments of ``ops.encoder_layer``."""
    x, post_weight = tensors.x, tensors.post_weight
    check_attention(*tensors.attention(), **options.attention(), offsets=offsets)  # type: ignore[misc]
    if post_weight.dim() > 0 and post_weight.shape[0] != x.shape[-1]:
        raise ValueError(f"post_weight has {post_weight.shape[0]} output channels, but x has {x.shape[-1]}")
    context = x.new_empty(()).expand(*x.shape[:-1], tensors.v_weight.shape[0])
    check_post_attention(
        context, x, *tensors.behind_attention(), **options.groups_behind_attention(), residual_name="x"
    )


def check_training(dtype: object, **dropout_p: float) -> None:
    """What the blocks take for training besides tensors."""
    for name, p in dropout_p.items():
        if isinstance(p, bool) or not isinstance(p, (int, float)) or not 0 <= p <= 1:
            raise ValueError(f"{name} must be a probability between 0 and 1, got {p!r}")
    if dtype not in (None, "float32", "bfloat16"):
        raise ValueError(f"dtype must be None, 'float32' or 'bfloat16', got {dtype!r}")
