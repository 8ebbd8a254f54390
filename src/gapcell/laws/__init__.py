"""The laws of docs/semantics.md as a tool for anybody's layer; docs/laws.md states each of them.

`check` asks an adapter all of them, `as_tests` makes them tests of pytest's, and `gapcell laws` shows a table.
"""

from gapcell.laws.adapter import Adapter, Gradients
from gapcell.laws.adapters import KNOWN, UnknownAdapterError, load
from gapcell.laws.cases import Case
from gapcell.laws.checking import Report, Row, Summary, as_tests, check
from gapcell.laws.suite import LAWS, NAMES
from gapcell.laws.verdicts import CannotBeAsked, LawBroken, require

__all__ = [
    "KNOWN",
    "LAWS",
    "NAMES",
    "Adapter",
    "CannotBeAsked",
    "Case",
    "Gradients",
    "LawBroken",
    "Report",
    "Row",
    "Summary",
    "UnknownAdapterError",
    "as_tests",
    "check",
    "load",
    "require",
]
