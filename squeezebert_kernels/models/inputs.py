"""What a model may be called with: checks that name the argument at fault, and the additive attention mask.

Shapes, dtypes and devices are always checked. Values (token ids in range, masks without padding) are only looked at
where there are any: not while compiling, exporting or tracing, on the meta device, under vmap, or during CUDA graph
capture.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..ops.validation import check_tensor

__all__ = ["additive_mask", "check_inputs", "check_labels", "has_values", "reject_head_mask"]

_ID_DTYPES = (torch.int64, torch.int32)


def has_values(tensor: Tensor) -> bool:
    """Whether the program may depend on the values of `tensor`, rather than on its shape alone."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or torch.jit.is_scripting():
        return False
    if tensor.device.type == "meta" or type(tensor) not in (Tensor, torch.nn.Parameter):
        return False
    if torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        return False
    return not (tensor.is_cuda and torch.cuda.is_current_stream_capturing())


def _check_ids(name: str, ids: Any, limit: int, limit_name: str) -> None:
    """An integer tensor with values in [0, limit)."""
    check_tensor(name, ids)
    if ids.dtype not in _ID_DTYPES:
        raise TypeError(f"{name} must have dtype int64 or int32, got {ids.dtype}")
    if ids.numel() == 0 or not has_values(ids):
        return
    low, high = (int(bound) for bound in torch.aminmax(ids))
    if low < 0 or high >= limit:
        raise ValueError(f"{name} must lie in [0, {limit_name}) = [0, {limit}), got values from {low} to {high}")


def _check_device(name: str, value: Tensor, other_name: str, device: torch.device) -> None:
    if value.device != device:
        raise ValueError(f"{name} is on {value.device}, but {other_name} is on {device}")


def reject_head_mask(head_mask: Any) -> None:
    """Refuse to mask heads, which no SqueezeBERT implementation does; transformers 5 ignores the argument in silence.

    Raises:
        ValueError: `head_mask` is neither None nor a list of Nones.
    """
    if head_mask is None or (isinstance(head_mask, (list, tuple)) and all(mask is None for mask in head_mask)):
        return
    raise ValueError(
        f"head_mask is not supported by SqueezeBERT, got a {type(head_mask).__name__}; "
        "zero the head's slice of the post_attention weight instead"
    )


def check_inputs(
    config: Any,
    word_embeddings: Any,
    input_ids: Tensor | None,
    attention_mask: Tensor | None,
    token_type_ids: Tensor | None,
    position_ids: Tensor | None,
    inputs_embeds: Tensor | None,
) -> tuple[int, int]:
    """Refuse arguments that the encoder cannot compute with, before any work is done.

    Args:
        config: the model's configuration.
        word_embeddings: the module that will look up `input_ids`.
        input_ids: int64 or int32, [batch, length].
        attention_mask: any dtype; [batch, length], [batch, length, length] or broadcastable to
            [batch, heads, length, length].
        token_type_ids: int64 or int32, [batch, length], [1, length] or [length].
        position_ids: as `token_type_ids`.
        inputs_embeds: floating, [batch, length, channels], in place of `input_ids`.

    Returns:
        batch, length.

    Raises:
        TypeError: an argument is no tensor or has the wrong kind of dtype.
        ValueError: both or neither of `input_ids` and `inputs_embeds`; a wrong rank, shape or device; more positions
            than the model has; an id out of range.
    """
    if (input_ids is None) == (inputs_embeds is None):
        both = "both" if input_ids is not None else "neither"
        raise ValueError(f"give either input_ids or inputs_embeds, got {both}")
    weight = getattr(word_embeddings, "weight", None)
    if input_ids is not None:
        name, given = "input_ids", input_ids
        check_tensor(name, given)
        if given.dim() != 2:
            raise ValueError(f"input_ids must be [batch, length], got shape {list(given.shape)}")
    else:
        assert inputs_embeds is not None
        name, given = "inputs_embeds", inputs_embeds
        check_tensor(name, given)
        if given.dim() != 3 or given.shape[2] != config.hidden_size:
            raise ValueError(
                f"inputs_embeds must be [batch, length, {config.hidden_size}], got shape {list(given.shape)}"
            )
        if not given.is_floating_point():
            raise TypeError(f"inputs_embeds must have a floating dtype, got {given.dtype}")
        if (
            isinstance(weight, Tensor)
            and torch.promote_types(given.dtype, weight.dtype) != weight.dtype
            and not torch.is_autocast_enabled(given.device.type)
        ):
            raise ValueError(f"inputs_embeds has dtype {given.dtype}, but the model's weights have {weight.dtype}")
    # Offloaded weights wait on the meta device, and modules with a dispatch hook fetch their own inputs.
    if isinstance(weight, Tensor) and weight.device.type != "meta" and not hasattr(word_embeddings, "_hf_hook"):
        _check_device(name, given, "the model", weight.device)

    batch, length = given.shape[0], given.shape[1]
    if length < 1:
        raise ValueError(f"{name} has shape {list(given.shape)}: a sequence needs at least one token")
    if position_ids is None and length > config.max_position_embeddings:
        raise ValueError(
            f"{name} has length {length}, more than max_position_embeddings ({config.max_position_embeddings})"
        )
    if input_ids is not None:
        rows = getattr(word_embeddings, "num_embeddings", config.vocab_size)
        _check_ids("input_ids", input_ids, rows, "vocab_size")
    for id_name, ids, limit_name in (
        ("token_type_ids", token_type_ids, "type_vocab_size"),
        ("position_ids", position_ids, "max_position_embeddings"),
    ):
        if ids is None:
            continue
        _check_ids(id_name, ids, getattr(config, limit_name), limit_name)
        fits = ids.dim() in (1, 2) and ids.shape[-1] == length
        if not fits or (ids.dim() == 2 and ids.shape[0] != batch and ids.shape[0] != 1):
            raise ValueError(
                f"{id_name} must be [{batch}, {length}] like {name}, [1, {length}] or [{length}], "
                f"got shape {list(ids.shape)}"
            )
        _check_device(id_name, ids, name, given.device)
    if attention_mask is not None:
        _check_mask(attention_mask, batch, length, config.num_attention_heads)
        _check_device("attention_mask", attention_mask, name, given.device)
    return batch, length


def _check_mask(mask: Any, batch: int, length: int, heads: int) -> None:
    check_tensor("attention_mask", mask)
    if mask.is_complex():
        raise TypeError(f"attention_mask must be bool, integer or floating, got {mask.dtype}")
    full = {2: (batch, length), 3: (batch, length, length), 4: (batch, heads, length, length)}.get(mask.dim())
    # Only the mask that is added as it stands may leave the tokens to broadcasting.
    free = {2: 1, 3: 1, 4: 4}.get(mask.dim(), 0)
    if full is None or any(
        have != want and not (axis < free and have == 1)
        for axis, (have, want) in enumerate(zip(mask.shape, full, strict=True))
    ):
        raise ValueError(
            f"attention_mask must be [{batch}, {length}], [{batch}, {length}, {length}] or broadcastable to "
            f"[{batch}, {heads}, {length}, {length}], got shape {list(mask.shape)}"
        )


def additive_mask(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """The mask that is added to the attention scores.

    Args:
        mask: None; [batch, length] or [batch, length, length] with non-zero where a token may be attended to; or four
            dimensions, broadcastable to [batch, heads, length, length]: then boolean with True where a token may be
            attended to, or the numbers to add.
        dtype: of the scores.

    Returns:
        None where every token may be attended to, else a `dtype` tensor broadcastable to
        [batch, heads, length, length]: 0 for tokens that may be attended to and the least finite number of `dtype` for
        the rest, so that a row in which nothing may be attended to becomes uniform instead of NaN.
    """
    if mask is None:
        return None
    lowest = torch.finfo(dtype).min
    if mask.dim() == 4 and mask.dtype != torch.bool:
        if mask.is_floating_point() and mask.dtype != dtype:
            # The least number of a wider type is -inf in a narrower one.
            mask = mask.clamp(min=max(lowest, torch.finfo(mask.dtype).min))
        return mask.to(dtype)
    if has_values(mask) and bool(mask.all()):
        return None
    if mask.dim() == 2:
        mask = mask[:, None, None, :]
    elif mask.dim() == 3:
        mask = mask[:, None]
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(mask == 0, lowest)


def check_labels(
    name: str, labels: Any, shapes: tuple[tuple[int, ...], ...], classes: int | None = None, ignored: int = -100
) -> None:
    """Refuse labels that do not fit the logits.

    Args:
        name: of the argument, for the message.
        labels: the argument.
        shapes: the shapes it may have.
        classes: where given, labels are integers in [0, classes), or `ignored`.
        ignored: the label that takes no part in the loss.

    Raises:
        TypeError: no tensor, or not of an integer dtype where `classes` is given.
        ValueError: a wrong shape, or a class out of range.
    """
    check_tensor(name, labels)
    if not any(tuple(labels.shape) == shape for shape in shapes):
        wanted = " or ".join(str(list(shape)) for shape in shapes)
        raise ValueError(f"{name} must have shape {wanted}, got {list(labels.shape)}")
    if classes is None:
        return
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"{name} must hold class numbers of an integer dtype, got {labels.dtype}")
    if labels.numel() == 0 or not has_values(labels):
        return
    wrong = (labels != ignored) & ((labels < 0) | (labels >= classes))
    if bool(wrong.any()):
        raise ValueError(f"{name} must lie in [0, {classes}) or be {ignored}, got {int(labels[wrong].flatten()[0])}")
