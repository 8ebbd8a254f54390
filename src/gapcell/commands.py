"""The commands: what each takes and teaches; the work is done by the modules they import when they run."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, CycloptsError, Parameter

from gapcell import __version__
from gapcell.files import replacing
from gapcell.refusal import MISUSED, Refusal, check_outputs

if TYPE_CHECKING:
    import polars as pl

    from gapcell.detect import Detection, Detector, EventTable
    from gapcell.detect.results import Progress

app = App(
    name="gapcell",
    version=__version__,
    help="Convolutional recurrent layers for sequences with gaps, and anomaly detection on tables of events.\n\n"
    "First steps: gapcell detect --demo, then gapcell detect your-events.csv",
    help_format="markdown",
)

Names = Annotated[list[str] | None, Parameter(consume_multiple=True, negative=())]
Flag = Annotated[bool, Parameter(negative=(), show_default=False)]


def run(words: Sequence[str]) -> None:
    """Runs the command that the words name.

    Raises:
        Refusal: the words are misused, or what they name is refused.
    """
    try:
        # parsed here and called below, because App.__call__ exits by itself and has its own way with interruptions
        command, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        sentence = " ".join(str(error).split()).rstrip(".")
        command = f"{words[0]} " if words and words[0] in app else ""
        raise Refusal(f"{sentence}; see gapcell {command}--help", MISUSED) from None
    command(*bound.args, **bound.kwargs)


@app.command
def detect(
    table: Path | None = None,
    /,
    *,
    entity: str | None = None,
    time: str | None = None,
    value: Names = None,
    label: str | None = None,
    upper: Names = None,
    lower: Names = None,
    unscored: Names = None,
    also: Names = None,
    label_delay: float | None = None,
    supervised: Flag = False,
    demo: Flag = False,
    report: Path = Path("report.html"),
    scores: Path = Path("scores.parquet"),
    model: Path | None = None,
    compare: Flag = False,
    checkpoint: Path | None = None,
    encoder: str = "auto",
    budget: float = 0.001,
    alerts_per_day: float | None = None,
    window: int = 4,
    hidden_size: int = 32,
    min_events: int = 1,
    train_until: str | None = None,
    test_from: str | None = None,
    epochs: int = 20,
    seed: int = 0,
) -> None:
    """Find the events of a table that do not fit their entity's history.

    The table is CSV or Parquet, one row an event: whose, when, and any values. Values may be missing. The earliest
    events train a network, the next ones set the threshold, and the latest are judged.

    Example: gapcell detect events.csv --entity customer --time t --value amount category --upper amount

    Args:
        table: the events, .csv, .tsv or .parquet.
        entity: column that says whose event it is, such as customer or card. Guessed, and said, when left out.
        time: column that says when. Guessed, and said, when left out.
        value: columns to judge events by, --value a b or --value a --value b. All usable ones when left out.
        label: column of known cases (true/false, empty where unknown), to measure against; learnt from only if asked.
        upper: columns where only large values are strange.
        lower: columns where only small values are strange.
        unscored: columns to read but not to judge by; time_since_last is one.
        also: further columns to group the same events by, such as terminal.
        label_delay: days after which a label is known; it then is an event of its own, and recent reports are judged.
        supervised: judge by the probability of the label, learnt from the labels of the earliest events.
        demo: use the CDNOW table of real purchases, and compare with baselines.
        report: the report, one HTML file that stands alone. Replaced when it exists.
        scores: the score of every event with its reason, .parquet or .csv. Replaced when it exists.
        model: folder to save the detector to, for gapcell score.
        compare: inject anomalies and compare with baselines (takes longer).
        checkpoint: folder to keep the training in; the same command after a kill goes on there.
        encoder: what carries the history: none, lstm, convlstm, convgru, calendar; auto tries all and says which.
        budget: share of events that may alert; 0.001 is 1 in 1,000.
        alerts_per_day: alerts wanted a day, in the place of the budget.
        window: events a recurrent step covers; the network sees at least this many events back.
        hidden_size: channels of the network's state.
        min_events: train on entities with at least this many events.
        train_until: events before this time train, such as 2024-03-01 (or seconds). The first 60 % when left out.
        test_from: events from this time on are judged. The last 20 % when left out.
        epochs: most passes over the training events.
        seed: of every draw; the same seed gives the same scores.
    """
    if demo == (table is not None):
        raise Refusal("give a table, or --demo and no table; see gapcell detect --help", MISUSED)
    if demo and (entity or time or value or label or also):
        raise Refusal("--demo knows its columns: leave out --entity, --also, --time, --value and --label", MISUSED)
    if also and not entity:
        raise Refusal("--also groups events by further columns: name the first with --entity", MISUSED)
    check_outputs({"--report": report, "--scores": scores}, inputs=[table], model=model)
    with told():
        import dataclasses

        from gapcell import detect as detection
        from gapcell.terminal import progress, say, say_encoders

        try:
            options = detection.FitOptions(
                budget=budget, window=window, hidden_size=hidden_size, min_events=min_events, epochs=epochs, seed=seed,
                upper=tuple(upper or ()), lower=tuple(lower or ()), unscored=tuple(unscored or ()),
                alerts_per_day=alerts_per_day, encoder=encoder, supervised=supervised,
                label_delay=None if label_delay is None else label_delay * 86_400,
                train_until=as_moment(train_until), test_from=as_moment(test_from),
            )  # fmt: skip
        except ValueError as error:
            raise Refusal(str(error), MISUSED) from None
        say("reading the table")
        if table is None:
            events = detection.load_cdnow()
        else:
            keys = entity if also is None or entity is None else (entity, *also)
            events = detection.read_table(table, entity=keys, time=time, values=value, label=label)
        for sentence in events.reading.sentences():
            say(f"  {sentence}")
        with progress() as shown:
            detector = detection.fit(events, options, progress=shown, checkpoint=checkpoint)
            say_encoders(detector.candidates)
            found = score_all(detector, events, shown)
            if compare or demo:
                found = dataclasses.replace(found, comparison=detector.compare(events, progress=shown))
            write_outputs(found, report, scores, shown, detector=detector, model=model)
    tell(found, report, scores, model)


@app.command
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
        from gapcell.terminal import progress, say

        detector = detection.Detector.load(model)
        say("reading the table")
        events = detector.read(table, label=label)
        for sentence in events.reading.sentences():
            say(f"  {sentence}")
        with progress() as shown:
            found = score_all(detector, events, shown)
            write_outputs(found, report, scores, shown)
    tell(found, report, scores, None)


@app.command
def simulate(
    out: Path,
    /,
    *,
    customers: int = 1000,
    days: int = 120,
    seed: int = 0,
    fraud_rate: float = 0.003,
    missing_rate: float = 0.03,
    withholding_rate: float = 0.15,
    silence_rate: float = 0.05,
) -> None:
    """Make up a labelled table of card transactions with fraud and gaps, of any size.

    About half an event a customer and day. The same numbers give the same file. To try the detector on it, leave out
    the kind of fraud, which gives the label away:
    gapcell detect cards.parquet --label label --value amount category distance online

    Example: gapcell simulate cards.parquet --customers 5000 --days 90

    Args:
        out: the table, .parquet or .csv. Replaced when it exists.
        customers: number of customers.
        days: days from 2024-01-01 on, 30 to 3650.
        seed: another seed is another population.
        fraud_rate: share of the transactions that are fraud, up to 0.1.
        missing_rate: share of values missing at random, up to 0.9.
        withholding_rate: share of customers whose bank often withholds values.
        silence_rate: share of regular customers who fall silent once.
    """
    check_outputs({"OUT": out}, inputs=[], model=None)
    with told():
        from gapcell.detect.simulate import CUSTOMERS_PER_CHUNK, Simulation
        from gapcell.terminal import progress, say, show_files

        try:
            simulation = Simulation(customers, days, seed, fraud_rate, missing_rate, withholding_rate, silence_rate)
        except ValueError as error:
            raise Refusal(str(error).replace("`", ""), MISUSED) from None
        written = Counter()
        with progress() as shown:

            def count(chunk: pl.DataFrame) -> None:
                written.update(chunks=1, events=chunk.height, labelled=int(chunk["label"].sum()))
                shown("simulation", written["chunks"], -(-customers // CUSTOMERS_PER_CHUNK))

            simulation.write(out, on_chunk=count)
        say(f"{written['events']:,} events, {written['labelled']:,} of them labelled")
    show_files({"events": str(out)})


@app.command
def info() -> None:
    """Say which versions are installed and which kernel runs.

    Nothing is imported to find out, so that this works where something is broken.

    Example: gapcell info
    """
    from gapcell.info import kernel, kernel_in_jax, packages
    from gapcell.terminal import show_packages

    show_packages(packages(), {"kernel": kernel(), "in jax": kernel_in_jax()})


@app.command
def completion(shell: Literal["bash", "zsh", "fish"], /) -> None:
    """Print the script that completes commands and options in a shell.

    Example: gapcell completion bash > ~/.local/share/bash-completion/completions/gapcell

    Args:
        shell: bash, zsh (a file _gapcell in a folder of $fpath) or fish (~/.config/fish/completions/gapcell.fish).
    """
    print(app.generate_completion(shell=shell))


@app.command
def laws(
    *adapters: str,
    rank: Literal[1, 2, 3] | None = None,
    html: Path | None = None,
    json: Path | None = None,
    every_case: Flag = False,
    float64: Flag = False,
) -> None:
    """Ask layers which laws of masking they obey: yours, gapcell's, or those of other libraries.

    The laws are in docs/laws.md. Without an adapter, lists those that come along. The exit status is 1 when a law is
    broken; one that a layer cannot be asked, for want of an option, is not.

    Example: gapcell laws torch.nn.LSTM keras.layers mypackage.layers:MyAdapter --rank 1

    Args:
        adapters: names, or package.module:attribute of your own, found from this folder too.
        rank: ask in cases with this many site axes, 1 to 3. All when left out.
        html: page to write, .html. Replaced when it exists.
        json: every law in every case, .json. Replaced when it exists.
        every_case: ask in three times as many cases, as gapcell's own tests do (takes longer).
        float64: ask in float64 in the place of float32.
    """
    from gapcell.laws import KNOWN, check, load
    from gapcell.laws.output import write
    from gapcell.terminal import progress, show_adapters, show_files, show_laws

    outputs = {option: path for option, path in (("--html", html), ("--json", json)) if path is not None}
    if not adapters:
        if outputs:
            raise Refusal("name an adapter; gapcell laws lists them", MISUSED)
        show_adapters(KNOWN)
        return
    check_outputs(outputs, inputs=[], model=None)
    # read by frameworks when they are imported: threads only wait for each other on arrays this small
    for name, value in {"OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}.items():
        os.environ.setdefault(name, value)
    dtype = "float64" if float64 else "float32"
    try:
        layers = {name: load(name) for name in adapters}
        with progress() as shown:
            reports = [
                check(
                    layer,
                    rank=rank,
                    dtype=dtype,
                    every_case=every_case,
                    system=getattr(layer, "system", name),
                    progress=shown,
                )
                for name, layer in layers.items()
            ]
    except ValueError as error:
        raise Refusal(str(error).replace("`", ""), MISUSED) from None
    write(reports, html=html, json=json)
    show_laws(reports)
    show_files({option.strip("-"): str(path) for option, path in outputs.items()})
    if broken := [f"{report.system} breaks law {report.broken}" for report in reports if report.broken]:
        raise Refusal("; ".join(broken))


def as_moment(text: str | None) -> str | float | None:
    """A time as `FitOptions` takes it: a number of seconds where it reads as one, else ISO text."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


@contextmanager
def told() -> Iterator[None]:
    """Turns what the detector refuses, and what the file system does, into a `Refusal`."""
    from gapcell.detect import ModelError, TableError

    try:
        yield
    except (TableError, ModelError, OSError) as error:
        raise Refusal(" ".join(str(error).split())) from None


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
