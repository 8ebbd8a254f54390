"""Scores for events as they come: those of the whole table, each exactly once, whatever comes in between."""

from __future__ import annotations

import contextlib
import io
import json
import os
import threading
import time
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from gapcell.detect import Detector, TableError
from gapcell.detect.score_frame import Judged, score_frame
from gapcell.stream import Counts, FileTarget, PipeTarget, Policy, SQLiteStore, StoreError, TargetError, run
from gapcell.stream.sources import LONGEST_LINE, Descriptor, FileSource

from .conftest import purchases
from .streams_of_events import QUICKLY, Place, as_lines, read_end


@pytest.fixture(scope="module")
def events() -> pl.DataFrame:
    """Purchases in the order of their times, with ids."""
    frame = purchases().sort("time")
    return frame.with_columns(event=pl.format("e{}", pl.int_range(frame.height)))


@pytest.fixture
def place(tmp_path: Path, detector: Detector) -> Place:
    return Place(tmp_path, detector)


def wanted(detector: Detector, events: pl.DataFrame) -> pl.DataFrame:
    """The scores of the whole table."""
    table = detector.read(events)
    frame = score_frame(Judged(table, detector.features, detector.scored(table), detector.threshold))
    return frame.drop("entity", "time").with_columns(id=events["event"])


def delivered(place: Place) -> pl.DataFrame:
    """The scores that were delivered, as a frame."""
    return pl.read_ndjson(io.BytesIO(place.output.read_bytes()), infer_schema_length=None)


def same_scores(place: Place, detector: Detector, events: pl.DataFrame) -> None:
    expected = wanted(detector, events)
    found = delivered(place).select(expected.columns)
    assert_frame_equal(found, expected, check_row_order=True, check_dtypes=False, rel_tol=1e-5, abs_tol=1e-5)


@pytest.mark.parametrize("most", [1, 64, 5000])
def test_a_stream_has_the_scores_of_the_whole_table(
    place: Place, detector: Detector, events: pl.DataFrame, most: int
) -> None:
    few = events[:150] if most == 1 else events
    counts = place.run(as_lines(few), most=most)
    assert (counts.events, counts.again, counts.late, counts.refused) == (few.height, 0, 0, 0)
    assert counts.alerts == sum(score["alert"] for score in place.scores())
    same_scores(place, detector, few)


def test_csv_says_the_same_as_json(place: Place, detector: Detector, events: pl.DataFrame) -> None:
    counts = place.run(events.write_csv().splitlines())
    assert counts.events == events.height
    same_scores(place, detector, events)


def test_a_run_goes_on_where_the_last_one_ended(place: Place, detector: Detector, events: pl.DataFrame) -> None:
    lines = as_lines(events)
    place.run(lines[:500])
    counts = place.run(lines)  # all of them again
    assert (counts.events, counts.again) == (events.height - 500, 500)
    same_scores(place, detector, events)


def test_an_event_that_comes_twice_is_scored_once(place: Place, detector: Detector, events: pl.DataFrame) -> None:
    lines = as_lines(events)
    twice = [line for pair in zip(lines, lines, strict=True) for line in pair]
    counts = place.run(twice[:1000] + lines[:700] + lines[500:])
    assert (counts.events, counts.again) == (events.height, 1000 + 700 + events.height - 500 - events.height)
    same_scores(place, detector, events)


def test_without_ids_an_event_is_known_by_its_place_and_its_line(place: Place, events: pl.DataFrame) -> None:
    lines = as_lines(events[:200].drop("event"))
    assert place.run(lines[:120], id_column=None).events == 120
    counts = place.run(lines, id_column=None)
    assert (counts.events, counts.again) == (80, 120)
    others = as_lines(events[200:300].drop("event"))
    assert place.run(others, id_column=None).events == 100  # other events in the same places are not taken for these


def test_late_events_are_delivered_without_a_score(place: Place, detector: Detector, events: pl.DataFrame) -> None:
    last = events.filter(customer="c001")[-1]
    late = last.with_columns(pl.col("time") - timedelta(days=3), event=pl.lit("late"))
    counts = place.run([*as_lines(events), *as_lines(late)])
    assert counts.late == 1
    found = place.scores()[-1]
    assert found["id"] == "late"
    assert found["score"] is None
    assert found["not_scored"].startswith("late: 3 days before its series' last event")
    assert not found["alert"]


def test_events_in_the_wrong_order_are_put_right_within_the_lateness(
    place: Place, detector: Detector, events: pl.DataFrame
) -> None:
    hours = timedelta(hours=6)
    delays = np.random.default_rng(0).random(events.height).tolist()
    came = sorted(range(events.height), key=lambda row: events["time"][row] + delays[row] * hours)
    assert came != list(range(events.height))
    mixed = as_lines(events[came])
    counts = place.run(mixed, lateness=hours.total_seconds())
    assert counts.late == 0
    same_scores(place, detector, events)


def test_held_events_are_read_again_after_a_kill(place: Place, detector: Detector, events: pl.DataFrame) -> None:
    lines = as_lines(events)
    day = 86_400.0
    source = place.folder / "events"
    source.write_text("\n".join(lines[:600]) + "\n", encoding="utf-8")

    def kill(counts: Counts) -> None:
        if counts.events > 300:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(detector, SQLiteStore(place.store), FileSource(source), FileTarget(place.output),
            Policy(**QUICKLY, lateness=day), watch=kill)  # fmt: skip
    assert len(place.ids()) < 600
    place.run(lines, lateness=day)
    same_scores(place, detector, events)


def test_events_that_cannot_be_read_are_delivered_with_the_reason(
    place: Place, detector: Detector, events: pl.DataFrame
) -> None:
    good = as_lines(events[:40])
    bad = {
        "not JSON": "the line is no JSON",
        "[1, 2]": "the line is JSON, but no object",
        '{"event": "x1", "customer": "c001", "time": "31/31/2024", "amount": 3}': "time column 'time'",
        '{"event": "x2", "time": "2030-01-01 10:00:00", "amount": 3}': "entity column 'customer', row 1 is empty",
        '{"event": "x3", "customer": "c001", "time": "2024-06-01 10:00:00", "amount": "much"}': "holds 'much', where a",
        '{"event": "x4", "customer": "c001", "time": "2024-06-01 10:00:00", "amount": Infinity}': "an infinite amount",
        '{"event": "x5", "customer": "c001", "time": "2024-06-01 10:00:00", "amount": [3]}': "'amount' holds a list",
        '{"customer": "c001", "time": "2024-06-01 10:00:00", "amount": 3}': "the event has no id in 'event'",
        '{"event": "x6", "customer": "c001", "time": "2990-01-01 10:00:00", "amount": 3}': "too far ahead of the clock",
        '{"event": "x7", "customer": "c001", "time": 1e400, "amount": 3}': "time column 'time'",
        '{"event": "x8\\u0000", "customer": "c001", "time": "2024-06-01 10:00:00"}': "'event' holds a NUL character",
        '{"event": "x9", "customer": "\\ud800", "time": "2024-06-01 10:00:00"}': "or half of one that takes two",
        "nothing\0": "the line holds a NUL character",
        "x" * (LONGEST_LINE + 1): "the line is longer than 1,048,576 bytes",
    }
    lines = [line for pair in zip(good, [*bad, *[""] * 40], strict=False) for line in pair]
    counts = place.run(lines)
    assert counts.refused == len(bad)
    assert counts.events == len(good) + len(bad)
    told = {score["not_scored"]: score for score in place.scores() if score["score"] is None}
    for line, why in bad.items():
        assert any(why in (said or "") for said in told), (line[:50], why)
    scores = delivered(place).filter(pl.col("id").is_in(events["event"]))
    expected = wanted(detector, events[:40])
    assert_frame_equal(scores.select(expected.columns), expected, check_dtypes=False, rel_tol=1e-5, abs_tol=1e-5)


def test_text_that_is_not_utf8_is_said_of_its_event(place: Place, events: pl.DataFrame) -> None:
    source = place.folder / "bytes"
    source.write_bytes(as_lines(events[:1])[0].encode() + b"\n\xff\xfe\n" + as_lines(events[1:2])[0].encode())
    assert place.run_on(source).refused == 1
    assert place.scores()[1]["not_scored"] == "the line is not UTF-8 text"


def test_columns_that_come_and_go_are_said_once(place: Place, events: pl.DataFrame) -> None:
    first, second = events[:200], events[200:400].drop("channel").with_columns(colour=pl.lit("red"))
    counts = place.run([*as_lines(first), *as_lines(second)])
    assert counts.events == 400
    assert counts.notices == [
        "column 'colour' is not one of the model's, and is not read",
        "column 'channel' is not there: it counts as missing",
    ]
    assert "channel is missing" in place.scores()[-1]["not_scored"]


def test_a_category_that_was_never_seen_is_scored(place: Place, events: pl.DataFrame) -> None:
    one = events[:1].with_columns(channel=pl.lit("carrier pigeon"))
    place.run(as_lines(one), reasons="all")
    found = place.scores()[0]
    assert found["score_channel"] > 2
    assert "never seen in training" in found["reason"]


def test_reasons_come_with_alerts_alone_unless_asked(place: Place, detector: Detector, events: pl.DataFrame) -> None:
    place.run(as_lines(events))
    scores = place.scores()
    assert any(score["alert"] for score in scores)
    assert all((score["reason"] is not None) == score["alert"] for score in scores)
    reasons = detector.score(detector.read(events)).frame["reason"].to_list()
    assert [(s, w) for s, w in zip(scores, reasons, strict=True) if s["alert"] and s["reason"] != w] == []


def test_csv_output_has_one_header(place: Place, detector: Detector, events: pl.DataFrame) -> None:
    lines = as_lines(events)
    place.run(lines[:300], output="csv")
    place.run(lines, output="csv")
    found = pl.read_csv(place.output)
    expected = wanted(detector, events)
    assert_frame_equal(found.select(expected.columns), expected, check_dtypes=False, rel_tol=1e-5, abs_tol=1e-5)


def test_a_line_break_in_a_text_does_not_break_a_line_of_csv(place: Place, events: pl.DataFrame) -> None:
    one = events[:1].with_columns(customer=pl.lit('a\nb,\r\n"c'))
    assert place.run(as_lines(one), output="csv").events == 1
    found = pl.read_csv(place.output)
    assert found["entity"].to_list() == ['a b,  "c']


def test_the_first_of_two_events_with_one_id_keeps_its_place(place: Place, events: pl.DataFrame) -> None:
    lines = as_lines(events[:3])
    place.run([*lines, lines[0]])
    assert place.ids() == events["event"][:3].to_list()


def test_columns_that_anybody_makes_up_are_not_said_without_end(place: Place, events: pl.DataFrame) -> None:
    line = json.loads(as_lines(events[:1])[0])
    lines = [json.dumps(line | {"event": f"n{number}", f"made up {number}": 1}) for number in range(300)]
    assert len(place.run(lines, most=1).notices) == 100


def test_two_columns_of_one_name_are_refused(place: Place) -> None:
    with pytest.raises(TableError, match="two columns named 'amount'"):
        place.run(["customer,time,amount,amount", "c1,2024-01-01,3,4"])


def test_an_output_of_something_else_is_refused(place: Place, events: pl.DataFrame) -> None:
    place.output.write_text("something else\n", encoding="utf-8")
    with pytest.raises(TargetError, match="holds something already, and the store is new: give the store"):
        place.run(as_lines(events[:10]))
    assert place.output.read_text(encoding="utf-8") == "something else\n"


def test_what_a_file_held_before_stays_also_when_nothing_was_scored(
    place: Place, detector: Detector, events: pl.DataFrame
) -> None:
    place.output.write_text("from before\n", encoding="utf-8")
    source = place.folder / "events"
    for lines in ([], [], as_lines(events[:20])):  # two runs that ended before their first batch, and one that did not
        source.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        descriptor = os.open(place.output, os.O_WRONLY | os.O_APPEND)  # as >> opens it
        target = FileTarget(descriptor, append=True)
        run(detector, SQLiteStore(place.store), FileSource(source), target, Policy(**QUICKLY))
        os.close(descriptor)
    assert place.output.read_text(encoding="utf-8").startswith("from before\n{")
    assert len(place.output.read_text(encoding="utf-8").splitlines()) == 21


def test_an_output_that_was_lost_is_refused(place: Place, events: pl.DataFrame) -> None:
    lines = as_lines(events)
    place.run(lines[:300])
    place.output.write_bytes(place.output.read_bytes()[:100])
    with pytest.raises(TargetError, match=r"has 100 bytes, and the store has seen [\d,]+ written: give the file"):
        place.run(lines)


@pytest.mark.parametrize("killed", [False, True])
def test_a_pipe_gets_what_was_under_way_at_a_kill_once_more(
    place: Place, detector: Detector, events: pl.DataFrame, killed: bool
) -> None:
    lines = as_lines(events[:40])
    found = []

    def watch(counts: Counts) -> None:
        if killed and counts.events == 30:
            raise KeyboardInterrupt

    for count in (30, 40):
        reading, writing = os.pipe()
        data = ("\n".join(lines[:count]) + "\n").encode()
        with contextlib.suppress(KeyboardInterrupt):
            run(detector, SQLiteStore(place.store), Descriptor(read_end(data)), PipeTarget(writing),
                Policy(**QUICKLY), watch=watch)  # fmt: skip
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            found.append([json.loads(line)["id"] for line in pipe])
    ids = events["event"].to_list()
    assert found == [ids[:30], ids[:40] if killed else ids[30:40]]


def test_a_reader_that_went_away_is_said(place: Place, detector: Detector, events: pl.DataFrame) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    data = ("\n".join(as_lines(events[:5])) + "\n").encode()
    with pytest.raises(TargetError, match="nobody reads the output any more"):
        run(detector, SQLiteStore(place.store), Descriptor(read_end(data)), PipeTarget(writing), Policy(**QUICKLY))
    os.close(writing)


def test_a_file_is_followed_until_it_is_told_to_stop(place: Place, detector: Detector, events: pl.DataFrame) -> None:
    lines, source, stop = as_lines(events), place.folder / "log", threading.Event()
    source.write_text("\n".join(lines[:100]) + "\n" + lines[100][:20], encoding="utf-8")
    work = threading.Thread(target=run, args=(
        detector, SQLiteStore(place.store), FileSource(source, follow=True), FileTarget(place.output),
        Policy(**QUICKLY),
    ), kwargs={"stop": stop})  # fmt: skip
    work.start()
    waited_for(lambda: place.output.exists() and len(place.ids()) == 100)
    with source.open("a", encoding="utf-8") as file:
        file.write(lines[100][20:] + "\n" + "\n".join(lines[101:300]) + "\n")
    waited_for(lambda: len(place.ids()) == 300)
    stop.set()
    work.join(10)
    assert not work.is_alive()
    same_scores(place, detector, events[:300])


def waited_for(condition) -> None:
    """Wait until something is so."""
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until, "it never came"
        time.sleep(0.02)


def test_two_processes_refuse_each_other(place: Place, detector: Detector) -> None:
    first, second = SQLiteStore(place.store), SQLiteStore(place.store)
    assert first.begin(detector.identity) is None
    with pytest.raises(StoreError, match=r"another process works with .*state.sqlite: wait for its end, or give"):
        second.begin(detector.identity)
    first.close()
    second.close()
    assert second.begin(detector.identity) is None
    second.close()


def test_the_store_of_another_model_is_refused(place: Place, events: pl.DataFrame) -> None:
    place.run(as_lines(events[:10]))
    store = SQLiteStore(place.store)
    with pytest.raises(
        StoreError, match=r"belongs to the model [0-9a-f]{12}, and this one is another: give that model"
    ):
        store.begin("another")
    store.close()


def test_a_file_that_is_no_store_is_refused(place: Place, events: pl.DataFrame) -> None:
    place.store.write_bytes(b"not a data base" * 100)
    with pytest.raises(StoreError, match=r"cannot be used: file is not a database"):
        place.run(as_lines(events[:10]))
    assert place.store.read_bytes() == b"not a data base" * 100


@pytest.mark.parametrize("name", ["lateness", "ahead", "most", "wait"])
def test_numbers_out_of_range_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} \(=-1\) must be at least"):
        Policy(**{name: -1})


def test_times_in_the_output_are_those_of_the_events(place: Place) -> None:
    line = '{"event": "a", "customer": "c1", "time": "2024-05-01T12:30:15.5Z", "amount": 3.5}'
    place.run([line])
    found = place.scores()[0]
    assert found["entity"] == "c1"
    assert datetime.fromisoformat(found["time"]).replace(tzinfo=None) == datetime(2024, 5, 1, 12, 30, 15, 500000)


NASTY = [
    None, True, False, 0, -1, 1e308, -1e308, 1e-320, 10**30, 2**63, "", " ", "nan", "NaN", "inf", "-inf", "1e309",
    "0x10", "\uff11\uff12", "1,5", "1_000", "2024-13-45", "0000-00-00", "9999-12-31 23:59:59", "-9999-01-01",
    "2024-05-01T24:00:00Z", "2024-05-01 10:00:00+25:00", "2024-05-01 10:00:00 +02:00", "1714560000000", "20240501",
    "web", "\u202ephone", "a\nb", "x" * 5000, "'; DROP TABLE series; --", '{"a": 1}', [], {}, [[]], "\ufeff",
    "\U0001d518", "\x1b[2J",
]  # fmt: skip


@pytest.mark.parametrize("lateness", [0.0, 3600.0])
def test_whatever_comes_comes_out_once(place: Place, events: pl.DataFrame, lateness: float) -> None:
    draws = np.random.default_rng(7)
    good = [json.loads(line) for line in as_lines(events[:300])]
    lines = []
    for number in range(1500):
        line = dict(good[number % len(good)]) | {"event": f"n{number}"}
        for name in draws.choice(["customer", "time", "amount", "channel", "gift", "event"], 2, replace=False).tolist():
            if draws.random() < 0.4:
                line[name] = NASTY[draws.integers(len(NASTY))] if name != "event" else f"n{draws.integers(1500)}"
        lines.append(json.dumps(line, ensure_ascii=bool(draws.random() < 0.5)))
    counts = place.run(lines, lateness=lateness, reasons="all")
    ids = place.ids()
    assert len(ids) == len(set(ids)) == counts.events
    assert counts.events + counts.again == len(lines)
    again = place.run(lines, lateness=lateness, reasons="all")
    assert (again.events, again.again) == (0, len(lines))
