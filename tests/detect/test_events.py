"""Reading tables: what is guessed, what is refused, and how the refusal reads."""

from __future__ import annotations

import contextlib
import gzip
import io
import sys
from datetime import UTC, date, datetime
from importlib import metadata
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from gapcell.detect.columns import Column
from gapcell.detect.events import load_cdnow, read_table
from gapcell.detect.refusals import TableError

CSV = """customer_id,when,amount,channel,gift
7,2024-01-03 10:00:00,12.50,web,true
7,2024-01-01 09:30:00,,shop,false
9,2024-01-02 00:00:00,-3.25,,true
7,2024-01-03 10:00:00,20,web,
"""


def write(folder: Path, text: str | bytes, name: str = "events.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def small(**columns: list[object]) -> pl.DataFrame:
    """Three events of one entity, with these columns put in place."""
    return pl.DataFrame({"user": ["a", "a", "a"], "t": [1.0, 2.0, 3.0], "x": [1.5, 2.5, 4.0]} | columns, strict=False)


def refusal(source: Path | pl.DataFrame, **options: object) -> str:
    with pytest.raises(TableError) as caught:
        read_table(source, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_csv_is_read_and_what_was_guessed_is_said(tmp_path: Path) -> None:
    path = write(tmp_path, CSV)
    table = read_table(path)
    assert table.reading.sentences() == [
        f"4 events of 2 entities read from {path}",
        "entity: customer_id (guessed)",
        "time: when (guessed), read as dates and times",
        "features (guessed): amount (numeric), channel (categorical), gift (boolean)",
        "amount is missing in 1 event",
        "channel is missing in 1 event",
        "gift is missing in 1 event",
    ]
    assert table.values["amount"].to_list() == [12.5, None, -3.25, 20.0]
    assert table.values["gift"].to_list() == [True, False, True, None]


def test_events_are_sorted_by_entity_and_time_and_equal_times_keep_their_order(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, CSV))
    assert table.order.tolist() == [1, 0, 3, 2]
    assert table.starts.tolist() == [0, 3, 4]
    assert table.rows_of(0).tolist() == [1, 0, 3]
    two_days = 2 * 86_400 + 1800.0
    np.testing.assert_array_equal(table.since_last(), [two_days, np.nan, np.nan, 0.0])
    assert table.earlier().tolist() == [1, 0, 0, 2]


def test_csv_tsv_parquet_and_frame_read_alike(tmp_path: Path) -> None:
    from_csv = read_table(write(tmp_path, CSV))
    from_tsv = read_table(write(tmp_path, CSV.replace(",", "\t"), "events.tsv"))
    from_semicolons = read_table(write(tmp_path, CSV.replace(",", ";"), "semicolons.csv"))
    with_mark = read_table(write(tmp_path, b"\xef\xbb\xbf" + CSV.encode(), "mark.csv"))
    frame = pl.read_csv(io.StringIO(CSV), try_parse_dates=True)
    frame.write_parquet(tmp_path / "events.parquet")
    for other in (from_tsv, from_semicolons, with_mark, read_table(tmp_path / "events.parquet"), read_table(frame)):
        assert_frame_equal(other.values, from_csv.values)
        np.testing.assert_array_equal(other.seconds, from_csv.seconds)
        np.testing.assert_array_equal(other.order, from_csv.order)


def test_words_for_missing_are_missing_in_csv(tmp_path: Path) -> None:
    text = "user,t,x,colour\na,1,NA,red\na,2,1.5,N/A\nb,3,null,blue\nb,4,NaN,red\nb,5,2.5,red\n"
    table = read_table(write(tmp_path, text))
    assert table.values["x"].to_list() == [None, 1.5, None, None, 2.5]
    assert table.values["colour"].to_list() == ["red", None, "blue", "red", "red"]
    assert table.reading.missing == (3, 1)


@pytest.mark.parametrize(
    ("times", "first", "form"),
    [
        ([datetime(2024, 1, 31, 9, 30)] * 3, datetime(2024, 1, 31, 9, 30), "dates and times"),
        ([date(2024, 1, 31)] * 3, datetime(2024, 1, 31), "dates"),
        (["2024-01-31"] * 3, datetime(2024, 1, 31), "dates"),
        (["2024-01-31 09:30"] * 3, datetime(2024, 1, 31, 9, 30), "dates and times"),
        (["2024-01-31T09:30:15.250000"] * 3, datetime(2024, 1, 31, 9, 30, 15, 250_000), "dates and times"),
        (["2024-01-31", "2024-01-31T09:30", "2024-01-31 09:30:01"], datetime(2024, 1, 31), "dates and times"),
        (
            ["2024-01-31T09:30:15Z", "2024-01-31T09:30:15+02:00", "2024-01-31 09:30+0100"],
            datetime(2024, 1, 31, 9, 30, 15, tzinfo=UTC),
            "dates and times, turned into UTC",
        ),
        ([20240131, 20240201, 19991231], datetime(2024, 1, 31), "dates written YYYYMMDD"),
        (["20240131", "20240201", "19991231"], datetime(2024, 1, 31), "dates written YYYYMMDD"),
        ([1706693400000] * 3, datetime(2024, 1, 31, 9, 30), "milliseconds since 1970"),
        ([0, 5, 86_400], 0.0, "seconds"),
        ([0.5, -5.0, 1e18], 0.5, "seconds"),
        (["0.5", "2", "1e3"], 0.5, "seconds"),
        ([20240131, 20249999, 20241332], 20240131.0, "seconds"),  # of this size, but no dates
    ],
)
def test_times_are_read(times: list[object], first: object, form: str) -> None:
    table = read_table(small(t=times), time="t")
    assert table.time[0] == first
    assert table.reading.time_form == form
    wanted = first.replace(tzinfo=UTC).timestamp() if isinstance(first, datetime) else first
    assert table.seconds[0] == wanted


def test_numbers_are_read_as_told() -> None:
    told = read_table(small(t=[20240131, 20240201, 20240202]), numbers_as="seconds")
    assert told.seconds.tolist() == [20240131.0, 20240201.0, 20240202.0]
    assert refusal(small(t=[20240131, 5, 20240202]), numbers_as="dates written YYYYMMDD").startswith(
        "time column 't', row 2 holds 5: write ISO 8601"
    )


def test_hours_mean_something_only_when_they_are_there() -> None:
    assert not read_table(small(t=["2024-01-31"] * 3)).reading.has_hours
    assert read_table(small(t=["2024-01-31", "2024-02-01", "2024-02-01 08:00"])).reading.has_hours
    assert not read_table(small(t=[1, 2, 3])).reading.has_hours


CURE = "write ISO 8601 such as 2024-01-31 09:30:00, or a number of seconds"


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"t": ["2024-01-31", "31/01/2024", "2024-02-01"]}, {}, f"time column 't', row 2 holds '31/01/2024': {CURE}"),
        ({"t": ["2024-01-31", "2024-02-30", "?"]}, {}, f"time column 't', row 2 holds '2024-02-30': {CURE}"),
        ({"t": [1.0, None, 2.0]}, {}, "time column 't', row 2 is empty: every event needs a time"),
        ({"t": ["2024-01-31", None, ""]}, {}, "time column 't', row 2 is empty: every event needs a time"),
        ({"t": [1.0, 2.0, float("nan")]}, {}, f"time column 't', row 3 holds nan: {CURE}"),
        ({"t": [1.0, float("inf"), 2.0]}, {}, f"time column 't', row 2 holds inf: {CURE}"),
        (
            {"t": ["2024-01-31T09:30Z", "2024-01-31T09:30Z", "2024-01-31T09:30"]},
            {},
            "time column 't', row 3 holds '2024-01-31T09:30', but most times are with an offset from UTC: "
            "write all of them in one way",
        ),
        ({"t": [[1], [2], [3]]}, {"time": "t"}, f"time column 't' holds List(Int64), which is not a time: {CURE}"),
        ({"user": ["a", None, "a"]}, {}, "entity column 'user', row 2 is empty: every event needs an entity"),
        ({"user": ["a", "a", " "]}, {}, "entity column 'user', row 3 is empty: every event needs an entity"),
        (
            {"user": [1.0, float("nan"), 1.0]},
            {"entity": "user"},
            "entity column 'user', row 2 is empty: every event needs an entity",
        ),
        (
            {"x": [1.0, float("inf"), float("-inf")]},
            {},
            "column 'x', row 2 holds inf, an infinite amount: correct it or leave the cell empty",
        ),
        ({}, {"entity": "usr"}, "the table has no entity column 'usr': did you mean 'user'?"),
        ({}, {"time": "moment"}, "the table has no time column 'moment': it has 'user', 't', 'x'"),
        ({}, {"values": ["xx"]}, "the table has no value column 'xx': did you mean 'x'?"),
        ({}, {"label": "fraud"}, "the table has no label column 'fraud': it has 'user', 't', 'x'"),
        (
            {"label": [0, 1, 2]},
            {"label": "label"},
            "label column 'label', row 3 holds 2, where True/False or 0/1 was expected "
            "(leave the cell empty where it is unknown)",
        ),
        (
            {"label": ["yes", "maybe", "no"]},
            {"label": "label"},
            "label column 'label', row 2 holds 'maybe', where True/False or 0/1 was expected "
            "(leave the cell empty where it is unknown)",
        ),
        (
            {"x": [None, None, None]},
            {"values": ["x"]},
            "no usable feature is left: x: it is empty",
        ),
        ({"x": [5, 5, 5]}, {}, "no usable feature is left: x: it holds nothing but 5"),
        (
            {},
            {"values": ["user"]},
            "column 'user' cannot be a feature too: it is the entity, the time or the label",
        ),
        (
            {},
            {"entity": "t", "time": "t"},
            "column 't' is named for two of entity, time and label: each needs its own",
        ),
        (
            {"time_since_last": [3, 1, 2]},
            {},
            "column 'time_since_last' has the name of the feature made of the times: rename it or leave it out",
        ),
        (
            {"x": [[1], [2], [3]]},
            {"values": ["x"]},
            "column 'x' holds List(Int64), which is no feature: numbers, text and True/False are",
        ),
    ],
)
def test_a_refusal_names_the_column_and_the_first_bad_row(
    columns: dict[str, list[object]], options: dict[str, object], message: str
) -> None:
    assert refusal(small(**columns), **options) == message


def test_no_column_that_looks_like_an_entity_or_a_time() -> None:
    frame = pl.DataFrame({"a": [1, 2], "b": [3, 4]})
    assert refusal(frame) == "no column looks like the time of an event: name it (time=, --time), one of 'a', 'b'"
    assert refusal(frame, time="b") == (
        "no column looks like the entity of an event, by a name such as customer and values that repeat: "
        "name it (entity=, --entity), one of 'a', 'b'"
    )


def test_an_entity_none_of_whose_values_repeats_is_not_guessed() -> None:
    frame = pl.DataFrame({"order_id": [1, 2, 3], "customer": ["a", "b", "a"], "t": [1.0, 2.0, 3.0], "x": [1.0, 2.0, 0]})
    table = read_table(frame)
    assert table.reading.entity == "customer"
    assert ("order_id", "it numbers the rows") in table.reading.left_out


def test_the_plainest_name_is_guessed_first() -> None:
    frame = pl.DataFrame(
        {
            "customer_segment": ["a", "a", "b"],
            "time_zone": ["CET", "CET", "UTC"],
            "customerId": [1, 1, 2],
            "time": ["2024-01-01", "2024-01-02", "2024-01-03"],
        }
    )
    reading = read_table(frame).reading
    assert (reading.entity, reading.time) == ("customerId", "time")


def test_a_typing_error_among_numbers_is_not_read_as_a_category(tmp_path: Path) -> None:
    lines = ["user,t,amount"] + [f"a,{i},{i}.5" for i in range(40)] + ["a,41,12O.5"]
    message = refusal(write(tmp_path, "\n".join(lines)))
    assert message == (
        "column 'amount', row 41 holds '12O.5', where the other rows hold numbers: correct it or leave the cell empty"
    )


def test_columns_that_are_no_features_are_left_out_and_it_says_why() -> None:
    rows = 60
    draws = np.random.default_rng(0)
    frame = pl.DataFrame(
        {
            "user": ["a", "b"] * (rows // 2),
            "t": pl.Series(range(rows)).cast(pl.Datetime("us")),
            "shipped": pl.Series(range(rows)).cast(pl.Datetime("us")),
            "note": [f"text number {i}" for i in range(rows)],
            "row": range(rows),
            "country": ["NL"] * rows,
            "is_fraud": draws.random(rows) < 0.1,
            "tags": [[1]] * rows,
            "nothing": pl.Series([None] * rows, dtype=pl.Float64),
            "amount": draws.normal(size=rows),
            "branch_code": draws.integers(0, 4, rows),
            "night": draws.integers(0, 2, rows),
        }
    )
    reading = read_table(frame).reading
    assert reading.columns == (
        Column("amount", "numeric"),
        Column("branch_code", "categorical"),
        Column("night", "boolean"),
    )
    assert dict(reading.left_out) == {
        "shipped": "it is a second column of times",
        "note": "it looks like an identifier: 60 different values in 60 rows",
        "row": "it numbers the rows",
        "country": "it holds nothing but 'NL'",
        "is_fraud": "its name says label; name it as such to measure against it",
        "tags": "it holds List(Int64)",
        "nothing": "it is empty",
    }
    assert "country is left out: it holds nothing but 'NL'" in read_table(frame).reading.sentences()


def test_a_column_made_of_the_label_is_left_out() -> None:
    label = [True, False, False, None] * 10
    kind = ["stolen", "genuine", "lost", "genuine"] * 10
    frame = pl.DataFrame(
        {
            "user": ["a"] * 40,
            "t": [float(i) for i in range(40)],
            "label": label,
            "kind": kind,
            "nearly": [*kind[:-2], "stolen", "genuine"],
        }
    )
    reading = read_table(frame, label="label").reading
    assert reading.left_out == (("kind", "it tells the label exactly"),)
    assert reading.columns == (Column("nearly", "categorical"),)


def test_invoice_numbers_of_which_some_have_a_letter_are_identifiers() -> None:
    numbers = [f"{536365 + i}" for i in range(60)]
    frame = pl.DataFrame(
        {"user": ["a"] * 60, "t": range(60), "invoice": [*numbers[:-1], "C536379"], "x": [1.5, 2.5] * 30}
    )
    reading = read_table(frame).reading
    assert reading.left_out == (("invoice", "it looks like an identifier: 60 different values in 60 rows"),)


@pytest.mark.parametrize(
    "label", [[True, False, None], [1, 0, None], [1.0, 0.0, float("nan")], ["true", "False", None], ["1", "0", None]]
)
def test_a_label_is_boolean_with_null_where_unknown(label: list[object]) -> None:
    table = read_table(small(label=label), label="label")
    assert table.label is not None
    assert table.label.to_list() == [True, False, None]
    assert [column.name for column in table.reading.columns] == ["x"]


def test_named_values_only_are_used_and_a_kind_can_be_forced() -> None:
    frame = small(y=[0, 1, 0])
    assert read_table(frame, values=["x"]).values.columns == ["x"]
    assert read_table(frame, values=["y"]).reading.columns == (Column("y", "boolean"),)
    forced = read_table(frame, values=[Column("y", "numeric")])
    assert forced.values["y"].to_list() == [0.0, 1.0, 0.0]
    assert refusal(small(y=["p", "1", "0"]), values=[Column("y", "numeric")]) == (
        "column 'y', row 1 holds 'p', where a number was expected: correct it or leave the cell empty"
    )


def test_a_table_of_entities_and_times_alone_is_read() -> None:
    table = read_table(small().drop("x"))
    assert table.reading.columns == ()
    assert "features (guessed): none but the time since the last event" in table.reading.sentences()


def test_a_category_is_the_same_alone_in_a_file_and_among_others(tmp_path: Path) -> None:
    """Polars reads a lone 007 as a number, and as text where another row holds letters."""
    lines = ["a,1,007,1.50", "a,2,x,y", "a,3,,7e0", "a,4,12345678901234567890,inf"]
    read = [Column("code", "categorical"), Column("rate", "categorical")]
    head = "user,t,code,rate\n"
    together = read_table(write(tmp_path, head + "\n".join(lines)), values=read).values
    assert together["code"].to_list()[:3] == ["7", "x", None]
    assert together["rate"].to_list() == ["1.5", "y", "7", "inf"]
    for row, line in enumerate(lines):
        assert read_table(write(tmp_path, head + line), values=read).values.row(0) == together.row(row)


def test_nan_is_missing_and_negative_amounts_are_kept() -> None:
    table = read_table(small(x=[-5.0, float("nan"), None]))
    assert table.values["x"].to_list() == [-5.0, None, None]


def test_a_single_event_is_read() -> None:
    assert read_table(small().head(1)).reading.rows == 1


@pytest.mark.parametrize(
    ("contents", "name", "message"),
    [
        (b"", "a.csv", "is empty: a header and at least one row were expected"),
        (b"user,t,x\n", "a.csv", "holds no events: at least one row was expected"),
        (b"user,t,user\na,1,2\n", "a.csv", "has two columns named 'user': rename one"),
        (b"user,t,x\na,1,\xff\xfe\n", "a.csv", "is not UTF-8 text: save it as UTF-8"),
        ("us\xe9r,t,x\na,1,2\n".encode("latin-1"), "a.csv", "is not UTF-8 text: save it as UTF-8"),
        (gzip.compress(b"user,t,x\na,1,2\n", mtime=0), "a.csv", "is compressed with gzip: unpack it first"),
        (b"user,t,x\na,1,2,3,4\n", "a.csv", "cannot be read as CSV: found more fields than defined in 'Schema'"),
        (b"PAR1 and then nothing PAR1", "a.parquet", "cannot be read as PARQUET: parquet: File out of specification"),
        (b"{}", "a.json", "ends in '.json': give a .csv, .tsv or .parquet file"),
    ],
)
def test_a_file_that_is_no_table_is_refused_in_one_sentence(
    tmp_path: Path, contents: bytes, name: str, message: str
) -> None:
    path = write(tmp_path, contents, name)
    assert refusal(path).startswith(f"{path} {message}")


def test_a_file_that_is_not_there_or_is_a_folder(tmp_path: Path) -> None:
    assert refusal(tmp_path / "no.csv") == f"there is no file {tmp_path / 'no.csv'}"
    assert refusal(tmp_path / "no.parquet") == f"there is no file {tmp_path / 'no.parquet'}"
    (tmp_path / "folder.csv").mkdir()
    assert refusal(tmp_path / "folder.csv").startswith(f"{tmp_path / 'folder.csv'} cannot be read: ")


def test_a_huge_value_is_cut_in_the_message() -> None:
    message = refusal(small(t=["2024-01-31", "x" * 1_000_000, "2024-01-31"]))
    assert len(message) < 200
    assert "'xxxxxxxxxxxx" in message


def test_more_rows_than_can_be_meant_are_refused_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gapcell.detect.table_files.MOST_ROWS", 2)
    small().write_parquet(tmp_path / "big.parquet")
    assert refusal(tmp_path / "big.parquet") == f"{tmp_path / 'big.parquet'} holds 3 rows: give at most 2 at a time"


def is_table_or_refusal(path: Path) -> None:
    """Anything but a TableError fails the test by itself."""
    with contextlib.suppress(TableError):
        read_table(path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    contents=st.binary(max_size=200) | st.text(max_size=200).map(str.encode), name=st.sampled_from(["csv", "parquet"])
)
def test_no_file_gives_anything_but_a_table_or_a_refusal(tmp_path: Path, contents: bytes, name: str) -> None:
    is_table_or_refusal(write(tmp_path, contents, f"any.{name}"))


def test_a_damaged_parquet_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "events.parquet"
    pl.DataFrame({"user": ["a"] * 500, "t": range(500), "x": np.random.default_rng(0).normal(size=500)}).write_parquet(
        path
    )
    whole = path.read_bytes()
    for place in range(4, len(whole), max(1, len(whole) // 60)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x5A]) + whole[place + 1 :])
        is_table_or_refusal(path)


def test_cdnow_is_read_from_the_wheel_without_importing_the_package() -> None:
    try:
        metadata.distribution("lifetimes")
    except metadata.PackageNotFoundError:
        pytest.skip("lifetimes is not installed (pip install --no-deps lifetimes==0.11.3)")
    table = load_cdnow()
    assert (table.reading.rows, table.reading.entities) == (69_659, 23_570)
    assert table.reading.columns == (Column("number_of_cds", "numeric"), Column("dollar_value", "numeric"))
    assert table.time.min() == datetime(1997, 1, 1)
    assert table.time.max() == datetime(1998, 6, 30)
    assert table.values["dollar_value"].sum() == pytest.approx(2_500_315.63)
    assert "lifetimes" not in sys.modules


def test_without_the_wheel_cdnow_says_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "files", absent)
    with pytest.raises(TableError, match=r"pip install --no-deps lifetimes==0\.11\.3$"):
        load_cdnow()
