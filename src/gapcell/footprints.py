"""Which input sites a convolution reads for each output site, an axis at a time, and what a mask makes of them.

Sections 1 and 4 of docs/semantics.md, and for the transposed convolution section 9.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral
from typing import NamedTuple

from gapcell import arrays
from gapcell.arrays import Array
from gapcell.spec import Spec

__all__ = ["Footprint", "of_convolution", "of_transposed_convolution", "through"]

Padding = str | int | Sequence[int]


class Footprint(NamedTuple):
    """Input positions on one axis, some of which may lie outside the array.

    Plain lists: torch.compile would trace NumPy code into the graph.

    Attributes:
        reads: for each output site the positions that reach it.
        centres: for each output site the one position in the middle of these.
    """

    reads: list[list[int]]
    centres: list[int]


def of_convolution(spec: Spec, sites: Sequence[int], padding: Padding) -> list[Footprint]:
    """One footprint a site axis.

    Args:
        spec: kernel sizes, strides, dilations and where "same" places its zeros.
        sites: *S.
        padding: "same" or "valid" as the spec says; or zeros on both sides of every axis, as nn.Conv takes them.

    Raises:
        ValueError: the kernel is larger than the input with its zeros.
    """
    spans = [d * (k - 1) for d, k in zip(spec.sizes("dilation"), spec.sizes("kernel_size"), strict=True)]
    strides = spec.sizes("stride")
    if isinstance(padding, str):
        lefts, outs = [left for left, _ in spec.input_padding(tuple(sites))], spec.output_sites(tuple(sites))
    else:
        lefts = list(_zeros(padding, spec.rank))
        room = [size + 2 * left - span for size, left, span in zip(sites, lefts, spans, strict=True)]
        if min(room) < 1:
            raise ValueError(
                f"`kernel_size` {spec.kernel_size} with dilation {spec.dilation} covers more sites than the input "
                f"{tuple(sites)} has with `padding` {padding}; use more padding or a smaller kernel"
            )
        outs = [(each - 1) // stride + 1 for each, stride in zip(room, strides, strict=True)]
    footprints = []
    for left, out, span, stride, dilation in zip(lefts, outs, spans, strides, spec.sizes("dilation"), strict=True):
        firsts = [site * stride - left for site in range(out)]
        centre = span if spec.causal else span // 2
        reads = [list(range(first, first + span + 1, dilation)) for first in firsts]
        footprints.append(Footprint(reads, [first + centre for first in firsts]))
    return footprints


def of_transposed_convolution(
    spec: Spec, sites: Sequence[int], padding: Padding, output_padding: int | Sequence[int]
) -> list[Footprint]:
    """One footprint a site axis; arguments as for `of_convolution`.

    Args:
        spec: likewise.
        sites: *S of the input.
        padding: "valid" keeps every output site, "same" gives L·stride of them, those that the convolution with the
            same options read; or sites cut off on both sides, as nn.ConvTranspose takes them.
        output_padding: sites added behind, as nn.ConvTranspose takes them.

    Raises:
        ValueError: no output site is left.
    """
    behind = _zeros(output_padding, spec.rank, "output_padding")
    footprints = []
    for axis, size in enumerate(sites):
        kernel, stride, dilation = (spec.sizes(name)[axis] for name in ("kernel_size", "stride", "dilation"))
        span = dilation * (kernel - 1)
        left = 0
        if padding == "same":
            left = span // 2 if spec.same_padding == "torch" else max(span + 1 - stride, 0) // 2
        elif not isinstance(padding, str):
            left = _zeros(padding, spec.rank)[axis]
        out = size * stride if padding == "same" else (size - 1) * stride + span + 1 - 2 * left + behind[axis]
        if out < 1:
            raise ValueError(f"`padding` {padding} leaves no output site of an input with sites {tuple(sites)}")
        offsets = [tap * dilation for tap in range(kernel)]
        reads = [
            [(at - offset) // stride if (at - offset) % stride == 0 else -1 for offset in offsets]
            for at in range(left, left + out)
        ]
        # The nearest input site, of two the left one: its own output lies span/2 behind its first.
        nearest = [math.ceil((at - span / 2) / stride - 0.5) for at in range(left, left + out)]
        footprints.append(Footprint(reads, [min(max(each, 0), size - 1) for each in nearest]))
    return footprints


def through(mask: Array, footprint: Footprint, axis: int, rule: str) -> Array:
    """The mask with one site axis moved to the output sites.

    Args:
        mask: bool.
        footprint: of the axis.
        axis: which.
        rule: "centre", "all" (of the positions inside the array) or "any". Where no position lies inside, the centre
            decides, and where that lies outside too, nothing is observed.
    """
    size = mask.shape[axis]
    if footprint.centres == list(range(size)) and rule == "centre":
        return mask
    reads = [[centre] for centre in footprint.centres]
    if rule != "centre":
        pairs = zip(footprint.reads, footprint.centres, strict=True)
        reads = [taps if any(0 <= p < size for p in taps) else [centre] * len(taps) for taps, centre in pairs]
    read = arrays.take(mask, [[min(max(p, 0), size - 1) for p in taps] for taps in reads], axis)
    lies_inside = [[0 <= p < size for p in taps] for taps in reads]
    if all(map(all, lies_inside)):
        return arrays.all_along(read, axis + 1) if rule == "all" else arrays.any_along(read, axis + 1)
    inside = arrays.expand(arrays.same_kind(lies_inside, mask), mask.ndim - axis + 1)
    if rule == "all":
        somewhere = arrays.expand(arrays.same_kind([any(taps) for taps in lies_inside], mask), mask.ndim - axis)
        return arrays.all_along(read | ~inside, axis + 1) & somewhere
    return arrays.any_along(read & inside, axis + 1)


def _zeros(padding: int | Sequence[int], rank: int, name: str = "padding") -> tuple[int, ...]:
    amounts = tuple(padding) if isinstance(padding, Sequence) else (padding,) * rank
    if len(amounts) != rank or not all(isinstance(amount, Integral) and amount >= 0 for amount in amounts):
        raise ValueError(f"`{name}` is {padding!r}, expected a number of sites or {rank} of them (rank {rank})")
    return tuple(int(amount) for amount in amounts)
