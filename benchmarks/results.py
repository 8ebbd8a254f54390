"""The file of results: written while measuring, read by the document."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.catalogue import MEMORY_SHAPE, Task

RESULTS = Path(__file__).parent / "results" / "layers.json"


class Results:
    """Figures by shape, mode, system and which steps are observed, on one machine with one set of versions."""

    def __init__(self, content: dict[str, Any]) -> None:
        self.content = content

    @classmethod
    def read(cls, path: Path = RESULTS) -> Results:
        return cls(json.loads(path.read_text(encoding="utf-8")))

    @classmethod
    def started(
        cls, machine: dict[str, object], versions: dict[str, str], *, anew: bool, path: Path = RESULTS
    ) -> Results:
        """What the file holds, to be added to, or nothing.

        Raises:
            SystemExit: it was measured on another machine or with other versions.
        """
        setting = {"machine": machine, "versions": versions}
        if anew or not path.exists():
            return cls({**setting, "shapes": {}, "memory_mb": {}})
        found = cls.read(path)
        kept = {name: found.content[name] for name in setting}
        if kept != setting:
            raise SystemExit(f"{path} holds figures of {kept}, this is {setting}; measure everything with --anew")
        return found

    def write(self, path: Path = RESULTS) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.content, indent=1) + "\n", encoding="utf-8")

    def begin(self, shape: str, state: dict[str, object]) -> None:
        """Note the state of the machine before a shape is measured."""
        self.content["shapes"].setdefault(shape, {"modes": {}})["machine"] = state

    def add(self, figures: Mapping[Task, dict[str, float]]) -> None:
        for task, figure in figures.items():
            modes = self.content["shapes"][task.shape]["modes"]
            modes.setdefault(task.mode, {}).setdefault(task.system, {})[task.observed] = figure

    def add_memory(self, system: str, megabytes: float) -> None:
        self.content["memory_mb"].setdefault(MEMORY_SHAPE, {})[system] = megabytes

    def figure(self, system: str, shape: str, mode: str, observed: str = "full") -> dict[str, float] | None:
        modes = self.content["shapes"].get(shape, {}).get("modes", {})
        return modes.get(mode, {}).get(system, {}).get(observed)

    def figures(self) -> Iterator[dict[str, float]]:
        """All of times."""
        for shape in self.content["shapes"].values():
            for systems in shape["modes"].values():
                for figures in systems.values():
                    yield from figures.values()

    def ms(self, system: str, shape: str, mode: str, observed: str = "full") -> float | None:
        """Median milliseconds, or None where it was not measured."""
        figure = self.figure(system, shape, mode, observed)
        return None if figure is None else figure["ms"]

    def memory(self, system: str) -> float | None:
        """Megabytes of a training step."""
        return self.content["memory_mb"].get(MEMORY_SHAPE, {}).get(system)

    def state(self, shape: str) -> dict[str, Any]:
        """Of the machine before the shape was measured."""
        return self.content["shapes"][shape]["machine"]
