"""The study's results as the tables of docs/choosing.md."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gaps.plan import METHODS, REMOVALS, REPEAT_LAST, RESULTS, SHARES, TITLES
from benchmarks.tables import table

ORDER = (*METHODS, REPEAT_LAST)


class Findings:
    """Errors of every method, relative to always forecasting the mean; 0 is perfect."""

    def __init__(self, content: dict[str, Any]) -> None:
        self.content = content

    @classmethod
    def read(cls, path: Path = RESULTS) -> Findings:
        return cls(json.loads(path.read_text(encoding="utf-8")))

    def errors(self, task: str, removal: str, trained: float, method: str, judged: float | None = None) -> list[float]:
        """One a seed.

        Args:
            task: a key of `TITLES`.
            removal: one of `REMOVALS`.
            trained: share of gaps in training.
            method: a key of `METHODS`, or `REPEAT_LAST`.
            judged: share of gaps when judged; None: the same.
        """
        key = f"{trained if judged is None else judged:g}"
        anyone = method == REPEAT_LAST  # noted with every network; the same for all of a seed
        found = {
            run["seed"]: run["errors"][REPEAT_LAST if anyone else key]
            for run in self.content["runs"]
            if (run["task"], run["removal"], run["share"]) == (task, removal, trained)
            and (anyone or run["method"] == method)
        }
        return [found[seed] for seed in sorted(found)]


def comparison(findings: Findings, task: str, removal: str) -> list[str]:
    """Trained and judged with the same share of gaps: a row a method, mean and standard deviation over the seeds."""
    rows = {method: [findings.errors(task, removal, share, method) for share in SHARES] for method in ORDER}
    head = [f"{TITLES[task]}, {removal} removed", *(f"{100 * share:.0f} %" for share in SHARES)]
    return table(head, _cells(rows))


def elsewhere(findings: Findings, task: str, removal: str, trained: float = 0.3) -> list[str]:
    """Trained with one share of gaps and judged with others."""
    judged = (0.0, *SHARES)
    rows = {method: [findings.errors(task, removal, trained, method, share) for share in judged] for method in METHODS}
    head = [f"{TITLES[task]}, {removal} removed", *(f"judged at {100 * share:.0f} %" for share in judged)]
    return table(head, _cells(rows))


def _cells(rows: dict[str, list[list[float]]]) -> list[Sequence[str]]:
    best = [min(statistics.mean(column[place]) for column in rows.values()) for place in range(len(rows["hold"]))]

    def cell(errors: list[float], lowest: float) -> str:
        text = f"{statistics.mean(errors):.3f} ± {statistics.stdev(errors):.3f}"
        return f"**{text}**" if statistics.mean(errors) == lowest else text

    return [[method, *map(cell, columns, best)] for method, columns in rows.items()]


def figures(findings: Findings) -> str:
    """Every table of docs/choosing.md."""
    parts = ["\n".join(comparison(findings, task, removal)) for task in TITLES for removal in REMOVALS]
    parts.append("Trained with 30 % of the sites removed, and judged with other shares:")
    parts += ["\n".join(elsewhere(findings, task, "sites")) for task in TITLES]
    return "\n\n".join(parts) + "\n"
