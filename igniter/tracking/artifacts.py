"""The files that MLflow keeps with a run: which, under which names, and whether it has them.

A file is known by its path in MLflow and by a mark of its content, which is remembered once it was
sent. So each is sent when it is new or has changed, and an upload that failed is made up for later.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from igniter import yamlfile
from igniter.atomic import open_regular
from igniter.checkpoint import manifest
from igniter.rundir import Paths, RunRecord
from igniter.secrets import mask_mapping
from igniter.signature import PROGRAM, Signature
from igniter.tracking import description
from igniter.tracking.names import worth_keeping

IMAGES = "images"
MODELS = "models"
CHECKPOINTS = "checkpoints"

# What MLflow's pages take in the name of an image, "+" being what separates its parts.
_NOT_IN_KEY = re.compile(r"[^\w\-. ~]")
_ITERATION = re.compile(r"iteration-(?P<iteration>\d+)\.png")


@dataclass(frozen=True)
class Artifact:
    """A file as MLflow is to have it: ``path`` there, and the local file or the text of it."""

    path: str
    content: Path | str

    def state(self) -> object:
        """Return what changes whenever the content may have; costs no reading of a file.

        Raises:
            OSError: the file is not there.
        """
        if isinstance(self.content, str):
            return self.content
        status = self.content.stat()
        return status.st_size, status.st_mtime_ns, status.st_ino

    def is_there(self) -> bool:
        """Whether there is such a file still: a checkpoint may be removed while it is sent."""
        return isinstance(self.content, str) or self.content.exists()

    def mark(self) -> str:
        """Return the size in bytes and a checksum of the content.

        Raises:
            OSError: the file cannot be read.
        """
        if isinstance(self.content, str):
            data = self.content.encode()
            return f"{len(data)}:{hashlib.sha256(data).hexdigest()[:32]}"
        digest, size = hashlib.sha256(), 0
        with open_regular(self.content) as file:
            while block := file.read(1 << 20):
                digest.update(block)
                size += len(block)
        return f"{size}:{digest.hexdigest()[:32]}"


class Changes:
    """Finds the artifacts that MLflow lacks; reads only files that changed since the last look."""

    def __init__(self) -> None:
        self._marks: dict[str, tuple[object, str]] = {}

    def find(
        self, artifacts: Iterable[Artifact], stored: Mapping[str, str]
    ) -> Iterator[tuple[Artifact, str]]:
        """Yield each artifact whose mark is not the one ``stored`` under its path, with its mark.

        A file that is not there is passed over.
        """
        for artifact in artifacts:
            try:
                mark = self._mark(artifact)
            except OSError:
                continue
            if stored.get(artifact.path) != mark:
                yield artifact, mark

    def _mark(self, artifact: Artifact) -> str:
        state = artifact.state()
        known = self._marks.get(artifact.path)
        if known is None or known[0] != state:
            known = self._marks[artifact.path] = state, artifact.mark()
        return known[1]


def of_run(paths: Paths, record: RunRecord, *, ended: bool) -> Iterator[Artifact]:
    """Yield all that MLflow is to have of a run; what only its end makes final, once it ``ended``.

    ``config.yaml`` holds the parameters whole, ``run-record.yaml`` the run's record: called so
    because a directory that holds a run.yaml is a run to `igniter runs`. A table is a ``.csv``
    because MLflow's pages show that as one.
    """
    yield Artifact("config.yaml", yamlfile.dump(worth_keeping(mask_mapping(record.parameters))))
    if ended:
        text = yamlfile.dump(mask_mapping(dataclasses.asdict(record)))
        yield Artifact("run-record.yaml", text)
        for picture in paths.pictures:
            yield Artifact(picture.name, picture)
    yield Artifact("attempts.csv", _attempts(record))
    yield Artifact(paths.environment.name, paths.environment)
    yield Artifact(paths.git_diff.name, paths.git_diff)
    yield from _figures(paths.figures, record)
    yield from _checkpoints(paths, record, ended=ended)


def _attempts(record: RunRecord) -> str:
    """Each attempt a line: when, where, from which iteration, and how it ended."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    columns = ("number", "start", "end", "host", "from_iteration", "outcome", "reason")
    writer.writerow(columns)
    for attempt in record.attempts:
        values = mask_mapping({name: getattr(attempt, name) for name in columns})
        writer.writerow(["" if value is None else value for value in values.values()])
    return table.getvalue()


def _checkpoints(paths: Paths, record: RunRecord, *, ended: bool) -> Iterator[Artifact]:
    """The checkpoints that MLflow is to have: the last and the best have one place there each.

    Its client cannot remove a file, but it can put another in its place.
    """
    wanted = (record.tracking or {}).get("log_checkpoints", "none")
    if wanted == "all":
        chosen = {found.path.name: found for found in manifest.scan(paths.checkpoints)}
    elif ended and wanted in ("last", "best"):
        named = description.checkpoints(paths, record)
        chosen = {wanted: named[wanted]} if wanted in named else {}
    else:
        chosen = {}
    for name, checkpoint in chosen.items():
        # The manifest is the last, as on disk: without it there is no checkpoint.
        files = sorted(checkpoint.path.glob("*"), key=lambda file: file == checkpoint.manifest)
        for file in files:
            yield Artifact(f"{CHECKPOINTS}/{name}/{file.name}", file)


def programs(directory: Path, record: RunRecord) -> Iterator[tuple[Artifact, Signature]]:
    """Yield the exported models of a completed run: each is to be a logged model of MLflow's."""
    if record.status != "completed":
        return
    for file in sorted(directory.glob(f"*{PROGRAM}")):
        signature = Signature.load(Signature.path_beside(file))
        # A run that was made longer may have been told to export nothing.
        if signature is not None and signature.iteration == record.iteration:
            yield Artifact(f"{MODELS}/{file.stem}", file), signature


def _figures(directory: Path, record: RunRecord) -> Iterator[Artifact]:
    """The steps' own pictures under the names by which MLflow's pages show them by iteration.

    Each stands there twice: the pages show a small copy in lists, and these are small as they are.
    """
    begun = description.begun(record)
    for file in sorted(directory.rglob("iteration-*.png")):
        match = _ITERATION.fullmatch(file.name)
        if match is None:
            continue
        name = file.parent.relative_to(directory).as_posix()
        iteration = int(match["iteration"])
        # MLflow's own names hold the time and a random UUID. Sent again, from another copy of the
        # directory too, a figure must have the name it had.
        key = _NOT_IN_KEY.sub("_", name.replace("/", "~"))
        unique = hashlib.sha256(f"{name}/{iteration}".encode()).hexdigest()[:32]
        stem = f"{IMAGES}/{key}+step+{iteration}+timestamp+{begun + iteration}+{unique}"
        yield Artifact(f"{stem}.png", file)
        yield Artifact(f"{stem}+compressed.png", file)
