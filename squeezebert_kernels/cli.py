"""The command ``squeezebert-kernels``: one subcommand per module, errors in one line."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from .commands import bench, demo, doctor, embed, export, tune
from .console import UserError, shown
from .machine import version_of

PROGRAM = "squeezebert-kernels"

COMMANDS = {"bench": bench, "demo": demo, "doctor": doctor, "embed": embed, "export": export, "tune": tune}
"""Subcommands: each module has HELP, add_arguments(parser) and run(args) -> exit status."""


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, shown(f"{self.prog}: error: {message} (see {self.prog} --help)\n"))


def version() -> str:
    """The installed version of this package."""
    return version_of("squeezebert-kernels") or "(not installed)"


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog=PROGRAM, description="Fused kernels for SqueezeBERT and BERT encoders.")
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {version()}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    for name, module in COMMANDS.items():
        subparser = commands.add_parser(name, help=module.HELP, description=module.HELP)
        module.add_arguments(subparser)
        subparser.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line ``argv`` (default: this process's) and returns the exit status."""
    args = build_parser().parse_args(argv)
    try:
        status = int(args.run(args))
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print(f"{PROGRAM}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader has gone; keep Python from complaining about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"{PROGRAM} {args.command}: error: the output cannot be written: {error.strerror}", file=sys.stderr)
        return 1
    except UserError as error:
        print(shown(f"{PROGRAM} {args.command}: error: {error}"), file=sys.stderr)
        return 1
