"""benchmarks/results/detect.json: what was measured, task by task, each perhaps on another day."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.detection.plan import METHODS

PATH = Path(__file__).parents[1] / "results" / "detect.json"
Content = dict[str, Any]


def read(path: Path = PATH) -> Content:
    """What is there already."""
    empty: Content = {"speed": {}, "surroundings": {}, "runs": [], "intervals": []}
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else empty


def write(content: Content, path: Path) -> None:
    """Whole or not at all."""
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def runs_of(content: Content, task: str) -> int:
    """How many runs of a task there are."""
    return sum(run["task"] == task for run in content["runs"])


def with_speed(content: Content, found: Content) -> Content:
    """The content with another measurement of speed."""
    return content | {"speed": found, "surroundings": content["surroundings"] | {"speed": surroundings()}}


def with_task(content: Content, task: str, found: Content) -> Content:
    """The content with a task's runs and intervals in the place of its old ones."""
    order = list(METHODS)
    merged: Content = {"surroundings": content["surroundings"] | {task: surroundings()}}
    for name in ("runs", "intervals"):
        rows = [row for row in content[name] if row["task"] != task] + found[name]
        merged[name] = sorted(rows, key=lambda row: order.index(row["task"]))
    return content | merged


def surroundings() -> Content:
    """What a measurement made now depends on."""
    return {"machine": machine.machine(), "versions": machine.versions()}
