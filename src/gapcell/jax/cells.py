"""Cells for flax's nnx.RNN: one masked step, with a carry over any batch axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import ArrayLike, DTypeLike

from gapcell import masks
from gapcell.jax.functional import apply
from gapcell.jax.weighted import Keys, Size, Weighted, spec_of

__all__ = ["ConvGRUCell", "ConvLSTMCell", "ConvRNNCell"]

Carry = Array | tuple[Array, Array]

_SITES = {1: "L", 2: "H, W", 3: "D, H, W"}


class ConvRNNCell(Weighted, nnx.RNNCellBase):
    r"""One masked convolutional recurrent step for nnx.RNN or a loop of one's own; use ConvLSTMCell or ConvGRUCell.

    A whole sequence runs faster through ConvLSTM or ConvGRU, whose backward pass is made for it, and whose mask,
    lengths and domain reach every step. A cell's weights have a layer's names: `nnx.update(cell, nnx.state(layer,
    nnx.Param))` steps a trained layer of one direction.

    Shapes (\*batch axes, any number; \*S sites; S' output sites; C channels in, F hidden channels):
        x: (\*batch, \*S, C).
        mask: True where observed; bool, integer or float 0/1, NaN meaning "not observed". (\*batch,) for whole steps,
            (\*batch, \*S) for sites, or the shape of x for elements.
        dt: (\*batch,) the time since the step before, at least 0; for gap="decay".
        carry: (h, c), or h for the GRU, each (\*batch, \*S', F); h first, where flax's own cells have c first.
        y: (\*batch, \*S', F).

    Example:
        >>> cell = ConvLSTMCell(3, 64, (3, 3), mask_from_nan=True, rngs=nnx.Rngs(0))
        >>> y = nnx.RNN(cell)(x)  # x (N, T, H, W, 3), NaN where nothing was observed

    Args:
        in_features: C.
        hidden_features: F.
        kernel_size: as in ConvRNN, like every option not named here.
        rank: number of site axes, to spread an int `kernel_size` over several.
        use_bias: whether there are biases.
        input_dropout: probability on the input, one draw a call, row and channel. In nnx.RNN a call is a step, unless
            broadcast_rngs=nnx.RngState makes it one draw a sequence, as ConvLSTM and ConvGRU have it.
        recurrent_dropout: likewise on h inside the recurrent convolution.
        stride: of the input convolution; likewise `padding`, `same_padding` and `dilation`.
        recurrent_kernel_size: taps of the recurrent convolution; None takes kernel_size.
        causal: both convolutions look back only (rank 1).
        gap: "hold", "predict" or "decay".
        masked_output: what y has at held places: "zero", or "hold" for the held h. The carry is held either way.
        mask_rule: how a site mask passes the input convolution.
        dtype: x is converted to it and convolved in it, and y has it; None takes the type that x and the parameters
            promote to. The carry keeps its own type.
        param_dtype: of the parameters.
        deterministic: True: no dropout; switched by `eval()` and `train()`.
        vjp: as in ConvRNN.
        convolution: as in ConvRNN.
        mask_from_nan: True: a NaN in x is a value that was not observed. nnx.RNN hands its cell the inputs and nothing
            else, so this is how a mask reaches the steps there. Also a padded row's last carry is then right, with no
            need of seq_lengths, which nnx.RNN gets wrong for a row of length 0.
        rngs: as in ConvRNN.

    Raises:
        ValueError: options that do not go together, or shapes that do not fit; the message names both.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        kernel_size: Size,
        *,
        rank: int | None = None,
        use_bias: bool = True,
        input_dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        stride: Size = 1,
        padding: Literal["same", "valid"] = "same",
        same_padding: Literal["torch", "keras"] = "torch",
        dilation: Size = 1,
        recurrent_kernel_size: Size | None = None,
        causal: bool = False,
        gap: Literal["hold", "predict", "decay"] = "hold",
        masked_output: Literal["zero", "hold"] = "zero",
        mask_rule: Literal["centre", "all", "any"] | None = None,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        deterministic: bool = False,
        vjp: Literal["lean", "plain"] = "lean",
        convolution: Literal["matmul", "xla"] | None = None,
        mask_from_nan: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        spec = spec_of(
            rank,
            cell=self.cell,
            in_channels=in_features,
            filters=hidden_features,
            kernel_size=kernel_size,
            recurrent_kernel_size=recurrent_kernel_size,
            bias=use_bias,
            stride=stride,
            padding=padding,
            same_padding=same_padding,
            dilation=dilation,
            causal=causal,
            gap=gap,
            masked_output=masked_output,
            mask_rule=mask_rule,
            input_dropout=input_dropout,
            recurrent_dropout=recurrent_dropout,
        )
        super().__init__(
            spec,
            dtype=dtype,
            param_dtype=param_dtype,
            deterministic=deterministic,
            vjp=vjp,
            convolution=convolution,
            rngs=rngs,
        )
        self.mask_from_nan = mask_from_nan

    @property
    def num_feature_axes(self) -> int:
        """Axes of x behind its batch axes: the sites and the channels."""
        return self.spec.rank + 1

    def initialize_carry(
        self,
        input_shape: tuple[int, ...],
        rngs: nnx.Rngs | nnx.RngStream | None = None,
        carry_init: Callable[..., Array] | None = None,
    ) -> Carry:
        r"""The carry before the first step.

        Args:
            input_shape: of one step's x, (\*batch, \*S, C).
            rngs: keys for `carry_init`, from the stream "carry"; zeros need none.
            carry_init: called with key, shape and dtype; None: zeros.

        Returns:
            (h, c), or h for the GRU, each (\*batch, \*S', F), of the wider of `dtype` and `param_dtype`.

        Raises:
            ValueError: the shape does not fit, or `carry_init` is given without `rngs`.
        """
        shape = self._carry_shape(tuple(input_shape))
        dtype = jnp.promote_types(self.param_dtype, self.param_dtype if self.dtype is None else self.dtype)
        count = 2 if self.cell == "lstm" else 1
        if carry_init is None:
            parts = [jnp.zeros(shape, dtype) for _ in range(count)]
        elif rngs is None:
            raise ValueError("`carry_init` is given without `rngs`, whose stream 'carry' draws its keys; pass nnx.Rngs")
        else:
            stream = rngs["carry"] if isinstance(rngs, nnx.Rngs) else rngs
            parts = [carry_init(stream(), shape, dtype) for _ in range(count)]
        return _as_carry(parts)

    def __call__(
        self,
        carry: Carry,
        x: ArrayLike,
        mask: ArrayLike | None = None,
        *,
        dt: ArrayLike | None = None,
        deterministic: bool | None = None,
        rngs: Keys | None = None,
    ) -> tuple[Carry, Array]:
        """Take one step; shapes and meaning of every array are in the class docstring.

        Args:
            carry: (h, c), or h for the GRU, as `initialize_carry` or the step before returned it.
            x: what to read.
            mask: what is observed; None: everything, or with `mask_from_nan` what is not NaN. Both, if both are given.
            dt: the time since the step before; None: 1.
            deterministic: True: no dropout; None takes the attribute.
            rngs: draws dropout in place of the kept stream: nnx.Rngs (its stream "dropout"), a stream, or a key.

        Returns:
            The carry after the step, and y: h', or at held places what `masked_output` says.
        """
        params, x = self._promoted(x)
        parts = self._checked_carry(carry, x.shape)
        batch = x.shape[: -self.num_feature_axes]
        steps = (math.prod(batch), 1)
        elements = self._observed(x, mask, batch)
        y, last = apply(
            params,
            x.reshape(*steps, *x.shape[len(batch) :]),
            self.spec,
            mask=None if elements is None else elements.reshape(*steps, *elements.shape[len(batch) :]),
            # A missing step is no padding, and `apply` need not warn that it may be.
            lengths=jnp.ones(steps[0], int) if self.spec.gap != "hold" else None,
            state=[part.reshape(1, steps[0], *part.shape[len(batch) :]) for part in parts],
            dt=None if dt is None else self._checked_time(jnp.asarray(dt), batch).reshape(steps),
            key=self._key(deterministic, rngs),
            vjp=self.vjp,
            convolution=self.convolution,
        )
        after = last if self.cell == "lstm" else (last,)
        carried = [new.reshape(old.shape).astype(old.dtype) for new, old in zip(after, parts, strict=True)]
        return _as_carry(carried), y.reshape(parts[0].shape)

    def _carry_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        axes = self.num_feature_axes
        if len(input_shape) < axes or input_shape[-1] != self.in_features:
            wanted = f"(*batch, {_SITES[self.spec.rank]}, {self.in_features})"
            raise ValueError(f"`x` has shape {input_shape}, expected {wanted} with C = in_features, channels last")
        return (*input_shape[:-axes], *self.spec.output_sites(input_shape[-axes:-1]), self.hidden_features)

    def _checked_carry(self, carry: Any, input_shape: tuple[int, ...]) -> list[Array]:
        wanted = self._carry_shape(input_shape)
        names = ("h", "c") if self.cell == "lstm" else ("h",)
        parts = [jnp.asarray(part) for part in (carry if isinstance(carry, tuple | list) else (carry,))]
        if len(parts) != len(names):
            raise ValueError(f"`carry` has {len(parts)} arrays, expected {len(names)}: {', '.join(names)}")
        for name, part in zip(names, parts, strict=True):
            if part.shape != wanted:
                raise ValueError(
                    f"`carry`: {name} has shape {part.shape}, expected {wanted} for x of shape {input_shape}"
                )
        return parts

    def _checked_time(self, dt: Array, batch: tuple[int, ...]) -> Array:
        if dt.shape != batch:
            raise ValueError(f"`dt` has shape {dt.shape}, expected {batch}, the time since the step before")
        return dt

    def _observed(self, x: Array, mask: ArrayLike | None, batch: tuple[int, ...]) -> Array | None:
        """What is observed as far as mask and NaN say it, e of eq. (1), in one of the three shapes of a mask."""
        present = masks.from_nan(x) if self.mask_from_nan else None
        if mask is None:
            return present
        mask, kinds = jnp.asarray(mask), (batch, x.shape[:-1], x.shape)
        if mask.shape not in kinds:
            expected = " or ".join(map(str, kinds))
            raise ValueError(
                f"`mask` has shape {mask.shape}, but x has shape {x.shape}: expected {expected}; "
                "a mask is matched exactly and never broadcast"
            )
        if present is None:
            return mask
        flat = mask.reshape(math.prod(batch), 1, *mask.shape[len(batch) :])
        elements = masks.resolve(flat, (*flat.shape[:2], *x.shape[len(batch) :]))
        return present & masks.expand(elements.reshape(mask.shape), x.ndim)


class ConvLSTMCell(ConvRNNCell):
    """One step of a ConvLSTM; shapes and arguments are those of ConvRNNCell, the carry is (h, c).

    Source: Shi et al. 2015, without peepholes; docs/semantics.md, equations (1) to (10).
    """

    cell = "lstm"


class ConvGRUCell(ConvRNNCell):
    """One step of a ConvGRU; shapes and arguments are those of ConvRNNCell, the carry is h.

    Source: Ballas et al. 2016, reset after the convolution; docs/semantics.md, equations (1) to (10).
    """

    cell = "gru"


def _as_carry(parts: Sequence[Array]) -> Carry:
    return (parts[0], parts[1]) if len(parts) == 2 else parts[0]
