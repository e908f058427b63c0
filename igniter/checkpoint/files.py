"""One file of a checkpoint: written with its checksum taken, read only as what was verified."""

from __future__ import annotations

import hashlib
import os
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch

from igniter import atomic
from igniter.checkpoint import portable
from igniter.checkpoint.manifest import open_verified
from igniter.errors import CheckpointDamaged


def read(path: Path, name: str, manifest: Mapping[str, Any]) -> Any:
    """The content of the file ``name`` of the checkpoint in ``path``. Tensors are on the CPU.

    Raises:
        CheckpointDamaged: it is not what its manifest says, or holds anything but plain data.
        RunRefused: it cannot be read for a reason that may pass.
    """
    with open_verified(path, name, manifest) as stream, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return _load(stream)
        except (pickle.UnpicklingError, ValueError) as error:
            raise CheckpointDamaged(
                f"{path / name} holds something that is not plain data; refused to run it."
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
        self._digest = hashlib.sha256()
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
        return {"size": self._size, "sha256": self._digest.hexdigest()}
