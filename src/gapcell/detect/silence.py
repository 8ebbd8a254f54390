"""How unlikely a silence is: the time since an entity's last event against its predicted time to the next.

A silence is an event that has not come, so nothing of it is in the table. It is scored by an event that is imagined at
the time one looks from, of which nothing but the time is known: the probability that the next event comes no sooner is
the upper tail of the gap's own prediction there. A missing value of an event that came has no part in it.
"""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import torch

from gapcell.detect.events import GAP, EventTable, part_of, rebuild
from gapcell.detect.features import Encoder
from gapcell.detect.heads import Targets, surprise
from gapcell.detect.model import Sequences, predictions
from gapcell.detect.reasons import OWN, USUAL, days_only, in_units, range_in_words, since_last
from gapcell.detect.refusals import TableError
from gapcell.detect.scoring import Predictor, band


def silences(predictor: Predictor, encoder: Encoder, table: EventTable, until: float) -> pl.DataFrame:
    """How unlikely each entity's silence is at a time: `Detector.silence`.

    Raises:
        TableError: when no event lies at or before `until`.
    """
    known = np.flatnonzero(table.seconds <= until)
    if known.size == 0:
        raise TableError(f"no event lies at or before `at` (={until:g} seconds): the first comes at "
                         f"{table.seconds.min():g}; look from a later time")  # fmt: skip
    grown = with_imagined(part_of(table, known), until)
    encoded = encoder.encode(grown)
    number, spec = next((i, spec) for i, spec in enumerate(encoder.features) if spec.name == GAP)
    targets, head = Targets.of(encoded), predictor.own[number]
    final = grown.starts[1:] - 1
    score, low, high = (np.full(len(grown.codes), math.nan) for _ in range(3))
    for places, parameters in predictions(
        predictor.network, Sequences.of(encoded), grown.starts[:-1], grown.starts[1:]
    ):
        imagined = torch.from_numpy(np.isin(places.numpy(), final))
        at, own = places[imagined], head.of(parameters[imagined])
        score[at.numpy()] = surprise(head, own, targets.at(at), "upper").numpy()
        low[at.numpy()], high[at.numpy()] = band(head, own)
    last = grown.order[final - 1]
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


def with_imagined(table: EventTable, seconds: float) -> EventTable:
    """The table with one more event of each entity, behind all others, of which only the time is known."""
    first = table.order[table.starts[:-1]]
    nothing = table.values.clear(len(first))
    return rebuild(
        table,
        entity=pl.concat([table.entity, table.entity[first]]),
        seconds=np.append(table.seconds, np.full(len(first), seconds)),
        values=pl.concat([table.values, nothing]),
    )
