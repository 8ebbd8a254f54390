"""The report's charts, as SVG that takes its colours and its font from the page around it.

Text from the table enters a chart only as data and titles, never as a field name or an expression, so that it cannot
mean anything to Vega; Vega escapes it in the SVG.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal
from xml.etree import ElementTree  # reads only what Vega has just written

import altair as alt
import numpy as np
import vl_convert
from altair.utils.schemapi import debug_mode
from markupsafe import Markup

WIDE, NARROW = 760, 340  # px: a desk or a sheet of paper, and a phone
INK, MUTED, LINE = "var(--ink)", "var(--muted)", "var(--line)"
BLUE, ORANGE, RED, BAND, SHADE = "var(--blue)", "var(--orange)", "var(--red)", "var(--band)", "var(--shade)"
PAPER = "var(--paper)"
CONFIG = {
    "background": "transparent",
    "font": "sans-serif",
    "autosize": {"type": "fit-x", "contains": "padding"},
    "padding": {"left": 14, "right": 2, "top": 2, "bottom": 2},  # on the left for fonts wider than Vega thinks
    "view": {"stroke": None},
    "axis": {
        "labelColor": MUTED, "titleColor": MUTED, "gridColor": LINE, "domainColor": LINE, "tickColor": LINE,
        "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal",
        "titlePadding": 8, "labelPadding": 4, "tickSize": 4,
    },
}  # fmt: skip
LONG_NUMBER = re.compile(r"-?\d+\.\d{3,}")
SVG = "{http://www.w3.org/2000/svg}"

Chart = alt.Chart | alt.LayerChart | alt.FacetChart
DURATION_TICKS = {
    1: "1 s",
    60: "1 min",
    3600: "1 h",
    86_400: "1 day",
    604_800: "1 week",
    2_629_800: "1 month",
    31_557_600: "1 year",
}


@dataclass(frozen=True)
class Drawing:
    """A chart to be drawn.

    Attributes:
        data: rows by name; they enter the chart when it is drawn, because Altair copies and checks every one it holds.
        build: makes the chart, whose data are these names, for a width in px, axes included.
    """

    data: Mapping[str, Sequence[Mapping[str, object]]]
    build: Callable[[int], Chart]


def draw(drawing: Drawing, description: str) -> Markup:
    """A chart drawn for a wide and for a narrow page; the page's style sheet shows one of the two.

    Args:
        drawing: the chart.
        description: what is seen, for those who cannot see it; escaped here.
    """
    return Markup("").join(
        to_svg(drawing, width, css_class, description) for width, css_class in ((WIDE, "wide"), (NARROW, "narrow"))
    )


def draw_small(drawing: Drawing, description: str) -> Markup:
    """A chart drawn once, as wide as a phone, to stand beside others."""
    return to_svg(drawing, NARROW, "small", description)


def to_svg(drawing: Drawing, width: int, css_class: str, description: str) -> Markup:
    """One chart as an inline SVG element that scales with its column."""
    with debug_mode(False):  # Altair checks each piece of every chart anew, which takes longer than to draw it
        chart = drawing.build(width).properties(width=width).to_dict(validate=False)
    specification = chart | {"config": CONFIG, "datasets": drawing.data}
    # Nothing is fetched: an empty list of base addresses forbids it.
    root = ElementTree.fromstring(vl_convert.vegalite_to_svg(specification, allowed_base_urls=[]))  # noqa: S314
    for element in root.iter():  # Vega describes every mark, which is many times longer than the drawing
        for name in [name for name in element.attrib if name.startswith("aria-") or name in {"role", "class"}]:
            del element.attrib[name]
        if element.get("opacity") == "1":
            del element.attrib["opacity"]
        for name, value in element.attrib.items():  # a hundredth of a pixel is fine enough
            element.attrib[name] = LONG_NUMBER.sub(lambda number: f"{float(number[0]):.2f}", value)
    root.attrib.pop("width")
    root.attrib.pop("height")
    root.attrib.update({"class": css_class, "role": "img", "aria-label": description})
    ElementTree.register_namespace("", SVG.strip("{}"))
    return Markup(ElementTree.tostring(root, encoding="unicode"))  # noqa: S704  # serialised, so escaped


def score_distribution(held_out: np.ndarray, test: np.ndarray, threshold: float) -> Drawing:
    """Share of the events in each bin of the score, on a logarithmic axis: held-out filled, test as a line.

    Scores over three times the threshold, but not under 20, share the last bin.

    Args:
        held_out: float64 (events,), scores; one of the two may be empty.
        test: likewise.
        threshold: drawn as a line with its name.
    """
    highest = max(part.max() for part in (held_out, test, np.array([threshold])) if len(part))
    high = max(1, math.ceil(min(highest, max(3 * threshold, 20))))
    edges = np.linspace(0, high, 61)
    rows = []
    for part, scores in (("held-out", held_out), ("test", test)):
        counts, _ = np.histogram(np.clip(scores, 0, high), edges)
        rows += [
            {"part": part, "x": float(edges[i]), "x2": float(edges[i + 1]), "y": count / len(scores)}
            for i, count in enumerate(counts)
            if count
        ]
    floor = 10 ** math.floor(math.log10(min(row["y"] for row in rows)))
    title = "score" if highest <= high else f"score ({high} and above in the last bin)"
    data = {"bins": [row | {"floor": floor} for row in rows], "threshold": [{"x": threshold}]}

    def build(width: int) -> Chart:
        x = alt.X("x:Q", title=title, scale=alt.Scale(domain=[0, high], nice=False), axis=alt.Axis(grid=False))
        y = alt.Y(
            "y:Q", title="share of events", scale=alt.Scale(type="log", domain=[floor, 1]),
            axis=alt.Axis(format="~p", values=[10.0**power for power in range(round(math.log10(floor)), 1)]),
        )  # fmt: skip
        bins = alt.Chart(alt.NamedData("bins"))
        filled = bins.transform_filter("datum.part == 'held-out'").mark_bar(color=BAND, binSpacing=0)
        outlined = bins.transform_filter("datum.part == 'test'").mark_rule(color=ORANGE, strokeWidth=2.5)
        rule = alt.Chart(alt.NamedData("threshold"))
        on_left = threshold > high / 2
        name = rule.mark_text(
            text="threshold" if width == NARROW else f"threshold {threshold:.2f}", color=RED, fontSize=12,
            align="right" if on_left else "left", dx=-6 if on_left else 6, baseline="top",
        )  # fmt: skip
        return alt.layer(
            filled.encode(x=x, x2="x2:Q", y=y, y2="floor:Q"),
            outlined.encode(x=x, x2="x2:Q", y=y),
            rule.mark_rule(color=RED, strokeWidth=1.5, strokeDash=[5, 3]).encode(x="x:Q"),
            name.encode(x="x:Q", y=alt.value(0)),
        ).properties(height=210)

    return Drawing(data, build)


@dataclass(frozen=True)
class Past:
    """The series of one entity in one feature, in time order, with one event marked.

    Attributes:
        title: of the vertical axis.
        kind: what the values are: "numeric", "duration" (seconds) or "category" (text).
        times: milliseconds since 1970 in UTC, or seconds where `calendar` is False.
        values: one an event; None where missing.
        expected: (low, high) an event; None where nothing was, as always for a category.
        waits: the longest time since the last event that was expected, one an event, in the unit of `times`; None where
            nothing was.
        alerts: True where the event alerts.
        marked: index of the event that the chart is about.
        label: the marked event's value in words.
    """

    title: str
    kind: Literal["numeric", "duration", "category"]
    calendar: bool
    times: Sequence[float]
    values: Sequence[float | str | None]
    expected: Sequence[tuple[float, float] | None]
    waits: Sequence[float | None]
    alerts: Sequence[bool]
    marked: int
    label: str


def history(past: Past) -> Drawing:
    """An entity's events over time, what was expected of each, the marked one, and where there is nothing.

    A time without an event that is longer than was expected, or five times as long as the entity's median, is shaded,
    and so is the time over which the value is missing in two or more events running; each missing value is a cross at
    the foot.
    """
    data = history_data(past)
    span = (min(past.times), max(past.times))
    margin = 0.02 * (span[1] - span[0]) or 1
    domain = [span[0] - margin, span[1] + margin]

    def build(width: int) -> Chart:
        x = alt.X(
            "x:T" if past.calendar else "x:Q", title=None,
            scale=alt.Scale(type="utc" if past.calendar else "linear", domain=domain, nice=False),
            axis=time_axis(past.calendar, domain, 7 if width > NARROW else 4),
        )  # fmt: skip
        y = value_axis(past, data["bands"])
        layers = [*background(x, y, past_height(past)), *events(x, y)]
        if past.kind != "category":  # whose name is on the axis
            layers += label(past, x, y, on_left=past.times[past.marked] > sum(span) / 2)
        return alt.layer(*layers).properties(height=past_height(past))

    return Drawing(data, build)


def history_data(past: Past) -> dict[str, list[dict]]:
    """The rows of a history's layers, by layer."""
    value = past.values[past.marked]
    looks = ["alert" if alert else "event" for alert in past.alerts]
    looks[past.marked] = "marked"
    events = list(zip(past.times, past.values, looks, strict=True))
    bands = zip(past.times, past.expected, strict=True)
    return {
        "points": [{"x": time, "y": y, "look": look} for time, y, look in events if y is not None],
        "crosses": [{"x": time} for time, y, _ in events if y is None],
        "bands": [{"x": time, "y": ends[0], "y2": ends[1]} for time, ends in bands if ends is not None],
        "shades": [{"x": start, "x2": stop} for start, stop in empty_stretches(past)],
        "marked": [] if value is None else [{"x": past.times[past.marked], "y": value}],
    }


def background(x: alt.X, y: alt.Y, height: int) -> list[alt.Chart]:
    """Empty stretches, expected ranges and missing values."""
    foot = alt.value(height - 6)
    return [
        alt.Chart(alt.NamedData("shades")).mark_rect(color=SHADE).encode(x=x, x2="x2:Q"),
        alt.Chart(alt.NamedData("bands")).mark_rule(color=BAND, strokeWidth=5).encode(x=x, y=y, y2="y2:Q"),
        alt.Chart(alt.NamedData("crosses")).mark_text(text="\u00d7", color=MUTED, fontSize=12).encode(x=x, y=foot),
    ]


def events(x: alt.X, y: alt.Y) -> list[alt.Chart]:
    """A dot an event, alerts in another colour, and a ring around the one described."""
    looks = ["event", "alert", "marked"]
    dots = alt.Chart(alt.NamedData("points")).mark_circle(opacity=1).encode(
        x=x, y=y, order=alt.Order("look:N", sort="ascending"),
        color=alt.Color("look:N", scale=alt.Scale(domain=looks, range=[BLUE, RED, RED]), legend=None),
        size=alt.Size("look:N", scale=alt.Scale(domain=looks, range=[22, 34, 90]), legend=None),
    )  # fmt: skip
    ring = alt.Chart(alt.NamedData("marked")).mark_point(
        color=RED, size=300, strokeWidth=1.5, filled=False, opacity=1
    )  # fmt: skip
    return [dots, ring.encode(x=x, y=y)]


def label(past: Past, x: alt.X, y: alt.Y, *, on_left: bool) -> list[alt.Chart]:
    """The value described, beside its ring, on an edge of paper so that it reads over dots and lines."""
    here = alt.Chart(alt.NamedData("marked")).encode(x=x, y=y)
    mark = partial(
        here.mark_text, text=past.label, fontSize=13, fontWeight="bold", baseline="middle",
        align="right" if on_left else "left", dx=-14 if on_left else 14,
    )  # fmt: skip
    return [mark(color=PAPER, stroke=PAPER, strokeWidth=4, strokeJoin="round"), mark(color=RED)]


def past_height(past: Past) -> int:
    """Height of a history in px: categories need a line each."""
    return 150 if past.kind != "category" else 36 + 20 * len({value for value in past.values if value is not None})


def time_axis(calendar: bool, domain: list[float], count: int) -> alt.Axis:
    """Dates, or days where there is no calendar."""
    if calendar:
        return alt.Axis(grid=False, tickCount=count, labelOverlap=True)
    unit = 86_400 if domain[1] - domain[0] > 3 * 86_400 else 3_600
    step = max(1, math.ceil((domain[1] - domain[0]) / unit / count))
    first = math.ceil(max(domain[0], 0) / unit / step) * step
    ticks = [tick * unit for tick in range(first, math.floor(domain[1] / unit) + 1, step)]
    name = "day" if unit == 86_400 else "hour"
    return alt.Axis(grid=False, values=ticks, labelExpr=f"'{name} ' + datum.value / {unit}", labelOverlap=True)


def value_axis(past: Past, bands: list[dict[str, float]]) -> alt.Y:
    """The vertical axis that suits the kind of values; categories are named on it, so that it needs no title."""
    if past.kind == "category":
        axis = alt.Axis(grid=True, labelLimit=130)
        return alt.Y("y:N", title=None, scale=alt.Scale(type="point", padding=0.9), axis=axis)
    if past.kind == "numeric":
        ends = [0.0, *(value for value in past.values if isinstance(value, (int, float)))]
        ends += [end for band in bands for end in (band["y"], band["y2"])]
        scale = alt.Scale(domain=[1.1 * min(ends), 1.1 * max(ends) or 1], nice=False)
        short = "~s" if max(abs(end) for end in ends) >= 1e5 else ",~f"
        return alt.Y("y:Q", title=past.title, scale=scale, axis=alt.Axis(tickCount=4, format=short))
    longest = max(
        [1.0, *(value for value in past.values if isinstance(value, (int, float))), *(b["y2"] for b in bands)]
    )
    ticks = [tick for tick in DURATION_TICKS if tick <= 1.5 * longest and (tick > 1 or longest < 60)]
    names = " : ".join(f"datum.value == {tick} ? '{DURATION_TICKS[tick]}'" for tick in ticks)
    return alt.Y(
        "y:Q", title=past.title, scale=alt.Scale(type="symlog", constant=60, domain=[0, 1.5 * longest], nice=False),
        axis=alt.Axis(values=[0, *ticks], labelExpr=f"datum.value == 0 ? '0' : {names} : ''", labelOverlap="greedy"),
    )  # fmt: skip


def empty_stretches(past: Past) -> list[tuple[float, float]]:
    """Stretches (start, stop) of time in which nothing happened, or in which the value is missing."""
    times = np.asarray(past.times, np.float64)
    waits = np.diff(times)
    if not len(waits):
        return []
    often = 5 * float(np.median(waits))
    usual = [often if longest is None else min(often, longest) for longest in past.waits[1:]]
    long = (waits > usual) & (waits > 0.04 * (times[-1] - times[0]))  # shorter ones could not be seen
    stretches = [(float(times[i]), float(times[i + 1])) for i in np.flatnonzero(long)]
    start = None
    for i, value in enumerate([*past.values, 0.0]):
        if value is None and start is None:
            start = i
        elif value is not None and start is not None:
            if i - start > 1:
                stretches.append((float(times[start]), float(times[i - 1])))
            start = None
    return stretches


def training_curve(epochs: Sequence[int], train: Sequence[float], held_out: Sequence[float]) -> Drawing:
    """Mean negative log-likelihood of both parts, epoch by epoch, with the best epoch marked."""
    best = int(np.argmin(held_out))
    rows = [
        {"x": epoch, "y": value, "part": part}
        for part, values in (("train", train), ("held-out", held_out))
        for epoch, value in zip(epochs, values, strict=True)
    ]

    def build(width: int) -> Chart:
        x = alt.X(
            "x:Q", title="epoch", scale=alt.Scale(nice=False, domain=[epochs[0], max(epochs[-1], epochs[0] + 1)]),
            axis=alt.Axis(grid=False, format="d", tickMinStep=1, tickCount=min(len(epochs), 10)),
        )  # fmt: skip
        y = alt.Y("y:Q", title="negative log-likelihood", scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=4))
        colour = alt.Scale(domain=["train", "held-out"], range=[MUTED, BLUE])
        lines = alt.Chart(alt.NamedData("epochs")).encode(
            x=x, y=y, color=alt.Color("part:N", scale=colour, legend=None)
        )
        chosen = alt.Chart(alt.NamedData("best")).encode(x=x, y=y)
        return alt.layer(
            lines.mark_line(strokeWidth=2),
            lines.mark_circle(size=24, opacity=1),
            chosen.mark_point(color=BLUE, size=180, strokeWidth=1.5, opacity=1),
        ).properties(height=170)

    return Drawing({"epochs": rows, "best": [{"x": epochs[best], "y": held_out[best]}]}, build)


@dataclass(frozen=True)
class Bar:
    """One bar: its name, its length, what is written at its end, whether it stands out, and a mark for chance."""

    name: str
    value: float
    label: str
    strong: bool = False
    chance: float | None = None


def bars(rows: Sequence[Bar], *, highest: float | None = None) -> Drawing:
    """Horizontal bars in the order given, each with its value written out."""
    values = [
        {"y": row.name, "x": row.value, "label": row.label, "strong": row.strong, "chance": row.chance} for row in rows
    ]
    top = highest or max([row.value for row in rows] + [row.chance or 0 for row in rows]) or 1

    def build(width: int) -> Chart:
        room = 1.25 if width > NARROW else 1.45  # for the label after the longest bar
        axis = alt.Axis(domain=False, ticks=False, labelLimit=round(0.42 * width), labelColor=INK, labelFontSize=13)
        y = alt.Y("y:N", title=None, sort=[row.name for row in rows], axis=axis)
        x = alt.X("x:Q", title=None, axis=None, scale=alt.Scale(domain=[0, top * room], nice=False))
        chart = alt.Chart(alt.NamedData("bars")).encode(y=y)
        colour = alt.condition("datum.strong", alt.value(BLUE), alt.value(BAND))
        return alt.layer(
            chart.mark_bar(height=16).encode(x=x, color=colour),
            chart.transform_filter("datum.chance != null")
            .mark_tick(color=RED, thickness=2, height=22, opacity=1)
            .encode(x=alt.X("chance:Q", axis=None)),
            chart.mark_text(align="left", dx=6, color=INK, fontSize=13).encode(x=x, text="label:N"),
        ).properties(height=alt.Step(26))

    return Drawing({"bars": values}, build)
