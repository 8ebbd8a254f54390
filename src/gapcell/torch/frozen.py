"""A layer as it stands, its weights packed once: for scoring, and for streams that come a step at a time."""

from __future__ import annotations

import copy
import functools
import math
from typing import Any

import torch
from torch import Tensor, nn

from gapcell import native
from gapcell.torch import kernel, threads
from gapcell.torch.arguments import Arguments, Run
from gapcell.torch.stack import Parameters, State

__all__ = ["Frozen"]


class Frozen:
    """What `ConvRNN.freeze` returns: called like the layer, with the layer's results in eval mode, and no gradients.

    A plain call packs the weights for the CPU kernel every time, because nothing tells when they were changed in
    place. Here they are copied and packed once, so later changes of the layer do not show: freeze it again. Where the
    kernel does not serve, a call runs as the layer's own.

    Example, one step of a stream at a time::

        frozen, state = layer.freeze(), None
        for x in stream:  # (1, 1, C, *S) each
            output, state = frozen(x, state)
    """

    def __init__(self, layer: Any) -> None:  # a ConvRNN, whose module imports this one
        self._layer = copy.deepcopy(layer).requires_grad_(False).eval()
        self._packed = _pack(self._layer)
        self._layer._how = self._layer._how._replace(packed=self._packed)
        self._plan = functools.lru_cache(maxsize=64)(self._make_plan)

    def __call__(
        self,
        input: Tensor | nn.utils.rnn.PackedSequence,  # noqa: A002 # the layer's name
        state: State | Tensor | None = None,
        *,
        mask: Tensor | None = None,
        lengths: Tensor | None = None,
        domain: Tensor | None = None,
        dt: Tensor | None = None,
    ) -> tuple[Any, State | Tensor]:
        """Run the layers; arguments, results and errors are those of the layer's own call."""
        if isinstance(input, Tensor) and all(given is None for given in (mask, lengths, domain, dt)):
            manner = torch.get_num_threads(), threads.parallel()
            plan = self._plan(input.shape, input.dtype, input.device, manner)
            parts = (state,) if isinstance(state, Tensor) else state
            if plan is not None and plan.accepts(parts):
                return plan.run(input, parts)
        with torch.no_grad():
            return self._layer(input, state, mask=mask, lengths=lengths, domain=domain, dt=dt)

    def _make_plan(
        self, shape: torch.Size, dtype: torch.dtype, device: torch.device, manner: tuple[int, int]
    ) -> _Plan | None:
        """The short way for inputs of one shape without a mask; None: they take the layer's own."""
        layer, spec = self._layer, self._layer.spec
        if self._packed is None or dtype != torch.float32 or device.type != "cpu" or len(shape) != spec.rank + 3:
            return None
        if spec.window is not None or spec.bidirectional or spec.gap == "decay" or 0 in shape:
            return None
        if shape[-1 if layer.channels_last else 2] != spec.in_channels:
            return None
        return _Plan(self, shape, manner)


class _Plan:
    """A stack of layers in one direction over float32 inputs of one shape: what a call would work out anew."""

    def __init__(self, frozen: Frozen, shape: torch.Size, manner: tuple[int, int]) -> None:
        layer, packed = frozen._layer, frozen._packed
        spec = layer.spec
        assert packed is not None  # noqa: S101 # `_make_plan` looked
        self._channels_last, self._lstm = layer.channels_last, spec.cell == "lstm"
        samples, steps, *sites = shape[:2] + (shape[2:-1] if layer.channels_last else shape[3:])
        sizes = {"samples": samples, "steps": steps, "threads": manner[0], "parallel": manner[1]}
        names = ("x", "hs", "h", "h0", *(("c", "c0") if self._lstm else ()))
        self._forwards = []
        for single, weights in zip(layer._layers, packed, strict=True):
            self._forwards.append(native.Layer(single, sites=tuple(sites), **sizes).repeated(weights, names))
            sites = single.output_sites(tuple(sites))
        self._output = self._layout(samples, steps, *sites, spec.filters)
        self._state = self._layout(spec.num_layers, samples, *sites, spec.filters)
        self._state_bytes = samples * math.prod(sites) * spec.filters * torch.float32.itemsize

    def _layout(self, *sizes: int) -> tuple[torch.Size, tuple[int, ...]]:
        """Shape and strides, where the layer has its channels, of what lies channels last."""
        like = torch.empty(sizes, device="meta")
        like = like if self._channels_last else like.movedim(-1, 2)
        return like.shape, like.stride()

    def accepts(self, state: State | None) -> bool:
        """Whether the layer's own call would take such a state as it is."""
        if state is None:
            return True
        return len(state) == 1 + self._lstm and all(
            part.shape == self._state[0] and part.dtype == torch.float32 and part.device.type == "cpu" for part in state
        )

    def run(self, x: Tensor, state: State | None) -> tuple[Tensor, State | Tensor]:
        read = (x if self._channels_last else x.movedim(2, -1)).contiguous()
        before = None if state is None else [self._laid_out(part) for part in state]
        after = tuple(torch.empty_strided(*self._state) for _ in range(1 + self._lstm))
        for place, forward in enumerate(self._forwards):
            hs, offset = torch.empty_strided(*self._output), place * self._state_bytes
            states = []
            for index, part in enumerate(after):
                states.append(part.data_ptr() + offset)
                states.append(0 if before is None else before[index].data_ptr() + offset)
            forward(read.data_ptr(), hs.data_ptr(), *states)
            read = hs
        return read, after if self._lstm else after[0]

    def _laid_out(self, part: Tensor) -> Tensor:
        if part.stride() == self._state[1]:
            return part
        return (part if self._channels_last else part.movedim(2, -1)).contiguous()


def _pack(layer: Any) -> list[native.Weights] | None:
    """The weights of every layer and direction; None where the kernel does not serve."""
    weight = layer._parameters_of("l0").weight_ih
    if not kernel.serves(weight, weight.dtype, ()):
        return None
    packed = []
    for index, spec in enumerate(layer._layers):
        for suffix in layer._suffixes(index):
            # Packed weights do not depend on the batch's sizes: any that the layer accepts will do.
            taps = zip(spec.sizes("kernel_size"), spec.sizes("dilation"), strict=True)
            sites = (spec.window,) if spec.window else tuple(d * (k - 1) + 1 for k, d in taps)
            x, h = weight.new_empty(1, 1, *sites, spec.in_channels), weight.new_empty(0)
            weights: Parameters = layer._parameters_of(suffix)
            arguments = Arguments(x, h, None, *weights[:4], dropout=None, update=None)
            packed.append(kernel.pack(Run(spec, hold=False), arguments))
    return packed
