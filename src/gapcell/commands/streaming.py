"""The command that scores events as they come."""

from __future__ import annotations

import os
import signal
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from gapcell.commands.words import Flag, told
from gapcell.refusal import MISUSED, Refusal

if TYPE_CHECKING:
    from gapcell.stream import Target


def stream(
    model: Path,
    events: Path | None = None,
    /,
    *,
    output: Path | None = None,
    store: Path = Path("stream.sqlite"),
    id_column: Annotated[str | None, Parameter(name="--id")] = None,
    follow: Flag = False,
    reasons: Literal["alerts", "all", "none"] = "alerts",
    lateness: float = 0.0,
    ahead: float = 86_400.0,
    form: Annotated[Literal["jsonl", "csv"] | None, Parameter(name="--format")] = None,
    batch: int = 1000,
    wait: float = 0.02,
) -> None:
    """Score events as they come, each exactly once, also over a crash.

    Events are lines of JSON, or CSV with a header, with the columns that the model was fitted on. Scores are lines of
    JSON, or CSV where --output ends in .csv. What the model keeps of each entity lies in the store: the same command
    after a stop or a crash goes on there, and events that are given again are left out by their ids.

    An event that is earlier than its entity's last one, that cannot be read, or that is far ahead of the clock comes
    out without a score and with the reason. docs/streaming.md has all of it.

    Example: tail -F events.jsonl | gapcell stream fraud-model --id transaction --store cards.sqlite >> scores.jsonl

    Args:
        model: the folder that gapcell detect --model or gapcell fit has saved.
        events: the events. Standard input when left out.
        output: file of the scores. Standard output when left out; into a pipe, a crash may bring its last batch twice.
        store: file of what is kept between events. Made when it is not there.
        id_column: column of the events' ids. When left out, an event is known by its place in the input and its text,
            so that after a crash the input must be given again from its beginning.
        follow: wait at the end of the events for what is written next, until Ctrl-C or SIGTERM.
        reasons: which events get their score in words.
        lateness: seconds by which events may come in the wrong order; they are held for so long, and put right.
        ahead: seconds by which an event may be ahead of the clock and still be scored.
        form: of the events. Told from the first line when left out.
        batch: most events that are scored and kept at once.
        wait: seconds that an event may wait for others to be scored with.
    """
    if follow and events is None:
        raise Refusal("--follow goes with a file of events; standard input is followed anyway", MISUSED)
    with told():
        from gapcell import stream as streaming
        from gapcell.detect import Detector
        from gapcell.terminal import tally

        try:
            csv = output is not None and output.suffix == ".csv"
            policy = streaming.Policy(id_column, form, "csv" if csv else "jsonl", reasons, lateness, ahead, batch, wait)
        except ValueError as error:
            raise Refusal(str(error).replace("most (", "batch ("), MISUSED) from None
        detector = Detector.load(model)
        try:
            source = streaming.StandardInput() if events is None else streaming.FileSource(events, follow=follow)
            with until_signal() as stop, tally() as watch:
                target = target_of(output)
                streaming.run(detector, streaming.SQLiteStore(store), source, target, policy, stop=stop, watch=watch)
        except (streaming.StoreError, streaming.TargetError) as error:
            raise Refusal(str(error)) from None


def target_of(output: Path | None) -> Target:
    """A file, or standard output as what it is."""
    from gapcell.stream import FileTarget, PipeTarget

    if output is not None:
        return FileTarget(output)
    sys.stdout.flush()
    if stat.S_ISREG(os.fstat(1).st_mode):
        return FileTarget(1, append=True)
    return PipeTarget(1)


@contextmanager
def until_signal() -> Iterator[threading.Event]:
    """An event that SIGTERM and Ctrl-C set, so that the work ends after its batch; a second one ends it at once."""
    stop = threading.Event()
    before = {}

    def asked(number: int, frame: object) -> None:
        stop.set()
        for each, handler in before.items():
            signal.signal(each, handler)

    for number in (signal.SIGTERM, signal.SIGINT):
        before[number] = signal.signal(number, asked)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
