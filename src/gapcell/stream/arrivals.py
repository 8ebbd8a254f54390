"""From lines of JSON or CSV to events: what is wrong with a line is said of its event, and stops no other."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import polars as pl

from gapcell.detect import Detector, EventTable, TableError
from gapcell.detect.table_files import MISSING
from gapcell.stream.sources import LONGEST_LINE, Line

Format = Literal["jsonl", "csv"]
LONGEST_ID = 500  # characters
NOTHING = "\0"  # at which SQLite would take a text to end
SURROGATE = re.compile("[\ud800-\udfff]")  # JSON can say half a character, UTF-8 cannot
Cells = Mapping[str, str | None]


@dataclass(frozen=True)
class Arrival:
    """An event as it came.

    Attributes:
        id: its own, or made of where it stands in the input and of what it says.
        cells: the text of each of its columns, None where missing; empty where the line could not be read.
        problem: why the line could not be read.
    """

    id: str
    cells: Cells
    problem: str = ""


class LineError(Exception):
    """What is wrong with a line."""


class Reader:
    """Reads lines as events.

    Args:
        id_column: the column of the events' ids; None to make them.
        format: of the lines; told from the first one when None.
    """

    def __init__(self, id_column: str | None, format: Format | None) -> None:  # noqa: A002  # as its option is called
        self.id_column, self.format = id_column, format
        self.header: tuple[list[str], str] | None = None

    def read(self, lines: Iterable[Line]) -> list[Arrival]:
        """The events of lines; empty lines and the header are none."""
        return [event for position, line in lines if (event := self.event(position, line)) is not None]

    def event(self, position: int, line: bytes) -> Arrival | None:
        """The event of a line; None where it has none."""
        made = f"{position}:{hashlib.sha256(line).hexdigest()[:16]}"
        try:
            text = decoded(line)
            if not text.strip():
                return None
            if self.format is None:
                self.format = "jsonl" if text.lstrip().startswith("{") else "csv"
            if self.format == "csv" and self.header is None:
                self.header = header_of(text)
                return None
            cells = from_json(text) if self.header is None else from_csv(text, self.header)
            return Arrival(made if self.id_column is None else id_of(cells, self.id_column), cells)
        except LineError as error:
            return Arrival(made, {}, str(error))


def decoded(line: bytes) -> str:
    """A line as text."""
    if len(line) > LONGEST_LINE:
        raise LineError(f"the line is longer than {LONGEST_LINE:,} bytes")
    try:
        text = line.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError:
        raise LineError("the line is not UTF-8 text") from None
    if NOTHING in text:
        raise LineError("the line holds a NUL character")
    return text


def id_of(cells: Cells, column: str) -> str:
    """The id of an event."""
    found = cells.get(column)
    if found is None:
        raise LineError(f"the event has no id in {column!r}")
    if len(found) > LONGEST_ID:
        raise LineError(f"the id in {column!r} is longer than {LONGEST_ID} characters")
    return found


def header_of(text: str) -> tuple[list[str], str]:
    """The names of the columns of CSV, and what stands between them: the commonest of comma, semicolon and tab.

    Raises:
        TableError: two columns have one name; every line then would be in doubt.
    """
    separator = max(",;\t", key=text.count)
    names = next(csv.reader([text], delimiter=separator))
    twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if twice is not None:
        raise TableError(f"the input has two columns named {twice[:40]!r}: rename one")
    return names, separator


def from_csv(text: str, header: tuple[list[str], str]) -> Cells:
    """The cells of a line of CSV; what CSV files have for missing is missing."""
    names, separator = header
    try:
        values = next(csv.reader([text], delimiter=separator, strict=True))
    except csv.Error as error:
        raise LineError(f"the line is no CSV: {error}") from None
    if len(values) != len(names):
        raise LineError(f"the line has {len(values)} cells, and the header {len(names)}")
    return {name: None if value in MISSING else value for name, value in zip(names, values, strict=True)}


def from_json(text: str) -> Cells:
    """The cells of a line of JSON."""
    try:
        found = json.loads(text, parse_constant=lambda word: None if word == "NaN" else float(word))
    except (ValueError, RecursionError):
        raise LineError("the line is no JSON") from None
    if not isinstance(found, dict):
        raise LineError("the line is JSON, but no object with a name for each value")
    return {name: as_text(name, value) for name, value in found.items()}


def as_text(name: str, value: object) -> str | None:
    """A value of JSON as CSV has it."""
    if value is None:
        return None
    if isinstance(value, str):
        if NOTHING in value or SURROGATE.search(value):
            raise LineError(f"column {name[:40]!r} holds a NUL character, or half of one that takes two")
        return value or None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    kind = "list" if isinstance(value, list) else "JSON object"
    raise LineError(f"column {name[:40]!r} holds a {kind}, where text, a number or true/false was expected")


def columns_of(detector: Detector) -> list[str]:
    """The columns that a detector reads, its label among them where it reads labels."""
    schema = detector.schema
    label = [schema.label] if schema.label is not None and detector.options.label_delay is not None else []
    return [schema.entity, *schema.others, schema.time, *(column.name for column in schema.columns), *label]


def keys_of(detector: Detector, events: Sequence[Arrival]) -> list[list[str]]:
    """For each stream the keys of events."""
    schema = detector.schema
    columns = (schema.entity, *schema.others)
    return [list({key for event in events if (key := event.cells.get(column)) is not None}) for column in columns]


def tables(
    detector: Detector, events: Sequence[Arrival], first: int = 0
) -> Iterator[tuple[range, EventTable | TableError]]:
    """Events read as the detector reads them: yields their numbers, and their table or why one cannot be read.

    Where an event cannot be read, the others are cut apart until it stands alone.

    Args:
        detector: that reads.
        events: to be read.
        first: the number of the first one.
    """
    places = range(first, first + len(events))
    if not events:
        return
    columns = {name: [event.cells.get(name) for event in events] for name in columns_of(detector)}
    frame = pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String))
    try:
        yield places, detector.read_new(frame)
    except TableError as error:
        if len(events) == 1:
            yield places, error
            return
        half = len(events) // 2
        yield from tables(detector, events[:half], first)
        yield from tables(detector, events[half:], first + half)
