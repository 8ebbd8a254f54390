"""Masked pooling over time or sites, eq. (22): what is not observed takes no part."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from gapcell import masks
from gapcell.torch.nn.module import Covers, MaskedModule, Seen, accumulation_dtype, entries, fit

__all__ = ["AttentionPool", "LastObserved", "MaskedMaxPool", "MaskedMeanPool", "MaskedPool", "MaskedSumPool"]

Over = Literal["time", "sites", "both"]


class MaskedPool(MaskedModule):
    r"""Pooling over time, sites or both; use one of its subclasses.

    Shapes (N samples, T steps, \*S sites, C channels):
        x: a sequence (N, T, C, \*S), for `over="sites"` and with `rank` also frames (N, C, \*S); channels last with
            `channels_last`.
        mask: True where observed: steps (N, T), sites (N, T, \*S) or elements (x's shape); of frames without T.
        returns: over time (N, C, \*S), with a mask (N,), (N, \*S) or elements; over sites (N, T, C), with a mask (N, T)
            or elements; over both (N, C), with a mask (N,) or elements. The mask is True where anything was observed,
            elsewhere the value is 0; an element mask pools each channel on its own.

    Args:
        over: "time", "sites" or "both".
        rank: number of site axes; None takes sequences only.
        channels_last: whether channels are the last axis.
    """

    def __init__(self, over: Over = "time", *, rank: int | None = None, channels_last: bool = False) -> None:
        super().__init__()
        if over not in get_args(Over):
            raise ValueError(f"`over` is {over!r}, expected one of {', '.join(get_args(Over))}")
        self.over, self.rank, self.channels_last = over, rank, channels_last

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Pool x; shapes are in the class docstring.

        Args:
            x: a sequence or frames.
            mask: what is observed; None: everything.

        Returns:
            the pooled values, and where anything was observed.
        """
        seen = fit(x, mask, rank=self.rank, channels_last=self.channels_last)
        axes = self._axes(seen)
        if seen.mask is None and not entries(seen.x.shape, axes):
            seen = seen._replace(mask=seen.x.new_ones(seen.x.shape[:2], dtype=torch.bool))  # of nothing, all
        y = self._pool(seen, axes).to(x.dtype)
        if seen.observed is None:
            return self._leave(seen, _without(y, axes), None)
        anything = _stretched(seen, axes).any(axes, keepdim=True)
        y = _without(torch.where(anything, y, 0), axes)
        return self._leave(seen, y, _without(anything, (*axes, *_unspoken(seen))))

    def steps_after(self, steps: bool) -> bool:
        """Whether its output has a step axis."""
        return steps and self.over == "sites"

    def mask_in_words(self, covers: Covers) -> str:
        """For `MaskedSequential.summary`."""
        if covers == "steps" and self.over == "sites":
            return "unchanged"
        where = {"time": "at any step", "sites": "at any site", "both": "anywhere"}[self.over]
        return f"{covers}: observed {where}"

    def extra_repr(self) -> str:
        """What it pools over."""
        return f"over={self.over!r}"

    def _axes(self, seen: Seen) -> tuple[int, ...]:
        shape = tuple(seen.x.shape if seen.steps else seen.x.squeeze(1).shape)
        if self.over != "sites" and not seen.steps:
            raise ValueError(f"`x` has shape {shape}, frames without steps, expected a sequence to pool over time")
        if self.over == "sites" and not seen.site_axes:
            raise ValueError(
                f"`x` has shape {shape}, a sequence without sites, expected sites to pool over; give rank=, the number "
                "of site axes, for frames"
            )
        return {"time": (1,), "sites": seen.site_axes, "both": (1, *seen.site_axes)}[self.over]

    def _leave(self, seen: Seen, y: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return seen.leave(y, mask) if self.over == "sites" else (y, mask)

    def _pool(self, seen: Seen, axes: tuple[int, ...]) -> Tensor:
        """The pooled values, with the axes kept as 1; whatever it likes where nothing is observed."""
        raise NotImplementedError


def _stretched(seen: Seen, axes: tuple[int, ...]) -> Tensor:
    """The mask with x's sizes on the pooled axes, and its own on the others."""
    observed = seen.observed
    assert observed is not None  # noqa: S101 # the caller asked
    return observed.expand([seen.x.shape[axis] if axis in axes else size for axis, size in enumerate(observed.shape)])


def _unspoken(seen: Seen) -> tuple[int, ...]:
    """The axes of x that the mask does not speak of."""
    if seen.mask is None or seen.mask.ndim == seen.x.ndim:
        return ()
    return (*seen.site_axes, seen.channel_axis) if seen.mask.ndim == 2 else (seen.channel_axis,)


def _without(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    for axis in sorted(set(axes), reverse=True):
        x = x.squeeze(axis)
    return x


class MaskedMeanPool(MaskedPool):
    """The mean of what is observed; arguments and shapes are those of MaskedPool."""

    def _pool(self, seen: Seen, axes: tuple[int, ...]) -> Tensor:
        total = _sum(seen, axes)
        if seen.mask is None:
            return total / entries(seen.x.shape, axes)
        count = _stretched(seen, axes).sum(axes, keepdim=True)
        return total / count.clamp(min=1).to(total.dtype)


class MaskedSumPool(MaskedPool):
    """The sum of what is observed; arguments and shapes are those of MaskedPool."""

    def _pool(self, seen: Seen, axes: tuple[int, ...]) -> Tensor:
        return _sum(seen, axes)


class MaskedMaxPool(MaskedPool):
    """The largest of what is observed; arguments and shapes are those of MaskedPool."""

    def _pool(self, seen: Seen, axes: tuple[int, ...]) -> Tensor:
        x, observed = seen.x, seen.observed
        if not entries(x.shape, axes):
            return x.sum(axes, keepdim=True)  # no amax of nothing
        return (x if observed is None else torch.where(observed, x, -torch.inf)).amax(axes, keepdim=True)


class LastObserved(MaskedPool):
    r"""The last observed value in time, of each site (element) of its own where the mask speaks of sites (elements).

    Shapes (N samples, T steps, \*S sites, C channels):
        x: (N, T, C, \*S), or (N, T, \*S, C) with `channels_last`.
        mask: True where observed: steps (N, T), sites (N, T, \*S) or elements (x's shape).
        returns: (N, C, \*S), or (N, \*S, C), and a mask (N,), (N, \*S) or elements: False, and the value 0, where
            nothing was ever observed.

    Args:
        rank: number of site axes; None takes any.
        channels_last: whether channels are the last axis.
    """

    def __init__(self, *, rank: int | None = None, channels_last: bool = False) -> None:
        super().__init__("time", rank=rank, channels_last=channels_last)

    def extra_repr(self) -> str:
        """Nothing to say."""
        return ""

    def _pool(self, seen: Seen, axes: tuple[int, ...]) -> Tensor:
        x, mask = seen.x.movedim(seen.channel_axis, -1), seen.mask
        if mask is None:
            return seen.x[:, -1:]
        if mask.ndim == x.ndim:
            mask = mask.movedim(seen.channel_axis, -1)
        return masks.last_valid(x, mask).unsqueeze(1).movedim(-1, seen.channel_axis)


class AttentionPool(MaskedPool):
    r"""The mean of what is observed, weighted by attention: softmax of v·tanh(V x) over what is observed.

    Source: Ilse et al. 2018, without the gate. Shapes are those of MaskedPool; with an element mask V reads zeros where
    nothing is observed, and the weights of each channel add up to one over its observed elements.

    Args:
        num_channels: C.
        hidden_size: rows of V; None takes num_channels.
        over: "time", "sites" or "both".
        rank: number of site axes; None takes sequences only.
        channels_last: whether channels are the last axis.
        device: of the parameters.
        dtype: of the parameters.
    """

    def __init__(
        self,
        num_channels: int,
        hidden_size: int | None = None,
        over: Over = "time",
        *,
        rank: int | None = None,
        channels_last: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(over, rank=rank, channels_last=channels_last)
        self.num_channels = num_channels
        self.hidden = nn.Linear(num_channels, hidden_size or num_channels, bias=False, device=device, dtype=dtype)
        self.score = nn.Linear(hidden_size or num_channels, 1, bias=False, device=device, dtype=dtype)

    def extra_repr(self) -> str:
        """The sizes."""
        return f"{self.num_channels}, {self.hidden.out_features}, over={self.over!r}"

    def _pool(self, seen: Seen, axes: tuple[int, ...]) -> Tensor:
        axis, observed = seen.channel_axis, seen.observed
        if seen.x.shape[axis] != self.num_channels:
            raise ValueError(
                f"`x` has shape {tuple(seen.x.shape)} with {seen.x.shape[axis]} channels, expected "
                f"num_channels = {self.num_channels}"
            )
        x = seen.select()
        scores = self.score(torch.tanh(self.hidden(x.movedim(axis, -1)))).movedim(-1, axis)
        x, scores = x.to(accumulation_dtype(x)), scores.to(accumulation_dtype(x))
        if observed is None:
            return (x * _softmax(scores, axes)).sum(axes, keepdim=True)
        weights = _softmax(torch.where(observed, scores, -torch.inf), axes, torch.where(observed, scores, 0))
        return (x * weights).sum(axes, keepdim=True)


def _softmax(scores: Tensor, axes: tuple[int, ...], finite: Tensor | None = None) -> Tensor:
    """Weights that add up to one over the axes; `finite` are the scores without -inf, where there are any: 0 there."""
    if not entries(scores.shape, axes):
        return scores
    largest = scores.detach().amax(axes, keepdim=True)
    if finite is None:
        weights = torch.exp(scores - largest)
    else:
        largest = torch.where(largest == -torch.inf, 0, largest)
        weights = torch.where(
            scores == -torch.inf, 0, torch.exp(torch.where(scores == -torch.inf, 0, finite - largest))
        )
    total = weights.sum(axes, keepdim=True)
    return weights / torch.where(total > 0, total, 1)


def _sum(seen: Seen, axes: tuple[int, ...]) -> Tensor:
    return seen.select().to(accumulation_dtype(seen.x)).sum(axes, keepdim=True)
