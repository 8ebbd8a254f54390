"""What benchmarks/results/stream.json says, as the table of docs/streaming.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results" / "stream.json"
FASTEST, SLOWEST_STEP = 5_000, 5.0  # events a second that were asked for, and milliseconds


def read() -> dict[str, Any]:
    """What was measured."""
    return json.loads(RESULTS.read_text(encoding="utf-8"))


def figures(found: dict[str, Any]) -> str:
    """The table, with what was asked for beside it."""
    through, step, kills, soak = (found[name] for name in ("throughput", "latency", "kills", "soak"))
    machine = found["machine"]
    memory = soak["resident_mib"]
    rows = [
        ("events a second, from a file through SQLite to a file", f"{through['events_per_second']:,.0f}",
         f"at least {FASTEST:,}"),
        ("of so many events and entities", f"{through['events']:,} and {through['entities']:,}", "10,000 entities"),
        ("`Detector.step` with one event, median", f"{step['median_ms']:.1f} ms", ""),
        ("the same, the slowest in a hundred", f"{step['p99_ms']:.1f} ms", f"at most {SLOWEST_STEP:.0f} ms"),
        ("state of an entity", f"{step['bytes_an_entity']:,.0f} bytes", ""),
        ("kills at random moments, each followed by a new start", f"{kills['kills']:,}", "50"),
        ("events lost, doubled, in another order or scored otherwise", ", ".join(kills["wrong"]) or "none", "none"),
        (f"resident memory after a tenth and at the end of {soak['events']:,} events",
         f"{memory[0]:,.0f} and {memory[-1]:,.0f} MiB", "flat"),
    ]  # fmt: skip
    table = [
        "| | measured | asked for |",
        "|---|--:|--:|",
        *(f"| {what} | {had} | {asked} |" for what, had, asked in rows),
    ]
    versions = ", ".join(f"{name} {found['versions'][name]}" for name in ("gapcell", "python", "torch"))
    return "\n".join([*table, "", f"{machine['cpu']}, {machine['cores']} cores; {versions}."]) + "\n"
