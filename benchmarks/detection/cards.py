"""Card transactions of the Fraud Detection Handbook (Le Borgne et al. 2022), by its protocol.

Day 0 is 2018-04-01. Seven days train, in the seven after them their frauds become known, and seven more are judged.
A card with a fraud that was known by then is left out: it would have been blocked.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
import polars as pl

from benchmarks.detection.past import Timeline, since_last
from benchmarks.detection.tasks import LABEL, TIME, Task, data

START, TRAIN_FROM = datetime(2018, 4, 1), datetime(2018, 7, 25)
WEEK = timedelta(days=7)
NIGHT_UNTIL = 6  # the hour, as the handbook has it
WINDOWS = (1, 7, 30)  # days
PER_DAY = 100


def load() -> pl.DataFrame:
    """All transactions in time order: customer, terminal, time, amount, label."""
    frame = pl.read_parquet(data("fdh_simulated.parquet")).sort("t", maintain_order=True)
    return frame.select(
        "customer",
        "terminal",
        (pl.lit(START) + pl.duration(seconds="t")).alias(TIME),
        (pl.col("cents") / 100).alias("amount"),
        (pl.col("scenario") > 0).alias(LABEL),
    )


def without_labels(events: pl.DataFrame, weeks_later: int = 0, share_of_cards: float = 1.0) -> Task:
    """No label is used anywhere: amounts and times alone.

    Args:
        events: of `load`.
        weeks_later: by how much the whole protocol is moved.
        share_of_cards: how many of them there are, in hundredths.
    """
    start = TRAIN_FROM + weeks_later * WEEK
    events = events.filter(pl.col(TIME) < start + 3 * WEEK)
    if share_of_cards < 1:
        events = events.filter(pl.col("customer") % 100 < 100 * share_of_cards)  # numbers mean nothing
    return Task(
        name="cards, no labels",
        events=events,
        keys=("customer",),
        values=("amount",),
        train_until=start + WEEK,
        test_from=start + 2 * WEEK,
        judged=judged(events, start),
        kept=np.ones(events.height, dtype=bool),
        train_from=start,
        upper=("amount",),
        unscored=("time_since_last",),
        rules={"amount alone": ("amount", 1.0)},
        per_day=PER_DAY,
    )


def delayed_labels(events: pl.DataFrame, weeks_later: int = 0, share_of_cards: float = 1.0) -> Task:
    """A fraud is known a week later, and enters as an event; nobody learns from labels."""
    task = without_labels(events, weeks_later, share_of_cards)
    return replace(
        task, name="cards, delayed labels", keys=("customer", "terminal"), label_delay=WEEK, aggregates=aggregates,
        unscored=("time_since_last", "time_since_last_by_terminal"),
    )  # fmt: skip


def supervised(events: pl.DataFrame, weeks_later: int = 0, share_of_cards: float = 1.0) -> Task:
    """The labels of the training week are learnt, on the handbook's 15 figures."""
    task = delayed_labels(events, weeks_later, share_of_cards)
    columns = pl.DataFrame(aggregates(task), schema=list(AGGREGATES))
    return replace(
        task, name="cards, supervised", supervised=True, values=AGGREGATES, upper=(), rules=task.rules,
        events=task.events.with_columns(columns),
    )  # fmt: skip


def raw_supervised(events: pl.DataFrame, weeks_later: int = 0, share_of_cards: float = 1.0) -> Task:
    """Labels are learnt, and the sequence alone must carry the history."""
    return replace(
        delayed_labels(events, weeks_later, share_of_cards),
        name="cards, raw supervised",
        supervised=True,
        aggregates=raw,
    )


def judged(events: pl.DataFrame, start: datetime) -> np.ndarray:
    """The transactions of the test week, but for cards with a fraud in the training week or known by that day."""
    days = (events[TIME] - start).dt.total_days().to_numpy()
    cards, fraud = events["customer"].to_numpy(), events[LABEL].to_numpy()
    known = set(cards[fraud & (days >= 0) & (days < 7) & (events[TIME] >= start).to_numpy()])
    kept = np.zeros(len(cards), dtype=bool)
    for day in range(7):
        known |= set(cards[fraud & (days == 6 + day)])
        kept |= (days == 14 + day) & ~np.isin(cards, list(known))
    return kept


AGGREGATES = (
    "amount", "weekend", "night",
    *(f"customer_{what}_{days}" for days in WINDOWS for what in ("count", "mean")),
    *(f"terminal_{what}_{days}" for days in WINDOWS for what in ("count", "risk")),
)  # fmt: skip
"""The handbook's figures: 14 of customer, terminal and calendar, and the amount."""


def aggregates(task: Task) -> np.ndarray:
    """The figures of `AGGREGATES`: (rows, 15). The terminal's are a week old, when its frauds are known."""
    amount, seconds = task.numbers()[:, task.values.index("amount")], task.seconds
    hour = task.events[TIME].dt.hour().to_numpy()
    weekend = task.events[TIME].dt.weekday().to_numpy() >= 6
    columns = [amount, weekend, hour <= NIGHT_UNTIL]
    customer = Timeline(task.codes("customer"), seconds, task.kept)
    there = ~np.isnan(amount)
    for days in WINDOWS:
        columns += [customer.sums(days), mean(customer.sums(days, amount), customer.sums(days, there * 1.0))]
    terminal = Timeline(task.codes("terminal"), seconds, task.kept)
    for days in WINDOWS:
        count = terminal.sums(days, delay=7)
        columns += [count, mean(terminal.sums(days, task.labels * 1.0, delay=7), count)]
    return np.stack(columns, 1).astype(np.float64)


def raw(task: Task) -> np.ndarray:
    """What a single transaction shows, and the time since the last: (rows, 4)."""
    hour = task.events[TIME].dt.hour().to_numpy() + task.events[TIME].dt.minute().to_numpy() / 60
    weekday = task.events[TIME].dt.weekday().to_numpy()
    gap = since_last(task.codes("customer"), task.seconds, task.kept)
    return np.stack([task.numbers()[:, 0], hour, weekday, gap], 1)


def mean(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    """0 where there is nothing, as the handbook has it."""
    return total / np.maximum(count, 1)
