"""Pooling over what is observed, eq. (22) of docs/semantics.md."""

from __future__ import annotations

from typing import Any, ClassVar

import keras
from keras import ops

from gapcell import masks
from gapcell.keras import selection

__all__ = [
    "AttentionPooling",
    "GlobalAveragePooling1D",
    "GlobalAveragePooling2D",
    "GlobalAveragePooling3D",
    "GlobalMaxPooling1D",
    "GlobalMaxPooling2D",
    "GlobalMaxPooling3D",
    "GlobalSumPooling1D",
    "GlobalSumPooling2D",
    "GlobalSumPooling3D",
    "LastObserved",
    "Pooling",
]

Tensor = Any
Shape = tuple[int | None, ...]


class Pooling(keras.layers.Layer):
    r"""Pools over the `pooled` axes behind the samples, as keras.layers' global poolings do.

    Of channels last, axes that stand behind the pooled ones are kept: 1D of a sequence (N, T, \*S, C) pools its steps
    and leaves (N, \*S, C). The mask has the leading axes of the input without its channels, or its shape; where nothing
    is observed the output is 0, and its mask, of samples (N,) or of the sites that are left, is False.

    Args:
        data_format: "channels_last" or "channels_first", (N, C, \*S); None takes Keras's setting.
        keepdims: whether the pooled axes stay, with size 1.
        kwargs: of keras.layers.Layer.
    """

    pooled: ClassVar[int]

    def __init__(self, data_format: str | None = None, keepdims: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.data_format = data_format or keras.config.image_data_format()
        if self.data_format not in ("channels_last", "channels_first"):
            raise ValueError(f"`data_format` is {data_format!r}, expected 'channels_last' or 'channels_first'")
        self.keepdims = keepdims
        self.supports_masking = True

    @property
    def _channel_axis(self) -> int:
        return 1 if self.data_format == "channels_first" else -1

    @property
    def _axes(self) -> list[int]:
        first = 2 if self.data_format == "channels_first" else 1
        return list(range(first, first + self.pooled))

    def build(self, input_shape: Shape) -> None:
        """Check the rank; there are no weights."""
        exact = self.data_format == "channels_first"
        if len(input_shape) < self.pooled + 2 or (exact and len(input_shape) > self.pooled + 2):
            raise ValueError(
                f"`inputs` has shape {tuple(input_shape)}, but {type(self).__name__} with {self.data_format} expects "
                f"{'' if exact else 'at least '}{self.pooled + 2} axes"
            )

    def call(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pool what is observed."""
        if mask is None:
            return self._pool(inputs, None)
        ndim = len(inputs.shape)
        seen = selection.over(selection.observed(mask, inputs, self._channel_axis), ndim, self._channel_axis)
        seen = ops.broadcast_to(seen, ops.shape(inputs))
        pooled = self._pool(selection.select(seen, inputs), seen)
        return selection.select(ops.any(seen, self._axes, keepdims=self.keepdims), pooled)

    def _pool(self, x: Tensor, seen: Tensor | None) -> Tensor:
        """What subclasses do over `_axes`; x is 0 where it is not seen, and all of it is without a mask."""
        raise NotImplementedError

    def compute_mask(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor | None:
        """(N,), or where axes are left behind the pooled ones what remains of a mask of sites."""
        if mask is None or len(mask.shape) == 1:
            return mask
        if len(mask.shape) == len(inputs.shape):
            mask = ops.any(selection.as_bool(mask), self._channel_axis)
        pooled = list(range(1, min(self.pooled + 1, len(mask.shape))))
        return ops.any(selection.as_bool(mask), pooled, keepdims=self.keepdims)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """The shape of the output."""
        kept = 1 if self.keepdims else None
        sizes = [kept if axis in self._axes else size for axis, size in enumerate(input_shape)]
        return tuple(size for axis, size in enumerate(sizes) if self.keepdims or axis not in self._axes)

    def get_config(self) -> dict[str, Any]:
        """Every argument, for `from_config`."""
        return {**super().get_config(), "data_format": self.data_format, "keepdims": self.keepdims}


class _Sum(Pooling):
    def _pool(self, x: Tensor, seen: Tensor | None) -> Tensor:
        return ops.sum(x, self._axes, keepdims=self.keepdims)


class _Average(Pooling):
    def _pool(self, x: Tensor, seen: Tensor | None) -> Tensor:
        if seen is None:
            return ops.mean(x, self._axes, keepdims=self.keepdims)
        wide = keras.backend.result_type(x.dtype, "float32")  # float16 counts no further than 2048
        count = ops.sum(ops.cast(seen, wide), self._axes, keepdims=self.keepdims)
        total = ops.sum(ops.cast(x, wide), self._axes, keepdims=self.keepdims)
        return ops.cast(total / ops.maximum(count, 1), x.dtype)


class _Max(Pooling):
    def _pool(self, x: Tensor, seen: Tensor | None) -> Tensor:
        if seen is not None:
            x = ops.where(seen, x, ops.full((), -float("inf"), dtype=x.dtype))
        return ops.max(x, self._axes, keepdims=self.keepdims)


@keras.saving.register_keras_serializable(package="gapcell")
class GlobalAveragePooling1D(_Average):
    """The mean of what is observed over steps, or one site axis; arguments of Pooling."""

    pooled = 1


@keras.saving.register_keras_serializable(package="gapcell")
class GlobalAveragePooling2D(_Average):
    """The mean of what is observed over two site axes; arguments of Pooling."""

    pooled = 2


@keras.saving.register_keras_serializable(package="gapcell")
class GlobalAveragePooling3D(_Average):
    """The mean of what is observed over three site axes; arguments of Pooling."""

    pooled = 3


@keras.saving.register_keras_serializable(package="gapcell")
class GlobalMaxPooling1D(_Max):
    """The greatest of what is observed over steps, or one site axis; arguments of Pooling."""

    pooled = 1


@keras.saving.register_keras_serializable(package="gapcell")
class GlobalMaxPooling2D(_Max):
    """The greatest of what is observed over two site axes; arguments of Pooling."""

    pooled = 2


@keras.saving.register_keras_serializable(package="gapcell")
class GlobalMaxPooling3D(_Max):
    """The greatest of what is observed over three site axes; arguments of Pooling."""

    pooled = 3


@keras.saving.register_keras_serializable(package="gapcell")
class GlobalSumPooling1D(_Sum):
    """The sum of what is observed over steps, or one site axis; arguments of Pooling."""

    pooled = 1


@keras.saving.register_keras_serializable(package="gapcell")
class GlobalSumPooling2D(_Sum):
    """The sum of what is observed over two site axes; arguments of Pooling."""

    pooled = 2


@keras.saving.register_keras_serializable(package="gapcell")
class GlobalSumPooling3D(_Sum):
    """The sum of what is observed over three site axes; arguments of Pooling."""

    pooled = 3


@keras.saving.register_keras_serializable(package="gapcell")
class LastObserved(keras.layers.Layer):
    r"""The last observed step of a sequence: (N, T, \*S, C) becomes (N, \*S, C).

    Under a mask of sites it is the last step of each site, under one of elements that of each value; 0 where there is
    none. The next layer gets the mask (N,), or (N, \*S).

    Args:
        kwargs: of keras.layers.Layer.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """The last observed values."""
        if mask is None:
            return inputs[:, -1]
        return masks.last_valid(inputs, selection.by_step(selection.observed(mask, inputs), inputs))

    def compute_mask(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor | None:
        """Whether anything was observed."""
        if mask is None or len(mask.shape) == 1:
            return mask
        return ops.any(selection.places(selection.as_bool(mask), len(inputs.shape)), 1)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """That of a step."""
        return (input_shape[0], *input_shape[2:])


@keras.saving.register_keras_serializable(package="gapcell")
class AttentionPooling(keras.layers.Layer):
    r"""A weighted mean of the observed places, with weights softmax(v . tanh(V x)): (N, \*S, C) becomes (N, C).

    The places are all axes between samples and channels: the steps of (N, T, C), the sites of (N, \*S, C). Masked
    places have no weight; of elements, the weights of a channel are those of the places where it is observed. Where
    nothing is observed the output is 0. Source: Ilse et al. 2018, without the gate.

    Args:
        units: rows of V, how many features the weights are computed from.
        kernel_initializer: of `kernel` (C, units), V.
        score_initializer: of `score` (units, 1), v.
        kernel_regularizer: of `kernel` and `score`.
        kwargs: of keras.layers.Layer.
    """

    def __init__(
        self,
        units: int,
        kernel_initializer: Any = "glorot_uniform",
        score_initializer: Any = "glorot_uniform",
        kernel_regularizer: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if units < 1:
            raise ValueError(f"`units` is {units}, expected at least 1")
        self.units = units
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.score_initializer = keras.initializers.get(score_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.supports_masking = True

    def build(self, input_shape: Shape) -> None:
        """Make the weights."""
        if len(input_shape) < 3:
            raise ValueError(f"`inputs` has shape {tuple(input_shape)}, expected (N, places, C), of any axes of places")
        regularizer = self.kernel_regularizer
        kernel = (input_shape[-1], self.units)
        self.kernel = self.add_weight(kernel, self.kernel_initializer, name="kernel", regularizer=regularizer)
        self.score = self.add_weight((self.units, 1), self.score_initializer, name="score", regularizer=regularizer)

    def call(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Weigh and add up what is observed."""
        seen = ops.ones((1,) * len(inputs.shape), dtype="bool")
        if mask is not None:
            seen = selection.over(selection.observed(mask, inputs), len(inputs.shape))
        x = selection.select(seen, inputs)
        scores = ops.matmul(ops.tanh(ops.matmul(x, self.kernel)), self.score)
        axes = list(range(1, len(inputs.shape) - 1))
        # Of what is masked neither the greatest score nor a weight is taken.
        seen = ops.broadcast_to(seen, (*ops.shape(x)[:-1], seen.shape[-1]))
        greatest = ops.max(ops.where(seen, scores, ops.full((), -float("inf"), scores.dtype)), axes, keepdims=True)
        somewhere = ops.any(seen, axes, keepdims=True)
        apart = selection.select(seen, scores - selection.select(somewhere, ops.stop_gradient(greatest)))
        weights = selection.select(seen, ops.exp(apart))
        total = ops.where(somewhere, ops.sum(weights, axes, keepdims=True), ops.ones((), weights.dtype))
        return ops.sum(weights / total * x, axes)

    def compute_mask(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor | None:
        """(N,): whether anything was observed."""
        if mask is None or len(mask.shape) == 1:
            return mask
        return ops.any(selection.as_bool(mask), list(range(1, len(mask.shape))))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """(N, C)."""
        return (input_shape[0], input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        """Every argument, for `from_config`."""
        serialize = keras.initializers.serialize
        return {
            **super().get_config(),
            "units": self.units,
            "kernel_initializer": serialize(self.kernel_initializer),
            "score_initializer": serialize(self.score_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
        }
