"""Which run is this, and from where does it go on? Answered before anything is trained."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from igniter import directories, startpoint
from igniter.atomic import PART, sweep
from igniter.checkpoint.files import Loaded
from igniter.checkpoint.store import CheckpointStore
from igniter.errors import RunRefused, UsageError
from igniter.history import History
from igniter.identity import CAME_LATER, digest, plain, shaping
from igniter.lock import RunLock
from igniter.provenance import Provenance, collect
from igniter.result import Result
from igniter.rundir import Paths, RunRecord
from igniter.secrets import mask_mapping
from igniter.settings import Settings
from igniter.target import Target, choose_target

# The runs that this process has trained, by directory.
_opened: set[Path] = set()


@dataclass(frozen=True)
class Asked:
    """What is asked for: the run's name, and its arguments."""

    name: str | None
    identity: Mapping[str, Any]
    parameters: Mapping[str, Any]

    @property
    def script(self) -> Path | None:
        """The script that runs, None in a notebook or an interpreter."""
        path = Path(sys.argv[0])
        return path if path.suffix == ".py" and path.is_file() else None


@dataclass(frozen=True)
class Opened:
    """A run that is ready to be trained: its files, its lock, and where it goes on from."""

    paths: Paths
    lock: RunLock
    record: RunRecord
    store: CheckpointStore
    loaded: Loaded | None
    own: bool
    provenance: Provenance
    target: Target | None

    @property
    def iteration(self) -> int:
        """The last iteration that is done."""
        return 0 if self.loaded is None else self.loaded.checkpoint.iteration

    @property
    def attempt(self) -> int:
        """The number of the attempt that is to begin."""
        return len(self.record.attempts) + 1

    def is_finished(self, total: int) -> bool:
        """Whether the run completed before, and is not asked to go further than it was then."""
        before = self.record.total_iterations or 0
        at_its_end = self.loaded is not None and self.loaded.checkpoint.final
        completed = self.record.status == "completed" and at_its_end
        return completed and (self.iteration >= total or total <= before)

    def result(
        self, status: Literal["completed", "interrupted"], signal: int | None = None
    ) -> Result:
        """How the run stands now."""
        record = self.record
        best = None if record.best is None else self.store.find(record.best["iteration"])
        return Result(
            status=status,
            iteration=record.iteration,
            epoch=record.epoch,
            metrics=dict(record.metrics),
            run_dir=self.paths.root,
            best_checkpoint=None if best is None else best.path,
            mlflow_run_id=record.mlflow_run_id,
            signal=signal,
            history=History(self.paths.journal, record.iteration),
        )

    @property
    def journal_offset(self) -> int:
        """The byte of the journal up to which it is settled."""
        if self.loaded is None or not self.own:
            return 0
        return int(self.loaded.manifest.get("journal_offset", 0))


def asked(
    settings: Settings,
    name: str | None,
    identity: Mapping[str, Any] | None,
    parameters: Mapping[str, Any] | None,
) -> Asked:
    """What a call of ``train`` asks for; the settings that shape a result count, too."""
    given = (parameters if identity is None else identity) or {}
    own = {key: getattr(settings, key) for key in ("seed", *CAME_LATER)}
    return Asked(name, shaping({**own, **given}), parameters or {})


def locate(settings: Settings, asked: Asked) -> Paths:
    """The run's paths: as told, or by the script's name and the identity."""
    if settings.output_dir is not None:
        root = Path(settings.output_dir)
    else:
        script = asked.script.stem if asked.script else "run"
        root = Path("output") / f"{script}-{digest(asked.identity)}"
    parts = [
        None if given is None else Path(given)
        for given in (settings.checkpoint_dir, settings.model_dir)
    ]
    if asked.name is not None:
        root = root / asked.name
        parts = [None if part is None else part / asked.name for part in parts]
    return Paths(root, *parts)


def open_run(
    settings: Settings,
    asked: Asked,
    *,
    once: bool,
    notify: Callable[[str], None],
    warn: Callable[[str], None],
) -> Opened:
    """Take the run's lock and find out where it goes on.

    With ``once`` a process may open a run once only: a script's second call for it would find the
    first one's weights and train nothing.

    Raises:
        RunRefused: another process holds it, it is another run, or it cannot go on as asked.
        UsageError: its directory cannot be written to.
    """
    paths = locate(settings, asked)
    root = paths.root.resolve()
    if once and root in _opened:
        raise UsageError(
            f"this script trained the run in {paths.root} before; give each call of train() a name "
            'of its own, such as train(name="fold-1", …)'
        )
    if settings.resume == "must" and not paths.checkpoints.exists():
        raise startpoint.nothing_to_resume(paths.checkpoints)
    if settings.resume == "never" and paths.run_yaml.exists():
        with RunLock.acquire(paths.lock, break_lock=settings.break_lock, notify=notify):
            notify(f"the earlier run is set aside as {directories.set_aside(paths)}")
    directories.create(paths)
    with _usable(paths):
        lock = RunLock.acquire(paths.lock, break_lock=settings.break_lock, notify=notify)
    _opened.add(root)
    try:
        with _usable(paths):
            _sweep(paths)
            return _open_locked(settings, asked, paths, lock, warn)
    except BaseException:
        lock.release()
        raise


def _open_locked(
    settings: Settings,
    asked: Asked,
    paths: Paths,
    lock: RunLock,
    warn: Callable[[str], None],
) -> Opened:
    store = CheckpointStore(
        paths.checkpoints, keep_last=settings.keep_last, keep_every=settings.keep_every, warn=warn
    )
    store.sweep()
    before = RunRecord.load(paths.run_yaml) if paths.run_yaml.exists() else None
    provenance = collect(asked.script, inputs=settings.inputs)
    loaded, own = startpoint.starting_point(settings, store, before, warn)
    stored = startpoint.stored_arguments(before, loaded if own else None)
    if stored is not None:
        startpoint.check_identity(settings, asked.identity, stored, paths, warn)
    if before is not None and before.attempts:
        startpoint.check_drift(settings, before, provenance, warn)
    record = before or RunRecord(name="", script="", identity="", arguments={}, parameters={})
    record.name = paths.root.name
    record.script = provenance.script or ""
    record.identity = digest(asked.identity)
    record.arguments = dict(asked.identity)
    record.parameters = mask_mapping(plain(asked.parameters))
    record.elsewhere = paths.elsewhere
    record.origin = startpoint.origin(settings) or record.origin
    target = choose_target(settings, asked.script, paths.root, before, warn)
    record.tracking = None if target is None else dict(target.written)
    return Opened(paths, lock, record, store, loaded, own, provenance, target)


@contextmanager
def _usable(paths: Paths) -> Iterator[None]:
    """Turn a disk's refusal before training begins into one of the run."""
    try:
        yield
    except OSError as error:
        raise RunRefused(
            f"the run in {paths.root} cannot be begun: {error}.\n"
            "What is there stands. Mend that, or make room, and run the same command again."
        ) from error


def _sweep(paths: Paths) -> None:
    """Remove what a process that died while writing left; the lock is held."""
    for path in (paths.run_yaml, paths.environment, paths.git_diff):
        for leftover in paths.root.glob(f".{path.name}.*{PART}"):
            leftover.unlink(missing_ok=True)
    sweep(paths.model)


def begin_attempt(opened: Opened, total: int) -> None:
    """Record that this process trains the run from here on, to ``total`` iterations."""
    if opened.loaded is not None and opened.own:
        # Those after it, where one to go back to was named.
        opened.store.set_aside_after(opened.loaded.checkpoint)
    opened.record.total_iterations = total
    opened.record.begin_attempt(
        start=utc_now(),
        from_iteration=opened.iteration,
        **opened.provenance.attempt_fields(),
    )
    with _usable(opened.paths):
        opened.record.save(opened.paths.run_yaml)


def utc_now() -> str:
    """The time, ISO-8601 in UTC, to the millisecond."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")
