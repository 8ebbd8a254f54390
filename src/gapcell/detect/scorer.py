"""The scores of a fitted detector: what it reads of a table, and what it makes of it."""

from __future__ import annotations

import dataclasses
import math
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from gapcell.detect.columns import require_fitted
from gapcell.detect.events import EventTable, read_table
from gapcell.detect.frames import as_polars, is_frame
from gapcell.detect.label_model import label_inputs
from gapcell.detect.model_file import identity_of
from gapcell.detect.refusals import TableError
from gapcell.detect.scoring import Parts, Read, Scored, decide, expected, parts_of
from gapcell.detect.state import State
from gapcell.detect.streams import streams_of
from gapcell.detect.table_files import read_frame
from gapcell.detect.tail_map import worth_of
from gapcell.detect.times import MILLISECONDS, SECONDS, YMD


class Scorer(State):
    """A fitted detector, as far as scores go; its attributes are those of `State`."""

    def read(self, source: str | Path | pl.DataFrame, *, label: str | None = None) -> EventTable:
        """Read a table with the columns this detector was fitted on; a single event will do.

        Raises:
            TableError: naming the column and the first bad row.
        """
        schema = self.schema
        form = schema.time_form if schema.time_form in (SECONDS, MILLISECONDS, YMD) else None
        return read_table(
            source, entity=(schema.entity, *schema.others), time=schema.time, values=schema.columns,
            label=label or (schema.label if self.options.label_delay is not None else None), numbers_as=form,
        )  # fmt: skip

    def read_new(self, events: Any) -> EventTable:
        """Read events that come one by one, whose labels are not known yet unless a column has them."""
        if isinstance(events, EventTable):
            self.check(events)
            return events
        frame = as_polars(events) if is_frame(events) else read_frame(Path(events))
        label = self.schema.label if self.options.label_delay is not None else None
        if label is not None and label not in frame.columns:
            frame = frame.with_columns(pl.lit(None, pl.Boolean).alias(label))
        return self.read(frame)

    def check(self, table: EventTable) -> None:
        """Refuse a table with other columns, or with times of another sort."""
        columns = {column.name: column for column in table.reading.columns}
        require_fitted((column.name for column in self.schema.columns), list(columns))
        for column in self.schema.columns:
            kind = columns[column.name].kind
            if kind != column.kind:
                raise TableError(f"column {column.name!r} is {kind} here and was {column.kind} when the detector was "
                                 "fitted: read the table with Detector.read")  # fmt: skip
        others = set(self.schema.others) - set(table.others.columns)
        if others:
            raise TableError(f"the table is not grouped by {sorted(others)[0]!r}, which the detector was fitted on: "
                             "read it with Detector.read")  # fmt: skip
        if self.options.label_delay is not None and table.label is None:
            raise TableError("the detector reads reports of labels, and the table has none: name the label column, "
                             "empty where a label is not known yet")  # fmt: skip
        if self.encoding.weekdays != (table.time.dtype != pl.Float64):
            was, here = ("dates", "numbers of seconds") if self.encoding.weekdays else ("numbers of seconds", "dates")
            raise TableError(f"time column {table.reading.time!r} holds {here} where the detector was fitted on {was}")

    def reads(self, table: EventTable, until: float = math.inf, wanted: np.ndarray | None = None) -> tuple[Read, ...]:
        """The streams of a table as this detector reads them.

        Args:
            table: as for `score`.
            until: seconds from which on nothing is read.
            wanted: (rows,) bool, True for the events to be judged, the others being history alone; all when None.

        Raises:
            TableError: when a column the detector was fitted on is missing or of another kind.
        """
        self.check(table)
        return tuple(
            Read.of(stream, model.encoding.encode(table, stream), until, wanted)
            for stream, model in zip(streams_of(table, self.options.label_delay), self.streams, strict=True)
        )

    @cached_property
    def identity(self) -> str:
        """A hash of all that decides its scores, in hexadecimal; that of the detector as it is saved and loaded."""
        return identity_of(self)

    def stated(self, rows: int, reads: tuple[Read, ...]) -> Parts:
        """The parts of all streams side by side, as the predictions state them."""
        values = len(self.schema.columns)
        found = []
        for number, (model, read) in enumerate(zip(self.streams, reads, strict=True)):
            # The population's view of a value is the same in every stream, and counts once.
            parts = parts_of(model.predictor, read, rows, common_from=values if number else 0)
            kinds = np.array([feature.kind for feature in model.encoding.features])
            parts.own[:, kinds == "reports"] = np.nan  # many reports are strange even where many were to be expected
            found.append(parts)
        return Parts(
            np.hstack([parts.own for parts in found]),
            np.hstack([parts.population for parts in found]),
            np.hstack([parts.odds for parts in found]),
        )

    def worth(self, stated: Parts) -> Parts:
        """The same parts as what they turned out to be worth."""
        own, population = worth_of(stated.own, self.own_maps), worth_of(stated.population, self.population_maps)
        return Parts(own, population, stated.odds)

    def label_inputs(self, parts: Parts, reads: tuple[Read, ...], rows: np.ndarray) -> np.ndarray:
        """What the model of the labels reads of the events at these rows (n,): (n, K)."""
        sequences, stream = reads[0].sequences, reads[0].stream
        place = np.empty(len(parts.own), dtype=np.int64)
        place[stream.row[stream.happens]] = stream.happens
        at = torch.from_numpy(place[rows])
        seen = torch.where(sequences.observed[at], sequences.inputs[at], 0).numpy()
        return label_inputs(parts.odds[rows], np.concatenate([parts.own[rows], parts.population[rows]], 1), seen)

    def judge(self, table: EventTable, reads: tuple[Read, ...]) -> Scored:
        """The score of every event that is read."""
        return self.decided(self.worth(self.stated(len(table.codes), reads)), reads)

    def decided(self, parts: Parts, reads: tuple[Read, ...]) -> Scored:
        """The score that parts make; by the label's probability where labels are learnt."""
        scored = decide(parts.own, parts.population, self.say)
        if self.labels is None:
            return scored
        surprise = np.full(len(scored.score), np.nan)
        rows = np.flatnonzero(~np.isnan(scored.score))
        surprise[rows] = np.logaddexp(0.0, self.labels.log_odds(self.label_inputs(parts, reads, rows)))  # -log(1 - p)
        return dataclasses.replace(scored, score=np.where(np.isnan(scored.score), np.nan, surprise))

    def explained(self, scored: Scored, reads: tuple[Read, ...]) -> Scored:
        """The same scores with what was expected of each event's deciding feature."""
        found = np.full((len(scored.score), 2), np.nan)
        first = 0
        for model, read in zip(self.streams, reads, strict=True):
            count = len(model.encoding.features)
            inside = (scored.feature >= first) & (scored.feature < first + count)
            wanted = np.where(inside, scored.feature - first, -1)
            here = expected(model.predictor, read, wanted, scored.by_population)
            found[inside] = here[inside]
            first += count
        return dataclasses.replace(scored, low=found[:, 0], high=found[:, 1])
