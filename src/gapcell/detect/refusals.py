"""The ways in which detect says no, and how a bad value is shown."""

from __future__ import annotations

LONGEST_SHOWN = 40


class TableError(ValueError):
    """A table that cannot be used; the message is one sentence that names the column and the first bad row."""


class ModelError(ValueError):
    """A model file that cannot be used; the message is one sentence."""


class ProcessError(RuntimeError):
    """Processes that cannot train together, or no longer; the message is one sentence."""


def shown(value: object) -> str:
    """A value as a message shows it: quoted when it is text, and cut when it is long."""
    text = str(value)[: LONGEST_SHOWN + 1]
    text = text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 3] + "..."
    return repr(text) if isinstance(value, str) else text
