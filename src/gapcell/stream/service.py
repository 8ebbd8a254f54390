"""The work between a source and a target: batches of events, each scored, kept and delivered exactly once.

A batch is kept by the store in one transaction, its output with it, before a byte of that is written. Whatever ends
the process, the next one brings the output to where the store stands, and events that are read again are known by
their ids.
"""

from __future__ import annotations

import io
import threading
import time
from collections import ChainMap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import polars as pl

from gapcell.detect import Detector, EventTable
from gapcell.detect.events import part_of
from gapcell.detect.model import one_thread
from gapcell.detect.online import advanced
from gapcell.detect.score_frame import SCORE
from gapcell.stream.arrivals import Arrival, Format, Reader, columns_of, keys_of, tables
from gapcell.stream.held import Held
from gapcell.stream.sources import Line, Source
from gapcell.stream.store import Batch, Standing, Store
from gapcell.stream.targets import Target

DAY = 86_400.0
MOST_NOTICES = 100  # about columns, whose names anybody can make up
FAR_AHEAD = "its time is too far ahead of the clock: all later events of its series would be late"


@dataclass(frozen=True)
class Policy:
    """How events are taken and given.

    Attributes:
        id_column: the column of the events' ids. None makes an id of where an event stands in the input and of what it
            says, so that the input must be given again from its beginning, and the same.
        format: of the input, "jsonl" or "csv"; told from its first line when None.
        output: "jsonl" or "csv".
        reasons: "all" for a reason with every event, "alerts" with alerts only, "none".
        lateness: seconds by which events may come in the wrong order; they are held for so long.
        ahead: seconds by which an event may be ahead of the clock; later ones are not scored, for all that follow would
            be late. Only where times are dates.
        most: events in a batch.
        wait: seconds that an event may wait for its batch to be filled.
    """

    id_column: str | None = None
    format: Format | None = None
    output: Format = "jsonl"
    reasons: Literal["all", "alerts", "none"] = "alerts"
    lateness: float = 0.0
    ahead: float = DAY
    most: int = 1000
    wait: float = 0.02

    def __post_init__(self) -> None:
        for name, least in (("lateness", 0), ("ahead", 0), ("most", 1), ("wait", 0)):
            if not getattr(self, name) >= least:
                raise ValueError(f"{name} (={getattr(self, name)}) must be at least {least}")


@dataclass
class Counts:
    """What has come so far.

    Attributes:
        events: that were delivered, those without a score among them.
        alerts: among these.
        late: among these, not scored because their series had gone on.
        refused: among these, not scored because they could not be read.
        again: that had been delivered before, and were left out.
        notices: what should be said once each.
    """

    events: int = 0
    alerts: int = 0
    late: int = 0
    refused: int = 0
    again: int = 0
    notices: list[str] = field(default_factory=list)


def run(
    detector: Detector,
    store: Store,
    source: Source,
    target: Target,
    policy: Policy | None = None,
    *,
    stop: threading.Event | None = None,
    watch: Callable[[Counts], None] = lambda counts: None,
) -> Counts:
    """Score events until the source ends.

    Args:
        detector: that scores.
        store: of this detector, or new.
        source: of the events.
        target: of the scores, the one that the store was used with before.
        policy: how events are taken; the default when None.
        stop: set to end after the batch under way; what is held for the sake of order is scored first.
        watch: told after every batch, and now and then while nothing comes.

    Returns:
        What has come.

    Raises:
        StoreError: the store cannot be used; nothing is lost, and the same call goes on.
        TargetError: the scores cannot be written; likewise.
        OSError: the source cannot be read; likewise.
        TableError: the header of the input is refused.
    """
    policy, stop = policy or Policy(), stop or threading.Event()
    try:
        standing = store.begin(detector.identity)
        work = Work(detector, store, target, policy, target.begin(standing))
        with one_thread():
            for lines in source.groups(policy.most, policy.wait, stop):
                work.take(lines)
                watch(work.counts)
            work.finish()
        watch(work.counts)
        return work.counts
    finally:
        store.close()
        target.close()


class Work:
    """A run under way.

    Args:
        detector: that scores.
        store: begun.
        target: begun.
        policy: how events are taken.
        at: bytes of the output so far.
    """

    def __init__(self, detector: Detector, store: Store, target: Target, policy: Policy, at: int) -> None:
        self.detector, self.store, self.target, self.policy, self.at = detector, store, target, policy, at
        self.reader = Reader(policy.id_column, policy.format)
        self.held = Held(policy.lateness)
        self.counts = Counts()
        self.noticed: set[str] = set()
        self.since = time.monotonic()
        self.columns = ["id", "entity", "time", "score", "alert",
                        *(SCORE + feature.name for feature in detector.features if feature.scored), "not_scored",
                        *([] if policy.reasons == "none" else ["reason"])]  # fmt: skip

    def take(self, lines: Sequence[Line]) -> None:
        """Score what lines bring, and what need not be held any more."""
        events = self.reader.read(lines)
        if lines:
            self.since = time.monotonic()
        if self.policy.lateness:
            idle = time.monotonic() - self.since > self.policy.lateness
            events = [*self.hold(events), *self.held.released(everything=idle)]
        self.notice(events)
        self.score(events)

    def finish(self) -> None:
        """Score what is held, and note that all was delivered, so that nothing need be written again."""
        self.score(self.held.released(everything=True))
        if self.counts.events:
            self.target.settle()
            self.store.commit(Batch((), (), Standing(b"", self.at)))

    def hold(self, events: Sequence[Arrival]) -> list[Arrival]:
        """Hold events; those that cannot be held, because they cannot be read or are too far ahead, are given back."""
        rest = [event for event in events if event.problem]
        readable = [event for event in events if not event.problem]
        for places, table in tables(self.detector, readable):
            if not isinstance(table, EventTable):
                rest += [readable[place] for place in places]
                continue
            for place, seconds, ahead in zip(places, table.seconds.tolist(), self.ahead(table).tolist(), strict=True):
                if ahead:
                    rest.append(readable[place])
                else:
                    self.held.add(readable[place], seconds)
        return rest

    def notice(self, events: Sequence[Arrival]) -> None:
        """Say once of each column that it is not read, or not there; the first event of a batch stands for it."""
        names = {name for event in events[:1] for name in event.cells}
        if not names:
            return
        wanted = columns_of(self.detector)
        extra = sorted(names - {*wanted, self.policy.id_column})
        said = [f"column {name[:40]!r} is not one of the model's, and is not read" for name in extra]
        said += [f"column {name!r} is not there: it counts as missing" for name in wanted if name not in names]
        new = [sentence for sentence in said if sentence not in self.noticed][: MOST_NOTICES - len(self.noticed)]
        self.noticed.update(new)
        self.counts.notices += new

    def score(self, events: Sequence[Arrival]) -> None:
        """Score events, keep what they leave behind, and deliver their scores."""
        if not events:
            return
        first: dict[str, Arrival] = {}
        for event in events:
            first.setdefault(event.id, event)
        self.counts.again += len(events) - len(first)
        events = list(first.values())
        fetched = self.store.fetch([event.id for event in events], keys_of(self.detector, events))
        self.counts.notices += [
            f"what was kept of {key[:40]!r} is damaged: it is put aside in the store, and its history begins anew"
            for _, key in fetched.damaged
        ]
        new = [event for event in events if event.id not in fetched.seen]
        self.counts.again += len(events) - len(new)
        if not new:
            return
        refused = [(event, event.problem) for event in new if event.problem]
        readable = [event for event in new if not event.problem]
        after: list[dict[str, bytes]] = [{} for _ in fetched.rows]
        lines: dict[str, bytes] = {}
        for places, table in tables(self.detector, readable):
            here = [readable[place] for place in places]
            if not isinstance(table, EventTable):
                refused.append((here[0], str(table)))
                continue
            ahead = self.ahead(table)
            refused += [(here[place], FAR_AHEAD) for place in np.flatnonzero(ahead)]
            kept = np.flatnonzero(~ahead)
            if kept.size:
                here, table = [here[place] for place in kept], part_of(table, kept) if ahead.any() else table
                lines |= self.lines_of(here, self.step(table, fetched.rows, after))
        lines |= self.lines_of([event for event, _ in refused], self.unscored(refused))
        self.counts.refused += len(refused)
        self.deliver(new, lines, after)

    def ahead(self, table: EventTable) -> np.ndarray:
        """Which events are too far ahead of the clock: (rows,) bool."""
        if not table.time.dtype.is_temporal():
            return np.zeros(len(table.codes), dtype=bool)
        return table.seconds > time.time() + self.policy.ahead

    def step(
        self, table: EventTable, before: Sequence[dict[str, bytes]], after: Sequence[dict[str, bytes]]
    ) -> pl.DataFrame:
        """Score a table, and note in `after` what its series leave behind."""
        known = [ChainMap(new, old) for new, old in zip(after, before, strict=True)]
        step = advanced(self.detector, known, table, words=self.policy.reasons)
        for new, rows in zip(after, step.rows, strict=True):
            new.update(rows)
        self.counts.alerts += int(step.frame["alert"].sum())
        self.counts.late += step.late
        return step.frame

    def unscored(self, refused: Sequence[tuple[Arrival, str]]) -> pl.DataFrame:
        """What is said of events that could not be read."""
        schema = self.detector.schema
        return pl.DataFrame(
            {
                "entity": [event.cells.get(schema.entity) for event, _ in refused],
                "time": [event.cells.get(schema.time) for event, _ in refused],
                "alert": [False] * len(refused),
                "not_scored": [why for _, why in refused],
            },
            schema_overrides={"entity": pl.String, "time": pl.String, "alert": pl.Boolean, "not_scored": pl.String},
        )

    def lines_of(self, events: Sequence[Arrival], frame: pl.DataFrame) -> dict[str, bytes]:
        """The output of events by their ids, from a frame with a row for each."""
        if not events:
            return {}
        ids = [event.id for event in events]
        there = {"id", *frame.columns}
        frame = frame.with_columns(id=pl.Series(ids)).with_columns(
            pl.lit(None).alias(name) for name in self.columns if name not in there
        )
        return dict(zip(ids, as_lines(frame.select(self.columns), self.policy.output), strict=True))

    def deliver(self, events: Sequence[Arrival], lines: dict[str, bytes], rows: Sequence[dict[str, bytes]]) -> None:
        """Keep a batch, and then write it."""
        output = b"".join(lines[event.id] for event in events)
        if self.at == 0 and self.policy.output == "csv":
            output = ",".join(self.columns).encode() + b"\n" + output
        self.target.settle()
        standing = Standing(output, self.at)
        self.store.commit(Batch([event.id for event in events], rows, standing))
        self.target.write(output)
        self.at += len(output)
        self.counts.events += len(events)


def as_lines(frame: pl.DataFrame, output: Format) -> list[bytes]:
    """Each row of a frame as a line, with its end; in CSV a line break in a text becomes a space."""
    text = io.BytesIO()
    if output == "jsonl":
        frame.write_ndjson(text)
    else:
        frame.with_columns(pl.col(pl.String).str.replace_all(r"[\r\n]", " ")).write_csv(text, include_header=False)
    return text.getvalue().splitlines(keepends=True)
