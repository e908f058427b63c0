"""Where a run goes on from, and whether it may: its checkpoint, its identity, what has changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from igniter.checkpoint.files import Loaded
from igniter.checkpoint.store import CheckpointStore, load
from igniter.errors import IdentityMismatch, NoUsableCheckpoint, RunRefused
from igniter.identity import differences
from igniter.provenance import Provenance, drift
from igniter.rundir import Paths, RunRecord
from igniter.settings import RESUME_MODES, Settings


def origin(settings: Settings) -> str | None:
    """The checkpoint that ``--resume PATH`` names, absolute; None without one."""
    return None if settings.resume in RESUME_MODES else str(Path(settings.resume).absolute())


def starting_point(
    settings: Settings,
    store: CheckpointStore,
    before: RunRecord | None,
    warn: Callable[[str], None],
) -> tuple[Loaded | None, bool]:
    """The checkpoint to go on from, and whether it is the run's own.

    Raises:
        NoUsableCheckpoint: one was demanded and there is none.
        RunRefused: another run's was named for a run that was begun otherwise.
    """
    path = origin(settings)
    known = before is not None and before.origin == path
    if path is not None and not known:
        return _from_path(Path(path), store, begun=before is not None)
    had_any = bool(store.list())
    loaded = store.newest()
    if loaded is not None:
        return loaded, True
    if path is not None:
        # The same command, started again before its first checkpoint.
        return load(Path(path)), False
    if settings.resume == "must":
        raise nothing_to_resume(store.directory)
    if had_any:
        warn(
            f"no checkpoint in {store.directory} can be used; the run begins again and comes by "
            "the same results"
        )
    return None, True


def nothing_to_resume(directory: Path) -> NoUsableCheckpoint:
    """What ``--resume must`` is refused with."""
    return NoUsableCheckpoint(
        f"--resume must: there is no usable checkpoint in {directory}. Name another --output-dir, "
        "or leave --resume out to begin the run"
    )


def _from_path(path: Path, store: CheckpointStore, *, begun: bool) -> tuple[Loaded, bool]:
    """A checkpoint that was named: one of the run's own, to go back to, or another run's."""
    own = path.resolve().is_relative_to(store.directory.resolve())
    if begun and not own:
        raise RunRefused(
            f"{store.directory.parent} holds a run already, which was not begun from {path}. Name "
            "another --output-dir to begin one there, or leave --resume out to go on with this one"
        )
    return load(path), own


def stored_arguments(before: RunRecord | None, loaded: Loaded | None) -> Mapping[str, Any] | None:
    """The arguments that the run was trained with so far, None for a run that is new."""
    if before is not None:
        return before.arguments
    return None if loaded is None else loaded.manifest.get("arguments")


def check_identity(
    settings: Settings,
    asked: Mapping[str, Any],
    stored: Mapping[str, Any],
    paths: Paths,
    warn: Callable[[str], None],
) -> None:
    """See that the arguments which shape the result are those the run was begun with.

    Raises:
        IdentityMismatch: they are not, and ``--resume always`` does not say to carry on.
    """
    changed = differences(stored, asked)
    if not changed:
        return
    listed = "\n".join(f"  {difference}" for difference in changed)
    if settings.resume != "always":
        raise IdentityMismatch(
            f"{paths.root} holds a run with other arguments:\n{listed}\n"
            "Go on in one of three ways:\n"
            "  --resume always     carry on from its checkpoint with the new values\n"
            "  --output-dir DIR    keep it, and train another run in DIR\n"
            "  --resume never      start afresh; the old run is set aside, not deleted"
        )
    warn(f"carrying on with other arguments than the run was begun with:\n{listed}")


def check_drift(
    settings: Settings, before: RunRecord, now: Provenance, warn: Callable[[str], None]
) -> None:
    """Tell what changed in script, commit and versions since the attempt before.

    Raises:
        RunRefused: something did, under ``--strict``.
    """
    changed = drift(before.attempts[-1], now)
    if not changed:
        return
    text = f"since the last attempt: {'; '.join(changed)}"
    if settings.strict:
        raise RunRefused(
            f"--strict: {text}. Put that back as it was, or leave --strict out to carry on"
        )
    warn(text)
