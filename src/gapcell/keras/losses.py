"""keras.losses that count what is observed, and likelihoods: eq. (23) of docs/semantics.md."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import keras
from keras import ops

from gapcell import arrays
from gapcell.keras import selection
from gapcell.keras.observed_loss import ObservedLoss

__all__ = [
    "CategoricalCrossentropy",
    "GaussianNLL",
    "Huber",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "SparseCategoricalCrossentropy",
    "StudentTNLL",
]

Tensor = Any
LEAST_SCALE = 1e-3  # keeps a likelihood from growing without bound where targets repeat
LEAST_FREEDOM = 2.0  # a Student t with finite spread


@keras.saving.register_keras_serializable(package="gapcell")
class MeanSquaredError(ObservedLoss, keras.losses.MeanSquaredError):
    """keras.losses.MeanSquaredError of what is observed; `missing` and `per_sample` are those of ObservedLoss."""

    def __init__(
        self,
        reduction: str | None = "sum_over_batch_size",
        name: str = "mean_squared_error",
        dtype: Any = None,
        *,
        missing: Literal["nan"] | None = None,
        per_sample: bool = False,
    ) -> None:
        super().__init__(reduction, name, dtype)
        self.take(missing, per_sample)

    def elements(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Squares of the errors."""
        return ops.square(y_pred - y_true)


@keras.saving.register_keras_serializable(package="gapcell")
class MeanAbsoluteError(ObservedLoss, keras.losses.MeanAbsoluteError):
    """keras.losses.MeanAbsoluteError of what is observed; `missing` and `per_sample` are those of ObservedLoss."""

    def __init__(
        self,
        reduction: str | None = "sum_over_batch_size",
        name: str = "mean_absolute_error",
        dtype: Any = None,
        *,
        missing: Literal["nan"] | None = None,
        per_sample: bool = False,
    ) -> None:
        super().__init__(reduction, name, dtype)
        self.take(missing, per_sample)

    def elements(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Absolute errors."""
        return ops.abs(y_pred - y_true)


@keras.saving.register_keras_serializable(package="gapcell")
class Huber(ObservedLoss, keras.losses.Huber):
    """keras.losses.Huber of what is observed; `missing` and `per_sample` are those of ObservedLoss."""

    def __init__(
        self,
        delta: float = 1.0,
        reduction: str | None = "sum_over_batch_size",
        name: str = "huber_loss",
        dtype: Any = None,
        *,
        missing: Literal["nan"] | None = None,
        per_sample: bool = False,
    ) -> None:
        super().__init__(delta, reduction, name, dtype)
        self.take(missing, per_sample)
        self.delta = delta

    def elements(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Half the squares of small errors, and beyond `delta` a line."""
        error = ops.abs(y_pred - y_true)
        within = ops.minimum(error, self.delta)
        return within * (error - 0.5 * within)

    def get_config(self) -> dict[str, Any]:
        """Every argument; Keras's own leaves out `delta`."""
        return {**super().get_config(), "delta": self.delta}


class _Crossentropy(ObservedLoss):
    """One class at each place: what is observed, and the loss, have size 1 where the prediction has the classes."""

    def take(self, missing: Literal["nan"] | None, per_sample: bool, axis: int = -1) -> None:
        if axis != -1:
            raise ValueError(f"`axis` is {axis}, expected -1: under a mask the classes are on the last axis")
        super().take(missing, per_sample)
        self.axis = axis

    def _observed(self, mask: Tensor | None, y_true: Tensor, y_pred: Tensor) -> Tensor:
        missing = ops.any(ops.isnan(y_true), -1, keepdims=True)
        seen = ~missing if self.missing == "nan" else ops.ones_like(missing)
        if mask is None:
            return seen
        ndim = len(y_pred.shape)
        return seen & selection.over(selection.places(selection.observed(mask, y_pred), ndim), ndim)

    def _selected(self, seen: Tensor, y_true: Tensor, y_pred: Tensor) -> tuple[Tensor, Tensor]:
        # Keras divides probabilities by their sum.
        return selection.select(seen, y_true), ops.where(seen, y_pred, ops.ones((), y_pred.dtype))

    def get_config(self) -> dict[str, Any]:
        """Every argument, for `from_config`."""
        return {**super().get_config(), "axis": self.axis}


@keras.saving.register_keras_serializable(package="gapcell")
class CategoricalCrossentropy(_Crossentropy, keras.losses.CategoricalCrossentropy):
    """keras.losses.CategoricalCrossentropy of what is observed; `missing` and `per_sample` are those of ObservedLoss.

    A target is missing where any of its classes is NaN.
    """

    def __init__(
        self,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        axis: int = -1,
        reduction: str | None = "sum_over_batch_size",
        name: str = "categorical_crossentropy",
        dtype: Any = None,
        *,
        missing: Literal["nan"] | None = None,
        per_sample: bool = False,
    ) -> None:
        super().__init__(from_logits, label_smoothing, axis, reduction, name, dtype)
        self.take(missing, per_sample, axis)

    def elements(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """The cross-entropy of each place."""
        return ops.expand_dims(self.fn(y_true, y_pred, **self._fn_kwargs), -1)


@keras.saving.register_keras_serializable(package="gapcell")
class SparseCategoricalCrossentropy(_Crossentropy, keras.losses.SparseCategoricalCrossentropy):
    """keras.losses.SparseCategoricalCrossentropy of what is observed; its other arguments are those of ObservedLoss.

    A target of `ignore_class` is not observed.
    """

    def __init__(
        self,
        from_logits: bool = False,
        ignore_class: int | None = None,
        reduction: str | None = "sum_over_batch_size",
        axis: int = -1,
        name: str = "sparse_categorical_crossentropy",
        dtype: Any = None,
        *,
        missing: Literal["nan"] | None = None,
        per_sample: bool = False,
    ) -> None:
        super().__init__(from_logits, ignore_class, reduction, axis, name, dtype)
        self.take(missing, per_sample, axis)

    def _fitting(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Labels with an axis of size 1 in the place of the classes."""
        if len(y_true.shape) == len(y_pred.shape) - 1:
            y_true = ops.expand_dims(y_true, -1)
        self._check(y_true, y_pred)
        return y_true

    def _check(self, y_true: Tensor, y_pred: Tensor) -> None:
        if not arrays.equal_sizes(tuple(y_true.shape), (*y_pred.shape[:-1], 1)):
            raise ValueError(
                f"`y_true` has shape {tuple(y_true.shape)}, but `y_pred` {tuple(y_pred.shape)}: expected "
                f"{tuple(y_pred.shape[:-1])}, labels without the axis of the classes"
            )

    def _observed(self, mask: Tensor | None, y_true: Tensor, y_pred: Tensor) -> Tensor:
        seen = super()._observed(mask, y_true, y_pred)
        return seen if self.ignore_class is None else seen & (y_true != self.ignore_class)

    def elements(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """The cross-entropy of each place."""
        labels = ops.cast(y_true[..., 0], "int32")
        found = ops.sparse_categorical_crossentropy(labels, y_pred, from_logits=self.from_logits)
        return ops.expand_dims(found, -1)


class _Likelihood(ObservedLoss):
    """Predictions hold, on the last axis, `parameters` blocks as wide as the target."""

    parameters: ClassVar[int]

    def _fitting(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        if len(y_true.shape) == len(y_pred.shape) - 1 and y_pred.shape[-1] == self.parameters:
            y_true = ops.expand_dims(y_true, -1)
        self._check(y_true, y_pred)
        return y_true

    def _check(self, y_true: Tensor, y_pred: Tensor) -> None:
        shape = tuple(y_true.shape)
        wanted = (*shape[:-1], shape[-1] and self.parameters * shape[-1])
        if not arrays.equal_sizes(wanted, tuple(y_pred.shape)):
            raise ValueError(
                f"`y_pred` has shape {tuple(y_pred.shape)}, but `y_true` {shape}: expected {wanted}, "
                f"{self.parameters} parameters for each target, block by block on the last axis"
            )

    def _selected(self, seen: Tensor, y_true: Tensor, y_pred: Tensor) -> tuple[Tensor, Tensor]:
        of_parameters = ops.concatenate([seen] * self.parameters, axis=-1)
        return selection.select(seen, y_true), selection.select(of_parameters, y_pred)


@keras.saving.register_keras_serializable(package="gapcell")
class GaussianNLL(_Likelihood):
    """Negative log-likelihood of a normal distribution; `missing` and `per_sample` are those of ObservedLoss.

    The prediction of a target (..., C) is (..., 2 C), as from Dense(2 * C): the means, then what softplus turns into
    standard deviations, which are at least 0.001.

    Args:
        reduction: as in keras.losses.MeanSquaredError, and so are `name` and `dtype`.
        name: of the loss.
        dtype: of the computation.
        missing: "nan" where a NaN target is missing.
        per_sample: whether every sample counts alike.
    """

    parameters = 2

    def __init__(
        self,
        reduction: str | None = "sum_over_batch_size",
        name: str = "gaussian_nll",
        dtype: Any = None,
        *,
        missing: Literal["nan"] | None = None,
        per_sample: bool = False,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.take(missing, per_sample)

    def elements(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """-log density of each target."""
        mean, scale = ops.split(y_pred, 2, axis=-1)
        scale = ops.softplus(scale) + LEAST_SCALE
        return ops.log(scale) + 0.5 * ops.square((y_true - mean) / scale) + 0.5 * math.log(2 * math.pi)


@keras.saving.register_keras_serializable(package="gapcell")
class StudentTNLL(_Likelihood):
    """Negative log-likelihood of Student's t distribution, which outliers move little; arguments as in GaussianNLL.

    The prediction of a target (..., C) is (..., 3 C), as from Dense(3 * C): the locations, then what softplus turns
    into scales, at least 0.001, and degrees of freedom, at least 2.
    """

    parameters = 3

    def __init__(
        self,
        reduction: str | None = "sum_over_batch_size",
        name: str = "student_t_nll",
        dtype: Any = None,
        *,
        missing: Literal["nan"] | None = None,
        per_sample: bool = False,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.take(missing, per_sample)

    def elements(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """-log density of each target."""
        location, scale, freedom = ops.split(y_pred, 3, axis=-1)
        scale = ops.softplus(scale) + LEAST_SCALE
        freedom = ops.softplus(freedom) + LEAST_FREEDOM
        normaliser = _log_gamma((freedom + 1) / 2) - _log_gamma(freedom / 2) - 0.5 * ops.log(freedom * math.pi)
        far = ops.log1p(ops.square((y_true - location) / scale) / freedom)
        return ops.log(scale) + (freedom + 1) / 2 * far - normaliser


def _log_gamma(x: Tensor) -> Tensor:
    """keras.ops has none."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.scipy.special.gammaln(x)
    xp = arrays.namespace(x)
    return xp.lgamma(x) if xp.__name__ == "torch" else xp.math.lgamma(x)
