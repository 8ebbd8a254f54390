"""What is compared on what: tasks, methods, what is removed, and how often with other draws."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Literal, NamedTuple

import polars as pl

from benchmarks.detection import cards, orders, series
from benchmarks.detection.removal import SHARES, What, without
from benchmarks.detection.tasks import Task

SEEDS = 5  # of every method that draws
WEEKS = (-4, -2, 0, 2, 4)
MONTHS = (4, 5, 6, 7, 8, 9, 10)
CARDS_IN_REMOVAL = 0.2
QUICK_CARDS = 0.1
Where = Literal["everywhere", "scoring"]

AUTO, CONVLSTM, CONTROL, NO_HISTORY = "gapcell", "gapcell, ConvLSTM", "gapcell, masked LSTM", "gapcell, no history"
ENCODERS = {AUTO: "auto", CONVLSTM: "convlstm", CONTROL: "lstm", NO_HISTORY: "none"}
Z, ROBUST, FOREST, BOOSTING = "running-mean z", "robust z-score", "isolation forest", "gradient boosting"
FOREST_OF_HISTORY = "isolation forest, history"
RANDOM_FOREST = "random forest"
BOOSTING_ALL = "gradient boosting, all labels"  # as our encoders learn them; the others those of the training week
ZERO, PRODUCT = "nn.LSTM, zero-fill", "nn.LSTM, x*mask"
OURS = tuple(ENCODERS)
UNSUPERVISED = (*OURS, ZERO, PRODUCT, FOREST, FOREST_OF_HISTORY, ROBUST, Z)
SAITS = "PyPOTS SAITS"
DRAWN = {  # whose result depends on the seed
    *OURS, ZERO, PRODUCT, FOREST, FOREST_OF_HISTORY, BOOSTING, BOOSTING_ALL, RANDOM_FOREST, SAITS,
}  # fmt: skip


class Cell(NamedTuple):
    """One run of one method.

    Attributes:
        task: a key of `TASKS`.
        split: how the task is moved: weeks or a month; 0 is the task itself.
        what: is removed.
        share: of it.
        where: "everywhere", or "scoring" where training saw everything.
        method: one of the names above, or a rule of the task's.
        seed: of the method.
    """

    task: str
    split: int
    what: What
    share: float
    where: Where
    method: str
    seed: int

    @property
    def place(self) -> tuple:
        """What all methods that are compared have in common."""
        return self[:5]

    @property
    def whole(self) -> Cell:
        """The same run with nothing removed."""
        return self._replace(what="events", share=0.0, where="everywhere")

    @property
    def fitted(self) -> Cell:
        """The run whose fit is this one's: with the method fitted on the same events, whatever is then scored."""
        return self.whole if self.where == "scoring" else self

    @property
    def key(self) -> str:
        """A file's name."""
        return "-".join("".join(letter if letter.isalnum() or letter in ".+" else "_" for letter in str(part))
                        for part in self)  # fmt: skip


@cache
def card_events() -> pl.DataFrame:
    return cards.load()


@cache
def order_events() -> pl.DataFrame:
    return orders.load()


TASKS: dict[str, Callable[[int, float], Task]] = {
    "orders": lambda month, _: orders.by_month(order_events(), month) if month else orders.unsupervised(order_events()),
    "orders, supervised": lambda month, _: orders.supervised(order_events()),
    "cards, no labels": lambda week, share: cards.without_labels(card_events(), week, share),
    "cards, delayed labels": lambda week, share: cards.delayed_labels(card_events(), week, share),
    "cards, supervised": lambda week, share: cards.supervised(card_events(), week, share),
    "cards, raw supervised": lambda week, share: cards.raw_supervised(card_events(), week, share),
    "cards, gaps": lambda week, share: cards.without_labels(card_events(), week, min(share, CARDS_IN_REMOVAL)),
    "Numenta": lambda _, share: series.numenta(share),
    "services": lambda _, share: series.services(share),
}
METHODS = {
    "orders": (*UNSUPERVISED, "amount alone", "few lines"),
    "orders, supervised": (*OURS, BOOSTING, RANDOM_FOREST, "few lines"),
    "cards, no labels": (*UNSUPERVISED, "amount alone"),
    "cards, delayed labels": (*OURS, FOREST_OF_HISTORY, Z, "amount alone"),
    "cards, supervised": (*OURS, BOOSTING, BOOSTING_ALL, RANDOM_FOREST, "amount alone"),
    "cards, raw supervised": (*OURS, BOOSTING, BOOSTING_ALL, RANDOM_FOREST, "amount alone"),
    "cards, gaps": (*UNSUPERVISED, "amount alone"),
    "Numenta": (*UNSUPERVISED, "value alone"),
    "services": UNSUPERVISED,
}
REMOVED = {"orders": SHARES, "cards, gaps": SHARES, "Numenta": SHARES[1:2]}
ROLLED = {"orders": MONTHS, "cards, no labels": WEEKS[:2] + WEEKS[3:]}
ROLLED_METHODS = (CONVLSTM, NO_HISTORY, FOREST, Z, "amount alone")


SAITS_TASKS = ("orders", "Numenta", "services")


@cache
def task_of(name: str, split: int, share_of_cards: float) -> Task:
    """A task without gaps of ours."""
    return TASKS[name](split, share_of_cards)


def tasks_of(cell: Cell, share_of_cards: float = 1.0) -> tuple[Task, Task]:
    """What a cell's method is fitted on, and what it scores."""
    whole = task_of(cell.task, cell.split, share_of_cards)
    gappy = without(whole, cell.what, cell.share, seed=0)
    return (whole if cell.where == "scoring" else gappy), gappy


def cells(*, quick: bool = False, saits: bool = False) -> list[Cell]:
    """Everything that is run: every row of every table once before any is run anew, the main tables first.

    Args:
        quick: a little of everything.
        saits: whether PyPOTS is there.
    """
    planned: list[Cell] = []

    def add(task: str, split: int, what: What, share: float, where: Where, methods: tuple) -> None:
        for method in methods:
            draws = SEEDS if method in DRAWN and not quick else 1
            planned.extend(Cell(task, split, what, share, where, method, seed) for seed in range(draws))

    for task, methods in METHODS.items():
        add(task, 0, "events", 0.0, "everywhere", methods)
    for task, shares in REMOVED.items():
        rivals = tuple(method for method in METHODS[task] if method != AUTO)  # each encoder is there by its name
        for what in ("events", "values"):
            for share in SHARES[1:2] if quick else shares:
                for where in ("everywhere", "scoring"):
                    add(task, 0, what, share, where, rivals)
    for task, splits in ROLLED.items():
        for split in splits[:1] if quick else splits:
            rules = tuple(name for name in ROLLED_METHODS if name in METHODS[task])
            add(task, split, "events", 0.0, "everywhere", rules)
    for task in SAITS_TASKS if saits else ():
        add(task, 0, "events", 0.0, "everywhere", (SAITS,))
    if saits:
        add("orders", 0, "values", 0.3, "everywhere", (SAITS,))
    return sorted(planned, key=lambda cell: cell.seed + (cell != cell.whole or cell.split != 0))
