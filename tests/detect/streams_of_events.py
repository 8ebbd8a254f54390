"""What the tests of `gapcell.stream` share: events as lines, and a run over them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from gapcell.detect import Detector
from gapcell.stream import Counts, FileSource, FileTarget, Policy, SQLiteStore, run

QUICKLY = {"id_column": "event", "most": 64, "wait": 0.0}


def as_lines(frame: pl.DataFrame) -> list[str]:
    """A frame as lines of JSON."""
    return frame.write_ndjson().splitlines()


@dataclass
class Place:
    """A folder in which a stream is run, again and again."""

    folder: Path
    detector: Detector

    @property
    def output(self) -> Path:
        return self.folder / "scores.jsonl"

    @property
    def store(self) -> Path:
        return self.folder / "state.sqlite"

    def run(self, lines: Sequence[str], **policy: Any) -> Counts:
        """Score lines."""
        source = self.folder / "events"
        source.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return self.run_on(source, **policy)

    def run_on(self, source: Path, **policy: Any) -> Counts:
        """Score the lines of a file."""
        return run(
            self.detector, SQLiteStore(self.store), FileSource(source), FileTarget(self.output),
            Policy(**QUICKLY | policy),
        )  # fmt: skip

    def scores(self) -> list[dict[str, Any]]:
        """What was delivered."""
        return [json.loads(line) for line in self.output.read_text(encoding="utf-8").splitlines()]

    def ids(self) -> list[str]:
        """Of which events."""
        return [score["id"] for score in self.scores()]


def read_end(data: bytes) -> int:
    """A pipe with data in it, whose other end is closed."""
    reading, writing = os.pipe()
    os.write(writing, data)
    os.close(writing)
    return reading
