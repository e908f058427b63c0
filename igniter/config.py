"""Settings that come from YAML files, presets and the environment, under the flags."""

from __future__ import annotations

import difflib
import importlib.resources
import importlib.util
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from igniter import identity, secrets, yamlfile
from igniter.errors import UsageError
from igniter.options import COMMAND_LINE_ONLY, Option, key

PREFIX = "IGNITER_"

USUAL_NAMES = {
    "lr": "learning_rate",
    "bs": "batch_size",
    "epochs": "max_epochs",
    "max_steps": "max_iterations",
    "gpu": "device",
    "gpus": "device",
    "num_workers": "workers",
    "log_interval": "log_every",
}
"""What other programs call a setting, too far from its name here to be seen by its letters."""


@dataclass(frozen=True)
class Entry:
    """One setting as the command-line tokens that say the same, and where it came from."""

    dest: str
    tokens: tuple[str, ...]
    origin: str  # "settings.yaml:3" or "IGNITER_SEED"


def from_file(name: str, known: Mapping[str, Option]) -> dict[str, Entry]:
    """The settings of a YAML file or preset, by dest.

    Raises :class:`UsageError`, with file and line, for an unknown key or an unfit value.
    """
    path = find_file(name)
    entries = []
    for setting in yamlfile.read_settings(path):
        origin = f"{path}:{setting.line}"
        known_as = key(setting.key)
        if known_as == "config":
            raise UsageError(f"{origin}: a settings file cannot name another; repeat --config")
        if known_as in COMMAND_LINE_ONLY:
            raise UsageError(f"{origin}: '{setting.key}' belongs on the command line only")
        if known_as not in known:
            raise UsageError(
                f"{origin}: unknown key '{setting.key}'{nearest(known_as, known)}; "
                "--help lists every flag"
            )
        entries.append(_entry(known[known_as], setting.value, origin))
    return _by_dest(entries)


def from_environment(environ: Mapping[str, str], known: Mapping[str, Option]) -> dict[str, Entry]:
    """The settings of the ``IGNITER_*`` variables, by dest; an empty variable sets nothing.

    An unknown variable is reported on stderr and left alone: it may be somebody else's.
    """
    entries = []
    for name in sorted(environ):
        if not name.startswith(PREFIX) or not environ[name]:
            continue
        known_as = name[len(PREFIX) :].lower()
        if known_as not in known:
            hint = nearest(known_as, known, lambda near: PREFIX + near.upper())
            print(f"warning: the variable {name} sets nothing{hint}", file=sys.stderr)
            continue
        option, value = known[known_as], environ[name]
        entries.append(_entry(option, _split(name, value) if option.holds_list else value, name))
    return _by_dest(entries)


def find_file(name: str) -> Path:
    """The path of a preset, or of a settings file; a preset's name goes first.

    Raises :class:`UsageError` when there is neither.
    """
    presets = {path.stem: path for path in sorted(_presets().glob("*.yaml"))}
    if name in presets:
        return presets[name]
    path = Path(name)
    if not path.is_file():
        raise UsageError(
            f"--config {name}: no such file, nor a preset{nearest(name, presets)}; "
            f"presets: {', '.join(presets) or 'none (igniter.configs is not installed)'}"
        )
    return path


def nearest(name: str, known: Iterable[str], written: Callable[[str], str] = repr) -> str:
    """A clause that names the nearest of ``known``, as ``written``; nothing when none is near."""
    names = list(known)
    usual = USUAL_NAMES.get(name)
    near = [usual] if usual in names else difflib.get_close_matches(name, names, 1, cutoff=0.7)
    return f"; the nearest known is {written(near[0])}" if near else ""


def as_yaml(
    known: Mapping[str, Option], values: Mapping[str, Any], origins: Mapping[str, str]
) -> str:
    """Every setting as a YAML line that ``--config`` reads, with a comment that says its origin.

    A secret is commented out, so that what is loaded back never sets a mask as its value.
    """
    lines = []
    for dest in dict.fromkeys(option.action.dest for option in known.values()):
        if dest == "config" or dest not in values:
            continue
        value = identity.plain(values[dest])
        shown = secrets.mask_mapping({dest: value})[dest]
        line = yamlfile.dump_line(dest, shown)
        origin = origins.get(dest, "default")
        hidden = "# " if shown != value else ""
        lines.append(f"{hidden}{line}  # from {origin}\n")
    return "".join(lines)


def _presets() -> Path:
    if importlib.util.find_spec("igniter.configs") is not None:
        return Path(str(importlib.resources.files("igniter.configs")))
    # A checkout that is on the path but not installed holds them beside the library.
    return Path(__file__).resolve().parent.parent / "configs"


def _entry(option: Option, value: str | list[str] | None, origin: str) -> Entry:
    try:
        return Entry(option.action.dest, option.tokens(value), origin)
    except UsageError as error:
        raise UsageError(f"{origin}: {error}") from error


def _by_dest(entries: Sequence[Entry]) -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    for entry in entries:
        if entry.dest in found:
            raise UsageError(
                f"{entry.origin}: '{entry.dest}' is already set by {found[entry.dest].origin}; "
                "keep one"
            )
        found[entry.dest] = entry
    return found


def _split(name: str, value: str) -> list[str]:
    try:
        return shlex.split(value)
    except ValueError as error:
        raise UsageError(f"{name}: cannot split '{value}' into values: {error}") from error
