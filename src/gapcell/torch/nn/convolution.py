"""Masked convolutions and transposed convolutions, eq. (19) and (20)."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gapcell import masks
from gapcell.torch import stack
from gapcell.torch.nn.frames import Frames
from gapcell.torch.nn.module import Covers, MaskedModule, Seen, accumulation_dtype, fit, spread

__all__ = [
    "MaskedConv",
    "MaskedConv1d",
    "MaskedConv2d",
    "MaskedConv3d",
    "MaskedConvTranspose",
    "MaskedConvTranspose1d",
    "MaskedConvTranspose2d",
    "MaskedConvTranspose3d",
]

Size = int | tuple[int, ...]
Rule = Literal["centre", "all", "any"]
_RULES = ("centre", "all", "any", None)


class _Convolution(MaskedModule):
    """What both kinds of convolution share; beside it in a class stands nn.Conv or nn.ConvTranspose of its rank."""

    weight: Tensor
    bias: Tensor | None
    in_channels: int
    out_channels: int
    groups: int
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    kernel_size: tuple[int, ...]

    def __init__(
        self,
        *sizes: Any,
        mask_rule: Rule | None = None,
        renormalize: bool = False,
        channels_last: bool = False,
        padding_mode: str = "zeros",
        **options: Any,
    ) -> None:
        if padding_mode != "zeros":
            raise ValueError(
                f'`padding_mode` is {padding_mode!r}, expected "zeros": other modes read values where the mask says '
                "nothing"
            )
        if mask_rule not in _RULES:
            raise ValueError(f"`mask_rule` is {mask_rule!r}, expected one of {', '.join(map(repr, _RULES))}")
        super().__init__(*sizes, padding_mode=padding_mode, **options)
        self.mask_rule, self.renormalize, self.channels_last = mask_rule, renormalize, channels_last

    def forward(
        self, x: Tensor, mask: Tensor | None = None, *, domain: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        r"""Convolve x; shapes are in the class docstring.

        Args:
            x: a sequence or frames.
            mask: what is observed; None: everything.
            domain: (N, \*S) or (\*S,), True at sites that exist; the others are the array's edge.

        Returns:
            the convolved values, zero where the moved mask is False, and that mask.
        """
        seen = fit(x, mask, rank=self.rank, channels_last=self.channels_last)
        self._check_input(x, seen)
        seen = seen.within(domain)
        moved = seen.observed_sites
        if moved is not None and moved.ndim > 2:
            moved = self._move(moved)
        wanted = moved.flatten(2).any(-1) if moved is not None and moved.ndim > 2 else moved
        frames = Frames.where(wanted, seen.x)
        values = frames.pack(seen.select().movedim(seen.channel_axis, 2))
        y = frames.unpack(self._convolve(values, self._ratio(seen, domain, frames)))
        y = y.movedim(2, seen.channel_axis)
        if moved is not None:
            y = torch.where(spread(moved, y.ndim, seen.channel_axis), y, 0)
        return seen.leave(y, moved)

    def mask_in_words(self, covers: Covers) -> str:
        """For `MaskedSequential.summary`."""
        if covers == "steps":
            return "unchanged"
        rule = {"centre": "the kernel's centre decides", "all": "all taps observed", "any": "any tap observed"}
        return f"sites: {rule[self._rule]}" + ("; sums rescaled" if self.renormalize else "")

    def extra_repr(self) -> str:
        """As nn.Conv's, and the mask's rule."""
        options = {"mask_rule": self.mask_rule, "renormalize": self.renormalize, "channels_last": self.channels_last}
        return ", ".join([super().extra_repr(), *(f"{name}={value!r}" for name, value in options.items() if value)])

    @property
    def _rule(self) -> str:
        """The mask's rule in force."""
        raise NotImplementedError

    def _move(self, sites: Tensor) -> Tensor:
        """A mask of sites (N, T, *S) at the output sites."""
        raise NotImplementedError

    def _transform(self, x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
        """The convolution's geometry, with any weight; (P, in, *S) to (P, out, *S')."""
        raise NotImplementedError

    def _convolve(self, x: Tensor, ratio: Tensor | None) -> Tensor:
        """Eq. (19) for frames (P, C, *S)."""
        if ratio is None:
            return self._transform(x, self.weight, self.bias, self.groups)
        y = self._transform(x, self.weight, None, self.groups)
        dtype = accumulation_dtype(y)
        scaled = y.to(dtype) * ratio.to(dtype)
        if self.bias is not None:
            scaled = scaled + masks.expand(self.bias.to(dtype), 1 + len(self.kernel_size))
        return scaled.to(y.dtype)

    def _ratio(self, seen: Seen, domain: Tensor | None, frames: Frames) -> Tensor | None:
        """The ratio of eq. (19), (P, out or 1, *S'); None: 1 everywhere, as under a mask of whole steps."""
        mask = seen.mask
        if not self.renormalize or mask is None or mask.ndim == 2:
            return None
        by_channel = mask.ndim == seen.x.ndim
        group = self.in_channels // self.groups if by_channel else 1
        counted = mask.movedim(seen.channel_axis, 2) if by_channel else mask.unsqueeze(2)
        found = self._count_taps(frames.pack(counted.unflatten(2, (-1, group)).sum(3)))
        there = masks.existing(None, domain, seen.sites_shape, seen.x)
        if there is None:
            whole = self._count_taps(counted.new_ones((1, 1, *counted.shape[3:])))
        else:
            whole = self._count_taps(frames.pack(there.unsqueeze(2)))
        dtype = accumulation_dtype(seen.x)  # whole numbers pass from float32 unchanged, their quotient would not
        ratio = torch.where(found > 0, whole.to(dtype) * group / found.clamp(min=1).to(dtype), 1)
        return ratio.repeat_interleave(self.out_channels // self.groups, 1) if by_channel else ratio

    def _count_taps(self, counted: Tensor) -> Tensor:
        """The sum over what the taps of each output site read, for each channel of (P, G, *S): whole, in float32."""
        groups = counted.shape[1]
        counted = counted.to(torch.float32)
        ones = counted.new_ones((groups, 1, *self.kernel_size))
        with torch.autocast(counted.device.type, enabled=False):
            # Convolutions by transforms (Winograd, FFT) are off by a rounding error.
            return self._transform(counted, ones, None, groups).round()

    def _check_input(self, x: Tensor, seen: Seen) -> None:
        came = seen.x.shape[seen.channel_axis]
        if came != self.in_channels:
            raise ValueError(
                f"`x` has shape {tuple(x.shape)} with {came} channels, expected in_channels = {self.in_channels}; "
                f"channels_last is {self.channels_last}"
            )
        if x.dtype != self.weight.dtype and stack.autocast_dtype(x) is None:
            raise ValueError(
                f"`x` has dtype {x.dtype}, but the parameters have {self.weight.dtype}; convert one of them, e.g. "
                "conv.to(x.dtype)"
            )


class _Conv(_Convolution):
    padding: tuple[int, ...] | str

    @property
    def _rule(self) -> str:
        unpadded = self.padding == "valid" or not any(isinstance(p, str) or p for p in self.padding)
        return self.mask_rule or ("all" if unpadded else "centre")

    def _move(self, sites: Tensor) -> Tensor:
        return masks.through_conv(
            sites,
            self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            rule=self._rule,
        )

    def _transform(self, x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
        conv = (F.conv1d, F.conv2d, F.conv3d)[len(self.kernel_size) - 1]
        return conv(x, weight, bias, self.stride, self.padding, self.dilation, groups)  # pyrefly: ignore[bad-argument-type] # "same" or sizes, both fine


class _ConvTranspose(_Convolution):
    padding: tuple[int, ...]
    output_padding: tuple[int, ...]

    @property
    def _rule(self) -> str:
        return self.mask_rule or "centre"

    def _move(self, sites: Tensor) -> Tensor:
        return masks.through_conv_transpose(
            sites,
            self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            output_padding=self.output_padding,
            dilation=self.dilation,
            rule=self._rule,
        )

    def _transform(self, x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
        conv = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[len(self.kernel_size) - 1]
        return conv(x, weight, bias, self.stride, self.padding, self.output_padding, groups, self.dilation)


class MaskedConv(_Conv):
    r"""nn.Conv on what is observed, eq. (19); use one of its subclasses.

    Shapes (N samples, T steps, \*S sites, C channels in, F channels out):
        x: a sequence (N, T, C, \*S) or frames (N, C, \*S); channels last with `channels_last`.
        mask: True where observed: steps (N, T), sites (N, T, \*S) or elements (x's shape); of frames without T.
        domain: (N, \*S) or (\*S,), True at sites that exist; beyond them is the array's edge, not a missing value.
        returns: (N, T, F, \*S'), zero where the moved mask is False; and that mask: of steps as it came, else of sites
            (N, T, \*S').

    What is not observed is read as zero, by a select: NaN there changes nothing. Steps whose output is all masked are
    not computed in plain eager mode; under torch.compile, export and function transforms the same result is computed
    densely. Parameters are nn.Conv's; state_dicts load from it.

    Args:
        in_channels: C.
        out_channels: F.
        kernel_size: taps, an int or one int a site axis.
        stride: likewise.
        padding: zeros on both sides, likewise, or "valid" (none) or "same" (stride 1).
        dilation: as kernel_size.
        groups: into which the channels are cut.
        bias: whether there is a bias; it stands outside the ratio of `renormalize`.
        padding_mode: "zeros".
        mask_rule: where the output is observed: where the site under the kernel's "centre" is, or "all" of the taps
            inside the array, or "any" (what papers on partial convolutions use; a mask of padding then grows into it).
            None takes "all" without padding, else "centre": with these padding is invisible.
        renormalize: partial convolution (Liu et al. 2018): multiply the sum by the number of (tap, channel) pairs
            inside the array and domain over the number of these that are observed.
        channels_last: whether channels are the last axis.
        device: of the parameters.
        dtype: of the parameters.
    """


class MaskedConvTranspose(_ConvTranspose):
    r"""nn.ConvTranspose on what is observed, eq. (20); use one of its subclasses.

    Shapes (N samples, T steps, \*S sites, C channels in, F channels out):
        x: a sequence (N, T, C, \*S) or frames (N, C, \*S); channels last with `channels_last`.
        mask: True where observed: steps (N, T), sites (N, T, \*S) or elements (x's shape); of frames without T.
        domain: (N, \*S) or (\*S,), True at sites that exist.
        returns: (N, T, F, \*S'), zero where the moved mask is False; and that mask: of steps as it came, else of sites
            (N, T, \*S'). S' = (S-1)·stride - 2·padding + dilation·(kernel_size-1) + 1 + output_padding.

    Masked work is skipped as in MaskedConv. Parameters are nn.ConvTranspose's; state_dicts load from it.

    Args:
        in_channels: C.
        out_channels: F.
        kernel_size: taps, an int or one int a site axis.
        stride: likewise.
        padding: output sites cut off on both sides, likewise.
        output_padding: output sites added behind, likewise.
        groups: into which the channels are cut.
        bias: whether there is a bias; it stands outside the ratio of `renormalize`.
        dilation: as kernel_size.
        padding_mode: "zeros".
        mask_rule: where the output is observed: where the input site nearest to it is ("centre", the default, None), or
            "all" or "any" of the input sites that reach it.
        renormalize: multiply the sum by the number of input sites and channels that reach the output site over the
            number of these that are observed.
        channels_last: whether channels are the last axis.
        device: of the parameters.
        dtype: of the parameters.
    """


class MaskedConv1d(MaskedConv, nn.Conv1d):
    """nn.Conv1d on what is observed; arguments and shapes are those of MaskedConv."""

    rank = 1


class MaskedConv2d(MaskedConv, nn.Conv2d):
    """nn.Conv2d on what is observed; arguments and shapes are those of MaskedConv."""

    rank = 2


class MaskedConv3d(MaskedConv, nn.Conv3d):
    """nn.Conv3d on what is observed; arguments and shapes are those of MaskedConv."""

    rank = 3


class MaskedConvTranspose1d(MaskedConvTranspose, nn.ConvTranspose1d):
    """nn.ConvTranspose1d on what is observed; arguments and shapes are those of MaskedConvTranspose."""

    rank = 1


class MaskedConvTranspose2d(MaskedConvTranspose, nn.ConvTranspose2d):
    """nn.ConvTranspose2d on what is observed; arguments and shapes are those of MaskedConvTranspose."""

    rank = 2


class MaskedConvTranspose3d(MaskedConvTranspose, nn.ConvTranspose3d):
    """nn.ConvTranspose3d on what is observed; arguments and shapes are those of MaskedConvTranspose."""

    rank = 3
