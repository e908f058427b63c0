"""What a flag's text is read as: argparse types that say what they would take."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from igniter.errors import UsageError
from igniter.intervals import Interval, parse_duration, parse_interval
from igniter.settings import EXPORTS

STOP_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")


def interval_type(*, allow_time: bool, allow_auto: bool = False) -> Callable[[str], Interval]:
    """An argparse type that reads an interval, as :func:`~igniter.intervals.parse_interval`."""

    def interval(text: str) -> Interval:
        try:
            return parse_interval(text, allow_time=allow_time, allow_auto=allow_auto)
        except UsageError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return interval


def duration(text: str) -> Interval:
    """An argparse type that reads a time, as :func:`~igniter.intervals.parse_duration`."""
    try:
        return parse_duration(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def whole_number(minimum: int) -> Callable[[str], int]:
    """An argparse type that reads a whole number of at least ``minimum``."""

    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = minimum - 1
        if value < minimum:
            raise argparse.ArgumentTypeError(
                f"'{text}' is not a whole number of at least {minimum}"
            )
        return value

    return number


def learning_rate(text: str) -> float:
    """An argparse type that reads a finite number of at least 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of at least 0, such as 1e-3")
    return value


def positive_number(text: str) -> float:
    """An argparse type that reads a finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number above 0, such as 1.0")
    return value


def name_and_value(text: str) -> str:
    """An argparse type that checks that a text is ``name=value``."""
    name, equals, _ = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"'{text}' is not NAME=VALUE")
    return text


def export_names(text: str) -> str:
    """An argparse type that reads names of ``EXPORTS`` with commas between them, or ``none``."""
    names = [part.strip().lower() for part in text.split(",")]
    if names == ["none"]:
        return "none"
    for name in names:
        if name not in EXPORTS:
            raise argparse.ArgumentTypeError(
                f"'{name}' is not one of {', '.join(EXPORTS)}; give some with commas between "
                "them, or none"
            )
    return ",".join(dict.fromkeys(names))


def signal_names(text: str) -> str:
    """An argparse type that reads ``SIGINT,SIGTERM`` or ``none``, and returns the full names.

    It stays one text, so that it reads the same in a file, on the command line and in tracking.
    """
    if text.strip().lower() == "none":
        return "none"
    names = []
    for part in text.split(","):
        name = f"SIG{part.strip().upper().removeprefix('SIG')}"
        if name not in STOP_SIGNALS:
            raise argparse.ArgumentTypeError(
                f"'{part.strip()}' is not one of {', '.join(STOP_SIGNALS)}; "
                "give some with commas between them, or none"
            )
        names.append(name)
    return ",".join(dict.fromkeys(names))


def word_or_path(words: Sequence[str]) -> Callable[[str], str]:
    """An argparse type that reads one of ``words``, or the path of a checkpoint.

    A path with a directory in it need not exist: a run begun from a checkpoint goes on by the
    same command after that checkpoint is gone.
    """

    def read(text: str) -> str:
        if text not in words and Path(text).name == text and not Path(text).exists():
            raise argparse.ArgumentTypeError(
                f"'{text}' is neither {', '.join(words[:-1])} or {words[-1]}, "
                "nor a checkpoint's directory"
            )
        return text

    return read
