"""Files that are replaced as a whole: what may be replaced, modes and links, and what is left when something fails."""

import errno
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from squeezebert_kernels import files
from squeezebert_kernels.benchmark import results
from squeezebert_kernels.console import UserError
from squeezebert_kernels.export.sbk_file import export


def mode(path):
    return stat.S_IMODE(os.lstat(path).st_mode)


def test_new_files_get_what_umask_leaves_and_old_ones_keep_their_mode(tmp_path):
    path = tmp_path / "results.json"
    before = os.umask(0o027)
    try:
        files.write_file(path, "eins")
        assert mode(path) == 0o640
        for kept in (0o600, 0o664, 0o755):
            path.chmod(kept)
            files.write_file(path, f"{kept} é".encode())
            assert mode(path) == kept
    finally:
        os.umask(before)
    assert path.read_text(encoding="utf-8") == f"{0o755} é"
    assert os.listdir(tmp_path) == ["results.json"]


def test_the_unfinished_file_is_no_wider_than_the_old_one(tmp_path):
    path = tmp_path / "secret"
    path.write_text("old")
    path.chmod(0o600)
    with files.replacing(path) as file:
        file.write(b"new")
        file.flush()
        (unfinished,) = (one for one in os.listdir(tmp_path) if one != "secret")
        assert mode(tmp_path / unfinished) == 0o600
        assert str(os.getpid()) not in unfinished or len(unfinished) > 30
        assert path.read_text() == "old"
    assert path.read_text() == "new"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_an_existing_file_keeps_its_owner(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    os.chown(path, 12345, 23456)
    path.chmod(0o4755)
    files.write_file(path, "new")
    assert (path.stat().st_uid, path.stat().st_gid, mode(path)) == (12345, 23456, 0o4755)


def test_links_are_written_through(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "near").mkdir()
    link, second = tmp_path / "near/link", tmp_path / "second"
    link.symlink_to("../far/real")
    second.symlink_to("near/link")  # to a link to what is not there yet
    files.write_file(second, "one")
    assert (tmp_path / "far/real").read_text() == "one"
    files.write_file(link, "two")
    assert (tmp_path / "far/real").read_text() == "two"
    assert link.is_symlink()
    assert second.is_symlink()
    assert os.listdir(tmp_path / "far") == ["real"]
    assert os.listdir(tmp_path / "near") == ["link"]
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(OSError, match="circle"):
        files.write_file(tmp_path / "circle", "x")


def special_files(folder):
    """(path, what it is)"""
    os.mkfifo(folder / "pipe")
    (folder / "link").symlink_to("pipe")
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(folder)  # names of sockets are short
        try:
            server.bind("socket")
        finally:
            os.chdir(here)
    (folder / "folder").mkdir()
    return [
        (folder / "pipe", "a pipe"),
        (folder / "link", "a pipe"),
        (folder / "socket", "a socket"),
        (folder / "folder", "a folder"),
        ("/dev/null", "a device"),
    ]


def test_what_is_no_regular_file_is_refused(tmp_path):
    for path, kind in special_files(tmp_path):
        before = os.lstat(path)
        for write in (files.check_target, lambda path: files.write_file(path, "x")):
            with pytest.raises(OSError, match=f"it is {kind}, not a regular file: '{path}'"):
                write(path)
        # The same where users name a file; before anything takes long.
        with pytest.raises(OSError, match="not a regular file"):
            export("no such model", path)
        with pytest.raises(UserError, match="not a regular file"):
            results.check_json(Path(path))
        assert (os.lstat(path).st_mode, os.lstat(path).st_ino) == (before.st_mode, before.st_ino)
    for path in ("", tmp_path / "no such folder/x", f"{tmp_path}/new/"):
        with pytest.raises(FileNotFoundError):
            files.write_file(path, "x")


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_nothing_is_left_where_a_step_fails(tmp_path, monkeypatch, step):
    path = tmp_path / "file"
    path.write_text("old")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if step != "write":
        monkeypatch.setattr(os, step, full)
    with pytest.raises(OSError, match="No space left"), files.replacing(path) as file:  # noqa: PT012
        file.write(b"new")
        if step == "write":
            full()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_the_file_and_its_folder_are_brought_to_the_disk(tmp_path, monkeypatch):
    synchronized = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synchronized.append(os.fstat(descriptor)))
    files.write_file(tmp_path / "file", "x")
    assert [one.st_ino for one in synchronized] == [os.stat(tmp_path / "file").st_ino, os.stat(tmp_path).st_ino]


WRITER = """
import os, sys
from importlib.util import module_from_spec, spec_from_file_location
spec = spec_from_file_location("files", sys.argv[1])
files = module_from_spec(spec)
spec.loader.exec_module(files)
os.getpid = lambda: 1  # as in containers on one volume
letter = sys.argv[3]
for _ in range(60):
    with files.replacing(sys.argv[2]) as file:
        for _ in range(ord(letter)):
            file.write(letter.encode() * 100)
            file.flush()
    found = open(sys.argv[2]).read()
    assert found == found[0] * (100 * ord(found[0])), len(found)
"""


def test_writers_with_one_process_number_do_not_meet(tmp_path):
    path = tmp_path / "file"
    command = [sys.executable, "-S", "-c", WRITER, files.__file__, str(path)]
    writers = [subprocess.Popen([*command, letter]) for letter in "abc"]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0, 0]
    assert os.listdir(tmp_path) == ["file"]
