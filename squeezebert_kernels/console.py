"""What the subcommands share: the terminal, quiet libraries, and errors for the user."""

from __future__ import annotations

import unicodedata
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from . import _native


class UserError(Exception):
    """Something the user can fix: shown in one line, without a traceback."""


def shown(text: str) -> str:
    """``text`` as a terminal may get it: it may have names of files and labels in it.

    Control characters, which a terminal would obey, and bytes that are no characters, which cannot be written, are
    escaped as ``repr`` does it. Tabs and ends of lines stay.
    """

    def escape(char: str) -> str:
        harmless = char in "\n\t" or unicodedata.category(char) not in ("Cc", "Cs")
        return char if harmless else ascii(char)[1:-1]

    return "".join(map(escape, text))


class _PlainConsole(Console):
    """Strings are what they are: no markup, and nothing that the terminal would obey."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(shown(text), **options)


def make_console() -> Console:
    """Standard output; a fixed width where it is not a terminal, so that tables stay readable in a log."""
    console = _PlainConsole(highlight=False, markup=False)
    return console if console.is_terminal else _PlainConsole(highlight=False, markup=False, width=120)


def make_progress(console: Console) -> Progress:
    """A progress bar that disappears when it is done; redrawn only on refresh(), so that it never disturbs a timing."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        auto_refresh=False,
    )


def quiet_transformers() -> None:
    """No warnings or progress bars of its own from transformers."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def checked_isa() -> str:
    """The ISA tier in use; UserError where SBK_ISA asks for an impossible one."""
    try:
        return _native.isa()
    except ValueError as error:
        raise UserError(error) from None
