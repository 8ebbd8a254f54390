"""What a fit chooses and keeps: encoders, thresholds, labels, and trainings that were cut short."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from gapcell.detect import Detector, EventTable, FitOptions, TableError, fit, read_table
from gapcell.detect.fitting import conformal
from gapcell.detect.tail_map import TailMap

from .conftest import QUICK, TOLERANCE, purchases

DAY = 86_400.0
BRIEF = replace(QUICK, epochs=2)


def frauds(seed: int = 0, entities: int = 150, events: int = 24) -> pl.DataFrame:
    """Cards at shops; some shops go bad for a while, and half of what is bought there then is fraud."""
    draws = np.random.default_rng(seed)
    rows = entities * events
    card = np.repeat(np.arange(entities), events)
    shop = draws.integers(0, 12, rows)
    t = draws.uniform(0, 100 * DAY, rows).round()
    bad = (shop == 3) & (t > 20 * DAY) | (shop == 5) & (t > 45 * DAY)
    return pl.DataFrame(
        {
            "card": card,
            "shop": shop,
            "t": t,
            "amount": np.exp(draws.normal(3, 0.4, rows)).round(2),
            "fraud": bad & (draws.random(rows) < 0.5),
        }
    )


@pytest.fixture(scope="module")
def cards() -> EventTable:
    return read_table(frauds(), entity=("card", "shop"), time="t", values=["amount"], label="fraud")


LABELLED = replace(
    BRIEF, encoder="lstm", label_delay=3 * DAY, unscored=("time_since_last",), upper=("amount",), hidden_size=16
)


@pytest.fixture(scope="module")
def by_reports(cards: EventTable) -> Detector:
    return fit(cards, LABELLED)


def test_the_likeliest_encoder_is_chosen_and_said(table: EventTable) -> None:
    detector = fit(table, replace(QUICK, encoder="auto", epochs=6))
    tried = {candidate.encoder: candidate.held_out for candidate in detector.candidates}
    assert set(tried) == {"none", "lstm", "convlstm", "convgru", "calendar"}
    chosen = [candidate.encoder for candidate in detector.candidates if candidate.chosen]
    assert chosen == [min(tried, key=tried.__getitem__)]
    assert detector.predictor.network.name == chosen[0]
    assert detector.score(table).candidates == detector.candidates


def test_without_habits_no_history_is_chosen() -> None:
    draws = np.random.default_rng(0)
    noise = pl.DataFrame(
        {"who": draws.integers(0, 40, 900), "t": np.sort(draws.uniform(0, 1e7, 900)), "v": draws.normal(size=900)}
    )
    detector = fit(read_table(noise, entity="who", time="t"), replace(QUICK, encoder="auto", epochs=3, seed=1))
    named = {candidate.encoder: candidate for candidate in detector.candidates}
    assert named["none"].chosen == (detector.predictor.network is None)
    assert named["none"].held_out < min(value.held_out for name, value in named.items() if name != "none") + 0.05


@pytest.mark.parametrize("encoder", ["none", "lstm", "convgru", "calendar"])
def test_an_encoder_can_be_forced_saved_and_loaded(table: EventTable, tmp_path: Path, encoder: str) -> None:
    detector = fit(table, replace(BRIEF, encoder=encoder))
    detector.save(tmp_path)
    again = Detector.load(tmp_path)
    assert again.score(table).frame.equals(detector.score(table).frame)
    assert again.candidates == detector.candidates


def test_no_history_holds_everything_against_the_population(table: EventTable) -> None:
    frame = fit(table, replace(BRIEF, encoder="none")).score(table).frame
    assert frame["score_own_amount"].null_count() == frame.height
    assert frame["score_population_amount"].null_count() < frame.height


def test_a_report_raises_the_score_of_what_comes_after_it(by_reports: Detector, cards: EventTable) -> None:
    """The second shop goes bad late; after its first reports its events score higher than before."""
    frame = by_reports.score(cards).frame.with_columns(shop=frauds()["shop"], t=frauds()["t"])
    shop = frame.filter(pl.col("shop") == 5)
    before, after = shop.filter(pl.col("t") < 45 * DAY), shop.filter(pl.col("t") > 60 * DAY)
    reported = "score_population_recent_reports_by_shop"
    assert after[reported].median() > before[reported].median() + 1
    assert after["score"].median() > before["score"].median()
    assert "reported" in " ".join(after.filter(pl.col("feature") == "recent_reports_by_shop")["reason"].to_list())


def test_a_label_that_is_not_known_yet_changes_no_score(by_reports: Detector, cards: EventTable) -> None:
    last = float(cards.seconds.max())
    late = pl.Series(cards.seconds > last - 3 * DAY)
    other = frauds().with_columns(fraud=pl.when(late).then(~pl.col("fraud")).otherwise("fraud"))
    one, two = (by_reports.scored(by_reports.read(source)).score for source in (frauds(), other))
    np.testing.assert_array_equal(one, two)
    everything = frauds().with_columns(fraud=~pl.col("fraud"))
    assert not np.array_equal(one, by_reports.scored(by_reports.read(everything)).score)


def test_labels_must_be_there_where_they_are_read(by_reports: Detector) -> None:
    plain = read_table(frauds().drop("fraud"), entity=("card", "shop"), time="t", values=["amount"])
    with pytest.raises(TableError, match="label_delay reads labels, and the table has none"):
        fit(plain, LABELLED)
    with pytest.raises(TableError, match="the detector reads reports of labels, and the table has none"):
        by_reports.score(plain)
    with pytest.raises(TableError, match="the table is not grouped by 'shop'"):
        by_reports.score(read_table(frauds(), entity="card", time="t", values=["amount"], label="fraud"))


@pytest.fixture(scope="module")
def supervised(cards: EventTable) -> Detector:
    return fit(cards, replace(LABELLED, supervised=True, epochs=4))


def test_a_supervised_detector_finds_what_is_labelled(supervised: Detector, cards: EventTable, tmp_path: Path) -> None:
    found = supervised.score(cards)
    assert found.metrics is not None
    assert found.metrics.average_precision > 3 * found.metrics.base_rate
    assert found.frame["reason"].str.starts_with("probability ").any()
    supervised.save(tmp_path)
    np.testing.assert_allclose(Detector.load(tmp_path).scored(cards).score, supervised.scored(cards).score, rtol=1e-5)
    with pytest.raises(TableError, match="a supervised detector looks for what is labelled"):
        supervised.compare(cards)


def test_labels_of_the_test_part_and_those_left_out_are_not_learnt(supervised: Detector, cards: EventTable) -> None:
    test = pl.Series(cards.seconds >= supervised.split.test_from - 3 * DAY)
    other = frauds().with_columns(fraud=pl.when(test).then(~pl.col("fraud")).otherwise("fraud"))
    table = read_table(other, entity=("card", "shop"), time="t", values=["amount"], label="fraud")
    again = fit(table, replace(LABELLED, supervised=True, epochs=4))
    for name, tensor in supervised.labels.tensors().items():
        assert torch.equal(tensor, again.labels.tensors()[name])
    with pytest.raises(TableError, match="column 'fraud' cannot be learnt from: 0 of the 0 training events"):
        fit(cards, replace(LABELLED, supervised=True, epochs=1), learnt=np.zeros(cards.reading.rows, dtype=bool))


@pytest.mark.parametrize("chunk", [1, 40])
def test_scores_of_several_streams_depend_on_neither_order_nor_who_else_is_there(
    by_reports: Detector, cards: EventTable, chunk: int
) -> None:
    whole = by_reports.scored(cards).score
    order = np.random.default_rng(chunk).permutation(frauds().height)
    shuffled = by_reports.scored(by_reports.read(frauds()[order])).score
    np.testing.assert_allclose(shuffled, whole[order], rtol=0, atol=TOLERANCE)
    more = pl.concat(
        [frauds(), frauds(seed=9, entities=chunk).with_columns(card=pl.col("card") + 1000, shop=pl.lit(-1, pl.Int64))]
    )
    np.testing.assert_allclose(
        by_reports.scored(by_reports.read(more)).score[: len(whole)], whole, rtol=0, atol=TOLERANCE
    )


def test_a_conformal_threshold_keeps_its_promise_on_fresh_events() -> None:
    """Over many draws the mean rate of alerts on fresh normal events is the budget, within its binomial error."""
    draws = np.random.default_rng(0)
    budget, rounds, fresh = 0.02, 400, 500
    rates = [
        (draws.exponential(size=fresh) > conformal(draws.exponential(size=300), budget)).mean() for _ in range(rounds)
    ]
    assert np.mean(rates) <= budget + 3 * math.sqrt(budget * (1 - budget) / 300 / rounds) + 1e-3
    assert np.mean(rates) > 0.5 * budget
    biased = [
        (draws.exponential(size=fresh) > np.quantile(draws.exponential(size=300), 1 - 2 * budget)).mean()
        for _ in range(rounds)
    ]
    assert np.mean(biased) > budget + 0.01  # a threshold that is too low would be seen


def test_too_few_scores_give_their_highest_or_what_a_perfect_model_would_have() -> None:
    assert conformal(np.array([1.0, 9.0]), 0.001) == 9.0
    assert conformal(np.array([1.0, 2.0]), 0.001) == -math.log(0.001)


def test_alerts_a_day_become_a_share(table: EventTable) -> None:
    detector = fit(table, replace(BRIEF, alerts_per_day=1.0))
    split = detector.split
    inside = (table.seconds >= split.threshold_from) & (table.seconds < split.test_from)
    assert detector.budget == pytest.approx((split.test_from - split.threshold_from) / DAY / inside.sum())


def test_a_map_of_tails_says_how_often_it_came() -> None:
    draws = np.random.default_rng(0)
    stated = 2.0 * draws.exponential(size=20_000)  # twice too sure
    worth = TailMap.fit(stated)
    assert worth(np.array([2 * math.log(100)]))[0] == pytest.approx(math.log(100), rel=0.1)
    assert worth(np.array([2 * math.log(1e5)]))[0] == pytest.approx(math.log(1e5), rel=0.15)
    assert (np.diff(worth(np.linspace(0, 50, 200))) > 0).all()
    assert np.isnan(worth(np.array([np.nan]))).all()
    assert TailMap.fit(stated[:30])(np.array([3.0]))[0] == 3.0


class Killed(Exception):  # noqa: N818  # what happens to the process, not an error of the program
    """In the place of kill -9."""


def test_a_killed_fit_goes_on_from_its_last_epoch_and_ends_as_if_never_killed(
    table: EventTable, tmp_path: Path
) -> None:
    options = replace(QUICK, encoder="auto", epochs=4)
    whole = fit(table, options)
    epochs: list[str] = []

    def watch(stage: str, done: int, total: int, message: str = "") -> None:
        if stage in ("encoders", "network"):
            epochs.append(message)
            if len(epochs) in (2, 14):
                raise Killed

    for _ in range(2):
        with pytest.raises(Killed):
            fit(table, options, progress=watch, checkpoint=tmp_path)
    again = fit(table, options, progress=watch, checkpoint=tmp_path)
    assert len(epochs) == 4 * 3 + 4  # none was trained twice
    assert again.epochs == whole.epochs
    assert again.score(table).frame.equals(whole.score(table).frame)


def test_a_checkpoint_of_another_fit_or_a_damaged_one_is_not_gone_on_with(table: EventTable, tmp_path: Path) -> None:
    fit(table, BRIEF, checkpoint=tmp_path)
    other = fit(table, replace(BRIEF, seed=5), checkpoint=tmp_path)
    assert other.epochs == fit(table, replace(BRIEF, seed=5)).epochs
    for file in tmp_path.iterdir():
        file.write_bytes(file.read_bytes()[:-100])
    assert fit(table, BRIEF, checkpoint=tmp_path).epochs == fit(table, BRIEF).epochs


def interrupt_after_a_trial(stage: str, done: int, total: int, message: str = "") -> None:
    """Ctrl-C where the first encoder has been tried for all its epochs."""
    if stage == "encoders" and done == total:
        raise KeyboardInterrupt


def test_an_interruption_keeps_the_best_so_far(table: EventTable) -> None:
    def interrupt(stage: str, done: int, total: int, message: str = "") -> None:
        if stage == "network" and done == 2:
            raise KeyboardInterrupt

    detector = fit(table, QUICK, progress=interrupt)
    assert len(detector.epochs) == 2
    assert math.isfinite(detector.threshold)
    named = fit(table, replace(QUICK, encoder="auto", epochs=6), progress=interrupt_after_a_trial)
    assert [(each.encoder, each.chosen) for each in named.candidates] == [("none", False), ("lstm", True)]
    with pytest.raises(KeyboardInterrupt):
        fit(table, QUICK, progress=lambda stage, *rest: interrupt("network", 2, 2) if stage == "population" else None)


def test_options_are_held_to_what_makes_sense(cards: EventTable) -> None:
    for option, value, message in (
        ("encoder", "transformer", "must be one of auto, none, lstm, convlstm, convgru, calendar"),
        ("supervised", 1, "must be True or False"),
        ("alerts_per_day", 0, "must be a number above 0, or None"),
        ("label_delay", -1.0, "must be a number of seconds, at least 0, or None"),
        ("label_delay", math.inf, "must be a number of seconds, at least 0, or None"),
    ):
        with pytest.raises(ValueError, match=message):
            FitOptions(**{option: value})
    with pytest.raises(TableError, match="unscored names 'price', which is no feature: there are 'amount'"):
        fit(cards, replace(BRIEF, unscored=("price",)))


def test_a_number_that_often_is_zero_has_a_probability_of_zero() -> None:
    draws = np.random.default_rng(0)
    frame = purchases(customers=40, events=12).with_columns(
        refunds=pl.Series(np.where(draws.random(480) < 0.7, 0.0, draws.exponential(10, 480).round(2)))
    )
    detector = fit(read_table(frame), replace(BRIEF, upper=("refunds",)))
    refunds = next(feature for feature in detector.features if feature.name == "refunds")
    assert refunds.population_family == refunds.family == "zero-inflated"
    scored = detector.score(detector.read(frame)).frame.with_columns(refunds=frame["refunds"])
    assert scored.filter(pl.col("refunds") == 0)["score_population_refunds"].max() == 0
    assert scored.filter(pl.col("refunds") > 20)["score_population_refunds"].min() > 1
