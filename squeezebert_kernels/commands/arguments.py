"""What several subcommands ask of their arguments."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ..console import UserError

__all__ = ["check_checkpoint", "comma_list", "one", "parse_count"]

T = TypeVar("T")


def comma_list(parse: Callable[[str], T]) -> Callable[[str], list[T]]:
    """An argparse type: a list without repetitions, errors of ``parse`` shown as they are."""

    def parse_list(text: str) -> list[T]:
        try:
            return list(dict.fromkeys(parse(part.strip()) for part in text.split(",")))
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse_list


def parse_count(text: str) -> int:
    """A whole number from 1 on."""
    try:
        value = int(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a whole number") from None
    if value < 1:
        raise ValueError(f"must be at least 1, got {value}")
    return value


def one(parse: Callable[[str], T]) -> Callable[[str], T]:
    """An argparse type for one value."""
    return lambda text: comma_list(parse)(text)[0]


def check_checkpoint(folder: Path) -> None:
    """UserError unless ``folder`` holds a SqueezeBERT checkpoint."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"--model: {folder} has no config.json; give the folder of a SqueezeBERT checkpoint") from None
    except (OSError, ValueError) as error:
        raise UserError(f"--model: {folder / 'config.json'} cannot be read: {error}") from None
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind != "squeezebert":
        raise UserError(f"--model: {folder} holds a model of type {kind!r}, not 'squeezebert'")
