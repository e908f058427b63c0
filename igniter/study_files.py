"""The file that a study is kept in: made whole, mended after a kill, opened."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from igniter import atomic
from igniter.errors import UsageError

if TYPE_CHECKING:
    import optuna

Storage = Literal["sqlite", "journal"]
NAME = "study"
_FILES = {"sqlite": "study.db", "journal": "study.jsonl"}


def path_in(root: Path, kind: Storage) -> Path:
    """The file of the study in ``root``.

    Raises:
        UsageError: ``kind`` is unknown, or the study there is of another.
    """
    if kind not in _FILES:
        raise UsageError(f"storage is {kind!r}; it must be {' or '.join(_FILES)}")
    for other, name in _FILES.items():
        if other != kind and (root / name).exists():
            raise UsageError(f"the study in {root} is in {name}: give the storage it has, {other}")
    return root / _FILES[kind]


def create(
    path: Path, kind: Storage, direction: Literal["min", "max"], attributes: Mapping[str, Any]
) -> None:
    """Make a study with ``attributes``, whole or not at all.

    optuna makes its tables one by one: in a database that a killed process left unfinished the
    same study can be there twice.
    """
    import optuna

    scratch = atomic.part_name(path)
    scratch.mkdir()
    made = scratch / path.name
    with storage(made, kind) as opened:
        study = optuna.create_study(
            storage=opened,
            study_name=NAME,
            direction="maximize" if direction == "max" else "minimize",
        )
        for name, value in attributes.items():
            study.set_user_attr(name, value)
    made.replace(path)
    atomic.fsync_directory(path.parent)
    scratch.rmdir()


@contextmanager
def storage(path: Path, kind: Storage) -> Iterator[optuna.storages.BaseStorage]:
    """The file at ``path`` as optuna uses it; the caller holds the lock of its directory."""
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend

    if kind == "sqlite":
        database = RDBStorage(f"sqlite:///{path.absolute()}")
        try:
            yield database
        finally:
            database.remove_session()
            database.engine.dispose()
    else:
        _mend(path)
        yield JournalStorage(JournalFileBackend(str(path)))


def _mend(journal: Path) -> None:
    """Take away what a process that was killed left: optuna's lock, and half a line."""
    journal.with_name(f"{journal.name}.lock").unlink(missing_ok=True)
    if journal.exists():
        content = journal.read_bytes()
        whole = content.rfind(b"\n") + 1
        if 0 < whole < len(content):
            with journal.open("r+b") as file:
                file.truncate(whole)
