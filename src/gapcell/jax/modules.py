"""Masked ConvLSTM and ConvGRU as flax nnx modules; their cells for nnx.RNN are in `gapcell.jax.cells`."""

from __future__ import annotations

from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import ArrayLike, DTypeLike

from gapcell.jax.cells import ConvGRUCell, ConvLSTMCell
from gapcell.jax.functional import apply
from gapcell.jax.weighted import Keys, Size, Weighted, spec_of

__all__ = ["ConvGRU", "ConvGRUCell", "ConvLSTM", "ConvLSTMCell", "ConvRNN"]


class ConvRNN(Weighted):
    r"""A stack of masked convolutional recurrent layers; use ConvLSTM or ConvGRU.

    Shapes (N samples, T steps, \*S sites, C channels in, F hidden channels, D directions, L layers; channels last):
        x: (N, T, \*S, C), or a series (N, S, C) with `window`.
        mask: True where observed; bool, integer or float 0/1, NaN meaning "not observed". (N, T) for steps,
            (N, T, \*S) for sites, or the shape of x for elements; (N, S) or (N, S, C) for a series.
        lengths: (N,) or (N, 2) start and stop: which steps (of a series: events) exist.
        domain: (N, \*S) or (\*S,), True at sites that exist.
        dt: (N, T), of a series (N, S): the time since the step (event) before, at least 0; for gap="decay".
        y: (N, T, \*S', F·D), or (N, S, F·D) for a series.
        state: (h, c), or h for the GRU, each (L·D, N, \*S', F); S' are the output sites, W for a series.

    Example:
        >>> layer = ConvLSTM(in_features=3, hidden_features=64, kernel_size=(3, 3), rngs=nnx.Rngs(0))
        >>> y, (h, c) = layer(x, mask=mask)  # x (N, T, H, W, 3), mask (N, T), (N, T, H, W) or the shape of x

    Args:
        in_features: C.
        hidden_features: F.
        kernel_size: taps of the input convolution, one int a site axis; an int alone means one axis, as in nnx.Conv.
        rank: number of site axes, to spread an int `kernel_size` over several.
        num_layers: L.
        use_bias: whether there are biases.
        bidirectional: also run backwards, from the last valid step of each row.
        go_backwards: run backwards only, output in the order of processing.
        dropout: probability between layers, one draw a sequence and channel.
        input_dropout: likewise on the input.
        recurrent_dropout: likewise on h inside the recurrent convolution.
        stride: of the first layer's input convolution; likewise `padding` ("same" or "valid") and `dilation`.
        same_padding: where "same" places its zeros: as "torch" or as "keras" does.
        recurrent_kernel_size: taps of the recurrent convolution; None takes kernel_size.
        window: events a step, for a series (N, S, C) (rank 1).
        causal: both convolutions look back only (rank 1). With kernel_size >= window every event sees each of the
            `window` events before it.
        gap: "hold": what is masked reads nothing and changes nothing; "predict": a missing but existing step or site
            is stepped with zero input; "decay": as hold, and the state decays over time at a learnt rate a channel.
        masked_output: what held places give: "zero", or "hold" for the held h.
        mask_rule: how a site mask passes the input convolution: "centre", "all", "any"; None takes "all" under
            "valid" and "centre" otherwise.
        dtype: x is converted to it and convolved in it, and y has it; None takes the type that x and the parameters
            promote to. The state keeps the wider of it and the parameters' type.
        param_dtype: of the parameters.
        deterministic: True: no dropout; switched by `eval()` and `train()`.
        vjp: "lean", or "plain" for forward-mode differentiation; see gapcell.jax.apply.
        convolution: "matmul", "xla", or None for the platform's; see gapcell.jax.apply.
        rngs: its stream "params" draws the parameters; "dropout" is kept, where a probability is above 0.

    Attributes:
        spec: every option, static.
        weights: an nnx.List with, for each layer and direction in nn.LSTM's order, an nnx.Dict of nnx.Param: kernel
            (\*k, C, 4F), recurrent_kernel (\*k, F, 4F), bias (4F,), gates in the order i, f, g, o; for the GRU 3F
            (r, z, n) and recurrent_bias (F,); with gap="decay" the rates decay (F,). `params` shows them as functional
            code has them.

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
        num_layers: int = 1,
        use_bias: bool = True,
        bidirectional: bool = False,
        go_backwards: bool = False,
        dropout: float = 0.0,
        input_dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        stride: Size = 1,
        padding: Literal["same", "valid"] = "same",
        same_padding: Literal["torch", "keras"] = "torch",
        dilation: Size = 1,
        recurrent_kernel_size: Size | None = None,
        window: int | None = None,
        causal: bool = False,
        gap: Literal["hold", "predict", "decay"] = "hold",
        masked_output: Literal["zero", "hold"] = "zero",
        mask_rule: Literal["centre", "all", "any"] | None = None,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        deterministic: bool = False,
        vjp: Literal["lean", "plain"] = "lean",
        convolution: Literal["matmul", "xla"] | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        spec = spec_of(
            rank,
            cell=self.cell,
            in_channels=in_features,
            filters=hidden_features,
            kernel_size=kernel_size,
            recurrent_kernel_size=recurrent_kernel_size,
            num_layers=num_layers,
            bias=use_bias,
            bidirectional=bidirectional,
            go_backwards=go_backwards,
            stride=stride,
            padding=padding,
            same_padding=same_padding,
            dilation=dilation,
            window=window,
            causal=causal,
            gap=gap,
            masked_output=masked_output,
            mask_rule=mask_rule,
            dropout=dropout,
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

    def __call__(
        self,
        x: ArrayLike,
        state: Any = None,
        *,
        mask: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        domain: ArrayLike | None = None,
        dt: ArrayLike | None = None,
        deterministic: bool | None = None,
        rngs: Keys | None = None,
    ) -> tuple[Array, Any]:
        """Run the layers; shapes and meaning of every array are in the class docstring.

        Args:
            x: what to read.
            state: (h, c), or h for the GRU; None starts from zeros.
            mask: what is observed; None: everything.
            lengths: which steps exist; None: all.
            domain: which sites exist; None: all.
            dt: the time since the step before; None: 1.
            deterministic: True: no dropout; None takes the attribute.
            rngs: draws dropout in place of the kept stream: nnx.Rngs (its stream "dropout"), a stream, or a key.

        Returns:
            y, and the last state (h, c), or h for the GRU.
        """
        params, x = self._promoted(x)
        return apply(
            params,
            x,
            self.spec,
            mask=mask,
            lengths=lengths,
            domain=domain,
            dt=dt,
            state=state,
            key=self._key(deterministic, rngs),
            vjp=self.vjp,
            convolution=self.convolution,
        )


class ConvLSTM(ConvRNN):
    """ConvLSTM over one to three site axes, or a series with `window`; shapes and arguments are those of ConvRNN.

    Source: Shi et al. 2015, without peepholes; docs/semantics.md, equations (1) to (18).
    """

    cell = "lstm"


class ConvGRU(ConvRNN):
    """ConvGRU over one to three site axes, or a series with `window`; shapes and arguments are those of ConvRNN.

    Source: Ballas et al. 2016, reset after the convolution; docs/semantics.md, equations (1) to (18).
    """

    cell = "gru"
