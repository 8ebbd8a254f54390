"""What is kept between events: the states of series, which events are scored, and the output that goes with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


class StoreError(Exception):
    """Why a store cannot be used, in one sentence."""


@dataclass(frozen=True)
class Standing:
    """Where the work stands according to a store.

    Attributes:
        output: the output of the last batch.
        at: bytes of output before it.
    """

    output: bytes = b""
    at: int = 0


@dataclass(frozen=True)
class Fetched:
    """What a store knows of a batch of events.

    Attributes:
        seen: which of the ids are scored already.
        rows: for each stream, what its series have left behind; those without an event are not there.
        damaged: (stream, key) of series whose row was damaged. It is kept aside, and they begin anew.
    """

    seen: frozenset[str]
    rows: tuple[dict[str, bytes], ...]
    damaged: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True)
class Batch:
    """What a store is to keep of scored events, all of it or nothing.

    Attributes:
        ids: of the events.
        rows: for each stream, what its series leave behind now.
        standing: the output of the events, and where it goes.
    """

    ids: Sequence[str]
    rows: Sequence[Mapping[str, bytes]]
    standing: Standing


class Store(Protocol):
    """Four calls, made by one process at a time: `begin`, then `fetch` and `commit` in turn, then `close`."""

    def begin(self, model: str) -> Standing | None:
        """Take hold of the store for a model, named by `Detector.identity`; None before its first batch.

        Raises:
            StoreError: another process holds it, it belongs to another model, or cannot be read.
        """
        ...

    def fetch(self, ids: Sequence[str], keys: Sequence[Sequence[str]]) -> Fetched:
        """What is known of events with these ids, and of the series with these keys, stream by stream.

        Raises:
            StoreError: it cannot be read.
        """
        ...

    def commit(self, batch: Batch) -> None:
        """Keep a batch: when the call returns it outlives the process, and when it raises nothing of it is kept.

        Raises:
            StoreError: it cannot be written, such as when the disk is full.
        """
        ...

    def close(self) -> None:
        """Let go of the store."""
        ...
