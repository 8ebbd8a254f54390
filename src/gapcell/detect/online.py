"""Scoring event by event: what a detector keeps of the events it has seen, and a step on from there.

A step is the scoring of a table whose series do not begin with it: what they left behind stands in for their earlier
events, and all else is the code that scores whole tables.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import polars as pl
import torch
from safetensors import SafetensorError
from safetensors.numpy import load, save

from gapcell.detect.carried import BEFORE, ENCODERS_OWN, EVENTS, LAST, REPORTS, SUMS, Carried
from gapcell.detect.detection import aside_of
from gapcell.detect.events import EventTable, part_of
from gapcell.detect.features import Encoded
from gapcell.detect.model import states_before
from gapcell.detect.reasons import reasons
from gapcell.detect.records import carried_of
from gapcell.detect.refusals import ModelError
from gapcell.detect.score_frame import Judged, score_frame
from gapcell.detect.scorer import Scorer
from gapcell.detect.scoring import Read, Scored
from gapcell.detect.streams import Series, Stream, series_of, streams_of
from gapcell.detect.wording import durations

if TYPE_CHECKING:
    from gapcell.detect.state import StreamModel

FORMAT = "gapcell state, version 1"
ABOUT = "about"
DIGEST = 32  # bytes of SHA-256

Words = Literal["all", "alerts", "none"]
Rows = Mapping[str, bytes]
"""What the series of a stream have left behind, by the value of its key."""


@dataclass(frozen=True, eq=False)
class OnlineState:
    """What a detector keeps of the events it has seen: some hundred numbers a series, however long it is.

    A step does not change it but gives a new one; the two share what is alike.

    Attributes:
        model: `Detector.identity` of the detector that it belongs to.
        series: for each stream, that of the entities first, what each of its series has left behind, as bytes.
    """

    model: str
    series: tuple[Rows, ...]

    def __len__(self) -> int:
        """How many entities have had an event."""
        return len(self.series[0])

    def to_bytes(self) -> bytes:
        """The state as bytes, which `Detector.restore` reads."""
        tensors = {ABOUT: characters([FORMAT.encode(), b"\n", self.model.encode()])}
        for number, series in enumerate(self.series):
            for name, texts in (("keys", [key.encode() for key in series]), ("rows", list(series.values()))):
                tensors[f"{number}.{name}"] = characters(texts)
                tensors[f"{number}.{name}.ends"] = np.cumsum([len(text) for text in texts], dtype=np.int64)
        contents = save(tensors)
        return hashlib.sha256(contents).digest() + contents


def characters(texts: Sequence[bytes]) -> np.ndarray:
    """Texts one behind the other: uint8."""
    return np.frombuffer(b"".join(texts), np.uint8)


def restored(detector: Scorer, contents: bytes) -> OnlineState:
    """The state of bytes: `Detector.restore`.

    Raises:
        ModelError: they are damaged, or were written for another detector.
    """
    digest, contents = contents[:DIGEST], contents[DIGEST:]
    if hashlib.sha256(contents).digest() != digest:
        raise ModelError("the state is damaged, or is none: its checksum does not fit its contents")
    try:
        tensors = load(contents)
        about, _, model = tensors[ABOUT].tobytes().decode().partition("\n")
        if about != FORMAT:
            raise ModelError(f"the state is of {about[:40]!r}, and this gapcell reads {FORMAT!r}: begin a new one")
        refuse_other(detector, model)
        series = tuple(
            dict(zip([key.decode() for key in pieces(tensors, f"{number}.keys")], pieces(tensors, f"{number}.rows"),
                     strict=True))
            for number in range(len(detector.streams))
        )  # fmt: skip
    except (SafetensorError, KeyError, ValueError) as error:
        raise ModelError(f"the state is damaged: {error}") from None
    for stream, rows in zip(detector.streams, series, strict=True):
        carried_of(stream, list(rows.values()))
    return OnlineState(detector.identity, series)


def pieces(tensors: Mapping[str, np.ndarray], name: str) -> list[bytes]:
    """The texts of a tensor of characters."""
    whole, ends = tensors[name].tobytes(), tensors[name + ".ends"].tolist()
    if ends != sorted(ends) or (ends[-1] if ends else 0) != len(whole):
        raise ValueError(f"{name} ends elsewhere")
    return [whole[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]


def refuse_other(detector: Scorer, model: str) -> None:
    """Refuse the state of another detector."""
    if model != detector.identity:
        raise ModelError(f"the state belongs to the detector {model[:12]}, and this one is {detector.identity[:12]}: "
                         "begin a new state, or go on with the detector that wrote it")  # fmt: skip


@dataclass(frozen=True, eq=False)
class Step:
    """New events scored.

    Attributes:
        frame: a row an event, in the order of the table.
        rows: for each stream, what the series of the events leave behind now.
        late: how many events were late, and leave nothing behind.
    """

    frame: pl.DataFrame
    rows: tuple[Rows, ...]
    late: int = 0


@torch.inference_mode()  # no_grad still counts versions, which one event at a time is an eighth of all time
def advanced(detector: Scorer, before: Sequence[Rows], table: EventTable, *, words: Words) -> Step:
    """Score the events of a table, given what their series have left behind.

    Args:
        detector: that scores.
        before: for each stream what its series have left behind; series that are not there have had no event.
        table: the new events.
        words: which events are to have a reason; the frame has no column for it when "none".

    Raises:
        ModelError: what is left behind is damaged.
    """
    known = looked_up(detector, before, table)
    waited = since_earlier(known, table)
    late = waited < 0
    if not late.any():
        return in_order(detector, known, table, words=words)
    refused = late_frame(table, np.flatnonzero(late), waited, words=words)
    there = np.flatnonzero(~late)
    kept = part_of(table, there if there.size else np.array([0]))
    step = in_order(detector, looked_up(detector, before, kept), kept, words=words)
    if not there.size:  # the frame lends its columns
        frame = pl.concat([step.frame.clear(), refused], how="diagonal").drop("row")
        return Step(frame, tuple({} for _ in before), refused.height)
    scored = step.frame.with_columns(row=pl.Series(there))
    frame = pl.concat([scored, refused], how="diagonal").sort("row").drop("row")
    return Step(frame, step.rows, refused.height)


def looked_up(detector: Scorer, before: Sequence[Rows], table: EventTable) -> list[tuple[Series, Carried]]:
    """The series of each stream of a table, with what they have left behind."""
    return [
        (series, carried_of(model, [rows.get(name) for name in series.names]))
        for model, rows, series in zip(detector.streams, before, series_of(table), strict=True)
    ]


def since_earlier(known: Sequence[tuple[Series, Carried]], table: EventTable) -> np.ndarray:
    """Seconds since the last event that each event's series have left behind; the least of all streams: (rows,)."""
    waited = np.full(len(table.codes), np.inf)
    for series, carried in known:
        here = series.codes >= 0
        last = carried.records[LAST][series.codes[here]]
        waited[here] = np.fmin(waited[here], table.seconds[here] - last)
    return waited


def late_frame(table: EventTable, late: np.ndarray, waited: np.ndarray, *, words: Words) -> pl.DataFrame:
    """What is said of late events, and their rows."""
    behind = " before its series' last event, which is scored already"
    why = ["late: " + text + behind for text in durations(-waited[late]).tolist()]
    columns = {"row": late, "entity": table.entity[late], "time": table.time[late], "alert": [False] * len(late)}
    columns |= {"not_scored": why} | ({"reason": [f"not scored: {text}" for text in why]} if words == "all" else {})
    return pl.DataFrame(columns)


def in_order(detector: Scorer, known: Sequence[tuple[Series, Carried]], table: EventTable, *, words: Words) -> Step:
    """Score events none of which is late."""
    entities = known[0][1].records
    table = dataclasses.replace(table, before=entities[EVENTS], last_before=entities[LAST])
    reads, rows = [], []
    streams = streams_of(table, detector.options.label_delay, known)
    for model, stream, (series, _) in zip(detector.streams, streams, known, strict=True):
        read, after = walked(model, stream, model.encoding.encode(table, stream))
        reads.append(read)
        rows.append(dict(zip(series.names, after.rows(), strict=True)))
    scored = detector.judge(table, tuple(reads))
    frame = score_frame(Judged(table, detector.features, scored, detector.threshold))
    if words != "none":
        wanted = frame["alert"].to_numpy() if words == "alerts" else np.ones(frame.height, dtype=bool)
        frame = frame.with_columns(in_words(detector, table, tuple(reads), scored, wanted))
    return Step(frame, tuple(rows))


def walked(model: StreamModel, stream: Stream, encoded: Encoded) -> tuple[Read, Carried]:
    """A stream with the state of the network before each of its places, and what its series leave behind."""
    read, network, carried = Read.of(stream, encoded), model.predictor.network, stream.carried
    assert carried is not None  # noqa: S101  # the streams of a step always carry something
    records, last = carried.records.copy(), stream.starts[1:] - 1  # an event: reports after it are due
    records[EVENTS] += np.add.reduceat(~stream.report, stream.starts[:-1], dtype=np.int64)
    records[LAST], records[SUMS] = stream.seconds[last], encoded.sums
    if stream.half_life is not None:
        records[REPORTS] = stream.recent_reports[last]
    if network is not None:
        memory = carried.memory()
        states = torch.empty(len(stream.row), network.readout.start.numel(), dtype=torch.float64)
        for places, before in states_before(network, read.sequences, read.begin, read.until, memory):
            states[places] = before.double()
        read = dataclasses.replace(read, states=states)
        for name, values in memory.items():
            records[name if name == BEFORE else ENCODERS_OWN + name] = values.numpy()
    return read, Carried(records, stream.due or carried.due)


def in_words(
    detector: Scorer, table: EventTable, reads: tuple[Read, ...], scored: Scored, wanted: np.ndarray
) -> pl.Series:
    """The reasons of the events that are True in `wanted` (rows,), null for the others."""
    if not wanted.any():
        return pl.Series("reason", [None] * len(wanted), dtype=pl.String)
    reads = tuple(dataclasses.replace(read, judged=read.judged & wanted[read.stream.row]) for read in reads)
    scored = detector.explained(dataclasses.replace(scored, feature=np.where(wanted, scored.feature, -1)), reads)
    said = reasons(table, detector.specs, detector.features, scored, aside_of(detector, reads, scored))
    return said.set(pl.Series(~wanted), None)
