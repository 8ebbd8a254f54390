"""Fit a detector on a table of events, and score tables with it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from gapcell.detect.baselines import compare
from gapcell.detect.calibration import distances
from gapcell.detect.columns import listed
from gapcell.detect.events import EventTable, part_of, read_table
from gapcell.detect.explanations import Explanation, explanation, one_row
from gapcell.detect.features import GAP, Encoded, Encoder
from gapcell.detect.heads import Tail, Targets, candidate_heads
from gapcell.detect.metrics import evaluate
from gapcell.detect.model import Sequences, one_thread
from gapcell.detect.model_file import load_state, save_state
from gapcell.detect.options import FitOptions
from gapcell.detect.reasons import expectation_columns, reasons
from gapcell.detect.refusals import TableError
from gapcell.detect.results import Comparison, Detection, Progress, Split, Summary, silent
from gapcell.detect.scoring import Scored, band, bands, score_events, score_table
from gapcell.detect.silence import silences
from gapcell.detect.state import Schema, State
from gapcell.detect.times import MILLISECONDS, SECONDS, YMD, parse_times
from gapcell.detect.training import Material, fit_predictor


class Detector(State):
    """A fitted detector, made by `fit` or `Detector.load`; its attributes are those of `State`."""

    def read(self, source: str | Path | pl.DataFrame, *, label: str | None = None) -> EventTable:
        """Read a table with the columns this detector was fitted on; a single event will do.

        Raises:
            TableError: naming the column and the first bad row.
        """
        schema = self.schema
        form = schema.time_form if schema.time_form in (SECONDS, MILLISECONDS, YMD) else None
        return read_table(
            source, entity=schema.entity, time=schema.time, values=schema.columns, label=label, numbers_as=form
        )

    @one_thread()
    def score(self, table: EventTable, *, top: int = 20) -> Detection:
        """Score every event of a table, each from the events of its entity that the table has before it.

        Args:
            table: read with `self.read`, or with `read_table` and the same columns.
            top: how many of the highest alerts `Detection.top` has.

        Raises:
            TableError: when a column the detector was fitted on is missing or of another kind.
        """
        self.check(table)
        encoded = self.encoder.encode(table)
        frame = self.frame(table, score_table(self.predictor, encoded, table, explained=True))
        highest = highest_alerts(frame, top)
        metrics = None
        if table.label is not None:
            test = frame["part"] == "test"
            metrics = evaluate(frame["score"].filter(test), table.label.filter(test), self.options.budget)
        return Detection(
            frame=frame,
            table=table,
            features=self.features,
            threshold=self.threshold,
            budget=self.options.budget,
            split=self.split,
            epochs=self.epochs,
            lengths=Summary.of(np.diff(table.starts).astype(float)),
            gaps=Summary.of(table.since_last()),
            no_history=len(table.starts) - 1,
            unscored=frame["score"].null_count(),
            top=highest,
            bands=self.bands(table, Sequences.of(encoded), highest["row"].to_list()),
            metrics=metrics,
            notes=self.notes(frame),
            common=self.common(table),
            distances=self.distances(table, encoded, frame),
        )

    @one_thread()
    def explain(self, table: EventTable, row: int) -> Explanation:
        """Explain one event of a table: every feature against what was expected of it; as text it is the reason.

        Args:
            table: as for `score`.
            row: place of the event in the table, from 0.

        Raises:
            IndexError: when the table has no such row.
            TableError: as `score`.
        """
        row = one_row(row, table.reading.rows)
        rows = table.rows_of(int(table.codes[row]))
        series, place = part_of(table, rows), int(np.flatnonzero(rows == row)[0])
        found = self.score(series, top=0)
        ranges = self.bands(series, Sequences.of(self.encoder.encode(series)), [place])
        return replace(explanation(replace(found, bands=ranges), place), row=row)

    @one_thread()
    def silence(self, table: EventTable, at: str | float | None = None) -> pl.DataFrame:
        """How unlikely it is that each entity has been silent for so long.

        Silence is something else than a missing value: it is scored by the predicted time to the entity's next event,
        which a missing value neither lengthens nor shortens.

        Args:
            table: as for `score`.
            at: the time to look from (ISO 8601 text, or a number of seconds), the last of the table when None. Later
                events are not looked at, and entities without an earlier one are left out.

        Returns:
            One row an entity, the unlikeliest silence first: entity, last (time of its last event), waited (Float64,
            seconds since), score (Float64, -log of the probability of waiting at least so long) and reason (String).

        Raises:
            TableError: as `score`, and when no event lies at or before `at`.
        """
        self.check(table)
        until = float(table.seconds.max()) if at is None else moment_of(table, at, "at")
        return silences(self.predictor, self.encoder, table, until)

    @one_thread()
    def compare(self, table: EventTable, *, progress: Progress = silent) -> Comparison:
        """Inject anomalies into the test part of the table it was fitted on, and measure it beside simpler detectors.

        Raises:
            TableError: when no entity has events both before and in the test part.
        """
        self.check(table)
        return compare(self, table, progress)

    def save(self, path: str | Path) -> None:
        """Write the detector to a folder, as detector.json and detector.safetensors; each appears whole.

        Raises:
            OSError: when the folder cannot be made or written to.
        """
        save_state(self, Path(path))

    @classmethod
    def load(cls, path: str | Path) -> Detector:
        """Read a detector from a folder; its scores are those of the one that was saved.

        Raises:
            ModelError: when a file is missing, damaged, or not of this kind; the message is one sentence.
        """
        return cls(**vars(load_state(Path(path))))

    def check(self, table: EventTable) -> None:
        """Refuse a table with other columns, or with times of another sort."""
        columns = {column.name: column for column in table.reading.columns}
        for column in self.schema.columns:
            if column.name not in columns:
                raise TableError(
                    f"the table has no value column {column.name!r}, which the detector was fitted on: "
                    f"it has {listed(list(columns))}"
                )
            kind = columns[column.name].kind
            if kind != column.kind:
                raise TableError(f"column {column.name!r} is {kind} here and was {column.kind} when the detector was "
                                 "fitted: read the table with Detector.read")  # fmt: skip
        if self.encoder.weekdays != (table.time.dtype != pl.Float64):
            was, here = ("dates", "numbers of seconds") if self.encoder.weekdays else ("numbers of seconds", "dates")
            raise TableError(f"time column {table.reading.time!r} holds {here} where the detector was fitted on {was}")

    def frame(self, table: EventTable, scored: Scored) -> pl.DataFrame:
        """`Detection.frame`."""
        score = pl.Series(scored.score).fill_nan(None)
        features = self.features
        names = np.array([feature.name for feature in features] + [None], dtype=object)
        columns = {
            "entity": table.entity,
            "time": table.time,
            "score": score,
            "alert": (score > self.threshold).fill_null(value=False),
            "part": pl.Series(self.split.parts(table.seconds).tolist(), dtype=pl.String),
            "history": table.earlier(),
            "feature": pl.Series(names[scored.feature].tolist(), dtype=pl.String),
            "reason": reasons(table, self.encoder.features, features, scored),
        }
        for number, feature in enumerate(features):
            columns[f"score_own_{feature.name}"] = pl.Series(scored.own[:, number]).fill_nan(None)
            columns[f"score_population_{feature.name}"] = pl.Series(scored.population[:, number]).fill_nan(None)
        return pl.DataFrame(columns)

    def bands(self, table: EventTable, sequences: Sequences, rows: list[int]) -> pl.DataFrame:
        """`Detection.bands` for the entities of these rows."""
        codes = np.unique(table.codes[rows]) if rows else np.empty(0, dtype=np.int64)
        found = bands(self.predictor, sequences, table.starts[codes], table.starts[codes + 1])
        frame = pl.DataFrame({"row": pl.Series([], dtype=pl.Int64)})
        for number, ends in found.items():
            columns = expectation_columns(table, self.encoder.features[number], ends[:, 1], ends[:, 2])
            each = pl.DataFrame({"row": table.order[ends[:, 0].astype(np.int64)], **columns})
            frame = frame.join(each, on="row", how="full", coalesce=True)
        return frame.sort("row")

    def distances(self, table: EventTable, encoded: Encoded, frame: pl.DataFrame) -> pl.DataFrame:
        """`Detection.distances`."""
        part = "test" if (frame["part"] == "test").any() else "held-out"
        judged = (frame["part"] == part).to_numpy()[table.order]
        series = table.starts[:-1], table.starts[1:]
        return distances(self.predictor, Sequences.of(encoded), Targets.of(encoded), series, judged, self.options.seed)

    def common(self, table: EventTable) -> pl.DataFrame:
        """`Detection.common`."""
        columns = {}
        for spec, head in zip(self.encoder.features, self.predictor.common, strict=True):
            ends = band(head, head.of(self.predictor.population)[None])
            columns |= expectation_columns(table, spec, *ends)
        return pl.DataFrame(columns)

    def notes(self, frame: pl.DataFrame) -> tuple[str, ...]:
        """What should be said about the threshold and the alerts."""
        budget, events = self.options.budget, self.threshold_events
        said = [
            f"the threshold leaves a share of {budget:g} of {events:,} held-out scores above it, which no fit has seen"
        ]
        if budget * events < 1:
            said = [
                f"{events:,} held-out events are too few for a budget of 1 in {1 / budget:,.0f}: the threshold is "
                "their highest score, or what the budget is under a perfect model where that is higher"
            ]
        test = frame.filter(pl.col("part") == "test")
        if test.height:
            alerts = int(test["alert"].sum())
            said.append(f"{alerts:,} of {test.height:,} test events alert, where the budget allows "
                        f"{budget * test.height:,.1f}")  # fmt: skip
        return tuple(said)


def highest_alerts(frame: pl.DataFrame, top: int) -> pl.DataFrame:
    """`Detection.top`: the highest alerts of the test part, or of all parts when none is in the test part."""
    parts = [name for name in frame.columns if name.startswith(("score_own_", "score_population_"))]
    alerts = frame.drop(parts).with_columns(row=pl.int_range(pl.len(), dtype=pl.Int64)).filter("alert")
    test = alerts.filter(pl.col("part") == "test")
    return (test if test.height else alerts).sort("score", descending=True, maintain_order=True).head(top)


@one_thread()
def fit(table: EventTable, options: FitOptions | None = None, *, progress: Progress = silent) -> Detector:
    """Fit a detector on a table of events.

    Time is cut into train | held-out | test. Scaling, categories, population and network see the training part; the
    first half of the held-out events chooses the epoch and the families of the heads, and the second half, which chose
    nothing, sets the threshold: the quantile of its scores that leaves the budget above it, and where they are too few
    for that, their highest, but no less than -log(budget). Nothing is fitted on the test part. Events of the other
    parts are scored and may alert too; `part` tells them apart.

    Raises:
        TableError: when there is too little to learn from, or `upper` or `lower` names no numeric feature.
    """
    options = options or FitOptions()
    tails = choose_tails(table, options)
    split = cut_time(table, options)
    encoder = Encoder.fit(table, table.seconds < split.train_until, options.max_categories)
    encoded = encoder.encode(table)
    material = Material(
        Sequences.of(encoded), Targets.of(encoded), table.seconds[table.order], table.starts, split,
        encoder.features, candidate_heads(encoder.features, options.mixture_components),
    )  # fmt: skip
    check_enough(material, options)
    predictor, fitted = fit_predictor(material, options, tails, progress)
    until = material.ends(split.test_from)
    scored = score_events(predictor, material.sequences, material.targets, table.starts[:-1], until)
    held_out = scored.score[(material.seconds >= split.threshold_from) & (material.seconds < split.test_from)]
    held_out = held_out[~np.isnan(held_out)]
    progress("scores", 1, 1)
    if held_out.size == 0:
        raise TableError("no held-out event can be scored, so there is no threshold: leave more time between "
                         "train_until and test_from")  # fmt: skip
    threshold = float(np.quantile(held_out, 1 - options.budget, method="higher"))
    if options.budget * held_out.size < 1:
        threshold = max(threshold, -math.log(options.budget))
    schema = Schema(table.reading.entity, table.reading.time, table.reading.time_form, table.reading.columns)
    return Detector(schema, options, encoder, predictor, split, threshold, held_out.size, fitted.epochs)


def choose_tails(table: EventTable, options: FitOptions) -> tuple[Tail, ...]:
    """Which side of each feature is anomalous; the last feature is the time since the last event."""
    numeric = [column.name for column in table.reading.columns if column.kind == "numeric"] + [GAP]
    for option, names in (("upper", options.upper), ("lower", options.lower)):
        for name in names:
            if name not in numeric:
                raise TableError(f"{option} names {name!r}, which is no numeric feature: there are {listed(numeric)}")
    names = [column.name for column in table.reading.columns] + [GAP]
    return tuple(
        "upper" if name in options.upper else "lower" if name in options.lower else "two-sided" for name in names
    )


def cut_time(table: EventTable, options: FitOptions) -> Split:
    """Where time is cut: at the stated times, or so that the parts have the stated shares of the events."""
    seconds = np.sort(table.seconds)
    if seconds[0] == seconds[-1]:
        what = "holds a single event" if len(seconds) == 1 else "has all its events at one time"
        raise TableError(f"the table {what}: a detector learns from earlier events and needs later ones")
    train_until = seconds[int(options.train_share * len(seconds))]
    test_from = seconds[min(math.ceil((1 - options.test_share) * len(seconds)), len(seconds) - 1)]
    if options.train_until is not None:
        train_until = moment_of(table, options.train_until, "train_until")
    if options.test_from is not None:
        test_from = moment_of(table, options.test_from, "test_from")
    held_out = seconds[(seconds >= train_until) & (seconds < test_from)]
    if held_out.size == 0 or seconds[0] >= train_until:
        empty = "training" if seconds[0] >= train_until else "held-out"
        raise TableError(f"the {empty} part is empty: no event lies there in time column {table.reading.time!r}; "
                         "choose train_until and test_from (or the shares) so that each part has events")  # fmt: skip
    middle = float(held_out[len(held_out) // 2])
    if middle == held_out[0]:  # one time has most of them: all of them choose, and those after it set the threshold
        later = held_out[held_out > middle]
        middle = float(later[0]) if later.size else middle
    return Split(float(train_until), middle, float(test_from))


def moment_of(table: EventTable, time: str | float, name: str) -> float:
    """A time given as an option, in seconds as the table has them."""
    if isinstance(time, str):
        if table.time.dtype == pl.Float64:
            raise TableError(f"{name} (={time!r}) is a date, but time column {table.reading.time!r} holds seconds")
        return float(parse_times(pl.Series(name, [time])).seconds[0])
    return float(time)


def check_enough(material: Material, options: FitOptions) -> None:
    """Refuse a table in which no entity has enough events to learn from."""
    counts = material.ends(material.split.train_until) - material.starts[:-1]
    if counts.max(initial=0) < options.min_events:
        raise TableError(
            f"no entity has {options.min_events} events in the training part, the most is {counts.max(initial=0)}: "
            "lower min_events or give a longer table"
        )
