"""What was to be reached, and was it?"""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.detection.findings import Findings, whole
from benchmarks.detection.plan import BOOSTING, BOOSTING_ALL, CONVLSTM, FOREST, FOREST_OF_HISTORY, REMOVED


class Mark(NamedTuple):
    """A figure that was set before the run.

    Attributes:
        what: in words.
        wanted: the figure.
        measured: by ours; None: not measured.
        most: whether it may be at most so much, not at least.
    """

    what: str
    wanted: float
    measured: float | None
    most: bool = False

    @property
    def reached(self) -> bool | None:
        if self.measured is None:
            return None
        return self.measured <= self.wanted if self.most else self.measured >= self.wanted


MEASURES = {"ap": "average precision", "auc": "ROC AUC", "precision": "card precision at 100 a day"}
LEAST = (
    ("orders", "auc", 0.79),
    ("orders", "ap", 0.065),
    ("orders, supervised", "ap", 0.065),
    ("cards, no labels", "ap", 0.21),
    ("cards, no labels", "precision", 0.08),
    ("cards, delayed labels", "ap", 0.48),
    ("cards, delayed labels", "auc", 0.85),
    ("cards, delayed labels", "precision", 0.28),
    ("cards, supervised", "ap", 0.68),
    ("cards, raw supervised", "ap", 0.65),
)
SPEED = (  # what, its name, the figure, whether it may be at most so much
    ("all card transactions: seconds to fit", "fit_seconds", 300.0, True),
    ("all card transactions: MiB resident in fitting", "peak_mib", 4096.0, True),
    ("all card transactions: events scored a second", "score", 200_000.0, False),
)
MOST_RISE = 0.01  # of the negative log-likelihood, events removed when scoring only
GAPPY = next(task for task in REMOVED if task.startswith("cards"))


def marks(findings: Findings) -> list[Mark]:
    """Every mark, in the order of the tasks."""
    found = []
    for task, measure, wanted in LEAST:
        ours = findings.ours(whole(task))
        measured = findings.mean(whole(task), ours, measure) if ours else None
        found.append(Mark(f"{task}: {MEASURES[measure]}", wanted, measured))
    for forest in (FOREST, FOREST_OF_HISTORY):
        what = f"orders: lower end of the gain in average precision over {forest}"
        found.append(Mark(what, 0.0, ahead(findings, "orders", forest)))
    task = "cards, supervised"
    ours = findings.ours(whole(task))
    for boosting in (BOOSTING, BOOSTING_ALL):
        boosted = findings.mean(whole(task), boosting, "ap")
        gain = None if boosted is None or ours is None else findings.mean(whole(task), ours, "ap") - boosted
        found.append(Mark(f"{task}: average precision above that of {boosting}", 0.0, gain))
    for share in (0.3, 0.6):
        place = (GAPPY, 0, "events", share, "scoring")
        what = f"{GAPPY}: rise of the amount's NLL, {100 * share:.0f} % of events removed at scoring"
        found.append(Mark(what, MOST_RISE, findings.mean(place, CONVLSTM, "nll_rise"), most=True))
    speed = findings.content.get("speed", {})
    found += [Mark(what, wanted, speed.get(name), most) for what, name, wanted, most in SPEED]
    return found


def ahead(findings: Findings, task: str, method: str) -> float | None:
    """The lower end of what ours is ahead of a method."""
    row = findings.interval(whole(task), method)
    return row["ahead_interval"][0] if row and "ahead_interval" in row else None
