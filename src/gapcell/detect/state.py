"""Everything that a fit leaves behind, and that a model file holds."""

from __future__ import annotations

from dataclasses import dataclass

from gapcell.detect.columns import Column
from gapcell.detect.features import Encoder
from gapcell.detect.options import FitOptions
from gapcell.detect.results import Epoch, Feature, Split
from gapcell.detect.scoring import Predictor


@dataclass(frozen=True)
class Schema:
    """The columns a detector was fitted on."""

    entity: str
    time: str
    time_form: str
    columns: tuple[Column, ...]


@dataclass(frozen=True, eq=False)
class State:
    """A fitted detector's data.

    Attributes:
        schema: the columns it was fitted on.
        options: the choices it was fitted with.
        encoder: scaling and categories of the training part.
        predictor: network and population, with the chosen heads.
        split: where time was cut; tables scored later are cut at the same times.
        threshold: a score above it alerts.
        threshold_events: held-out events that set it.
        epochs: the training curve.
    """

    schema: Schema
    options: FitOptions
    encoder: Encoder
    predictor: Predictor
    split: Split
    threshold: float
    threshold_events: int
    epochs: tuple[Epoch, ...]

    @property
    def features(self) -> tuple[Feature, ...]:
        """The scored features."""
        predictor = self.predictor
        each = zip(self.encoder.features, predictor.tails, predictor.own, predictor.common, strict=True)
        return tuple(Feature(f.name, f.kind, tail, own.family, common.family) for f, tail, own, common in each)
