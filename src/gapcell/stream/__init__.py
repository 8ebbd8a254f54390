"""Scores for events as they come, each exactly once, whatever kills the process between them.

`gapcell stream` is `run` on standard input or a file, with a `SQLiteStore`. Another store is a class with the four
calls of `Store`.
"""

from __future__ import annotations

from gapcell.stream.service import Counts, Policy, run
from gapcell.stream.sources import FileSource, Source, StandardInput
from gapcell.stream.sqlite import SQLiteStore
from gapcell.stream.store import Batch, Fetched, Standing, Store, StoreError
from gapcell.stream.targets import FileTarget, PipeTarget, Target, TargetError

__all__ = [
    "Batch",
    "Counts",
    "Fetched",
    "FileSource",
    "FileTarget",
    "PipeTarget",
    "Policy",
    "SQLiteStore",
    "Source",
    "StandardInput",
    "Standing",
    "Store",
    "StoreError",
    "Target",
    "TargetError",
    "run",
]
