"""The two charts of docs/benchmarks.md, as SVG files that follow the reader's light or dark mode.

Colours are those of a light page, on paper of their own; where the reader prefers dark, a style sheet in the file takes
others in their place, so that a program that knows no style sheets shows the light ones.
"""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree  # reads only what Vega has just written

import altair as alt
import vl_convert

from benchmarks.catalogue import KERAS, KERNEL, LOOP, OVER_A_MINUTE, SEQUENCES, SHARES, SHARES_SHAPE, SYSTEMS
from benchmarks.goals import ratio
from benchmarks.results import Results
from benchmarks.shapes import SHAPES

PAPER, INK, MUTED, LINE, BLUE, ORANGE = "#ffffff", "#1d2126", "#5f6771", "#e1e0da", "#2463a8", "#b85c00"
SHADES = ("#9dc3ea", "#4a8fd0", "#1b4f8a")  # from few to many, the last one standing out most
DARK = {PAPER: "#1b1f24", INK: "#e8e6e1", MUTED: "#a0a7b0", LINE: "#343a41", BLUE: "#6cace6", ORANGE: "#f0a04b"}
DARK |= dict(zip(SHADES, ("#3f6892", "#6a9fd4", "#c4ddf5"), strict=True))
CONFIG = {
    "background": PAPER,
    "font": "sans-serif",
    "padding": 16,
    "view": {"stroke": None},
    "title": {
        "color": INK, "subtitleColor": MUTED, "fontSize": 14, "subtitleFontSize": 12, "anchor": "start", "offset": 12,
    },
    "axis": {
        "labelColor": INK, "titleColor": MUTED, "gridColor": LINE, "domainColor": LINE, "tickColor": LINE,
        "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal", "labelLimit": 260, "tickSize": 4,
    },
    "header": {"labelColor": INK, "labelFontSize": 12, "title": None},
}  # fmt: skip
OTHERS, OURS = "others", "gapcell"
TIMES = "\N{MULTIPLICATION SIGN}"
COLOUR = alt.Color("whose:N", scale=alt.Scale(domain=[OTHERS, OURS], range=[ORANGE, BLUE]), legend=None)
COMPARED = tuple(name for name, system in SYSTEMS.items() if {*SEQUENCES} <= {*system.shapes} and name != KERNEL)


def to_svg(chart: alt.Chart | alt.LayerChart | alt.FacetChart | alt.HConcatChart, description: str) -> str:
    """A chart as the text of a file.

    Args:
        chart: in the light colours.
        description: what is seen, for those who cannot see it.
    """
    # Nothing is fetched: an empty list of base addresses forbids it.
    written = vl_convert.vegalite_to_svg(chart.to_dict() | {"config": CONFIG}, allowed_base_urls=[])
    root = ElementTree.fromstring(written)  # noqa: S314
    for element in root.iter():  # Vega describes every mark, which is many times longer than the drawing
        for name in [name for name in element.attrib if name.startswith("aria-") or name in {"role", "class"}]:
            del element.attrib[name]
    root.attrib.update({"role": "img", "aria-label": description})
    ElementTree.register_namespace("", "http://www.w3.org/2000/svg")
    style = ElementTree.Element("{http://www.w3.org/2000/svg}style")
    rules = [f'[{part}="{light}"]{{{part}:{dark}}}' for light, dark in DARK.items() for part in ("fill", "stroke")]
    style.text = f"@media (prefers-color-scheme:dark){{{''.join(rules)}}}"
    root.insert(0, style)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def training(results: Results) -> str:
    """Training time of every system as a multiple of gapcell.torch's, a panel a shape."""
    shapes = [shape for shape in SEQUENCES if results.ms(KERNEL, shape, "train")]
    rows = [row for shape in shapes for row in training_rows(results, shape)]
    factors = [row["factor"] for row in rows if row["factor"]]
    domain = [min(0.5, 0.8 * min(factors)), max(10, 2.6 * max(factors))]  # room for the figures on the right
    ticks = [tick for tick in (0.1, 1, 10, 100) if domain[0] <= tick <= domain[1]]
    x = alt.X(
        "factor:Q", title=None, scale=alt.Scale(type="log", domain=domain, nice=False),
        axis=alt.Axis(values=ticks, labelExpr=f"datum.value + '{TIMES}'"),
    )  # fmt: skip
    y = alt.Y("system:N", title=None, sort=list(COMPARED), axis=alt.Axis(grid=False, ticks=False, domain=False))
    chart = alt.Chart(alt.Data(values=rows))
    measured = chart.transform_filter("datum.factor != null")
    text = measured.mark_text(color=INK, fontSize=11, align="left", dx=8).encode(x="right:Q", y=y, text="text:N")
    missing = chart.transform_filter("datum.factor == null").mark_text(color=MUTED, fontSize=11, align="left", dx=8)
    layers = alt.layer(
        chart.mark_rule(color=INK, strokeWidth=1).encode(x=alt.datum(1)),
        measured.mark_rule(strokeWidth=3, opacity=0.45).encode(x=x, x2=alt.datum(1), y=y, color=COLOUR),
        measured.mark_circle(size=70, opacity=1).encode(x=x, y=y, color=COLOUR),
        text,
        missing.encode(x=alt.datum(1), y=y, text="text:N"),
    ).properties(width=160, height=22 * len(COMPARED))
    header = alt.Header(labelAlign="left", labelAnchor="start", labelExpr="split(datum.value, ': ')")
    panels = alt.Column("panel:N", sort=[panel(shape) for shape in shapes], header=header)
    title = alt.Title(
        "Time of a training step, as a multiple of gapcell.torch's",
        subtitle="Right of the line: slower. Logarithmic; every step observed. Orange: others; blue: gapcell.",
    )
    described = "Training time of every system relative to gapcell.torch, a panel a shape; the tables have the figures."
    return to_svg(layers.facet(column=panels, title=title, spacing=20), described)


def panel(shape: str) -> str:
    return f"{shape}: {SHAPES[shape]}"


def training_rows(results: Results, shape: str) -> list[dict[str, Any]]:
    """A row a system; without a factor where there is none, and why."""
    rows = []
    for system in COMPARED:
        factor = ratio(results.ms(system, shape, "train"), results.ms(KERNEL, shape, "train"))
        row = {"panel": panel(shape), "system": system, "whose": OTHERS if SYSTEMS[system].ours else OURS}
        if factor is None:
            words = "over a minute" if (system, shape) in OVER_A_MINUTE else "not measured"
            rows.append(row | {"factor": None, "text": words})
        else:
            words = f"{factor:.0f}{TIMES}" if factor >= 9.95 else f"{factor:.1f}{TIMES}"
            rows.append(row | {"factor": factor, "right": max(factor, 1), "text": words})
    return rows


def observed(results: Results) -> str:
    """Cost against the share of observed steps, beside systems that compute every step."""
    parts = [cost(results, mode, title) for mode, title in (("forward", "Forward"), ("train", "Training step"))]
    title = alt.Title(
        f"Time against the share of steps observed, {panel(SHARES_SHAPE)}",
        subtitle="Steps observed at random. Dashed: computes every step, whatever is observed.",
    )
    described = "The time of gapcell.torch falls with the share of steps observed; that of the others does not."
    return to_svg(alt.hconcat(*parts, spacing=40).properties(title=title), described)


def cost(results: Results, mode: str, title: str) -> alt.LayerChart:
    """One of the two panels."""
    points = [
        {"x": share_of(share), "y": results.ms(KERNEL, SHARES_SHAPE, mode, share), "whose": OURS}
        for share in (*SHARES, "full")
    ]
    flat = [{"y": results.ms(system, SHARES_SHAPE, mode), "text": system, "whose": OTHERS} for system in (LOOP, KERAS)]
    points, flat = ([row for row in rows if row["y"] is not None] for rows in (points, flat))
    highest = max(row["y"] for row in points + flat)
    ticks = [row["x"] for row in points]
    x = alt.X("x:Q", title="% of steps observed", axis=alt.Axis(grid=False, values=ticks))
    scale = alt.Scale(domain=[0, 1.12 * highest], nice=False)
    y = alt.Y("y:Q", title=f"{title}, ms", scale=scale, axis=alt.Axis(tickCount=5))
    ours = alt.Chart(alt.Data(values=points)).encode(x=x, y=y, color=COLOUR)
    half = ours.transform_filter("datum.x == 50")
    layers = [
        ours.mark_line(strokeWidth=2.5),
        ours.mark_circle(size=60, opacity=1),
        half.mark_text(text=KERNEL, align="left", fontSize=12, dx=10, dy=10),
    ]
    # The upper one's name stands above its line and the lower one's below, so that they never meet.
    for row, baseline, away in zip(sorted(flat, key=lambda row: -row["y"]), ("bottom", "top"), (-4, 5), strict=False):
        other = alt.Chart(alt.Data(values=[row])).encode(y=y, color=COLOUR)
        layers += [
            other.mark_rule(strokeDash=[5, 4], strokeWidth=1.5),
            other.mark_text(align="left", baseline=baseline, fontSize=12, dy=away, x=6).encode(text="text:N"),
        ]
    return alt.layer(*layers).properties(width=320, height=230)


def share_of(observed: str) -> int:
    return 100 if observed == "full" else int(observed.removesuffix("%"))
