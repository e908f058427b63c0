"""The files of a checkpoint: written with their checksums taken, read only as what was verified."""

from __future__ import annotations

import os
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch

from igniter import atomic
from igniter.checkpoint import manifest as manifests
from igniter.checkpoint import portable, sums
from igniter.checkpoint.manifest import RANK_STATE, STATE, Checkpoint, open_verified, unreadable
from igniter.errors import CheckpointDamaged, RunRefused


@dataclass(frozen=True)
class Loaded:
    """A checkpoint's content. Tensors are on the CPU."""

    checkpoint: Checkpoint
    manifest: Mapping[str, Any]
    state: Any
    rank_state: Any


def load_at_position(checkpoint: Checkpoint) -> Loaded:
    """:func:`load`, after its manifest was read and seen to be that of its position.

    Raises:
        CheckpointDamaged, RunRefused: as :func:`igniter.checkpoint.manifest.read` and :func:`load`.
    """
    manifest = manifests.read(checkpoint.path)
    manifests.check_position(checkpoint, manifest)
    return load(checkpoint, manifest)


def load(checkpoint: Checkpoint, manifest: Mapping[str, Any]) -> Loaded:
    """The content of a checkpoint whose manifest was read.

    Raises:
        CheckpointDamaged: a file is not what the manifest says, or holds anything but plain data.
        RunRefused: one cannot be read for a reason that may pass.
    """
    return Loaded(
        checkpoint,
        manifest,
        state=read(checkpoint.path, STATE, manifest),
        rank_state=read(checkpoint.path, RANK_STATE, manifest),
    )


def read(path: Path, name: str, manifest: Mapping[str, Any]) -> Any:
    """The content of the file ``name`` of the checkpoint in ``path``. Tensors are on the CPU.

    Raises:
        CheckpointDamaged: it is not what its manifest says, or holds anything but plain data.
        RunRefused: it cannot be read for a reason that may pass, such as too little memory.
    """
    file = path / name
    with open_verified(path, name, manifest) as stream, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            _check_archive(stream, manifest["files"][name]["size"])
            return _load(stream)
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
    with _HashingFile(path) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
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


def _load(stream: BinaryIO) -> Any:
    # every option said, so that no environment variable or global setting of torch's decides
    plain = torch.load(stream, map_location="cpu", weights_only=True, mmap=False)
    return portable.decode(plain)


class _HashingFile:
    """A file to write to from its start to its end, its checksum taken on the way.

    Where a write raises, torch's writer reports a wrong position in place of the cause. So the
    first failure is kept, what follows is dropped, and :meth:`finish` raises it.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        self._digest = sums.new()
        self._size = 0
        self._failure: OSError | None = None

    def __enter__(self) -> _HashingFile:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def write(self, data: bytes) -> int:
        """Write all of ``data``; return its length."""
        if self._failure is None:
            try:
                atomic.write_all(self._descriptor, data)
            except OSError as error:
                self._failure = error
            self._digest.update(data)
            self._size += len(data)
        return len(data)

    def flush(self) -> None:
        """Nothing is held back; torch calls this at its end."""

    def finish(self) -> dict[str, Any]:
        """Make the file durable; return its manifest entry."""
        if self._failure is not None:
            raise self._failure
        os.fsync(self._descriptor)
        return {"size": self._size, sums.WRITTEN: self._digest.hexdigest()}
