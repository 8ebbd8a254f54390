"""Event by event: the scores of every split are those of the whole, and a state is refused where it does not belong."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timedelta
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from gapcell.detect import Detector, FitOptions, ModelError, SequenceDetector, TableError, fit, read_table
from gapcell.detect.carried import LAST
from gapcell.detect.online import OnlineState
from gapcell.detect.records import carried_of
from gapcell.detect.score_frame import Judged, score_frame

from .conftest import FAST, purchases

KEYS = ("customer", "till")
ENCODERS = ("none", "lstm", "convlstm", "convgru", "calendar")
VARIANTS = {
    **{encoder: {"encoder": encoder} for encoder in ENCODERS},
    "window of one": {"encoder": "convlstm", "window": 1},
    "reports": {"encoder": "convlstm", "label_delay": 86_400.0},
    "supervised, with reports": {"encoder": "convgru", "label_delay": 86_400.0, "supervised": True},
}


def events() -> pl.DataFrame:
    """Purchases at tills, some of them at none, and a label known of some."""
    draws = np.random.default_rng(3)
    frame = purchases(40, 20).sort("time")
    tills = draws.choice(["north", "south", "east", None], frame.height)
    fraud = (frame["amount"].fill_null(0) > frame["amount"].quantile(0.9)).to_numpy()
    known = draws.random(frame.height) < 0.9
    labels = [bool(is_so) if told else None for is_so, told in zip(fraud, known, strict=True)]
    return frame.with_columns(till=pl.Series(tills.tolist()), fraud=pl.Series(labels))


@pytest.fixture(scope="module")
def frame() -> pl.DataFrame:
    return events()


@pytest.fixture(scope="module", params=VARIANTS, ids=lambda name: name.replace(" ", "-"))
def detector(request: pytest.FixtureRequest, frame: pl.DataFrame) -> Detector:
    options = FitOptions(**{**FAST, **VARIANTS[request.param]})
    label = "fraud" if options.label_delay is not None or options.supervised else None
    table = read_table(frame, entity=KEYS, time="time", values=["amount", "channel", "gift"], label=label)
    return fit(table, options)


@pytest.fixture(scope="module")
def simple(frame: pl.DataFrame) -> Detector:
    """Of one key, and quick to fit."""
    return fit(read_table(frame, entity="customer", time="time", values=["amount", "channel"]), FitOptions(**FAST))


def whole(detector: Detector, frame: pl.DataFrame) -> pl.DataFrame:
    """The scores of all events at once."""
    table = detector.read_new(frame)
    return score_frame(Judged(table, detector.features, detector.scored(table), detector.threshold))


def in_steps(detector: Detector, frame: pl.DataFrame, cuts: list[int]) -> pl.DataFrame:
    """The scores of pieces of the table, one after the other, the state put away and fetched again between them."""
    state, found = None, []
    for begin, end in pairwise([0, *cuts, frame.height]):
        state, scores = detector.step(state, frame[begin:end])
        state = detector.restore(state.to_bytes())
        found.append(scores)
    return pl.concat(found)


@pytest.mark.parametrize("pieces", [1, 2, 7, 60])
def test_scores_in_steps_are_those_of_the_whole_history(detector: Detector, frame: pl.DataFrame, pieces: int) -> None:
    cuts = sorted(np.random.default_rng(pieces).choice(np.arange(1, frame.height), pieces - 1, replace=False).tolist())
    assert_frame_equal(in_steps(detector, frame, cuts), whole(detector, frame), rel_tol=1e-5, abs_tol=1e-5)


def test_one_event_at_a_time(detector: Detector, frame: pl.DataFrame) -> None:
    few = frame.filter(pl.col("customer").is_in(["c001", "c002"]))
    found = in_steps(detector, few, list(range(1, few.height)))
    assert_frame_equal(found, whole(detector, few), rel_tol=1e-5, abs_tol=1e-5)


def test_a_state_that_is_forgotten_is_noticed(simple: Detector, frame: pl.DataFrame) -> None:
    half = frame.height // 2
    _, fresh = simple.step(None, frame[half:])
    with pytest.raises(AssertionError):
        assert_frame_equal(fresh, whole(simple, frame)[half:], rel_tol=1e-2, abs_tol=1e-2)


def test_reasons_know_the_history(simple: Detector, frame: pl.DataFrame) -> None:
    half = frame.height // 2
    state, _ = simple.step(None, frame[:half])
    _, found = simple.step(state, frame[half:], reasons=True)
    wanted = simple.score(simple.read(frame)).frame["reason"][half:]
    assert found["reason"].to_list() == wanted.to_list()


def test_a_step_changes_no_state_but_gives_a_new_one(simple: Detector, frame: pl.DataFrame) -> None:
    first, _ = simple.step(None, frame[:100])
    before = first.to_bytes()
    second, scores = simple.step(first, frame[100:200])
    assert first.to_bytes() == before != second.to_bytes()
    again, same = simple.step(first, frame[100:200])
    assert again.to_bytes() == second.to_bytes()
    assert_frame_equal(same, scores)


def test_the_order_of_entities_in_a_step_changes_nothing(simple: Detector, frame: pl.DataFrame) -> None:
    state, _ = simple.step(None, frame[:300])
    rest = frame[300:].with_row_index()
    mixed = rest.sort("customer", "time", descending=[True, False])
    after, scores = simple.step(state, rest)
    other, found = simple.step(state, mixed)
    found = found.with_columns(mixed["index"]).sort("index").drop("index")
    assert_frame_equal(found, scores, rel_tol=1e-5, abs_tol=1e-5)
    assert set(other.series[0]) == set(after.series[0])


def test_a_late_event_is_not_scored_says_so_and_leaves_nothing_behind(simple: Detector, frame: pl.DataFrame) -> None:
    state, _ = simple.step(None, frame)
    last = frame.filter(customer="c001")[-1]
    late = last.with_columns(pl.col("time") - timedelta(hours=2))
    on_time = last.with_columns(pl.col("time") + timedelta(days=2))
    after, found = simple.step(state, pl.concat([late, on_time]), reasons=True)
    assert found["score"].is_null().to_list() == [True, False]
    assert found["alert"][0] is False
    assert found["not_scored"][0].startswith("late: 2 hours before its series' last event")
    assert found["reason"][0] == "not scored: " + found["not_scored"][0]
    alone, wanted = simple.step(state, on_time, reasons=True)
    assert after.to_bytes() == alone.to_bytes()
    assert_frame_equal(found[1:], wanted)
    unchanged, nothing = simple.step(state, late)
    assert unchanged.to_bytes() == state.to_bytes()
    assert nothing.height == 1


def test_an_event_of_the_same_moment_is_not_late(simple: Detector, frame: pl.DataFrame) -> None:
    twice = pl.concat([frame, frame[-1:]])
    state, _ = simple.step(None, frame)
    _, found = simple.step(state, frame[-1:])
    assert_frame_equal(found, whole(simple, twice)[-1:], rel_tol=1e-5, abs_tol=1e-5)


def test_a_state_is_as_long_for_a_long_history_as_for_a_short_one(simple: Detector, frame: pl.DataFrame) -> None:
    one = frame.filter(customer="c001")
    short, _ = simple.step(None, one[:1])
    long, _ = simple.step(None, one)
    assert len(short) == len(long) == 1
    assert len(short.to_bytes()) == len(long.to_bytes()) < 8_000


def test_the_state_of_another_detector_is_refused(simple: Detector, frame: pl.DataFrame) -> None:
    state, _ = simple.step(None, frame[:50])
    other = dataclasses.replace(simple, threshold=simple.threshold + 1)
    for use in (lambda: other.step(state, frame[50:60]), lambda: other.restore(state.to_bytes())):
        with pytest.raises(ModelError, match=f"belongs to the detector {simple.identity[:12]}, .* begin a new state"):
            use()


def test_the_state_is_that_of_the_saved_detector(simple: Detector, frame: pl.DataFrame, tmp_path) -> None:
    state, _ = simple.step(None, frame[:300])
    simple.save(tmp_path)
    loaded = Detector.load(tmp_path)
    assert loaded.identity == simple.identity
    _, found = loaded.step(loaded.restore(state.to_bytes()), frame[300:])
    assert_frame_equal(found, whole(simple, frame)[300:], rel_tol=1e-5, abs_tol=1e-5)


def test_damaged_states_are_refused(simple: Detector, frame: pl.DataFrame) -> None:
    contents = simple.step(None, frame[:50])[0].to_bytes()
    draws = np.random.default_rng(0)
    for place in draws.integers(0, len(contents), 200):
        damaged = bytearray(contents)
        damaged[place] ^= 1 << int(draws.integers(8))
        with pytest.raises(ModelError, match="damaged"):
            simple.restore(bytes(damaged))
    for cut in (0, 10, 32, len(contents) - 1):
        with pytest.raises(ModelError, match="damaged"):
            simple.restore(contents[:cut])


def test_numbers_that_no_event_leaves_behind_are_refused(detector: Detector, frame: pl.DataFrame) -> None:
    state, _ = detector.step(None, frame[:50])
    key, row = next(iter(state.series[0].items()))
    model = detector.streams[0]
    carried = carried_of(model, [row])
    for field in carried.records.dtype.names:
        broken = carried.records.copy()
        if broken[field].dtype.kind != "f" or not broken[field].size:
            continue
        broken[field] = np.inf
        with pytest.raises(ModelError, match="no event leaves behind"):
            carried_of(model, [dataclasses.replace(carried, records=broken).rows()[0]])
    with pytest.raises(ModelError, match="another length"):
        detector.step(OnlineState(state.model, ({key: row[:-1]}, {})), frame[50:100].filter(customer=key))


def test_labels_that_are_not_there_are_not_known_yet(frame: pl.DataFrame) -> None:
    table = read_table(frame, entity="customer", time="time", values=["amount"], label="fraud")
    detector = fit(table, FitOptions(**FAST | {"label_delay": 86_400.0}))
    unknown = frame.with_columns(fraud=pl.lit(None, pl.Boolean))
    _, found = detector.step(None, frame.drop("fraud"))
    assert_frame_equal(found, whole(detector, unknown))


def test_a_column_that_is_not_there_is_named(simple: Detector, frame: pl.DataFrame) -> None:
    with pytest.raises(TableError, match="'amount'"):
        simple.step(None, frame.drop("amount"))


def test_the_last_time_is_kept_to_the_microsecond(simple: Detector) -> None:
    when = datetime(2024, 5, 1, 12, 30, 15, 123456)
    one = pl.DataFrame({"customer": ["x"], "time": [when], "amount": [3.0], "channel": ["web"]})
    state, _ = simple.step(None, one)
    carried = carried_of(simple.streams[0], [state.series[0]["x"]])
    assert carried.records[LAST][0] == simple.read(one).seconds[0]


def test_the_estimator_steps_with_frames_of_any_kind(frame: pl.DataFrame) -> None:
    estimator = SequenceDetector("customer", time="time", values=["amount", "channel"], **FAST).fit(frame)
    state, found = estimator.step(None, frame[:300].to_pandas())
    state, rest = estimator.step(estimator.restore(state.to_bytes()), frame[300:])
    assert type(found).__module__.startswith("pandas")
    assert_frame_equal(rest, estimator.score(frame)[300:], rel_tol=1e-5, abs_tol=1e-5)
