"""Where a run is sent: what its record says of it, and what that means on this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from igniter.rundir import RunRecord
from igniter.secrets import MASK, mask_uri
from igniter.tracking.uri import database_uri, resolve, sqlite_path, with_credentials


@dataclass(frozen=True)
class Place:
    """A store: ``uri`` is connected to; ``key`` is its name in files, without credentials."""

    key: str
    uri: str


def written(uri: str, root: Path) -> dict[str, str]:
    """Return what the record of the run in ``root`` says of ``uri``, which is absolute.

    A database is told from the run's directory too, which may have another path elsewhere.
    """
    database = sqlite_path(uri)
    beside = {} if database is None else {"from_run_dir": os.path.relpath(database, root)}
    return {"uri": mask_uri(uri), **beside}


def place_of(
    record: RunRecord,
    root: Path,
    tracking_uri: str | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Place | None:
    """Return where to send the run in ``root``, None where it was told no place.

    ``tracking_uri`` is another place than its record says.

    Raises:
        UsageError: MLflow cannot keep a run there.
    """
    here = Path.cwd()
    if tracking_uri is not None:
        uri = resolve(tracking_uri, here)
        return Place(mask_uri(uri), uri)
    if record.tracking is None or record.tracking.get("uri") is None:
        return None
    told = resolve(str(record.tracking["uri"]), here)
    database = sqlite_path(told)
    beside = record.tracking.get("from_run_dir")
    if database is not None and beside and not database.exists():
        moved = Path(os.path.normpath(root.absolute() / str(beside)))
        if moved.is_file():
            return Place(mask_uri(told), database_uri(moved, told))
    uri = with_credentials(told, environ, here)
    if uri.startswith(("http:", "https:")):
        # No user is called so; the name and the password may come from variables of their own.
        uri = uri.replace(f"{MASK}@", "")
    return Place(mask_uri(told), uri)
