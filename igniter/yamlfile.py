"""YAML read without surprises, and written: the only import of ``yaml``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from igniter.errors import UsageError

_NULL = "tag:yaml.org,2002:null"
_DEEPEST = 100
# Of C where it is built in: a record of hundreds of attempts takes seconds otherwise.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


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
        _check(path, text)
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


def _check(path: Path, text: str, *, aliases: bool = True, loader: Any = yaml.SafeLoader) -> None:
    """Refuse what is not for a file to say, or takes more time or memory than there is.

    A tag would say what type a value has, or name code to run. A few lines of ``aliases`` to
    aliases can stand for more values than fit into memory. The time to read what is nested grows
    with the square of its depth.
    """
    depth = 0
    for event in yaml.parse(text, Loader=loader):
        tag = getattr(event, "tag", None)
        if tag is not None:
            raise UsageError(f"{_at(path, event)}: the tag '{tag}' is not allowed; leave it out")
        if isinstance(event, yaml.AliasEvent) and not aliases:
            raise UsageError(f"{_at(path, event)}: an alias is not allowed; write the value out")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise UsageError(f"{_at(path, event)}: nested more than {_DEEPEST} levels deep")


def _at(path: Path, node: Any) -> str:
    """``file:line`` of a yaml node or event."""
    return f"{path}:{node.start_mark.line + 1}"


def _syntax_message(path: Path, error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"{path}:{error.problem_mark.line + 1}: not valid YAML: {error.problem}"
    return f"{path}: not valid YAML: {error}"


class _WithoutAliases:
    """Has a value that two keys share written twice: :func:`load` takes no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


class _Dumper(_WithoutAliases, yaml.SafeDumper):
    """Writes every text."""


class _FastDumper(_WithoutAliases, _DUMPER):  # type: ignore[misc]
    """Writes what can be encoded: not the bytes that no encoding has, as Python stands for them."""


def dump(data: Any) -> str:
    """``data``, built from plain types and no part of itself, as YAML in the order given."""
    how: dict[str, Any] = {"sort_keys": False, "allow_unicode": True}
    try:
        text: str = yaml.dump(data, Dumper=_FastDumper, **how)
    except UnicodeEncodeError:
        text = yaml.dump(data, Dumper=_Dumper, **how)
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

    Raises :class:`UsageError` when the file is not YAML that :func:`dump` writes, and
    :class:`OSError` when it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
        try:
            return _load(path, text, _LOADER)
        except yaml.YAMLError:
            return _load(path, text, yaml.SafeLoader)  # which takes more, and says more
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not a text file: {error}") from error
    except (yaml.YAMLError, ValueError) as error:  # such as the date 2026-13-40
        raise UsageError(_syntax_message(path, error)) from error


def _load(path: Path, text: str, loader: Any) -> Any:
    _check(path, text, aliases=False, loader=loader)
    return yaml.load(text, Loader=loader)
