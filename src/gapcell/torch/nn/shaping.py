"""Masked flattening, repetition and upsampling: the mask takes the shape that the values take."""

from __future__ import annotations

import torch
from torch import Tensor

from gapcell import masks
from gapcell.torch.nn.module import Covers, MaskedModule, both, fit

__all__ = ["MaskedFlatten", "MaskedRepeat", "MaskedUpsample"]

Size = int | tuple[int, ...]


class MaskedFlatten(MaskedModule):
    r"""Each step's sites and channels in one axis.

    Shapes (N samples, T steps, \*S sites, C channels):
        x: a sequence (N, T, C, \*S), with `rank` also frames (N, C, \*S); channels last with `channels_last`.
        mask: True where observed: steps (N, T), sites (N, T, \*S) or elements (x's shape); of frames without T.
        returns: (N, T, C·S), or (N, C·S) of frames, zero where nothing was observed, and a mask of steps, (N, T) or
            (N,): True where anything of the step was observed.

    Args:
        rank: number of site axes; None takes sequences only.
        channels_last: whether channels are the last axis.
    """

    def __init__(self, *, rank: int | None = None, channels_last: bool = False) -> None:
        super().__init__()
        self.rank, self.channels_last = rank, channels_last

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Flatten each step; shapes are in the class docstring.

        Args:
            x: a sequence or frames.
            mask: what is observed; None: everything.

        Returns:
            the flat values, and which steps have any observation.
        """
        seen = fit(x, mask, rank=self.rank, channels_last=self.channels_last)
        return seen.leave(seen.select().flatten(2), seen.observed_steps)

    def mask_in_words(self, covers: Covers) -> str:
        """For `MaskedSequential.summary`."""
        return "unchanged" if covers == "steps" else "steps: anything observed"


class MaskedRepeat(MaskedModule):
    r"""What is known of a sequence, given to every step of another: the bridge from an encoder to a decoder.

    Shapes (N samples, T steps, \*S sites, C channels):
        x: frames (N, C, \*S), or (N, \*S, C) with `channels_last`; (N, C) without sites.
        mask: True where observed: (N,), (N, \*S) or elements (x's shape).
        returns: (N, T, C, \*S), or (N, T, \*S, C), and the mask (N, T), (N, T, \*S) or elements, False at steps that do
            not exist.

    Args:
        steps: T; None takes, in a MaskedSequential, the steps of its input and their existence (its `lengths`).
        channels_last: whether channels are the last axis.
    """

    def __init__(self, steps: int | None = None, *, channels_last: bool = False) -> None:
        super().__init__()
        if steps is not None and steps < 1:
            raise ValueError(
                f"`steps` is {steps}, expected at least 1, or None for the steps of the sequential's input"
            )
        self.steps, self.channels_last = steps, channels_last

    def forward(
        self, x: Tensor, mask: Tensor | None = None, *, steps: int | None = None, exists: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Repeat x; shapes are in the class docstring.

        Args:
            x: frames.
            mask: what is observed; None: everything.
            steps: T where the constructor was not told.
            exists: (N, T) bool, which steps exist; None: all.

        Returns:
            the repeated values and mask.
        """
        steps = self.steps or steps
        if steps is None:
            raise ValueError(
                "`steps` is None, which takes the steps of a MaskedSequential's input; there is none here: give "
                "MaskedRepeat(steps)"
            )
        seen = fit(x, mask, rank=max(x.ndim - 2, 0), channels_last=self.channels_last)
        y = seen.select().expand(-1, steps, *(-1,) * (seen.x.ndim - 2))
        repeated = None if seen.mask is None else seen.mask.expand(-1, steps, *(-1,) * (seen.mask.ndim - 2))
        repeated = both(repeated, exists)
        if exists is not None:
            y = torch.where(masks.expand(exists, y.ndim), y, 0)
        return y, repeated

    def steps_after(self, steps: bool) -> bool:
        """Whether its output has a step axis: it always has."""
        return True

    def mask_in_words(self, covers: Covers) -> str:
        """For `MaskedSequential.summary`."""
        return f"repeated {self.steps} times" if self.steps else "repeated at every existing step of the input"

    def extra_repr(self) -> str:
        """The number of steps."""
        return f"steps={self.steps}"


class MaskedUpsample(MaskedModule):
    r"""nn.Upsample's "nearest": sites repeated, and the mask with them.

    Shapes (N samples, T steps, \*S sites, C channels):
        x: a sequence (N, T, C, \*S), with `rank` also frames (N, C, \*S); channels last with `channels_last`.
        mask: True where observed: steps (N, T), sites (N, T, \*S) or elements (x's shape); of frames without T.
        returns: x and a mask of sites or elements over the new sites; a mask of steps as it was.

    Args:
        size: the new sites, an int or one int a site axis; output site o reads input site o·L // size.
        scale_factor: how often each site is repeated, likewise; exactly one of both is given.
        rank: number of site axes; None takes sequences only.
        channels_last: whether channels are the last axis.
    """

    def __init__(
        self,
        size: Size | None = None,
        scale_factor: Size | None = None,
        *,
        rank: int | None = None,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        if (size is None) == (scale_factor is None):
            raise ValueError(f"`size` is {size} and `scale_factor` is {scale_factor}, expected exactly one of them")
        for name, value in (("size", size), ("scale_factor", scale_factor)):
            for each in value if isinstance(value, tuple | list) else (value,):
                if each is not None and (not isinstance(each, int) or each < 1):
                    raise ValueError(f"`{name}` is {value}, expected whole numbers of at least 1")
        self.size, self.scale_factor, self.rank, self.channels_last = size, scale_factor, rank, channels_last

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Repeat sites; shapes are in the class docstring.

        Args:
            x: a sequence or frames.
            mask: what is observed; None: everything.

        Returns:
            x and the mask over the new sites.
        """
        seen = fit(x, mask, rank=self.rank, channels_last=self.channels_last)
        y, moved = seen.select(), seen.mask
        sizes = self._sizes(tuple(y.shape[axis] for axis in seen.site_axes))
        for place, (axis, size) in enumerate(zip(seen.site_axes, sizes, strict=True)):
            sites = torch.arange(size, device=y.device) * y.shape[axis] // size
            y = y.index_select(axis, sites)
            if moved is not None and moved.ndim > 2:
                moved = moved.index_select(axis if moved.ndim == y.ndim else 2 + place, sites)
        return seen.leave(y, moved)

    def mask_in_words(self, covers: Covers) -> str:
        """For `MaskedSequential.summary`."""
        return "unchanged" if covers == "steps" else "repeated with the sites"

    def extra_repr(self) -> str:
        """The size, or how often sites are repeated."""
        return f"scale_factor={self.scale_factor}" if self.size is None else f"size={self.size}"

    def _sizes(self, sites: tuple[int, ...]) -> tuple[int, ...]:
        given = self.size if self.scale_factor is None else self.scale_factor
        each = (given,) * len(sites) if isinstance(given, int) else tuple(given or ())
        name = "size" if self.scale_factor is None else "scale_factor"
        if len(each) != len(sites) or not sites:
            raise ValueError(
                f"`{name}` is {given}, but the input has sites {sites}: expected one number a site axis; give rank=, "
                "the number of site axes, for frames"
            )
        return each if self.scale_factor is None else tuple(s * k for s, k in zip(sites, each, strict=True))
