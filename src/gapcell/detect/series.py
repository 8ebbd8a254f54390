"""Ragged series cut into chunks and gathered into batches of similar length."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

LONGEST_IN_WINDOWS = 64
CONTEXT_IN_WINDOWS = 16


@dataclass(frozen=True, eq=False)
class Chunks:
    """Pieces of series, each a run of events in sorted order; all int64 (chunks,), `closes` bool.

    Attributes:
        begin: first event read.
        first: first event counted; those before it are context, which an earlier chunk counts.
        end: one past the last event.
        closes: True where the series ends at `end`, as far as this cut goes.
    """

    begin: np.ndarray
    first: np.ndarray
    end: np.ndarray
    closes: np.ndarray

    def __len__(self) -> int:
        return len(self.begin)

    def at(self, index: np.ndarray) -> Chunks:
        """Some of the chunks."""
        return Chunks(self.begin[index], self.first[index], self.end[index], self.closes[index])


def cut(begin: np.ndarray, end: np.ndarray, window: int) -> Chunks:
    """Cut each series [begin, end) into chunks that start at window borders and are at most 80 windows long.

    A later chunk reads 16 windows of context, so that training on it resembles a long history and memory is bounded.
    """
    longest, context = LONGEST_IN_WINDOWS * window, CONTEXT_IN_WINDOWS * window
    pieces = np.maximum(-(-(end - begin) // longest), 0)
    series = np.repeat(np.arange(len(begin)), pieces)
    number = np.arange(len(series)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    first = begin[series] + number * longest
    stop = np.minimum(first + longest, end[series])
    start = np.where(number > 0, first - context, first)
    return Chunks(start, first, stop, stop == end[series])


def batches(chunks: Chunks, most_events: int) -> list[np.ndarray]:
    """Numbers of chunks grouped by length, so that a batch padded to its longest has at most `most_events` events."""
    lengths = chunks.end - chunks.begin
    order = np.argsort(lengths, kind="stable")
    groups, start = [], 0
    while start < len(order):
        stop = start + 1
        while stop < len(order) and (stop + 1 - start) * lengths[order[stop]] <= most_events:
            stop += 1
        groups.append(order[start:stop])
        start = stop
    return groups


def gather(begin: np.ndarray, end: np.ndarray) -> tuple[Tensor, Tensor]:
    """Places of the events of runs, padded on the right: int64 (runs, longest), and bool, True where an event is."""
    places = begin[:, None] + np.arange((end - begin).max(initial=1))
    there = places < end[:, None]
    padding = np.minimum(begin, end - 1)[
        :, None
    ]  # a run that is over begins where it ends, maybe beyond the last place
    return torch.from_numpy(np.where(there, places, padding)), torch.from_numpy(there)


def segments(begin: np.ndarray, end: np.ndarray, longest: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Walk runs side by side in segments of at most `longest` events: begin and end of each run in each segment."""
    for start in range(0, int((end - begin).max(initial=1)), longest):
        low = np.minimum(begin + start, end)
        yield low, np.minimum(low + longest, end)
