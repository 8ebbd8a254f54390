"""The simulated population: terminals, and customers with their habits."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

__all__ = ["CATEGORIES", "DAY", "ONLINE", "Customers", "Terminals", "draw_customers", "draw_terminals", "log_uniform"]

DAY = 86_400
CATEGORIES = {  # name: (share of the terminals, typical amount over the customer's own level)
    "grocery": (0.26, 0.8),
    "restaurant": (0.20, 0.7),
    "fuel": (0.10, 1.3),
    "clothing": (0.12, 1.5),
    "pharmacy": (0.10, 0.5),
    "electronics": (0.06, 2.0),
    "travel": (0.04, 2.5),
    "online": (0.12, 1.1),
}
ONLINE = list(CATEGORIES).index("online")


@dataclass(frozen=True)
class Terminals:
    """Where cards are used; the whole population shares them.

    Attributes:
        x, y: float64 (terminals,), place in a square of 100 km.
        category: int64 (terminals,), index into `CATEGORIES`.
        fraud_start, fraud_stop: float64 (terminals,), seconds since the start of the table between which the terminal
            is compromised; both infinite where it never is.
    """

    x: np.ndarray
    y: np.ndarray
    category: np.ndarray
    fraud_start: np.ndarray
    fraud_stop: np.ndarray


@dataclass(frozen=True)
class Customers:
    """The habits of one chunk of customers; every array has one row a customer.

    Attributes:
        level: typical amount. spread: standard deviation of its logarithm.
        rate: float64 (customers, 7), expected purchases on each day of the week, Monday first.
        regular: True for those who buy on fixed days of the week, at most once a day.
        hour: float64 (customers, 2), the two hours of the day around which purchases fall; hour_spread in hours.
        favourites: int64 (customers, 8), terminals from the most used to the least.
        x, y: home, in kilometres.
    """

    level: np.ndarray
    spread: np.ndarray
    rate: np.ndarray
    regular: np.ndarray
    hour: np.ndarray
    hour_spread: np.ndarray
    favourites: np.ndarray
    x: np.ndarray
    y: np.ndarray


def draw_terminals(generator: np.random.Generator, customers: int, days: int, fraud_rate: float) -> Terminals:
    """The terminals of a population, at least 40, and when they are compromised."""
    count = max(40, customers // 4)
    category = generator.choice(len(CATEGORIES), count, p=[share for share, _ in CATEGORIES.values()])
    category[0] = ONLINE  # a takeover needs one
    span = days * DAY
    length = generator.uniform(0.04, 0.12, count) * span
    start = generator.uniform(0, 1, count) * (span - length)
    # Half of the purchases in 8 % of the time are charged twice, so this many compromised terminals give the rate.
    compromised = generator.random(count) < fraud_rate / 3 / (0.5 * 0.08)
    return Terminals(
        x=generator.uniform(0, 100, count),
        y=generator.uniform(0, 100, count),
        category=category,
        fraud_start=np.where(compromised, start, np.inf),
        fraud_stop=np.where(compromised, start + length, np.inf),
    )


def draw_customers(generator: np.random.Generator, terminals: Terminals, count: int) -> Customers:
    """Habits for `count` customers, as `Simulation` describes them."""
    regular = generator.random(count) < 0.3
    taste = np.array([[1, 1, 1, 1, 1, 1, 1], [1.2, 1.2, 1.2, 1.2, 1.4, 0.5, 0.3], [0.5, 0.5, 0.5, 0.6, 1.4, 2.0, 1.5]])
    rate = np.clip(np.exp(generator.normal(math.log(0.35), 0.8, count)), 0.02, 5)
    poisson = rate[:, None] * taste[generator.integers(0, len(taste), count)]
    fixed_days = generator.permuted(np.tile(np.arange(7), (count, 1)), axis=1) < generator.integers(1, 7, (count, 1))
    x, y = generator.uniform(0, 100, (2, count))
    candidates = generator.integers(0, len(terminals.x), (count, 64))
    apart = np.hypot(terminals.x[candidates] - x[:, None], terminals.y[candidates] - y[:, None])
    nearest = np.argsort(apart, axis=1, kind="stable")[:, :8]
    return Customers(
        level=np.exp(generator.normal(math.log(25), 0.6, count)),
        spread=generator.uniform(0.25, 0.7, count),
        rate=np.where(regular[:, None], 0.93 * fixed_days, poisson),
        regular=regular,
        hour=generator.choice([8.0, 12.5, 17.5, 20.0], (count, 2), p=[0.2, 0.3, 0.35, 0.15]),
        hour_spread=generator.uniform(0.7, 2.2, count),
        favourites=generator.permuted(np.take_along_axis(candidates, nearest, axis=1), axis=1),
        x=x,
        y=y,
    )


def log_uniform(generator: np.random.Generator, low: float, high: float, count: int) -> np.ndarray:
    """Draws (count,) whose logarithms are uniform."""
    return np.exp(generator.uniform(math.log(low), math.log(high), count))
