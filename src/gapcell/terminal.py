"""What the commands show: progress on standard error while they work, tables on standard output when they end."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from gapcell.info import Kernel, Package

if TYPE_CHECKING:
    from gapcell.detect import Detection
    from gapcell.detect.events import Reading
    from gapcell.detect.results import Candidate, Progress
    from gapcell.laws import Report, Summary
    from gapcell.laws.adapters import Known
    from gapcell.stream import Counts

PLAIN_WIDTH = 120
SECONDS_BETWEEN_LINES = 5
SECONDS_BETWEEN_TALLIES = 30
SHOWN_ALERTS = 8

STAGES = {
    "population": "population",
    "encoders": "choosing",
    "network": "training",
    "fold 1": "labels, fold 1",
    "fold 2": "labels, fold 2",
    "labels": "labels",
    "scores": "scoring",
    "baselines": "baselines",
    "report": "drawing the report",
    "simulation": "simulating",
}


def console(*, error: bool = False) -> Console:
    """A console on standard output or error; where that is not a terminal, lines may be long."""
    stream = sys.stderr if error else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else PLAIN_WIDTH, highlight=False)


def say(sentence: str) -> None:
    """One remark on standard error."""
    console(error=True).print(Text(sentence), soft_wrap=True)


def say_reading(reading: Reading) -> None:
    """What was taken for what in a table."""
    for sentence in reading.sentences():
        say(f"  {sentence}")


def say_encoders(candidates: Sequence[Candidate]) -> None:
    """Which encoders were chosen, and how well the others predict events that nothing was trained on."""
    for chosen in (candidate for candidate in candidates if candidate.chosen):
        others = [other for other in candidates if other.stream == chosen.stream and not other.chosen]
        beside = ", ".join(f"{other.encoder} {other.held_out:.3f}" for other in others)
        say(
            f"encoder by {chosen.stream}: {chosen.encoder}, held-out negative log-likelihood {chosen.held_out:.3f}"
            + (f" ({beside})" if beside else "")
        )


@contextmanager
def progress() -> Iterator[Progress]:
    """Shows the stages of a long piece of work: bars on a terminal, a line now and then elsewhere."""
    out = console(error=True)
    if not out.is_terminal:
        yield plain_lines(out)
        return
    columns = (
        SpinnerColumn(finished_text="✓"),
        TextColumn("{task.description:<18}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[message]}", markup=False),
    )
    with Bars(*columns, console=out) as bars:
        tasks: dict[str, TaskID] = {}

        def report(stage: str, done: int, total: int, message: str = "") -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(STAGES.get(stage, stage), total=total, message=message)
            bars.update(tasks[stage], completed=done, total=total, message=message)

        yield report


def plain_lines(out: Console) -> Progress:
    """A report that prints the beginning and the end of each stage and a line every few seconds between."""
    printed: dict[str, float] = {}

    def report(stage: str, done: int, total: int, message: str = "") -> None:
        now = time.monotonic()
        if stage in printed and done < total and now - printed[stage] < SECONDS_BETWEEN_LINES:
            return
        printed[stage] = now
        remark = f" ({message})" if message else ""
        out.print(Text(f"{STAGES.get(stage, stage)}: {done:,} of {total:,}{remark}"))

    return report


@contextmanager
def tally() -> Iterator[Callable[[Counts], None]]:
    """Shows what has come of a stream: in place on a terminal, a line now and then elsewhere, and at the end."""
    out, start = console(error=True), time.monotonic()
    last, latest, told = start, None, 0
    status = out.status(Text("waiting for events")) if out.is_terminal else None

    def watch(counts: Counts) -> None:
        nonlocal last, latest, told
        latest = counts
        for notice in counts.notices[told:]:
            say(notice)
        told, now = len(counts.notices), time.monotonic()
        if status is not None:
            status.update(Text(tally_in_words(counts, now - start)))
        elif now - last >= SECONDS_BETWEEN_TALLIES:
            say(tally_in_words(counts, now - start))
            last = now

    with status or nullcontext():
        yield watch
    if latest is not None:
        say(tally_in_words(latest, time.monotonic() - start))


def tally_in_words(counts: Counts, seconds: float) -> str:
    """12,345 events, 12 of them alerts, 8,120 a second; 3 late, 1 that could not be read, 2 that came again."""
    rate = counts.events / max(seconds, 1e-9)
    words = f"{counts.events:,} events, {counts.alerts:,} of them alerts, {rate:,.0f} a second"
    rest = {"late": counts.late, "that could not be scored": counts.refused, "that came again": counts.again}
    beside = ", ".join(f"{count:,} {what}" for what, count in rest.items() if count)
    return words + (f"; {beside}" if beside else "")


def show_alerts(detection: Detection) -> None:
    """The highest alerts, as a table."""
    from gapcell.detect.alerts import score_in_words, shown_moment
    from gapcell.detect.report import headline
    from gapcell.detect.wording import printable

    out = console()
    out.print(Text(f"\n{headline(detection)}", style="bold"))
    if detection.top.height == 0:
        for note in detection.notes:  # such as that the budget asks for more events
            out.print(Text(f"  {note}"), soft_wrap=True)
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("score", justify="right", style="red")
    table.add_column(Text(printable(detection.table.reading.entity)))
    table.add_column("when", no_wrap=True)
    table.add_column("why")
    for row in detection.top.head(SHOWN_ALERTS).iter_rows(named=True):
        when = shown_moment(detection, detection.table.time[row["row"]])
        entity, reason = printable(row["entity"], 30), printable(row["reason"], 200)
        table.add_row(score_in_words(row["score"]), *(Text(cell) for cell in (entity, when, reason)))
    out.print(table)
    if detection.top.height > SHOWN_ALERTS:
        out.print(f"and {detection.top.height - SHOWN_ALERTS} more in the report")


def show_measures(detection: Detection) -> None:
    """How good the scores are, where there is a label or a comparison."""
    out = console()
    if detection.metrics is not None:
        found = detection.metrics
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        for name in ("against the label", "gapcell", "random"):
            table.add_column(name, justify="left" if name.startswith("against") else "right")
        table.add_row("average precision", f"{found.average_precision:.3f}", f"{found.base_rate:.3f}")
        at_budget = f"precision of the {found.alerts_at_budget:,} highest"
        table.add_row(at_budget, f"{found.precision_at_budget:.3f}", f"{found.base_rate:.3f}")
        table.add_row("area under ROC", f"{found.roc_auc:.3f}", "0.500")
        out.print(table)
    if detection.comparison is not None:
        from gapcell.detect.report import by_kind

        kinds, rows = by_kind(detection.comparison)
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        table.add_column("average precision on injected anomalies")
        for kind in kinds:
            table.add_column(kind, justify="right")
        for method, values in rows:
            table.add_row(method, *(Text(value, style="bold" if best else "") for value, best in values))
        out.print(table)


def show_files(files: dict[str, str]) -> None:
    """What was written: file names by what they hold."""
    out = console()
    for what, path in files.items():
        out.print(Text(f"{what:<8} {path}"), soft_wrap=True)


def show_packages(packages: list[Package], kernels: dict[str, Kernel | None]) -> None:
    """Versions, and which kernel runs and why, by where; a place that is not there has None."""
    out = console()
    for package in packages:
        cure = f"not installed; pip install 'gapcell[{package.extra}]'" if package.extra else "not installed"
        version = Text(package.version or cure, style="" if package.version else "dim")
        out.print(Text(f"{package.name:<14}") + version, soft_wrap=True)
    for where, kernel in kernels.items():
        if kernel is not None:
            out.print(Text(f"{where:<14}{kernel.name}: {kernel.reason}"), soft_wrap=True)


VERDICTS = {"holds": "green", "broken": "bold red"}  # the rest is dim


def show_laws(reports: Sequence[Report]) -> None:
    """Which laws the systems obey: one with the reasons beside them, several with a column each and reasons below."""
    from gapcell.laws.output import matrix

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("law", justify="right")
    table.add_column("")
    for report in reports:
        table.add_column(Text(report.system), min_width=8)
    if len(reports) == 1:
        table.add_column("in cases", justify="right")
        table.add_column("the first broken case and its error, or why it is not asked", ratio=1)
    for law, says, summaries in matrix(reports):
        cells = [Text("") if summary is None else verdict_text(summary) for summary in summaries]
        if len(reports) == 1 and summaries[0] is not None:
            cells += [Text(counts(summaries[0])), Text(summaries[0].why)]
        table.add_row(str(law), says, *cells)
    out = console()
    out.print(table)
    for report in reports if len(reports) > 1 else ():
        for summary in report.laws():
            if summary.verdict == "broken":
                out.print(Text(f"{report.system}, law {summary.law}: {summary.why}"), soft_wrap=True)


def verdict_text(summary: Summary) -> Text:
    """In its colour."""
    return Text(summary.verdict, style=VERDICTS.get(summary.verdict, "dim"))


def counts(summary: Summary) -> str:
    """In how many of the cases asked the verdict came."""
    asked = summary.held + summary.broken
    return f"{summary.broken or summary.held} of {asked}" if asked else ""


def show_adapters(known: dict[str, Known]) -> None:
    """The adapters that come along, and how to install what they need."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("adapter", "layer", "here"):
        table.add_column(name)
    for name, adapter in known.items():
        missing = adapter.missing()
        here = Text("yes") if missing is None else Text(f"pip install {missing}", style="dim")
        table.add_row(name, Text(adapter.says), here)
    out = console()
    out.print(table)
    out.print("Your own: gapcell laws package.module:attribute, a class or an object with run(case).", soft_wrap=True)
