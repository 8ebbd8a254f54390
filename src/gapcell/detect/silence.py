"""How unlikely a silence is: the time since an entity's last event against its predicted time to the next.

A silence is an event that has not come, so nothing of it is in the table. It is scored by an event that is imagined at
the time one looks from, of which nothing but the time is known: the probability that the next event comes no sooner is
the upper tail of the gap's own prediction there. A missing value of an event that came has no part in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import polars as pl
from torch import Tensor

from gapcell.detect.events import GAP, EventTable, part_of, rebuild
from gapcell.detect.heads import surprise
from gapcell.detect.reasons import OWN, USUAL, days_only, in_units, range_in_words, since_last
from gapcell.detect.refusals import TableError
from gapcell.detect.scoring import Predictor, Read, band, events_judged, predictions
from gapcell.detect.state import StreamModel
from gapcell.detect.streams import streams_of


def silences(model: StreamModel, label_delay: float | None, table: EventTable, until: float) -> pl.DataFrame:
    """How unlikely each entity's silence is at a time: `Detector.silence`.

    Raises:
        TableError: when no event lies at or before `until`.
    """
    known = np.flatnonzero(table.seconds <= until)
    if known.size == 0:
        raise TableError(f"no event lies at or before `at` (={until:g} seconds): the first comes at "
                         f"{table.seconds.min():g}; look from a later time")  # fmt: skip
    grown = with_imagined(part_of(table, known), until)
    stream = streams_of(grown, label_delay)[0]
    encoded, predictor = model.encoding.encode(grown, stream), model.predictor
    number, spec = next((i, spec) for i, spec in enumerate(model.encoding.features) if spec.name == GAP)
    final = grown.starts[1:] - 1
    imagined = np.zeros(len(grown.codes), dtype=bool)
    imagined[grown.order[final]] = True
    read = Read.of(stream, encoded, wanted=imagined)
    score, low, high = (np.full(len(grown.codes), math.nan) for _ in range(3))
    head = (predictor.own or predictor.common)[number]
    found = predictions(predictor, read) if predictor.own else of_population(predictor, read)
    for places, parameters in found:
        row, own = stream.row[places.numpy()], head.of(parameters)
        score[row] = surprise(head, own, read.targets.at(places), "upper").numpy()
        low[row], high[row] = band(head, own)
    final = grown.order[final]
    last = grown.order[grown.starts[1:] - 2]
    waited = until - grown.seconds[last]
    lead = np.where(score[final] < USUAL, "as expected: ", "").astype(object)
    usual = range_in_words("gap", "two-sided", in_units(spec, low[final]), in_units(spec, high[final]))
    reason = lead + since_last(waited, whole=days_only(table)) + "; usually " + usual + f" ({OWN})"
    return pl.DataFrame(
        {
            "entity": grown.entity[last],
            "last": grown.time[last],
            "waited": waited,
            "score": score[final],
            "reason": pl.Series(reason.tolist(), dtype=pl.String),
        }
    ).sort("score", descending=True, maintain_order=True)


def of_population(predictor: Predictor, read: Read) -> Iterator[tuple[Tensor, Tensor]]:
    """The population's parameters for every event that is judged, where no history is used."""
    for places in events_judged(read):
        yield places, predictor.population.expand(len(places), -1)


def with_imagined(table: EventTable, seconds: float) -> EventTable:
    """The table with one more event of each entity, behind all others, of which only the time is known."""
    first = table.order[table.starts[:-1]]
    nothing = table.values.clear(len(first))
    return rebuild(
        table,
        entity=pl.concat([table.entity, table.entity[first]]),
        seconds=np.append(table.seconds, np.full(len(first), seconds)),
        values=pl.concat([table.values, nothing]),
        others=pl.concat([table.others, table.others.clear(len(first))]),
        label=None if table.label is None else pl.concat([table.label, table.label.clear(len(first))]),
    )
