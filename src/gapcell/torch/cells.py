"""The pointwise half of a step, forward and backward, in place.

Each cell keeps per computed pair what its backward pass needs, and that pass overwrites it with the gradients of the
pre-activations, so no second buffer of that size exists. Equations (7) to (9) of docs/semantics.md.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

__all__ = ["GRU", "LSTM", "Cell"]

_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
_tanh_backward = torch.ops.aten.tanh_backward.grad_input


class Cell(Protocol):
    """What `gapcell.torch.recurrence` asks of a cell. Tensors are (rows, *S, channels) of one step.

    Attributes:
        stored: channels, in multiples of F, of each buffer kept for the backward pass.
        keeps_c: whether the state has a c beside h.
    """

    stored: tuple[int, ...]
    keeps_c: bool

    def forward(
        self,
        a: Tensor,
        r: Tensor,
        before: tuple[Tensor, ...],
        after: tuple[Tensor, ...],
        kept: list[Tensor],
        update: Tensor | None,
        recurrent_bias: Tensor | None,
    ) -> None:
        """One step: the state `before` is read and `after` written; a and r of eq. (6) may be overwritten.

        `kept` are the step's parts of the buffers of `stored`, or empty when no gradient is wanted. `before` and
        `after` may be the same memory for c.
        """
        ...

    def backward(
        self,
        dh: Tensor,
        dc: Tensor | None,
        before: tuple[Tensor, ...],
        after: tuple[Tensor, ...],
        kept: list[Tensor],
        update: Tensor | None,
    ) -> tuple[Tensor | None, Tensor | None]:
        """One step backwards: the first of `kept` becomes the gradient of a, the last that of r.

        Returns:
            What reaches h_(t-1) beside the recurrent convolution (None: nothing), and what reaches c_(t-1).
        """
        ...


class LSTM:
    """Keeps the activated gates i, f, g, o (4F channels)."""

    stored: tuple[int, ...] = (4,)
    keeps_c: bool = True

    def forward(self, a, r, before, after, kept, update, recurrent_bias):  # noqa: D102 # Cell
        (h, c), (h_after, c_after) = before, after
        z = torch.add(a, r, out=kept[0]) if kept else r.add_(a)
        i, f, g, o = z.chunk(4, -1)
        z[..., : 2 * h.shape[-1]].sigmoid_()
        g.tanh_()
        o.sigmoid_()
        if update is None:
            torch.mul(f, c, out=c_after).addcmul_(i, g)
            torch.tanh(c_after, out=h_after).mul_(o)
            return
        c_new = torch.mul(f, c).addcmul_(i, g)
        torch.where(update, torch.tanh(c_new).mul_(o), h, out=h_after)
        torch.where(update, c_new, c, out=c_after)

    def backward(self, dh, dc, before, after, kept, update):  # noqa: D102 # Cell
        passed, dc_held = None, dc
        i, f, g, o = kept[0].chunk(4, -1)
        # h' = o tanh(c'), and a division is cheaper than tanh; where o is tiny its factor o hides the rest.
        tanh_c = after[0] / o.clamp(min=torch.finfo(o.dtype).tiny)
        if update is not None:
            passed = dh.masked_fill(update, 0)
            dh, dc = dh.masked_fill(~update, 0), dc.masked_fill(~update, 0)
            # A held h is not o tanh(c'): the quotient may overflow, and 0 * inf is NaN.
            tanh_c.masked_fill_(~update, 0)
        dc_now = dh * o
        _tanh_backward(dc_now, tanh_c, grad_input=dc_now).add_(dc)
        _sigmoid_backward(tanh_c.mul_(dh), o, grad_input=o)
        i_upstream = dc_now * g
        _tanh_backward(torch.mul(dc_now, i, out=tanh_c), g, grad_input=g)
        _sigmoid_backward(i_upstream, i, grad_input=i)
        dc_before = dc_now * f
        _sigmoid_backward(dc_now.mul_(before[1]), f, grad_input=f)
        if update is not None:
            dc_before = torch.where(update, dc_before, dc_held)
        return passed, dc_before


class GRU:
    """Keeps the activated gates r, z, n and, for the gradient of `r`, Wh * h with its bias (3F channels each)."""

    stored: tuple[int, ...] = (3, 3)
    keeps_c: bool = False

    def forward(self, a, r, before, after, kept, update, recurrent_bias):  # noqa: D102 # Cell
        filters = before[0].shape[-1]
        gates, recurrent = kept or (a, r)
        if kept:
            recurrent.copy_(r)
        if recurrent_bias is not None:
            recurrent[..., 2 * filters :].add_(recurrent_bias)
        reset, keep, new = gates.chunk(3, -1)
        torch.add(a[..., : 2 * filters], recurrent[..., : 2 * filters], out=gates[..., : 2 * filters]).sigmoid_()
        torch.addcmul(a[..., 2 * filters :], reset, recurrent[..., 2 * filters :], out=new).tanh_()
        if update is None:
            torch.lerp(new, before[0], keep, out=after[0])
        else:
            torch.where(update, torch.lerp(new, before[0], keep), before[0], out=after[0])

    def backward(self, dh, dc, before, after, kept, update):  # noqa: D102 # Cell
        passed = None
        if update is not None:
            passed = dh.masked_fill(update, 0)
            dh = dh.masked_fill(~update, 0)
        reset, keep, new = kept[0].chunk(3, -1)
        d_reset, d_keep, d_new = kept[1].chunk(3, -1)  # d_new holds the n block of Wh * h + bhn until it is overwritten
        direct = dh * keep if passed is None else passed.addcmul_(dh, keep)
        _sigmoid_backward(dh * (before[0] - new), keep, grad_input=d_keep)
        keep.neg_().add_(1).mul_(dh)
        _tanh_backward(keep, new, grad_input=new)
        _sigmoid_backward(new * d_new, reset, grad_input=d_reset)
        torch.mul(new, reset, out=d_new)
        reset.copy_(d_reset)
        keep.copy_(d_keep)
        return direct, None
