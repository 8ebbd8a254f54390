"""The chart that holds stated odds against those that came."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import altair as alt

from gapcell.detect.charts import BLUE, MUTED, Chart, Drawing


def odds_that_held(points: Mapping[str, Sequence[tuple[float, float]]], least: float) -> Drawing:
    """How seldom values came, by how seldom they were said to be; on the line where the two are the same.

    Below the line they came less often than was said, above it more often.

    Args:
        points: (said, came), both from 0 to 1, by judge: "own" and "population".
        least: where the axes end, a power of ten.
    """
    rows = [{"x": said, "y": came, "judge": judge} for judge, pairs in points.items() for said, came in pairs]
    ends = [{"x": least, "y": least}, {"x": 1.0, "y": 1.0}]

    def build(width: int) -> Chart:
        scale = alt.Scale(type="log", domain=[least, 1.0], nice=False)
        ticks = [10.0**-power for power in range(6) if 10.0**-power >= least * 0.99]
        axis = alt.Axis(values=ticks, grid=True, labelExpr="format(1 / datum.value, ',.0f')", labelFlush=True)
        x = alt.X("x:Q", title="said: 1 in", scale=alt.Scale(**scale.to_dict(), reverse=True), axis=axis)
        y = alt.Y("y:Q", title="came: 1 in", scale=scale, axis=axis)
        lines = alt.Chart(alt.NamedData("points")).encode(
            x=x, y=y,
            color=alt.Color("judge:N", scale=alt.Scale(domain=["own", "population"], range=[BLUE, MUTED]), legend=None),
        )  # fmt: skip
        same = alt.Chart(alt.NamedData("same")).mark_line(color=MUTED, strokeWidth=1, strokeDash=[4, 3])
        return alt.layer(
            same.encode(x=x, y=y), lines.mark_line(strokeWidth=2), lines.mark_circle(size=22, opacity=1)
        ).properties(height=round(0.55 * width))

    return Drawing({"points": rows, "same": ends}, build)
