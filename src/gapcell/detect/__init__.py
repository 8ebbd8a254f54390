"""Anomaly detection on tables of events whose series are ragged and have gaps.

>>> from gapcell import detect                                             # doctest: +SKIP
>>> table = detect.read_table("events.parquet", entity="customer", time="t")
>>> detector = detect.fit(table)
>>> detector.score(table).frame.filter("alert").select("entity", "time", "score", "reason")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gapcell import extras

try:
    import polars as _polars  # noqa: F401 # for its absence, and PyTorch's, to be said here
    import torch as _torch  # noqa: F401
except ModuleNotFoundError as error:
    raise extras.answered(error, "gapcell.detect", "detect") from None

from gapcell.detect.detector import Detector
from gapcell.detect.events import EventTable, load_cdnow, read_table
from gapcell.detect.explanations import Explanation
from gapcell.detect.fitting import fit
from gapcell.detect.options import FitOptions
from gapcell.detect.refusals import ModelError, ProcessError, TableError
from gapcell.detect.results import Detection

if TYPE_CHECKING:
    from gapcell.detect.estimator import SequenceDetector
    from gapcell.detect.layouts import CalendarGrid, EventWindows

__all__ = [
    "CalendarGrid",
    "Detection",
    "Detector",
    "EventTable",
    "EventWindows",
    "Explanation",
    "FitOptions",
    "ModelError",
    "ProcessError",
    "SequenceDetector",
    "TableError",
    "fit",
    "load_cdnow",
    "read_table",
]

MODULES = {"SequenceDetector": "estimator", "CalendarGrid": "layouts", "EventWindows": "layouts"}


def __getattr__(name: str) -> Any:
    """Import scikit-learn only for those who use what is made for it."""
    if name not in MODULES:
        raise AttributeError(f"module 'gapcell.detect' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"gapcell.detect.{MODULES[name]}"), name)
