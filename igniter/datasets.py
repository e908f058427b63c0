"""What a loader loads, in words: the class of its dataset and its length."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def described(loaders: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return of each loader's dataset the ``class``, the ``samples`` and the loader's batch size.

    What cannot be told is None. A loader that names no dataset stands for its own.
    """
    found = {}
    for name, loader in loaders.items():
        dataset = getattr(loader, "dataset", None)
        kind = type(loader if dataset is None else dataset)
        found[name] = {
            "class": f"{kind.__module__}.{kind.__qualname__}",
            "samples": None if dataset is None else _length(dataset),
            "batch_size": _whole(getattr(loader, "batch_size", None)),
        }
    return found


def _length(dataset: Any) -> int | None:
    try:
        return len(dataset)
    except Exception:  # of the user's: it may have none, or no way to tell now
        return None


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
