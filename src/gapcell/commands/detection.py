"""The commands that judge events: with a detector fitted on the same table, and with one that was saved."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from gapcell.commands.fitting import DEFAULTS, Choices
from gapcell.commands.words import Flag, told
from gapcell.files import replacing
from gapcell.refusal import MISUSED, Refusal, check_outputs

if TYPE_CHECKING:
    from gapcell.detect import Detection, Detector, EventTable
    from gapcell.detect.results import Progress


def detect(
    table: Path | None = None,
    /,
    *,
    choices: Choices = DEFAULTS,
    demo: Flag = False,
    report: Path = Path("report.html"),
    scores: Path = Path("scores.parquet"),
    model: Path | None = None,
    compare: Flag = False,
    checkpoint: Path | None = None,
) -> None:
    """Find the events of a table that do not fit their entity's history.

    The table is CSV or Parquet, one row an event: whose, when, and any values. Values may be missing. The earliest
    events train a network, the next ones set the threshold, and the latest are judged.

    Example: gapcell detect events.csv --entity customer --time t --value amount category --upper amount

    Args:
        table: the events, .csv, .tsv or .parquet.
        choices: which columns are read, and how the detector is fitted.
        demo: use the CDNOW table of real purchases, and compare with baselines.
        report: the report, one HTML file that stands alone. Replaced when it exists.
        scores: the score of every event with its reason, .parquet or .csv. Replaced when it exists.
        model: folder to save the detector to, for gapcell score.
        compare: inject anomalies and compare with baselines (takes longer).
        checkpoint: folder to keep the training in; the same command after a kill goes on there.
    """
    if demo == (table is not None):
        raise Refusal("give a table, or --demo and no table; see gapcell detect --help", MISUSED)
    if demo and (choices.entity or choices.time or choices.value or choices.label or choices.also):
        raise Refusal("--demo knows its columns: leave out --entity, --also, --time, --value and --label", MISUSED)
    choices.check_keys()
    check_outputs({"--report": report, "--scores": scores}, inputs=[table], model=model)
    with told():
        import dataclasses

        from gapcell import detect as detection
        from gapcell.terminal import progress, say, say_encoders, say_reading

        options = choices.options()
        say("reading the table")
        events = detection.load_cdnow() if table is None else choices.read(table)
        say_reading(events.reading)
        with progress() as shown:
            detector = detection.fit(events, options, progress=shown, checkpoint=checkpoint)
            say_encoders(detector.candidates)
            found = score_all(detector, events, shown)
            if compare or demo:
                found = dataclasses.replace(found, comparison=detector.compare(events, progress=shown))
            write_outputs(found, report, scores, shown, detector=detector, model=model)
    tell(found, report, scores, model)


def score(
    model: Path,
    table: Path,
    /,
    *,
    label: str | None = None,
    report: Path = Path("report.html"),
    scores: Path = Path("scores.parquet"),
) -> None:
    """Score a table with a detector that gapcell detect --model has saved.

    The table has the columns that the detector was fitted on. Nothing is learnt from it, and the threshold stays.

    Example: gapcell score fraud-model march.parquet --scores march-scores.parquet

    Args:
        model: the folder that was saved.
        table: the events, .csv, .tsv or .parquet.
        label: column of known cases, to measure against.
        report: the report, one HTML file that stands alone. Replaced when it exists.
        scores: the score of every event with its reason, .parquet or .csv. Replaced when it exists.
    """
    check_outputs({"--report": report, "--scores": scores}, inputs=[table], model=None)
    with told():
        from gapcell import detect as detection
        from gapcell.terminal import progress, say, say_reading

        detector = detection.Detector.load(model)
        say("reading the table")
        events = detector.read(table, label=label)
        say_reading(events.reading)
        with progress() as shown:
            found = score_all(detector, events, shown)
            write_outputs(found, report, scores, shown)
    tell(found, report, scores, None)


def score_all(detector: Detector, events: EventTable, shown: Progress) -> Detection:
    """Every event scored, with a sign of life."""
    shown("scores", 0, events.reading.rows)
    found = detector.score(events)
    shown("scores", events.reading.rows, events.reading.rows)
    return found


def write_outputs(
    found: Detection,
    report: Path,
    scores: Path,
    shown: Progress,
    *,
    detector: Detector | None = None,
    model: Path | None = None,
) -> None:
    """Writes every output; each takes its name only when all of them are complete."""
    from gapcell.detect.report import render

    with ExitStack() as stack:
        temporary_scores, temporary_report = (stack.enter_context(replacing(path)) for path in (scores, report))
        if scores.suffix == ".csv":
            found.frame.write_csv(temporary_scores)
        else:
            found.frame.write_parquet(temporary_scores)
        temporary_report.write_text(render(found, progress=shown), encoding="utf-8")
        if detector is not None and model is not None:
            detector.save(model)


def tell(found: Detection, report: Path, scores: Path, model: Path | None) -> None:
    """The end of a command: the highest alerts, how good they are, and the files."""
    from gapcell.terminal import show_alerts, show_files, show_measures

    show_alerts(found)
    show_measures(found)
    show_files({"report": str(report), "scores": str(scores)} | ({} if model is None else {"model": str(model)}))
