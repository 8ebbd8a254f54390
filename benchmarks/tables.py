"""The tables of docs/benchmarks.md, as lines of Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks import comparisons
from benchmarks.catalogue import (
    FLAX,
    KERAS,
    KERAS_JAX,
    KERAS_TORCH,
    KERAS_XLA,
    KERNEL,
    LOOP,
    LSTM,
    MEMORY,
    MEMORY_SHAPE,
    OURS_ON_JAX,
    PURE,
    RAGGED_SHAPES,
    SEQUENCES,
    SYSTEMS,
    ours_for,
)
from benchmarks.goals import Goal, goals, ratio, share_of_peak
from benchmarks.results import Results
from benchmarks.shapes import SHAPES

NOT_MEASURED = "-"
PASSES = ("forward", "train")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def ms(value: float | None) -> str:
    """Milliseconds to a tenth, short times to three digits."""
    if value is None:
        return NOT_MEASURED
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3g}"


def factor(value: float | None) -> str:
    return NOT_MEASURED if value is None else f"{value:.2f}"


def percent(value: float | None) -> str:
    return NOT_MEASURED if value is None else f"{100 * value:.0f} %"


def measured_shapes(results: Results) -> list[str]:
    return [shape for shape in SHAPES if shape in results.content["shapes"]]


def shapes(results: Results) -> list[str]:
    """What was measured on, and what the machine could do just before."""
    rows = []
    for name in measured_shapes(results):
        state = results.state(name)
        peaks = [f"{peak:.0f}" for peak in state["peak_gflops"] or ()] or [NOT_MEASURED]
        rates = [f"{rate:.0f}" for rate in state["bandwidth_gb_s"]]
        load, busy = f"{state['load']:.2f}", percent(state["busy"])
        rows.append([name, str(SHAPES[name]), load, busy, " / ".join(peaks), " / ".join(rates)])
    head = ["", "sizes", "load", "busy", "multiply-add peak, GFLOP/s", "bandwidth, GB/s"]
    return table(head, rows)


def reached(results: Results) -> list[str]:
    """The goals."""
    words = {True: "yes", False: "**no**", None: NOT_MEASURED}
    rows = []
    for goal in goals(results):
        cells = [amount(goal, goal.must), amount(goal, goal.stretch), amount(goal, goal.reached, ".2f")]
        rows.append([goal.what, *cells, words[goal.holds(goal.must)]])
    return table(["", "must", "stretch", "measured", "must reached"], rows)


def amount(goal: Goal, value: float | None, digits: str = "g") -> str:
    """A goal as it was set, or with other digits what was measured."""
    if value is None:
        return NOT_MEASURED
    shown = {"times": f"{value:{digits}}x", "share": percent(value), "cost": f"{value:.2f}", "us": f"{value:.0f} us"}
    return shown[goal.kind]


def others_ahead(results: Results) -> list[str]:
    """Every figure that is not in our favour."""
    rows = [
        [c.what, c.other, f"{ms(c.others)} {c.unit}", c.ours, f"{ms(c.own)} {c.unit}", factor(c.factor)]
        for c in comparisons.others_ahead(results)
    ]
    return table(["", "other", "", "ours", "", "factor"], rows) if rows else ["Nowhere in what was measured."]


def pytorch(results: Results) -> list[str]:
    rows = []
    for shape in ("S0", *SEQUENCES):
        for mode in PASSES:
            loop, lstm, ours, pure = (results.ms(s, shape, mode) for s in (LOOP, LSTM, KERNEL, PURE))
            quarters = [ratio(results.ms(s, shape, mode, "25%"), whole) for s, whole in ((KERNEL, ours), (PURE, pure))]
            rows.append(
                [
                    shape,
                    mode,
                    ms(loop),
                    ms(lstm),
                    ms(ours),
                    factor(ratio(loop, ours)),
                    ms(pure),
                    factor(ratio(loop, pure)),
                ]
                + [factor(quarter) for quarter in quarters]
            )
    head = ["shape", "", "plain loop", "nn.LSTM", "gapcell", "factor", "no kernel", "factor", "25 %", "25 %, no kernel"]
    return table(head, rows)


def ragged(results: Results) -> list[str]:
    rows = []
    for shape in RAGGED_SHAPES:
        for mode in PASSES:
            loop = results.ms(LOOP, shape, mode)
            for system in (KERNEL, PURE, OURS_ON_JAX):
                ours = results.ms(system, shape, mode, "ragged")
                share = ratio(ours, results.ms(system, shape, mode))
                rows.append([shape, mode, system, ms(ours), factor(share), factor(ratio(loop, ours))])
    return table(["shape", "", "", "ms", "share of its full run", f"factor against the {LOOP}"], rows)


def keras(results: Results) -> list[str]:
    rows = []
    for theirs in (KERAS_TORCH, KERAS_JAX, KERAS, KERAS_XLA):
        for shape in SEQUENCES:
            for mode in PASSES:
                cells = [theirs.removeprefix("Keras on "), shape, mode]
                for observed in ("full", "ragged"):
                    pair = [results.ms(name, shape, mode, observed) for name in (theirs, ours_for(theirs))]
                    cells += [ms(pair[0]), ms(pair[1]), factor(ratio(*pair))]
                rows.append(cells)
    head = ["backend", "shape", "", "Keras", "gapcell", "factor", "Keras, ragged", "gapcell, ragged", "factor"]
    return table(head, rows)


def jax(results: Results) -> list[str]:
    rows = []
    for shape in SEQUENCES:
        for mode in SYSTEMS[FLAX].modes:
            theirs = [results.ms(system, shape, mode) for system in (FLAX, KERAS_JAX)]
            ours, quarter = (results.ms(OURS_ON_JAX, shape, mode, observed) for observed in ("full", "25%"))
            if ours is not None:
                factors = [factor(ratio(other, ours)) for other in theirs]
                rows.append([shape, mode, *map(ms, (*theirs, ours)), *factors, factor(ratio(quarter, ours))])
    head = ["shape", "", "flax", "Keras on JAX", "gapcell", "factor, flax", "factor, Keras", "25 %"]
    return table(head, rows)


def streaming(results: Results) -> list[str]:
    taken = {system: results.ms(system, "S6", "forward") for system in SYSTEMS}
    rows = sorted((value, system) for system, value in taken.items() if value is not None)
    return table(["", "us a step"], [[system, f"{1e3 * value:.0f}"] for value, system in rows])


def peak(results: Results) -> list[str]:
    rows = []
    for shape in ("S2", "S3", "S5"):
        for system in (KERNEL, PURE, LOOP, KERAS, OURS_ON_JAX):
            full = [percent(share_of_peak(results, system, shape, mode)) for mode in PASSES]
            inside = [percent(share_of_peak(results, system, shape, mode, only_inside=True)) for mode in PASSES]
            rows.append([shape, system, *full, *inside])
    return table(["shape", "", "forward", "train", "forward, taps inside", "train, taps inside"], rows)


def memory(results: Results) -> list[str]:
    loop, rows = results.memory(LOOP), []
    for system in MEMORY:
        taken, milliseconds = results.memory(system), results.ms(system, MEMORY_SHAPE, "train")
        if taken is not None:
            rows.append([system, f"{taken:.0f}", factor(ratio(taken, loop)), ms(milliseconds)])
    return table(["", "MB", f"share of the {LOOP}", "ms a step"], rows)
