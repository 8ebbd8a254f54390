"""The chart of docs/choosing.md."""

from __future__ import annotations

import statistics

import altair as alt

from benchmarks.charts import SHADES, to_svg
from benchmarks.gaps.findings import ORDER, Findings
from benchmarks.gaps.plan import REMOVALS, SHARES, TITLES


def errors(findings: Findings) -> str:
    """Every method's error at each share of gaps, a panel a task and a way of removing."""
    panels = [[panel(findings, task, removal) for removal in REMOVALS] for task in TITLES]
    title = alt.Title(
        "Squared error of the forecast, relative to always forecasting the mean",
        subtitle="Left is better. Three dots a method, from above: 10, 30 and 60 % removed. Bars: the seeds' range.",
    )
    both = alt.vconcat(*(alt.hconcat(*row, spacing=30) for row in panels), spacing=24).properties(title=title)
    return to_svg(both, "Forecast errors of every method; the tables have the figures.")


def panel(findings: Findings, task: str, removal: str) -> alt.LayerChart:
    rows = []
    for method in ORDER:
        for share in SHARES:
            found = findings.errors(task, removal, share, method)
            span = {"low": min(found), "high": max(found), "mean": statistics.mean(found)}
            rows.append({"method": method, "share": f"{100 * share:.0f} %", **span})
    highest = max(row["high"] for row in rows)
    scale = alt.Scale(domain=[0, 1.05 * min(highest, 1.5)], nice=False, clamp=True)
    chart = alt.Chart(alt.Data(values=rows), title=alt.Title(f"{TITLES[task]}, {removal} removed", fontSize=12))
    y = alt.Y("method:N", title=None, sort=list(ORDER), axis=alt.Axis(grid=False, ticks=False, domain=False))
    shares = [f"{100 * share:.0f} %" for share in SHARES]
    offset = alt.YOffset("share:N", sort=shares)
    colour = alt.Color("share:N", scale=alt.Scale(domain=shares, range=list(SHADES)), legend=None)
    x = alt.X("low:Q", title=None, scale=scale, axis=alt.Axis(tickCount=5))
    return alt.layer(
        chart.mark_rule(strokeWidth=2, opacity=0.5).encode(x=x, x2="high:Q", y=y, yOffset=offset, color=colour),
        chart.mark_circle(size=45, opacity=1).encode(x=alt.X("mean:Q", scale=scale), y=y, yOffset=offset, color=colour),
    ).properties(width=300, height=30 * len(ORDER))
