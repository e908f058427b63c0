"""A file system that goes wrong: the calls of ``os`` below one directory, failing or recorded.

:class:`Layer` stands between this process and the directory. :class:`Disk` takes what it recorded
and tells what a process that died, or a machine that lost its power, leaves there after each call.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CALLS = (
    "open", "write", "fsync", "ftruncate", "mkdir", "rename", "replace", "symlink", "unlink",
    "rmdir", "listdir", "scandir",
)  # fmt: skip
# Those that a full disk refuses; opening only where it makes a file.
_NEED_SPACE = {"create", "write", "fsync", "mkdir", "symlink"}
_real = {name: getattr(os, name) for name in CALLS}
_real_close = os.close


class Layer:
    """Sees each call of ``os`` that concerns ``root``, or something below it.

    A file's first write counts as a call, the others pass: torch writes a tensor in many parts.

    Args:
        root: calls elsewhere pass unseen.
        meet: given the number of the call (from 1), its name and how to make it; its result is the
            caller's.
        record: whether to keep in ``log`` what :class:`Disk` needs.
    """

    def __init__(
        self,
        root: Path,
        meet: Callable[[int, str, Callable[..., Any], tuple[Any, ...]], Any] | None = None,
        *,
        record: bool = False,
    ) -> None:
        self.root = root.resolve()
        self.count = 0
        self.log: list[tuple[Any, ...]] = []
        self._meet = meet or (lambda number, name, make, args: make(*args))
        self._record = record
        self._opened: dict[int, int] = {}
        self._written: set[int] = set()
        self._number = 0

    def __enter__(self) -> Layer:
        for name in CALLS:
            setattr(os, name, self._wrap(name))
        os.close = self._close
        return self

    def __exit__(self, *_: object) -> None:
        for name in CALLS:
            setattr(os, name, _real[name])
        os.close = _real_close

    def _wrap(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            about = args[1] if name == "symlink" else (args or (".",))[0]
            path = _place(about, kwargs.get("dir_fd"))
            if path is None or not path.is_relative_to(self.root):
                return _real[name](*args, **kwargs)
            if name == "write":
                if args[0] in self._written:
                    return self._make(name, path, args, kwargs)
                self._written.add(args[0])
            self.count += 1
            creates = name == "open" and args[1] & os.O_CREAT
            return self._meet(
                self.count,
                "create" if creates else name,
                lambda *given: self._make(name, path, given, kwargs),
                args,
            )

        return call

    def _make(self, name: str, path: Path, args: tuple[Any, ...], kwargs: Any) -> Any:
        # What fsync does to the real disk takes time and shows nowhere.
        result = None if name == "fsync" else _real[name](*args, **kwargs)
        if name == "open":
            self._written.discard(result)
        if self._record:
            self._remember(name, path, args, result)
        return result

    def _remember(self, name: str, path: Path, args: tuple[Any, ...], result: Any) -> None:
        where = path.relative_to(self.root).parts
        if name == "open":
            self._number += 1
            self._opened[result] = self._number
            self.log.append(("open", where, args[1], self._number))
        elif name == "write":
            self.log.append(("write", self._opened[args[0]], bytes(args[1])[:result]))
        elif name in ("fsync", "ftruncate"):
            self.log.append((name, self._opened[args[0]], *args[1:]))
        elif name in ("rename", "replace"):
            to = Path(args[1]).absolute().relative_to(self.root).parts
            self.log.append(("rename", where, to))
        elif name == "symlink":
            self.log.append((name, where, str(args[0])))
        elif name not in ("listdir", "scandir"):
            self.log.append((name, where))

    def _close(self, descriptor: int) -> None:
        self._opened.pop(descriptor, None)
        self._written.discard(descriptor)
        _real_close(descriptor)


def _place(about: Any, directory: int | None) -> Path | None:
    """The path that a call is about; None for what has none."""
    if isinstance(about, int):
        return _of_descriptor(about)
    base = Path.cwd() if directory is None else _of_descriptor(directory)
    return None if base is None else base / os.fsdecode(about)


def _of_descriptor(descriptor: int) -> Path | None:
    try:
        return Path(f"/proc/self/fd/{descriptor}").readlink()
    except OSError:
        return None


class Fault:
    """Makes the ``at``-th call go wrong in one of :data:`KINDS` of ways; ``met`` says which was."""

    def __init__(self, kind: str, at: int) -> None:
        self.kind, self.at, self.met = kind, at, ""
        self._fail_next_write = False

    def __call__(self, number: int, name: str, make: Callable[..., Any], args: Any) -> Any:
        """Meet a call, as a :class:`Layer` has it met."""
        if number < self.at:
            return make(*args)
        if number == self.at:
            self.met = name
        if self.kind == "full from here":
            if name in _NEED_SPACE:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        elif self.kind.startswith("short"):
            if number == self.at and name == "write":
                self._fail_next_write = self.kind == "short, then full"
                return make(args[0], bytes(args[1])[: len(args[1]) // 2])
            if self._fail_next_write and name in _NEED_SPACE:
                self._fail_next_write = False
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        elif number == self.at:
            raised = getattr(errno, self.kind)
            raise OSError(raised, os.strerror(raised))
        return make(*args)


KINDS = ("EIO", "ENOSPC", "full from here", "short", "short, then full")


def concerns(kind: str, name: str) -> bool:
    """Whether a call of this name can go wrong in this way."""
    if kind == "EIO":
        return True
    return name == "write" if kind.startswith("short") else name in _NEED_SPACE


@dataclass(eq=False)
class Inode:
    """A file, a link or a directory, as it is and as far as it is durable."""

    kind: str
    data: bytes = b""
    durable: bytes = b""
    entries: dict[str, Inode] = field(default_factory=dict)
    durable_entries: dict[str, Inode] = field(default_factory=dict)
    pending: list[dict[str, Inode | None]] = field(default_factory=list)

    def change(self, **names: Inode | None) -> None:
        """Change the names of a directory, all or none of which a loss of power lets be."""
        self.pending.append(names)
        _apply(self.entries, names)

    def sync(self) -> None:
        """Make it durable."""
        self.durable, self.durable_entries, self.pending = self.data, dict(self.entries), []


def _apply(entries: dict[str, Inode], names: dict[str, Inode | None]) -> None:
    for name, inode in names.items():
        if inode is None:
            entries.pop(name, None)
        else:
            entries[name] = inode


class Disk:
    """What is on the disk under a directory, followed call by call. At first all is durable."""

    def __init__(self, directory: Path) -> None:
        self._root = _read(directory)
        self._opened: dict[int, Inode] = {}

    def after(self, call: tuple[Any, ...]) -> None:
        """Follow one call of a :class:`Layer`'s log."""
        name, about, *rest = call
        if name == "open":
            flags, number = rest
            self._opened[number] = self._open(about, flags)
        elif name == "write":
            self._opened[about].data += rest[0]
        elif name == "ftruncate":
            self._opened[about].data = self._opened[about].data[: rest[0]]
        elif name == "fsync":
            self._opened[about].sync()
        elif name == "rename":
            parent, to = self._at(about[:-1]), self._at(rest[0][:-1])
            assert parent is to, "no rename from one directory to another is made"
            parent.change(**{about[-1]: None, rest[0][-1]: parent.entries[about[-1]]})
        else:
            new = {
                "mkdir": Inode("directory"),
                "symlink": Inode("link", *[os.fsencode(text) for text in rest] * 2),
            }.get(name)
            self._at(about[:-1]).change(**{about[-1]: new})

    def put(self, directory: Path, draw: random.Random | None = None) -> None:
        """Write it to ``directory``: all of it as a dead process left it, or what ``draw`` lets
        a loss of power leave."""
        _write(self._root, directory, draw)

    def _at(self, parts: tuple[str, ...]) -> Inode:
        inode = self._root
        for part in parts:
            inode = inode.entries[part]
        return inode

    def _open(self, parts: tuple[str, ...], flags: int) -> Inode:
        if not parts:
            return self._root
        parent = self._at(parts[:-1])
        if parts[-1] not in parent.entries:
            parent.change(**{parts[-1]: Inode("file")})
        inode = parent.entries[parts[-1]]
        if flags & os.O_TRUNC:
            inode.data = b""
        return inode


def _read(path: Path) -> Inode:
    if path.is_symlink():
        target = os.fsencode(path.readlink())
        return Inode("link", target, target)
    if path.is_file():
        return Inode("file", path.read_bytes(), path.read_bytes())
    inode = Inode("directory", entries={child.name: _read(child) for child in path.iterdir()})
    inode.sync()
    return inode


def _write(inode: Inode, path: Path, draw: random.Random | None) -> None:
    if inode.kind == "link":
        path.symlink_to(os.fsdecode(inode.data))
    elif inode.kind == "file":
        path.write_bytes(inode.data if draw is None else _what_stays(inode, draw))
    else:
        path.mkdir(exist_ok=True)
        entries = inode.entries
        if draw is not None:
            entries = dict(inode.durable_entries)
            for names in inode.pending:
                if draw.random() < 0.5:
                    _apply(entries, names)
        for name, child in entries.items():
            _write(child, path / name, draw)


def _what_stays(inode: Inode, draw: random.Random) -> bytes:
    if inode.data == inode.durable:
        return inode.data
    kept = len(inode.durable) if inode.data.startswith(inode.durable) else 0
    cut = inode.data[: draw.randrange(kept, len(inode.data) + 1)]
    return draw.choice([inode.durable, cut, cut + bytes(len(inode.data) - len(cut)), inode.data])


def bytes_in(directory: Path) -> Iterator[tuple[str, int]]:
    """Every file below ``directory`` with its size."""
    for path in sorted(directory.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield str(path.relative_to(directory)), path.stat().st_size
