"""keras.layers' Flatten, RepeatVector and UpSampling, which drop a mask there and hand it on here."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from gapcell import arrays, masks
from gapcell.keras import selection

__all__ = ["Flatten", "RepeatVector", "UpSampling1D", "UpSampling2D", "UpSampling3D"]

Tensor = Any
Shape = tuple[int | None, ...]


@keras.saving.register_keras_serializable(package="gapcell")
class Flatten(keras.layers.Flatten):
    r"""keras.layers.Flatten that puts 0 for what is masked and hands on which samples have anything observed.

    Behind TimeDistributed that is a mask of steps: (N, T, \*S, C) becomes (N, T, S C) with the mask (N, T).
    """

    def __init__(self, data_format: str | None = None, **kwargs: Any) -> None:
        super().__init__(data_format, **kwargs)
        self.supports_masking = True

    def call(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Flatten what is observed."""
        if mask is not None:
            axis = 1 if self.data_format == "channels_first" and len(inputs.shape) > 1 else -1
            seen = selection.observed(mask, inputs, axis)
            inputs = selection.select(selection.over(seen, len(inputs.shape), axis), inputs)
        return super().call(inputs)

    def compute_mask(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor | None:
        """(N,): whether anything of a sample is observed."""
        if mask is None or len(mask.shape) == 1:
            return mask
        return ops.any(selection.as_bool(mask), list(range(1, len(mask.shape))))

    def compute_output_spec(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """What a functional model records."""
        return super().compute_output_spec(inputs)


@keras.saving.register_keras_serializable(package="gapcell")
class RepeatVector(keras.layers.Layer):
    r"""keras.layers.RepeatVector for the decoder of ragged sequences: (N, \*S, C) becomes (N, T, \*S, C).

    Args:
        n: T, the number of steps; None where the call says which sequence to be like.
        kwargs: of keras.layers.Layer.

    The call takes:
        inputs: (N, C), or with sites (N, \*S, C).
        like: a sequence (N, T, ...) whose steps the output shall have, such as the encoder's input. Its mask is the
            mask of the output: of sites, if these are the sites of `inputs`, else of steps.
        lengths: (N,) or (N, 2), which steps exist. With them the mask says what exists, and not what was observed:
            steps that are missing inside a sequence are decoded too.
        domain: (N, \*S) or (\*S,), which sites exist; likewise.

    A sample without anything observed (a mask (N,) of `inputs`) is masked at every step.
    """

    def __init__(self, n: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if n is not None and (not isinstance(n, int) or isinstance(n, bool) or n < 1):
            raise ValueError(f"`n` is {n!r}, expected a positive number of steps, or None with `like` at the call")
        self.n = n
        self.supports_masking = True

    def call(
        self,
        inputs: Tensor,
        like: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        lengths: Tensor | None = None,
        domain: Tensor | None = None,
        inputs_mask: Tensor | None = None,
        like_mask: Tensor | None = None,
    ) -> Tensor:
        """Repeat; arguments are in the class docstring."""
        mask = inputs_mask if mask is None else mask
        self._check(like)
        steps: Any = arrays.shape(like)[1] if like is not None else self.n
        sizes = arrays.shape(inputs)
        seen = None if mask is None else selection.observed(mask, inputs)
        if seen is not None:
            inputs = selection.select(selection.over(seen, len(inputs.shape)), inputs)
        y = ops.broadcast_to(ops.expand_dims(inputs, 1), (sizes[0], steps, *sizes[1:]))
        if lengths is not None or domain is not None:
            exists = masks.existing(lengths, domain, (sizes[0], steps, *sizes[1:-1]), inputs)
        else:
            exists = None if like_mask is None else self._mirrored(like_mask, like, inputs)
        if seen is not None:
            seen = selection.places(seen, len(inputs.shape))[:, None]
            seen = ops.broadcast_to(seen, (sizes[0], steps, *arrays.shape(seen)[2:]))
            if exists is not None:
                ndim = max(len(seen.shape), len(exists.shape))
                seen = masks.expand(seen, ndim) & masks.expand(exists, ndim)
            exists = seen
        if exists is not None:
            y = selection.select(selection.over(exists, len(y.shape)), y)
        return selection.carry(y, exists)

    def _mirrored(self, mask: Tensor, like: Tensor, inputs: Tensor) -> Tensor:
        """The mask of `like` for the output."""
        mask = selection.as_bool(arrays.same_kind(mask, inputs))
        sites = tuple(inputs.shape[1:-1])
        if len(mask.shape) == len(like.shape) and len(mask.shape) > 2:
            mask = ops.any(mask, -1)
        if len(mask.shape) > 2 and tuple(mask.shape[2:]) != sites:
            mask = ops.any(mask, list(range(2, len(mask.shape))))
        return mask

    def compute_mask(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor | None:
        """What `call` has not said already: the mask of `inputs` at `n` steps."""
        mask = mask[0] if isinstance(mask, list | tuple) else mask
        if mask is None or self.n is None:
            return None
        mask = selection.places(selection.as_bool(mask), len(inputs.shape))
        return ops.repeat(ops.expand_dims(mask, 1), self.n, axis=1)

    def compute_output_shape(self, inputs_shape: Shape, like_shape: Shape | None = None) -> Shape:
        """With the steps behind the samples."""
        self._check(like_shape)
        steps = self.n if like_shape is None else like_shape[1]
        return (inputs_shape[0], steps, *inputs_shape[1:])

    def _check(self, like: Any) -> None:
        if (like is None) == (self.n is None):
            raise ValueError(
                f"`n` is {self.n} and `like` {'missing' if like is None else 'given'}: expected one of them, the "
                "number of steps, or at the call the sequence whose steps to take"
            )

    def get_config(self) -> dict[str, Any]:
        """Every argument, for `from_config`."""
        return {**super().get_config(), "n": self.n}


class _UpSampling(keras.layers.Layer):
    """Hands on the mask, repeated as the sites are."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.supports_masking = True

    @property
    def _channel_axis(self) -> int:
        return 1 if getattr(self, "data_format", None) == "channels_first" else -1

    def call(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Repeat what is observed."""
        if mask is None:
            return super().call(inputs)
        self._check(mask)
        ndim = len(inputs.shape)
        seen = selection.over(selection.observed(mask, inputs, self._channel_axis), ndim, self._channel_axis)
        return super().call(selection.select(seen, inputs))

    def compute_mask(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor | None:
        """The mask at the sites of the output."""
        if mask is None:
            return None
        self._check(mask)
        element = len(mask.shape) == len(inputs.shape)
        first = 2 if element and self._channel_axis == 1 else 1
        size = (self.size,) if isinstance(self.size, int) else self.size
        for axis, times in enumerate(size, start=first):
            if axis < len(mask.shape):
                mask = ops.repeat(mask, times, axis=axis)
        return mask

    def _check(self, mask: Tensor) -> None:
        interpolation = getattr(self, "interpolation", "nearest")
        if interpolation != "nearest" and len(mask.shape) > 1:
            raise ValueError(
                f"`interpolation` is {interpolation!r}, which mixes observed and masked sites: expected 'nearest' "
                "under a mask of sites"
            )


@keras.saving.register_keras_serializable(package="gapcell")
class UpSampling1D(_UpSampling, keras.layers.UpSampling1D):
    """keras.layers.UpSampling1D that repeats the mask with the sites; what is masked is 0."""


@keras.saving.register_keras_serializable(package="gapcell")
class UpSampling2D(_UpSampling, keras.layers.UpSampling2D):
    """keras.layers.UpSampling2D that repeats the mask with the sites ("nearest" only); what is masked is 0."""


@keras.saving.register_keras_serializable(package="gapcell")
class UpSampling3D(_UpSampling, keras.layers.UpSampling3D):
    """keras.layers.UpSampling3D that repeats the mask with the sites; what is masked is 0."""
