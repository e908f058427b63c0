"""The files of a checkpoint: written with their checksums taken, read only as what was verified."""

from __future__ import annotations

import mmap
import os
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch
from torch.utils.serialization import config

from igniter import atomic
from igniter.checkpoint import manifest as manifests
from igniter.checkpoint import portable, sums
from igniter.checkpoint.manifest import RANK_STATE, STATE, Checkpoint, open_verified, unreadable
from igniter.errors import CheckpointDamaged, RunRefused

_CHUNK = 1 << 23  # bytes in a call: Python's lock is asked for again after each
_FLUSH = 1 << 25


@dataclass
class Loaded:
    """A checkpoint's content. Tensors are on the CPU, those of ``state`` in its mapped file."""

    checkpoint: Checkpoint
    manifest: Mapping[str, Any]
    state: Any
    rank_state: Any

    def release(self) -> None:
        """Let go of the content, and of the file, once it was put back."""
        self.state = self.rank_state = None


def load_at_position(checkpoint: Checkpoint) -> Loaded:
    """:func:`load`, after its manifest was read and seen to be that of its position.

    Raises:
        CheckpointDamaged, RunRefused: as :func:`igniter.checkpoint.manifest.read` and :func:`load`.
    """
    manifest = manifests.read(checkpoint.path)
    manifests.check_position(checkpoint, manifest)
    return load(checkpoint, manifest)


def newest_in(
    directory: Path, damaged: Callable[[Checkpoint, CheckpointDamaged], None]
) -> Loaded | None:
    """The newest checkpoint in ``directory`` that verifies and loads, or None.

    ``damaged`` is told of each that does not, before the one before it is tried.

    Raises:
        RunRefused: one cannot be read for a reason that may pass, or a newer igniter wrote it.
    """
    for checkpoint in reversed(manifests.scan(directory)):
        for seen_before in (False, True):
            try:
                return load_at_position(checkpoint)
            except CheckpointDamaged as error:
                # Believed when seen twice: a server's hiccup is an input/output error, too.
                if seen_before:
                    damaged(checkpoint, error)
    return None


def load(checkpoint: Checkpoint, manifest: Mapping[str, Any]) -> Loaded:
    """The content of a checkpoint whose manifest was read.

    Raises:
        CheckpointDamaged: a file is not what the manifest says, or holds anything but plain data.
        RunRefused: one cannot be read for a reason that may pass.
    """
    return Loaded(
        checkpoint,
        manifest,
        state=read(checkpoint.path, STATE, manifest, mapped=True),
        rank_state=read(checkpoint.path, RANK_STATE, manifest),
    )


def read(path: Path, name: str, manifest: Mapping[str, Any], *, mapped: bool = False) -> Any:
    """The content of the file ``name`` of the checkpoint in ``path``. Tensors are on the CPU.

    With ``mapped`` they lie in the file where they can, so that it takes no memory. What is done
    to them does not reach it.

    Raises:
        CheckpointDamaged: it is not what its manifest says, or holds anything but plain data.
        RunRefused: it cannot be read for a reason that may pass, such as too little memory.
    """
    file = path / name
    with open_verified(path, name, manifest) as stream, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            _check_archive(stream, manifest["files"][name]["size"])
            return portable.decode(_mapped(stream) if mapped else _read(stream))
        except OSError as error:
            raise unreadable(file, error) from error
        except (RuntimeError, MemoryError) as error:  # torch's word for too little memory, too
            raise RunRefused(
                f"{file} is what was written, and cannot be loaded: {error or 'out of memory'}.\n"
                "Mend that and start again."
            ) from error
        except Exception as error:  # whatever a file made to be loaded wrongly brings about
            raise CheckpointDamaged(
                f"{file} holds something that is not plain data; refused to run it."
            ) from error


def write(path: Path, content: Any) -> dict[str, Any]:
    """Write ``content`` to the new file ``path``, durably; return its entry in the manifest.

    Args:
        path: must not exist.
        content: as :func:`igniter.checkpoint.portable.encode` returns it.

    Raises:
        OSError: it did not reach the disk.
    """
    # No warnings are caught here: while a thread writes, the filters are the main thread's.
    with (
        _HashingFile(path) as file,
        # The archive's own checksums take longer than writing to memory does. Nobody reads them:
        # torch does not, and the manifest has a better one of the whole.
        config.patch("save.compute_crc32", False),  # type: ignore[attr-defined]
    ):
        torch.save(content, cast("IO[bytes]", file))  # it asks for no more
        return file.finish()


def _check_archive(stream: BinaryIO, size: int) -> None:
    """See that this is an archive as ``torch.save`` writes it, which holds no more than its size.

    A compressed one, or one whose parts overlap, can be a thousand times larger in memory.
    """
    with zipfile.ZipFile(stream) as archive:
        parts = archive.infolist()
    if sum(part.file_size for part in parts) > size or any(part.compress_type for part in parts):
        raise ValueError("not an archive that igniter wrote")
    stream.seek(0)


def _mapped(stream: BinaryIO) -> Any:
    """What the file holds, its tensors mapped; read where the system has no way to map it."""
    # The name of what is open, not of the file: it was verified, whatever has its name by now.
    descriptor = f"/proc/self/fd/{stream.fileno()}"
    try:
        with torch.serialization.set_default_mmap_options(mmap.MAP_PRIVATE):
            return torch.load(descriptor, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError):
        return _read(stream)


def _read(stream: BinaryIO) -> Any:
    # every option said, so that no environment variable or global setting of torch's decides
    return torch.load(stream, map_location="cpu", weights_only=True, mmap=False)


class _HashingFile:
    """A file to write to from its start to its end, its checksum taken on the way.

    Where a write raises, torch's writer reports a wrong position in place of the cause. So the
    first failure is kept, what follows is dropped, and :meth:`finish` raises it.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        self._digest = sums.new()
        self._size = 0
        self._flushed = 0
        self._failure: OSError | None = None

    def __enter__(self) -> _HashingFile:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def write(self, data: bytes | memoryview) -> int:
        """Write all of ``data``; return its length."""
        rest = memoryview(data).cast("B")
        for start in range(0, len(rest), _CHUNK):
            self._write(rest[start : start + _CHUNK])
        return len(rest)

    def _write(self, chunk: memoryview) -> None:
        if self._failure is not None:
            return
        try:
            # Both let other threads run.
            self._digest.update(chunk)
            atomic.write_all(self._descriptor, chunk)
        except OSError as error:
            self._failure = error
            return
        self._size += len(chunk)
        if self._size - self._flushed >= _FLUSH:
            atomic.begin_flushing(self._descriptor, self._flushed, self._size - self._flushed)
            self._flushed = self._size

    def flush(self) -> None:
        """Nothing is held back; torch calls this at its end."""

    def finish(self) -> dict[str, Any]:
        """Make the file durable; return its manifest entry."""
        if self._failure is not None:
            raise self._failure
        os.fsync(self._descriptor)
        return {"size": self._size, sums.WRITTEN: self._digest.hexdigest()}
