"""What every layer here is: keras.layers' own arguments and weights, and masks that are obeyed.

The mathematics is in docs/semantics.md. This module checks what comes in and brings it to the canonical layout; what
runs it is chosen in `cells`.
"""

from __future__ import annotations

from dataclasses import replace
from operator import attrgetter
from typing import Any, ClassVar, Literal

import keras
from keras import ops

from gapcell import arrays, masks, observed, surprises
from gapcell.cell import State
from gapcell.keras.cells import ConvRNNCell, Shape, Size, Tensor, last_event
from gapcell.spec import Spec

__all__ = ["ConvRNN"]

_SITE_AXES = {1: ("L",), 2: ("H", "W"), 3: ("D", "H", "W")}


class _Default(str):
    """A default that can be told from the same word given by the caller."""


_VALID = _Default("valid")


class ConvRNN(keras.layers.RNN):
    r"""A masked convolutional recurrent layer; use one of its subclasses.

    Shapes (N samples, T steps, \*S sites, C channels, F filters; S' output sites; channels_first puts C and F before
    the sites):
        sequences: (N, T, \*S, C), or a series (N, S, C) with `window`. N and T may be unknown.
        mask: True where observed; bool, integer or float 0/1, NaN meaning "not observed". (N, T) or (N, T, 1) for
            steps, (N, T, \*S) for sites, or the shape of `sequences` for elements; (N, S) or (N, S, C) for a series.
            Without it, the mask that `sequences` carries from a layer such as Masking, MaskNaN or Embedding.
        lengths: (N,) or (N, 2) start and stop: which steps (of a series: events) exist; for gap="predict".
        domain: (N, \*S) or (\*S,), True at sites that exist.
        dt: (N, T), of a series (N, S): the time since the step (event) before, at least 0; for gap="decay". Where Keras
            casts inputs (mixed precision), it casts this one too.
        output: (N, T, \*S', F) with `return_sequences`, (N, S, F) for a series; else (N, \*S', F), or (N, F) for a
            series: that of the last observed step. Its mask is that of the output sites, (N, T) or (N, T, \*S').
        states: h and c, or h for the GRU, each (N, \*S', F); S' is W for a series.

    Args:
        filters: F.
        kernel_size: taps, an int or one int a site axis, of both convolutions.
        strides: of the input convolution.
        padding: "valid" or "same", of the input convolution. The default is "valid", as in Keras, but "same" with
            `window` or `causal`, which need it.
        data_format: "channels_last" or "channels_first"; None takes Keras's setting. A series is always channels last.
        dilation_rate: of the input convolution.
        activation: of candidate and output; other than tanh (likewise sigmoid, below) it is slower on JAX and PyTorch.
        recurrent_activation: of the gates.
        use_bias: whether there are biases.
        kernel_initializer: of `kernel`; likewise for the others and for regularizers and constraints.
        recurrent_initializer: of `recurrent_kernel`.
        bias_initializer: of the biases.
        unit_forget_bias: start the forget gate's bias at 1 (LSTM only: the GRU has no such gate).
        kernel_regularizer: of `kernel`.
        recurrent_regularizer: of `recurrent_kernel`.
        bias_regularizer: of the biases.
        activity_regularizer: of the output.
        kernel_constraint: of `kernel`.
        recurrent_constraint: of `recurrent_kernel`.
        bias_constraint: of the biases.
        dropout: share of a step's input values to drop, one draw a sequence, of a step's shape, for all gates. (Keras
            draws once for each gate.) Of a series: one draw a sequence and channel.
        recurrent_dropout: likewise on h inside the recurrent convolution, of h's shape.
        seed: of the draws.
        return_sequences: whether to return every step's output.
        return_state: whether to return the last states too.
        go_backwards: run from the last step to the first; the output and its mask are in that order.
        stateful: start from the last states of the call before.
        gap: "hold": what is masked reads nothing and changes nothing; "predict": a missing but existing step or site
            is stepped with zero input, and the output has no mask; "decay": as hold, and the state decays over time at
            a learnt rate a channel, the weight `decay` (F,).
        window: W, events a recurrent step, for a series (rank 1).
        causal: both convolutions look back only (rank 1). With kernel_size >= window every event sees each of the
            `window` events before it.
        mask_rule: how a site mask passes the input convolution: "centre", "all", "any"; None takes "all" under
            "valid" and "centre" otherwise.
        decay_initializer: of `decay`; None: from 0.01 to 1, evenly on a logarithmic scale.
        kwargs: `zero_output_for_mask` (masked outputs are 0; else the held h) and `unroll` (asks for a known T; the
            computation is the same) of keras.layers.RNN, and those of keras.layers.Layer.

    Raises:
        ValueError: options that do not go together, or shapes that do not fit; the message names both.
    """

    recurrence: ClassVar[Literal["lstm", "gru"]]
    rank: ClassVar[int]

    def __init__(
        self,
        filters: int,
        kernel_size: Size,
        strides: Size = 1,
        padding: str = _VALID,
        data_format: str | None = None,
        dilation_rate: Size = 1,
        activation: Any = "tanh",
        recurrent_activation: Any = "sigmoid",
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        recurrent_initializer: Any = "orthogonal",
        bias_initializer: Any = "zeros",
        unit_forget_bias: bool = True,
        kernel_regularizer: Any = None,
        recurrent_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        recurrent_constraint: Any = None,
        bias_constraint: Any = None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        seed: int | None = None,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        stateful: bool = False,
        *,
        gap: Literal["hold", "predict", "decay"] = "hold",
        window: int | None = None,
        causal: bool = False,
        mask_rule: Literal["centre", "all", "any"] | None = None,
        decay_initializer: Any = None,
        **kwargs: Any,
    ) -> None:
        if padding is _VALID and (window is not None or causal):
            padding = "same"
        cell = ConvRNNCell(
            recurrence=self.recurrence,
            rank=self.rank,
            filters=filters,
            kernel_size=kernel_size,
            strides=strides,
            padding=str(padding),
            data_format=data_format,
            dilation_rate=dilation_rate,
            activation=activation,
            recurrent_activation=recurrent_activation,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            recurrent_initializer=recurrent_initializer,
            bias_initializer=bias_initializer,
            decay_initializer=decay_initializer,
            unit_forget_bias=unit_forget_bias,
            kernel_regularizer=kernel_regularizer,
            recurrent_regularizer=recurrent_regularizer,
            bias_regularizer=bias_regularizer,
            kernel_constraint=kernel_constraint,
            recurrent_constraint=recurrent_constraint,
            bias_constraint=bias_constraint,
            dropout=dropout,
            recurrent_dropout=recurrent_dropout,
            seed=seed,
            gap=gap,
            window=window,
            causal=causal,
            mask_rule=mask_rule,
            name=f"conv_{self.recurrence}_cell",
            dtype=kwargs.get("dtype"),
        )
        surprises.of_spec(cell.spec)
        super().__init__(
            cell,
            return_sequences=return_sequences,
            return_state=return_state,
            go_backwards=go_backwards,
            stateful=stateful,
            activity_regularizer=activity_regularizer,
            **kwargs,
        )

    filters = property(attrgetter("cell.filters"))
    kernel_size = property(attrgetter("cell.kernel_size"))
    strides = property(attrgetter("cell.strides"))
    padding = property(attrgetter("cell.padding"))
    data_format = property(attrgetter("cell.data_format"))
    dilation_rate = property(attrgetter("cell.dilation_rate"))
    activation = property(attrgetter("cell.activation"))
    recurrent_activation = property(attrgetter("cell.recurrent_activation"))
    use_bias = property(attrgetter("cell.use_bias"))
    kernel_initializer = property(attrgetter("cell.kernel_initializer"))
    recurrent_initializer = property(attrgetter("cell.recurrent_initializer"))
    bias_initializer = property(attrgetter("cell.bias_initializer"))
    decay_initializer = property(attrgetter("cell.decay_initializer"))
    unit_forget_bias = property(attrgetter("cell.unit_forget_bias"))
    kernel_regularizer = property(attrgetter("cell.kernel_regularizer"))
    recurrent_regularizer = property(attrgetter("cell.recurrent_regularizer"))
    bias_regularizer = property(attrgetter("cell.bias_regularizer"))
    kernel_constraint = property(attrgetter("cell.kernel_constraint"))
    recurrent_constraint = property(attrgetter("cell.recurrent_constraint"))
    bias_constraint = property(attrgetter("cell.bias_constraint"))
    dropout = property(attrgetter("cell.dropout"))
    recurrent_dropout = property(attrgetter("cell.recurrent_dropout"))
    seed = property(attrgetter("cell.seed"))
    gap = property(attrgetter("cell.gap"))
    window = property(attrgetter("cell.window"))
    causal = property(attrgetter("cell.causal"))
    mask_rule = property(attrgetter("cell.mask_rule"))

    # Keras's protocol -------------------------------------------------------------------------------------------------

    def build(self, sequences_shape: Shape, initial_state_shape: Any = None) -> None:
        """Make the weights, and with `stateful` the states."""
        self._check_shape(sequences_shape)
        super().build(tuple(sequences_shape))

    def call(
        self,
        sequences: Tensor,
        initial_state: Any = None,
        mask: Tensor | None = None,
        training: bool = False,
        *,
        lengths: Tensor | None = None,
        domain: Tensor | None = None,
        dt: Tensor | None = None,
        sequences_mask: Tensor | None = None,
    ) -> Any:
        """Run the layer; shapes and meaning of every argument are in the class docstring.

        Args:
            sequences: what to read.
            initial_state: [h, c], or h for the GRU; None: zeros, or with `stateful` the last states.
            mask: what is observed.
            training: whether dropout acts.
            lengths: which steps exist; None: all.
            domain: which sites exist; None: all.
            dt: the time since the step before; None: 1.
            sequences_mask: the mask that `sequences` carries, which Keras passes under this name where there are other
                tensors among the arguments; `mask` goes before it.

        Returns:
            The output, and with `return_state` a tuple of it and the last states.
        """
        self._check_shape(sequences.shape)
        if self.unroll and sequences.shape[1] is None:
            raise ValueError(f"`unroll` needs to know the number of steps, but `sequences` has shape {sequences.shape}")
        mask = sequences_mask if mask is None else mask
        spec = self._spec()
        mask = None if mask is None else self._fitted(mask, sequences)
        coverage = observed.resolve(spec, sequences, mask, lengths, domain, dt, channel_axis=self._channel_axis)
        x = ops.moveaxis(sequences, self._channel_axis, -1) if self._channels_first else sequences
        state = self._initial_state(initial_state, x)
        y, last = self.cell.run(x, coverage, state, spec, training)
        last = [self._to_caller(part, 1) for part in last]
        if self.stateful:
            for held, part in zip(self._held(), last, strict=True):
                held.assign(part)
        last = [ops.cast(part, self.compute_dtype) for part in last]
        if self.return_sequences:
            output = self._to_caller(y, 2)
        else:
            output = last[0] if self.window is None else last_event(y, state[0])
        return (output, *last) if self.return_state else output

    def compute_output_shape(self, sequences_shape: Shape, initial_state_shape: Any = None) -> Any:
        """The shapes of what `call` returns."""
        self._check_shape(sequences_shape)
        samples, steps, *step = sequences_shape
        sites, _ = self.cell.sites_and_channels(tuple(step))
        state = self._order(self.cell.state_shape(samples, sites))
        inside = (self.filters,) if self.window is not None else state[1:]
        output = (samples, steps, *inside) if self.return_sequences else (samples, *inside)
        return (output, *[state] * self.state_count) if self.return_state else output

    def compute_mask(self, _: Tensor, mask: Any = None) -> Any:
        """The mask of the output: of steps, or where `mask` is of sites or elements, of the output sites.

        None unless the layer returns sequences, and with gap="predict", which has an output everywhere.
        """
        mask = mask[0] if isinstance(mask, list | tuple) else mask
        if mask is not None:
            mask = self._output_mask(_, mask) if self.return_sequences and self.gap != "predict" else None
        return [mask, *[None] * self.state_count] if self.return_state else mask

    def get_config(self) -> dict[str, Any]:
        """Every argument, for `from_config`."""
        config = self.cell.get_config()
        for name in ("name", "trainable", "dtype", "recurrence", "rank"):
            del config[name]
        config["activity_regularizer"] = keras.regularizers.serialize(self.activity_regularizer)
        config = {**super().get_config(), **config}
        del config["cell"]
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> ConvRNN:
        """The layer of a config; also of one of keras.layers' own."""
        return cls(**config)

    # What comes in ----------------------------------------------------------------------------------------------------

    @property
    def _channels_first(self) -> bool:
        return self.data_format == "channels_first" and self.window is None

    @property
    def _channel_axis(self) -> int:
        return 2 if self._channels_first else -1

    @property
    def state_count(self) -> int:
        """How many states there are: h and c, or h."""
        return 2 if self.recurrence == "lstm" else 1

    def _spec(self) -> Spec:
        """The cell's Spec with what is decided here; Bidirectional changes `zero_output_for_mask` after the fact."""
        # The last output of a series is read from what masked events behind it hold.
        hold = not self.zero_output_for_mask or not self.return_sequences
        return replace(self.cell.spec, go_backwards=self.go_backwards, masked_output="hold" if hold else "zero")

    def _check_shape(self, shape: Shape) -> None:
        shape = tuple(shape)
        axes = (
            ("N", "S", "C") if self.window is not None else ("N", "T", *self._order((*_SITE_AXES[self.rank], "C"), 0))
        )
        wanted = f"({', '.join(axes)})"
        if len(shape) != len(axes):
            cure = "; a series (N, S, C) needs a layer with window=W (rank 1), the number of events a step"
            cure = cure if self.window is None and len(shape) == 3 else ""
            raise ValueError(f"`sequences` has shape {shape}, but {type(self).__name__} expects {wanted}{cure}")
        sites, channels = self.cell.sites_and_channels(shape[2:])
        if channels is None or None in sites:
            raise ValueError(f"`sequences` has shape {shape}: sites and channels of {wanted} must be known")
        self.cell.state_shape(None, sites)  # refuses a kernel that is too large for the sites
        if self.cell.built and channels != self.cell.spec.in_channels:
            wanted = wanted.replace("C", str(self.cell.spec.in_channels))
            raise ValueError(f"`sequences` has shape {shape}, expected {wanted} with the channels it was built for")

    def _initial_state(self, given: Any, x: Tensor) -> State:
        """(h, c) or (h,), channels last; x is channels last."""
        samples, sites = arrays.shape(x)[0], tuple(x.shape[2:-1])
        wanted = self.cell.state_shape(samples, sites)
        if given is None and not self.stateful:
            return tuple(ops.zeros(wanted, dtype=self.variable_dtype) for _ in range(self.state_count))
        if given is None:
            # A copy: PyTorch's gradients need the value that `assign` is about to overwrite.
            given = [ops.copy(ops.convert_to_tensor(held)) for held in self._held()]
        parts = list(given) if isinstance(given, list | tuple) else [given]
        if len(parts) != self.state_count:
            names = "[h, c]" if self.state_count == 2 else "h"
            raise ValueError(f"`initial_state` has {len(parts)} tensors, expected {self.state_count}: {names}")
        expected = self._order((x.shape[0], *wanted[1:]))
        for part in parts:
            if not arrays.equal_sizes(part.shape, expected):
                cure = "; with stateful=True every batch has the first one's size" if self.stateful else ""
                raise ValueError(f"`initial_state` has shape {tuple(part.shape)}, expected {expected}{cure}")
        return tuple(ops.moveaxis(part, 1, -1) if self._channels_first else part for part in parts)

    def _held(self) -> list[Any]:
        """The variables of a stateful layer; `build` makes them."""
        return list(self.states or ())

    def _order(self, shape: tuple[Any, ...], axis: int = 1) -> tuple[Any, ...]:
        """A shape with channels last in the caller's layout, its sites from `axis` on."""
        return (*shape[:axis], shape[-1], *shape[axis:-1]) if self._channels_first else shape

    def _to_caller(self, array: Tensor, axis: int) -> Tensor:
        return ops.moveaxis(array, -1, axis) if self._channels_first else array

    def _fitted(self, mask: Tensor, sequences: Tensor) -> Tensor:
        """The mask without the last axis of (N, T, 1), which Keras's users are used to add."""
        step = tuple(sequences.shape)[2:]
        sites = step if self.window is not None else self.cell.sites_and_channels(step)[0]
        padded = len(mask.shape) == 3 and mask.shape[2] == 1 and tuple(sites) != (1,)
        return ops.squeeze(mask, -1) if padded else mask

    def _output_mask(self, sequences: Tensor, mask: Tensor) -> Tensor | None:
        mask = self._fitted(mask, sequences)
        if isinstance(mask, keras.KerasTensor):
            return self._symbolic_mask(mask)
        mask = arrays.same_kind(mask, sequences)
        mask = masks.resolve(mask, arrays.shape(sequences), channel_axis=self._channel_axis)
        if len(mask.shape) == len(sequences.shape):
            mask = arrays.any_along(mask, self._channel_axis)
        if len(mask.shape) > 2:
            mask = observed.through_input_convolution(self.cell.spec, mask)
        return arrays.reverse(mask, 1) if self.go_backwards else mask

    def _symbolic_mask(self, mask: keras.KerasTensor) -> keras.KerasTensor | None:
        """What a functional model records; it finds a mask of sites when it runs, for which None leaves room."""
        if len(mask.shape) > 2 and self.window is None:
            return None
        mask = mask if mask.dtype == "bool" else ops.equal(mask, 1)
        if len(mask.shape) > 2:
            mask = ops.any(mask, -1)
        return ops.flip(mask, 1) if self.go_backwards else mask
