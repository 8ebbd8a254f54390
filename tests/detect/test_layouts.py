"""Windows of events and calendar grids: what is counted, what is masked, and the way back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal, assert_series_equal
from sklearn.base import clone

from gapcell.detect import CalendarGrid, EventWindows, TableError, read_table
from gapcell.detect.columns import Column
from gapcell.detect.layouts import EventGrid
from gapcell.torch import ConvLSTM1d

from .conftest import purchases

MONDAY = datetime(2024, 1, 1)  # a Monday
ROLES = {"entity": "who", "time": "when"}


def events(*rows: tuple[str, datetime, float | None]) -> pl.DataFrame:
    schema = {"who": pl.String, "when": pl.Datetime("us"), "amount": pl.Float64}
    return pl.DataFrame(rows, schema=schema, orient="row")


@st.composite
def tables(draw: st.DrawFn) -> pl.DataFrame:
    """Small tables with distinct times, missing values of every kind, and some events in one cell."""
    count = draw(st.integers(1, 25))
    minutes = draw(st.lists(st.integers(-30_000, 30_000), min_size=count, max_size=count, unique=True))
    amount = st.none() | st.floats(-1e6, 1e6)
    rows = [
        {
            "who": draw(st.sampled_from("abcd")),
            "when": MONDAY + timedelta(minutes=minute, seconds=7),
            "amount": draw(amount),
            "gift": draw(st.none() | st.booleans()),
            "shop": draw(st.none() | st.sampled_from(["x", "y", "z"])),
        }
        for minute in minutes
    ]
    types = {"who": pl.String, "when": pl.Datetime("us"), "amount": pl.Float64, "gift": pl.Boolean, "shop": pl.String}
    return pl.DataFrame(rows, schema=types)


def windows(frame: pl.DataFrame, window: int = 4) -> EventWindows:
    return EventWindows(window, **ROLES, values=(AMOUNT, GIFT, SHOP)).fit(frame)


AMOUNT, GIFT, SHOP = Column("amount", "numeric"), Column("gift", "boolean"), Column("shop", "categorical")
GRIDS = [("day", "hour"), ("week", "weekday"), ("week", "hour")]


def grid(frame: pl.DataFrame, step: str = "day", site: str = "hour", **options: object) -> CalendarGrid:
    return CalendarGrid(step, site, **ROLES, values=(AMOUNT, GIFT), **options).fit(frame)


# Windows of events ----------------------------------------------------------------------------------------------------


def test_events_become_series_in_time_order_with_missing_values_masked() -> None:
    frame = events(("b", MONDAY, 5.0), ("a", MONDAY + timedelta(hours=2), None), ("a", MONDAY, 3.0))
    series = EventWindows(2, **ROLES).fit_transform(frame)
    assert series.channels == ("amount", "time_since_last")
    assert series.entities.to_list() == ["a", "b"]
    assert series.lengths.tolist() == [2, 1]
    assert series.rows.tolist() == [[2, 1], [0, -1]]
    np.testing.assert_array_equal(series.x, [[[3, np.nan], [np.nan, 7200]], [[5, np.nan], [np.nan, np.nan]]])
    assert series.mask.tolist() == [[[True, False], [False, True]], [[True, False], [False, False]]]


@settings(max_examples=60, deadline=None)
@given(tables(), st.integers(1, 6))
def test_windows_and_back_give_the_table(frame: pl.DataFrame, window: int) -> None:
    layout = windows(frame, window)
    series = layout.transform(frame)
    assert series.x.shape[1] % window == 0
    assert int(series.lengths.sum()) == frame.height == int((series.rows >= 0).sum())
    assert_frame_equal(layout.inverse_transform(series), frame)
    cut, seen = series.windows()
    assert cut.shape == seen.shape == (len(series.lengths), series.x.shape[1] // window, window, series.x.shape[2])
    np.testing.assert_array_equal(cut.reshape(series.x.shape), series.x)


@settings(max_examples=30, deadline=None)
@given(tables(), st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_change_series(frame: pl.DataFrame, random: object) -> None:
    order = list(range(frame.height))
    random.shuffle(order)
    one, other = (windows(frame).transform(each) for each in (frame, frame[order]))
    np.testing.assert_array_equal(one.x, other.x)
    np.testing.assert_array_equal(one.lengths, other.lengths)
    assert_series_equal(one.entities, other.entities)
    np.testing.assert_array_equal(np.array(order)[other.rows[other.rows >= 0]], one.rows[one.rows >= 0])


def test_series_go_into_a_layer_and_its_outputs_back_to_the_rows() -> None:
    frame = purchases(customers=5, events=7)
    layout = EventWindows(3, entity="customer", time="time").fit(frame)
    series = layout.transform(frame)
    layer = ConvLSTM1d(len(layout.channels_), 4, 3, window=3, causal=True)
    output, _ = layer(
        torch.from_numpy(series.x).float(), mask=torch.from_numpy(series.mask), lengths=torch.from_numpy(series.lengths)
    )
    rows = series.to_rows(output.detach().numpy())
    assert rows.shape == (35, 4)
    assert np.isfinite(rows).all()
    place = np.argwhere(series.rows == 11)[0]
    np.testing.assert_array_equal(rows[11], output[*place].detach().numpy())
    with pytest.raises(ValueError, match=r"`y` has shape \(5, 2, 4\), but the series \(5, 9\): expected"):
        series.to_rows(output[:, :2].detach().numpy())


def test_a_category_that_the_fit_did_not_see_is_in_no_channel() -> None:
    frame = purchases(customers=4, events=5)
    layout = EventWindows(2, entity="customer", time="time", values=("channel",)).fit(frame)
    assert layout.channels_ == ("channel=phone", "channel=shop", "channel=web", "time_since_last")
    new = layout.transform(frame.head(1).with_columns(channel=pl.lit("fax")))
    assert new.x[0, 0, :3].tolist() == [0, 0, 0]
    assert new.mask[0, 0, :3].all()
    assert layout.inverse_transform(new)["channel"].to_list() == [None]


# Calendar grids -------------------------------------------------------------------------------------------------------


def test_a_grid_counts_everywhere_and_adds_up_where_something_happened() -> None:
    hour = timedelta(hours=1)
    frame = events(
        ("a", MONDAY + 9 * hour, 2.0),
        ("a", MONDAY + 9.5 * hour, 3.0),
        ("a", MONDAY + 10 * hour, None),
        ("b", MONDAY + 50 * hour, 7.0),
    )
    found = CalendarGrid(**ROLES).fit_transform(frame)
    assert found.x.shape == found.mask.shape == (2, 3, 2, 24)
    assert found.channels == ("count", "amount")
    assert found.lengths.tolist() == [[0, 3], [2, 3]]
    assert found.steps.to_list() == [MONDAY + timedelta(days=day) for day in range(3)]
    assert found.x[0, 0, :, 9].tolist() == [2.0, 5.0]
    assert found.x[0, 0, 0, 10] == 1.0
    assert not found.mask[0, 0, 1, 10]  # something happened, and its amount is missing
    assert found.x[0, 1, 0].tolist() == [0.0] * 24  # nothing happened, and that is known
    assert not found.mask[0, 1, 1].any()
    assert not found.mask[1, :2].any()  # b does not exist yet
    assert found.x[1, 2, :, 2].tolist() == [1.0, 7.0]


@pytest.mark.parametrize(
    ("step", "site", "cell"),
    [("day", "hour", (1, 9)), ("week", "weekday", (0, 1)), ("week", "hour", (0, 33))],
)
def test_cells_of_a_tuesday_at_nine(step: str, site: str, cell: tuple[int, int]) -> None:
    frame = events(("a", MONDAY, 1.0), ("a", MONDAY + timedelta(days=1, hours=9, minutes=59), 1.0))
    layout = CalendarGrid(step, site, **ROLES, values=()).fit(frame)
    assert layout.cell_of(frame)[1].tolist() == [0, *cell]
    assert layout.transform(frame).steps[0] == MONDAY


def test_a_week_begins_on_monday_also_before_1970() -> None:
    frame = events(("a", datetime(1969, 12, 28, 23), 1.0), ("a", datetime(1969, 12, 29, 1), 1.0))  # Sunday, Monday
    layout = CalendarGrid("week", "weekday", **ROLES, values=()).fit(frame)
    assert layout.cell_of(frame).tolist() == [[0, 0, 6], [0, 1, 0]]
    assert layout.transform(frame).steps.to_list() == [datetime(1969, 12, 22), datetime(1969, 12, 29)]


@settings(max_examples=60, deadline=None)
@given(tables(), st.sampled_from(GRIDS))
def test_counts_conserve_events_and_sums_totals(frame: pl.DataFrame, kind: tuple[str, str]) -> None:
    layout = grid(frame, *kind)
    found = layout.transform(frame)
    count, amount, gift = (found.x[:, :, channel] for channel in range(3))
    assert np.nansum(count) == frame.height
    assert np.nansum(gift) == frame["gift"].sum()
    size = float(frame["amount"].abs().sum())
    assert np.nansum(amount) == pytest.approx(float(frame["amount"].sum()), abs=1e-12 * size)
    np.testing.assert_array_equal(found.mask, ~np.isnan(found.x))
    exists = (np.arange(len(found.steps)) >= found.lengths[:, :1]) & (
        np.arange(len(found.steps)) < found.lengths[:, 1:]
    )
    np.testing.assert_array_equal(found.mask[:, :, 0].all(-1), exists)
    np.testing.assert_array_equal(found.mask[:, :, 0].any(-1), exists)
    seen = np.zeros_like(found.mask[:, :, 1])
    seen[*layout.cell_of(frame)[frame["amount"].is_not_null().to_numpy()].T] = True
    np.testing.assert_array_equal(found.mask[:, :, 1], seen)  # no amount where there was none


@settings(max_examples=60, deadline=None)
@given(tables(), st.sampled_from(GRIDS), st.sampled_from(["sum", "mean"]))
def test_a_grid_and_back_gives_what_grouping_gives(frame: pl.DataFrame, kind: tuple[str, str], how: str) -> None:
    layout = grid(frame, *kind, aggregate=how)
    start = pl.col("when").dt.truncate("1d" if kind[0] == "day" else "1w")
    site = {
        ("day", "hour"): pl.col("when").dt.hour().cast(pl.Int64),
        ("week", "weekday"): pl.col("when").dt.weekday().cast(pl.Int64) - 1,
        ("week", "hour"): (pl.col("when").dt.weekday().cast(pl.Int64) - 1) * 24 + pl.col("when").dt.hour(),
    }[kind]
    groups = frame.group_by(pl.col("who").alias("entity"), start.alias("step"), site.alias("site"))
    observed = [pl.col(name).drop_nulls().cast(pl.Float64) for name in ("amount", "gift")]
    wanted = groups.agg(
        pl.len().cast(pl.Int64).alias("count"),
        *(pl.when(each.len() > 0).then(each.sum() if how == "sum" else each.mean()) for each in observed),
    )
    found = layout.inverse_transform(layout.transform(frame))
    assert_frame_equal(found, wanted.sort("entity", "step", "site"), abs_tol=1e-6)


@settings(max_examples=30, deadline=None)
@given(tables(), st.sampled_from(GRIDS), st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_change_a_grid(frame: pl.DataFrame, kind: tuple[str, str], random: object) -> None:
    order = list(range(frame.height))
    random.shuffle(order)
    layout = grid(frame, *kind)
    one, other = layout.transform(frame), layout.transform(frame[order])
    np.testing.assert_array_equal(one.x, other.x)  # bitwise, sums of floats included
    np.testing.assert_array_equal(one.lengths, other.lengths)
    assert_series_equal(one.entities, other.entities)
    np.testing.assert_array_equal(layout.cell_of(frame)[order], layout.cell_of(frame[order]))


def test_a_sum_of_floats_does_not_depend_on_the_order_of_rows() -> None:
    frame = events(*[("a", MONDAY + timedelta(hours=9), amount) for amount in (1e16, 1.0, 1.0, -1e16, 0.1, 0.2)])
    sums = [grid(each.with_columns(gift=True)).transform(each.with_columns(gift=True)).x[0, 0, 1, 9]
            for each in (frame, frame.reverse(), frame[[1, 0, 4, 3, 2, 5]])]  # fmt: skip
    assert sums[0] == sums[1] == sums[2]


def test_scores_of_cells_go_back_to_events() -> None:
    frame = purchases(customers=4, events=6)
    layout = CalendarGrid(entity="customer", time="time").fit(frame)
    found = layout.transform(frame)
    n, t, site = layout.cell_of(frame).T
    assert found.entities.gather(n).to_list() == frame["customer"].to_list()
    assert (found.x[n, t, 0, site] >= 1).all()
    assert found.steps.gather(t).to_list() == frame["time"].dt.truncate("1d").to_list()
    assert frame["time"].dt.hour().to_list() == site.tolist()


def test_times_with_an_offset_are_in_utc_and_times_without_as_written() -> None:
    late = datetime(2024, 1, 1, 23, 30, tzinfo=timezone(timedelta(hours=-2)))
    zoned = pl.DataFrame({"who": ["a"], "when": [late], "amount": [1.0]})
    layout = CalendarGrid(**ROLES).fit(zoned)
    assert layout.cell_of(zoned).tolist() == [[0, 0, 1]]
    assert layout.transform(zoned).steps[0] == datetime(2024, 1, 2, tzinfo=UTC)
    written = zoned.with_columns(when=pl.lit(datetime(2024, 1, 1, 23, 30)))
    assert CalendarGrid(**ROLES).fit(written).cell_of(written).tolist() == [[0, 0, 23]]


def test_seconds_without_a_calendar_are_counted_from_zero() -> None:
    frame = pl.DataFrame({"who": ["a", "a"], "when": [3600.0, 8.5 * 86_400], "amount": [1.0, 2.0]})
    layout = CalendarGrid("week", "weekday", **ROLES).fit(frame)
    assert layout.cell_of(frame).tolist() == [[0, 0, 0], [0, 1, 1]]
    assert layout.transform(frame).steps.to_list() == [0.0, 7 * 86_400.0]


def test_hours_are_asked_for_at_the_fit_and_not_of_every_table() -> None:
    frame = events(("a", MONDAY, 1.0), ("a", MONDAY + timedelta(hours=9), 2.0))
    layout = CalendarGrid(**ROLES).fit(frame)
    assert layout.cell_of(frame[:1]).tolist() == [[0, 0, 0]]  # at midnight, which a date would be too


def test_a_grid_goes_into_a_layer() -> None:
    frame = purchases(customers=5, events=7)
    found = CalendarGrid("week", "weekday", entity="customer", time="time").fit_transform(frame)
    layer = ConvLSTM1d(len(found.channels), 4, 3)
    x, mask, lengths = (torch.from_numpy(array) for array in (found.x, found.mask, found.lengths))
    output, _ = layer(x.float(), mask=mask, lengths=lengths)
    assert output.shape == (5, len(found.steps), 4, 7)
    assert bool(output.isfinite().all())


# What both share ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [EventWindows(4, **ROLES), CalendarGrid("week", "hour", **ROLES)])
def test_frames_tables_and_files_are_laid_out_alike(layout: EventWindows | CalendarGrid, tmp_path: object) -> None:
    frame = purchases(customers=4, events=6).rename({"customer": "who", "time": "when"}).drop("channel")
    frame.write_csv(tmp_path / "events.csv")
    wanted = clone(layout).fit_transform(frame)
    for other in (frame.to_pandas(), frame.to_arrow(), tmp_path / "events.csv", read_table(frame, **ROLES)):
        found = clone(layout).fit_transform(other)
        np.testing.assert_array_equal(found.x, wanted.x)
        assert found.channels == wanted.channels


def test_a_fitted_layout_reads_a_table_of_another_time_with_its_own_columns() -> None:
    frame = purchases(customers=4, events=6)
    for layout in (EventWindows(entity="customer", time="time"), CalendarGrid(entity="customer", time="time")):
        fitted = layout.fit(frame)
        one = fitted.transform(frame.head(1))
        assert one.x.shape[0] == 1
        assert one.channels == fitted.channels_


def test_a_named_value_restricts_an_event_table_too() -> None:
    table = read_table(purchases(customers=4, events=6))
    assert EventWindows(values=("gift",)).fit(table).channels_ == ("gift", "time_since_last")
    assert CalendarGrid(values=("gift",)).fit(table).channels_ == ("count", "gift")


@pytest.mark.parametrize(
    ("layout", "frame", "message"),
    [
        (CalendarGrid("day", "weekday"), None, r"step \(='day'\) with site \(='weekday'\) makes no grid: there are"),
        (CalendarGrid(aggregate="median"), None, r"aggregate \(='median'\) must be 'sum' or 'mean'"),
        (CalendarGrid(values=("channel",)), None, "column 'channel' is categorical, and a grid adds up amounts"),
        (CalendarGrid(values=("amuont",)), None, "the table has no value column 'amuont': did you mean 'amount'"),
        (EventWindows(0), None, r"window \(=0\) must be a whole number from 1"),
        (
            CalendarGrid(**ROLES),
            pl.DataFrame({"who": ["a", "a"], "when": [MONDAY.date()] * 2, "amount": [1.0, 2.0]}),
            "'when' holds dates without hours, so no event has an hour: give step='week', site='weekday'",
        ),
        (
            CalendarGrid(**ROLES),
            events(("a", MONDAY, 1.0), ("a", MONDAY + timedelta(hours=1), 2.0)).rename({"amount": "count"}),
            "column 'count' has a name that the grid uses itself",
        ),
    ],
)
def test_what_cannot_be_laid_out_is_refused(layout: CalendarGrid, frame: pl.DataFrame | None, message: str) -> None:
    frame = purchases(customers=3, events=5) if frame is None else frame
    with pytest.raises(ValueError, match=message):
        layout.fit(frame).transform(frame)


def test_an_event_table_that_was_read_otherwise_is_refused() -> None:
    frame = purchases(customers=3, events=5)
    fitted = EventWindows(entity="customer", time="time").fit(frame)
    with pytest.raises(TableError, match="column 'gift' was boolean at the fit, and is not here"):
        fitted.transform(read_table(frame.with_columns(gift=pl.col("gift").cast(pl.Float64) + 0.5)))
    with pytest.raises(TableError, match="the table has no value column 'gift'"):
        fitted.transform(read_table(frame.drop("gift")))


def test_a_grid_that_forgot_an_event_would_be_seen() -> None:
    """The law of conservation can fail: a mutant without the last event does not pass it."""
    frame = purchases(customers=3, events=5)
    found: EventGrid = CalendarGrid(entity="customer", time="time").fit_transform(frame[:-1])
    assert np.nansum(found.x[:, :, 0]) != frame.height
