"""The chart of docs/detect-benchmarks.md."""

from __future__ import annotations

from typing import Any

import altair as alt

from benchmarks.charts import BLUE, ORANGE, OTHERS, to_svg
from benchmarks.charts import OURS as GAPCELL
from benchmarks.detection.findings import Findings, whole
from benchmarks.detection.plan import METHODS, OURS

COLUMNS = 2
COLOUR = alt.Color("whose:N", scale=alt.Scale(domain=[OTHERS, GAPCELL], range=[ORANGE, BLUE]), legend=None)


def precisions(findings: Findings) -> str:
    """Average precision of every method, a panel a task; bars hold 95 % of the draws of entities."""
    panels = [panel(findings, task) for task in METHODS if findings.methods(whole(task)) and task != "cards, gaps"]
    rows = [alt.hconcat(*panels[at : at + COLUMNS], spacing=30) for at in range(0, len(panels), COLUMNS)]
    title = alt.Title(
        "Average precision", subtitle="Right is better. Blue: gapcell. Bars hold 95 % of 1,000 draws of entities."
    )
    return to_svg(
        alt.vconcat(*rows, spacing=24).properties(title=title),
        "Average precision of every method; the tables have the figures.",
    )


def panel(findings: Findings, task: str) -> alt.LayerChart:
    rows: list[dict[str, Any]] = []
    methods = findings.methods(whole(task))
    for method in methods:
        found = findings.interval(whole(task), method)
        if found is not None:
            low, high = found["interval"]
            whose = GAPCELL if method in OURS else OTHERS
            rows.append({"method": method, "ap": found["ap"], "low": low, "high": high, "whose": whose})
    chart = alt.Chart(alt.Data(values=rows), title=alt.Title(task, fontSize=12))
    y = alt.Y("method:N", title=None, sort=methods, axis=alt.Axis(grid=False, ticks=False, domain=False))
    scale = alt.Scale(domain=[0, 1.05 * max(row["high"] for row in rows)], nice=False)
    x = alt.X("low:Q", title=None, scale=scale, axis=alt.Axis(tickCount=5))
    return alt.layer(
        chart.mark_rule(strokeWidth=2, opacity=0.5).encode(x=x, x2="high:Q", y=y, color=COLOUR),
        chart.mark_circle(size=60, opacity=1).encode(x=alt.X("ap:Q", scale=scale), y=y, color=COLOUR),
    ).properties(width=250, height=20 * len(methods))
