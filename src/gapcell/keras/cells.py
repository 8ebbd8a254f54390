"""What a layer owns: its options, its weights, and one step of it as a cell for keras.layers.RNN."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import keras
from keras import activations, constraints, initializers, ops, regularizers

from gapcell import arrays, observed
from gapcell.cell import State
from gapcell.keras.engine import Activations, Engine, Parameters
from gapcell.spec import Spec

__all__ = ["ConvRNNCell", "last_event"]

Tensor = Any
Shape = tuple[int | None, ...]
Size = int | Sequence[int]

_KERAS_WORDS = {
    "`stride`": "`strides`",
    "`dilation`": "`dilation_rate`",
    "`bias`": "`use_bias`",
    "1, but stride ": "1, but strides ",
}
_PLAIN = ("recurrence", "rank", "filters", "kernel_size", "strides", "padding", "data_format", "dilation_rate")
_PLAIN += ("use_bias", "unit_forget_bias", "dropout", "recurrent_dropout", "seed")
_PLAIN += ("gap", "window", "causal", "mask_rule")


@keras.saving.register_keras_serializable(package="gapcell")
class ConvRNNCell(keras.layers.Layer):
    r"""The weights of a layer, and one unmasked step of it.

    Weights: kernel (\*k, C, 4F), recurrent_kernel (\*k, F, 4F) and bias (4F,), gates in the order i, f, g, o; for the
    GRU 3F (r, z, n) and recurrent_bias (F,), bhn of eq. (8). With gap="decay" also decay (F,), the rates of eq. (24).

    Args:
        recurrence: "lstm" or "gru".
        rank: number of site axes.
        filters: F; this and all others as in ConvRNN.
        kwargs: of keras.layers.Layer.
    """

    def __init__(
        self,
        *,
        recurrence: Literal["lstm", "gru"],
        rank: int,
        filters: int,
        kernel_size: Size,
        strides: Size,
        padding: str,
        data_format: str | None,
        dilation_rate: Size,
        activation: Any,
        recurrent_activation: Any,
        use_bias: bool,
        kernel_initializer: Any,
        recurrent_initializer: Any,
        bias_initializer: Any,
        decay_initializer: Any,
        unit_forget_bias: bool,
        kernel_regularizer: Any,
        recurrent_regularizer: Any,
        bias_regularizer: Any,
        kernel_constraint: Any,
        recurrent_constraint: Any,
        bias_constraint: Any,
        dropout: float,
        recurrent_dropout: float,
        seed: int | None,
        gap: str,
        window: int | None,
        causal: bool,
        mask_rule: str | None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.recurrence, self.rank = recurrence, rank
        self.spec = _spec(
            cell=recurrence,
            rank=rank,
            in_channels=1,  # until `build` knows
            filters=filters,
            kernel_size=_listed(kernel_size),
            bias=use_bias,
            stride=_listed(strides),
            padding=padding.lower(),
            same_padding="keras",
            dilation=_listed(dilation_rate),
            window=window,
            causal=causal,
            gap=gap,
            mask_rule=mask_rule,
        )
        self.data_format = _checked_format(data_format)
        self.activation = activations.get(activation)
        self.recurrent_activation = activations.get(recurrent_activation)
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.recurrent_initializer = initializers.get(recurrent_initializer)
        self.bias_initializer = initializers.get(bias_initializer)
        self.decay_initializer = initializers.get(decay_initializer)
        self.unit_forget_bias = unit_forget_bias
        self.kernel_regularizer = regularizers.get(kernel_regularizer)
        self.recurrent_regularizer = regularizers.get(recurrent_regularizer)
        self.bias_regularizer = regularizers.get(bias_regularizer)
        self.kernel_constraint = constraints.get(kernel_constraint)
        self.recurrent_constraint = constraints.get(recurrent_constraint)
        self.bias_constraint = constraints.get(bias_constraint)
        self.dropout = min(1.0, max(0.0, dropout))
        self.recurrent_dropout = min(1.0, max(0.0, recurrent_dropout))
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed=seed)
        self.state_size = -1  # Keras asks for it, and reads it nowhere: the state has sites

    # The options that the Spec holds, under Keras's names.

    @property
    def filters(self) -> int:
        """F."""
        return self.spec.filters

    @property
    def kernel_size(self) -> tuple[int, ...]:
        """Taps a site axis."""
        return self.spec.sizes("kernel_size")

    @property
    def strides(self) -> tuple[int, ...]:
        """Of the input convolution."""
        return self.spec.sizes("stride")

    @property
    def dilation_rate(self) -> tuple[int, ...]:
        """Of the input convolution."""
        return self.spec.sizes("dilation")

    @property
    def padding(self) -> str:
        """Of the input convolution."""
        return self.spec.padding

    @property
    def use_bias(self) -> bool:
        """Whether there are biases."""
        return self.spec.bias

    @property
    def gap(self) -> str:
        """What a missing value does."""
        return self.spec.gap

    @property
    def window(self) -> int | None:
        """Events a step of a series."""
        return self.spec.window

    @property
    def causal(self) -> bool:
        """Whether both convolutions look back only."""
        return self.spec.causal

    @property
    def mask_rule(self) -> str | None:
        """How a site mask passes the input convolution."""
        return self.spec.mask_rule

    # What depends on the input.

    @property
    def activations(self) -> Activations | None:
        """`activation` and `recurrent_activation`; None where they are the defaults, which have faster paths."""
        given = Activations(self.activation, self.recurrent_activation)
        return None if given == (activations.tanh, activations.sigmoid) else given

    @property
    def parameters(self) -> Parameters:
        """The weights' values."""
        weights = [getattr(self, name, None) for name in Parameters._fields]
        return Parameters(*(None if weight is None else ops.convert_to_tensor(weight) for weight in weights))

    def sites_and_channels(self, step_shape: Shape) -> tuple[Shape, int | None]:
        """The sites and channels of one step's shape without its samples: (*S, C), (C, *S), or a series' (C,)."""
        if self.data_format == "channels_first" and self.window is None:
            return step_shape[1:], step_shape[0]
        return step_shape[:-1], step_shape[-1]

    def state_shape(self, samples: Any, sites: Sequence[Any]) -> tuple[Any, ...]:
        """(N, *S', F) for an input over `sites`."""
        inside = (self.window,) if self.window is not None else self.spec.output_sites(tuple(sites))
        return (samples, *inside, self.filters)

    def build(self, inputs_shape: Shape, states_shape: Any = None) -> None:
        """Make the weights for one step's input, (N, *S, C), or (N, C) for a series."""
        sites, channels = self.sites_and_channels(tuple(inputs_shape)[1:])
        if channels is None:
            raise ValueError(f"the input of one step has shape {tuple(inputs_shape)}: its channels must be known")
        self.sites = tuple(sites)
        self.spec = replace(self.spec, in_channels=channels)
        for name, shape in self.spec.parameter_shapes().items():
            if name == "decay":
                initializer = self.decay_initializer or _log_spaced
                self.decay = self.add_weight(shape=shape, name=name, initializer=initializer, autocast=False)
                continue
            kind = {"recurrent_kernel": "recurrent", "recurrent_bias": "bias"}.get(name, name)
            weight = self.add_weight(
                shape=shape,
                name=name,
                initializer=self._bias_initializer if name == "bias" else getattr(self, f"{kind}_initializer"),
                regularizer=getattr(self, f"{kind}_regularizer"),
                constraint=getattr(self, f"{kind}_constraint"),
                autocast=False,  # the state is carried in the weights' type, and sums of gradients too
            )
            setattr(self, name, weight)

    def _bias_initializer(self, shape: Shape, dtype: Any = None) -> Tensor:
        if self.recurrence != "lstm" or not self.unit_forget_bias:
            return self.bias_initializer(shape, dtype=dtype)
        filters = (self.filters,)
        blocks = [
            self.bias_initializer(filters, dtype=dtype),
            initializers.get("ones")(filters, dtype=dtype),
            self.bias_initializer((2 * self.filters,), dtype=dtype),
        ]
        return ops.concatenate(blocks)

    def get_initial_state(self, batch_size: Any = None) -> list[Tensor]:
        """Zeros, in the caller's layout."""
        shape = self.state_shape(batch_size, self.sites)
        if self.data_format == "channels_first" and self.window is None:
            shape = (shape[0], shape[-1], *shape[1:-1])
        return [ops.zeros(shape, dtype=self.compute_dtype) for _ in range(2 if self.recurrence == "lstm" else 1)]

    # Keras's own declares that it never returns.
    def call(self, inputs: Tensor, states: Any, training: bool = False) -> Any:  # pyrefly: ignore[bad-override]
        """One step, as keras.layers.RNN calls it.

        Args:
            inputs: one step's input, (N, *S, C), or with the channels where `data_format` has them.
            states: [h, c], or [h] for the GRU, each (N, *S', F), likewise.
            training: whether dropout acts; a new draw every call, so that it is best left to ConvRNN.

        Returns:
            h', and the new states.
        """
        first = self.data_format == "channels_first"
        x = ops.moveaxis(inputs, 1, -1) if first else inputs
        state = tuple(ops.moveaxis(part, 1, -1) if first else part for part in states)
        x = x[:, None]
        _, after = self.run(x, observed.resolve(self.spec, x, None, None, None), state, self.spec, training)
        after = [ops.cast(ops.moveaxis(part, -1, 1) if first else part, self.compute_dtype) for part in after]
        return after[0], after

    def run(
        self, x: Tensor, coverage: observed.Coverage, state: State, spec: Spec, training: bool
    ) -> tuple[Tensor, State]:
        """Run the layer over channels-last arrays, dropout drawn.

        Args:
            x: (N, T, *S, C), or (N, S, C) for a series.
            coverage: what is observed and what exists.
            state: (h, c) or (h,), each (N, *S', F).
            spec: of the cell, perhaps with other outputs and directions.
            training: whether dropout acts and a backward pass is to be expected.

        Returns:
            y (N, T, *S', F), or (N, S, F) for a series, and the last state, in the weights' type.
        """
        training = bool(training)
        x = ops.cast(x, self.compute_dtype)
        state = tuple(ops.cast(part, self.variable_dtype) for part in state)
        sizes = arrays.shape(x)
        step = (sizes[0], *((1,) if self.window is not None else sizes[2:-1]), sizes[-1])
        of_input = self._drawn(self.dropout if training else 0.0, step, x.dtype)
        if of_input is not None:
            x = x * (of_input if self.window is not None else of_input[:, None])
        of_state = self._drawn(self.recurrent_dropout if training else 0.0, arrays.shape(state[0]), state[0].dtype)
        return _engine().run(spec, self.parameters, x, coverage, state, of_state, self.activations, training=training)

    def _drawn(self, rate: float, shape: tuple[Any, ...], dtype: Any) -> Tensor | None:
        """Factors 0 or 1/(1 - rate); as in Keras, a rate of 1 drops nothing."""
        if not 0.0 < rate < 1.0:
            return None
        return keras.random.dropout(ops.ones(shape, dtype=dtype), rate, seed=self.seed_generator)

    def get_config(self) -> dict[str, Any]:
        """Every argument, for `from_config`."""
        config = {name: getattr(self, name) for name in _PLAIN}
        for module, names in (
            (activations, ("activation", "recurrent_activation")),
            (initializers, ("kernel_initializer", "recurrent_initializer", "bias_initializer")),
            (initializers, ("decay_initializer",)),
            (regularizers, ("kernel_regularizer", "recurrent_regularizer", "bias_regularizer")),
            (constraints, ("kernel_constraint", "recurrent_constraint", "bias_constraint")),
        ):
            config |= {name: module.serialize(getattr(self, name)) for name in names}
        return {**super().get_config(), **config}


def last_event(y: Tensor, h: Tensor) -> Tensor:
    """The output (N, F) of the last event; of none, what the initial state h holds there."""
    if y.shape[1] not in (0, None):
        return y[:, -1]
    return ops.concatenate([ops.cast(h[:, -1:], y.dtype), y], axis=1)[:, -1]


def _log_spaced(shape: Shape, dtype: Any = None) -> Tensor:
    """Rates from 0.01 to 1."""
    return ops.logspace(-2, 0, shape[0], dtype=dtype)


def _engine() -> Engine:
    """The module that runs a layer on the backend which Keras was started with."""
    name = keras.backend.backend()
    if name == "jax":
        from gapcell.keras import on_jax as module
    elif name == "torch":
        from gapcell.keras import on_torch as module
    elif name == "tensorflow":
        from gapcell.keras import on_tensorflow as module
    else:
        raise NotImplementedError(f"gapcell.keras runs on the tensorflow, jax and torch backends, not on {name!r}")
    return module


def _listed(size: Size) -> int | tuple[int, ...]:
    return tuple(size) if isinstance(size, Sequence) else size


def _spec(**options: Any) -> Spec:
    """The Spec of Keras's arguments; what it refuses is said in Keras's words."""
    if _most(options["stride"]) > 1 and _most(options["dilation"]) > 1:
        raise ValueError(
            "Specifying `strides > 1` is not compatible with `dilation_rate > 1`; make one of them 1. Received: "
            f"strides={options['stride']} and dilation_rate={options['dilation']}"
        )
    try:
        return Spec(**options)
    except ValueError as error:
        message = str(error)
        for ours, theirs in _KERAS_WORDS.items():
            message = message.replace(ours, theirs)
        raise ValueError(message) from None


def _most(size: Any) -> int:
    return max(size, default=1) if isinstance(size, tuple) else size


def _checked_format(data_format: str | None) -> str:
    data_format = (data_format or keras.config.image_data_format()).lower()
    if data_format not in ("channels_last", "channels_first"):
        raise ValueError(f"`data_format` is {data_format!r}, expected 'channels_last' or 'channels_first'")
    return data_format
