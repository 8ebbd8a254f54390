"""What series have left behind, as records that fit a model, checked where nobody vouches for them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from gapcell.detect.carried import BEFORE, DUE, ENCODERS_OWN, EVENTS, LAST, REPORTS, SUMS, Carried
from gapcell.detect.moments import PARTS
from gapcell.detect.refusals import ModelError
from gapcell.detect.state import StreamModel


def layout_of(model: StreamModel) -> np.dtype:
    """The fields of a record of one stream."""
    moments = len(model.encoding.remembered)
    fields: list[tuple] = [(EVENTS, "<i8"), (LAST, "<f8"), (REPORTS, "<f8"), (SUMS, "<f8", (PARTS, moments))]
    network = model.predictor.network
    if network is not None:
        fields.append((BEFORE, "<f8", (network.readout.start.numel(),)))
        fields += [(ENCODERS_OWN + name, kind, shape) for name, kind, shape in network.encoder.fields()]
    return np.dtype(fields)


def nothing(model: StreamModel, series: int) -> Carried:
    """Series before their first event."""
    records = np.zeros(series, layout_of(model))
    records[LAST] = np.nan
    if model.predictor.network is not None:
        records[BEFORE] = model.predictor.network.readout.start.numpy()
    return Carried(records, (np.empty(0),) * series)


def carried_of(model: StreamModel, rows: Sequence[bytes | None]) -> Carried:
    """Series from their rows, None for one that has had no event.

    Raises:
        ModelError: a row is not as `Carried.rows` writes it; nothing says which one, so ask for one at a time.
    """
    carried = nothing(model, len(rows))
    layout, due = carried.records.dtype, list(carried.due)
    known = [number for number, row in enumerate(rows) if row is not None]
    contents = [row for row in rows if row is not None]
    if any(len(row) < layout.itemsize or (len(row) - layout.itemsize) % DUE.itemsize for row in contents):
        raise ModelError("a state has another length than this detector's: it is damaged, or of another detector")
    carried.records[known] = np.frombuffer(b"".join(row[: layout.itemsize] for row in contents), layout)
    for number, row in zip(known, contents, strict=True):
        if len(row) > layout.itemsize:
            due[number] = np.frombuffer(row[layout.itemsize :], DUE).astype(np.float64)
    if not sound(model, carried.records[known], due):
        raise ModelError("a state holds numbers that no event leaves behind: it is damaged")
    return Carried(carried.records, tuple(due))


def sound(model: StreamModel, records: np.ndarray, due: Iterable[np.ndarray]) -> bool:
    """Whether records and reports that are due can have been written here."""
    network = model.predictor.network
    names = set(records.dtype.names or ())
    finite = all(np.isfinite(records[name]).all() for name in names if records.dtype[name].base.kind == "f")
    return (
        finite
        and bool((records[EVENTS] > 0).all() and (records[REPORTS] >= 0).all())
        and all(np.isfinite(times).all() and (np.diff(times) >= 0).all() for times in due)
        and (network is None or network.encoder.sound({name: records[ENCODERS_OWN + name] for name, *_ in
                                                       network.encoder.fields()}))
    )  # fmt: skip
