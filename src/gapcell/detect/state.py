"""Everything that a fit leaves behind, and that a model file holds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gapcell.detect.columns import Column
from gapcell.detect.features import Encoding, FeatureSpec
from gapcell.detect.label_model import LabelModel
from gapcell.detect.options import FitOptions
from gapcell.detect.results import Candidate, Epoch, Feature, Split
from gapcell.detect.scoring import Predictor
from gapcell.detect.tail_map import TailMap


@dataclass(frozen=True)
class Schema:
    """The columns a detector was fitted on.

    Attributes:
        entity: the column of the entities.
        time: the column of the times.
        time_form: how the times were read.
        columns: the columns used as features.
        others: the further keys.
        label: the column of the labels where they are read, else None.
    """

    entity: str
    time: str
    time_form: str
    columns: tuple[Column, ...]
    others: tuple[str, ...] = ()
    label: str | None = None


@dataclass(frozen=True, eq=False)
class StreamModel:
    """What was fitted to one stream.

    Attributes:
        encoding: scaling and categories of the training part.
        predictor: network and population, with the chosen heads.
        epochs: the training curve; empty without a network.
    """

    encoding: Encoding
    predictor: Predictor
    epochs: tuple[Epoch, ...]


@dataclass(frozen=True, eq=False)
class State:
    """A fitted detector's data.

    Attributes:
        schema: the columns it was fitted on.
        options: the choices it was fitted with.
        streams: what was fitted to each stream, that of the entities first.
        own_maps: what the stated probabilities of each feature's own parts are worth.
        population_maps: likewise of the population's parts.
        labels: the model of the labels, where they are learnt.
        split: where time was cut; tables scored later are cut at the same times.
        threshold: a score above it alerts.
        threshold_events: held-out events that set it.
        budget: the share of events that may alert.
        candidates: the encoders that were tried.
    """

    schema: Schema
    options: FitOptions
    streams: tuple[StreamModel, ...]
    own_maps: tuple[TailMap, ...]
    population_maps: tuple[TailMap, ...]
    labels: LabelModel | None
    split: Split
    threshold: float
    threshold_events: int
    budget: float
    candidates: tuple[Candidate, ...]

    @property
    def encoding(self) -> Encoding:
        """How the stream of the entities is encoded."""
        return self.streams[0].encoding

    @property
    def predictor(self) -> Predictor:
        """What predicts the stream of the entities."""
        return self.streams[0].predictor

    @property
    def epochs(self) -> tuple[Epoch, ...]:
        """The training curve of the entities' stream."""
        return self.streams[0].epochs

    @property
    def features(self) -> tuple[Feature, ...]:
        """The features of all streams, in the order of the parts of the score."""
        keys = (None, *self.schema.others)
        return tuple(
            feature
            for key, model in zip(keys, self.streams, strict=True)
            for feature in features_of(model, key, self.options.unscored)
        )

    @property
    def specs(self) -> tuple[FeatureSpec, ...]:
        """How each of the features is encoded."""
        return tuple(spec for model in self.streams for spec in model.encoding.features)

    @property
    def say(self) -> np.ndarray:
        """(features,) bool, True where a feature has a say in the score."""
        return np.array([feature.scored for feature in self.features])


def features_of(model: StreamModel, key: str | None, unscored: tuple[str, ...]) -> list[Feature]:
    """The features of one stream."""
    predictor = model.predictor
    own = [head.family for head in predictor.own] or ["none"] * len(predictor.common)
    found = []
    for spec, tail, family, common in zip(model.encoding.features, predictor.tails, own, predictor.common, strict=True):
        name = spec.name if key is None else f"{spec.name}_by_{key}"
        scored = not {name, spec.name} & set(unscored)
        found.append(Feature(name, spec.kind, tail, family, common.family, spec.name, key, scored))
    return found
