"""Where scores go: to a file exactly once, to a pipe once and, of what was under way at a kill, twice."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from gapcell.stream.store import Standing


class TargetError(Exception):
    """Why scores cannot be written, in one sentence."""


class Target(Protocol):
    """Takes the bytes of batches that a store has kept."""

    def begin(self, standing: Standing | None) -> int:
        """Bring the output to where the store says that it stands; how many bytes it has then.

        Args:
            standing: None for a new store.

        Raises:
            TargetError: it cannot be brought there.
        """
        ...

    def settle(self) -> None:
        """Make what was written outlast the machine; called before the store forgets it."""
        ...

    def write(self, output: bytes) -> None:
        """Write the output of one more batch.

        Raises:
            TargetError: it cannot be written whole; the store still has it.
        """
        ...

    def close(self) -> None:
        """Let go of the output."""
        ...


class FileTarget:
    """A regular file, in which every event stands exactly once, also after a kill in the middle of writing.

    The store keeps the last batch's output and where it begins: the file is cut there, and the output written anew.

    Args:
        file: the name of the file, made when it is not there; or a number of one that is open for writing.
        append: True to begin a new store behind what the file holds, False to refuse a file that holds something.
    """

    def __init__(self, file: str | Path | int, *, append: bool = False) -> None:
        self.name, self.append, self.opened = str(file), append, isinstance(file, int)
        if isinstance(file, int):
            self.descriptor, self.name = file, "standard output"
            return
        try:
            self.descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise TargetError(f"cannot write {self.name!r}: {error.strerror}") from None

    def begin(self, standing: Standing | None) -> int:
        """See `Target.begin`."""
        size = os.fstat(self.descriptor).st_size
        if standing is None:
            if size and not self.append:
                raise TargetError(f"{self.name!r} holds something already, and the store is new: give the store that "
                                  "it was written with, or another name")  # fmt: skip
            os.lseek(self.descriptor, size, os.SEEK_SET)
            return size
        if size < standing.at:
            raise TargetError(f"{self.name!r} has {size:,} bytes, and the store has seen {standing.at:,} written: "
                              "give the file that was written with this store, or begin a new store")  # fmt: skip
        os.ftruncate(self.descriptor, standing.at)
        os.lseek(self.descriptor, standing.at, os.SEEK_SET)
        self.write(standing.output)
        return standing.at + len(standing.output)

    def settle(self) -> None:
        """See `Target.settle`."""
        try:
            os.fsync(self.descriptor)
        except OSError as error:
            raise TargetError(f"cannot write {self.name!r}: {error.strerror}") from None

    def write(self, output: bytes) -> None:
        """See `Target.write`."""
        try:
            write_whole(self.descriptor, output)
        except OSError as error:
            raise TargetError(f"cannot write {self.name!r}: {error.strerror}; the store has what is missing, and the "
                              "same command goes on") from None  # fmt: skip

    def close(self) -> None:
        """See `Target.close`."""
        if not self.opened:
            os.close(self.descriptor)


class PipeTarget:
    """A pipe or a terminal: what was written cannot be looked at, so that a kill may bring the last batch twice.

    Args:
        descriptor: of the open pipe.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def begin(self, standing: Standing | None) -> int:
        """See `Target.begin`."""
        if standing is None:
            return 0
        self.write(standing.output)
        return standing.at + len(standing.output)

    def settle(self) -> None:
        """See `Target.settle`: who reads a pipe has what is in it."""

    def write(self, output: bytes) -> None:
        """See `Target.write`."""
        try:
            write_whole(self.descriptor, output)
        except BrokenPipeError:
            raise TargetError("nobody reads the output any more: the store has what is missing, and the same command "
                              "goes on") from None  # fmt: skip
        except OSError as error:
            raise TargetError(f"cannot write standard output: {error.strerror}") from None

    def close(self) -> None:
        """See `Target.close`."""


def write_whole(descriptor: int, output: bytes) -> None:
    """Write all bytes, in as many calls as it takes."""
    rest = memoryview(output)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
