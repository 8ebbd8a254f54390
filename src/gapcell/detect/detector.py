"""A fitted detector: it reads tables, scores them, and is kept in a folder."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from gapcell.detect.baselines import compare
from gapcell.detect.detection import bands_of, detection_of
from gapcell.detect.events import EventTable, part_of
from gapcell.detect.explanations import Explanation, explanation, one_row
from gapcell.detect.model import one_thread
from gapcell.detect.model_file import load_state, save_state
from gapcell.detect.online import OnlineState, advanced, refuse_other, restored
from gapcell.detect.refusals import TableError
from gapcell.detect.results import Comparison, Detection, Progress, silent
from gapcell.detect.scorer import Scorer
from gapcell.detect.scoring import Scored
from gapcell.detect.silence import silences
from gapcell.detect.splits import moment_of


class Detector(Scorer):
    """A fitted detector, made by `fit` or `Detector.load`; its attributes are those of `State`."""

    @one_thread()
    def score(self, table: EventTable, *, top: int = 20) -> Detection:
        """Score every event of a table, each from the events of its entity that the table has before it.

        Args:
            table: read with `self.read`, or with `read_table` and the same columns.
            top: how many of the highest alerts `Detection.top` has.

        Raises:
            TableError: when a column the detector was fitted on is missing or of another kind.
        """
        return detection_of(self, table, top)

    @one_thread()
    def scored(self, table: EventTable, wanted: np.ndarray | None = None) -> Scored:
        """The scores of the events of a table with all their parts, in the order of the table, without words.

        Args:
            table: as for `score`.
            wanted: (rows,) bool, True for the events whose scores are wanted, the others being history alone; all
                when None.

        Raises:
            TableError: as `score`.
        """
        return self.judge(table, self.reads(table, wanted=wanted))

    @one_thread()
    def explain(self, table: EventTable, row: int) -> Explanation:
        """Explain one event of a table: every feature against what was expected of it; as text it is the reason.

        Args:
            table: as for `score`.
            row: place of the event in the table, from 0.

        Raises:
            IndexError: when the table has no such row.
            TableError: as `score`.
        """
        row = one_row(row, table.reading.rows)
        same = table.codes == table.codes[row]
        for key in table.others:
            same |= (key == key[row]).fill_null(value=False).to_numpy()
        rows = np.flatnonzero(same)
        series, place = part_of(table, rows), int(np.flatnonzero(rows == row)[0])
        found = self.score(series, top=0)
        ranges = bands_of(self, series, self.reads(series), [place])
        return dataclasses.replace(explanation(dataclasses.replace(found, bands=ranges), place), row=row)

    @one_thread()
    def silence(self, table: EventTable, at: str | float | None = None) -> pl.DataFrame:
        """How unlikely it is that each entity has been silent for so long.

        Silence is something else than a missing value: it is scored by the predicted time to the entity's next event,
        which a missing value neither lengthens nor shortens.

        Args:
            table: as for `score`.
            at: the time to look from (ISO 8601 text, or a number of seconds), the last of the table when None. Later
                events are not looked at, and entities without an earlier one are left out.

        Returns:
            One row an entity, the unlikeliest silence first: entity, last (time of its last event), waited (Float64,
            seconds since), score (Float64, -log of the probability of waiting at least so long) and reason (String).

        Raises:
            TableError: as `score`, and when no event lies at or before `at`.
        """
        self.check(table)
        until = float(table.seconds.max()) if at is None else moment_of(table, at, "at")
        return silences(self.streams[0], self.options.label_delay, table, until)

    @one_thread()
    def compare(self, table: EventTable, *, progress: Progress = silent) -> Comparison:
        """Inject anomalies into the test part of the table it was fitted on, and measure it beside simpler detectors.

        Raises:
            TableError: when no entity has events both before and in the test part.
        """
        self.check(table)
        if self.labels is not None:
            raise TableError("a supervised detector looks for what is labelled, not for injected anomalies: compare "
                             "one that is not supervised")  # fmt: skip
        return compare(self, self.scored, table, progress)

    @one_thread()
    def step(
        self, state: OnlineState | None, events: Any, *, reasons: bool = False
    ) -> tuple[OnlineState, pl.DataFrame]:
        """Score new events of any number of entities, and keep what the next ones need.

        The scores are those of the whole history scored at once, however it is cut into steps. An event that is earlier
        than its entity's last one is late: it is not scored, says so, and leaves nothing behind.

        Args:
            state: what the step before gave; None before the first.
            events: the new events, as `read` takes them or read by it. Without a column of labels none is known yet.
            reasons: True for a column `reason` with each score in words.

        Returns:
            The state to go on from, and one row an event in the order given: entity, time, score (higher is stranger,
            null where nothing could be scored), alert, score_F for each feature F, and not_scored, which says what was
            not scored and why, null if everything was.

        Raises:
            TableError: as `read`; the state then is as it was.
            ModelError: when the state belongs to another detector or is damaged.
        """
        before = ({},) * len(self.streams) if state is None else state.series
        if state is not None:
            refuse_other(self, state.model)
        step = advanced(self, before, self.read_new(events), words="all" if reasons else "none")
        after = tuple({**old, **new} for old, new in zip(before, step.rows, strict=True))
        return OnlineState(self.identity, after), step.frame

    def restore(self, contents: bytes) -> OnlineState:
        """Read a state that `OnlineState.to_bytes` wrote.

        Raises:
            ModelError: when it is damaged, or belongs to another detector.
        """
        return restored(self, contents)

    def save(self, path: str | Path) -> None:
        """Write the detector to a folder, as detector.json and detector.safetensors; each appears whole.

        Raises:
            OSError: when the folder cannot be made or written to.
        """
        save_state(self, Path(path))

    @classmethod
    def load(cls, path: str | Path) -> Detector:
        """Read a detector from a folder; its scores are those of the one that was saved.

        Raises:
            ModelError: when a file is missing, damaged, or not of this kind; the message is one sentence.
        """
        return cls(**vars(load_state(Path(path))))
