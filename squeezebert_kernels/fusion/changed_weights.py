"""For weights that are changed in a way that torch does not record."""

from __future__ import annotations

from torch import nn

from ..layers.marks import PACKED

__all__ = ["weights_changed"]


def weights_changed(model: nn.Module) -> list[str]:
    """Call it after changing weights behind torch's back, through ``.data`` or ``.numpy()``: the next call of ``model``
    uses the new values.

    Calls notice such changes on their own, but not all of them at once: each looks at a part of the weights (see
    :func:`optimize`). This looks at every value of every packed weight, at the speed of memory. Changes that torch
    records (an optimizer, ``load_state_dict``, in-place operations on the parameter itself) need no call.

    Args:
        model: any module.

    Returns:
        The names of the modules whose packed weights were out of date, and are forgotten now; [] if none was.

    Raises:
        TypeError: ``model`` is no torch.nn.Module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    changed = []
    for name, module in model.named_modules():
        looked = [module.__dict__[mark].forget_if_changed() for mark in PACKED if mark in module.__dict__]
        if any(looked):
            changed.append(name)
    return changed
