"""Fitting and scoring: no leak, the same alone and in a batch, reasons in words, refusals."""

from __future__ import annotations

import copy
import math
import re
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal

from gapcell.detect import Detection, Detector, EventTable, FitOptions, TableError, fit, read_table
from gapcell.detect.features import GAP, Encoding
from gapcell.detect.streams import Stream

from .conftest import QUICK, TOLERANCE, one_customer, purchases


def weights(detector: Detector) -> dict[str, torch.Tensor]:
    predictor = detector.predictor
    return {**predictor.network.state_dict(), "population": predictor.population}


def same_weights(one: Detector, other: Detector) -> bool:
    first, second = weights(one), weights(other)
    return all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def with_other_amounts(frame: pl.DataFrame, table: EventTable, since: float) -> pl.DataFrame:
    """The table with amounts and channels after a time replaced by others."""
    later = pl.Series(table.seconds >= since)
    return frame.with_columns(
        amount=pl.when(later).then(pl.lit(987_654.0)).otherwise("amount"),
        channel=pl.when(later).then(pl.lit("phone")).otherwise("channel"),
    )


def test_every_event_is_in_the_frame_in_the_order_of_the_table(detection: Detection, table: EventTable) -> None:
    frame = detection.frame
    assert frame.height == table.reading.rows
    assert frame["entity"].equals(table.entity)
    assert frame["time"].equals(table.time)
    assert frame["history"].to_list() == table.earlier().tolist()
    assert frame.columns[:8] == ["entity", "time", "score", "alert", "part", "history", "feature", "reason"]
    assert frame.columns[8:] == [
        f"score_{judge}_{name}" for name in ("amount", "channel", "gift", GAP) for judge in ("own", "population")
    ]
    assert frame["alert"].equals((frame["score"] > detection.threshold).fill_null(value=False))
    assert frame["reason"].null_count() == 0


def test_parts_are_cut_by_time_alone(detection: Detection, table: EventTable) -> None:
    split, part = detection.split, detection.frame["part"]
    counts = dict(part.value_counts().iter_rows())
    assert counts == {"train": 720, "held-out": 240, "test": 240}
    assert table.seconds[(part == "train").to_numpy()].max() < split.train_until
    assert table.seconds[(part == "test").to_numpy()].min() == split.test_from
    assert split.train_until < split.threshold_from < split.test_from


def test_the_threshold_is_conformal_on_the_second_half_of_the_held_out_scores(
    detector: Detector, detection: Detection, table: EventTable
) -> None:
    split = detection.split
    held_out = (table.seconds >= split.threshold_from) & (table.seconds < split.test_from)
    scores = detection.frame["score"].filter(pl.Series(held_out))
    assert detector.threshold == scores.sort()[math.ceil((len(scores) + 1) * 0.99) - 1]
    assert int((scores > detector.threshold).sum()) <= 0.01 * len(scores)


def test_nothing_is_fitted_on_the_test_part(frame: pl.DataFrame, table: EventTable, detector: Detector) -> None:
    other = fit(read_table(with_other_amounts(frame, table, detector.split.test_from)), QUICK)
    assert same_weights(other, detector)
    assert other.threshold == detector.threshold
    assert other.encoding == detector.encoding


def test_network_and_families_are_not_chosen_on_what_sets_the_threshold(
    frame: pl.DataFrame, table: EventTable, detector: Detector
) -> None:
    other = fit(read_table(with_other_amounts(frame, table, detector.split.threshold_from)), QUICK)
    assert same_weights(other, detector)
    assert other.features == detector.features
    assert other.threshold != detector.threshold


def test_a_leak_of_the_test_part_into_the_scaling_would_be_seen(
    frame: pl.DataFrame, table: EventTable, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mutant that scales on the whole table fails the check of the test before last."""

    def leaky(table: EventTable, stream: Stream, train_until: float, most: int) -> Encoding:
        return Encoding.fit(table, stream, math.inf, most)

    monkeypatch.setattr("gapcell.detect.fitting.Encoding", SimpleNamespace(fit=leaky))
    once = replace(QUICK, epochs=1)
    one = fit(table, once)
    other = fit(read_table(with_other_amounts(frame, table, detector.split.test_from)), once)
    assert one.encoding != other.encoding
    assert not same_weights(one, other)


def test_the_same_seed_gives_the_same_scores_bitwise(
    table: EventTable, detector: Detector, detection: Detection
) -> None:
    torch.rand(3)  # whatever was drawn before
    again = fit(table, QUICK)
    assert same_weights(again, detector)
    assert again.score(table).frame.equals(detection.frame)
    assert not same_weights(fit(table, replace(QUICK, seed=1, epochs=1)), detector)


def test_a_fit_leaves_torch_random_numbers_alone(table: EventTable) -> None:
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    fit(table, replace(QUICK, epochs=1))
    assert torch.equal(torch.rand(3), wanted)


def largest_difference(one: pl.DataFrame, other: pl.DataFrame) -> float:
    """Largest difference of the scores and parts of two frames whose other columns are equal."""
    numbers = [name for name in one.columns if name.startswith("score")]
    assert_frame_equal(
        one.select("entity", "part", "history", "feature"), other.select("entity", "part", "history", "feature")
    )
    away = (np.nan_to_num(frame.select(numbers).cast(pl.Float64).to_numpy()) for frame in (one, other))
    first, second = away
    return float(np.abs(first - second).max())


def test_an_entity_is_scored_alike_alone_and_among_others(
    frame: pl.DataFrame, detector: Detector, detection: Detection
) -> None:
    for customer in ("c000", "c031"):
        mine = pl.col("customer") == customer
        alone = detector.score(detector.read(frame.filter(mine))).frame
        together = detection.frame.filter(pl.col("entity") == customer)
        assert largest_difference(alone, together) < TOLERANCE


def test_scores_depend_on_neither_the_order_nor_the_number_of_entities(
    frame: pl.DataFrame, detector: Detector, detection: Detection
) -> None:
    order = np.random.default_rng(3).permutation(frame.height)
    shuffled = detector.score(detector.read(frame[order])).frame
    assert largest_difference(shuffled, detection.frame[order]) < TOLERANCE
    longer = pl.concat(
        [frame, purchases(customers=3, events=150, seed=9).with_columns(customer="x" + pl.col("customer"))]
    )
    assert (
        largest_difference(detector.score(detector.read(longer)).frame.head(frame.height), detection.frame) < TOLERANCE
    )


def test_an_event_is_scored_from_its_past_alone(frame: pl.DataFrame, detector: Detector, detection: Detection) -> None:
    """Scores of a prefix of every series are those of the whole, whatever follows."""
    early = (pl.col("time") < frame["time"].median()).alias("early")
    prefix = detector.score(detector.read(frame.filter(early))).frame
    assert largest_difference(prefix, detection.frame.filter(frame.select(early)["early"])) < TOLERANCE


OTHERS = [f"score_{judge}_{name}" for judge in ("own", "population") for name in ("channel", "gift", GAP)]


def other_parts_stay(detector: Detector, frame: pl.DataFrame, row: int) -> bool:
    """Whether another amount of an event leaves the parts of its other features as they were."""
    changed = frame.with_columns(amount=pl.when(pl.int_range(pl.len()) == row).then(1e6).otherwise("amount"))
    one, other = (detector.score(detector.read(source)).frame.select(OTHERS)[row] for source in (frame, changed))
    return one.equals(other)


def test_a_feature_explains_no_other_away_and_a_scorer_that_reads_its_event_is_caught(
    frame: pl.DataFrame, detector: Detector, detection: Detection
) -> None:
    row = int(np.flatnonzero(detection.frame["history"] == 10)[0])
    assert other_parts_stay(detector, frame, row)
    peeking = copy.deepcopy(detector.predictor.network)
    forward = peeking.encoder.forward

    def one_event_ahead(*args: torch.Tensor) -> tuple[torch.Tensor, object]:
        output, state = forward(*args)
        return output.roll(-1, 1), state

    peeking.encoder.forward = one_event_ahead
    broken = replace(detector.streams[0], predictor=replace(detector.predictor, network=peeking))
    assert not other_parts_stay(replace(detector, streams=(broken,)), frame, row)


def test_the_score_is_the_largest_part_and_the_feature_says_which(detection: Detection) -> None:
    parts = [name for name in detection.frame.columns if name.startswith(("score_own_", "score_population_"))]
    for row in detection.frame.head(200).iter_rows(named=True):
        known = {name: row[name] for name in parts if row[name] is not None}
        largest = max(known, key=known.__getitem__)
        assert max(part for name, part in known.items() if name.endswith(row["feature"])) == known[largest]
        p = math.exp(-known[largest])
        assert row["score"] == pytest.approx(-math.log(1 - (1 - p) ** len(known)), rel=1e-6, abs=1e-9)


def test_the_network_learns_the_habits_of_an_entity() -> None:
    """Ten times the usual amount is further out of a customer's own range than of everybody's."""
    frame = purchases(customers=150, events=24, seed=4).with_columns(gift=pl.lit(value=False) | (pl.col("amount") < 9))
    table = read_table(frame)
    detector = fit(table, replace(QUICK, epochs=12))
    assert detector.epochs[-1].held_out < detector.epochs[0].held_out
    last = detector.score(table).frame.with_row_index().filter(pl.col("history") == 20)["index"]
    multiplied = frame.with_columns(
        amount=pl.when(pl.int_range(pl.len()).is_in(last.to_list())).then(pl.col("amount") * 10).otherwise("amount")
    )
    scores = detector.score(detector.read(multiplied)).frame[last].drop_nulls("score_own_amount")
    assert scores["score_own_amount"].median() > 2 * scores["score_population_amount"].median()
    deciding = scores.filter(pl.col("feature") == "amount")
    assert deciding.height > 0.8 * scores.height
    assert deciding["reason"].str.contains(r"^amount \S+; usually \S+ to \S+ \(own history\)").mean() > 0.8


def test_a_missing_feature_is_not_scored_and_says_so(detector: Detector) -> None:
    frame = one_customer(amount=[None, 25, None, 21, 24, 23], channel=[None, "web", None, "web", "web", "web"],
                         gift=[None, False, False, False, False, False])  # fmt: skip
    scored = detector.score(detector.read(frame))
    first, third = scored.frame.row(0, named=True), scored.frame.row(2, named=True)
    assert first["score"] is None
    assert first["feature"] is None
    assert not first["alert"]
    assert first["reason"] == (
        "not scored: amount is missing, channel is missing, gift is missing, no earlier event to measure the time from"
    )
    assert scored.unscored == 1
    assert third["score"] is not None
    assert third["score_own_amount"] is None
    assert third["reason"].endswith("2 earlier events (not scored: amount is missing, channel is missing)")


def test_hostile_values_are_scored_finitely(detector: Detector) -> None:
    amounts = [1e308, -1e308, 5e-324, 0, -0.0, 1e-300]
    channels = ["x" * 100_000, "\x1b[31m", "<b>", "", " ", "\x00"]
    scored = detector.score(detector.read(one_customer(amount=amounts, channel=channels)))
    assert scored.frame["score"].is_finite().all()
    assert scored.frame["reason"].str.len_chars().max() < 300
    assert not scored.frame["reason"].str.contains("\x1b", literal=True).any()


def test_one_sided_features(frame: pl.DataFrame, table: EventTable) -> None:
    options = replace(QUICK, upper=("amount",), lower=(GAP,), epochs=1)
    detector = fit(table, options)
    assert {feature.name: feature.tail for feature in detector.features} == {
        "amount": "upper", "channel": "two-sided", "gift": "two-sided", GAP: "lower",
    }  # fmt: skip
    tiny = detector.score(detector.read(one_customer(amount=[20, 25, 22, 21, 24, 1e-9]))).frame
    assert tiny["score_own_amount"][5] == pytest.approx(0, abs=0.1)
    huge = detector.score(detector.read(one_customer(amount=[20, 25, 22, 21, 24, 1e9]))).frame.row(5, named=True)
    assert re.match(r"amount 1,000,000,000; usually up to [\d.,e+]+ \(", huge["reason"])


def test_a_direction_for_what_has_none_is_refused(table: EventTable) -> None:
    with pytest.raises(TableError, match=r"upper names 'channel', which is no numeric feature: there are 'amount'"):
        fit(table, replace(QUICK, upper=("channel",)))


def test_what_a_report_needs_is_there(detection: Detection, table: EventTable) -> None:
    assert detection.lengths.count == detection.no_history == 60
    assert (detection.lengths.minimum, detection.lengths.maximum) == (20, 20)
    assert detection.gaps.count == 60 * 19
    assert detection.gaps.minimum > 0
    assert [epoch.epoch for epoch in detection.epochs] == list(range(1, len(detection.epochs) + 1))
    assert detection.scores("test").len() == 240
    assert detection.metrics is None
    top = detection.top
    assert top["alert"].all()
    assert set(top["part"]) == {"test"}
    assert top["score"].is_sorted(descending=True)
    row = int(top["row"][0])
    assert detection.frame["score"][row] == top["score"][0]
    history = detection.history(row)
    assert history.columns == [
        "row", "time", "score", "alert", "part", "amount", "channel", "gift", GAP,
        "low_amount", "high_amount", "likeliest_channel", "probability_channel", "likeliest_gift", "probability_gift",
        f"low_{GAP}", f"high_{GAP}",
    ]  # fmt: skip
    assert history["time"].is_sorted()
    assert row in history["row"]
    assert history["low_amount"].null_count() == 0
    assert (history["low_amount"] < history["high_amount"]).all()
    assert detection.history(int(table.rows_of(5)[0])).height == 20
    assert (
        detection.notes[0]
        == "the threshold leaves a share of 0.01 of 120 held-out scores above it, which no fit has seen"
    )


def test_too_few_held_out_events_for_the_budget_are_said(table: EventTable) -> None:
    detector = fit(table, replace(QUICK, budget=0.001, epochs=1))
    assert detector.threshold >= -math.log(0.001)
    assert detector.score(table).notes[0].startswith("120 held-out events are too few for a budget of 1 in 1,000")


def test_metrics_are_those_of_the_test_part(frame: pl.DataFrame, table: EventTable, detector: Detector) -> None:
    late = table.seconds >= detector.split.test_from
    fraud = pl.Series((np.arange(frame.height) % 7 == 0) & late) | pl.Series(~late)
    label = pl.select(pl.when(pl.Series(np.arange(frame.height) % 5 > 0)).then(fraud)).to_series()
    amount = pl.select(pl.when(fraud & pl.Series(late)).then(1e6).otherwise(frame["amount"])).to_series()
    labelled = frame.with_columns(label=label, amount=amount)
    metrics = detector.score(detector.read(labelled, label="label")).metrics
    assert metrics is not None
    known = labelled.filter(pl.Series(late)).drop_nulls("label")
    assert (metrics.labelled, metrics.positives) == (known.height, int(known["label"].sum()))
    assert metrics.base_rate == known["label"].mean()
    assert metrics.average_precision > 0.9
    assert metrics.precision_at_budget == 1.0


def test_a_label_is_never_a_feature(frame: pl.DataFrame, detector: Detector) -> None:
    labelled = frame.with_columns(label=pl.col("amount") > 1000)
    assert same_weights(fit(read_table(labelled, label="label"), QUICK), detector)


@pytest.mark.parametrize(
    ("frame", "options", "message"),
    [
        (one_customer().head(1), {}, "the table holds a single event: a detector learns from earlier events"),
        (one_customer(time=[datetime(2024, 5, 1)] * 6), {}, "the table has all its events at one time"),
        (one_customer(), {"min_events": 9}, "no entity has 9 events in the training part, the most is 3: lower min"),
        (one_customer(), {"train_until": "2023-01-01"}, "the training part is empty: no event lies there"),
        (one_customer(), {"train_until": "2025-01-01"}, "the held-out part is empty: no event lies there"),
        (one_customer(), {"train_until": "May"}, "time column 'train_until', row 1 holds 'May': write ISO 8601"),
    ],
)  # fmt: skip
def test_too_little_to_learn_from_is_refused(frame: pl.DataFrame, options: dict[str, object], message: str) -> None:
    with pytest.raises(TableError, match=re.escape(message)):
        fit(read_table(frame), replace(QUICK, **options))


def test_a_date_for_a_table_of_seconds_is_refused() -> None:
    frame = pl.DataFrame({"user": ["a"] * 9, "t": [float(i) for i in range(9)], "x": [1.5, 2.5, 4.0] * 3})
    with pytest.raises(
        TableError, match="train_until \\(='2024-01-01'\\) is a date, but time column 't' holds seconds"
    ):
        fit(read_table(frame), replace(QUICK, train_until="2024-01-01"))
    assert fit(read_table(frame), replace(QUICK, train_until=4.0, test_from=7.0, epochs=1)).split.test_from == 7.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "window (=0) must be a whole number from 1 to 256"),
        ({"hidden_size": 2.5}, "hidden_size (=2.5) must be a whole number from 1 to 2,048"),
        ({"epochs": True}, "epochs (=True) must be a whole number from 1 to 10,000"),
        ({"budget": 0}, "budget (=0) must be a share between 0 and 1"),
        ({"train_share": 0.8, "test_share": 0.3}, "train_share (=0.8) and test_share (=0.3) must leave something"),
        ({"learning_rate": 2.0}, "learning_rate (=2.0) must lie between 0 and 1"),
        ({"upper": ("x",), "lower": ("x",)}, "feature 'x' is named in upper and in lower"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        FitOptions(**options)


def test_progress_is_told_to_the_end(table: EventTable) -> None:
    told: list[tuple] = []
    detector = fit(table, replace(QUICK, epochs=2), progress=lambda *step: told.append(step))
    detector.compare(table, progress=lambda *step: told.append(step))
    stages = list(dict.fromkeys(step[0] for step in told))
    assert stages == ["population", "network", "scores", "baselines"]
    assert all(0 < step[1] <= step[2] for step in told)
    assert [step[3] for step in told if step[0] == "network"] == [
        f"convlstm by customer: held-out negative log-likelihood {epoch.held_out:.3f}" for epoch in detector.epochs
    ]
    assert [step for step in told if step[0] == "baselines"][-1] == ("baselines", 5, 5)


def test_a_table_with_other_columns_is_refused(frame: pl.DataFrame, detector: Detector) -> None:
    with pytest.raises(TableError, match="the table has no value column 'gift'"):
        detector.read(frame.drop("gift"))
    with pytest.raises(TableError, match="which the detector was fitted on: it has 'amount', 'channel'"):
        detector.score(read_table(frame.drop("gift")))
    with pytest.raises(TableError, match="column 'gift' is numeric here and was boolean"):
        detector.score(read_table(frame.with_columns(gift=pl.int_range(pl.len()) * 0.5)))
    with pytest.raises(TableError, match="holds numbers of seconds where the detector was fitted on dates"):
        detector.score(detector.read(frame.with_columns(time=pl.int_range(pl.len()).cast(pl.Float64))))


def test_a_category_never_seen_is_other_and_surprising(detector: Detector) -> None:
    scored = detector.score(detector.read(one_customer(channel=["web"] * 5 + ["fax"]))).frame
    assert scored["score_population_channel"][5] > 3
    assert scored["score_population_channel"][5] > scored["score_population_channel"][4]


def test_long_series_are_trained_on_in_chunks_and_short_tables_too() -> None:
    frame = purchases(customers=2, events=600, seed=2)
    table = read_table(frame)
    detector = fit(table, replace(QUICK, window=2, epochs=1))
    assert detector.score(table).frame["score"].null_count() == 0
    tiny = read_table(one_customer())
    assert fit(tiny, replace(QUICK, epochs=1)).score(tiny).frame.height == 6


def test_real_orders_of_a_shop(shared_data: Path) -> None:
    path = shared_data / "online_retail_orders.parquet"
    frame = pl.read_parquet(path).with_columns(label=pl.when("label_mature").then("label"))
    columns = ["gbp", "n_lines", "qty", "max_qty", "n_stock", "cancel"]
    table = read_table(frame, entity="customer", time="t", values=columns, label="label")
    options = FitOptions(encoder="lstm", train_until="2011-05-15", test_from="2011-07-01", epochs=2)
    detection = fit(table, options).score(table)
    assert detection.metrics is not None
    assert (detection.metrics.labelled, detection.metrics.positives) == (6933, 62)
    assert detection.metrics.roc_auc > 0.55
    assert detection.frame["score"].null_count() == 0
    alerts = int(detection.frame.filter(pl.col("part") == "test")["alert"].sum())
    assert 0 < alerts < 60  # the budget of 1 in 1,000 is 11 of 11,485; life drifts
