"""What an exported model takes and gives, with an example: ``<name>.json`` beside its program."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from igniter import atomic

PROGRAM = ".pt2"
MODEL = "model.yaml"
"""What the weights beside it are of."""
WEIGHTS = "igniter"
"""The folder in a logged model of MLflow's that holds these, for ``load_model``."""
_LONGEST = 1 << 28  # bytes; a longer one was not written by igniter


@dataclass(frozen=True)
class Signature:
    """One tensor in, one tensor out; the first dimension of both is of any length.

    Types are numpy's words for them. ``example`` holds the values of an input, as nested lists, and
    is None where they were too many to be written out.
    """

    iteration: int
    input_dtype: str
    input_shape: list[int]
    output_dtype: str
    output_shape: list[int]
    example: list[Any] | None

    @staticmethod
    def path_beside(program: Path) -> Path:
        """Return where the signature of ``program`` is."""
        return program.with_name(f"{program.name.removesuffix(PROGRAM)}.json")

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all.

        Raises:
            OSError: it did not reach the disk.
        """
        atomic.write_text(path, json.dumps(asdict(self)) + "\n")

    @classmethod
    def load(cls, path: Path) -> Signature | None:
        """Read the file; None where there is none that can be used."""
        try:
            with atomic.open_regular(path) as file:
                found = cls(**json.loads(file.read(_LONGEST)))
        except (OSError, ValueError, TypeError, RecursionError):
            return None
        shapes = (found.input_shape, found.output_shape)
        words = (found.input_dtype, found.output_dtype)
        sound = (
            isinstance(found.iteration, int)
            and all(isinstance(word, str) for word in words)
            and all(isinstance(s, list) and all(isinstance(n, int) for n in s) for s in shapes)
        )
        return found if sound else None


@dataclass(frozen=True)
class Program:
    """An exported model: its name, its file, a mark of the file's content, what it takes.

    ``torch`` is the version of torch that exported it.
    """

    name: str
    path: Path
    mark: str
    signature: Signature
    torch: str
