"""The values of settings: checked, and brought to one type.

Each function raises :class:`UsageError` for a value that cannot be used.
"""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from igniter.errors import UsageError


def whole_number(name: str, value: Any, minimum: int, *, or_none: bool) -> int | None:
    """``value`` as an int: numpy's integers are taken, floats and booleans are not."""
    if value is None and or_none:
        return None
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or number < minimum:
        none = ", or None" if or_none else ""
        raise UsageError(
            f"{name} is {value!r}; it must be a whole number of at least {minimum}{none}"
        )
    return number


def positive_number_or_none(name: str, value: Any) -> float | None:
    """``value`` as a float above 0, or None."""
    if value is None:
        return None
    try:
        number = math.nan if isinstance(value, (bool, str)) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise UsageError(f"{name} is {value!r}; it must be a number above 0, or None")
    return number


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """See that ``value`` is one of ``choices``."""
    if value not in choices:
        raise UsageError(f"{name} is {value!r}; it must be {' or '.join(choices)}")


def names_of(name: str, value: Any, example: Sequence[str]) -> tuple[str, ...]:
    """Several names as a tuple; one name alone would be taken for a sequence of letters."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        names = tuple(value)
        if all(isinstance(item, str) for item in names):
            return names
    raise UsageError(f"{name} is {value!r}; it must be a list of names, such as {list(example)}")


def tags_of(value: Any) -> dict[str, str]:
    """Tags by name, which may be given as ``name=value`` each."""
    if isinstance(value, Mapping):
        return {str(name): str(text) for name, text in value.items()}
    pairs = [tag.partition("=") for tag in names_of("mlflow_tags", value, ["name=value"])]
    for name, equals, _ in pairs:
        if not (name and equals):
            raise UsageError(f"mlflow_tags has {name!r}; each must be name=value")
    return {name: text for name, _, text in pairs}


def word_or_path(name: str, value: Any, words: Sequence[str]) -> str:
    """One of ``words``, or the path of a checkpoint, as text.

    A path need not exist any more: a run that was begun from it goes on from its own checkpoints.
    But a bare word that names nothing is one of ``words`` misspelt.
    """
    if isinstance(value, os.PathLike):
        return str(Path(value).absolute())
    if isinstance(value, str) and (
        value in words or os.sep in value or (value and Path(value).exists())
    ):
        return value
    raise UsageError(
        f"{name} is {value!r}; it must be {', '.join(words)}, or the path of a checkpoint "
        "(./NAME where it is in the working directory)"
    )
