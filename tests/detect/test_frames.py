"""Frames of any kind are read alike, and results come back in the caller's kind."""

from __future__ import annotations

import decimal
import subprocess
import sys
from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import narwhals as nw
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from polars.testing import assert_frame_equal, assert_series_equal

from gapcell.detect import TableError, read_table
from gapcell.detect.frames import as_polars, labels_of, like

from .conftest import purchases


def series(values: object, **options: object) -> pl.Series:
    return as_polars(pd.DataFrame({"x": pd.Series(values, **options)}))["x"]


@pytest.mark.parametrize(
    ("values", "options", "wanted"),
    [
        ([1.0, np.nan], {}, pl.Series("x", [1.0, None])),
        ([1, 2], {}, pl.Series("x", [1, 2])),
        ([1, None], {"dtype": "Int64"}, pl.Series("x", [1, None], dtype=pl.Int64)),
        ([True, None], {"dtype": "boolean"}, pl.Series("x", [True, None])),
        ([True, None, False], {"dtype": object}, pl.Series("x", [True, None, False])),
        (["a", None, np.nan, pd.NA], {"dtype": object}, pl.Series("x", ["a", None, None, None])),
        (["a", None], {"dtype": "string"}, pl.Series("x", ["a", None])),
        (["b", None, "a"], {"dtype": "category"}, pl.Series("x", ["b", None, "a"])),
        ([decimal.Decimal("1.5")], {"dtype": object}, pl.Series("x", [decimal.Decimal("1.5")])),
        ([date(2024, 1, 1)], {"dtype": object}, pl.Series("x", [date(2024, 1, 1)])),
        ([datetime(2024, 1, 1), pd.NaT], {}, pl.Series("x", [datetime(2024, 1, 1), None])),
        (np.array(["2024-01-01"], "datetime64[s]"), {}, pl.Series("x", [datetime(2024, 1, 1)])),
        (np.array(["2024-01-01"], "datetime64[ns]"), {}, pl.Series("x", [datetime(2024, 1, 1)])),
        (
            pd.to_datetime(["2024-01-01"]).tz_localize("Europe/Berlin"),
            {},
            pl.Series("x", [datetime(2024, 1, 1, tzinfo=ZoneInfo("Europe/Berlin"))]),
        ),
    ],
)
def test_columns_of_pandas_are_what_they_mean(values: object, options: dict[str, object], wanted: pl.Series) -> None:
    found = series(values, **options)
    if wanted.dtype in (pl.Datetime, pl.Decimal) or found.dtype == pl.Categorical:
        found = found.cast(wanted.dtype)  # its unit, precision or categories may be others
    assert_series_equal(found, wanted)


def test_nan_of_pyarrow_is_missing_too() -> None:
    assert as_polars(pa.table({"x": [1.0, float("nan"), None]}))["x"].to_list() == [1.0, None, None]


def kinds(frame: pl.DataFrame) -> dict[str, object]:
    as_pandas = frame.to_pandas()
    return {
        "pandas": as_pandas,
        "pandas, nullable": as_pandas.convert_dtypes(),
        "pandas, objects": as_pandas.astype({"customer": object, "channel": object, "gift": object}),
        "pandas, categories": as_pandas.astype({"customer": "category", "channel": "category"}),
        "pandas, index": as_pandas.set_index(["customer", "time"]),
        "pandas, nanoseconds": as_pandas.astype({"time": "datetime64[ns]"}),
        "pyarrow": frame.to_arrow(),
        "lazy": frame.lazy(),
    }


@pytest.mark.parametrize("kind", kinds(purchases(customers=2, events=3)))
def test_a_table_is_the_same_from_every_kind_of_frame(frame: pl.DataFrame, kind: str) -> None:
    wanted = read_table(frame)
    found = read_table(kinds(frame)[kind])
    assert_frame_equal(found.values, wanted.values)
    assert found.entity.cast(pl.String).to_list() == wanted.entity.to_list()
    for name in ("seconds", "codes", "order", "starts"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
    assert found.reading.columns == wanted.reading.columns
    assert found.reading.source == "a frame"


def test_a_time_zone_is_turned_into_utc() -> None:
    times = pd.to_datetime(["2024-01-01 12:00", "2024-07-01 12:00"]).tz_localize("Europe/Berlin")
    table = read_table(pd.DataFrame({"user": ["a", "a"], "t": times, "x": [1.0, 2.0]}), time="t")
    assert table.time.to_list() == [datetime(2024, 1, 1, 11, tzinfo=UTC), datetime(2024, 7, 1, 10, tzinfo=UTC)]


RESULT = pl.DataFrame({"score": [1.5, None], "alert": [True, False], "why": [None, "x is missing"]})


def test_results_come_back_in_the_kind_of_the_caller() -> None:
    source = pl.DataFrame({"x": [1, 2]})
    assert like(RESULT, source) is RESULT
    assert like(RESULT, source.lazy()) is RESULT
    assert like(RESULT, "events.csv") is RESULT
    arrow = like(RESULT, source.to_arrow())
    assert isinstance(arrow, pa.Table)
    assert arrow.to_pylist() == RESULT.to_dicts()


@pytest.mark.parametrize(
    "index",
    [
        pd.Index([7, 3], name="event"),
        pd.to_datetime(["2024-01-02", "2024-01-01"]),
        pd.MultiIndex.from_tuples([("a", 1), ("b", 2)]),
    ],
)
def test_pandas_keeps_its_index(index: pd.Index) -> None:
    found = like(RESULT, pd.DataFrame({"x": [1, 2]}, index=index))
    pd.testing.assert_index_equal(found.index, index)
    assert found["score"].iloc[0] == 1.5
    assert np.isnan(found["score"].iloc[1])
    assert found["alert"].dtype == bool
    assert pd.isna(found["why"].iloc[0])


def test_what_has_a_name_in_the_index_is_a_column() -> None:
    frame = pd.DataFrame({"x": [1, 2]}, index=pd.Index(["a", "b"], name="who"))
    assert as_polars(frame).columns == ["who", "x"]
    assert as_polars(frame.assign(who=["c", "d"]))["who"].to_list() == ["c", "d"]


def mixed(**columns: object) -> pd.DataFrame:
    return pd.DataFrame({"user": ["a", "a", "b"], "t": [1.0, 2.0, 3.0], "x": [1.5, 2.5, 4.0]} | columns)


ODD = {
    "objects of two types": pd.Series(["a", 1, None], dtype=object),
    "periods": pd.period_range("2024-01", periods=3, freq="M"),
    "intervals": pd.interval_range(0, 3),
    "lists": pd.Series([[1], [2], [3]]),
    "complex numbers": pd.Series([1j, 2j, 3j]),
}


@pytest.mark.parametrize("odd", ODD)
def test_a_column_of_no_kind_is_left_out_or_refused_by_name(odd: str) -> None:
    frame = mixed(odd=ODD[odd])
    table = read_table(frame, entity="user", time="t")
    assert [column.name for column in table.reading.columns] == ["x"]
    assert dict(table.reading.left_out)["odd"].startswith("it holds ")
    with pytest.raises(TableError, match=r"column 'odd' holds .*, which is no feature"):
        read_table(frame, entity="user", time="t", values=("x", "odd"))
    with pytest.raises(TableError, match=r"entity column 'odd' holds .*: text or numbers were expected"):
        read_table(frame, entity="odd", time="t")


def test_columns_that_are_not_told_apart_by_text_are_refused() -> None:
    with pytest.raises(TableError, match=r"two columns of one name, rename one: .*'a' 2 times"):
        as_polars(pd.DataFrame([[1, 2]], columns=["a", "a"]))
    with pytest.raises(TableError, match=r"a column named 0, which is no text: rename it \(frame.columns"):
        as_polars(pd.DataFrame([[1, 2]], columns=[0, "a"]))


@pytest.mark.parametrize(
    "labels",
    [
        [True, False, None],
        np.array([1.0, 0.0, np.nan]),
        pd.Series([1.0, 0.0, np.nan], index=[5, 6, 7]),
        pl.Series([True, False, None]),
        pa.chunked_array([[True, False, None]]),
    ],
)
def test_labels_are_a_column_whatever_they_come_as(labels: object) -> None:
    table = read_table(mixed(label=labels_of(labels, "label", 3).to_list()), entity="user", time="t", label="label")
    assert table.label.to_list() == [True, False, None]


@pytest.mark.parametrize("labels", [[1, 0], np.zeros((3, 1)), np.zeros(4)])
def test_labels_of_another_number_are_refused(labels: object) -> None:
    with pytest.raises(TableError, match=r"y has shape \(.*\), but the table has 3 rows: expected one label a row"):
        labels_of(labels, "label", 3)


def test_pandas_without_pyarrow_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(series: nw.Series[object]) -> pl.Series:
        raise ModuleNotFoundError("pyarrow is required")  # as polars says it

    monkeypatch.setattr(nw.Series, "to_polars", refuse)
    with pytest.raises(TableError, match="read through pyarrow, which is not installed: pip install pyarrow"):
        as_polars(mixed())


WITHOUT = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("pandas", "pyarrow"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocked())
import polars as pl
from gapcell.detect import read_table, SequenceDetector, CalendarGrid, EventWindows
from gapcell.detect.frames import like
frame = pl.DataFrame({"user": ["a", "a"], "t": [1.0, 2.0], "x": ["u", "v"]})
assert like(read_table(frame).values, frame).equals(read_table(frame.lazy()).values)
assert EventWindows().fit_transform(frame).x.shape == (1, 8, 3)
"""


def test_nothing_needs_pandas_or_pyarrow() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
