"""The list of the highest alerts, and how moments, scores and labels are said in it."""

from __future__ import annotations

from dataclasses import dataclass

from gapcell.detect.explanations import Fact, explanation
from gapcell.detect.results import Detection
from gapcell.detect.wording import moment, printable


@dataclass(frozen=True)
class Alert:
    """One alert as the page shows it.

    Attributes:
        rank: 1 is the highest.
        row: place of the event in the table.
        code: number of its entity.
        part: of the table, "train", "held-out" or "test".
        truth: what the label says, nothing where there is none.
        history: which event of its entity it is.
    """

    rank: int
    row: int
    code: int
    entity: str
    when: str
    score: str
    reason: str
    part: str
    truth: str
    history: str
    facts: tuple[Fact, ...]


def highest_alerts(detection: Detection) -> list[Alert]:
    """The highest alerts, best first."""
    return [
        Alert(
            rank=place,
            row=row["row"],
            code=int(detection.table.codes[row["row"]]),
            entity=printable(row["entity"]),
            when=shown_moment(detection, detection.table.time[row["row"]]),
            score=score_in_words(row["score"]),
            reason=printable(row["reason"], longest=400),
            part=row["part"],
            truth=truth(detection, row["row"]),
            history="no history" if row["history"] == 0 else f"event {row['history'] + 1:,}",
            facts=explanation(detection, row["row"]).facts,
        )
        for place, row in enumerate(detection.top.iter_rows(named=True), 1)
    ]


def score_in_words(score: float) -> str:
    """A score to one decimal; what lies beyond the thousands says no more than that."""
    return f"{score:.1f}" if score < 1000 else "over 1,000"


def truth(detection: Detection, row: int) -> str:
    """What the label says of an event; nothing where there is no label."""
    if detection.table.label is None:
        return ""
    return {True: "labelled", False: "not labelled", None: "label unknown"}[detection.table.label[row]]


def shown_moment(detection: Detection, time: object) -> str:
    """A time of the table in words."""
    return moment(time, has_hours=detection.table.reading.has_hours)  # pyrefly: ignore[bad-argument-type]
