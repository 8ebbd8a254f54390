"""What every loss here does with a mask, sample weights and missing targets: eq. (23) of docs/semantics.md.

Keras multiplies the loss by the mask or the sample weights: a NaN target stays NaN, and so does every gradient.
"""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import ops

from gapcell import arrays
from gapcell.keras import selection

__all__ = ["ObservedLoss"]

Tensor = Any


class ObservedLoss(keras.losses.Loss):
    r"""What a loss does with a mask, sample weights and missing targets.

    The mask is the one that the prediction carries: of samples (N,), steps (N, T), sites (N, T, \*S), or elements, the
    shape of the target. What it leaves out, and with `missing="nan"` where the target is NaN, is not observed; what has
    a sample weight of 0 is observed but weighs nothing. Whatever stands at such places of prediction and target, NaN
    too, changes neither the loss nor a gradient.

    Args:
        reduction: as in Keras. "sum_over_batch_size" and "mean" divide by the number of observed targets, and
            "mean_with_sample_weight" by the sum of their weights; "sum" adds up Keras's means over the last axis, to
            which what is not observed adds nothing, and None returns these. Nothing observed: 0.
        missing: "nan": a NaN target is missing; None: it is a mistake, and the loss is NaN.
        per_sample: every sample with anything observed counts alike, however long it is: the mean of their own means;
            with "sum" their sum, with None each.
        dtype: of the computation.

    Sample weights cover the leading axes of the target, (N,), (N, T) and so on. In a TensorFlow strategy the number
    observed is that of all replicas.
    """

    def take(self, missing: Literal["nan"] | None, per_sample: bool) -> None:
        """Keep the arguments that Keras's losses have not."""
        if missing not in ("nan", None):
            raise ValueError(f"`missing` is {missing!r}, expected 'nan', for NaN targets to be missing, or None")
        self.missing = missing
        self.per_sample = per_sample

    def __call__(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """The loss of a prediction."""
        mask = selection.carried(y_pred)
        y_pred = ops.convert_to_tensor(y_pred, dtype=self.dtype)
        y_true = self._fitting(ops.convert_to_tensor(y_true, dtype=self.dtype), y_pred)
        seen = self._observed(mask, y_true, y_pred)
        weight = None if sample_weight is None else _over(sample_weight, y_true, self.dtype)
        read = seen if weight is None else seen & (weight != 0)
        y_true, y_pred = self._selected(read, y_true, y_pred)
        values = selection.select(read, self.elements(y_true, y_pred))
        return self._reduced(values, seen, None if weight is None else ops.where(seen, weight, ops.zeros_like(weight)))

    def elements(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """The loss of each target, of y_true's shape."""
        raise NotImplementedError

    def _fitting(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Targets (N,) beside predictions (N, 1), as Keras takes them, and the refusal of what does not fit."""
        if len(y_true.shape) == len(y_pred.shape) - 1 and y_pred.shape[-1] == 1:
            y_true = ops.expand_dims(y_true, -1)
        self._check(y_true, y_pred)
        return y_true

    def _check(self, y_true: Tensor, y_pred: Tensor) -> None:
        if not arrays.equal_sizes(tuple(y_true.shape), tuple(y_pred.shape)):
            raise ValueError(
                f"`y_true` has shape {tuple(y_true.shape)}, but `y_pred` {tuple(y_pred.shape)}: expected the same"
            )

    def _observed(self, mask: Tensor | None, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Which targets are observed, of y_true's shape."""
        seen = ops.ones_like(y_true, dtype="bool")
        if mask is not None:
            found = selection.observed(mask, y_true, name="mask")
            seen = seen & selection.over(found, len(y_true.shape))
        return seen & ~ops.isnan(y_true) if self.missing == "nan" else seen

    def _selected(self, seen: Tensor, y_true: Tensor, y_pred: Tensor) -> tuple[Tensor, Tensor]:
        """Both with 0 where it is not seen, before any arithmetic."""
        return selection.select(seen, y_true), selection.select(seen, y_pred)

    def _reduced(self, values: Tensor, seen: Tensor, weight: Tensor | None) -> Tensor:
        width = values.shape[-1]
        assert width is not None  # noqa: S101 # predictions come from a layer, whose channels are known
        total = values if weight is None else values * weight
        counted = ops.cast(seen, self.dtype)
        if self.reduction == "mean_with_sample_weight" and weight is not None:
            counted = ops.broadcast_to(weight, ops.shape(counted))
        if self.per_sample:
            return self._of_samples(total, counted)
        if self.reduction in (None, "none"):
            return ops.sum(total, -1) / width
        if self.reduction == "sum":
            return ops.sum(total) / width
        return _quotient(ops.sum(total), _of_all_replicas(ops.sum(counted)))

    def _of_samples(self, total: Tensor, counted: Tensor) -> Tensor:
        axes = list(range(1, len(total.shape)))
        count = ops.sum(counted, axes)
        means = _quotient(ops.sum(total, axes), count)
        if self.reduction in (None, "none"):
            return means
        if self.reduction == "sum":
            return ops.sum(means)
        return _quotient(ops.sum(means), _of_all_replicas(ops.sum(ops.cast(count > 0, self.dtype))))

    def get_config(self) -> dict[str, Any]:
        """Every argument, for `from_config`."""
        return {**super().get_config(), "missing": self.missing, "per_sample": self.per_sample}


def _over(weight: Tensor, y_true: Tensor, dtype: str) -> Tensor:
    """Sample weights with axes of size 1 behind, so that they weigh the targets."""
    weight = ops.convert_to_tensor(weight, dtype=dtype)
    ndim, shape = len(y_true.shape), tuple(weight.shape)
    if shape and shape[-1] == 1 and not arrays.equal_sizes(shape, tuple(y_true.shape)[: len(shape)]):
        weight = ops.squeeze(weight, -1)
        shape = shape[:-1]
    if len(shape) > ndim or not arrays.equal_sizes(shape, tuple(y_true.shape)[: len(shape)]):
        raise ValueError(
            f"`sample_weight` has shape {shape}, but the targets {tuple(y_true.shape)}: expected their leading axes"
        )
    for _ in range(ndim - len(shape)):
        weight = ops.expand_dims(weight, -1)
    return weight


def _quotient(total: Tensor, count: Tensor) -> Tensor:
    """The mean, 0 where nothing was counted."""
    return ops.where(count > 0, total / ops.where(count > 0, count, ops.ones_like(count)), ops.zeros_like(total))


def _of_all_replicas(count: Tensor) -> Tensor:
    """A denominator over the replicas of a TensorFlow strategy, whose gradients are added up."""
    if keras.backend.backend() != "tensorflow":
        return count
    import tensorflow as tf

    replica = tf.distribute.get_replica_context()
    if replica is None or replica.num_replicas_in_sync == 1:
        return count
    return replica.all_reduce(tf.distribute.ReduceOp.SUM, count)
