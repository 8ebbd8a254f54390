"""keras.layers' normalisations with moments over what is observed only, eq. (21) of docs/semantics.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
from keras import ops

from gapcell.keras import selection

__all__ = ["BatchNormalization", "GroupNormalization", "LayerNormalization"]

Tensor = Any


class _Elements(NamedTuple):
    """A mask of elements where Keras wants one of an axis less: it judges the shape, and hands it to `_moments`."""

    seen: Tensor
    shape: tuple[int | None, ...]


@keras.saving.register_keras_serializable(package="gapcell")
class BatchNormalization(keras.layers.BatchNormalization):
    r"""keras.layers.BatchNormalization that takes every mask which this package's layers hand on.

    What is masked enters neither the moments of a batch nor the moving ones, and is 0 in the output. A channel of
    which a batch has nothing observed leaves its moving moments as they were. Keras's own raises in training behind a
    masked ConvLSTM: it wants a mask of one axis less than the input, and it passes on what stands under the mask.

    The mask has the leading axes of the input without its channels, (N, T) or (N, T, \*S), or the shape of the input.
    """

    def call(self, inputs: Tensor, training: bool | None = None, mask: Tensor | None = None) -> Tensor:
        """Normalise; arguments as in keras.layers.BatchNormalization."""
        if mask is None:
            return super().call(inputs, training=training)
        seen = selection.observed(mask, inputs, self.axis)
        seen = selection.over(seen, len(inputs.shape), self.axis)
        inputs = selection.select(seen, inputs)
        # Keras updates its moments whatever the batch holds: these are put back where it held nothing.
        moving = self.non_trainable_variables if training and self.trainable else []
        before = [ops.copy(ops.convert_to_tensor(variable)) for variable in moving]
        outputs = super().call(inputs, training=training, mask=_Elements(seen, tuple(inputs.shape[1:])))
        if moving:
            some = ops.any(ops.broadcast_to(seen, ops.shape(inputs)), self._reduction_axes)
            for variable, value in zip(moving, before, strict=True):
                variable.assign(ops.where(some, ops.convert_to_tensor(variable), value))
        return selection.select(seen, outputs)

    def _moments(self, inputs: Tensor, mask: _Elements | None) -> tuple[Tensor, Tensor]:
        """Mean and variance of each channel; Keras's hook, which it calls in training."""
        if mask is None:
            return super()._moments(inputs, mask)
        total = _summed_over_replicas if self.synchronized else _as_it_is
        axes = self._reduction_axes
        count = total(ops.sum(ops.broadcast_to(ops.cast(mask.seen, inputs.dtype), ops.shape(inputs)), axes))
        count = ops.maximum(count, 1)
        mean = total(ops.sum(inputs, axes)) / count
        apart = selection.select(mask.seen, inputs - self._of_channels(mean, len(inputs.shape)))
        return mean, total(ops.sum(ops.square(apart), axes)) / count

    def _of_channels(self, values: Tensor, ndim: int) -> Tensor:
        shape = [1] * ndim
        shape[self.axis] = -1
        return ops.reshape(values, shape)


@keras.saving.register_keras_serializable(package="gapcell")
class GroupNormalization(keras.layers.GroupNormalization):
    r"""keras.layers.GroupNormalization with moments over what is observed; masked values are 0 in the output.

    As in Keras the moments of a group are over all axes but that of the samples: TimeDistributed(GroupNormalization())
    normalises every step by itself. groups=-1 is instance normalisation.

    The mask has the leading axes of the input without its channels, (N,) or (N, \*S), or the shape of the input.
    """

    def call(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalise; True in `mask` is observed."""
        if mask is None:
            return super().call(inputs)
        ndim = len(inputs.shape)
        seen = selection.over(selection.observed(mask, inputs, self.axis), ndim, self.axis)
        seen = ops.broadcast_to(seen, ops.shape(inputs))
        axis = self.axis % ndim
        x, apart = (self._in_groups(part, axis) for part in (selection.select(seen, inputs), seen))
        axes = [dim for dim in range(1, ndim + 1) if dim != axis]
        normal = _normalised(ops.cast(x, _at_least_float32(x)), apart, axes, self.epsilon)
        normal = ops.reshape(normal, ops.shape(inputs))
        shape = [inputs.shape[axis] if dim == axis else 1 for dim in range(ndim)]
        outputs = _scaled(normal, self.gamma, self.beta, shape)
        return selection.select(seen, ops.cast(outputs, self.compute_dtype))

    def _in_groups(self, x: Tensor, axis: int) -> Tensor:
        """(N, ..., C, ...) as (N, ..., groups, C / groups, ...)."""
        shape = list(ops.shape(x))
        return ops.reshape(x, (*shape[:axis], self.groups, shape[axis] // self.groups, *shape[axis + 1 :]))


@keras.saving.register_keras_serializable(package="gapcell")
class LayerNormalization(keras.layers.LayerNormalization):
    r"""keras.layers.LayerNormalization with moments over what is observed; masked values are 0 in the output.

    The mask has the leading axes of the input, whose channels are last, (N, T) or (N, \*S), or the shape of the input.
    Over sites (axis=[-2, -1]) Keras's own counts the masked ones too.
    """

    def call(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalise; True in `mask` is observed."""
        ndim = len(inputs.shape)
        axes = sorted(axis % ndim for axis in keras.tree.flatten(self.axis))
        # On torch Keras takes axes in a row, such as those of the sites, for the last ones.
        if mask is None and axes[-1] == ndim - 1:
            return super().call(inputs)
        if self.rms_scaling:
            raise ValueError(
                "`rms_scaling`, which Keras gives up, knows no mask: use keras.layers.RMSNormalization, which works "
                "channel by channel where axis=-1"
            )
        seen = ops.ones((1,) * ndim, dtype="bool")
        if mask is not None:
            seen = selection.over(selection.observed(mask, inputs), ndim)
        x = selection.select(seen, inputs)
        normal = _normalised(ops.cast(x, _at_least_float32(x)), seen, axes, self.epsilon)
        shape = [inputs.shape[dim] if dim in axes else 1 for dim in range(ndim)]
        outputs = _scaled(normal, self.gamma, self.beta, shape)
        return selection.select(seen, ops.cast(outputs, self.compute_dtype))


def _normalised(x: Tensor, seen: Tensor, axes: Sequence[int], epsilon: float) -> Tensor:
    """(x - mean) / sqrt(variance + epsilon) over `axes`; x is 0 where it is not seen."""
    counted = ops.broadcast_to(ops.cast(seen, x.dtype), ops.shape(x))
    count = ops.maximum(ops.sum(counted, axes, keepdims=True), 1)
    mean = ops.sum(x, axes, keepdims=True) / count
    apart = selection.select(seen, x - mean)
    variance = ops.sum(ops.square(apart), axes, keepdims=True) / count
    return apart * ops.rsqrt(variance + epsilon)


def _scaled(x: Tensor, gamma: Tensor | None, beta: Tensor | None, shape: Sequence[int]) -> Tensor:
    if gamma is not None:
        x = x * ops.cast(ops.reshape(gamma, shape), x.dtype)
    return x if beta is None else x + ops.cast(ops.reshape(beta, shape), x.dtype)


def _at_least_float32(x: Tensor) -> str:
    return keras.backend.result_type(x.dtype, "float32")


def _as_it_is(x: Tensor) -> Tensor:
    return x


def _summed_over_replicas(x: Tensor) -> Tensor:
    """Keras's `synchronized` is TensorFlow's only."""
    import tensorflow as tf

    replica = tf.distribute.get_replica_context()
    return x if replica is None else replica.all_reduce(tf.distribute.ReduceOp.SUM, x)
