"""keras.layers' convolutions that read what is observed only, eq. (19) and (20) of docs/semantics.md."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from gapcell import arrays, masks
from gapcell.keras import selection, unknown_sites

__all__ = ["Conv1D", "Conv1DTranspose", "Conv2D", "Conv2DTranspose", "Conv3D", "Conv3DTranspose", "Convolution"]

Tensor = Any

RULES = (None, "centre", "all", "any")


class Convolution(keras.layers.Layer):
    r"""What a convolution of frames (N, \*S, C) does under a mask.

    The arguments and weights are those of keras.layers, and these besides:

    Args:
        mask_rule: how the mask passes: an output site is observed if the site at the kernel's "centre" is, or "all"
            or "any" of those that it reads; None takes "all" under padding="valid" and "centre" otherwise (a
            transposed convolution: "centre"). "any" is what papers on partial convolutions use.
        renormalize: scale what a kernel reads by the share of it that is observed (partial convolution, Liu et al.
            2018), the bias left out. What lies outside the array or its domain is not missing.
        args: of keras.layers.
        kwargs: of keras.layers.

    The call takes:
        inputs: (N, \*S, C), or with channels_first (N, C, \*S). Sequences go through TimeDistributed.
        mask: True where observed: (N,) for whole samples, (N, \*S) for sites, or the shape of the input for elements.
            Without it, the mask that `inputs` carries.
        domain: (N, \*S) or (\*S,), True at sites that exist; None: all.

    A masked value is not read, and a masked output is 0. The next layer gets the mask of the output sites.
    """

    rank: int

    def __init__(self, *args: Any, mask_rule: str | None = None, renormalize: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if mask_rule not in RULES:
            raise ValueError(f"`mask_rule` is {mask_rule!r}, expected one of {RULES}")
        self.mask_rule = mask_rule
        self.renormalize = renormalize
        self.supports_masking = True

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Make the weights."""
        if len(input_shape) != self.rank + 2:
            raise ValueError(
                f"`inputs` has shape {tuple(input_shape)}, but {type(self).__name__} expects {self.rank + 2} axes; "
                "sequences go through gapcell.keras.TimeDistributed"
            )
        super().build(input_shape)

    def call(
        self,
        inputs: Tensor,
        mask: Tensor | None = None,
        *,
        domain: Tensor | None = None,
        inputs_mask: Tensor | None = None,  # Keras's name for the mask that `inputs` carries, beside other tensors
    ) -> Tensor:
        """Convolve; arguments are in the class docstring."""
        mask = inputs_mask if mask is None else mask
        if mask is None and domain is None:
            return super().call(inputs)
        axis, ndim = self._channel_axis, len(inputs.shape)
        exists = None if domain is None else self._existing(domain, inputs)
        seen: Tensor = exists if mask is None else selection.observed(mask, inputs, axis)
        if mask is not None and exists is not None:
            rank = max(len(seen.shape), len(exists.shape))
            seen = masks.expand(seen, rank) & masks.expand(exists, rank)
        outputs = self._convolved(selection.select(selection.over(seen, ndim, axis), inputs), self.kernel)
        if self.renormalize and len(seen.shape) > 1:
            wide = keras.backend.result_type(outputs.dtype, "float32")
            ratio = self._ratio(seen, exists, inputs, wide)
            outputs = ops.cast(ops.cast(outputs, wide) * ratio, outputs.dtype)
        if self.use_bias:
            shape = [self.filters if dim == axis % ndim else 1 for dim in range(ndim)]
            outputs = outputs + ops.reshape(self.bias, shape)
        if self.activation is not None:
            outputs = self.activation(outputs)
        kept = self._moved(selection.places(seen, ndim), inputs)
        return selection.carry(selection.select(selection.over(kept, ndim, axis), outputs), kept)

    def compute_mask(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor | None:
        """What a functional model records of a mask of samples; `call` says what the mask of the output sites is."""
        mask = mask[0] if isinstance(mask, list | tuple) else mask
        return None if mask is None or len(mask.shape) > 1 else mask

    def get_config(self) -> dict[str, Any]:
        """Every argument, for `from_config`."""
        return {**super().get_config(), "mask_rule": self.mask_rule, "renormalize": self.renormalize}

    # What differs between a convolution and a transposed one ----------------------------------------------------------

    def _convolved(self, x: Tensor, kernel: Tensor, data_format: str | None = None) -> Tensor:
        """Keras's operation with this layer's geometry; `data_format` of x, None: the layer's."""
        raise NotImplementedError

    def _counted(self, seen: Tensor) -> Tensor:
        """How many of the seen values, (N, *S) or (N, *S, C), a kernel reads: (N, *S', groups), float32."""
        raise NotImplementedError

    def _through(self, sites: Tensor) -> Tensor:
        """A mask (N, *S) at the output sites."""
        raise NotImplementedError

    # ------------------------------------------------------------------------------------------------------------------

    @property
    def _channel_axis(self) -> int:
        return 1 if self.data_format == "channels_first" else -1

    def _sites(self, inputs: Tensor) -> tuple[Any, ...]:
        """The sizes of (N, *S)."""
        sizes = list(arrays.shape(inputs))
        del sizes[self._channel_axis]
        return tuple(sizes)

    def _existing(self, domain: Tensor, inputs: Tensor) -> Tensor:
        """The domain over (N, *S)."""
        samples, *sites = self._sites(inputs)
        exists: Tensor = masks.existing(None, domain, (samples, 1, *sites), inputs)
        return exists[:, 0]

    def _moved(self, seen: Tensor, inputs: Tensor) -> Tensor:
        if len(seen.shape) == 1:
            return seen
        return self._through(ops.broadcast_to(masks.expand(seen, self.rank + 1), self._sites(inputs)))

    def _ratio(self, seen: Tensor, exists: Tensor | None, inputs: Tensor, dtype: str) -> Tensor:
        """What a kernel could have read over what it reads, for the output; 1 where it reads nothing."""
        sites = self._sites(inputs)
        if len(seen.shape) <= self.rank:
            seen = ops.broadcast_to(masks.expand(seen, self.rank + 1), sites)
        exists = ops.ones((1, *sites[1:]), dtype="bool") if exists is None else exists
        if len(seen.shape) > len(exists.shape):
            exists = ops.broadcast_to(exists[..., None], (*arrays.shape(exists), seen.shape[-1]))
        observed, all_of_them = (ops.cast(self._counted(part), dtype) for part in (seen, exists))
        ratio = ops.where(observed > 0, all_of_them / ops.maximum(observed, 1), ops.ones((), dtype))
        if ratio.shape[-1] > 1:
            ratio = ops.repeat(ratio, self.filters // ratio.shape[-1], axis=-1)
        return ops.moveaxis(ratio, -1, self._channel_axis)


class _Forward(Convolution):
    def _convolved(self, x: Tensor, kernel: Tensor, data_format: str | None = None) -> Tensor:
        data_format = data_format or self.data_format
        padding = self.padding
        if padding == "causal":
            reach = self.dilation_rate[0] * (self.kernel_size[0] - 1)
            around = [(0, 0), (reach, 0), (0, 0)] if data_format == "channels_last" else [(0, 0), (0, 0), (reach, 0)]
            x, padding = ops.pad(x, around), "valid"
        return ops.conv(x, kernel, list(self.strides), padding, data_format, self.dilation_rate)

    def _counted(self, seen: Tensor) -> Tensor:
        seen = ops.cast(seen, "float32")
        groups = 1
        if len(seen.shape) == self.rank + 1:
            seen = ops.expand_dims(seen, -1)
        else:
            groups = self.groups
            *places, channels = arrays.shape(seen)
            seen = ops.sum(ops.reshape(seen, (*places, groups, channels // groups)), -1)
        ones = ops.ones((*self.kernel_size, 1, groups), dtype="float32")
        # Whole numbers, which a fast algorithm for convolutions may miss by a little.
        return ops.round(self._convolved(seen, ones, "channels_last"))

    def _through(self, sites: Tensor) -> Tensor:
        options: dict[str, Any] = {"stride": self.strides, "dilation": self.dilation_rate, "rule": self.mask_rule}
        causal = self.padding == "causal"
        options |= {"padding": "same" if causal else self.padding, "causal": causal, "same_padding": "keras"}
        if None in sites.shape[1:]:
            return unknown_sites.through_conv(sites, self.kernel_size, **options)
        return masks.through_conv(sites[:, None], self.kernel_size, **options)[:, 0]


class _Transposed(Convolution):
    def _convolved(self, x: Tensor, kernel: Tensor, data_format: str | None = None) -> Tensor:
        return ops.conv_transpose(
            x,
            kernel,
            list(self.strides),
            self.padding,
            self.output_padding,
            data_format or self.data_format,
            self.dilation_rate,
        )

    def _counted(self, seen: Tensor) -> Tensor:
        seen = ops.cast(seen, "float32")
        seen = ops.expand_dims(seen, -1) if len(seen.shape) == self.rank + 1 else ops.sum(seen, -1, keepdims=True)
        ones = ops.ones((*self.kernel_size, 1, 1), dtype="float32")
        return ops.round(self._convolved(seen, ones, "channels_last"))

    def _through(self, sites: Tensor) -> Tensor:
        options: dict[str, Any] = {"stride": self.strides, "dilation": self.dilation_rate, "rule": self.mask_rule}
        if None in sites.shape[1:]:
            options |= {"padding": self.padding, "output_padding": self.output_padding}
            return unknown_sites.through_conv_transpose(sites, self.kernel_size, **options)
        spans = [spread * (size - 1) + 1 for spread, size in zip(self.dilation_rate, self.kernel_size, strict=True)]
        cut = [slice(None)] * self.rank
        if self.padding == "valid":
            fill = [max(step - span, 0) for step, span in zip(self.strides, spans, strict=True)]
            options |= {"padding": "valid", "output_padding": self.output_padding or fill}
        elif self.output_padding is None:
            options |= {"padding": "same", "same_padding": "keras"}
        else:
            # Keras cuts the left by this, and the right to the number of sites that it wants.
            surplus = [span - span % 2 - more for span, more in zip(spans, self.output_padding, strict=True)]
            cut = [slice(-1 if left > 0 and left % 2 else None) for left in surplus]
            options |= {"padding": [max(left, 0) // 2 for left in surplus]}
            options |= {"output_padding": [max(-left, 0) for left in surplus]}
        return masks.through_conv_transpose(sites[:, None], self.kernel_size, **options)[:, 0, *cut]


@keras.saving.register_keras_serializable(package="gapcell")
class Conv1D(_Forward, keras.layers.Conv1D):
    """keras.layers.Conv1D that reads what is observed only; mask_rule and renormalize as in Convolution."""


@keras.saving.register_keras_serializable(package="gapcell")
class Conv2D(_Forward, keras.layers.Conv2D):
    """keras.layers.Conv2D that reads what is observed only; mask_rule and renormalize as in Convolution."""


@keras.saving.register_keras_serializable(package="gapcell")
class Conv3D(_Forward, keras.layers.Conv3D):
    """keras.layers.Conv3D that reads what is observed only; mask_rule and renormalize as in Convolution."""


@keras.saving.register_keras_serializable(package="gapcell")
class Conv1DTranspose(_Transposed, keras.layers.Conv1DTranspose):
    """keras.layers.Conv1DTranspose that reads what is observed only; mask_rule and renormalize as in Convolution."""


@keras.saving.register_keras_serializable(package="gapcell")
class Conv2DTranspose(_Transposed, keras.layers.Conv2DTranspose):
    """keras.layers.Conv2DTranspose that reads what is observed only; mask_rule and renormalize as in Convolution."""


@keras.saving.register_keras_serializable(package="gapcell")
class Conv3DTranspose(_Transposed, keras.layers.Conv3DTranspose):
    """keras.layers.Conv3DTranspose that reads what is observed only; mask_rule and renormalize as in Convolution."""
