"""Masked ConvLSTM and ConvGRU as PyTorch modules.

The mathematics is in docs/semantics.md. This module checks what comes in, brings it to the canonical layout (channels
last), and puts what comes out where a PyTorch user expects it.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from gapcell import observed, surprises
from gapcell.spec import Spec
from gapcell.torch import dropout, stack
from gapcell.torch.arguments import StoreGates
from gapcell.torch.frozen import Frozen
from gapcell.torch.packed import pack_like, unpack
from gapcell.torch.stack import Parameters, State

__all__ = ["ConvGRU1d", "ConvGRU2d", "ConvGRU3d", "ConvLSTM1d", "ConvLSTM2d", "ConvLSTM3d", "ConvRNN"]

Size = int | tuple[int, ...]

_NAMES = {"kernel": "weight_ih", "recurrent_kernel": "weight_hh", "recurrent_bias": "bias_hn"}


class ConvRNN(nn.Module):
    r"""A stack of masked convolutional recurrent layers; use one of its subclasses.

    Shapes (N samples, T steps, \*S sites, C channels in, F hidden channels, D directions, L layers):
        input: (N, T, C, \*S) as nn.Conv is per step; (N, T, \*S, C) with `channels_last`; a series (N, S, C) with
            `window`; or a PackedSequence of any of these.
        mask: True where observed; bool, integer or float 0/1, NaN meaning "not observed". (N, T) for steps,
            (N, T, \*S) for sites, or the input's shape for elements; (N, S) or (N, S, C) for a series.
        lengths: (N,) or (N, 2) start and stop: which steps (of a series: events) exist.
        domain: (N, \*S) or (\*S,), True at sites that exist.
        dt: (N, T), of a series (N, S): the time since the step (event) before, at least 0; for gap="decay".
        output: (N, T, F·D, \*S'), or with the channels where the input has them; (N, S, F·D) for a series.
        h, c: (L·D, N, F, \*S'), or (L·D, N, \*S', F) with `channels_last`, as in nn.LSTM; S' is W for a series.

    Args:
        input_size: C.
        hidden_size: F.
        kernel_size: taps of the input convolution, an int or one int a site axis.
        num_layers: L.
        bias: whether there are biases.
        bidirectional: also run backwards, from the last valid step of each row.
        dropout: probability between layers, one draw a sequence and channel.
        input_dropout: likewise on the input.
        recurrent_dropout: likewise on h inside the recurrent convolution.
        stride: of the first layer's input convolution; likewise `padding` ("same" or "valid") and `dilation`.
        recurrent_kernel_size: taps of the recurrent convolution; None takes kernel_size.
        window: events a step, for a series (N, S, C) (rank 1).
        causal: both convolutions look back only (rank 1). With kernel_size >= window every event sees each of the
            `window` events before it.
        gap: "hold": what is masked reads nothing and changes nothing; "predict": a missing but existing step or site
            is stepped with zero input; "decay": as hold, and the state decays over time at a learnt rate a channel.
        masked_output: what held places give: "zero", or "hold" for the held h.
        mask_rule: how a site mask passes the input convolution: "centre", "all", "any"; None takes "all" under
            "valid" and "centre" otherwise.
        channels_last: whether channels are the last axis of input, element mask, output and state.
        store_gates: what the CPU kernel keeps of every step's gates until the backward pass: "fp32", half of it
            ("bf16", gradients then agree to two or three digits), or nothing ("recompute": the least memory, and a
            third more work). PyTorch's own path keeps them as they are.
        device: of the parameters.
        dtype: of the parameters.

    Parameters as nn.LSTM names them, with one bias instead of two: weight_ih_l0 (4F, C, \*k), weight_hh_l0
    (4F, F, \*k), bias_l0 (4F,), gates in the order i, f, g, o; for the GRU 3F (r, z, n) and bias_hn_l0 (F,); `_reverse`
    for the backward direction. Weights start uniform in ±1/sqrt(fan-in) as nn.Conv's, biases at 0 and the forget gate's
    at 1 (Jozefowicz et al. 2015), so that a new layer remembers. With gap="decay" also the rates decay_l0 (F,), which
    count as 0 below 0; they start evenly on a logarithmic scale from 0.01 to 1.

    Raises:
        ValueError: options that do not go together, or shapes that do not fit; the message names both.
    """

    cell: ClassVar[Literal["lstm", "gru"]]
    rank: ClassVar[int]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        kernel_size: Size,
        *,
        num_layers: int = 1,
        bias: bool = True,
        bidirectional: bool = False,
        dropout: float = 0.0,
        input_dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        stride: Size = 1,
        padding: Literal["same", "valid"] = "same",
        dilation: Size = 1,
        recurrent_kernel_size: Size | None = None,
        window: int | None = None,
        causal: bool = False,
        gap: Literal["hold", "predict", "decay"] = "hold",
        masked_output: Literal["zero", "hold"] = "zero",
        mask_rule: Literal["centre", "all", "any"] | None = None,
        channels_last: bool = False,
        store_gates: StoreGates = "fp32",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.spec = Spec(
            cell=self.cell,
            rank=self.rank,
            in_channels=input_size,
            filters=hidden_size,
            kernel_size=kernel_size,
            recurrent_kernel_size=recurrent_kernel_size,
            num_layers=num_layers,
            bias=bias,
            bidirectional=bidirectional,
            stride=stride,
            padding=padding,
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
        if store_gates not in get_args(StoreGates):
            raise ValueError(f"`store_gates` is {store_gates!r}, expected one of {', '.join(get_args(StoreGates))}")
        self.channels_last = channels_last
        self.store_gates: StoreGates = store_gates
        self._layers = tuple(self.spec.layer(index) for index in range(num_layers))
        self._how = stack.How(store_gates=store_gates)
        surprises.of_spec(self.spec)
        for layer in range(num_layers):
            for suffix in self._suffixes(layer):
                for name, shape in self._shapes(layer).items():
                    self.register_parameter(
                        f"{name}_{suffix}", nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
                    )
        self.reset_parameters()

    @property
    def input_size(self) -> int:
        """C, channels of the input."""
        return self.spec.in_channels

    @property
    def hidden_size(self) -> int:
        """F, channels of the hidden state."""
        return self.spec.filters

    def reset_parameters(self) -> None:
        """Draw the parameters anew, as the class docstring says."""
        for name, parameter in self.named_parameters(recurse=False):
            if name.startswith("weight"):
                bound = 1 / math.sqrt(parameter[0].numel())
                nn.init.uniform_(parameter, -bound, bound)
            elif name.startswith("decay"):
                with torch.no_grad():
                    parameter.copy_(torch.logspace(-2, 0, self.hidden_size))
            else:
                nn.init.zeros_(parameter)
                if self.cell == "lstm":
                    nn.init.ones_(parameter[self.hidden_size : 2 * self.hidden_size])

    def forward(
        self,
        input: Tensor | PackedSequence,  # noqa: A002 # nn.LSTM's name
        state: State | Tensor | None = None,
        *,
        mask: Tensor | None = None,
        lengths: Tensor | None = None,
        domain: Tensor | None = None,
        dt: Tensor | None = None,
    ) -> tuple[Any, State | Tensor]:
        """Run the layers; shapes and meaning of every argument are in the class docstring.

        Args:
            input: what to read.
            state: (h, c), or h for the GRU; None starts from zeros.
            mask: what is observed; None: everything.
            lengths: which steps exist; None: all.
            domain: which sites exist; None: all.
            dt: time since the step before, for gap="decay"; None: 1.

        Returns:
            output, and the final state (h, c), or h for the GRU.
        """
        if isinstance(dt, PackedSequence):
            raise ValueError(
                "`dt` is a PackedSequence, expected a tensor (N, T); pad it (torch.nn.utils.rnn.pad_packed_sequence)"
            )
        if isinstance(input, PackedSequence):
            if mask is not None or lengths is not None:
                raise ValueError(
                    "`mask` or `lengths` beside a PackedSequence, which carries its own lengths; "
                    "pad it (torch.nn.utils.rnn.pad_packed_sequence) to give a mask"
                )
            padded, lengths = unpack(input)
            output, final = self._run(padded, state, None, lengths, domain, dt)
            return pack_like(output, input), final
        return self._run(input, state, mask, lengths, domain, dt)

    def freeze(self) -> Frozen:
        """The layer as it stands, for scoring and streaming: weights copied and packed once, no gradients, no dropout.

        Returns:
            `gapcell.torch.frozen.Frozen`, which is called like the layer. Later changes of the layer do not show.
        """
        return Frozen(self)

    def _run(
        self,
        x: Tensor,
        state: State | Tensor | None,
        mask: Tensor | None,
        lengths: Tensor | None,
        domain: Tensor | None,
        dt: Tensor | None,
    ) -> tuple[Tensor, State | Tensor]:
        self._check_input(x)
        layers = [self._parameters_of(suffix) for n in range(self.spec.num_layers) for suffix in self._suffixes(n)]
        channel_axis = -1 if self.channels_last or self.spec.window is not None else 2
        coverage = observed.resolve(self.spec, x, mask, lengths, domain, dt, channel_axis=channel_axis)
        x = x.movedim(channel_axis, -1)
        initial = self._initial_state(x, state)
        scales = dropout.draw(self.spec, x, initial[0], training=self.training)
        output, final = stack.run(self._layers, self.spec, layers, x, coverage, initial, scales, self._how)
        if not self.channels_last:
            final = tuple(part.movedim(-1, 2) for part in final)
        return output.movedim(-1, channel_axis), final if self.cell == "lstm" else final[0]

    def _check_input(self, x: Tensor) -> None:
        spec, shape = self.spec, tuple(x.shape)
        if not x.is_floating_point():
            raise ValueError(
                f"`input` has dtype {x.dtype} and shape {shape}, expected floating point; call input.float()"
            )
        if spec.window is None:
            sites = {1: ("L",), 2: ("H", "W"), 3: ("D", "H", "W")}[self.rank]
            wanted = ("N", "T", *sites, "C") if self.channels_last else ("N", "T", "C", *sites)
            if x.ndim == 3:
                raise ValueError(
                    f"`input` has shape {shape} but {type(self).__name__} expects ({', '.join(wanted)}); for a series "
                    f"(N, S, C) make the layer with window=W (rank 1), the number of events a step"
                )
        else:
            wanted = ("N", "S", "C")
        channels = shape[-1 if wanted[-1] == "C" else 2] if x.ndim == len(wanted) else None
        if channels != spec.in_channels:
            raise ValueError(
                f"`input` has shape {shape}, expected ({', '.join(wanted)}) with C = input_size = {spec.in_channels}"
            )
        parameter = self._parameters_of("l0").weight_ih
        if x.dtype != parameter.dtype and stack.autocast_dtype(x) is None:
            raise ValueError(
                f"`input` has dtype {x.dtype}, but the parameters have {parameter.dtype} (input shape {shape}); "
                f"convert one of them, e.g. layer.to(input.dtype)"
            )

    def _initial_state(self, x: Tensor, state: State | Tensor | None) -> State:
        """(h, c) or (h,) for x with channels last, each (L·D, N, *S', F) of the parameters' dtype."""
        spec, names = self.spec, ("h", "c") if self.cell == "lstm" else ("h",)
        sites = spec.output_sites(tuple(x.shape[2:-1])) if spec.window is None else (spec.window,)
        leading = (spec.num_layers * spec.directions, x.shape[0])
        dtype = self._parameters_of("l0").weight_ih.dtype
        if state is None:
            return (x.new_zeros((*leading, *sites, spec.filters), dtype=dtype),) * len(names)
        parts = (state,) if isinstance(state, Tensor) else tuple(state)
        if len(parts) != len(names) or not all(isinstance(part, Tensor) for part in parts):
            raise ValueError(f"`state` is {type(state).__name__} of {len(parts)}, expected tensors {', '.join(names)}")
        wanted = (*leading, *sites, spec.filters) if self.channels_last else (*leading, spec.filters, *sites)
        for name, part in zip(names, parts, strict=True):
            if tuple(part.shape) != wanted:
                raise ValueError(f"`state` {name} has shape {tuple(part.shape)}, expected {wanted} for this input")
        return tuple((part if self.channels_last else part.movedim(2, -1)).to(dtype) for part in parts)

    def _parameters_of(self, suffix: str) -> Parameters:
        values: list[Any] = [getattr(self, f"{name}_{suffix}", None) for name in Parameters._fields]
        return Parameters(*values)

    def _suffixes(self, layer: int) -> list[str]:
        return [f"l{layer}", f"l{layer}_reverse"][: self.spec.directions]

    def _shapes(self, layer: int) -> dict[str, tuple[int, ...]]:
        shapes = self.spec.parameter_shapes(layer)
        return {
            _NAMES.get(name, name): (shape[-1], shape[-2], *shape[:-2]) if name.endswith("kernel") else shape
            for name, shape in shapes.items()
        }

    def extra_repr(self) -> str:
        """The sizes, and every option that is not at its default."""
        plain = Spec(
            cell=self.cell,
            rank=self.rank,
            in_channels=self.input_size,
            filters=self.hidden_size,
            kernel_size=self.spec.kernel_size,
        ).to_dict()
        changed = {name: value for name, value in self.spec.to_dict().items() if value != plain[name]}
        if self.channels_last:
            changed["channels_last"] = True
        if self.store_gates != "fp32":
            changed["store_gates"] = self.store_gates
        options = {"kernel_size": plain["kernel_size"], **changed}
        shown = (f"{name}={tuple(v) if isinstance(v, list) else v!r}" for name, v in options.items())
        return f"{self.input_size}, {self.hidden_size}, {', '.join(shown)}"


class ConvLSTM1d(ConvRNN):
    """ConvLSTM over one site axis, or a series with `window`; shapes and arguments are those of ConvRNN.

    Source: Shi et al. 2015, without peepholes.
    """

    cell, rank = "lstm", 1


class ConvLSTM2d(ConvRNN):
    """ConvLSTM over two site axes; shapes and arguments are those of ConvRNN.

    Source: Shi et al. 2015, without peepholes.
    """

    cell, rank = "lstm", 2


class ConvLSTM3d(ConvRNN):
    """ConvLSTM over three site axes; shapes and arguments are those of ConvRNN.

    Source: Shi et al. 2015, without peepholes.
    """

    cell, rank = "lstm", 3


class ConvGRU1d(ConvRNN):
    """ConvGRU over one site axis, or a series with `window`; shapes and arguments are those of ConvRNN.

    Source: Ballas et al. 2016, reset after the convolution.
    """

    cell, rank = "gru", 1


class ConvGRU2d(ConvRNN):
    """ConvGRU over two site axes; shapes and arguments are those of ConvRNN.

    Source: Ballas et al. 2016, reset after the convolution.
    """

    cell, rank = "gru", 2


class ConvGRU3d(ConvRNN):
    """ConvGRU over three site axes; shapes and arguments are those of ConvRNN.

    Source: Ballas et al. 2016, reset after the convolution.
    """

    cell, rank = "gru", 3
