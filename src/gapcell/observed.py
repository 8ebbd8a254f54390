"""What a layer sees of a batch: which values are observed, which exist, and where the state steps.

Equations (1) to (5), (11) and (14) of docs/semantics.md, for NumPy, PyTorch, JAX and TensorFlow arrays alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gapcell import arrays, masks, surprises
from gapcell.arrays import Array
from gapcell.spec import Spec

__all__ = ["Coverage", "Seen", "resolve", "see", "through_input_convolution"]


class Coverage(NamedTuple):
    """A caller's mask, lengths and domain, checked and as bool; None: everything.

    Attributes:
        elements: e of eq. (1) as far as the mask says it, channels last: (N, T), (N, T, *S) or (N, T, *S, C).
        exists: eq. (4), (N, T) or (N, T, *S); of a series the events, (N, S).
        domain: (N, *S); always None for a series, whose domain speaks of events.
    """

    elements: Array | None
    exists: Array | None
    domain: Array | None


class Seen(NamedTuple):
    """What the layers read.

    Attributes:
        x: x~ of eq. (2).
        update: u of eq. (5), (N, T) or (N, T, *S'), or for a series `kept` of eq. (14), (N, S); None: True everywhere.
        domain: the domain at the output sites, (N, *S', 1), for eq. (11); None: all of them.
    """

    x: Array
    update: Array | None
    domain: Array | None


def resolve(
    spec: Spec,
    x: Array,
    mask: Array | None,
    lengths: Array | None,
    domain: Array | None,
    *,
    channel_axis: int = -1,
) -> Coverage:
    """Check what a caller says about a batch.

    Args:
        spec: of the layer.
        x: the input, its channels at `channel_axis`.
        mask: see `masks.resolve`.
        lengths: see `masks.from_lengths`.
        domain: see `masks.existing`.
        channel_axis: of x and of an element mask.

    Raises:
        ValueError: a shape does not fit, or a concrete value is out of range.
    """
    elements = None
    if mask is not None:
        elements = masks.resolve(arrays.same_kind(mask, x), arrays.shape(x), channel_axis=channel_axis)
        if elements.ndim == x.ndim:
            elements = arrays.move_axis(elements, channel_axis, -1)
    sites = list(arrays.shape(x))
    del sites[channel_axis]
    if spec.gap == "predict" and lengths is None and elements is not None:
        _warn_of_padding(elements)
    if spec.window is not None:
        return Coverage(elements, _existing_events(lengths, domain, sites, x), None)
    exists = masks.existing(lengths, domain, sites, x)
    return Coverage(elements, exists, None if domain is None else _domain(domain, (sites[0], *sites[2:]), x))


def see(spec: Spec, x: Array, coverage: Coverage) -> Seen:
    """Select what is observed of x (channels last), and find where the state of the first layer steps."""
    elements = _both(coverage.elements, coverage.exists)
    if elements is not None:
        x = arrays.where(masks.expand(elements, x.ndim), x, 0)
    moved = coverage.exists
    if spec.gap == "hold" and elements is not None:
        moved = masks.observed_sites(elements, x.ndim)
    if spec.window is not None:
        return Seen(x, moved, None)
    domain = coverage.domain
    if domain is not None:
        domain = through_input_convolution(spec, domain[:, None])[:, 0, ..., None]
    return Seen(x, None if moved is None else through_input_convolution(spec, moved), domain)


def _existing_events(lengths: Array | None, domain: Array | None, events: Sequence[int], like: Array) -> Array | None:
    within = masks.existing(lengths, None, events, like)
    return within if domain is None else _both(within, _domain(domain, events, like))


def _domain(domain: Array, sites: Sequence[int], like: Array) -> Array:
    """The domain over (N, *S)."""
    exists = masks.existing(None, domain, (sites[0], 1, *sites[1:]), like)
    assert exists is not None  # noqa: S101 # a domain was given
    return exists[:, 0]


def through_input_convolution(spec: Spec, sites: Array) -> Array:
    """What is known of the input's sites, (N, T, *S), moved to the output's; what is known of steps stays, eq. (5)."""
    if sites.ndim == 2:
        return sites
    return masks.through_conv(
        sites,
        spec.sizes("kernel_size"),
        stride=spec.sizes("stride"),
        padding=spec.padding,
        dilation=spec.sizes("dilation"),
        rule=spec.rule,
        causal=spec.causal,
        same_padding=spec.same_padding,
    )


def _both(left: Array | None, right: Array | None) -> Array | None:
    if left is None or right is None:
        return right if left is None else left
    ndim = max(left.ndim, right.ndim)
    return masks.expand(left, ndim) & masks.expand(right, ndim)


def _warn_of_padding(elements: Array) -> None:
    if not arrays.is_concrete(elements) or 0 in elements.shape:
        return
    elements = arrays.look_at(elements)
    steps = elements if elements.ndim == 2 else elements.reshape((*elements.shape[:2], -1)).any(-1)
    if not bool(steps[:, 0].all() and steps[:, -1].all()):
        surprises.warn(
            'gap="predict" steps through missing values, and the mask of a row begins or ends in steps without any '
            "observation. If these are padding, say so with lengths=; if they are real, pass lengths to silence this"
        )
