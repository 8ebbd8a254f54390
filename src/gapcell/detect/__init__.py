"""Anomaly detection on tables of events whose series are ragged and have gaps.

>>> from gapcell import detect                                             # doctest: +SKIP
>>> table = detect.read_table("events.parquet", entity="customer", time="t")
>>> detector = detect.fit(table)
>>> detector.score(table).frame.filter("alert").select("entity", "time", "score", "reason")
"""

from gapcell.detect.detector import Detector, fit
from gapcell.detect.events import EventTable, load_cdnow, read_table
from gapcell.detect.explanations import Explanation
from gapcell.detect.options import FitOptions
from gapcell.detect.refusals import ModelError, TableError
from gapcell.detect.results import Detection

__all__ = [
    "Detection",
    "Detector",
    "EventTable",
    "Explanation",
    "FitOptions",
    "ModelError",
    "TableError",
    "fit",
    "load_cdnow",
    "read_table",
]
