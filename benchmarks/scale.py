"""The figures of docs/scale.md, of what `python -m benchmarks.spark` measured."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

from benchmarks.tables import table

RESULTS = Path(__file__).parent / "results" / "spark.json"
BILLION, CLUSTER = 1e9, 64  # events, and cores on which they are scored
MANY = 100_000_000  # entities
NAMES = {"alone": "one process without Spark", "table": "`score_table`", "stream": "`score_stream`"}
HEAD = ("", "core µs an event", "events a second and core", "core hours a billion", f"minutes on {CLUSTER} cores")


def read() -> dict[str, Any]:
    return json.loads(RESULTS.read_text(encoding="utf-8"))


def figures(found: dict[str, Any]) -> str:
    """What an event and a billion events cost, and where that was measured."""
    rows = []
    for key, name in NAMES.items():
        seconds = found[key]["processors"]
        hours = BILLION * seconds / 3600
        rows.append(
            [name, f"{1e6 * seconds:.0f}", f"{1 / seconds:,.0f}", f"{hours:.1f}", f"{60 * hours / CLUSTER:.0f}"]
        )
    machine, versions = found["machine"], ", ".join(map(" ".join, found["versions"].items()))
    words = (
        f"Measured on {found['events']:,} simulated card transactions of {found['entities']:,} customers, with four "
        f"values each and {found['encoder']} as the encoder, in micro-batches of {found['micro_batch']:,} events: "
        f"{machine['cpu']}, local[{found['cores']}], {versions}. The model has {found['model_bytes'] / 1e3:,.0f} kB, "
        f"an entity's state {found['state_bytes']:,.0f} bytes ({MANY * found['state_bytes'] / 1e9:,.0f} GB for "
        f"{MANY / 1e6:.0f} million entities). While an entity is scored, a worker needs {found['whale_bytes']:,.0f} "
        "bytes for each of its events."
    )
    return "\n".join([*table(HEAD, rows), "", textwrap.fill(words, 120, break_on_hyphens=False), ""])
