"""The protocol of a masked module, and what a module sees of a batch: its values and which of them are observed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from gapcell import arrays, masks

__all__ = [
    "Covers",
    "MaskedModule",
    "Seen",
    "accumulation_dtype",
    "both",
    "checked",
    "entries",
    "fit",
    "has_steps",
    "spread",
]


Covers = Literal["steps", "sites", "elements"]


class MaskedModule(nn.Module):
    r"""What takes a value with its mask, and gives both on: `forward(x, mask=None) -> (x, mask)`.

    Shapes (N samples, T steps, \*S sites, C channels):
        x: a sequence (N, T, C, \*S), or (N, T, \*S, C) with `channels_last`; frames have no step axis.
        mask: True where observed; bool, integer or float 0/1, NaN meaning "not observed". (N, T) for steps,
            (N, T, \*S) for sites, or x's shape for elements; of frames (N,), (N, \*S) or x's shape. None: everything is
            observed, and None comes out.

    Derive from it to use a module of your own in a `MaskedSequential`: select before any arithmetic
    (`torch.where(observed, x, 0)`, never a product), and return zeros where the mask you return is False.

    Attributes:
        rank: number of site axes, where the module says it; None: any.
        channels_last: where it expects the channels; None: wherever they are.
    """

    rank: int | None = None
    channels_last: bool | None = None

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Give the values and their mask on; see the class."""
        raise NotImplementedError(f"{type(self).__name__} has no forward(x, mask=None) -> (x, mask)")

    def steps_after(self, steps: bool) -> bool:
        """Whether its output has a step axis, given whether its input has one."""
        return steps

    def mask_in_words(self, covers: Covers) -> str:
        """What it does to a mask that covers steps, sites or elements, for `MaskedSequential.summary`."""
        return "as the module decides"


def checked(module: nn.Module, mask: Tensor | None, result: object) -> tuple[Tensor, Tensor | None]:
    """What a MaskedModule gave, refused if it is not a pair, or if the mask it was given is gone."""
    name = type(module).__name__
    if not isinstance(result, tuple) or len(result) != 2:
        # A tensor of two rows would be taken for the pair.
        raise ValueError(f"{name}.forward gave {type(result).__name__}, expected a pair (x, mask)")
    if mask is not None and result[1] is None:
        raise ValueError(
            f"{name}.forward was given a mask and gave none; where all it gives is observed, return a mask of True"
        )
    return result


class Seen(NamedTuple):
    r"""A batch whose mask fits it; frames have got a step axis of size 1.

    Attributes:
        x: (N, T, C, \*S) or (N, T, \*S, C).
        mask: bool, (N, T), (N, T, \*S) or x's shape; None: everything.
        channel_axis: of x, not negative.
        steps: whether the step axis is the caller's.
    """

    x: Tensor
    mask: Tensor | None
    channel_axis: int
    steps: bool

    @property
    def site_axes(self) -> tuple[int, ...]:
        """Of x."""
        return tuple(axis for axis in range(2, self.x.ndim) if axis != self.channel_axis)

    @property
    def observed(self) -> Tensor | None:
        """The mask with axes of size 1, so that it selects from x; e of eq. (1)."""
        return None if self.mask is None else spread(self.mask, self.x.ndim, self.channel_axis)

    @property
    def observed_sites(self) -> Tensor | None:
        """(N, T) or (N, T, *S): v of eq. (3)."""
        if self.mask is None or self.mask.ndim < self.x.ndim:
            return self.mask
        return self.mask.any(self.channel_axis)

    @property
    def observed_steps(self) -> Tensor | None:
        """(N, T): the steps of which anything is observed."""
        if self.mask is None or self.mask.ndim == 2:
            return self.mask
        return self.mask.flatten(2).any(-1)

    def select(self) -> Tensor:
        """x~ of eq. (2)."""
        observed = self.observed
        return self.x if observed is None else torch.where(observed, self.x, 0)

    def within(self, domain: Tensor | None) -> Seen:
        """Only what lies in the domain, (N, *S) or (*S,), is observed."""
        if domain is None:
            return self
        exists = masks.existing(None, domain, self.sites_shape, self.x)
        mask = self.mask
        if mask is not None and mask.ndim == self.x.ndim:
            assert exists is not None  # noqa: S101 # a domain was given
            return self._replace(mask=mask & exists.unsqueeze(self.channel_axis))
        return self._replace(mask=both(mask, exists))

    @property
    def sites_shape(self) -> tuple[int, ...]:
        """(N, T, *S)."""
        return tuple(size for axis, size in enumerate(self.x.shape) if axis != self.channel_axis)

    def leave(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """A result (N, T, ...) as the caller's batch was: frames lose the step axis again."""
        if self.steps:
            return x, mask
        return x.squeeze(1), None if mask is None else mask.squeeze(1)


def fit(x: Tensor, mask: Tensor | None, *, rank: int | None, channels_last: bool | None) -> Seen:
    """Check a batch and its mask, and bring both to one form.

    Args:
        x: a sequence, or frames where `rank` allows to tell them.
        mask: see MaskedModule.
        rank: number of site axes; None: x is a sequence.
        channels_last: whether x's channels are its last axis.

    Raises:
        ValueError: a shape does not fit, or a concrete value of the mask is neither 0, 1 nor NaN.
    """
    shape = tuple(x.shape)
    if not x.is_floating_point():
        raise ValueError(f"`x` has dtype {x.dtype} and shape {shape}, expected floating point; call x.float()")
    steps = has_steps(shape, rank, channels_last)
    if not steps:
        if mask is not None:
            mask = _frame_mask(arrays.same_kind(mask, x), shape, channels_last)
        x = x.unsqueeze(1)
    channel_axis = x.ndim - 1 if channels_last else 2
    if mask is not None:
        mask = masks.resolve(arrays.same_kind(mask, x), tuple(x.shape), channel_axis=channel_axis)
    return Seen(x, mask, channel_axis, steps)


def has_steps(shape: tuple[int, ...], rank: int | None, channels_last: bool | None) -> bool:
    """Whether an input of this shape is a sequence; frames have one axis less.

    Raises:
        ValueError: it is neither.
    """
    if len(shape) >= 3 if rank is None else len(shape) == rank + 3:
        return True
    if len(shape) == (0 if rank is None else rank) + 2:
        return False  # vectors (N, C) are frames, whatever the rank
    sites = {None: ("*S",), 0: (), 1: ("L",), 2: ("H", "W"), 3: ("D", "H", "W")}[rank]
    axes = (*sites, "C") if channels_last else ("C", *sites)
    wanted = f"(N, T, {', '.join(axes)})"
    if rank is None:
        raise ValueError(
            f"`x` has shape {shape}, expected a sequence {wanted}; give rank=, the number of site axes, for frames "
            f"(N, {', '.join(axes)})"
        )
    raise ValueError(f"`x` has shape {shape}, expected a sequence {wanted} or frames (N, {', '.join(axes)})")


def _frame_mask(mask: Tensor, shape: tuple[int, ...], channels_last: bool | None) -> Tensor:
    """The mask of frames, (N,), (N, *S) or their shape, with a step axis."""
    sites = shape[:-1] if channels_last else (shape[0], *shape[2:])
    kinds = list(dict.fromkeys(((shape[0],), sites, shape)))
    if not any(arrays.equal_sizes(tuple(mask.shape), kind) for kind in kinds):
        raise ValueError(
            f"`mask` has shape {tuple(mask.shape)}, but the input is frames of shape {shape}: expected "
            f"{' or '.join(map(str, kinds))}; a mask is matched exactly and never broadcast"
        )
    return mask.unsqueeze(1)


def spread(mask: Tensor, ndim: int, channel_axis: int, leading: int = 2) -> Tensor:
    """A mask with axes of size 1, so that it selects from an array of `ndim` axes.

    Args:
        mask: of steps, sites or elements of that array.
        ndim: of the array.
        channel_axis: of the array, not negative.
        leading: axes that are neither sites nor channels: 2 of a sequence, 1 of frames.
    """
    if mask.ndim == ndim:
        return mask
    return masks.expand(mask, ndim) if mask.ndim == leading else mask.unsqueeze(channel_axis)


def both(left: Tensor | None, right: Tensor | None) -> Tensor | None:
    """True where both masks are, the axes of one leading those of the other; None: True everywhere."""
    if left is None or right is None:
        return right if left is None else left
    ndim = max(left.ndim, right.ndim)
    return masks.expand(left, ndim) & masks.expand(right, ndim)


def entries(shape: Sequence[int], axes: Iterable[int]) -> int:
    """How many entries of an array lie along some of its axes."""
    number = 1  # torch.compile does not take a generator into math.prod
    for axis in axes:
        number = number * shape[axis]
    return number


def accumulation_dtype(x: Tensor) -> torch.dtype:
    """What sums and counts over x are held in: float32 at least."""
    return torch.promote_types(x.dtype, torch.float32)
