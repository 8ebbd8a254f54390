"""Orders of a UK shop (UCI Online Retail): which are at least half reversed within 30 days?

A reversed order is no fraud. Cancellations are no events here (as events of the stream they were tried on orders before
2011-07-01, and found less); what was cancelled before an order is among its figures.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
import polars as pl

from benchmarks.detection.past import Running, Timeline, since_last
from benchmarks.detection.tasks import LABEL, TIME, Task, data

TRAIN_UNTIL, TEST_FROM, TEST_UNTIL = datetime(2011, 7, 1), datetime(2011, 8, 1), datetime(2011, 11, 9)
KNOWN_AFTER = timedelta(days=30)
WINDOWS = (7, 30, 90)  # days


def load() -> pl.DataFrame:
    """Orders in time order: customer, time, lines, pieces, price (of a piece), amount, cancellation, label."""
    frame = pl.read_parquet(data("online_retail_orders.parquet")).sort("t", "invoice", maintain_order=True)
    return frame.select(
        "customer",
        pl.col("t").cast(pl.Datetime("us")).alias(TIME),
        pl.col("n_lines").alias("lines"),
        pl.col("qty").alias("pieces"),
        (pl.col("gbp") / pl.col("qty")).alias("price"),
        pl.col("gbp").alias("amount"),
        pl.col("cancel").alias("cancellation"),
        pl.when("label_mature").then("label").alias(LABEL),
    )


def unsupervised(
    events: pl.DataFrame,
    train_until: datetime = TRAIN_UNTIL,
    test_from: datetime = TEST_FROM,
    test_until: datetime = TEST_UNTIL,
) -> Task:
    """No label is used: small orders of dear things stand out.

    Args:
        events: of `load`.
        train_until, test_from, test_until: where time is cut.
    """
    events = events.filter(pl.col(TIME) < test_until)
    order = ~events["cancellation"]
    judged = order & (events[TIME] >= test_from) & events[LABEL].is_not_null()
    return Task(
        name="orders",
        events=events,
        keys=("customer",),
        values=("lines", "pieces", "price"),
        train_until=train_until,
        test_from=test_from,
        judged=judged.to_numpy(),
        kept=order.to_numpy(),
        upper=("price",),
        lower=("lines", "pieces"),
        unscored=("time_since_last",),
        rules={"amount alone": ("amount", 1.0), "few lines": ("lines", -1.0)},
        label_delay=None,
        aggregates=aggregates,
    )


def supervised(events: pl.DataFrame) -> Task:
    """Labels of the training part are learnt; a reversed order is known 30 days later."""
    return replace(unsupervised(events), name="orders, supervised", supervised=True, label_delay=KNOWN_AFTER)


def by_month(events: pl.DataFrame, month: int) -> Task:
    """One month of 2011 judged, with the month before it held out."""
    return unsupervised(
        events, datetime(2011, month - 1, 1), datetime(2011, month, 1), datetime(2011, month + 1, 1)
    )  # fmt: skip


def aggregates(task: Task) -> np.ndarray:
    """The order, and what its customer did before it: (rows, figures), NaN where unknown."""
    codes, seconds, values = task.codes(), task.seconds, task.numbers()
    running = Running.of(codes, seconds, task.kept, values)
    columns = [*values.T, *running.mean.T, running.count[:, 0], since_last(codes, seconds, task.kept)]
    orders = Timeline(codes, seconds, task.kept)
    cancelled = Timeline(codes, seconds, task.events["cancellation"].to_numpy())
    for days in WINDOWS:
        columns += [orders.sums(days), cancelled.sums(days)]
    everything, delay = 1000.0, KNOWN_AFTER / timedelta(days=1)
    columns.append(orders.sums(everything, task.labels * 1.0, delay=delay))
    return np.stack(columns, 1)
