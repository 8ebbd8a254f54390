"""The report's view of each feature: how often it is there, how often it decides, and whether its odds hold."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import polars as pl
from markupsafe import Markup

from gapcell.detect import charts
from gapcell.detect.calibration import JUDGES, LEVELS, calibration_of
from gapcell.detect.odds_chart import odds_that_held
from gapcell.detect.reasons import title_of
from gapcell.detect.results import Detection, Feature, Part
from gapcell.detect.wording import odds, printable, share

CURVES = 12  # features whose odds are drawn
WHOSE = {"own": "own history", "population": "all events"}


@dataclass(frozen=True)
class FeatureView:
    """One feature of the judged events.

    Attributes:
        name: of the feature.
        observed: share of the events that have a value.
        percent: the same, 0 to 100.
        decides: share of the scored events whose score it gave.
        alerts: how many of the alerts it gave away.
        curve: how seldom values came, by how seldom they were said to be; None where too few were scored.
    """

    name: str
    observed: str
    percent: float
    decides: str
    alerts: str
    curve: Markup | None


@dataclass(frozen=True)
class OddsRow:
    """What came of one prediction's odds: (text, whether it came more often than chance explains) for each level."""

    feature: str
    whose: str
    cells: tuple[tuple[str, bool], ...]
    distance: str


def judged_part(detection: Detection) -> Part:
    """The part by which predictions are judged: the test part, or the held-out one where there is none."""
    return "test" if (detection.frame["part"] == "test").any() else "held-out"


def feature_views(detection: Detection) -> list[FeatureView]:
    """Every feature in the judged part, in the order of the features."""
    events = detection.frame.filter(part=judged_part(detection))
    scored, alerts = events["feature"].drop_nulls(), events.filter("alert")["feature"]
    made = []
    for place, feature in enumerate(detection.features):
        there = events.height - int(events[f"score_own_{feature.name}"].null_count())
        made.append(
            FeatureView(
                name=title_of(feature),
                observed=share(there, events.height) if events.height else "—",
                percent=100 * there / max(events.height, 1),
                decides=share(int((scored == feature.name).sum()), scored.len()) if scored.len() else "—",
                alerts=f"{int((alerts == feature.name).sum()):,}",
                curve=curve(events, feature) if place < CURVES else None,
            )
        )
    return made


def curve(events: pl.DataFrame, feature: Feature) -> Markup | None:
    """How seldom values of a feature came, by how seldom they were said to be; None where too few were scored."""
    points: dict[str, list[tuple[float, float]]] = {}
    for judge in JUDGES:
        surprises = np.sort(events[f"score_{judge}_{feature.name}"].drop_nulls().to_numpy())
        if surprises.size < 1 / LEVELS[0]:
            continue
        said = 10.0 ** -np.arange(0, math.log10(surprises.size) + 1e-9, 0.25)
        came = surprises.size - np.searchsorted(surprises, -np.log(said) - 1e-12)
        points[judge] = [(p, n / surprises.size) for p, n in zip(said.tolist(), came.tolist(), strict=True) if n]
    if not any(points.values()):
        return None
    least = min(min(pair) for pairs in points.values() for pair in pairs)
    description = f"{title_of(feature)}: " + "; ".join(
        f"{WHOSE[judge]}: said {odds(1 / said)}, came {odds(1 / came)}"
        for judge, pairs in points.items()
        for said, came in pairs[4::4]
    )
    return charts.draw_small(odds_that_held(points, 10.0 ** math.floor(math.log10(least))), description)


def odds_table(detection: Detection) -> list[OddsRow]:
    """What came of what was said to come once in ten, a hundred and a thousand times."""
    found = calibration_of(detection.frame, detection.features, judged_part(detection))
    names = [feature.name for feature in detection.features]
    titles = {feature.name: title_of(feature) for feature in detection.features}
    made = []
    for (name, judge), rows in found.group_by("feature", "judge", maintain_order=True):
        cells = tuple(
            (came_in_words(row["came"], row["events"]), row["low"] > row["level"]) for row in rows.iter_rows(named=True)
        )
        far = distance_in_words(detection, names.index(str(name)), str(judge))
        made.append(OddsRow(titles[str(name)], WHOSE[str(judge)], cells, far))
    return made


def came_in_words(came: int, events: int) -> str:
    """How often something came: 1 in 8.7, or none of 240."""
    return odds(events / came) if came else f"none of {events:,}"


def distance_in_words(detection: Detection, number: int, judge: str) -> str:
    """How far from uniform a feature's transform is; a dash where that is not known."""
    if detection.distances.height <= number:
        return "—"
    value = detection.distances[judge][number]
    return "—" if value is None else f"{value:.2f}".removeprefix("0")


def encoders(detection: Detection) -> list[tuple[str, str, str, bool]]:
    """What was tried: (stream, encoder, held-out negative log-likelihood, whether it was chosen)."""
    return [
        (printable(each.stream), printable(each.encoder), f"{each.held_out:.3f}", each.chosen)
        for each in detection.candidates
    ]
