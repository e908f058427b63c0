"""Checkpoints on disk: commit, load the newest that verifies, prune.

A checkpoint is one directory, and exists under its name only when complete: it is made in a
temporary sibling, every file is fsynced, the manifest last, and the directory renamed. The new one
is committed before an old one is removed, and a removal renames first, so that a process that dies
anywhere leaves the old checkpoints, or the old and the new.
"""

from __future__ import annotations

import datetime
import warnings
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from igniter import atomic
from igniter.checkpoint import files
from igniter.checkpoint import manifest as manifests
from igniter.checkpoint.files import Loaded
from igniter.checkpoint.manifest import MANIFEST, RANK_STATE, STATE, Checkpoint, name_of
from igniter.errors import CheckpointDamaged, NoUsableCheckpoint, RunRefused, UsageError


class CheckpointStore:
    """The checkpoints in one directory, which only this process writes to.

    The directory is the only list of them: what earlier attempts wrote counts like what this one
    does.

    Args:
        directory: made when the first checkpoint is committed.
        keep_last: how many of the newest are kept, at least 1.
        keep_every: those whose iteration is a multiple of this are kept for ever.
        warn: told of what is wrong but does not stop the run, in one text.

    Attributes:
        protected: iterations whose checkpoints are kept, such as those of the best.
    """

    def __init__(
        self,
        directory: Path,
        *,
        keep_last: int = 3,
        keep_every: int | None = None,
        warn: Callable[[str], object] = warnings.warn,
    ) -> None:
        """See the class."""
        if keep_last < 1 or (keep_every is not None and keep_every < 1):
            raise UsageError(
                f"keep_last={keep_last}, keep_every={keep_every}: each must be 1 or more."
            )
        self.directory = directory
        self.keep_last = keep_last
        self.keep_every = keep_every
        self.protected: Collection[int] = ()
        self._warn = warn

    def sweep(self) -> None:
        """Put right what commits and removals cut short left behind. Once, under the run's lock."""
        try:
            atomic.sweep(self.directory)
        except FileNotFoundError:
            pass  # no checkpoint was ever committed
        except OSError as error:
            self._warn(f"{self.directory} could not be tidied: {error}.")

    def list(self) -> list[Checkpoint]:
        """The complete checkpoints, unverified, in order of position."""
        return [found for found in manifests.scan(self.directory) if found.manifest.is_file()]

    def find(self, iteration: int) -> Checkpoint | None:
        """The complete checkpoint of ``iteration``, the final one if there are two, or None."""
        # The final one comes after the other.
        of_it = (c for c in reversed(manifests.scan(self.directory)) if c.iteration == iteration)
        return next((found for found in of_it if found.manifest.is_file()), None)

    def commit(
        self,
        iteration: int,
        *,
        epoch: int,
        reason: str,
        final: bool,
        state: Any,
        rank_state: Any,
        extra: Mapping[str, Any],
    ) -> Checkpoint:
        """Write a checkpoint, durably, then prune. One at the same position is replaced.

        Args:
            iteration: iterations done over the whole run; with ``final`` it is the position.
            epoch: epochs begun.
            reason: why it was saved, for people.
            final: the run is complete and ``state`` follows all that its end brings.
            state: what ``to_save`` holds, as :func:`igniter.checkpoint.portable.encode` gives it.
            rank_state: what belongs to this process alone, likewise.
            extra: more entries for the manifest, of JSON's types; ``label`` is put in the name.

        Raises:
            OSError: it did not reach the disk; earlier checkpoints stand, nothing is left over.
        """
        name = name_of(iteration, final, extra.get("label", ""))
        checkpoint = Checkpoint(iteration, final, self.directory / name)
        part = atomic.part_name(checkpoint.path)
        atomic.make_directory(self.directory)
        atomic.remove_quietly(part)  # what a failed commit of this position could not take away
        try:
            part.mkdir()
            contents = {STATE: state, RANK_STATE: rank_state}
            entries = {name: files.write(part / name, held) for name, held in contents.items()}
            body = {
                **extra,
                "format_version": manifests.FORMAT_VERSION,
                "iteration": iteration,
                "epoch": epoch,
                "reason": reason,
                "final": final,
                "world_size": 1,
                "created": datetime.datetime.now(datetime.timezone.utc).isoformat(),
                "files": entries,
            }
            atomic.write_bytes(part / MANIFEST, manifests.serialise(body))
            atomic.put_directory(part, checkpoint.path)
        except BaseException:
            atomic.remove_quietly(part)
            raise
        self._link("latest", checkpoint)
        self.prune(instead=checkpoint)
        return checkpoint

    def newest(self) -> Loaded | None:
        """As :func:`newest_in`; a damaged one is renamed ``damaged-…``, with a warning.

        Raises:
            RunRefused: as that, or a damaged one cannot be renamed.
        """
        return files.newest_in(self.directory, self._set_aside)

    def prune(self, instead: Checkpoint | None = None) -> None:
        """Remove the checkpoints that nothing asks to keep; what cannot be removed is told of.

        ``instead`` takes the place of those at its position that have another label.
        """
        every = self.keep_every
        try:
            found = self.list()
            place = None if instead is None else instead.position
            removed = [c for c in found if c.position == place and c != instead]
            for checkpoint in [c for c in found if c not in removed][: -self.keep_last]:
                iteration = checkpoint.iteration
                if iteration not in self.protected and not (every and iteration % every == 0):
                    removed.append(checkpoint)
            for checkpoint in removed:
                atomic.hide(checkpoint.path)
            atomic.empty(self.directory)
        except (OSError, RunRefused) as error:
            self._warn(
                f"an old checkpoint could not be removed: {error}. That is tried again after the "
                "next save."
            )

    def link_best(self, iteration: int) -> None:
        """Point the link ``best`` to the checkpoint of ``iteration``, where there is one."""
        checkpoint = self.find(iteration)
        if checkpoint is not None:
            self._link("best", checkpoint)

    def set_aside_after(self, checkpoint: Checkpoint) -> None:
        """Rename the checkpoints past ``checkpoint`` to ``later-…``, so that it is the newest.

        Raises:
            RunRefused: one cannot be renamed; ``checkpoint`` is not the newest.
        """
        for later in reversed(manifests.scan(self.directory)):  # a death leaves no gap
            if later.position > checkpoint.position:
                _rename(later.path, "later-", f"{later.path} is later than where the run goes on.")

    def _link(self, name: str, checkpoint: Checkpoint) -> None:
        link = self.directory / name
        part = atomic.part_name(link)
        try:
            part.symlink_to(checkpoint.path.name)
            part.replace(link)
        except OSError:  # a convenience only, and some file systems have no links
            atomic.remove_quietly(part)

    def _set_aside(self, checkpoint: Checkpoint, damage: CheckpointDamaged) -> None:
        name = _rename(checkpoint.path, "damaged-", str(damage)).name
        self._warn(f"{damage}\nIt is now {name}; the checkpoint before it is used.")


def load(path: Path) -> Loaded:
    """Load a checkpoint that was named: its directory, or the newest of a run or checkpoints one.

    Nothing is renamed, and nothing else is tried in the place of a damaged one.

    Raises:
        NoUsableCheckpoint: there is none at ``path``.
        CheckpointDamaged: it does not verify; the text names the file.
        RunRefused: it cannot be read, or a newer igniter wrote it.
    """
    path = path.resolve()
    if not (path / MANIFEST).exists():
        found = manifests.scan(path) or manifests.scan(path / "checkpoints")
        if not found:
            raise NoUsableCheckpoint(
                f"there is no checkpoint at {path}.\n"
                "Name a run's directory or one of the directories in its checkpoints/."
            )
        path = found[-1].path
    manifest = manifests.read(path)
    return files.load(Checkpoint(manifest["iteration"], manifest["final"], path), manifest)


def _rename(path: Path, prefix: str, why: str) -> Path:
    """Rename a checkpoint so that it is none any more; return its new path.

    Raises:
        RunRefused: it cannot be. Under its name it would count as newer than what is saved next.
    """
    target = atomic.unused(path.with_name(prefix + path.name))
    try:
        path.rename(target)
        atomic.fsync_directory(path.parent)
    except OSError as error:
        raise RunRefused(
            f"{why}\nIt cannot be set aside as {target.name}: {error.strerror}.\n"
            "Rename or move it by hand, or give this run another --output-dir."
        ) from error
    return target
