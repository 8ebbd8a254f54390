"""Tables of any size, scored entity by entity on Spark's workers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from gapcell.detect import Detector, SequenceDetector, TableError
from gapcell.detect.score_frame import Judged, score_frame
from gapcell.spark.layout import Layout, column
from gapcell.spark.saved import SavedDetector, loaded

EVENTS_AT_ONCE = 50_000
PLACE = "place"
"""The column that says in which order `df` has its rows."""


def score_table(
    df: DataFrame,
    detector: Detector | SequenceDetector | str | Path,
    *,
    entity: str | None = None,
    time: str | None = None,
    label: str | None = None,
    keep: str | Sequence[str] = (),
    order: str | Sequence[str] = (),
    partitions: int | None = None,
    events_at_once: int = EVENTS_AT_ONCE,
) -> DataFrame:
    """Score every event of a table, each from the earlier events of its entity, as `SequenceDetector.score` does.

    The events of an entity come to one partition; a worker loads the detector once, and scores whole entities together,
    `events_at_once` events or a few more. Nothing runs before the result is asked for.

    Args:
        df: one row an event, in any order, with the columns that the detector was fitted on.
        detector: a fitted one, or the folder that one was saved to.
        entity: the column of the entities, where it is not called as in the fit.
        time: the column of the times, likewise. A TIMESTAMP is read as the session shows it.
        label: the column of the labels, likewise; only a detector with `label_delay` reads it.
        keep: further columns of `df` to hand on, such as the events' identifiers.
        order: columns by which events of one moment are ordered; those that still are level keep the order of `df`, as
            far as Spark reads its rows in one.
        partitions: into how many parts the entities are divided; as many as Spark makes of a shuffle when None.
        events_at_once: how many events a worker holds, if no entity has more.

    Returns:
        One row an event, in no order: entity and time as `df` has them, score (DOUBLE, null where nothing could be
        scored), alert (BOOLEAN, never null), score_F (DOUBLE, null where not scored) for each scored feature F,
        not_scored (STRING, which features and why, null when every feature was scored), and the columns of `keep`.

    Raises:
        TableError: a column is missing, named twice, or of a type that the detector cannot read. What single rows hold
            is refused by the job, with the entity that the part of the table begins with.
        ModelError: there is no detector in the folder.
        ValueError: the detector also groups events by a further key; `df` is a stream; a column that is kept has a
            name of the result; `events_at_once` is below 1.
        TypeError: `detector` is none.
    """
    if df.isStreaming:
        raise ValueError("df is a stream, which score_table cannot wait for the end of: use score_stream")
    if events_at_once < 1:
        raise ValueError(f"events_at_once (={events_at_once}) must be at least 1")
    saved = SavedDetector.of(detector)
    fitted = loaded(saved)
    layout = Layout.of(df, fitted, {"entity": entity, "time": time, "label": label}, keep, order)
    rows = layout.select(df).withColumn(PLACE, F.monotonically_increasing_id())
    by = column(layout.entity)
    parted = rows.repartition(by) if partitions is None else rows.repartition(partitions, by)
    ordered = parted.sortWithinPartitions(by, *map(column, layout.order), PLACE).drop(PLACE)
    return ordered.mapInArrow(PartitionScorer(saved, layout, events_at_once), layout.result(df, fitted))


@dataclass(frozen=True)
class PartitionScorer:
    """What a worker does with a partition whose rows are sorted by their entity.

    Attributes:
        saved: the detector.
        layout: which column is what.
        events_at_once: how many events are scored together, if no entity has more.
    """

    saved: SavedDetector
    layout: Layout
    events_at_once: int

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Scores for all rows, in batches of their own sizes."""
        detector = loaded(self.saved)
        for events in whole_entities(batches, column(self.layout.entity), self.events_at_once):
            yield from self.scored(events, detector).to_batches()

    def scored(self, events: pa.Table, detector: Detector) -> pa.Table:
        """The rows of the result for the events of whole entities."""
        layout = self.layout
        try:
            table = detector.read(layout.events(events, detector.schema))
            judged = Judged(table, detector.features, detector.scored(table), detector.threshold)
        except TableError as error:
            first = events.column(layout.entity)[0].as_py()
            raise TableError(f"in the part of the table that begins with entity {first!r}: {error}") from None
        scores = score_frame(judged).drop("entity", "time").to_arrow()
        columns = {"entity": events.column(layout.entity), "time": events.column(layout.time)}
        columns |= {name: plain(scores.column(name)) for name in scores.column_names}
        columns |= {layout.carried[number]: events.column(number) for number in layout.kept}
        return pa.table(columns)


def plain(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """The same values, text of any size as Spark has text."""
    return values.cast(pa.string()) if pa.types.is_large_string(values.type) else values


def whole_entities(batches: Iterable[pa.RecordBatch], entity: str, least: int) -> Iterator[pa.Table]:
    """Rows that are sorted by their entity, in pieces of whole entities.

    Args:
        batches: the rows.
        entity: the column of the entities.
        least: rows of a piece; it ends where the entity ends that brings it there, or up to a batch later.
    """
    held: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        if not batch.num_rows:
            continue
        begins = last_begins(batch.column(entity))
        ends = begins > 0 or (held and held[-1].column(entity)[-1] != batch.column(entity)[0])
        if ends and count + begins >= least:
            yield pa.Table.from_batches([*held, batch.slice(0, begins)])
            held, count, batch = [], 0, batch.slice(begins)
        held.append(batch)
        count += batch.num_rows
    if held:
        yield pa.Table.from_batches(held)


def last_begins(entities: pa.Array) -> int:
    """Where in a batch, whose rows of one entity stand together, the rows of the last entity begin."""
    column = pl.Series(values=entities)
    return int(column.ne_missing(column[-1]).sum())
