"""Triton's interpreter, quicker.

At every call of a kernel or of a function in one, the interpreter looks through all names of triton.language for the
ones that it has to replace. They are always the same ones: found once, they are a quarter of the time less.
"""

import functools
import inspect

import triton.language
from triton.runtime import interpreter


@functools.cache
def _builtins(package):
    """The names of what is replaced in ``package``, a module or a class; first asked while nothing is replaced."""
    return [name for name, member in inspect.getmembers(package) if triton.language.core.is_builtin(member)]


def _patch_builtin(package, builder, scope):
    for name in _builtins(package):
        member = getattr(package, name)
        if triton.language.core.is_builtin(member):
            interpreter._patch_attr(package, name, member, builder, scope)


def remember_builtins():
    """Makes the interpreter of this process remember them; another version of Triton, if unlike, stays as it is."""
    expected = ["pkg", "builder", "scope"]
    found = getattr(interpreter, "_patch_builtin", None)
    if found is not None and list(inspect.signature(found).parameters) == expected:
        interpreter._patch_builtin = _patch_builtin
