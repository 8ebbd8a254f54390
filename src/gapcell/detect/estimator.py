"""The detector as scikit-learn's users know estimators; all arithmetic is in `gapcell.detect.detector`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from gapcell.detect.columns import Column
from gapcell.detect.detector import Detector
from gapcell.detect.events import EventTable
from gapcell.detect.explanations import Explanation
from gapcell.detect.fitting import fit
from gapcell.detect.frames import like
from gapcell.detect.online import OnlineState
from gapcell.detect.options import FitOptions
from gapcell.detect.refusals import ModelError, TableError
from gapcell.detect.results import silent
from gapcell.detect.score_frame import Judged, array_scores, score_frame
from gapcell.detect.sources import Arrays, Given, on_arrays, place_of, read_to_fit, read_to_score
from gapcell.files import replacing

ROLES = ("entity", "time", "values", "label", "verbose")
"""The parameters that are not options of the fit."""
PARAMETERS = "estimator.json"


class SequenceDetector(OutlierMixin, BaseEstimator):
    """Anomaly detection on events whose sequences are ragged and have gaps, as a scikit-learn estimator.

    Every event is predicted from the earlier events of its entity, and scored by how far out in the predicted
    distribution it lies, feature by feature. What is missing is not scored, and never counts.

    X is, everywhere: the path of a .csv or .parquet file; a data frame (pandas, polars, pyarrow, or another that
    narwhals knows), one row an event, in any order; an `EventTable`, with the columns it was read with; or an array
    (N, S, C) of N series, S events and C channels, with `mask` (N, S) or (N, S, C), True where observed, `lengths` (N,)
    or (N, 2), and `times` (N, S).

    Args:
        entity: the column that says whose event it is; guessed when None.
        time: the column that says when; guessed when None.
        values: the columns to use as features, or the names of an array's channels; all usable ones when None.
        label: a column that is True at known anomalies and null where unknown; never a feature.
        verbose: True prints how far the fit is.
        window: see `FitOptions`, as for all that follow.
        hidden_size: likewise.
        min_events: likewise.
        budget: likewise.
        alerts_per_day: likewise.
        encoder: likewise.
        label_delay: likewise.
        supervised: likewise.
        unscored: likewise.
        upper: likewise.
        lower: likewise.
        train_share: likewise.
        test_share: likewise.
        train_until: likewise.
        test_from: likewise.
        mixture_components: likewise.
        max_categories: likewise.
        epochs: likewise.
        patience: likewise.
        learning_rate: likewise.
        seed: likewise.

    Attributes:
        detector_: the fitted `Detector`.
        threshold_: a score above it alerts; set on held-out events that chose nothing.
        encoder_: which encoder reads the history.
        features_: names of the scored features, the time since the last event among them.
        n_features_in_: number of value columns, or of channels.
        feature_names_in_: names of the value columns; not there after a fit on arrays.
    """

    def __init__(
        self,
        entity: str | Sequence[str] | None = None,
        *,
        time: str | None = None,
        values: Sequence[str | Column] | None = None,
        label: str | None = None,
        verbose: bool = False,
        window: int = FitOptions.window,
        hidden_size: int = FitOptions.hidden_size,
        min_events: int = FitOptions.min_events,
        budget: float = FitOptions.budget,
        alerts_per_day: float | None = FitOptions.alerts_per_day,
        encoder: str = FitOptions.encoder,
        label_delay: float | None = FitOptions.label_delay,
        supervised: bool = FitOptions.supervised,
        unscored: Sequence[str] = FitOptions.unscored,
        upper: Sequence[str] = FitOptions.upper,
        lower: Sequence[str] = FitOptions.lower,
        train_share: float = FitOptions.train_share,
        test_share: float = FitOptions.test_share,
        train_until: str | float | None = FitOptions.train_until,
        test_from: str | float | None = FitOptions.test_from,
        mixture_components: int = FitOptions.mixture_components,
        max_categories: int = FitOptions.max_categories,
        epochs: int = FitOptions.epochs,
        patience: int = FitOptions.patience,
        learning_rate: float = FitOptions.learning_rate,
        seed: int = FitOptions.seed,
    ) -> None:
        self.entity = entity
        self.time = time
        self.values = values
        self.label = label
        self.verbose = verbose
        self.window = window
        self.hidden_size = hidden_size
        self.min_events = min_events
        self.budget = budget
        self.alerts_per_day = alerts_per_day
        self.encoder = encoder
        self.label_delay = label_delay
        self.supervised = supervised
        self.unscored = unscored
        self.upper = upper
        self.lower = lower
        self.train_share = train_share
        self.test_share = test_share
        self.train_until = train_until
        self.test_from = test_from
        self.mixture_components = mixture_components
        self.max_categories = max_categories
        self.epochs = epochs
        self.patience = patience
        self.learning_rate = learning_rate
        self.seed = seed

    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        mask: Any = None,
        lengths: Any = None,
        times: Any = None,
        sample_weight: Any = None,
        checkpoint: str | Path | None = None,
    ) -> Self:
        """Fit on events, as `gapcell.detect.fit` does; the earlier part trains, the later sets the threshold.

        Args:
            X: events, see the class.
            y: labels in the place of the label column, one a row of the table, or (N, S): bool, 0/1, NaN if unknown.
            mask: of arrays, True where observed.
            lengths: of arrays.
            times: of arrays, in seconds or datetime64; the number of the step when None.
            sample_weight: (rows,) of a table, 0 where a row's label must not train the head of the labels, 1 elsewhere.
            checkpoint: a folder in which the training is kept epoch by epoch; the same call after a kill goes on there.

        Raises:
            TableError: naming the column and the first bad row, or saying that there is too little to learn from.
            ValueError: naming an option that is out of range, or two shapes that do not fit.
        """
        options = self._options()
        roles = {name: getattr(self, name) for name in ("entity", "time", "values", "label")}
        given = read_to_fit(X, y, {"mask": mask, "lengths": lengths, "times": times}, roles)
        table = given.table if isinstance(given, Arrays) else given
        if table is None:
            raise TableError(f"X of shape {np.shape(X)} holds no observed event: there is nothing to learn from")
        learnt = None if sample_weight is None else zero_or_one(sample_weight, table)
        progress = printed if self.verbose else silent
        self._take(fit(table, options, progress=progress, checkpoint=checkpoint, learnt=learnt))
        return self

    def score(self, X: Any, y: Any = None, *, mask: Any = None, lengths: Any = None, times: Any = None) -> Any:
        """Score every event, each from the earlier events of its entity in X.

        Other estimators' `score` returns one number; this one returns every event's score.

        Args:
            X: events, see the class.
            y: labels known by now, as in `fit`; they are read, not judged.
            mask: of arrays.
            lengths: of arrays.
            times: of arrays.

        Returns:
            For a table a frame of the caller's kind (polars for a path or an EventTable), one row an event in the order
            of X: entity, time, score (higher is stranger, null where nothing could be scored), alert, score_F for each
            feature F (null where not scored), and not_scored: what was not scored and why, null if everything was. For
            arrays an `ArrayScores`.
        """
        given = self._read(X, y, mask=mask, lengths=lengths, times=times)
        if isinstance(given, Arrays):
            return array_scores(self._judged(given), given.padded)
        return like(score_frame(self._judge(given)), X)

    def step(self, state: OnlineState | None, events: Any, *, reasons: bool = False) -> tuple[OnlineState, Any]:
        """Score new events and keep what the next ones need, as `Detector.step` does; for detectors of tables.

        Args:
            state: what the step before gave; None before the first.
            events: a frame of any kind or a path, with the columns that were fitted on.
            reasons: True for a column `reason`.

        Returns:
            The state to go on from, and what `score` returns for these events.

        Raises:
            TableError: as `score`; the state then is as it was.
            ModelError: when the state belongs to another detector or is damaged.
        """
        check_is_fitted(self)
        state, found = self.detector_.step(state, events, reasons=reasons)
        return state, like(found, events)

    def restore(self, contents: bytes) -> OnlineState:
        """Read a state that `to_bytes` wrote, as `Detector.restore` does."""
        check_is_fitted(self)
        return self.detector_.restore(contents)

    def score_samples(self, X: Any, y: Any = None, **arrays: Any) -> np.ndarray:
        """Minus the score, so that higher is more normal, NaN where not scored: (rows,), or (N, S) for arrays.

        Args:
            X: events, see the class.
            y: labels known by now.
            **arrays: mask, lengths and times of arrays.
        """
        return -self._scores(self._read(X, y, **arrays))

    def decision_function(self, X: Any, y: Any = None, **arrays: Any) -> np.ndarray:
        """The threshold minus the score: below 0 for an alert, NaN where not scored; shapes as `score_samples`."""
        scores = self.score_samples(X, y, **arrays)
        return self.threshold_ + scores

    def predict(self, X: Any, y: Any = None, **arrays: Any) -> np.ndarray:
        """-1 for an alert and 1 for all else, what is not scored among it; shapes as `score_samples`."""
        scores = self._scores(self._read(X, y, **arrays))
        return np.where(scores > self.threshold_, -1, 1)

    def fit_predict(self, X: Any, y: Any = None, **arrays: Any) -> np.ndarray:
        """Fit on events and predict the same ones."""
        return self.fit(X, y, **arrays).predict(X, y, **arrays)

    @available_if(lambda self: getattr(self, "supervised", False))
    def predict_proba(self, X: Any, y: Any = None, **arrays: Any) -> np.ndarray:
        """Probability of normal and of anomalous, (rows, 2) or (N, S, 2), NaN where not scored; only if supervised."""
        anomalous = -np.expm1(self.score_samples(X, y, **arrays))
        return np.stack([1 - anomalous, anomalous], -1)

    def explain(self, X: Any, row: int | tuple[int, int], y: Any = None, **arrays: Any) -> Explanation:
        """Why one event has its score.

        Args:
            X: events, see the class; the earlier events of the event's entity among them.
            row: the event's row in the table, or its (n, s) in arrays.
            y: labels known by now.
            **arrays: mask, lengths and times of arrays.

        Raises:
            IndexError: when there is no such event.
        """
        given = self._read(X, y, **arrays)
        place, table = place_of(row, given)
        return self.detector_.explain(table, place)

    def save(self, path: str | Path) -> None:
        """Write the fitted estimator to a folder, which `Detector.load` and `gapcell score` read too.

        Raises:
            OSError: when the folder cannot be made or written to.
        """
        check_is_fitted(self)
        roles = {name: getattr(self, name) for name in ROLES}
        if self.values is not None:
            roles["values"] = [asdict(value) if isinstance(value, Column) else value for value in self.values]
        self.detector_.save(path)
        with replacing(Path(path) / PARAMETERS) as temporary:
            temporary.write_text(json.dumps(roles, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read an estimator from a folder; one that `gapcell detect --model` has written will do.

        Raises:
            ModelError: when a file is missing, damaged, or not of this kind; the message is one sentence.
        """
        detector = Detector.load(path)
        options = {name: getattr(detector.options, name) for name in FitOptions.names()}
        loaded = cls(**saved_roles(Path(path) / PARAMETERS, detector), **options)
        loaded._take(detector)
        return loaded

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn should know: missing values and arrays of three axes are welcome."""
        tags = super().__sklearn_tags__()  # pyrefly: ignore[missing-attribute]  # the mixin has it since 1.6
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.input_tags.allow_nan = True
        tags.input_tags.string = True
        tags.input_tags.categorical = True
        return tags

    def _options(self) -> FitOptions:
        """The options of the fit, with lists and NumPy's numbers as options have them."""
        options: dict[str, Any] = {name: getattr(self, name) for name in FitOptions.names()}
        for name, value in options.items():
            if isinstance(value, list):
                options[name] = tuple(value)
            elif isinstance(value, np.generic):
                options[name] = value.item()
        return FitOptions(**options)

    def _take(self, detector: Detector) -> None:
        """What is learnt, from the fitted detector."""
        columns = detector.schema.columns
        self.detector_ = detector
        self.threshold_ = detector.threshold
        self.encoder_ = chosen_encoder(detector)
        self.features_ = tuple(feature.name for feature in detector.features)
        self.n_features_in_ = len(columns)
        if not on_arrays(detector):
            self.feature_names_in_ = np.array([column.name for column in columns], dtype=object)
        elif hasattr(self, "feature_names_in_"):
            del self.feature_names_in_

    def _read(self, X: Any, y: Any = None, *, mask: Any = None, lengths: Any = None, times: Any = None) -> Given:
        """X as what was fitted on has it."""
        check_is_fitted(self)
        return read_to_score(X, y, {"mask": mask, "lengths": lengths, "times": times}, self.label, self.detector_)

    def _judge(self, table: EventTable) -> Judged:
        """The events of a table scored."""
        detector = self.detector_
        return Judged(table, detector.features, detector.scored(table), detector.threshold)

    def _judged(self, given: Arrays) -> Judged | None:
        """The events of arrays scored; None where there are none."""
        return None if given.table is None else self._judge(given.table)

    def _scores(self, given: Given) -> np.ndarray:
        """Score (rows,) or (N, S), NaN where not scored."""
        if isinstance(given, Arrays):
            return array_scores(self._judged(given), given.padded).score
        return self.detector_.scored(given).score


def printed(stage: str, done: int, total: int, message: str = "") -> None:
    """Progress as lines: what has something to say, and each stage's end."""
    if message or done == total:
        print(f"{stage}: {done:,} of {total:,}{', ' if message else ''}{message}")


def chosen_encoder(detector: Detector) -> str:
    """The name of the encoder that reads the history of the main stream."""
    network = detector.predictor.network
    return "none" if network is None else network.name


def zero_or_one(sample_weight: Any, table: EventTable) -> np.ndarray:
    """Weights (rows,) as bool.

    Raises:
        ValueError: another shape, or a weight that is neither.
    """
    weights = np.asarray(sample_weight, dtype=float)
    if weights.shape != (table.reading.rows,) or not np.isin(weights, (0.0, 1.0)).all():
        raise ValueError(f"sample_weight of shape {weights.shape} must have shape ({table.reading.rows},) and "
                         "hold 0 and 1 only")  # fmt: skip
    return weights == 1


def saved_roles(path: Path, detector: Detector) -> dict[str, Any]:
    """The parameters that are no options, as saved; those of the table where only the detector was saved.

    Raises:
        ModelError: when the file is damaged.
    """
    if not path.exists():
        schema = detector.schema
        return {"entity": schema.entity, "time": schema.time, "values": list(schema.columns)}
    try:
        roles = json.loads(path.read_text(encoding="utf-8"))
        if roles["values"] is not None:
            roles["values"] = [Column(**value) if isinstance(value, dict) else value for value in roles["values"]]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(f"{path} is damaged: {error}") from None
    if set(roles) != set(ROLES):
        raise ModelError(f"{path} is damaged: it has {sorted(roles)} where {sorted(ROLES)} were expected")
    if isinstance(roles["entity"], list):
        roles["entity"] = tuple(roles["entity"])  # JSON has no tuples
    return roles
