"""A bounded pool of large CPU buffers.

Fresh memory costs as much as the arithmetic that fills it (the system maps and zeroes every page on first touch), so
what one training step stored is kept for the next.
"""

from __future__ import annotations

import math
import os
import threading

import torch
from torch import Tensor

__all__ = ["Buffer", "BufferPool", "pool"]


class Buffer:
    """Memory lent by a pool; it goes back when this handle is dropped."""

    def __init__(self, owner: BufferPool, flat: Tensor, shape: tuple[int, ...]) -> None:
        self._owner, self._flat = owner, flat
        self.tensor = flat[: math.prod(shape)].view(shape)

    def __del__(self) -> None:
        self._owner._take_back(self._flat)


class BufferPool:
    """Lends uninitialised memory and keeps what comes back, up to `limit` bytes in all.

    Only CPU memory is kept: accelerators have a caching allocator of their own. Safe from several threads and after
    a fork (a child starts with an empty pool).
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.RLock()  # re-entered when the garbage collector drops a Buffer inside `borrow`
        self._idle: list[Tensor] = []

    @property
    def idle_bytes(self) -> int:
        """Bytes kept and not lent."""
        with self._lock:
            return sum(flat.nbytes for flat in self._idle)

    def borrow(self, shape: tuple[int, ...], like: Tensor) -> Buffer:
        """Uninitialised memory of a shape, with the dtype and device of `like`."""
        size = math.prod(shape)
        with self._lock:
            fitting = [
                flat
                for flat in self._idle
                if flat.dtype == like.dtype and flat.device == like.device and size <= flat.numel() <= 2 * size
            ]
            if fitting:
                flat = min(fitting, key=Tensor.numel)
                self._idle = [kept for kept in self._idle if kept is not flat]
                return Buffer(self, flat, shape)
        return Buffer(self, torch.empty(size, dtype=like.dtype, device=like.device), shape)

    def clear(self) -> None:
        """Give all idle memory back to the system."""
        with self._lock:
            self._idle.clear()

    def _take_back(self, flat: Tensor) -> None:
        if flat.device.type != "cpu" or flat.nbytes > self.limit:
            return
        with self._lock:
            self._idle.append(flat)
            # The oldest goes first: a change of shapes empties the pool of what no longer fits.
            while sum(kept.nbytes for kept in self._idle) > self.limit:
                self._idle.pop(0)


pool = BufferPool(limit=2 * 1024**3)
os.register_at_fork(after_in_child=pool._reset)
