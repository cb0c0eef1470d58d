"""What the subcommands share: the terminal, quiet libraries, and errors for the user."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from . import _native


class UserError(Exception):
    """Something the user can fix: shown in one line, without a traceback."""


def make_console() -> Console:
    """Standard output; a fixed width where it is not a terminal, so that tables stay readable in a log."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=120)


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
