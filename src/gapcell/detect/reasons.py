"""Why an event has its score, in words."""

from __future__ import annotations

import math

import numpy as np
import polars as pl

from gapcell.detect.events import EventTable
from gapcell.detect.features import FeatureSpec
from gapcell.detect.results import Feature
from gapcell.detect.scoring import HIGH, LOW, Scored
from gapcell.detect.wording import amount, duration, printable

USUAL = -math.log(1 - (HIGH - LOW))  # a part below it lies in the expected range


def reasons(
    table: EventTable, specs: tuple[FeatureSpec, ...], features: tuple[Feature, ...], scored: Scored
) -> pl.Series:
    """One sentence an event, such as "dollar_value 1,034 where 20 to 60 was expected from its history".

    Args:
        table: the events.
        specs: how each feature is encoded.
        features: the same features as scored.
        scored: in the order of the table.
    """
    values = {spec.name: table.since_last() if spec.kind == "gap" else table.values[spec.name] for spec in specs
              if spec.kind != "reports"}  # fmt: skip
    history = table.earlier()
    reason = np.full(len(history), "", dtype=object)
    for number, (spec, feature) in enumerate(zip(specs, features, strict=True)):
        low, high = in_units(spec, scored.low), in_units(spec, scored.high)
        for row in np.flatnonzero(scored.feature == number).tolist():
            common = bool(scored.by_population[row])
            part = (scored.population if common else scored.own)[row, number]
            came = describe(spec, values[spec.name][row])
            usual = describe_expected(spec, feature.tail, float(low[row]), float(high[row]))
            of = "of any event" if common else "from its history" if history[row] else "of a first event"
            lead = "as expected: " if part < USUAL else ""
            reason[row] = f"{lead}{came} where {usual} was expected {of}"
    unscored = np.isnan(scored.own)
    for row in np.flatnonzero(unscored.any(1)).tolist():
        why = ", ".join(not_scored(specs[number], int(history[row])) for number in np.flatnonzero(unscored[row]))
        reason[row] = f"{reason[row]} (not scored: {why})" if reason[row] else f"not scored: {why}"
    return pl.Series("reason", reason.tolist(), dtype=pl.String)


def describe(spec: FeatureSpec, value: object) -> str:
    """What came: name and value."""
    if spec.kind == "gap":
        return f"{duration(float(value))} since the last event"  # pyrefly: ignore[bad-argument-type]  # a number here
    if spec.kind == "numeric":
        return f"{spec.name} {amount(float(value))}"  # pyrefly: ignore[bad-argument-type]  # likewise
    if spec.kind == "boolean":
        return f"{spec.name} {value}"
    seldom = "" if value in spec.categories else " (seldom or never seen in training)"
    return f"{spec.name} {printable(value, 40)!r}{seldom}"


def describe_expected(spec: FeatureSpec, tail: str, low: float, high: float) -> str:
    """What was expected: a range, one end of it, or the likeliest category with its probability."""
    if spec.kind in ("boolean", "categorical"):
        likeliest = int(low)
        if spec.kind == "boolean":
            name = str(bool(likeliest))
        else:
            known = likeliest < len(spec.categories)
            name = repr(printable(spec.categories[likeliest], 40)) if known else "another one"
        return f"{name} ({high:.0%})"
    show = duration if spec.kind == "gap" else amount
    ends = show(low), show(high)
    if tail == "upper":
        return f"up to {ends[1]}"
    if tail == "lower":
        return f"at least {ends[0]}"
    return f"{ends[0]} to {ends[1]}"


def in_units(spec: FeatureSpec, z: np.ndarray) -> np.ndarray:
    """Scaled values in the column's unit, as fine as the column counts: 3 CDs and not 2.87; other kinds unchanged."""
    if spec.scaling is None:
        return z
    values, step = spec.scaling.backward(z), spec.scaling.step
    if spec.kind == "gap":
        return np.round(values / step) * step if step else values
    return np.round(values) if step >= 1 else values


def not_scored(spec: FeatureSpec, history: int) -> str:
    """Why a feature of an event has no score."""
    first = spec.kind == "gap" and history == 0
    return "no earlier event to measure the time from" if first else f"{spec.name} is missing"
