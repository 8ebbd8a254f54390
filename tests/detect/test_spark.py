"""On Spark every event has the score that one machine gives it, whatever partition or micro-batch it lies in."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from gapcell.detect import Detector, ModelError, SequenceDetector, TableError

pytest.importorskip("pyspark", reason="these are tests on Spark")
from pyspark.errors import PythonException, StreamingQueryException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.functions import array

from gapcell.spark import score_stream, score_table
from gapcell.spark.layout import SESSION_ZONE
from gapcell.spark.saved import SavedDetector, loaded
from gapcell.spark.stream import BucketScorer
from gapcell.spark.table import whole_entities

from .conftest import TOLERANCE

STORES = "org.apache.spark.sql.execution.streaming.state"
SETTINGS = {
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.memory": "1g",
    "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
    "spark.log.level": "ERROR",
    "spark.sql.shuffle.partitions": "2",
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.execution.arrow.maxRecordsPerBatch": "100",  # so few that batches end amid entities
    "spark.sql.streaming.stateStore.providerClass": f"{STORES}.RocksDBStateStoreProvider",
}


@pytest.fixture(scope="module")
def spark(java: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYSPARK_PYTHON", sys.executable)
        builder = SparkSession.builder.master("local[2]").appName("gapcell's tests")
        for name, value in SETTINGS.items():
            builder = builder.config(name, value)
        folder = str(tmp_path_factory.mktemp("warehouse"))
        session = builder.config("spark.sql.warehouse.dir", folder).getOrCreate()
        yield session
        session.stop()


@pytest.fixture(scope="module")
def events(frame: pl.DataFrame) -> pl.DataFrame:
    """Entities of very different lengths, one of a single event, values missing, many events at the same moments."""
    draws = np.random.default_rng(3)
    kept = frame.filter(pl.Series(draws.random(frame.height) < 0.6))
    long = frame.with_columns(customer=pl.lit("whale")).sample(400, seed=1)
    once = pl.DataFrame({"customer": ["once"], "time": [datetime(2024, 3, 1)], "amount": [None], "channel": ["fax"]})
    level = kept.sample(150, seed=2).with_columns(amount=pl.Series(draws.lognormal(4, 2, 150)))
    mixed = pl.concat([kept, long, once, level], how="diagonal_relaxed").sample(fraction=1.0, shuffle=True, seed=3)
    return mixed.with_row_index("id").cast({"id": pl.Int64})


@pytest.fixture(scope="module")
def folder(detector: Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    detector.save(path)
    return path


@pytest.fixture(scope="module")
def local(folder: Path, events: pl.DataFrame) -> pl.DataFrame:
    return SequenceDetector.load(folder).score(events).with_columns(events["id"])


def collected(result: DataFrame) -> pl.DataFrame:
    found = pl.DataFrame(pl.from_arrow(result.toArrow())).sort("id")
    return found.with_columns(pl.col("time").dt.replace_time_zone(None))


@contextmanager
def shown_in(zone: str, spark: SparkSession) -> Iterator[None]:
    spark.conf.set(SESSION_ZONE, zone)
    yield
    spark.conf.set(SESSION_ZONE, "UTC")


def assert_same(found: pl.DataFrame, wanted: pl.DataFrame) -> None:
    assert_frame_equal(found, wanted, rel_tol=max(1e-6, TOLERANCE), abs_tol=TOLERANCE)


# Tables ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sort", "partitions"), [("timestamp", None), ("timestamp_ntz", 7)])
def test_scores_are_those_of_one_machine(
    spark: SparkSession,
    detector: Detector,
    events: pl.DataFrame,
    local: pl.DataFrame,
    sort: str,
    partitions: int | None,
) -> None:
    df = spark.createDataFrame(events.to_arrow())
    df = df.withColumn("time", df["time"].cast(sort))
    options = {"entity": "customer", "time": "time", "keep": "id", "partitions": partitions, "events_at_once": 200}
    result = score_table(df, detector=detector, **options)
    assert result.columns == local.columns
    assert dict(result.dtypes)["time"] == sort
    assert_same(collected(result), local)


def test_rows_that_come_in_no_order_are_put_in_the_one_that_is_named(
    spark: SparkSession, folder: Path, events: pl.DataFrame, local: pl.DataFrame
) -> None:
    df = spark.createDataFrame(events.sample(fraction=1.0, shuffle=True, seed=9).to_arrow()).repartition(5)
    assert_same(collected(score_table(df, folder, keep=["id"], order=["id"])), local)


def test_the_comparison_sees_an_entity_that_was_torn(folder: Path, events: pl.DataFrame, local: pl.DataFrame) -> None:
    by_entity = events.sort("customer", maintain_order=True)
    half = by_entity.height // 2
    scores = SequenceDetector.load(folder).score
    torn = pl.concat([scores(by_entity[:half]), scores(by_entity[half:])]).with_columns(by_entity["id"]).sort("id")
    with pytest.raises(AssertionError, match="score"):
        assert_same(torn, local)


def test_times_are_read_as_the_session_shows_them(spark: SparkSession, folder: Path, events: pl.DataFrame) -> None:
    df = spark.createDataFrame(events.head(200).to_arrow())
    with shown_in("Asia/Kolkata", spark):
        wanted = SequenceDetector.load(folder).score(pl.from_pandas(df.toPandas()))
        found = score_table(df, folder, keep="id").toPandas().sort_values("id")
    assert wanted["time"][0] - events["time"][0] == timedelta(hours=5, minutes=30)
    np.testing.assert_allclose(found["score"], wanted["score"].to_numpy(), rtol=max(1e-6, TOLERANCE))


def test_columns_may_have_other_and_odd_names(
    spark: SparkSession, folder: Path, events: pl.DataFrame, local: pl.DataFrame
) -> None:
    renamed = events.rename({"customer": "card.no", "time": "`when`", "id": "the id"})
    df = spark.createDataFrame(renamed.to_arrow())
    result = score_table(df, folder, entity="card.no", time="`when`", keep=["the id", "card.no"])
    assert result.columns[-2:] == ["the id", "card.no"]
    found = collected(result.withColumnRenamed("the id", "id"))
    assert found["card.no"].equals(found["entity"].alias("card.no"))
    assert_same(found.drop("card.no"), local)


def test_a_worker_loads_a_detector_once(spark: SparkSession, folder: Path, events: pl.DataFrame) -> None:
    df = spark.createDataFrame(events.to_arrow())
    score_table(df, folder, partitions=8).count()

    def misses(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        from gapcell.spark.saved import loaded  # the worker's

        for _ in batches:
            yield pa.RecordBatch.from_pydict({"misses": [loaded.cache_info().misses]})

    found = spark.range(8, numPartitions=8).mapInArrow(misses, "misses long").toPandas()
    assert set(found["misses"]) == {1}


def test_a_table_without_rows_has_scores_without_rows(spark: SparkSession, folder: Path, events: pl.DataFrame) -> None:
    df = spark.createDataFrame(events.to_arrow()).where("amount > 1e9")
    result = score_table(df, folder)
    assert result.count() == 0
    assert result.columns[:4] == ["entity", "time", "score", "alert"]


def test_categories_that_are_nearly_numbers_are_no_typing_errors_in_a_part(
    spark: SparkSession, folder: Path, events: pl.DataFrame
) -> None:
    codes = [str(number) for number in range(50)] + ["A1"]
    coded = events.with_columns(channel=pl.Series([codes[n % 51] for n in range(events.height)]))
    with pytest.raises(TableError, match="where the other rows hold numbers"):
        Detector.load(folder).read(coded)  # whose kinds are guessed where a table comes from a file
    assert score_table(spark.createDataFrame(coded.to_arrow()), folder).where("score is null").count() == 0


def test_labels_that_come_late_are_read(spark: SparkSession, frame: pl.DataFrame) -> None:
    labelled = frame.with_row_index("id").cast({"id": pl.Int64}).with_columns(fraud=pl.col("amount") > 200)
    options = {"label": "fraud", "label_delay": 86_400.0, "encoder": "none", "budget": 0.01}
    fitted = SequenceDetector("customer", time="time", values=["amount", "gift"], **options).fit(labelled)
    df = spark.createDataFrame(labelled.rename({"fraud": "reported"}).to_arrow())
    found = collected(score_table(df, fitted, label="reported", keep="id"))
    assert found["score_recent_reports"].max() > 0
    assert_same(found, fitted.score(labelled).with_columns(labelled["id"]))
    with pytest.raises(TableError, match="the table has no label column 'fraud'"):
        score_table(df, fitted)


# Refusals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        (lambda df: df.drop("gift"), {}, "the table has no value column 'gift', which the detector was fitted on: it"),
        (lambda df: df.drop("customer"), {}, "the table has no entity column 'customer'"),
        (lambda df: df, {"time": "tme"}, "the table has no time column 'tme': did you mean 'time'?"),
        (lambda df: df, {"keep": "ids"}, "the table has no further column 'ids': did you mean 'id'?"),
        (lambda df: df, {"entity": "channel"}, "column 'channel' is named twice among entity, time, label and values"),
        (lambda df: df.withColumn("time", df["gift"]), {}, "time column 'time' holds Boolean, which is not a time"),
        (lambda df: df.withColumn("amount", df["time"]), {}, "column 'amount' holds Datetime.*, which is no feature"),
        (lambda df: df.withColumn("gift", array("id")), {}, "column 'gift' holds Object, which is no feature"),
        (lambda df: df.withColumnRenamed("id", "score"), {"keep": "score"}, "names 'score', which the result has"),
        (lambda df: df, {"keep": ["id", "id"]}, "names 'id', which the result has already: rename it before"),
        (lambda df: df, {"events_at_once": 0}, r"events_at_once \(=0\) must be at least 1"),
    ],
)
def test_what_cannot_be_scored_is_refused_before_a_job_starts(
    spark: SparkSession, folder: Path, events: pl.DataFrame, change: Any, options: dict[str, Any], said: str
) -> None:
    df = change(spark.createDataFrame(events.head(5).to_arrow()))
    spark.sparkContext.setJobGroup("refused", "none of these runs")
    with pytest.raises(ValueError, match=said):
        score_table(df, folder, **options)
    assert list(spark.sparkContext.statusTracker().getJobIdsForGroup("refused")) == []


def test_without_spark_it_is_said_what_to_install() -> None:
    code = "import sys; sys.modules['pyspark'] = None; import gapcell.spark"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", timeout=60, check=False)
    assert "gapcell.spark needs pyspark, which is not installed: pip install 'gapcell[spark]'" in ran.stderr


def test_what_is_no_detector_is_refused(spark: SparkSession, events: pl.DataFrame, tmp_path: Path) -> None:
    df = spark.createDataFrame(events.head(5).to_arrow())
    with pytest.raises(ModelError, match="there is no detector in"):
        score_table(df, tmp_path)
    with pytest.raises(
        TypeError, match=r"detector \(=3\) must be a Detector, a fitted SequenceDetector, or the folder"
    ):
        score_table(df, 3)


def test_a_detector_with_a_further_key_is_refused(spark: SparkSession, frame: pl.DataFrame) -> None:
    options = {"values": ["amount"], "encoder": "none", "budget": 0.01}
    fitted = SequenceDetector(("customer", "channel"), time="time", **options).fit(frame)
    with pytest.raises(ValueError, match=r"the detector also groups events by 'channel': .* on one machine"):
        score_table(spark.createDataFrame(frame.head(5).to_arrow()), fitted)


def test_times_of_another_zone_are_refused_where_the_fit_had_utc(
    spark: SparkSession, detector: Detector, events: pl.DataFrame
) -> None:
    schema = dataclasses.replace(detector.schema, time_form="dates and times, turned into UTC")
    fitted = dataclasses.replace(detector, schema=schema)
    df = spark.createDataFrame(events.head(5).to_arrow())
    score_table(df, fitted)
    with (
        shown_in("Asia/Kolkata", spark),
        pytest.raises(TableError, match=r"shows those of column 'time' in Asia/Kolkata: spark\.conf\.set"),
    ):
        score_table(df, fitted)


def test_a_row_that_cannot_be_read_is_named_with_its_part(
    spark: SparkSession, folder: Path, events: pl.DataFrame
) -> None:
    bad = events.with_columns(amount=pl.when(pl.col("customer") == "whale").then(np.inf).otherwise("amount"))
    result = score_table(spark.createDataFrame(bad.to_arrow()), folder, events_at_once=1)
    with pytest.raises(PythonException, match="begins with entity 'whale': column 'amount', row 1 holds inf"):
        result.count()


# What a worker does ---------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 7), st.integers(1, 20))
def test_pieces_hold_whole_entities_and_every_row_once(lengths: list[int], size: int, least: int) -> None:
    entities = np.repeat(np.arange(len(lengths)), lengths)
    batches = pa.table({"who": entities, "row": np.arange(len(entities))}).to_batches(max_chunksize=size)
    pieces = [pl.DataFrame(pl.from_arrow(piece)) for piece in whole_entities(batches, "who", least)]
    assert pl.concat(pieces)["row"].to_list() == list(range(len(entities)))
    assert sum(piece["who"].n_unique() for piece in pieces) == len(lengths)
    assert all(piece.height >= least for piece in pieces[:-1])
    assert all(piece.height < least + size + max(lengths) for piece in pieces)


def test_a_detector_travels_as_the_bytes_of_its_files(detector: Detector, folder: Path) -> None:
    saved = SavedDetector.of(detector)
    assert saved == SavedDetector.of(folder) == SavedDetector.of(str(folder))
    assert saved == SavedDetector.of(SequenceDetector.load(folder))
    assert loaded(saved) is loaded(SavedDetector.of(folder))
    with pytest.raises(ModelError, match="its checksum is not the one in"):
        loaded(dataclasses.replace(saved, weights=saved.weights[:-1] + b"!"))


# Streams --------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Stream:
    """A folder that is read file by file, each a micro-batch; what is written to it after a run is read by the next."""

    spark: SparkSession
    folder: Path

    def write(self, events: pl.DataFrame) -> None:
        source = self.folder / "source"
        source.mkdir(exist_ok=True)
        number = len(list(source.iterdir()))
        events.write_parquet(source / f"{number:03d}.parquet")
        os.utime(source / f"{number:03d}.parquet", (number, number))  # Spark reads files in the order of their times

    def events(self) -> DataFrame:
        schema = self.spark.read.parquet(str(self.folder / "source")).schema
        return self.spark.readStream.schema(schema).option("maxFilesPerTrigger", 1).parquet(str(self.folder / "source"))

    def run(self, detector: Any, buckets: int = 4) -> pl.DataFrame:
        roles = {"entity": "customer", "time": "time", "keep": ["id"], "order": ["id"]}
        scores = score_stream(self.events(), detector, buckets=buckets, **roles)
        writer = scores.writeStream.format("parquet").outputMode("append").trigger(availableNow=True)
        paths = {"path": str(self.folder / "scores"), "checkpointLocation": str(self.folder / "checkpoint")}
        writer.options(**paths).start().awaitTermination()
        return collected(self.spark.read.parquet(str(self.folder / "scores")))


@pytest.fixture
def stream(spark: SparkSession, tmp_path: Path) -> Stream:
    return Stream(spark, tmp_path)


def test_a_stream_has_the_scores_of_its_whole_history_also_after_a_restart(
    stream: Stream, folder: Path, events: pl.DataFrame, local: pl.DataFrame
) -> None:
    parts = np.array_split(np.argsort(events["time"].to_numpy(), kind="stable"), 3)
    for rows in parts[:2]:
        stream.write(events[rows.tolist()].sample(fraction=1.0, shuffle=True, seed=4))
    assert stream.run(folder).height == len(parts[0]) + len(parts[1])
    stream.write(events[parts[2].tolist()])
    assert_same(stream.run(folder), local)


def test_an_event_that_comes_late_has_no_score_and_changes_none(
    stream: Stream, folder: Path, frame: pl.DataFrame
) -> None:
    few = (
        frame.sort("time")
        .filter(pl.col("customer").is_in(["c001", "c002"]))
        .with_row_index("id")
        .cast({"id": pl.Int64})
    )
    late = few[:1].with_columns(id=pl.lit(-1, pl.Int64))
    stream.write(few[:20])
    stream.write(pl.concat([late, few[20:]]))
    found = stream.run(folder)
    assert found["not_scored"][0].startswith("late: ")
    assert found["score"][0] is None
    assert not found["alert"][0]
    assert_same(found[1:], SequenceDetector.load(folder).score(few).with_columns(few["id"]))


def test_a_state_of_another_detector_stops_the_query(stream: Stream, detector: Detector, frame: pl.DataFrame) -> None:
    stream.write(frame.head(3).with_row_index("id"))
    stream.run(detector)
    stream.write(frame.tail(300).with_row_index("id"))
    other = dataclasses.replace(detector, threshold=detector.threshold + 1)
    with pytest.raises(
        StreamingQueryException, match=r"the checkpoint holds states of the detector .* or begin a new checkpoint"
    ):
        stream.run(other)


def test_states_are_found_with_their_number_of_buckets_only(detector: Detector) -> None:
    origin = SimpleNamespace(get=lambda: (detector.identity, 256))
    scorer = BucketScorer(SavedDetector.of(detector), None, 255)
    scorer.detector, scorer.origin = detector, origin
    with pytest.raises(ModelError, match="was begun with buckets=256, and these are 255: its states are found with"):
        scorer.known(["c001"])


def test_tables_and_streams_are_told_apart(stream: Stream, folder: Path, events: pl.DataFrame) -> None:
    stream.write(events)
    with pytest.raises(ValueError, match="df is a stream, which score_table cannot wait for the end of: use score_st"):
        score_table(stream.events(), folder)
    with pytest.raises(ValueError, match="df is a table, all of whose events are there: use score_table"):
        score_stream(stream.spark.createDataFrame(events.to_arrow()), folder)
    with pytest.raises(ValueError, match=r"buckets \(=0\) must be at least 1"):
        score_stream(stream.events(), folder, buckets=0)
    with pytest.raises(TableError, match="the table has no value column 'gift'"):
        score_stream(stream.events().drop("gift"), folder)
