"""One network for every way to treat a gap: a convolution, a ConvLSTM, and a forecast at every site."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gaps.plan import Method
from gapcell import masks
from gapcell.torch import ConvLSTM1d, ConvLSTM2d
from gapcell.torch import nn as masked

CHANNELS, HIDDEN, KERNEL = 8, 16, 3
CONVOLUTIONS = {1: masked.MaskedConv1d, 2: masked.MaskedConv2d}
LAYERS = {1: ConvLSTM1d, 2: ConvLSTM2d}


class Forecaster(nn.Module):
    """Reads (N, T, 1, *S) with gaps and forecasts the next step at every step, (N, T, 1, *S)."""

    def __init__(self, method: Method, rank: int) -> None:
        super().__init__()
        self.method = method
        rule: dict[str, Any] = {"renormalize": True, "mask_rule": "any"} if method.partial else {}
        inputs = 2 if method.fill == "indicator" else 1
        self.convolution = CONVOLUTIONS[rank](inputs, CHANNELS, KERNEL, padding="same", **rule)
        self.layer = LAYERS[rank](CHANNELS, HIDDEN, KERNEL, gap=method.gap or "hold", masked_output="hold")
        self.forecast = nn.Linear(HIDDEN, 1)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x, told = filled(self.method, x, mask)
        x, told = self.convolution(x, told)
        lengths = torch.full((len(x),), x.shape[1]) if self.method.gap in ("predict", "decay") else None
        h, _ = self.layer(torch.relu(x), mask=told, lengths=lengths)
        return self.forecast(h.movedim(2, -1)).movedim(-1, 2)


def filled(method: Method, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor | None]:
    """The input as the method has it, and what it says of the gaps."""
    if method.gap is not None:
        return x, mask
    if method.fill == "indicator":
        return masks.with_indicator(x, mask, channel_axis=2), None
    if method.fill == "last":
        return last_observed(x, mask), None
    return torch.where(mask.unsqueeze(2), x, 0), None


def last_observed(x: Tensor, mask: Tensor) -> Tensor:
    """At every step the latest value observed at the site, 0 before the first; (N, T, 1, *S)."""
    steps = torch.arange(1, x.shape[1] + 1).reshape(1, -1, *(1,) * (mask.ndim - 2))
    latest = torch.where(mask, steps, 0).cummax(1).values.unsqueeze(2)
    padded = torch.cat([torch.zeros_like(x[:, :1]), torch.where(mask.unsqueeze(2), x, 0)], 1)
    return padded.gather(1, latest)
