"""How a law speaks: what it requires, and what a layer cannot be asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable

__all__ = ["CannotBeAsked", "LawBroken", "ask_each", "require"]


class LawBroken(AssertionError):  # noqa: N818  # a finding, not a mishap
    """A layer did what a law forbids; the message says in which comparison, and by how much."""


class CannotBeAsked(Exception):  # noqa: N818  # nobody's error: not every layer has every option
    """A layer has no way to be given what a law asks; the message says what: "a mask of sites", "an initial state"."""


def require(condition: object, message: str) -> None:
    """Raises `LawBroken` unless the condition holds; unlike an assert, also under python -O."""
    if not condition:
        raise LawBroken(message)


def ask_each(questions: Iterable[Callable[[], None]]) -> None:
    """Asks every question that can be asked.

    Raises:
        LawBroken: the answer to one is wrong.
        CannotBeAsked: no question could be asked; for the reason of the first.
    """
    reason, asked = None, False
    for question in questions:
        try:
            question()
            asked = True
        except CannotBeAsked as why:
            reason = reason or why
    if reason is not None and not asked:
        raise reason
