"""What a fit and a scoring give back: plain data for scores.parquet and the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import polars as pl

from gapcell.detect.events import GAP, EventTable

Part = Literal["train", "held-out", "test"]


class Progress(Protocol):
    """Who is told how far the work is.

    Stages are "population", "encoders" and "network"; "fold 1", "fold 2" and "labels" where labels are learnt; then
    "scores" and "report".
    """

    def __call__(self, stage: str, done: int, total: int, message: str = "") -> None:
        """Take note that `done` of `total` are done; the message says how it goes."""
        ...


def silent(stage: str, done: int, total: int, message: str = "") -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True)
class Feature:
    """A scored feature: a column of the table, or the time since the entity's last event, in one of the streams.

    Attributes:
        name: its name; the time since the last event is called "time_since_last". In a further stream "_by_" and the
            stream's key are put behind it.
        kind: "numeric", "categorical", "boolean", "gap" or "reports".
        tail: "two-sided", "upper" or "lower".
        family: the chosen head of the entity's own prediction: "student-t", "mixture", "zero-inflated", "categorical"
            or "bernoulli"; "none" where no history is used.
        population_family: likewise of the population's.
        column: the name without the key.
        stream: the key of a further stream; None in that of the entities.
        scored: False where it is read but has no say in the score.
    """

    name: str
    kind: str
    tail: str
    family: str
    population_family: str
    column: str = ""
    stream: str | None = None
    scored: bool = True


@dataclass(frozen=True)
class Split:
    """Where time is cut, in seconds as `EventTable.seconds`.

    Attributes:
        train_until: events before it train the scaling, the population and the network.
        threshold_from: held-out events before it choose the epoch and the families; those from it on, which chose
            nothing, set the threshold.
        test_from: events from it on are the test part, which nothing was fitted on.
    """

    train_until: float
    threshold_from: float
    test_from: float

    def parts(self, seconds: np.ndarray) -> np.ndarray:
        """The part of each event, as text: (rows,)."""
        return np.select([seconds < self.train_until, seconds < self.test_from], ["train", "held-out"], "test")


@dataclass(frozen=True)
class Epoch:
    """One epoch of training: mean negative log-likelihood of an event's feature on training and held-out events."""

    epoch: int
    train: float
    held_out: float


@dataclass(frozen=True)
class Candidate:
    """An encoder that was tried on a stream.

    Attributes:
        stream: the column that says whose event it is.
        encoder: its name.
        held_out: mean negative log-likelihood of a feature of the held-out events, or of their labels where labels
            are learnt; after a fifth of the epochs, and after all of them for the one that was trained on.
        chosen: True for the one that is used.
    """

    stream: str
    encoder: str
    held_out: float
    chosen: bool


@dataclass(frozen=True)
class Summary:
    """Five numbers and a mean of some quantity (events per entity, or seconds between events); NaN without any."""

    count: int
    minimum: float
    lower_quartile: float
    median: float
    upper_quartile: float
    maximum: float
    mean: float

    @classmethod
    def of(cls, values: np.ndarray) -> Summary:
        """Summarise values (any,); NaN is left out."""
        values = values[~np.isnan(values)]
        if values.size == 0:
            nothing = float("nan")
            return cls(0, nothing, nothing, nothing, nothing, nothing, nothing)
        least, low, middle, high, most = np.quantile(values, [0, 0.25, 0.5, 0.75, 1]).tolist()
        return cls(values.size, least, low, middle, high, most, float(np.mean(values)))


@dataclass(frozen=True)
class Metrics:
    """How well scores find labelled events; `gapcell.detect.metrics` defines them.

    Attributes:
        labelled: events with a known label and a score.
        positives: labelled events that are True.
        average_precision: area under the precision-recall curve; NaN without positives.
        roc_auc: area under the ROC curve; NaN unless both labels occur.
        precision_at_budget: share of True among the budget's highest scores.
        alerts_at_budget: how many scores that is.
        base_rate: share of True; a random score has base_rate, 0.5 and base_rate.
    """

    labelled: int
    positives: int
    average_precision: float
    roc_auc: float
    precision_at_budget: float
    alerts_at_budget: int
    base_rate: float


@dataclass(frozen=True)
class Comparison:
    """Average precision of each method on injected anomalies.

    Attributes:
        frame: columns method (String), kind (String: "amount", "burst", "swap", "all"), average_precision (Float64),
            base_rate (Float64, what a random score has), injected (Int64, anomalous events).
        notes: what was injected and how, each one sentence.
    """

    frame: pl.DataFrame
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Aside:
    """What a detector knows beside the columns of the table and its unsupervised score.

    Attributes:
        derived: what came of features that are neither a column nor the time since the entity's last event, by the
            feature's name, each (rows,) float64 with NaN where there is nothing: the time since the last event of a
            further stream, and recent reports.
        alarm: (rows,) float64, the probability of a true label under a supervised score; None without one.
    """

    derived: Mapping[str, np.ndarray]
    alarm: np.ndarray | None = None


NOTHING_ASIDE = Aside({})


@dataclass(frozen=True, eq=False)
class Detection:
    """Every event scored, and all that a report needs.

    Attributes:
        frame: one row per event, in the order of the table:
            entity, time (as in the table: Datetime, or Float64 seconds),
            score (Float64, null where unscorable), alert (Boolean, never null),
            part (String: "train", "held-out" or "test"), history (Int64, earlier events of the entity),
            feature (String, the feature that decided the score, null where unscorable),
            reason (String, in words; for an unscorable event why),
            and for each feature F: score_own_F and score_population_F (Float64, null where not scored).
        table: the events, for drawing histories.
        features: the scored features.
        threshold: a score above it alerts.
        budget: the stated share of alerts.
        split: where time was cut.
        epochs: the training curve.
        lengths: events per entity.
        gaps: seconds between an entity's events.
        no_history: how many events are the first of their entity.
        unscored: how many events have no score.
        top: the highest alerts of the test part, best first (of all parts when none is in the test part): the columns
            of `frame` but the parts, and `row` (Int64, place in the table).
        bands: for the events of the entities in `top`: row (Int64) and, for each numeric feature F and the gap, low_F
            and high_F (Float64), the range in which the entity's own prediction expected 90 % (in the table's units;
            seconds for time_since_last), and for each other feature F likeliest_F (String, in words) and probability_F.
        common: one row of the same columns, without `row`: what the population expected of every event.
        distances: feature (Int64, its number), events, own and population: how far the events of the test part, or the
            held-out one when there is none, are from what was predicted; `calibration.kolmogorov` defines it.
        aside: what came beside the columns, and the probability under a supervised score.
        metrics: on the test part, when there is a label; else None.
        comparison: injected anomalies, when asked for; else None (`dataclasses.replace` puts it in).
        notes: what else should be said, each one sentence.
        candidates: the encoders that were tried.
    """

    frame: pl.DataFrame
    table: EventTable
    features: tuple[Feature, ...]
    threshold: float
    budget: float
    split: Split
    epochs: tuple[Epoch, ...]
    lengths: Summary
    gaps: Summary
    no_history: int
    unscored: int
    top: pl.DataFrame
    bands: pl.DataFrame
    metrics: Metrics | None = None
    comparison: Comparison | None = None
    notes: tuple[str, ...] = ()
    common: pl.DataFrame = field(default_factory=pl.DataFrame)
    candidates: tuple[Candidate, ...] = ()
    distances: pl.DataFrame = field(default_factory=pl.DataFrame)
    aside: Aside = NOTHING_ASIDE

    def history(self, row: int) -> pl.DataFrame:
        """The whole series of the entity that `row` belongs to, in time order.

        Columns: row (Int64), time, score, alert, part, each feature's value under its own name (null where missing;
        time_since_last in seconds), and the columns of `bands`, null where it does not have the event. A feature that
        has the name of another of these columns gets `value_` put before it.
        """
        rows = self.table.rows_of(int(self.table.codes[row]))
        taken = {"row", "time", "score", "alert", "part", *self.bands.columns}
        columns = {column.name: column.gather(rows) for column in self.table.values}
        derived = {GAP: self.table.since_last(), **self.aside.derived}
        columns |= {name: pl.Series(values[rows]).fill_nan(None) for name, values in derived.items()}
        values = pl.DataFrame({f"value_{name}" if name in taken else name: column for name, column in columns.items()})
        events = self.frame.select("time", "score", "alert", "part")[rows]
        frame = pl.concat([pl.DataFrame({"row": rows}), events, values], how="horizontal")
        return frame.join(self.bands, on="row", how="left", maintain_order="left")

    def scores(self, part: Part) -> pl.Series:
        """The scores (Float64, no nulls) of one part, for drawing their distribution."""
        return self.frame.filter(pl.col("part") == part)["score"].drop_nulls()
