"""Files that are replaced as a whole: the one way in which this package writes a file that a user has named."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class Target(NamedTuple):
    """What a file is written to."""

    path: str
    """Behind all links."""
    there: os.stat_result | None
    """The file that is replaced, if there is one."""


def check_target(path: str | os.PathLike[str]) -> Target:
    """What writing to ``path`` would replace.

    Raises:
        OSError: it is a folder, device, pipe or socket; it may not be written to; or there is no such folder.
    """
    try:
        there = os.stat(path)
    except FileNotFoundError:
        there = None
    name = os.fsdecode(path)
    if there is not None and not stat.S_ISREG(there.st_mode):
        kind = _KINDS.get(stat.S_IFMT(there.st_mode), "no file")
        raise OSError(errno.EINVAL, f"it is {kind}, not a regular file", name)
    real = os.fsdecode(os.path.realpath(path))
    folder = os.path.dirname(real)
    if not name or name.endswith(os.sep) or not os.path.isdir(folder):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
    if not os.access(real if there else folder, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), name)
    return Target(real, there)


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], *, beside: str | os.PathLike[str] | None = None) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of ``path`` at the end of a ``with`` block that raises nothing.

    It is written beside ``path``, under a name that nobody can foresee and that did not exist, brought to the disk, and
    renamed: readers see the old file or the new one, after a crash too, and several writers do not meet. A link is
    followed: the file that it leads to is replaced, and the link stays. An existing file keeps its mode and, where the
    system allows, its owner; a new one gets what umask leaves.

    Args:
        path: the file.
        beside: another folder of the same file system for the unfinished file.

    Raises:
        OSError: what check_target() raises, or the file cannot be written. Nothing is changed then.
    """
    target = check_target(path)
    folder = os.fspath(beside) if beside is not None else os.path.dirname(target.path)
    partial = os.path.join(folder, f".sbk-{secrets.token_hex(16)}.part")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
    descriptor = os.open(partial, flags, 0o666 if target.there is None else 0o600)
    try:
        with open(descriptor, "wb") as file:
            yield file
            file.flush()
            if target.there is not None:
                with contextlib.suppress(OSError):  # a file of another user then becomes ours, as a new one would be
                    os.fchown(descriptor, target.there.st_uid, target.there.st_gid)
                os.fchmod(descriptor, stat.S_IMODE(target.there.st_mode))
            os.fsync(descriptor)
        os.replace(partial, target.path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise
    _synchronize(os.path.dirname(target.path))


def write_file(
    path: str | os.PathLike[str], data: str | bytes | memoryview, *, beside: str | os.PathLike[str] | None = None
) -> None:
    """``data``, text as UTF-8, as the file ``path``: what replacing() says."""
    with replacing(path, beside=beside) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def _synchronize(folder: str) -> None:
    """The names in ``folder`` on the disk, where the system can do that and the folder may be read."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
