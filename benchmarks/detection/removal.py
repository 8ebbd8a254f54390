"""What is taken away, the same for every method, and at a larger share all that was taken at a smaller one."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import polars as pl

from benchmarks.detection.tasks import Task

What = Literal["events", "values"]
SHARES = (0.1, 0.3, 0.6)


def without(task: Task, what: What, share: float, seed: int) -> Task:
    """A task some of whose events, or of whose values, were never observed.

    Judged events stay, so that methods are judged on the same ones whatever is removed from their history; of a series
    every step is judged, so that there what is removed is not judged. An event none of whose values is left is not
    judged, by anybody.

    Args:
        task: without gaps of ours.
        what: whole events, or single values.
        share: of them.
        seed: of the draw.
    """
    if share == 0:
        return task
    draws = np.random.default_rng([seed, what == "values"])
    if what == "events":
        gone = draws.random(len(task.kept)) < share
        if task.series:
            return replace(task, kept=task.kept & ~gone, judged=task.judged & ~gone)
        return replace(task, kept=task.kept & (~gone | task.judged))
    gone = draws.random((len(task.kept), len(task.columns))) < share
    columns = [
        pl.when(pl.Series(gone[:, place])).then(None).otherwise(pl.col(name)).alias(name)
        for place, name in enumerate(task.columns)
    ]
    events = task.events.with_columns(columns)
    there = events.select(pl.any_horizontal(pl.col(task.values).is_not_null())).to_series().to_numpy()
    return replace(task, events=events, judged=task.judged & there)
