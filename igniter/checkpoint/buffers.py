"""Memory for one copy of a state's tensors, kept for the next copy.

The first touch of fresh memory costs several times what copying into it does: the kernel hands it
out in pages of 4 KB, each zeroed. So the memory is kept between two copies, and asked for in huge
pages, where the system gives them on request. What is copied from an accelerator goes to pinned
memory, which its engine fills by itself while the process goes on.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

_BLOCK = 1 << 28  # bytes asked for at a time, or the size of a storage that is larger
_HUGE_PAGE = 1 << 21  # bytes, on x86-64 and most others
_PAGE = 1 << 12  # bytes, of the smallest
_PART = 1 << 26  # bytes that are touched without looking up
_ALIGNMENT = 64  # bytes: a cache line


class Buffers:
    """Copies tensors into memory of its own, one state at a time.

    What an earlier state was copied into is written over after the next :meth:`begin`. ``wanted``
    is whether there will be another copy.
    """

    def __init__(self) -> None:
        self.wanted = True
        self._regions: dict[bool, _Region] = {}
        self._copies: dict[tuple[int, int], torch.UntypedStorage] = {}
        self._sources: list[torch.UntypedStorage] = []
        self._devices: set[torch.device] = set()

    def reserve(self, tensors: Iterable[torch.Tensor]) -> None:
        """Have memory for a first copy of ``tensors``, and touch it: in another thread, before.

        Ends early once :attr:`wanted` is false.
        """
        sizes = {True: 0, False: 0}
        for tensor in tensors:
            sizes[tensor.device.type == "cuda"] += _aligned(tensor.nbytes)
        for pinned, size in sizes.items():
            if size:
                for part in self._region(pinned).reserve(size):
                    if not self.wanted:
                        return
                    part[::_PAGE] = 0

    def begin(self) -> None:
        """Let the copies made so far be written over."""
        for region in self._regions.values():
            region.begin()

    def copy(self, tensor: torch.Tensor) -> torch.Tensor:
        """``tensor`` on the CPU with storage of its own; those that share storage still share it.

        From an accelerator the copy may still be on its way: see :meth:`finish`.

        Raises:
            MemoryError: there is too little memory.
        """
        special = tensor.is_quantized or tensor.is_conj() or tensor.is_neg()
        if special or tensor.layout is not torch.strided:
            copied = tensor.detach().resolve_conj().resolve_neg().to("cpu", copy=True)
        else:
            copied = torch.empty(0, dtype=tensor.dtype).set_(
                self._storage(tensor.untyped_storage()),
                tensor.storage_offset(),
                tensor.size(),
                tensor.stride(),
            )
        if type(tensor) is torch.nn.Parameter:
            return torch.nn.Parameter(copied, requires_grad=tensor.requires_grad)
        return copied.requires_grad_() if tensor.requires_grad else copied

    def finish(self) -> Callable[[], None]:
        """End the copying of one state; gives what waits until all of it has arrived.

        Copies are queued behind the work that the device has, and before the steps to come, so
        that nothing needs to wait until they are read.
        """
        arrivals = [torch.accelerator.current_stream(d).record_event() for d in self._devices]
        self._copies.clear()
        self._sources.clear()
        self._devices.clear()

        def wait() -> None:
            for arrival in arrivals:
                arrival.synchronize()

        return wait

    def _storage(self, source: torch.UntypedStorage) -> torch.UntypedStorage:
        # Two storages of no bytes have the same address and nothing to share.
        key = (source.data_ptr(), source.nbytes())
        if key not in self._copies:
            self._copies[key] = self._copied(source)
            self._sources.append(source)  # alive, so that no other takes its address meanwhile
        return self._copies[key]

    def _copied(self, source: torch.UntypedStorage) -> torch.UntypedStorage:
        device = source.device
        if not source.nbytes():
            return torch.empty(0, dtype=torch.uint8).untyped_storage()
        if device.type not in ("cpu", "cuda"):
            whole = torch.empty(0, dtype=torch.uint8, device=device).set_(source)
            return whole.cpu().untyped_storage()  # there is no pinned memory for it
        pinned = device.type == "cuda"
        if pinned:
            self._devices.add(device)
        target = self._region(pinned).take(source.nbytes())
        # In words of 8 bytes: by bytes, as storages copy themselves, takes a fifth longer.
        word = torch.uint8 if source.nbytes() % 8 else torch.int64
        words = torch.empty(0, dtype=word, device=device).set_(source)
        torch.empty(0, dtype=word).set_(target).copy_(words, non_blocking=pinned)
        return target

    def _region(self, pinned: bool) -> _Region:
        return self._regions.setdefault(pinned, _Region(pinned=pinned))


class _Region:
    """Memory that is handed out from its start to its end, and then again."""

    def __init__(self, *, pinned: bool) -> None:
        self._pinned = pinned
        self._blocks: list[Any] = []
        self.begin()

    def begin(self) -> None:
        self._block, self._used = 0, 0

    def reserve(self, size: int) -> Iterator[torch.Tensor]:
        """Memory for ``size`` bytes, in parts."""
        self._grow(size)
        whole = torch.frombuffer(self._blocks[-1], dtype=torch.uint8, count=size)
        for start in range(0, size, _PART):
            yield whole[start : start + _PART]

    def take(self, size: int) -> torch.UntypedStorage:
        """A storage of ``size`` bytes."""
        while self._block < len(self._blocks):
            block = self._blocks[self._block]
            if self._used + size <= len(block):
                start = self._used
                self._used += _aligned(size)
                taken = torch.frombuffer(block, dtype=torch.uint8, offset=start, count=size)
                return taken.untyped_storage()
            self._block, self._used = self._block + 1, 0
        self._grow(size)
        return self.take(size)

    def _grow(self, size: int) -> None:
        self._blocks.append(_memory(max(size, _BLOCK), pinned=self._pinned))


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _memory(size: int, *, pinned: bool) -> Any:
    """``size`` bytes as a buffer: pinned, or of huge pages where the system has them."""
    if pinned:
        try:
            pages: Any = torch.empty(size, dtype=torch.uint8, pin_memory=True).numpy()
        except RuntimeError as error:
            raise MemoryError(f"{size} bytes: {error}") from error
        return memoryview(pages)
    # The default is memory shared with forked processes, which is not given in huge pages.
    try:
        whole = mmap.mmap(-1, size + _HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"{size} bytes: {error.strerror}") from error
    # Not for forked loader workers: they would keep the pages of an earlier copy, and the next one
    # would have to be made into fresh ones.
    for advice in ("MADV_HUGEPAGE", "MADV_DONTFORK"):
        try:
            whole.madvise(getattr(mmap, advice))
        except (AttributeError, OSError):
            pass  # not Linux, or a kernel without it
    start = -torch.frombuffer(whole, dtype=torch.uint8).data_ptr() % _HUGE_PAGE
    return memoryview(whole)[start : start + size]
