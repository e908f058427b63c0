"""YAML read without surprises, and written: the only import of ``yaml``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from igniter.errors import UsageError

_NULL = "tag:yaml.org,2002:null"


@dataclass(frozen=True)
class Setting:
    """One ``key: value`` line of a settings file; ``line`` counts from 1."""

    key: str
    value: str | list[str] | None
    line: int


def read_settings(path: Path) -> list[Setting]:
    """Read a flat mapping of settings, in the file's order, each scalar as the text written.

    YAML would turn ``1e-3`` into a string, ``no`` into False and ``012`` into 10; what a text
    means is for the argument it is meant for to say. Only an unquoted null, ``~`` or nothing
    at all becomes None.

    Raises :class:`UsageError`, with file and line, for what is not YAML, duplicate keys, tags,
    nested mappings or anything but a mapping at the top.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the settings file {path}: {error}") from error
    try:
        _refuse_tags(path, text)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise UsageError(_syntax_message(path, error)) from error
    if root is None:
        return []
    if not isinstance(root, yaml.MappingNode):
        raise UsageError(f"{_at(path, root)}: 'key: value' lines are needed, one a setting")
    settings: dict[str, Setting] = {}
    for key_node, value_node in root.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise UsageError(f"{_at(path, key_node)}: a key must be the name of a flag")
        key = key_node.value
        line = key_node.start_mark.line + 1
        if key in settings:
            raise UsageError(
                f"{path}:{line}: '{key}' is already set in line {settings[key].line}; keep one"
            )
        settings[key] = Setting(key, _value(path, key, value_node), line)
    return list(settings.values())


def _value(path: Path, key: str, node: yaml.Node) -> str | list[str] | None:
    if isinstance(node, yaml.ScalarNode):
        return None if node.tag == _NULL else str(node.value)
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            if not isinstance(item, yaml.ScalarNode) or item.tag == _NULL:
                raise UsageError(f"{_at(path, item)}: the list '{key}' may hold plain values only")
        return [str(item.value) for item in node.value]
    raise UsageError(f"{_at(path, node)}: '{key}' holds keys; keys are flags; put lists as [a, b]")


def _refuse_tags(path: Path, text: str) -> None:
    """A tag would say what type a value has, or name code to run: neither is for a file to say."""
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        tag = getattr(event, "tag", None)
        if tag is not None:
            raise UsageError(f"{_at(path, event)}: the tag '{tag}' is not allowed; leave it out")


def _at(path: Path, node: Any) -> str:
    """``file:line`` of a yaml node or event."""
    return f"{path}:{node.start_mark.line + 1}"


def _syntax_message(path: Path, error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"{path}:{error.problem_mark.line + 1}: not valid YAML: {error.problem}"
    return f"{path}: not valid YAML: {error}"


def dump(data: Any) -> str:
    """``data``, built from plain types, as YAML in the order given."""
    text: str = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
    return text


def dump_line(key: str, value: Any) -> str:
    """One ``key: value`` line that :func:`read_settings` reads back."""
    text: str = yaml.safe_dump(
        value, allow_unicode=True, default_flow_style=True, width=float("inf")
    )
    # yaml marks the end of a document that is one bare scalar.
    return f"{key}: {text.rstrip().removesuffix('...').rstrip()}"


def load(path: Path) -> Any:
    """What :func:`dump` wrote to ``path``.

    Raises :class:`UsageError` when the file is not YAML, and :class:`OSError` when it cannot
    be read.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UsageError(_syntax_message(path, error)) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not a text file: {error}") from error
