"""The study behind docs/detect-benchmarks.md: no method sees the future, the truth, or what was removed."""

import time
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="the study measures with scikit-learn")
pl = pytest.importorskip("polars", reason="the study's tables are polars frames")
torch = pytest.importorskip("torch", reason="the study trains networks in PyTorch")

# ruff: noqa: E402, I001 - what follows needs what was asked for above
from sklearn.metrics import average_precision_score, roc_auc_score

from benchmarks.detection import bootstrap, cards, findings, judgement, marks, measures, networks, ours, orders
from benchmarks.detection import page, past, plan, results, rules, saits, study, trees
from benchmarks.detection.removal import SHARES, without
from benchmarks.detection.tasks import LABEL, TIME, NoDataError, data

WEEK = timedelta(days=7)


def card_events(seed=0, count=4000):
    """Transactions in the handbook's columns from day 0 to the end of its test week, in time order."""
    generator = np.random.default_rng(seed)
    seconds = np.sort(generator.integers(60 * 86_400, 136 * 86_400, count))
    return pl.DataFrame(
        {
            "customer": generator.integers(0, 40, count),
            "terminal": generator.integers(0, 30, count),
            TIME: pl.Series(seconds).cast(pl.Duration("ms")) * 1000 + cards.START,
            "amount": np.round(generator.lognormal(3, 1, count), 2),
            LABEL: generator.random(count) < 0.03,
        }
    ).with_columns(pl.col(TIME).cast(pl.Datetime("us")))


def order_events(seed=0, count=1500):
    generator = np.random.default_rng(seed)
    minutes = np.sort(generator.integers(0, 340 * 1440, count))
    pieces = generator.integers(1, 60, count)
    return pl.DataFrame(
        {
            "customer": generator.integers(0, 60, count),
            TIME: [datetime(2010, 12, 1) + timedelta(minutes=int(minute)) for minute in minutes],
            "lines": generator.integers(1, 20, count),
            "pieces": pieces,
            "price": np.round(generator.lognormal(1, 1, count), 2),
            "amount": np.round(generator.lognormal(4, 1, count), 2),
            "cancellation": generator.random(count) < 0.1,
            LABEL: generator.random(count) < 0.05,
        }
    )


def changed_after(events, moment):
    """Another future: whatever happens after a moment is different."""
    after = pl.col(TIME) > moment
    columns = [
        pl.when(after).then(pl.col(name) * 7 + 3).otherwise(pl.col(name)).alias(name)
        for name in ("amount", "lines", "pieces", "price")
        if name in events.columns
    ]
    return events.with_columns(*columns, pl.when(after).then(~pl.col(LABEL)).otherwise(pl.col(LABEL)).alias(LABEL))


# the protocols


def by_the_handbook(events):
    """The handbook's test set, day by day as its text says it."""
    frame = events.with_columns(day=(pl.col(TIME) - cards.START).dt.total_days()).to_dicts()
    first = (cards.TRAIN_FROM - cards.START).days
    train = [row for row in frame if first <= row["day"] < first + 7]
    known, kept = {row["customer"] for row in train if row[LABEL]}, []
    for day in range(7):
        known |= {row["customer"] for row in frame if row["day"] == first + 7 + day - 1 and row[LABEL]}
        kept += [row for row in frame if row["day"] == first + 14 + day and row["customer"] not in known]
    return [(row["customer"], row[TIME]) for row in kept]


def test_cards_known_to_be_compromised_are_left_out_as_the_handbook_does():
    task = cards.without_labels(card_events())
    judged = task.events.filter(pl.Series(task.judged)).select("customer", TIME).rows()
    assert judged == by_the_handbook(card_events())
    assert 0 < len(judged) < ((task.events[TIME] >= task.test_from).sum())


def test_moving_the_protocol_moves_every_border():
    task, later = cards.without_labels(card_events()), cards.without_labels(card_events(), -2)
    assert later.train_until == task.train_until - 2 * WEEK
    assert later.events[TIME].max() < later.test_from + WEEK
    assert not (later.events.filter(pl.Series(later.judged))[TIME] < later.test_from).any()


def test_cancellations_are_no_orders():
    task = orders.unsupervised(order_events())
    cancelled = task.events["cancellation"].to_numpy()
    assert cancelled.any()
    assert not (task.kept & cancelled).any()
    assert not (task.judged & cancelled).any()


def test_labels_teach_in_the_training_week_only():
    task = cards.supervised(card_events())
    times = task.events.filter(pl.Series(task.teaching))[TIME]
    assert times.min() >= cards.TRAIN_FROM
    assert times.max() < task.train_until


def test_data_that_is_not_there_is_asked_for():
    with pytest.raises(NoDataError, match="set GAPCELL_DATA"):
        data("nothing.parquet")


@pytest.fixture(scope="module")
def handbook():
    try:
        return cards.load()
    except NoDataError as error:
        pytest.skip(str(error))


def test_the_handbooks_test_week_has_the_transactions_it_is_known_to_have(handbook):
    task = cards.without_labels(handbook)
    assert (task.judged.sum(), task.labels[task.judged].sum()) == (58_264, 385)
    assert measures.measure(task, task.column("amount"))["ap"] == pytest.approx(0.138, abs=5e-4)


# no method sees the future


@pytest.mark.parametrize(
    ("make", "known"),
    [(lambda events: cards.delayed_labels(events), cards.aggregates), (orders.unsupervised, orders.aggregates)],
    ids=["cards", "orders"],
)
def test_aggregates_are_of_the_past(make, known):
    events = card_events() if known is cards.aggregates else order_events()
    task = make(events)
    moment = task.events[TIME][int(0.8 * task.events.height)]
    other = make(changed_after(events, moment))
    before = (task.events[TIME] <= moment).to_numpy()
    assert not np.array_equal(known(task), known(other), equal_nan=True)
    np.testing.assert_allclose(known(task)[before], known(other)[before], rtol=0, atol=1e-9)


def test_a_fraud_is_in_the_terminals_rate_after_seven_days_and_not_before():
    events = card_events()
    task = cards.delayed_labels(events)
    row = int(np.flatnonzero(task.labels)[3])
    honest = task.events.with_columns(pl.when(pl.int_range(pl.len()) == row).then(False).otherwise(LABEL).alias(LABEL))
    now, other = cards.aggregates(task), cards.aggregates(replace(task, events=honest))
    differs = ~np.isclose(now, other).all(1)
    assert differs.any()
    moments = task.events.filter(pl.Series(differs))
    assert moments[TIME].min() >= task.events[TIME][row] + WEEK
    assert set(moments["terminal"]) == {task.events["terminal"][row]}


def test_a_reversed_order_is_known_after_thirty_days():
    task = orders.supervised(order_events())
    row = int(np.flatnonzero(task.labels & task.kept)[2])
    honest = task.events.with_columns(pl.when(pl.int_range(pl.len()) == row).then(False).otherwise(LABEL).alias(LABEL))
    now, other = orders.aggregates(task), orders.aggregates(replace(task, events=honest))
    differs = ~np.isclose(now, other, equal_nan=True).all(1)
    assert differs.any()
    assert task.events.filter(pl.Series(differs))[TIME].min() >= task.events[TIME][row] + orders.KNOWN_AFTER


SIMPLE = {
    "running-mean z": lambda fitted, task: rules.running_mean_z(fitted, task, "amount"),
    "robust z": rules.robust_z,
    "forest": lambda fitted, task: trees.isolation_forest(fitted, task, 0, history=True),
    "nn.LSTM": lambda fitted, task: networks.fitted(fitted, 0, "zero", epochs=1)(task).score,
}


@pytest.mark.parametrize("name", SIMPLE)
def test_a_score_does_not_depend_on_later_events(name):
    task = cards.without_labels(card_events(count=1500))
    moment = task.events[TIME][int(0.97 * task.events.height)]
    other = replace(task, events=changed_after(task.events, moment))
    before = task.judged & (task.events[TIME] <= moment).to_numpy()
    now, then = SIMPLE[name](task, task), SIMPLE[name](task, other)
    assert before.any()
    np.testing.assert_allclose(now[before], then[before], rtol=1e-5)
    assert not np.allclose(now[task.judged & ~before], then[task.judged & ~before])


def test_a_score_of_the_future_would_be_found_out():
    task = cards.without_labels(card_events(count=1500))
    moment = task.events[TIME][int(0.97 * task.events.height)]
    other = replace(task, events=changed_after(task.events, moment))
    ahead = [-np.append(each.column("amount")[1:], 0.0) for each in (task, other)]
    before = (task.events[TIME] <= moment).to_numpy()
    assert not np.allclose(ahead[0][before], ahead[1][before])


# what is removed


def test_removal_is_the_same_for_all_and_grows_with_the_share():
    task = cards.without_labels(card_events())
    kept = [without(task, "events", share, seed=0).kept for share in SHARES]
    assert np.array_equal(kept[0], without(task, "events", SHARES[0], seed=0).kept)
    assert not np.array_equal(kept[0], without(task, "events", SHARES[0], seed=1).kept)
    assert all((more <= fewer).all() for fewer, more in pairwise(kept))
    for share, there in zip(SHARES, kept, strict=True):
        assert there[~task.judged].mean() == pytest.approx(1 - share, abs=0.03)
        assert there[task.judged].all()


def test_removed_values_are_judged_by_nobody():
    task = orders.unsupervised(order_events())
    gappy = without(task, "values", 0.6, seed=0)
    missing = np.isnan(gappy.numbers())
    assert missing.mean() == pytest.approx(0.6, abs=0.03)
    assert not gappy.judged[missing.all(1)].any()
    assert gappy.judged[task.judged & ~missing.all(1)].all()
    assert np.isnan(gappy.column("amount")).mean() == pytest.approx(0.6, abs=0.05)  # which a rule looks at


def test_of_a_series_a_removed_step_is_not_judged():
    task = replace(cards.without_labels(card_events()), series=True)
    gappy = without(task, "events", 0.3, seed=0)
    assert not (gappy.judged & ~gappy.kept).any()
    assert gappy.judged.sum() < task.judged.sum()


@pytest.mark.parametrize("what", ["events", "values"])
@pytest.mark.parametrize("name", SIMPLE)
def test_no_method_sees_what_was_removed(name, what):
    task = without(cards.without_labels(card_events(count=1500)), what, 0.5, seed=0)
    hidden = pl.Series(~task.kept if what == "events" else np.isnan(task.numbers())[:, 0])
    secret = replace(task, events=task.events.with_columns(
        pl.when(hidden).then(1e6 if what == "events" else None).otherwise("amount").alias("amount"),
        pl.when(hidden).then(~pl.col(LABEL)).otherwise(LABEL).alias(LABEL),
    ))  # fmt: skip
    scores = [SIMPLE[name](each, each)[task.judged] for each in (task, secret)]
    np.testing.assert_array_equal(*scores)
    assert np.isfinite(scores[0]).any()


# past


def test_windows_and_running_figures_by_their_definition():
    generator = np.random.default_rng(1)
    codes, kept = generator.integers(0, 5, 200), generator.random(200) < 0.8
    seconds = np.sort(generator.integers(0, 40 * 86_400, 200)).astype(float)
    values = np.where(generator.random(200) < 0.2, np.nan, generator.normal(size=200))
    timeline = past.Timeline(codes, seconds, kept)
    running = past.Running.of(codes, seconds, kept, values[:, None])
    gaps = past.since_last(codes, seconds, kept)
    for row in range(200):
        mine = kept & (codes == codes[row])
        late, early = seconds[row] - 3 * 86_400, seconds[row] - 10 * 86_400
        window = mine & (seconds <= late) & (seconds > early)
        assert timeline.sums(7, delay=3)[row] == window.sum()
        assert timeline.sums(7, values, delay=3)[row] == pytest.approx(np.nansum(values[window]))
        earlier = values[:row][mine[:row]]
        earlier = earlier[~np.isnan(earlier)]
        assert np.nan_to_num(running.count[row, 0]) == len(earlier)
        if len(earlier):
            assert running.mean[row, 0] == pytest.approx(earlier.mean())
            assert running.variance[row, 0] == pytest.approx(earlier.var(), abs=1e-9)
        before = np.flatnonzero(mine[:row])
        expected = seconds[row] - seconds[before[-1]] if before.size else np.nan
        np.testing.assert_equal(gaps[row], expected)


# measures


def test_precision_counts_an_entity_once_a_day():
    events = pl.DataFrame(
        {
            "customer": [1, 1, 2, 3, 1, 4],
            TIME: [datetime(2018, 8, day, hour) for day, hour in ((8, 1), (8, 2), (8, 3), (8, 4), (9, 1), (9, 2))],
            "amount": [9.0, 8.0, 7.0, 1.0, 1.0, 5.0],
            LABEL: [False, True, False, True, True, False],
        }
    )
    task = replace(cards.without_labels(card_events()), events=events, judged=np.ones(6, bool), kept=np.ones(6, bool))
    # day 8: cards 1 (fraud that day) and 2; day 9: cards 4 and 1 (fraud)
    assert measures.entity_precision(task, task.column("amount"), 2) == 0.5
    assert measures.entity_precision(task, np.where(task.labels, 1.0, 0.0), 1) == 1.0


def test_nothing_to_be_found_is_refused():
    task = cards.without_labels(card_events().with_columns(pl.lit(value=False).alias(LABEL)))
    with pytest.raises(
        ValueError, match="no judged event of 'cards, no labels' is labelled: take more of its entities"
    ):
        measures.measure(task, task.column("amount"))


@pytest.mark.parametrize("digits", [None, 1, 0], ids=["no ties", "ties", "many ties"])
def test_weighted_measures_are_scikit_learns(digits):
    generator = np.random.default_rng(0)
    entity, label = generator.integers(0, 60, 900), generator.random(900) < 0.05
    score = generator.normal(size=900) + label
    score = score if digits is None else np.round(score, digits)
    weights = bootstrap.draw(60, 20)
    ranking = bootstrap.Ranking.of(score, label, entity, 60)
    for found, measure in (
        (ranking.average_precision(weights), average_precision_score),
        (ranking.roc_auc(weights), roc_auc_score),
    ):
        for place, value in enumerate(found):
            assert value == pytest.approx(measure(label, score, sample_weight=weights[entity, place]), abs=1e-12)


def test_a_difference_is_paired():
    generator = np.random.default_rng(0)
    entity, label = generator.integers(0, 80, 2000), generator.random(2000) < 0.05
    score = generator.normal(size=2000) + label
    better = score + 0.3 * label
    weights = bootstrap.draw(80, 300)

    def drawn(score):
        return bootstrap.drawn_average_precision([score], label, entity, weights)

    assert bootstrap.interval(drawn(score) - drawn(score)) == (0, 0)
    low, high = bootstrap.interval(drawn(better) - drawn(score))
    assert 0 < low < high
    alone = bootstrap.interval(drawn(better))
    assert high - low < alone[1] - alone[0]


def test_entities_are_drawn_and_not_events():
    """Where every entity says the same, only the number of entities counts."""
    label = np.repeat([True, False], 500)
    score = np.repeat([1.0, 0.0, 1.0, 0.0], 250)
    by_event = bootstrap.drawn_average_precision([score], label, np.arange(1000), bootstrap.draw(1000, 200))
    entity = np.repeat(np.arange(8), 125)
    by_entity = bootstrap.drawn_average_precision([score], label, entity, bootstrap.draw(8, 200))
    assert np.nanstd(by_entity) > 3 * np.std(by_event)


def test_the_likelihoods_rise_is_of_the_same_events():
    task = without(cards.without_labels(card_events()), "events", 0.0, seed=0)
    gappy = without(task, "values", 0.5, seed=0)
    before = np.random.default_rng(0).normal(size=task.judged.sum())
    after = before[gappy.judged[task.judged]] + 0.25
    assert judgement.rise_of(after, gappy, before, task) == {"nll_rise": pytest.approx(0.25)}
    assert judgement.rise_of(np.empty(0), gappy, before, task) == {}


# methods


def test_the_rivals_mixture_is_a_density_whose_tails_are_its_own():
    parameters = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z = torch.linspace(-40, 40, 80_001, dtype=torch.float64).unsqueeze(-1)
    density = networks.log_density(parameters.expand(len(z), -1, -1, -1), z).exp()[:, 0]
    below, above = networks.tails(parameters.expand(len(z), -1, -1, -1), z)
    step = 80 / 80_000
    assert float(density.sum() * step) == pytest.approx(1, abs=1e-6)
    torch.testing.assert_close(density.cumsum(0) * step, below.exp()[:, 0], atol=2e-3, rtol=0)
    torch.testing.assert_close(below.exp() + above.exp(), torch.ones_like(below))


def test_windows_for_pypots_hold_every_kept_event_once():
    task = orders.unsupervised(order_events())
    rows, there = saits.windows(task.codes(), task.kept)
    assert np.array_equal(np.sort(rows[there]), np.flatnonzero(task.kept))
    codes = task.codes()[rows]
    assert all(len(set(codes[window][there[window]])) == 1 for window in range(len(rows)))
    assert all((np.diff(rows[window][there[window]]) > 0).all() for window in range(len(rows)))


# ours


def test_our_parameters_are_what_the_task_allows():
    plain = ours.parameters(cards.without_labels(card_events()), "convlstm", seed=3)
    assert not {"label", "label_delay", "supervised"} & {*plain}
    assert (plain["upper"], plain["encoder"], plain["seed"]) == (("amount",), "convlstm", 3)
    assert LABEL not in ours.observed(cards.without_labels(card_events())).columns
    told = ours.parameters(cards.raw_supervised(card_events()), "none", seed=0)
    assert (told["label_delay"], told["supervised"], told["entity"]) == (7 * 86_400, True, ("customer", "terminal"))


def test_ours_scores_what_is_kept_and_learns_nothing_from_what_is_judged():
    task = without(cards.without_labels(card_events(count=1500)), "events", 0.3, seed=0)
    detector = ours.fit(task, "none", seed=0, epochs=1)
    found = ours.scored(detector, task, likelihoods=True)
    wanted = task.kept & task.judged
    assert np.isfinite(found.score[wanted]).all()
    assert np.isnan(found.score[~wanted]).all()
    assert np.isfinite(found.nll[wanted]).all()
    other = replace(task, events=changed_after(task.events, task.test_from - timedelta(microseconds=1)))
    again = ours.scored(ours.fit(other, "none", seed=0, epochs=1), task)
    np.testing.assert_array_equal(found.score, again.score)


def test_ours_does_not_alert_on_what_is_missing():
    task = without(orders.unsupervised(order_events()), "values", 0.6, seed=0)
    found = ours.scored(ours.fit(task, "none", seed=0, epochs=1), task)
    assert np.isnan(task.numbers()).all(1)[task.kept].sum() > 50
    assert found.alerts_on_missing == 0


# a run, and what is made of it


WHOLE = plan.Cell("cards, gaps", 0, "events", 0.0, "everywhere", plan.NO_HISTORY, 0)
GAPPY = [WHOLE._replace(what=what, share=0.3, where="scoring") for what in ("events", "values")]


@pytest.fixture
def few_cards(monkeypatch):
    task = cards.without_labels(card_events(count=1500))

    def tasks_of(cell, share):
        gappy = without(task, cell.what, cell.share, seed=0)
        return (task if cell.where == "scoring" else gappy), gappy

    monkeypatch.setattr(study, "tasks_of", tasks_of)
    return task


def test_a_run_leaves_its_scores_alone(tmp_path, few_cards):
    cell = WHOLE._replace(method="amount alone")
    study.run([cell], tmp_path, quick=True)
    assert list(tmp_path.iterdir()) == [study.path_of(tmp_path, cell)]
    found = study.read(study.path_of(tmp_path, cell))["score"]
    np.testing.assert_array_equal(found, few_cards.column("amount")[few_cards.judged])


@pytest.mark.parametrize("method", [plan.CONVLSTM, plan.ZERO, plan.FOREST, plan.Z])
def test_runs_that_share_a_fit_find_what_each_finds_alone(tmp_path, few_cards, method):
    job = [cell._replace(method=method) for cell in (WHOLE, *GAPPY)]
    assert study.jobs(job) == [job]
    study.run(job, tmp_path, quick=True)
    alone = tmp_path / "alone"
    alone.mkdir()
    for cell in job:
        study.run([cell], alone, quick=True)
        shared, own = (study.read(study.path_of(folder, cell)) for folder in (tmp_path, alone))
        np.testing.assert_array_equal(shared["score"], own["score"])
        np.testing.assert_array_equal(shared["nll"], own["nll"])


def test_runs_fitted_on_other_events_or_otherwise_share_no_fit():
    others = [
        WHOLE, WHOLE._replace(seed=1), WHOLE._replace(method=plan.CONTROL), WHOLE._replace(task="orders"),
        WHOLE._replace(split=2), GAPPY[0]._replace(where="everywhere"), GAPPY[1]._replace(where="everywhere"),
    ]  # fmt: skip
    assert study.jobs(others) == [[cell] for cell in others]
    assert sum(map(len, study.jobs(plan.cells()))) == len(plan.cells())


def test_no_run_is_begun_after_the_time_that_was_given(tmp_path):
    cell = plan.Cell("cards, no labels", 0, "events", 0.0, "everywhere", "amount alone", 0)
    chosen = study.options(["--minutes", "0", "--processes", "1"])
    assert study.run_all([cell], tmp_path, chosen, start=time.monotonic()) == 0
    assert list(tmp_path.iterdir()) == []


def content():
    """Results of two methods of ours and two others, with two seeds."""
    runs, intervals = [], []
    for task, value in (("orders", 0.08), ("cards, no labels", 0.2)):
        for method, less in ((plan.AUTO, 0.0), (plan.CONVLSTM, 0.01), (plan.FOREST, 0.04), (plan.Z, -0.02)):
            place = {"task": task, "split": 0, "what": "events", "share": 0.0, "where": "everywhere", "method": method}
            for seed in range(2):
                ap = value - less + 0.001 * seed
                runs.append(place | {"seed": seed, "ap": ap, "auc": 0.8, "precision": 0.1, "encoder": "lstm"})
            interval = {"ap": value - less, "interval": [0.01, 0.3]}
            if method != plan.AUTO:
                interval |= {"against": plan.AUTO, "ahead": less, "ahead_interval": [less - 0.01, less + 0.01]}
            intervals.append(place | interval)
    for share, rise in ((0.3, 0.004), (0.6, 0.02)):
        place = {"task": "cards, gaps", "split": 0, "what": "events", "share": share, "where": "scoring"}
        runs.append(place | {"method": plan.CONVLSTM, "seed": 0, "ap": 0.1, "nll_rise": rise, "alerts_on_missing": 0})
    versions = {"gapcell": "0", "python": "3", "numpy": "2", "torch": "2"}
    machine = {"cpu": "a", "cores": 2, "system": "Linux", "kernel": "off"}
    around = {"machine": machine, "versions": versions}
    tasks = dict.fromkeys(run["task"] for run in runs)
    return {"surroundings": dict.fromkeys(tasks, around), "runs": runs, "intervals": intervals}


def test_a_task_that_is_measured_again_takes_its_own_place_alone():
    before = content()
    new = {
        name: [row | {"ap": 0.5} for row in before[name] if row["task"] == "orders"] for name in ("runs", "intervals")
    }
    after = results.with_task(before, "orders", new)
    for name in ("runs", "intervals"):
        rows = {task: [row for row in after[name] if row["task"] == task] for task in ("orders", "cards, no labels")}
        assert rows["orders"] == new[name]
        assert rows["cards, no labels"] == [row for row in before[name] if row["task"] == "cards, no labels"]
        assert len(after[name]) == len(before[name])
    assert after["surroundings"]["cards, no labels"] == before["surroundings"]["cards, no labels"]
    assert after["surroundings"]["orders"] != before["surroundings"]["orders"]


def test_the_page_says_what_was_measured_where():
    found = content()
    assert page.surroundings(findings.Findings(found)) == "a, 2 cores, Linux; gapcell 0, python 3, numpy 2, torch 2."
    found["surroundings"]["orders"] = results.surroundings()
    said = page.surroundings(findings.Findings(found)).split("\n\n")
    assert said[0].startswith("orders: ")
    assert said[1] == "cards, no labels; cards, gaps: a, 2 cores, Linux; gapcell 0, python 3, numpy 2, torch 2."


def test_the_page_says_over_how_many_seeds():
    found = content()
    assert page.seeds(findings.Findings(found)) == "seeds: 2 in 6 rows, 1 in 2 rows"
    found["runs"] = [run for run in found["runs"] if not run["share"]]
    assert page.seeds(findings.Findings(found)) == "2 seeds"


def test_results_of_more_runs_are_not_given_up_for_fewer(tmp_path, monkeypatch, capsys):
    stood = content()
    path = tmp_path / "detect.json"
    results.write(stood, path)
    cell = plan.Cell("orders", 0, "events", 0.0, "everywhere", "few lines", 0)
    monkeypatch.setattr(study, "cells", lambda **_: [cell])
    study.main(["--only", "few lines", "--scores", str(tmp_path / "scores"), "--output", str(path), "--minutes", "0"])
    assert results.read(path) == stood
    assert "orders: 0 runs are done, and the results of more stay" in capsys.readouterr().out


def test_marks_are_judged_by_what_was_found():
    found = {mark.what: mark for mark in marks.marks(findings.Findings(content()))}
    reached = {what: mark.reached for what, mark in found.items() if mark.measured is not None}
    assert reached == {
        "orders: ROC AUC": True,
        "orders: average precision": True,
        "orders: lower end of the gain in average precision over isolation forest": True,
        "cards, no labels: average precision": False,
        "cards, no labels: card precision at 100 a day": True,
        "cards, gaps: rise of the amount's NLL, 30 % of events removed at scoring": True,
        "cards, gaps: rise of the amount's NLL, 60 % of events removed at scoring": False,
    }


def test_the_page_says_where_ours_is_behind():
    text = page.document(findings.Findings(content()))
    behind = text[text.index("## Where ours is behind") :].split("##")[1]
    assert plan.Z in behind
    assert "-0.020 [-0.030, -0.010] | yes" in behind
    assert plan.FOREST not in behind
    assert "was not run" in text[text.index("## PyPOTS") :]


def test_the_page_is_what_was_found():
    assert page.DOCUMENT.read_text(encoding="utf-8") == page.document(findings.Findings.read())


# the plan


def test_every_method_of_the_plan_is_run_under_the_same_conditions():
    planned = plan.cells()
    assert len(set(planned)) == len(planned)
    assert len({cell.key for cell in planned}) == len(planned)
    for cell in planned:
        assert cell.whole in planned, "what a rise is measured from"
    for task, shares in plan.REMOVED.items():
        places = {cell.place for cell in planned if cell.share and cell.task == task}
        assert {place[2:4] for place in places} == {(what, share) for what in ("events", "values") for share in shares}
        for place in places:
            methods = {cell.method for cell in planned if cell.place == place}
            assert methods == {*plan.METHODS[task]} - {plan.AUTO}
