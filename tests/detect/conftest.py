"""A small table of purchases with habits, and a detector fitted on it."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime

import numpy as np
import polars as pl
import pytest

from gapcell import native
from gapcell.detect import Detection, Detector, EventTable, FitOptions, fit, read_table

QUICK = FitOptions(encoder="convlstm", hidden_size=8, epochs=8, learning_rate=0.01, budget=0.01, mixture_components=3)
FAST = {**asdict(QUICK), "epochs": 3}
# between scores of the same events beside other ones: the encoders run in float32, whose last digits depend on the
# batch where the kernel is not there
TOLERANCE = 1e-9 if native.active().name != "off" else 1e-4


def purchases(customers: int = 60, events: int = 20, seed: int = 0) -> pl.DataFrame:
    """Customers who keep to their own level, rhythm and channel; a tenth of the amounts and channels are missing."""
    draws = np.random.default_rng(seed)
    rows = customers * events
    who = np.repeat(np.arange(customers), events)
    level, rhythm = draws.normal(4, 2, customers), draws.lognormal(11, 0.7, customers)
    gaps = rhythm[who] * draws.lognormal(0, 0.4, rows)
    seconds = (gaps.reshape(customers, events).cumsum(1) + draws.uniform(0, 1e5, (customers, 1))).ravel()
    usual = np.array(["web", "shop", "phone"])[who % 3]
    channel = np.where(draws.random(rows) < 0.9, usual, draws.choice(["web", "shop", "phone"], rows))
    frame = pl.DataFrame(
        {
            "customer": [f"c{number:03d}" for number in who],
            "time": (seconds * 1e6).astype(np.int64),
            "amount": np.exp(level[who] + draws.normal(0, 0.3, rows)).round(2),
            "channel": channel,
            "gift": draws.random(rows) < 0.1,
        }
    ).with_columns(pl.col("time").cast(pl.Datetime("us")).dt.offset_by("54y"))
    hidden = {name: pl.Series(draws.random(rows) < 0.1) for name in ("amount", "channel")}
    frame = frame.with_columns(pl.when(~gone).then(pl.col(name)).alias(name) for name, gone in hidden.items())
    return frame.sample(fraction=1.0, shuffle=True, seed=seed)  # the file is in no order


def one_customer(**columns: list[object]) -> pl.DataFrame:
    """Six ordinary events of one customer, with these columns put in place."""
    plain = {
        "customer": ["new"] * 6,
        "time": [datetime(2024, 5, 1 + 3 * day, 12) for day in range(6)],
        "amount": [20.0, 25.0, 22.0, 21.0, 24.0, 23.0],
        "channel": ["web"] * 6,
        "gift": [False] * 6,
    }
    return pl.DataFrame(plain | columns, strict=False)


@pytest.fixture(scope="session")
def frame() -> pl.DataFrame:
    return purchases()


@pytest.fixture(scope="session")
def table(frame: pl.DataFrame) -> EventTable:
    return read_table(frame)


@pytest.fixture(scope="session")
def detector(table: EventTable) -> Detector:
    return fit(table, QUICK)


@pytest.fixture(scope="session")
def detection(detector: Detector, table: EventTable) -> Detection:
    return detector.score(table)
