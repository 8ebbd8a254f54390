"""What scoring on Spark costs an event, on this machine's cores: `python -m benchmarks.spark`, for docs/scale.md.

Counted is the processors' time of Spark's own process and of its workers, which other programs on the machine hardly
change, unlike the time that passes. What starts once a query (workers, models, plans) is left out.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from pyspark.sql import DataFrame, SparkSession

from benchmarks.machine import machine, state, versions
from benchmarks.scale import RESULTS
from gapcell.detect import Detector, FitOptions, fit, read_table
from gapcell.detect.simulate import Simulation
from gapcell.spark import score_stream, score_table

CORES = 2
CUSTOMERS, DAYS, FITTED = 9_000, 120, 400
VALUES = ("amount", "category", "distance", "online")
OPTIONS = FitOptions(encoder="convlstm", epochs=3)
MICRO_BATCHES, LEFT_OUT = 8, 2
ROUNDS = 3
SETTINGS = {
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.log.level": "ERROR",
    "spark.driver.host": "127.0.0.1",
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.shuffle.partitions": str(2 * CORES),
    "spark.sql.streaming.stateStore.providerClass": (
        "org.apache.spark.sql.execution.streaming.state.RocksDBStateStoreProvider"
    ),
}


def main() -> None:
    os.environ |= {"PYSPARK_PYTHON": sys.executable, "OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}
    events = Simulation(customers=CUSTOMERS, days=DAYS).frame().select("customer", "time", *VALUES)
    known = events.filter(pl.col("customer").rank("dense") <= FITTED)
    detector = fit(read_table(known, entity="customer", time="time", values=VALUES), OPTIONS)
    found: dict[str, Any] = {"machine": machine(), "versions": with_spark(), "before": state(), "cores": CORES}
    found |= {"events": events.height, "entities": events["customer"].n_unique(), **sizes(detector, events)}
    found |= {"encoder": OPTIONS.encoder, "micro_batch": events.height // MICRO_BATCHES}
    found["whale_bytes"] = of_one_entity(detector, events)
    found["alone"] = per_event(events, best(lambda: detector.scored(detector.read(events))))
    with tempfile.TemporaryDirectory() as folder, session() as spark:
        found["table"] = of_tables(spark, detector, events, Path(folder))
        found["stream"] = of_streams(spark, detector, events, Path(folder))
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


@contextmanager
def session() -> Iterator[SparkSession]:
    """Spark on this machine."""
    builder = SparkSession.builder.master(f"local[{CORES}]")
    for name, value in SETTINGS.items():
        builder = builder.config(name, value)
    spark = builder.getOrCreate()
    yield spark
    spark.stop()


# What is measured: seconds an event, of the time that passed and of the processors -----------------------------------


def of_tables(spark: SparkSession, detector: Detector, events: pl.DataFrame, folder: Path) -> dict[str, float]:
    """Scored as a table that is read from Parquet; the scores are thrown away."""
    in_files(events, folder / "table", 2 * CORES)
    df = spark.read.parquet(str(folder / "table"))
    return per_event(events, best(lambda: score_table(df, detector).write.format("noop").mode("overwrite").save()))


def of_streams(spark: SparkSession, detector: Detector, events: pl.DataFrame, folder: Path) -> dict[str, float]:
    """Scored in micro-batches in the order of time, the first two of which are left out; the scores are thrown away."""
    in_files(events.sort("time"), folder / "stream", MICRO_BATCHES)
    schema = spark.read.parquet(str(folder / "stream")).schema
    source = spark.readStream.schema(schema)
    stream = source.option("maxFilesPerTrigger", 1).parquet(str(folder / "stream"))
    scores = score_stream(stream, detector, buckets=8 * CORES)
    ends = []

    def written(batch: DataFrame, _: int) -> None:
        batch.write.format("noop").mode("overwrite").save()
        ends.append(clocks())

    writer = scores.writeStream.foreachBatch(written).option("checkpointLocation", str(folder / "checkpoint"))
    writer.trigger(availableNow=True).start().awaitTermination()
    counted = events.height * (len(ends) - LEFT_OUT) / MICRO_BATCHES
    return {name: (ends[-1][name] - ends[LEFT_OUT - 1][name]) / counted for name in ends[0]}


def in_files(events: pl.DataFrame, folder: Path, count: int) -> None:
    """Events in so many Parquet files, whose times say in which order a stream reads them."""
    folder.mkdir()
    for number, rows in enumerate(np.array_split(np.arange(events.height), count)):
        path = folder / f"{number}.parquet"
        events[rows[0] : rows[-1] + 1].write_parquet(path)
        os.utime(path, (number, number))


def of_one_entity(detector: Detector, events: pl.DataFrame) -> float:
    """Bytes an event that are resident at most while all events are scored as those of one entity."""
    table = detector.read(events.with_columns(customer=pl.lit("one")))
    status = Path("/proc/self/status")
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the most so far is forgotten

    def kibibytes(name: str) -> int:
        return int(next(line for line in status.read_text("utf-8").splitlines() if line.startswith(name)).split()[1])

    before = kibibytes("VmRSS")
    detector.scored(table)
    return 1024 * (kibibytes("VmHWM") - before) / events.height


def sizes(detector: Detector, events: pl.DataFrame) -> dict[str, float]:
    """Bytes of a model, and of what an entity leaves behind."""
    online, _ = detector.step(None, events.head(1000))
    rows = [len(row) for row in online.series[0].values()]
    with tempfile.TemporaryDirectory() as folder:
        detector.save(folder)
        model = sum(path.stat().st_size for path in Path(folder).iterdir())
    return {"model_bytes": model, "state_bytes": statistics.mean(rows)}


def with_spark() -> dict[str, str]:
    """Versions of what is measured."""
    found = {name: version for name, version in versions().items() if name in ("gapcell", "python", "torch")}
    return found | {name: importlib.metadata.version(name) for name in ("pyspark", "polars", "pyarrow", "pandas")}


def best(work: Callable[[], object]) -> dict[str, float]:
    """Clocks of the round that took the processors least: the first ones start workers and compile."""
    rounds = []
    for _ in range(ROUNDS):
        before = clocks()
        work()
        after = clocks()
        rounds.append({name: after[name] - before[name] for name in after})
    return min(rounds, key=lambda taken: taken["processors"])


def clocks() -> dict[str, float]:
    """Seconds that passed, and those of the processors in this process and all that it started."""
    parents, ticks = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        number = int(path.parent.name)
        parents[number], ticks[number] = int(fields[1]), sum(map(int, fields[11:15]))
    ours, more = {os.getpid()}, True
    while more:
        more = {number for number, parent in parents.items() if parent in ours} - ours
        ours |= more
    used = sum(ticks[number] for number in ours) / os.sysconf("SC_CLK_TCK")
    return {"passed": time.perf_counter(), "processors": used}


def per_event(events: pl.DataFrame, taken: dict[str, float]) -> dict[str, float]:
    return {name: seconds / events.height for name, seconds in taken.items()}


if __name__ == "__main__":
    main()
