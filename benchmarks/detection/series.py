"""Series of measurements: the Numenta Anomaly Benchmark (58) and the Application Server Dataset (12 x 19 metrics)."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
import polars as pl

from benchmarks.detection.tasks import LABEL, TIME, Task, data

EPOCH = datetime(2020, 1, 6)  # a Monday; series are laid so that all are cut at one time
PROBATION = 0.15  # of a series, in which Numenta's benchmark judges nobody
HELD_OUT = timedelta(hours=12)
STEP = timedelta(minutes=5)
SERVICES = range(1, 13)
CLEAN = "artificialNoAnomaly"


def numenta(share: float = 1.0) -> Task:
    """Every series scaled by its first 15 %, which is also all there is to learn from.

    Series are moved by whole days, so that hours stay hours and all are cut at about the same time.

    Args:
        share: of the series, the first by name; at least 4.
    """
    frame = pl.read_parquet(data("nab.parquet")).sort("series", "timestamp", maintain_order=True)
    names = frame["series"].unique(maintain_order=True)
    frame = frame.filter(pl.col("series").is_in(names.head(max(4, round(share * len(names)))).implode()))
    place = pl.int_range(pl.len()).over("series")
    frame = frame.with_columns(
        pl.col("series").cast(pl.String), early=place < (PROBATION * pl.len().over("series")).cast(pl.Int64)
    )
    border = pl.col("timestamp").filter("early").max().over("series").dt.truncate("1d")
    typical = pl.col("value").filter("early").median().over("series")
    spread = (pl.col("value").filter("early").quantile(0.75) - pl.col("value").filter("early").quantile(0.25)).over(
        "series"
    )
    events = frame.select(
        "series",
        (pl.col("timestamp") - border + pl.lit(EPOCH)).alias(TIME),
        ((pl.col("value") - typical) / pl.when(spread > 0).then(spread).otherwise(1.0)).alias("value"),
        pl.col("label").alias(LABEL),
        "early",
    )
    events = events.sort(TIME, maintain_order=True)
    return Task(
        name="Numenta",
        events=events.drop("early"),
        keys=("series",),
        values=("value",),
        train_until=EPOCH - HELD_OUT,
        test_from=EPOCH,
        judged=~events["early"].to_numpy(),
        kept=np.ones(events.height, dtype=bool),
        unscored=("time_since_last",),
        rules={"value alone": ("value", 1.0)},
        series=True,
    )


def services(share: float = 1.0) -> Task:
    """Twelve services of nineteen metrics; 30 days without labels, then 15 with.

    Args:
        share: of the services, the first ones; at least 2.
    """
    content = np.load(data("asd_omi12.npz"))
    parts = []
    for number in SERVICES[: max(2, round(share * len(SERVICES)))]:
        train, test = content[f"omi-{number}/train"], content[f"omi-{number}/test"]
        values = np.concatenate([train, test]).astype(np.float64)
        label = np.concatenate([np.zeros(len(train)), content[f"omi-{number}/test_label"]]) > 0
        columns = {f"m{metric:02}": values[:, metric] for metric in range(values.shape[1])}
        steps = pl.int_range(-len(train), len(test), eager=True)
        times = {"service": pl.repeat(f"omi-{number}", len(values), eager=True), "step": steps}
        parts.append(pl.DataFrame(times | columns | {LABEL: label}))
    events = pl.concat(parts).with_columns((pl.lit(EPOCH) + pl.col("step") * STEP).alias(TIME))
    events = events.sort(TIME, maintain_order=True)
    values = tuple(name for name in events.columns if name.startswith("m"))
    first = events[TIME].min()
    return Task(
        name="services",
        events=events.drop("step"),
        keys=("service",),
        values=values,
        train_until=first + 0.8 * (EPOCH - first),
        test_from=EPOCH,
        judged=(events[TIME] >= EPOCH).to_numpy(),
        kept=np.ones(events.height, dtype=bool),
        unscored=("time_since_last",),
        series=True,
    )
