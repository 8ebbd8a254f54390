"""The command that trains and saves a detector, and the choices that it shares with `gapcell detect`."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import Parameter

from gapcell.commands.words import Flag, Names, told
from gapcell.refusal import MISUSED, Refusal, check_outputs

if TYPE_CHECKING:
    from gapcell.detect import EventTable, FitOptions

DAY, WEEK = 86_400, 604_800  # seconds


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Choices:
    """Which columns of a table are read, and how a detector is fitted to them; each is an option of a command.

    Attributes:
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

    entity: str | None = None
    time: str | None = None
    value: Names = None
    label: str | None = None
    upper: Names = None
    lower: Names = None
    unscored: Names = None
    also: Names = None
    label_delay: float | None = None
    supervised: Flag = False
    encoder: str = "auto"
    budget: float = 0.001
    alerts_per_day: float | None = None
    window: int = 4
    hidden_size: int = 32
    min_events: int = 1
    train_until: str | None = None
    test_from: str | None = None
    epochs: int = 20
    seed: int = 0

    def options(self) -> FitOptions:
        """The choices of the fit.

        Raises:
            Refusal: naming the one that is out of range.
        """
        from gapcell.detect import FitOptions

        try:
            return FitOptions(
                budget=self.budget, window=self.window, hidden_size=self.hidden_size, min_events=self.min_events,
                epochs=self.epochs, seed=self.seed, upper=tuple(self.upper or ()), lower=tuple(self.lower or ()),
                unscored=tuple(self.unscored or ()), alerts_per_day=self.alerts_per_day, encoder=self.encoder,
                supervised=self.supervised, label_delay=None if self.label_delay is None else self.label_delay * DAY,
                train_until=as_moment(self.train_until), test_from=as_moment(self.test_from),
            )  # fmt: skip
        except ValueError as error:
            raise Refusal(str(error), MISUSED) from None

    def read(self, table: Path) -> EventTable:
        """The events.

        Raises:
            TableError: naming the column and the first bad row.
        """
        from gapcell.detect import read_table

        keys = self.entity if self.also is None or self.entity is None else (self.entity, *self.also)
        return read_table(table, entity=keys, time=self.time, values=self.value, label=self.label)

    def check_keys(self) -> None:
        """Refuse further keys without a first."""
        if self.also and not self.entity:
            raise Refusal("--also groups events by further columns: name the first with --entity", MISUSED)


DEFAULTS = Choices()


def fit(
    table: Path,
    /,
    *,
    model: Path,
    choices: Choices = DEFAULTS,
    checkpoint: Path | None = None,
    timeout: float = 600.0,
) -> None:
    """Train a detector and save it, for gapcell score; in several processes where torchrun starts them.

    What gapcell detect does before it judges. Processes share the training of the networks; each reads the whole table,
    and the first one alone writes and tells how far the work is.

    Example: gapcell fit events.parquet --model events-model

    Example: torchrun --nproc-per-node 2 -m gapcell fit events.parquet --model events-model --checkpoint course

    Args:
        table: the events, .csv, .tsv or .parquet.
        model: folder to save the detector to.
        choices: which columns are read, and how the detector is fitted.
        checkpoint: folder to keep the training in; the same command after a kill goes on there.
        timeout: seconds that a process waits for the others.
    """
    choices.check_keys()
    check_outputs({}, inputs=[table], model=model)
    if not 0 < timeout <= WEEK:
        raise Refusal(f"--timeout (={timeout:g}) must be a number of seconds above 0, of a week at most", MISUSED)
    with told():
        from gapcell import detect as detection
        from gapcell.detect.distributed import joined
        from gapcell.detect.results import silent
        from gapcell.terminal import progress, say, say_encoders, say_reading, show_files

        options = choices.options()
        with joined(timeout) as ranks, progress() if ranks.first else nullcontext(silent) as shown:
            if ranks.first:
                say("reading the table")
            events = choices.read(table)
            if ranks.first:
                say_reading(events.reading)
            detector = detection.fit(events, options, progress=shown, checkpoint=checkpoint, ranks=ranks)
            if ranks.first:
                detector.save(model)
    if ranks.first:
        say_encoders(detector.candidates)
        show_files({"model": str(model)})


def as_moment(text: str | None) -> str | float | None:
    """A time as `FitOptions` takes it: a number of seconds where it reads as one, else ISO text."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return text
