"""Labelled card transactions of any size from a seed: habits, calendars, terminals, refunds, fraud and gaps.

The population is gapcell's own invention, made for tests, documentation and measurements of scale. It is easier than
life: a score on it says that a detector works, not how well it works on a bank's table. `Simulation` says exactly what
is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import polars as pl
from polars.io.plugins import register_io_source

from gapcell.detect.population import (
    CATEGORIES,
    DAY,
    ONLINE,
    Customers,
    Terminals,
    draw_customers,
    draw_terminals,
    log_uniform,
)
from gapcell.files import replacing

KINDS = ("genuine", "stolen_card", "compromised_terminal", "takeover", "silence")
"""What `kind` can say, in the order of the codes used below; all but the first are labelled."""

GENUINE, STOLEN_CARD, COMPROMISED_TERMINAL, TAKEOVER, SILENCE = range(len(KINDS))

START = date(2024, 1, 1)
HOLIDAYS = ((1, 1), (5, 1), (12, 24), (12, 25), (12, 26))
BUSY_MONTH = 12
CUSTOMERS_PER_CHUNK = 1000  # part of the random stream: another number gives another table

SCHEMA = pl.Schema(
    {
        "customer": pl.String,
        "time": pl.Datetime("us"),
        "amount": pl.Float64,
        "terminal": pl.String,
        "category": pl.String,
        "distance": pl.Float64,
        "online": pl.Boolean,
        "label": pl.Boolean,
        "kind": pl.String,
    }
)
MAY_BE_MISSING = ("amount", "category", "distance", "online")


@dataclass(frozen=True)
class Events:
    """Events as columns of equal length: customer (row in the chunk), second since the start, terminal, amount, kind.

    Seconds are whole, amounts are rounded to cents, and kind is an index into `KINDS`.
    """

    customer: np.ndarray
    second: np.ndarray
    terminal: np.ndarray
    amount: np.ndarray
    kind: np.ndarray

    @classmethod
    def of(
        cls, customer: np.ndarray, second: np.ndarray, terminal: np.ndarray, amount: np.ndarray, kind: int
    ) -> Events:
        """Events that are all of one kind, rounded."""
        return cls(customer, np.floor(second), terminal, np.round(amount, 2), np.full(len(customer), kind, np.int8))

    def where(self, keep: np.ndarray) -> Events:
        """The events that `keep` selects: a bool array, or indices, which also put them in order."""
        return Events(*(column[keep] for column in vars(self).values()))

    def outside(self, start: np.ndarray, stop: np.ndarray) -> Events:
        """The events before `start` or from `stop` on, seconds that each customer has its own of."""
        return self.where((self.second < start[self.customer]) | (self.second >= stop[self.customer]))

    def and_then(self, *others: Events) -> Events:
        """These events followed by the others."""
        return Events(
            *(np.concatenate(columns) for columns in zip(*(vars(e).values() for e in (self, *others)), strict=True))
        )


@dataclass(frozen=True)
class Simulation:
    """A table of card transactions that is the same, bit for bit, whenever its numbers are the same.

    Rows are grouped by customer and ordered by time within one. The columns:

    - customer, terminal (string); time (datetime, whole seconds, from 2024-01-01); amount (float, cents; negative for a
      refund); category (string, the terminal's trade); distance (float, kilometres from home to the terminal, missing
      online); online (bool).
    - label (bool): True where something is wrong. kind (string): what; one of `KINDS`.

    What is simulated:

    - **Habits.** A customer has a typical amount (log-normal, median 25) and a spread around it, one or two preferred
      hours, weights over the days of the week, a rate of purchases (log-normal, median 0.35 a day) and eight favourite
      terminals near home; one purchase in twenty happens at any terminal. Three customers in ten are regular: at most
      one purchase a day, on fixed days of the week, which they keep 93 times in a hundred. The rest are Poisson.
    - **Calendars.** Weekdays; five public holidays on which activity falls to a quarter; a December 1.4 times as busy;
      one vacation a customer, without purchases, of 3 to 8 % of the span and at most 14 days. Vacations are genuine.
    - **Refunds.** 2 % of purchases are wholly or partly paid back at the same terminal 1 to 14 days later. Genuine.
    - **Fraud**, one third of `fraud_rate` each. `stolen_card`: 4 to 10 purchases within a few hours at terminals
      anywhere, at 3 to 10 times the customer's level. `compromised_terminal`: for 4 to 12 % of the span every second
      purchase at the terminal is followed within ten minutes by another charge, 1 to 3 times as high. `takeover`:
      online and twelve hours away from the customer's own, 2 to 4 payments of at most 2.50, then within a day one or
      two of 8 to 20 times the customer's level.
    - **Gaps.** At random: amount, category, distance and online are each missing in `missing_rate` of the rows.
      Depending on the customer: the banks of `withholding_rate` of the customers often withhold two of these four, each
      of the two in 30 to 100 % of the customer's rows. Absence as the anomaly: `silence_rate` of the regular customers
      who buy on at least three days a week fall silent once, for 20 to 35 % of the span and at most 60 days, always
      longer than a vacation; the first event after it is labelled, with kind `silence`. A customer who falls silent has
      no stolen card and no takeover.

    Attributes:
        customers: number of customers, at least 1. One who never buys within the span has no row.
        days: span in days, 30 to 3650.
        seed: any integer from 0; another seed is another population.
        fraud_rate: share of the transactions that are fraud, in expectation, 0 to 0.1.
        missing_rate: share of values missing at random, 0 to 0.9.
        withholding_rate: share of customers whose bank often withholds two of the four values, 0 to 1.
        silence_rate: share of the eligible customers who fall silent, 0 to 1.

    Raises:
        ValueError: a number outside its range; the message names it and the range.
    """

    customers: int = 1000
    days: int = 120
    seed: int = 0
    fraud_rate: float = 0.003
    missing_rate: float = 0.03
    withholding_rate: float = 0.15
    silence_rate: float = 0.05

    def __post_init__(self) -> None:
        limits = {
            "customers": (1, 100_000_000),
            "days": (30, 3650),
            "seed": (0, 2**63 - 1),
            "fraud_rate": (0, 0.1),
            "missing_rate": (0, 0.9),
            "withholding_rate": (0, 1),
            "silence_rate": (0, 1),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not low <= value <= high:  # NaN fails too
                raise ValueError(f"`{name}` (={value}) must be between {low} and {high}")

    def frame(self) -> pl.DataFrame:
        """The whole table in memory, about 100 bytes an event."""
        return pl.concat(list(self.chunks()))

    def chunks(self) -> Iterator[pl.DataFrame]:
        """The table in parts of 1000 customers, so that its size is bounded by the disk and not by the memory."""
        terminals = draw_terminals(np.random.default_rng([self.seed, 0]), self.customers, self.days, self.fraud_rate)
        for number, first in enumerate(range(0, self.customers, CUSTOMERS_PER_CHUNK)):
            generator = np.random.default_rng([self.seed, 1, number])
            customers = draw_customers(generator, terminals, min(CUSTOMERS_PER_CHUNK, self.customers - first))
            yield Chunk(self, generator, terminals, customers).frame(first)

    def write(self, path: str | Path, on_chunk: Callable[[pl.DataFrame], None] | None = None) -> None:
        """Writes the table to a .parquet or .csv file chunk by chunk, in bounded memory.

        Args:
            path: appears when the table is complete; until then a file that is there stays as it is.
            on_chunk: called with each chunk of the table before it is written.

        Raises:
            ValueError: `path` ends in neither .parquet nor .csv.
            OSError: `path` cannot be written.
        """
        if Path(path).suffix not in {".parquet", ".csv"}:
            raise ValueError(f"`path` (={str(path)!r}) must end in .parquet or .csv")

        def read(*_: object) -> Iterator[pl.DataFrame]:  # called with what could be pushed down, which nothing asks for
            for chunk in self.chunks():
                if on_chunk is not None:
                    on_chunk(chunk)
                yield chunk

        table = register_io_source(read, schema=SCHEMA)
        with replacing(path) as temporary:
            if temporary.suffix == ".parquet":
                table.sink_parquet(temporary)
            else:
                table.sink_csv(temporary)


@dataclass(frozen=True)
class Chunk:
    """One chunk of customers while it is drawn; the order of the calls to `generator` is part of the result."""

    settings: Simulation
    generator: np.random.Generator
    terminals: Terminals
    customers: Customers

    def frame(self, first: int) -> pl.DataFrame:
        """The chunk's table; its first customer bears the number `first`."""
        stopped, resumed = self.draw_silences()
        purchases = self.draw_purchases().outside(stopped, resumed)
        genuine = purchases.and_then(self.draw_refunds(purchases).outside(stopped, resumed))
        expected = len(genuine.customer) / len(resumed)
        events = genuine.and_then(
            self.draw_stolen_cards(self.draw_victims(np.isinf(resumed), expected, events_per_case=7)),
            self.draw_second_charges(genuine),
            self.draw_takeovers(self.draw_victims(np.isinf(resumed), expected, events_per_case=4.5)),
        )
        events = events.where(np.lexsort((events.second, events.customer)))
        mark_silences(events, resumed)
        return self.with_columns(events, first)

    def draw_purchases(self) -> Events:
        """What customers buy by their habits and the calendar."""
        generator, customers, days = self.generator, self.customers, self.settings.days
        count = len(customers.level)
        calendar = [START + timedelta(days=day) for day in range(days)]
        weekday = np.array([day.weekday() for day in calendar])
        activity = [
            (0.25 if (d.month, d.day) in HOLIDAYS else 1) * (1.4 if d.month == BUSY_MONTH else 1) for d in calendar
        ]
        length = np.minimum(generator.uniform(0.03, 0.08, (count, 1)) * days, 14)
        vacation = generator.uniform(0, 1, (count, 1)) * (days - length)
        at_home = (np.arange(days) < vacation) | (np.arange(days) >= vacation + length)
        rate = customers.rate[:, weekday] * np.array(activity) * at_home  # (customers, days)
        kept = generator.random(rate.shape) < rate
        number = np.where(customers.regular[:, None], kept, generator.poisson(rate))

        customer, day = (np.repeat(index, number[number > 0]) for index in np.nonzero(number))
        count = len(customer)
        peak = customers.hour[customer, (generator.random(count) < 0.4).astype(np.int64)]
        hour = np.mod(generator.normal(peak, customers.hour_spread[customer]), 24)
        second = np.minimum(day * DAY + hour * 3600, days * DAY - 1)
        favourite = customers.favourites[customer, np.minimum(generator.geometric(0.35, count) - 1, 7)]
        anywhere = generator.integers(0, len(self.terminals.x), count)
        terminal = np.where(generator.random(count) < 0.05, anywhere, favourite)
        factor = np.array([factor for _, factor in CATEGORIES.values()])[self.terminals.category[terminal]]
        amount = customers.level[customer] * factor * np.exp(generator.normal(0, customers.spread[customer]))
        return Events.of(customer, second, terminal, np.maximum(amount, 0.5), GENUINE)

    def draw_refunds(self, purchases: Events) -> Events:
        """Part of the purchases, paid back later; a refund beyond the span is lost."""
        refunded = purchases.where(self.generator.random(len(purchases.customer)) < 0.02)
        count = len(refunded.customer)
        second = refunded.second + self.generator.uniform(1, 14, count) * DAY
        share = np.where(self.generator.random(count) < 0.6, 1, self.generator.uniform(0.1, 0.9, count))
        refunds = Events.of(refunded.customer, second, refunded.terminal, -share * refunded.amount, GENUINE)
        return refunds.where(second < self.settings.days * DAY)

    def draw_silences(self) -> tuple[np.ndarray, np.ndarray]:
        """Second at which each customer falls silent and at which the silence ends; infinite for those who do not."""
        days, count = self.settings.days, len(self.customers.level)
        eligible = self.customers.regular & ((self.customers.rate > 0).sum(1) >= 3)
        silent = eligible & (self.generator.random(count) < self.settings.silence_rate)
        length = np.minimum(self.generator.uniform(0.20, 0.35, count) * days, 60)
        # Some days before it, so that there is a habit to break, and some after it, so that there is an event to mark.
        start = self.generator.uniform(0.25, 1, count) * (0.9 * days - length)
        return np.where(silent, start * DAY, np.inf), np.where(silent, (start + length) * DAY, np.inf)

    def draw_victims(self, eligible: np.ndarray, expected: float, events_per_case: float) -> np.ndarray:
        """Customers hit by one kind of fraud, each once, so many that it makes up a third of `fraud_rate`."""
        probability = self.settings.fraud_rate / 3 * expected / events_per_case
        return np.flatnonzero(eligible & (self.generator.random(len(eligible)) < probability))

    def draw_stolen_cards(self, victim: np.ndarray) -> Events:
        """A burst of high amounts at terminals anywhere."""
        case = np.repeat(np.arange(len(victim)), self.generator.integers(4, 11, len(victim)))
        count = len(case)
        start = self.generator.uniform(0, 0.99, len(victim)) * self.settings.days * DAY
        length = self.generator.uniform(0.5, 4, len(victim)) * 3600
        second = start[case] + self.generator.random(count) * length[case]
        terminal = self.generator.integers(0, len(self.terminals.x), count)
        amount = self.customers.level[victim[case]] * log_uniform(self.generator, 3, 10, count)
        return Events.of(victim[case], second, terminal, amount, STOLEN_CARD)

    def draw_second_charges(self, genuine: Events) -> Events:
        """What compromised terminals charge after a purchase."""
        start, stop = self.terminals.fraud_start[genuine.terminal], self.terminals.fraud_stop[genuine.terminal]
        hit = (genuine.second >= start) & (genuine.second < stop) & (genuine.amount > 0)
        charged = genuine.where(hit & (self.generator.random(len(hit)) < 0.5))
        count = len(charged.customer)
        second = charged.second + self.generator.uniform(20, 600, count)
        amount = charged.amount * self.generator.uniform(1, 3, count)
        return Events.of(charged.customer, second, charged.terminal, amount, COMPROMISED_TERMINAL)

    def draw_takeovers(self, victim: np.ndarray) -> Events:
        """Small test payments online at an unusual hour, then large ones."""
        generator, level = self.generator, self.customers.level
        midnight = generator.integers(0, self.settings.days - 2, len(victim)) * DAY
        begin = midnight + np.mod(self.customers.hour[victim, 0] + 12, 24) * 3600
        online = np.flatnonzero(self.terminals.category == ONLINE)

        test = np.repeat(np.arange(len(victim)), generator.integers(2, 5, len(victim)))
        theft = np.repeat(np.arange(len(victim)), generator.integers(1, 3, len(victim)))
        test_second = begin[test] + generator.uniform(0, 3600, len(test))
        theft_second = begin[theft] + generator.uniform(2, 24, len(theft)) * 3600
        test_amount = generator.uniform(0.5, 2.5, len(test))
        theft_amount = level[victim[theft]] * log_uniform(generator, 8, 20, len(theft))
        tests = Events.of(victim[test], test_second, generator.choice(online, len(test)), test_amount, TAKEOVER)
        thefts = Events.of(victim[theft], theft_second, generator.choice(online, len(theft)), theft_amount, TAKEOVER)
        return tests.and_then(thefts)

    def with_columns(self, events: Events, first: int) -> pl.DataFrame:
        """The events as a table in `SCHEMA`, with what is missing taken out."""
        category = self.terminals.category[events.terminal]
        east = self.terminals.x[events.terminal] - self.customers.x[events.customer]
        north = self.terminals.y[events.terminal] - self.customers.y[events.customer]
        frame = pl.DataFrame(
            {
                "customer": first + events.customer,
                "time": np.datetime64(START, "ms") + 1000 * events.second.astype(np.int64),
                "amount": events.amount,
                "terminal": events.terminal,
                "category": pl.Series(list(CATEGORIES))[category],
                "distance": np.round(np.hypot(east, north), 1),
                "online": category == ONLINE,
                "label": events.kind != GENUINE,
                "kind": pl.Series(KINDS)[events.kind.astype(np.int64)],
            }
        ).with_columns(
            customer=pl.lit("C") + pl.col("customer").cast(pl.String).str.zfill(7),
            terminal=pl.lit("T") + pl.col("terminal").cast(pl.String).str.zfill(6),
            distance=pl.when(~pl.col("online")).then("distance"),
        )
        missing = self.draw_missing(events)
        observed = {name: pl.Series(~missing[:, column]) for column, name in enumerate(MAY_BE_MISSING)}
        return frame.with_columns(**{name: pl.when(seen).then(name) for name, seen in observed.items()}).cast(SCHEMA)

    def draw_missing(self, events: Events) -> np.ndarray:
        """True (events, columns of `MAY_BE_MISSING`) where the value is not in the table."""
        shape = (len(self.customers.level), len(MAY_BE_MISSING))
        withholds = self.generator.random((shape[0], 1)) < self.settings.withholding_rate
        withheld = self.generator.permuted(np.tile(np.arange(shape[1]), (shape[0], 1)), axis=1) < 2
        share = np.where(withholds & withheld, self.generator.uniform(0.3, 1, shape), self.settings.missing_rate)
        return self.generator.random((len(events.customer), shape[1])) < share[events.customer]


def mark_silences(events: Events, resumed: np.ndarray) -> None:
    """Gives the first event after each silence its kind, in place; `events` are ordered by customer and second."""
    has_previous = np.r_[False, events.customer[1:] == events.customer[:-1]]
    previous = np.r_[0, events.second[:-1]]
    resume = resumed[events.customer]
    events.kind[has_previous & (previous < resume) & (events.second >= resume)] = SILENCE
