"""The report: one HTML file that needs nothing beside it, for someone who must decide what to look at first."""

from __future__ import annotations

import math
from importlib import resources
from pathlib import Path

import jinja2
import numpy as np
import polars as pl
from markupsafe import Markup

from gapcell import __version__
from gapcell.detect import charts
from gapcell.detect.alerts import highest_alerts, shown_moment
from gapcell.detect.metrics import Daily, alerts_a_day, precision_a_day
from gapcell.detect.reasons import days_only, title_of
from gapcell.detect.report_entities import entity_pages
from gapcell.detect.report_features import encoders, feature_views, judged_part, odds_table
from gapcell.detect.report_gaps import (
    lengths_chart,
    missing_chart,
    missing_columns,
    six_numbers,
    unscored,
    waits_chart,
)
from gapcell.detect.results import Comparison, Detection, Metrics, Progress, silent
from gapcell.detect.wording import amount, duration, odds, printable, share, whole_days
from gapcell.files import replacing

LOOKED_AT = (1, 2, 5, 10, 20, 50, 100, 200)  # a day, as far as there are so many events


def write(detection: Detection, path: str | Path, *, progress: Progress = silent) -> None:
    """Writes the report of a detection to `path`, whole or not at all.

    Args:
        detection: what `Detector.score` returned.
        path: an .html file; one that is there is replaced when the report is complete.
        progress: called as progress("report", done, total).

    Raises:
        OSError: `path` cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_text(render(detection, progress=progress), encoding="utf-8")


def render(detection: Detection, *, progress: Progress = silent) -> str:
    """The report of a detection as HTML.

    Names and values from the table are escaped and their control characters replaced; the page has no script, and
    forbids the browser to fetch anything.
    """
    reading = detection.table.reading
    alerts = highest_alerts(detection)
    pages = entity_pages(detection, alerts, progress)
    return page().render(
        version=__version__,
        reading=reading,
        source=Path(reading.source).name,
        headline=headline(detection),
        summary=summary(detection),
        tiles=tiles(detection),
        alerts=alerts,
        pages=pages,
        drawn={alert.rank for page in pages for alert in (*page.detailed, *page.brief)},
        threshold=f"{detection.threshold:.2f}",
        budget=odds(1 / detection.budget),
        parts=parts(detection),
        distribution=distribution(detection),
        metrics=None if detection.metrics is None else metrics_chart(detection.metrics),
        measured=detection.metrics,
        comparison=None if detection.comparison is None else comparison_chart(detection.comparison),
        by_kind=None if detection.comparison is None else by_kind(detection.comparison),
        compared=detection.comparison,
        daily=daily(detection),
        a_day=alerts_each_day(detection),
        views=feature_views(detection),
        judged=judged_part(detection),
        held=odds_table(detection),
        encoders=encoders(detection),
        missing=missing_columns(detection),
        lacking=missing_chart(detection),
        not_scored=unscored(detection),
        lengths=lengths_chart(detection),
        waits=waits_chart(detection),
        numbers=zip(
            ("least", "25 %", "median", "75 %", "most", "mean"),
            six_numbers(detection.lengths, amount),
            six_numbers(detection.gaps, whole_days if days_only(detection.table) else duration),
            strict=True,
        ),
        features=features(detection),
        training=training_chart(detection),
        detection=detection,
    )


def page() -> jinja2.Template:
    """The page without what it says."""
    source = resources.files("gapcell.detect").joinpath("report.html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"count": lambda number: f"{number:,}", "name": printable, "sentence": sentence}
    return environment.from_string(source)


def sentence(note: str) -> str:
    """A note with a capital letter and a full stop."""
    return f"{note[:1].upper()}{note[1:].rstrip('.')}."


def looked_at(detection: Detection) -> pl.DataFrame:
    """The events that were judged: those of the test part, or all when there is none."""
    test = detection.frame.filter(part="test")
    return test if test.height else detection.frame


def headline(detection: Detection) -> str:
    """The report in one line."""
    judged = looked_at(detection)
    count = int(judged["alert"].sum())
    events = f"{judged.height:,} event{'s' if judged.height != 1 else ''}"
    if count == 0:
        return f"Nothing stands out in {events}" + ("; below are earlier ones" if detection.top.height else "")
    return f"{count:,} of {events} {'deserve' if count != 1 else 'deserves'} a look"


def summary(detection: Detection) -> list[str]:
    """What a reader with no patience needs, one sentence a line."""
    judged = looked_at(detection)
    entity = printable(detection.table.reading.entity)
    first, last = (shown_moment(detection, end) for end in (judged["time"].min(), judged["time"].max()))
    said = [f"Judged: the events from {first} to {last}."]
    hit = judged.filter("alert")
    if hit.height:
        worst = hit["entity"].value_counts(sort=True).row(0)
        said.append(f"The alerts fall on {hit['entity'].n_unique():,} different values of {entity}.")
        if worst[1] > 2:
            said.append(f"{worst[1]} of them on {printable(worst[0])} alone.")
        by = hit["feature"].value_counts(sort=True).rows()
        titles = {feature.name: title_of(feature) for feature in detection.features}
        told = ", ".join(f"{titles[name]} ({count:,})" for name, count in by[:4])
        said.append(f"What gave them away: {told}.")
    if detection.metrics is not None and detection.metrics.positives:
        found = detection.metrics
        right = round(found.precision_at_budget * found.alerts_at_budget)
        verb = "is" if right == 1 else "are"
        said.append(
            f"Of the {found.alerts_at_budget:,} highest scores with a known label, {right:,} {verb} true; "
            f"picked at random it would be {found.alerts_at_budget * found.base_rate:,.1f}."
        )
    return said


def tiles(detection: Detection) -> list[tuple[str, str, str]]:
    """Numbers at a glance: (name, number, remark)."""
    reading = detection.table.reading
    judged = looked_at(detection)
    count = int(judged["alert"].sum())
    return [
        ("events read", f"{reading.rows:,}", f"of {reading.entities:,} different {printable(reading.entity)}"),
        ("judged", f"{judged.height:,}", "the latest, not learnt from"),
        ("alerts", f"{count:,}", f"{share(count, judged.height)} of them; budget {odds(1 / detection.budget)}"),
        ("threshold", f"{detection.threshold:.2f}", f"as unlikely as {odds(math.exp(min(detection.threshold, 700)))}"),
    ]


def parts(detection: Detection) -> list[tuple[str, str, str, str]]:
    """The parts of the table in time: (name, from, to, events)."""
    table = detection.table
    rows = []
    for part, events in detection.frame.with_columns(time=table.time).group_by("part", maintain_order=True):
        first, last = events["time"].min(), events["time"].max()
        rows.append((str(part[0]), shown_moment(detection, first), shown_moment(detection, last), f"{events.height:,}"))
    return sorted(rows, key=lambda row: ("train", "held-out", "test").index(row[0]))


def distribution(detection: Detection) -> Markup | None:
    """The scores of the two parts that were not learnt from; None when neither has one."""
    held_out, test = (detection.scores(part).to_numpy() for part in ("held-out", "test"))
    if len(held_out) + len(test) == 0:
        return None
    above = int((test > detection.threshold).sum())
    description = (
        f"Distribution of {len(held_out):,} held-out and {len(test):,} test scores; "
        f"{above:,} test scores lie above the threshold {detection.threshold:.2f}"
    )
    return charts.draw(charts.score_distribution(held_out, test, detection.threshold), description)


def metrics_chart(metrics: Metrics) -> Markup | None:
    """Three measures against the labels, each with what chance would give; None where no label is true."""
    rows = [
        charts.Bar(name, value, f"{value:.3f}", strong=True, chance=chance)
        for name, value, chance in (
            ("average precision", metrics.average_precision, metrics.base_rate),
            ("precision at budget", metrics.precision_at_budget, metrics.base_rate),
            ("area under ROC", metrics.roc_auc, 0.5),
        )
        if not math.isnan(value)
    ]
    if metrics.positives == 0:
        return None
    return charts.draw(charts.bars(rows, highest=1), "; ".join(f"{row.name} {row.label}" for row in rows))


def daily(detection: Detection) -> list[tuple[Daily, Daily]]:
    """Precision of looking at so many events a day, and at so many entities; nothing where no label is true."""
    label = detection.table.label
    if label is None or detection.metrics is None or detection.metrics.positives == 0:
        return []
    rows = (detection.frame["part"] == "test").to_numpy()
    events = detection.frame.filter(part="test")
    score, true, seconds = events["score"], label.filter(pl.Series(rows)), detection.table.seconds[rows]
    each_day = alerts_a_day(events["alert"], seconds)["events"]
    most = float(each_day.filter(each_day > 0).median())  # pyrefly: ignore[bad-argument-type]  # there is a test event
    return [
        (
            precision_a_day(score, true, seconds, k),
            precision_a_day(score, true, seconds, k, entities=events["entity"]),
        )
        for k in LOOKED_AT
        if k <= max(most, 1)
    ]


def alerts_each_day(detection: Detection) -> str:
    """How many alerts come a day in the judged events, in a sentence."""
    judged = (detection.frame["part"] == judged_part(detection)).to_numpy()
    if not judged.any():
        return ""
    days = alerts_a_day(detection.frame["alert"].filter(pl.Series(judged)), detection.table.seconds[judged])
    count = days["alerts"]
    if days.height == 1:
        return ""
    mean, most = float(count.sum() / days.height), int(count.max())  # pyrefly: ignore[bad-argument-type]  # of integers
    return (
        f"Over {days.height:,} days that is {amount(round(mean, 2))} alerts a day, {most:,} on the busiest; "
        f"{share(int((count == 0).sum()), days.height)} of the days have none."
    )


def comparison_chart(comparison: Comparison) -> Markup:
    """Average precision of each method over all kinds of injected anomalies."""
    whole = comparison.frame.filter(pl.col("average_precision").is_not_nan(), kind="all")
    first = comparison.frame["method"][0]  # the detector comes before what it is held against
    rows = [
        charts.Bar(
            row["method"],
            row["average_precision"],
            f"{row['average_precision']:.3f}",
            strong=row["method"] == first,
            chance=row["base_rate"],
        )
        for row in whole.iter_rows(named=True)
    ]
    return charts.draw(charts.bars(rows), "; ".join(f"{row.name} {row.label}" for row in rows))


def by_kind(comparison: Comparison) -> tuple[list[str], list[tuple[str, list[tuple[str, bool]]]]]:
    """Kinds of injected anomalies, and for each method its average precision on each and whether it is the best."""
    kinds = comparison.frame["kind"].unique(maintain_order=True).to_list()
    rows = {}
    for method, kind, value in comparison.frame.select("method", "kind", "average_precision").iter_rows():
        rows.setdefault(method, {})[kind] = value
    best = {kind: max(row[kind] for row in rows.values() if kind in row) for kind in kinds}
    table = [
        (method, [(f"{row[kind]:.3f}", row[kind] == best[kind]) if kind in row else ("—", False) for kind in kinds])
        for method, row in rows.items()
    ]
    chance = comparison.frame.group_by("kind", maintain_order=True).agg(pl.first("base_rate")).rows()
    rates = dict(chance)
    return kinds, [*table, ("random", [(f"{rates[kind]:.3f}", False) for kind in kinds])]


def features(detection: Detection) -> list[tuple[str, str, str, float, str, str]]:
    """Scored features: (name, kind, missing, missing in per cent, tail, heads)."""
    rows = detection.table.reading.rows
    missing = dict(zip((c.name for c in detection.table.reading.columns), detection.table.reading.missing, strict=True))
    made = []
    for feature in detection.features:
        count = missing.get(feature.name, detection.no_history if feature.kind == "gap" else 0)
        heads = (
            feature.family
            if feature.family == feature.population_family
            else f"{feature.family}, {feature.population_family}"
        )
        made.append((title_of(feature), feature.kind, share(count, rows), 100 * count / rows, feature.tail, heads))
    return made


def training_chart(detection: Detection) -> Markup | None:
    """The training curve; None for a detector that came without one."""
    if not detection.epochs:
        return None
    epochs, train, held_out = zip(*((e.epoch, e.train, e.held_out) for e in detection.epochs), strict=True)
    best = int(np.argmin(held_out))
    description = (
        f"Held-out negative log-likelihood falls from {held_out[0]:.3f} to {held_out[best]:.3f} in epoch {epochs[best]}"
    )
    return charts.draw(charts.training_curve(epochs, train, held_out), description)
