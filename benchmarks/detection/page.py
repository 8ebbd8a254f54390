"""Writes docs/detect-benchmarks.md and its chart from what was found: `python -m benchmarks.detection.page`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.detection.findings import Findings, Place, at, whole
from benchmarks.detection.marks import marks
from benchmarks.detection.plan import DRAWN, METHODS, OURS, REMOVED, ROLLED, ROLLED_METHODS, SAITS, SAITS_TASKS
from benchmarks.detection.removal import SHARES
from benchmarks.document import wrapped
from benchmarks.tables import NOT_MEASURED, table

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "detect-benchmarks.md"
CHART = ROOT / "docs" / "benchmarks" / "detect.svg"
COLUMNS = {"ap": "average precision", "auc": "ROC AUC", "precision": "precision at 100 a day", "vus_pr": "VUS-PR"}

HEAD = (
    "Written by `python -m benchmarks.detect` (see `CONTRIBUTING.md`); do not edit. The figures are "
    "in `benchmarks/results/detect.json`. Higher is better but for log-likelihoods. ± is the standard deviation over "
    "{seeds}. What stands in brackets holds 95 % of 1,000 draws of entities "
    "(customers, cards, series), the same for all methods, so that the differences are paired. No figure is "
    "point-adjusted.",
    "Nothing was chosen on test data. Columns and sides of *orders* were chosen on orders before 2011-07-01, so the "
    "months before July in the rolling table are not independent of them. What ours did not score comes last in its "
    "ranking.",
)
ABOUT = {
    "orders": "Online Retail: 50 of 5,602 orders from 2011-08-01 to 11-08 were at least half reversed within 30 days; "
    "that is no fraud. Trained before 2011-07-01 without labels, on lines, pieces and the price of a piece, of which "
    "few lines, few pieces and high prices are anomalous. All methods have the same columns.",
    "orders, supervised": "The same orders, and the labels of those before July. The trees have the order, its "
    "customer's earlier means and counts, and reversals and cancellations known by then.",
    "cards, no labels": "The Fraud Detection Handbook's simulated cards by its protocol: trained on what was before "
    "2018-08-01, judged on 58,264 transactions from 08-08 to 08-14 of cards not known to be compromised, 385 of them "
    "frauds. Amounts and times alone: 73 % of the frauds look like any other transaction.",
    "cards, delayed labels": "A fraud is known seven days later, and enters its card's and its terminal's stream as an "
    "event; nobody learns from labels. The isolation forest has the handbook's 15 figures, among them the terminal's "
    "rate of frauds.",
    "cards, supervised": "The labels of the training week are learnt, from the handbook's 15 figures. Our encoders "
    "learn those of the weeks before, too, back to April; so does boosting in the row *all labels*. Nobody learns, or "
    "chooses by, a label after the training week.",
    "cards, raw supervised": "The same labels are learnt, from amount, time and reported frauds alone: the sequence "
    "has to carry what the 15 figures say. Gradient boosting sees a transaction and the time since the last.",
    "Numenta": "58 series of one value, scaled by their first 15 %, which is all there is to learn from. VUS-PR is the "
    "mean over series; borders of up to 100 steps.",
    "services": "The Application Server Dataset: 12 services of 19 metrics; 30 days to learn from, 15 judged.",
}


def document(findings: Findings) -> str:
    """The text of the document."""
    head = [wrapped(part.format(seeds=seeds(findings))) for part in HEAD]
    parts = ["# How well anomalies are found", *head, surroundings(findings)]
    parts += ["![Average precision of every method](benchmarks/detect.svg)"]
    parts += ["## What was to be reached", "\n".join(reached(findings)), *lost(findings)]
    for task, words in ABOUT.items():
        if findings.methods(whole(task)):
            parts += [f"## {task[0].upper()}{task[1:]}", wrapped(words), "\n".join(compared(findings, whole(task)))]
    parts += gaps(findings)
    parts += rolling(findings)
    parts += speed(findings)
    parts += ["## PyPOTS", wrapped(pypots(findings))]
    return "\n\n".join(parts) + "\n"


def seeds(findings: Findings) -> str:
    """Over how many seeds the methods that draw were run."""
    drawn = [run for run in findings.content["runs"] if run["method"] in DRAWN]
    rows = Counter(Counter((at(run), run["method"]) for run in drawn).values())
    if len(rows) == 1:
        return f"{next(iter(rows))} seeds"
    each = [f"{number} in {count:,} rows" for number, count in sorted(rows.items(), reverse=True)]
    return f"seeds: {', '.join(each)}"


def surroundings(findings: Findings) -> str:
    """The machine and the versions; of what, where not everything was measured on the same."""
    measured: dict[str, list[str]] = {}
    for what, found in findings.content["surroundings"].items():
        machine, versions = found["machine"], found["versions"]
        packages = ", ".join(f"{name} {versions[name]}" for name in ("gapcell", "python", "numpy", "torch"))
        words = f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}; {packages}"
        measured.setdefault(words, []).append(what)
    if len(measured) == 1:
        return wrapped(f"{next(iter(measured))}.")
    return "\n\n".join(wrapped(f"{'; '.join(what)}: {words}.") for words, what in measured.items())


def reached(findings: Findings) -> list[str]:
    words = {True: "yes", False: "**no**", None: NOT_MEASURED}
    rows = []
    for mark in marks(findings):
        digits = ".3f" if abs(mark.wanted) < 10 else ",.0f"
        measured = NOT_MEASURED if mark.measured is None else format(mark.measured, digits)
        rows.append(
            [mark.what, f"{'at most' if mark.most else 'at least'} {mark.wanted:,g}", measured, words[mark.reached]]
        )
    return table(["", "wanted", "measured", "reached"], rows)


def lost(findings: Findings) -> list[str]:
    """Every method that is ahead of ours somewhere, and the control."""
    rows = []
    for task in METHODS:
        ours = findings.ours(whole(task))
        for method in findings.methods(whole(task)):
            row = findings.interval(whole(task), method)
            if row and row.get("ahead", 0) < 0:
                low, high = row["ahead_interval"]
                sure = "yes" if high < 0 else "no"
                rows.append(
                    [
                        task,
                        method,
                        f"{row['ap']:.3f}",
                        str(ours),
                        f"{row['ahead']:+.3f} [{low:+.3f}, {high:+.3f}]",
                        sure,
                    ]
                )
    if not rows:
        return [wrapped("Nothing is ahead of ours by average precision in what was measured.")]
    words = "Where others, or another encoder of ours, have the higher average precision; *sure*: in 95 % of the draws."
    return [
        "## Where ours is behind",
        wrapped(words),
        "\n".join(table(["", "ahead", "", "ours", "difference", "sure"], rows)),
    ]


def compared(findings: Findings, place: Place) -> list[str]:
    """A row a method: every measure, and how far ours is ahead."""
    methods = findings.methods(place)
    measures = [name for name in COLUMNS if any(findings.values(place, method, name) for method in methods)]
    ours = findings.ours(place)
    rows = []
    for method in methods:
        cells = [findings.shown(place, method, measure) for measure in measures]
        row = findings.interval(place, method)
        if row is not None:
            low, high = row["interval"]
            cells[0] += f" [{low:.3f}, {high:.3f}]"
        if row is not None and "ahead" in row:
            low, high = row["ahead_interval"]
            cells.append(f"{row['ahead']:+.3f} [{low:+.3f}, {high:+.3f}]")
        elif ours is not None:
            cells.append("")
        rows.append([named(findings, place, method), *cells])
    ahead = [] if ours is None else [f"{ours} is ahead by"]
    return table(["", *(COLUMNS[name] for name in measures), *ahead], rows)


def named(findings: Findings, place: Place, method: str) -> str:
    """The method, and what it chose: for each key of a stream, in one seed or another."""
    if method != OURS[0]:
        return method
    chosen = sorted({run["encoder"] for run in findings.runs(place, method) if run["encoder"]})
    words = " or ".join(encoders.replace(", ", " and ") for encoders in chosen)
    return f"**{method}** ({words})" if chosen else f"**{method}**"


def gaps(findings: Findings) -> list[str]:
    """Removed events and values: average precision, or VUS-PR, and the rise of the log-likelihood."""
    parts = [
        "## Gaps",
        wrapped(
            "Events, or single values, removed at random, the same for all methods: everywhere, or at scoring only, "
            "after training on everything. Judged orders and transactions stay, so that only their history has gaps; "
            "of a series what was removed is not judged. For nn.LSTM a removed event is a step of zeros. *Cards* "
            "are a fifth of them."
        ),
    ]
    for task in REMOVED:
        measure = "vus_pr" if task == "Numenta" else "ap"
        for where in ("everywhere", "scoring"):
            rows = removed(findings, task, where, measure)
            if rows:
                words = "everywhere" if where == "everywhere" else "at scoring only"
                parts += [f"{task}, {COLUMNS[measure]}, removed {words}:", "\n".join(rows)]
    runs = [run for run in findings.content["runs"] if run["share"] and "alerts_on_missing" in run]
    if runs:
        alerts = sum(run["alerts_on_missing"] for run in runs)
        parts.append(wrapped(f"Alerts of ours on events without any observed value, in {len(runs)} runs: {alerts}."))
    rows = rises(findings)
    if rows:
        parts += [
            wrapped(
                "By how much the negative log-likelihood of the first value rises, on the same events, when gaps "
                "appear at scoring only:"
            ),
            "\n".join(rows),
        ]
    return parts if len(parts) > 2 else []


def removed(findings: Findings, task: str, where: str, measure: str) -> list[str]:
    places: list[Place] = [(task, 0, what, share, where) for what in ("events", "values") for share in SHARES]
    rows = []
    for method in findings.methods(whole(task)):
        cells = [findings.shown(place, method, measure) for place in places]
        if any(cell != NOT_MEASURED for cell in cells):
            rows.append([method, findings.shown(whole(task), method, measure), *cells])
    heads = [f"{100 * share:.0f} % of {what}" for what in ("events", "values") for share in SHARES]
    return table(["", "nothing", *heads], rows) if rows else []


def rises(findings: Findings) -> list[str]:
    rows: list[Sequence[str]] = []
    for task in REMOVED:
        for method in findings.methods(whole(task)):
            places: list[Place] = [
                (task, 0, what, share, "scoring") for what in ("events", "values") for share in SHARES
            ]
            found = [findings.mean(place, method, "nll_rise") for place in places]
            if any(value is not None for value in found):
                rows.append(
                    [f"{task}: {method}", *(NOT_MEASURED if value is None else f"{value:+.3f}" for value in found)]
                )
    heads = [f"{100 * share:.0f} % of {what}" for what in ("events", "values") for share in SHARES]
    return table(["", *heads], rows) if rows else []


def rolling(findings: Findings) -> list[str]:
    """Average precision in other weeks and months."""
    parts = []
    for task, splits in ROLLED.items():
        there = [split for split in sorted({0, *splits}) if findings.methods(whole(task, split))]
        there = [split for split in there if split or task != "orders"]  # 0 is not a month
        if not there:
            continue
        rows = [
            [method, *(findings.shown(whole(task, split), method, "ap") for split in there)]
            for method in ROLLED_METHODS
            if method in METHODS[task]
        ]
        unit = "month of 2011" if task == "orders" else "weeks later"
        parts += [f"{task}, average precision by {unit}:", "\n".join(table(["", *map(str, there)], rows))]
    return ["## Other weeks and months", *parts] if parts else []


def speed(findings: Findings) -> list[str]:
    found = findings.content.get("speed")
    if not found:
        return []
    words = (
        f"All {found['events']:,} card transactions, one thread: fitted in {found['fit_seconds']:.0f} s with at most "
        f"{found['peak_mib']:,.0f} MiB resident; scored at {found['score'] / 1e3:,.0f} thousand events a second. A "
        f"right-padded nn.LSTM of 32 units trains at {found['rival_train'] / 1e3:,.0f} thousand and scores at "
        f"{found['rival_score'] / 1e3:,.0f} thousand; scoring was timed in turn."
    )
    return ["## Speed", wrapped(words)]


def pypots(findings: Findings) -> str:
    ran = [task for task in SAITS_TASKS if SAITS in findings.methods(whole(task))]
    if not ran:
        return (
            "PyPOTS's SAITS detector was not run: it needs an environment of its own, named in GAPCELL_PYPOTS, and "
            "there was none. `benchmarks/detection/saits.py` says how."
        )
    return (
        f"PyPOTS's SAITS detector was run in an environment of its own on {' and '.join(ran)}, on windows of 24 "
        "events. It reads the events after the one it judges too, which no other method here does. Cards are "
        "too many for it."
    )


def write() -> None:
    """The document and its chart."""
    from benchmarks.detection import chart  # here, as Altair is slow to import and the text needs none of it

    findings = Findings.read()
    DOCUMENT.write_text(document(findings), encoding="utf-8")
    CHART.parent.mkdir(exist_ok=True)
    CHART.write_text(chart.precisions(findings), encoding="utf-8")


if __name__ == "__main__":
    write()
