"""Systems that run on PyTorch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from types import ModuleType
from typing import Any

import keras
import torch
from torch import Tensor, nn

import gapcell.keras
from benchmarks.catalogue import BF16_GATES, FROZEN, KERAS_TORCH, KERNEL, LOOP, LSTM, PURE, RECOMPUTE, ours_for
from benchmarks.shapes import Shape, make_input, make_mask
from benchmarks.systems.keras import make_layer
from gapcell import native
from gapcell.torch import ConvLSTM1d, ConvLSTM2d

Run = Callable[[], object]
State = tuple[Tensor, Tensor]


class PlainLoop(nn.Module):
    """The ConvLSTM that people write: two convolutions a step under autograd, no mask."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        conv = (nn.Conv1d, nn.Conv2d)[shape.rank - 1]
        self.hidden_size = shape.filters
        self.of_input = conv(shape.channels, 4 * shape.filters, shape.kernel, padding="same")
        self.of_state = conv(shape.filters, 4 * shape.filters, shape.kernel, padding="same", bias=False)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        zeros = x.new_zeros(x.shape[0], self.hidden_size, *x.shape[3:])
        h, c = (zeros, zeros) if state is None else state
        outputs = []
        for t in range(x.shape[1]):
            i, f, g, o = (self.of_input(x[:, t]) + self.of_state(h)).chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            outputs.append(h)
        return torch.stack(outputs, 1), (h, c)


def timed(outputs: Callable[[], Tensor], parameters: Sequence[Tensor], mode: str) -> Run:
    """A pass, or a pass and the gradients."""

    def forward() -> None:
        with torch.no_grad():
            outputs()

    def train() -> None:
        torch.autograd.grad(outputs().sum(), parameters)

    return {"forward": forward, "train": train}[mode]


def streamed(step: Callable[[Any], Any], calls: int) -> Run:
    """As many steps as a run has, each from the state that the one before left."""
    state = None

    def run() -> None:
        nonlocal state
        with torch.no_grad():
            for _ in itertools.repeat(None, calls):
                state = step(state)

    return run


def convolution_input(shape: Shape) -> Tensor:
    """(N, T, C, *S)."""
    return torch.from_numpy(make_input(shape)).movedim(-1, 2).contiguous()


def plain_loop(shape: Shape, observed: str, mode: str) -> Run:
    torch.manual_seed(0)
    loop, x = PlainLoop(shape), convolution_input(shape)
    if shape.calls:
        return streamed(lambda state: loop(x, state)[1], shape.calls)
    return timed(lambda: loop(x)[0], list(loop.parameters()), mode)


def lstm(shape: Shape, observed: str, mode: str) -> Run:
    """nn.LSTM, where there is one site."""
    torch.manual_seed(0)
    layer = nn.LSTM(shape.channels, shape.filters, batch_first=True)
    x = torch.from_numpy(make_input(shape)).flatten(2)
    return timed(lambda: layer(x)[0], list(layer.parameters()), mode)


def ours(shape: Shape, observed: str, mode: str, *, frozen: bool = False, **options: Any) -> Run:
    torch.manual_seed(0)
    layer = (ConvLSTM1d, ConvLSTM2d)[shape.rank - 1](shape.channels, shape.filters, shape.kernel, **options)
    call, x = layer.freeze() if frozen else layer, convolution_input(shape)
    if shape.calls:
        return streamed(lambda state: call(x, state)[1], shape.calls)
    mask = make_mask(shape, observed)
    mask = None if mask is None else torch.from_numpy(mask)
    return timed(lambda: call(x, mask=mask)[0], list(layer.parameters()), mode)


def ours_without_kernel(shape: Shape, observed: str, mode: str) -> Run:
    run = ours(shape, observed, mode)

    def without_kernel() -> None:
        with native.using("off"):
            run()

    return without_kernel


def keras_layer(package: ModuleType, shape: Shape, observed: str, mode: str) -> Run:
    """Keras's or our layer on Keras's PyTorch backend."""
    layer, x = make_layer(package, shape), torch.from_numpy(make_input(shape))
    if shape.calls:
        zeros = [torch.zeros(shape.state_shape)] * 2
        return streamed(lambda state: layer(x, initial_state=state or zeros)[1:], shape.calls)
    mask = make_mask(shape, observed)
    mask = None if mask is None else torch.from_numpy(mask)
    parameters = [weight.value for weight in layer.trainable_variables]
    return timed(lambda: layer(x, mask=mask, training=mode == "train"), parameters, mode)


SYSTEMS = {
    LOOP: plain_loop,
    LSTM: lstm,
    KERNEL: ours,
    FROZEN: partial(ours, frozen=True),
    BF16_GATES: partial(ours, store_gates="bf16"),
    RECOMPUTE: partial(ours, store_gates="recompute"),
    PURE: ours_without_kernel,
    KERAS_TORCH: partial(keras_layer, keras.layers),
    ours_for(KERAS_TORCH): partial(keras_layer, gapcell.keras),
}
