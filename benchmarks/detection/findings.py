"""What was found, as the document asks for it."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.detection import results
from benchmarks.detection.plan import METHODS, OURS, SAITS
from benchmarks.tables import NOT_MEASURED

Place = tuple[str, int, str, float, str]


def whole(task: str, split: int = 0) -> Place:
    """A task as it is, nothing removed."""
    return task, split, "events", 0.0, "everywhere"


class Findings:
    """The content of benchmarks/results/detect.json."""

    def __init__(self, content: results.Content) -> None:
        self.content = content

    @classmethod
    def read(cls) -> Findings:
        return cls(results.read())

    def runs(self, place: Place, method: str) -> list[dict[str, Any]]:
        """One a seed."""
        return [run for run in self.content["runs"] if at(run) == place and run["method"] == method]

    def methods(self, place: Place) -> list[str]:
        """Those that were run there, in the order of the plan."""
        order = [*METHODS[place[0]], SAITS]
        return [method for method in order if self.runs(place, method)]

    def values(self, place: Place, method: str, measure: str) -> list[float]:
        """One a seed."""
        return [run[measure] for run in self.runs(place, method) if measure in run]

    def mean(self, place: Place, method: str, measure: str) -> float | None:
        """Over the seeds; None where it was not measured."""
        values = self.values(place, method, measure)
        return statistics.mean(values) if values else None

    def shown(self, place: Place, method: str, measure: str, digits: int = 3) -> str:
        """Mean and, of several seeds, standard deviation."""
        values = self.values(place, method, measure)
        if not values:
            return NOT_MEASURED
        spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
        return f"{statistics.mean(values):.{digits}f}{spread}"

    def interval(self, place: Place, method: str) -> dict[str, Any] | None:
        """The row of the method among the intervals."""
        found = [row for row in self.content["intervals"] if at(row) == place and row["method"] == method]
        return found[0] if found else None

    def ours(self, place: Place) -> str | None:
        """The first of ours that was run there."""
        return next((method for method in OURS if self.runs(place, method)), None)


def at(row: dict[str, Any]) -> Place:
    return row["task"], row["split"], row["what"], row["share"], row["where"]
