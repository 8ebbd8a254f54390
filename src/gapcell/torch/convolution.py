"""Convolutions over channels-last arrays, and their gradients one at a time.

On a CPU a convolution of rank 1 written as conv2d in channels-last memory is several times faster than conv1d, so
rank 1 runs with a site axis of size 1 in front. Array layout: (rows, *S, channels); weights as nn.Conv keeps them,
(out, in, *k).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Convolution", "pad_sites", "unwrap_sites", "wrap_sites"]

Padding = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Convolution:
    """The geometry of one convolution: zeros on both sides alike, or 0 where the caller has padded."""

    padding: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]

    @property
    def _rank(self) -> int:
        return len(self.padding)

    def prepare(self, weight: Tensor) -> Tensor:
        """The weight in the memory layout `forward` and the gradients are fast with."""
        if self._rank == 1:
            weight = weight.unsqueeze(2)
        return weight.contiguous(memory_format=self._memory_format)

    def forward(self, x: Tensor, prepared: Tensor, bias: Tensor | None = None) -> Tensor:
        """(rows, *S, in) to (rows, *S', out)."""
        conv = F.conv3d if self._rank == 3 else F.conv2d
        padding, stride, dilation = self._geometry()
        return self._leave(conv(self._enter(x), prepared, bias, stride, padding, dilation))

    def traceable(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """`forward` with the weight as it is and no say on memory, which compilers and exporters settle themselves."""
        conv = (F.conv1d, F.conv2d, F.conv3d)[self._rank - 1]
        return conv(x.movedim(-1, 1), weight, bias, self.stride, self.padding, self.dilation).movedim(1, -1)

    def input_gradient(self, gradient: Tensor, x: Tensor, prepared: Tensor) -> Tensor:
        """The gradient for x, (rows, *S, in), from that of the output."""
        return self._leave(self._backward(gradient, x, prepared, (True, False, False))[0])

    def weight_gradient(self, gradient: Tensor, x: Tensor, prepared: Tensor) -> Tensor:
        """The gradient for the weight, (out, in, *k), from that of the output."""
        if self._rank == 3 and x.dtype == torch.bfloat16 and x.device.type == "cpu":
            # oneDNN's own is wrong where a site axis is shorter than the kernel (pytorch/pytorch#169688).
            gradient, x, prepared = gradient.float(), x.float(), prepared.float()
        result = self._backward(gradient, x, prepared, (False, True, False))[1]
        return result.squeeze(2) if self._rank == 1 else result

    def _backward(
        self, gradient: Tensor, x: Tensor, prepared: Tensor, wanted: tuple[bool, bool, bool]
    ) -> tuple[Tensor, Tensor, Tensor]:
        padding, stride, dilation = self._geometry()
        return torch.ops.aten.convolution_backward(
            self._enter(gradient),
            self._enter(x),
            prepared,
            None,
            stride,
            padding,
            dilation,
            False,
            [0] * len(padding),
            1,
            wanted,
        )

    @property
    def _memory_format(self) -> torch.memory_format:
        return torch.channels_last_3d if self._rank == 3 else torch.channels_last

    def _geometry(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        if self._rank == 1:
            return (0, *self.padding), (1, *self.stride), (1, *self.dilation)
        return self.padding, self.stride, self.dilation

    def _enter(self, x: Tensor) -> Tensor:
        return (x.unsqueeze(1) if self._rank == 1 else x).movedim(-1, 1)

    def _leave(self, x: Tensor) -> Tensor:
        x = x.movedim(1, -1)
        return x.squeeze(1) if self._rank == 1 else x


def pad_sites(x: Tensor, padding: Padding) -> Tensor:
    """Zeros (negative: a cut) around the sites of (rows, *S, channels)."""
    if not any(amount for pair in padding for amount in pair):
        return x
    amounts = [0, 0]
    for pair in reversed(padding):
        amounts += pair
    return F.pad(x, amounts)


def wrap_sites(h: Tensor, padding: tuple[int, int]) -> Tensor:
    """The previous window's state as the next one reads it: its own end left of site 0, eq. (17).

    Args:
        h: (rows, W, channels).
        padding: sites (left, right) to add; beyond one window on the left, and on the right, they are zero.
    """
    left, right = padding
    window = h.shape[1]
    wrapped = min(left, window)
    if wrapped:
        sites = h.unbind(1)  # a slice would keep the number of rows for its gradient, which the scan operator refuses
        h = torch.stack([*sites[window - wrapped :], *sites], 1)
    return pad_sites(h, ((left - wrapped, right),))


def unwrap_sites(gradient: Tensor, padding: tuple[int, int]) -> Tensor:
    """The adjoint of `wrap_sites`."""
    left, right = padding
    window = gradient.shape[1] - left - right
    wrapped = min(left, window)
    own = gradient[:, left : left + window]
    if not wrapped:
        return own
    end = own[:, window - wrapped :] + gradient[:, left - wrapped : left]
    return torch.cat([own[:, : window - wrapped], end], 1)
