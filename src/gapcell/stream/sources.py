"""Where lines come from: standard input, or a file that may still be written."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

BLOCK = 1 << 16  # bytes read at once
BLOCKS_AHEAD = 16  # that are read before anybody has asked for them
LONGEST_LINE = 1 << 20  # bytes; what is longer is no event
LOOKS_AGAIN = 0.2  # seconds between two looks at the end of a file that is followed

Line = tuple[int, bytes]
"""Where a line begins in the input, in bytes, and the line without its end; one that is too long is cut."""


class Source(Protocol):
    """Gives lines in groups."""

    def groups(self, most: int, wait: float, stop: threading.Event) -> Iterator[list[Line]]:
        """Groups of lines in order, until the input ends or `stop` is set; an empty one when nothing came for a while.

        Args:
            most: lines in a group.
            wait: seconds after its first line that a group may wait to be filled.
            stop: set to end soon.
        """
        ...


class Descriptor:
    """Reads lines from an open file ahead of who uses them, at most about a megabyte.

    Args:
        descriptor: of the open file.
        follow: True to wait at the end of the file for what is written next.
    """

    def __init__(self, descriptor: int, *, follow: bool = False) -> None:
        self.descriptor, self.follow = descriptor, follow

    def groups(self, most: int, wait: float, stop: threading.Event) -> Iterator[list[Line]]:
        """See `Source.groups`."""
        blocks: queue.Queue[bytes | OSError | None] = queue.Queue(BLOCKS_AHEAD)
        threading.Thread(target=self.read, args=(blocks, stop), daemon=True).start()
        lines = Lines()
        waiting: list[Line] = []
        since = time.monotonic()
        while not stop.is_set():
            patience = max(wait - (time.monotonic() - since), 0.0) if waiting else LOOKS_AGAIN
            try:
                block = blocks.get(timeout=patience)
            except queue.Empty:
                yield waiting
                waiting = []
                continue
            if isinstance(block, OSError):
                raise block
            if not waiting:
                since = time.monotonic()
            waiting += lines.added(block) if block is not None else lines.last()
            while len(waiting) >= most or (block is None and waiting):
                yield waiting[:most]
                waiting = waiting[most:]
            if block is None:
                return

    def read(self, blocks: queue.Queue[bytes | OSError | None], stop: threading.Event) -> None:
        """Put blocks into the queue, None at the end; waits where nobody takes them."""
        try:
            while not stop.is_set():
                block = os.read(self.descriptor, BLOCK)
                if block:
                    blocks.put(block)
                elif not self.follow:
                    break
                else:
                    stop.wait(LOOKS_AGAIN)
            blocks.put(None)
        except OSError as error:
            blocks.put(error)


class Lines:
    """Cuts blocks of bytes into lines."""

    def __init__(self) -> None:
        self.position, self.rest = 0, bytearray()
        self.length = 0  # of the line so far, all of it counted

    def added(self, block: bytes) -> list[Line]:
        """The lines that end in one more block."""
        *whole, rest = block.split(b"\n")
        found = []
        for piece in whole:
            found.append(self.line(piece))
            self.position += 1
        self.keep(rest)
        return found

    def last(self) -> list[Line]:
        """The line that the input ends with, where it has no end of its own."""
        return [self.line(b"")] if self.rest else []

    def line(self, piece: bytes) -> Line:
        """A line that ends in `piece`."""
        begin = self.position
        self.keep(piece)
        self.position += self.length
        line, self.rest, self.length = bytes(self.rest[: LONGEST_LINE + 1]), bytearray(), 0
        return begin, line.removesuffix(b"\r")

    def keep(self, piece: bytes) -> None:
        """Keep the beginning of a line, not more of it than is looked at."""
        self.length += len(piece)
        if len(self.rest) <= LONGEST_LINE:
            self.rest += piece


class StandardInput(Descriptor):
    """The lines of standard input."""

    def __init__(self) -> None:
        super().__init__(0)


class FileSource(Descriptor):
    """The lines of a file.

    Args:
        path: the file.
        follow: True to wait at its end for what is written next.
    """

    def __init__(self, path: str | Path, *, follow: bool = False) -> None:
        super().__init__(os.open(path, os.O_RDONLY | os.O_CLOEXEC), follow=follow)
