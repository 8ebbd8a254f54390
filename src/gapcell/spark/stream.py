"""Streams, scored as their events come, with a state of each entity that Spark keeps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.streaming import StatefulProcessor, StatefulProcessorHandle

from gapcell.detect import Detector, ModelError, SequenceDetector
from gapcell.detect.online import OnlineState
from gapcell.spark.layout import Layout, column, part_names
from gapcell.spark.saved import SavedDetector, loaded

BUCKETS = 256
BUCKET = "bucket"


def score_stream(
    df: DataFrame,
    detector: Detector | SequenceDetector | str | Path,
    *,
    entity: str | None = None,
    time: str | None = None,
    label: str | None = None,
    keep: str | Sequence[str] = (),
    order: str | Sequence[str] = (),
    buckets: int = BUCKETS,
) -> DataFrame:
    """Score every event of a stream, each from the earlier events of its entity, with `Detector.step`.

    What the next events of an entity are predicted from is a state of some hundred numbers that Spark keeps
    (`transformWithState`, for which the session's store of states must be RocksDB), and recovers with the checkpoint of
    the query. Events of an entity that come in one micro-batch are taken in the order of their times. One that is
    earlier than an event of its entity in an earlier micro-batch is late: it has no score and changes none.

    Args:
        df: a stream, one row an event, with the columns that the detector was fitted on.
        detector: a fitted one, or the folder that one was saved to.
        entity: the column of the entities, where it is not called as in the fit.
        time: the column of the times, likewise. A TIMESTAMP is read as the session shows it.
        label: the column of the labels, likewise; only a detector with `label_delay` reads it.
        keep: further columns of `df` to hand on, such as the events' identifiers.
        order: columns by which events of one moment in one micro-batch are ordered; those that still are level keep the
            order in which Spark hands them over, which is another one after a shuffle.
        buckets: into how many groups the entities are divided, each of which a worker scores in one step: some times as
            many as there are cores. A query that goes on from a checkpoint must have the number that it began with.

    Returns:
        A stream for append mode, with the columns that `score_table` gives.

    Raises:
        TableError: a column is missing, named twice, or of a type that the detector cannot read. A query stops with one
            where a row holds what cannot be read.
        ModelError: there is no detector in the folder. A query stops with one where its states are another detector's.
        ValueError: the detector also groups events by a further key; `df` is no stream; a column that is kept has a
            name of the result; `buckets` is below 1.
        TypeError: `detector` is none.
    """
    if not df.isStreaming:
        raise ValueError("df is a table, all of whose events are there: use score_table")
    if buckets < 1:
        raise ValueError(f"buckets (={buckets}) must be at least 1")
    saved = SavedDetector.of(detector)
    fitted = loaded(saved)
    layout = Layout.of(df, fitted, {"entity": entity, "time": time, "label": label}, keep, order)
    bucket = F.pmod(F.xxhash64(column(layout.entity)), F.lit(buckets))
    return (
        layout.select(df)
        .withColumn(BUCKET, bucket)
        .groupBy(BUCKET)
        .transformWithStateInPandas(
            BucketScorer(saved, layout, buckets), layout.result(df, fitted), outputMode="Append", timeMode="None"
        )
    )


class BucketScorer(StatefulProcessor):
    """What a worker does with the new events of one bucket of entities after the other.

    Entities are scored many at once, as a step costs about as much for one event as for some hundred; what each has
    left behind is a value of its own, so that only those that have new events are read and written.

    Args:
        saved: the detector.
        layout: which column is what.
        buckets: how many there are.
    """

    def __init__(self, saved: SavedDetector, layout: Layout, buckets: int) -> None:
        self.saved = saved
        self.layout = layout
        self.buckets = buckets

    def init(self, handle: StatefulProcessorHandle) -> None:
        """Called by Spark before the first bucket."""
        self.detector = loaded(self.saved)
        self.origin = handle.getValueState("origin", "model STRING, buckets INT")
        self.histories = handle.getMapState("histories", "entity STRING", "history BINARY")

    def handleInputRows(  # noqa: N802  # Spark's name
        self, key: Any, rows: Iterator[Any], timerValues: Any
    ) -> Iterator[pd.DataFrame]:
        """Scores of the new events of a bucket, whose entities' states are kept for the next ones."""
        carried = pd.concat(rows, ignore_index=True)
        if self.layout.order:
            carried = carried.sort_values(list(map(column, self.layout.order)), kind="stable", ignore_index=True)
        events = self.layout.events(carried, self.detector.schema)
        names = events[self.detector.schema.entity].cast(pl.String).drop_nulls().unique().to_list()
        state, scores = self.detector.step(self.known(names), events)
        for name in names:
            self.histories.updateValue((name,), (state.series[0][name],))
        yield self.result(carried, scores)

    def close(self) -> None:
        """Called by Spark after the last bucket."""

    def known(self, names: Sequence[str]) -> OnlineState:
        """What the events that these entities had have left behind.

        Raises:
            ModelError: it is another detector's, or the entities were divided in another way.
        """
        here = (self.detector.identity, self.buckets)
        origin = self.origin.get() or here
        refuse_other(origin, here)
        self.origin.update(here)
        rows = {name: self.histories.getValue((name,)) for name in names}
        return OnlineState(here[0], ({name: bytes(row[0]) for name, row in rows.items() if row is not None},))

    def result(self, carried: pd.DataFrame, scores: pl.DataFrame) -> pd.DataFrame:
        """Rows of the result for events with their scores."""
        layout = self.layout
        names = ("score", "alert", *part_names(self.detector), "not_scored")
        columns = {"entity": carried[column(layout.entity)], "time": carried[column(layout.time)]}
        columns |= {name: scores[name].to_numpy() for name in names}
        columns |= {layout.carried[number]: carried[column(number)] for number in layout.kept}
        return pd.DataFrame(columns)


def refuse_other(origin: tuple[str, int], here: tuple[str, int]) -> None:
    """Refuse to go on from the states of another query: each is (the detector's identity, its number of buckets)."""
    if origin[0] != here[0]:
        raise ModelError(
            f"the checkpoint holds states of the detector {origin[0][:12]}, and this one is {here[0][:12]}: go on with "
            "the former, or begin a new checkpoint, whose stream starts early enough to fill its states"
        )
    if origin[1] != here[1]:
        raise ModelError(f"the checkpoint was begun with buckets={origin[1]}, and these are {here[1]}: its states are "
                         f"found with buckets={origin[1]} only")  # fmt: skip
