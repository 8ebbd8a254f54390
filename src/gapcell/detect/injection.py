"""Anomalies put into the test part of a table, so that methods can be compared where nothing is labelled."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import polars as pl

from gapcell.detect.columns import words
from gapcell.detect.events import EventTable, rebuild
from gapcell.detect.refusals import TableError
from gapcell.detect.results import Split
from gapcell.detect.wording import duration

KINDS = ("amount", "burst", "swap")
SHARE = 0.01  # of the test events, injected events of each kind
FACTOR = 10.0
BURST = 5  # events of a burst
SWAPPED = 3  # events after a swap that count; later ones have the new habits behind them, and are left out
AMOUNT_WORDS = ("amount", "value", "price", "total", "sum", "dollar", "usd", "eur", "gbp", "cents", "revenue", "cost")


@dataclass(frozen=True, eq=False)
class Injected:
    """A table with injected anomalies.

    Attributes:
        table: the events, the injected ones last.
        kind: (rows,) text: "amount", "burst" or "swap" for an anomalous event, "left out" for one that counts
            neither way, "" for every other.
        notes: what was injected, each one sentence.
    """

    table: EventTable
    kind: np.ndarray
    notes: tuple[str, ...]


def inject(table: EventTable, split: Split, rapid: float, seed: int) -> Injected:
    """Inject anomalies into the test part: 1 % of its events each kind, drawn from the seed, no entity hit twice.

    Entities are drawn from those with an earlier event. An amount is multiplied by 10; a burst is 5 more events after
    a real one, each `rapid` seconds after the last, with the values of earlier events of the entity; a swap exchanges
    all test events of two entities with at least 2 events on either side, and the first 3 of each count.

    Raises:
        TableError: when no entity has events both before and in the test part.
    """
    draws = np.random.default_rng(seed)
    events = entities_in_test(table, split)
    entities = draws.permutation([code for code, (before, after) in events.items() if len(before) and len(after)])
    if entities.size == 0:
        raise TableError("nothing can be injected: no entity has events both before and in the test part")
    wanted = math.ceil(SHARE * sum(len(after) for _, after in events.values()))
    able = [code for code in entities.tolist() if min(map(len, events[code])) >= 2]
    pairs = min(max(1, wanted // (2 * SWAPPED)), len(able) // 4)
    swapped = able[: 2 * pairs]
    rest = [code for code in entities.tolist() if code not in set(swapped)]
    bursts = min(max(1, wanted // BURST), max(1, len(rest) // 2))
    kind = np.full(len(table.codes), "", dtype=object)
    owner = swap(swapped, events, kind)
    column = amount_column(table)
    values, count = multiply(table, column, draws.permutation(tails(rest[bursts:], events)), wanted, kind)
    source, anchor = burst(rest[:bursts], events, draws)
    index = np.concatenate([owner, source])
    seconds = np.concatenate([table.seconds, table.seconds[anchor] + rapid * (1 + np.arange(len(anchor)) % BURST)])
    values = pl.DataFrame([pl.concat([old, old.gather(source)]) for old in values])
    there = np.append(np.arange(len(owner)), source)  # where it happened stays, only whose it is changes
    others = table.others.select(pl.all().gather(there))
    unlabelled = pl.Series([False] * len(source), dtype=pl.Boolean)
    label = None if table.label is None else pl.concat([table.label, unlabelled.alias(table.label.name)])
    injected = rebuild(
        table, entity=table.entity.gather(index), seconds=seconds, values=values, others=others, label=label
    )
    return Injected(
        injected,
        np.append(kind, np.full(len(source), "burst", dtype=object)),
        (
            f"amount: {column or 'no column'} of {count:,} test events is multiplied by {FACTOR:g}",
            f"burst: {BURST} more events after each of {bursts:,} test events, {duration(rapid)} apart, with values "
            "of earlier events of the same entity",
            f"swap: {pairs:,} pairs of entities exchange all their test events, the first {SWAPPED} of each count",
        ),
    )


def entities_in_test(table: EventTable, split: Split) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Of each entity with a test event: the rows before the test part and those in it, in time order."""
    codes = np.unique(table.codes[table.seconds >= split.test_from])
    found = {}
    for code in codes.tolist():
        rows = table.rows_of(code)
        late = table.seconds[rows] >= split.test_from
        found[code] = (rows[~late], rows[late])
    return found


def tails(codes: list[int], events: dict[int, tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """The test rows of these entities."""
    return np.concatenate([np.empty(0, dtype=np.int64), *(events[code][1] for code in codes)])


def amount_column(table: EventTable) -> str | None:
    """The numeric column whose name says money, or else the first numeric one; None when there is none."""
    numeric = [column.name for column in table.reading.columns if column.kind == "numeric"]
    money = [name for name in numeric if set(words(name)) & set(AMOUNT_WORDS)]
    return next(iter(money or numeric), None)


def multiply(
    table: EventTable, column: str | None, rows: np.ndarray, wanted: int, kind: np.ndarray
) -> tuple[pl.DataFrame, int]:
    """Multiply the amount of the first `wanted` of these rows that have one, and mark them in `kind`."""
    if column is None:
        return table.values, 0
    values = table.values[column].to_numpy().copy()
    chosen = rows[np.abs(np.nan_to_num(values[rows])) > 0][:wanted]
    values[chosen] *= FACTOR
    kind[chosen] = "amount"
    return table.values.with_columns(pl.Series(column, values).fill_nan(None)), len(chosen)


def burst(
    codes: list[int], events: dict[int, tuple[np.ndarray, np.ndarray]], draws: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """For each new event the row whose values it gets, and the row after which it comes."""
    source = [draws.choice(events[code][0], BURST) for code in codes]
    anchor = [np.repeat(draws.choice(events[code][1]), BURST) for code in codes]
    nothing = np.empty(0, dtype=np.int64)
    return np.concatenate([nothing, *source]), np.concatenate([nothing, *anchor])


def swap(codes: list[int], events: dict[int, tuple[np.ndarray, np.ndarray]], kind: np.ndarray) -> np.ndarray:
    """Exchange the tails of neighbours in `codes`: for each row of the table a row of the entity it belongs to now."""
    owner = np.arange(len(kind))
    for one, other in zip(codes[::2], codes[1::2], strict=True):
        for taker, giver in ((one, other), (other, one)):
            tail = events[giver][1]
            owner[tail] = events[taker][0][0]
            kind[tail] = "left out"
            kind[tail[:SWAPPED]] = "swap"
    return owner
