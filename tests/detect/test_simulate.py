"""The simulated table holds what the docstring of `Simulation` says, and is the same for the same numbers."""

from pathlib import Path

import polars as pl
import pytest

from gapcell.detect.simulate import KINDS, SCHEMA, Simulation

DAY = 86_400


@pytest.fixture(scope="module")
def table() -> pl.DataFrame:
    """Many frauds and silences, and every value there: what is simulated can be checked on what is written."""
    simulation = Simulation(
        customers=2500, days=120, seed=5, fraud_rate=0.03, missing_rate=0, withholding_rate=0, silence_rate=0.5
    )
    return simulation.frame().with_columns(row=pl.int_range(pl.len()))


def seconds_since_last() -> pl.Expr:
    return (pl.col("time") - pl.col("time").shift(1).over("customer")).dt.total_seconds()


def test_same_numbers_same_bytes(tmp_path: Path) -> None:
    for suffix in (".parquet", ".csv"):
        first, second, other = (tmp_path / f"{name}{suffix}" for name in ("first", "second", "other"))
        Simulation(customers=1200, days=40, seed=7).write(first)
        Simulation(customers=1200, days=40, seed=7).write(second)
        Simulation(customers=1200, days=40, seed=8).write(other)
        assert first.read_bytes() == second.read_bytes()
        assert first.read_bytes() != other.read_bytes()


def test_chunks_written_one_by_one_are_the_whole_table(tmp_path: Path) -> None:
    simulation = Simulation(customers=2100, days=35, seed=1)
    chunks: list[int] = []
    simulation.write(tmp_path / "t.parquet", on_chunk=lambda chunk: chunks.append(chunk["customer"].n_unique()))
    assert len(chunks) == 3
    assert max(chunks) <= 1000
    assert pl.read_parquet(tmp_path / "t.parquet").equals(simulation.frame())


def test_columns_are_typed_and_rows_are_in_order(table: pl.DataFrame) -> None:
    assert table.drop("row").schema == SCHEMA
    assert table.sort("customer", "time", maintain_order=True)["row"].is_sorted()
    assert table["customer"].n_unique() > 2400
    assert table["time"].min() >= pl.Series(["2024-01-01"]).str.to_datetime()[0]
    assert table["time"].max() < pl.Series(["2024-04-30T01:00"]).str.to_datetime()[0]  # a second charge may run over
    assert (table["label"] == (table["kind"] != "genuine")).all()
    assert set(table["kind"].unique()) == set(KINDS)


@pytest.mark.parametrize("rate", [0.003, 0.03])
def test_fraud_has_the_rate_asked_for_in_equal_thirds(rate: float) -> None:
    drawn = pl.concat(Simulation(customers=6000, days=60, seed=seed, fraud_rate=rate).frame() for seed in range(3))
    for kind in ("stolen_card", "compromised_terminal", "takeover"):
        assert (drawn["kind"] == kind).mean() == pytest.approx(rate / 3, rel=0.25)
    genuine = Simulation(customers=500, fraud_rate=0, silence_rate=0).frame()
    assert not genuine["label"].any()


def test_stolen_cards_burst_high_above_the_customer(table: pl.DataFrame) -> None:
    usual = table.filter(~pl.col("label"), pl.col("amount") > 0).group_by("customer").agg(usual=pl.median("amount"))
    bursts = (
        table.filter(kind="stolen_card")
        .join(usual, on="customer")
        .group_by("customer")
        .agg(
            events=pl.len(),
            hours=(pl.max("time") - pl.min("time")).dt.total_seconds() / 3600,
            ratio=pl.median("amount") / pl.first("usual"),
            terminals=pl.n_unique("terminal"),
        )
    )
    assert bursts["events"].is_between(4, 10).all()
    assert (bursts["hours"] <= 4).all()
    assert bursts["ratio"].median() > 3
    assert (bursts["terminals"] >= bursts["events"] - 2).all()  # anywhere, not at a favourite


def test_compromised_terminals_charge_again_within_ten_minutes(table: pl.DataFrame) -> None:
    charges = table.filter(kind="compromised_terminal")
    purchases = table.filter(pl.col("kind").is_in(["genuine", "silence"]), pl.col("amount") > 0)
    pairs = charges.join(purchases, on=["customer", "terminal"], suffix="_before").filter(
        (pl.col("time") - pl.col("time_before")).dt.total_seconds().is_between(19, 601),
        (pl.col("amount") / pl.col("amount_before")).is_between(0.99, 3.01),
    )
    assert pairs["row"].n_unique() == charges.height
    span = charges.group_by("terminal").agg(days=(pl.max("time") - pl.min("time")).dt.total_seconds() / DAY)
    assert (span["days"] <= 0.12 * 120).all()


def test_takeovers_test_small_then_take_much(table: pl.DataFrame) -> None:
    takeovers = table.filter(kind="takeover")
    assert takeovers["online"].all()
    cases = takeovers.group_by("customer").agg(
        tests=(pl.col("amount") <= 2.5).sum(),
        last_test=pl.col("time").filter(pl.col("amount") <= 2.5).max(),
        thefts=(pl.col("amount") > 2.5).sum(),
        first_theft=pl.col("time").filter(pl.col("amount") > 2.5).min(),
    )
    assert cases["tests"].is_between(2, 4).all()
    assert cases["thefts"].is_between(1, 2).all()
    assert (cases["first_theft"] > cases["last_test"]).all()


def test_silence_is_labelled_on_the_event_that_ends_it(table: pl.DataFrame) -> None:
    waits = table.with_columns(days=seconds_since_last() / DAY)
    after = waits.filter(kind="silence")
    assert after.height > 50
    assert after["customer"].is_unique().all()
    assert (after["days"] >= 0.20 * 120).all()
    assert (after["days"] < 60 + 14 + 7).all()
    usual = waits.filter(pl.col("customer").is_in(after["customer"].implode()), kind="genuine")
    assert (usual["days"].drop_nulls() < after["days"].min()).mean() > 0.999  # vacations are shorter


def test_refunds_follow_a_purchase_and_are_genuine(table: pl.DataFrame) -> None:
    refunds = table.filter(pl.col("amount") < 0)
    assert not refunds["label"].any() or set(refunds.filter("label")["kind"]) == {"silence"}
    assert refunds.height / table.height == pytest.approx(0.02, rel=0.15)
    purchases = table.filter(pl.col("amount") > 0)
    paid = refunds.join(purchases, on=["customer", "terminal"], suffix="_before").filter(
        (pl.col("time") - pl.col("time_before")).dt.total_seconds().is_between(DAY - 1, 14 * DAY + 1),
        -pl.col("amount") <= pl.col("amount_before") + 0.01,
    )
    assert paid["row"].n_unique() == refunds.height


def test_values_are_missing_at_random_and_by_customer() -> None:
    columns = ["amount", "category", "online"]  # distance is missing online, too
    drawn = Simulation(customers=3000, days=60, seed=2, missing_rate=0.05, fraud_rate=0, silence_rate=0).frame()
    assert drawn.drop(*columns, "distance").null_count().sum_horizontal()[0] == 0
    shares = (
        drawn.group_by("customer")
        .agg(pl.len(), *(pl.col(name).is_null().mean() for name in columns))
        .filter(pl.col("len") >= 20)
        .unpivot(columns, index="customer")
    )
    often = shares.filter(pl.col("value") > 0.28)
    assert often.height / shares.height == pytest.approx(0.15 / 2, rel=0.3)
    seldom = shares.filter(pl.col("value") <= 0.28)
    assert seldom["value"].mean() == pytest.approx(0.05, rel=0.1)
    everything = Simulation(customers=300, days=60, missing_rate=0, withholding_rate=0).frame()
    assert not everything.select("amount", "category", "online").null_count().sum_horizontal()[0]
    assert everything["distance"].is_null().equals(everything["online"])


def test_one_customer_is_a_table() -> None:
    for seed in range(20):
        assert Simulation(customers=1, days=30, seed=seed, fraud_rate=0.1).frame().schema == SCHEMA


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"customers": 0}, r"`customers` \(=0\) must be between 1 and"),
        ({"days": 29}, r"`days` \(=29\) must be between 30 and 3650"),
        ({"seed": -1}, r"`seed` \(=-1\) must be between 0"),
        ({"fraud_rate": 0.2}, r"`fraud_rate` \(=0.2\) must be between 0 and 0.1"),
        ({"missing_rate": float("nan")}, r"`missing_rate` \(=nan\) must be between 0 and 0.9"),
        ({"silence_rate": 1.1}, r"`silence_rate` \(=1.1\) must be between 0 and 1"),
    ],
)
def test_numbers_out_of_range_are_refused(setting: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Simulation(**setting)  # pyrefly: ignore[bad-argument-type]


def test_an_unknown_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must end in \.parquet or \.csv"):
        Simulation().write(tmp_path / "t.xlsx")


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    path.write_bytes(b"what was there")

    def fail(chunk: pl.DataFrame) -> None:
        raise RuntimeError("the disk is full")

    with pytest.raises(Exception, match="the disk is full"):
        Simulation(customers=10, days=30).write(path, on_chunk=fail)
    assert [entry.name for entry in tmp_path.iterdir()] == ["t.parquet"]
    assert path.read_bytes() == b"what was there"
