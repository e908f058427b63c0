"""What a model is made of, as plain data: its class by name, and the parameters of its parts.

It is in the manifest of each checkpoint, and beside the exported weights as ``model.yaml``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from igniter.imports import FromFile, path_of
from igniter.models.components import NAME
from igniter.secrets import mask_mapping


@dataclass(frozen=True)
class Description:
    """``class_path`` is ``module:Class``; ``unknown`` names the parameters that are left out.

    Left out is what is not plain data, such as a function made within another, and a secret.
    """

    class_path: str
    parameters: dict[str, Any] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, owner: type, parameters: Mapping[str, Any]) -> Description:
        """That of the class ``owner`` with ``parameters``."""
        known: dict[str, Any] = {}
        unknown: list[str] = []
        for name, value in parameters.items():
            path = path_of(value) if callable(value) else None
            value = value if path is None else {NAME: path}
            plain = json.loads(json.dumps(value)) if _is_plain(value) else None
            if _is_plain(value) and mask_mapping({name: plain}) == {name: plain}:
                known[name] = plain
            else:
                unknown.append(name)
        return cls(f"{owner.__module__}:{owner.__qualname__}", known, unknown)

    def as_data(self) -> dict[str, Any]:
        """It as :meth:`read` takes it, of JSON's types."""
        return asdict(self)

    @classmethod
    def read(cls, data: Any) -> Description | None:
        """That which a file holds; None where it holds none. Its texts import nothing."""
        if not isinstance(data, Mapping) or set(data) != set(cls.__dataclass_fields__):
            return None
        found = cls(**_distrusted(data))
        sound = (
            isinstance(found.class_path, str)
            and isinstance(found.parameters, dict)
            and isinstance(found.unknown, list)
            and all(isinstance(name, str) for name in found.unknown)
        )
        return found if sound else None


def _is_plain(value: Any) -> bool:
    """Whether JSON and YAML can hold it; tuples count as lists."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, (bool, int, float, str))


def _distrusted(value: Any) -> Any:
    if isinstance(value, str):
        return FromFile(value)
    if isinstance(value, Mapping):
        return {str(key): _distrusted(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_distrusted(item) for item in value]
    return value
