"""The terminal: it shows names and labels, and obeys nothing that is in them."""

import io

from rich.table import Table

from squeezebert_kernels import console
from squeezebert_kernels.cli import main

EVIL = "a\x1b]0;title\x07\x9b31m\x7f\r[bold]b[/nothing]\udc80"
SHOWN = r"a\x1b]0;title\x07\x9b31m\x7f\r[bold]b[/nothing]\udc80"


def test_controls_are_escaped_and_text_stays():
    assert console.shown(EVIL) == SHOWN
    assert console.shown("läuft\tgut 漢字 🙂\n") == "läuft\tgut 漢字 🙂\n"


def test_a_console_prints_strings_as_they_are():
    terminal = console.make_console()
    terminal.file = io.StringIO()
    terminal.print(f"Written: {EVIL}", soft_wrap=True)
    table = Table("name")
    table.add_row(EVIL)
    terminal.print(table)
    printed = terminal.file.getvalue()
    assert printed.count(SHOWN) == 2
    assert not [char for char in printed if char != "\n" and (ord(char) < 32 or 0x7F <= ord(char) < 0xA0)]


def test_errors_are_escaped(capsys):
    assert main(["export", "no\x1b[2Jfolder", "out.sbk"]) == 1
    assert "\\x1b[2J" in (error := capsys.readouterr().err)
    assert "\x1b" not in error
