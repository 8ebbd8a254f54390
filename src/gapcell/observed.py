"""What a layer sees of a batch: which values are observed, which exist, and where the state steps.

Equations (1) to (5), (11), (14) and the times of (24) of docs/semantics.md, for NumPy, PyTorch, JAX and TensorFlow
arrays alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gapcell import arrays, masks, surprises
from gapcell.arrays import Array
from gapcell.spec import Spec

__all__ = [
    "Coverage",
    "Elapsed",
    "Seen",
    "Waits",
    "resolve",
    "see",
    "through_input_convolution",
    "wait",
    "wait_for_windows",
]


_PASSES = {"predict": "steps through missing values", "decay": "lets the state decay in missing steps"}


class Elapsed(NamedTuple):
    """The times of eq. (24), (N, T) or of a series' events (N, S), in the order of the steps; 0 where none exists.

    Attributes:
        ahead: since the step before.
        back: likewise for a direction that runs backwards; None where there is none.
    """

    ahead: Array
    back: Array | None

    def cast_wide(self, like: Array) -> Elapsed:
        """In the type of `like`, or in float32 where that is narrower."""
        return Elapsed(*(None if times is None else arrays.cast_wide(times, like) for times in self))

    def reversed(self) -> Elapsed:
        """For the reversed sequence, eq. (13)."""
        assert self.back is not None  # noqa: S101 # `resolve` knew of the direction
        return Elapsed(arrays.reverse(self.back, 1), None)


class Waits(NamedTuple):
    """How long a state decays that steps at some of the steps only.

    Attributes:
        before: (N, T) the time since the last of these before each step.
        since: (N, T) the same where the state does not step, else 0.
        rest: (N,) from the last of these to the end.
    """

    before: Array
    since: Array
    rest: Array


class Coverage(NamedTuple):
    """A caller's mask, lengths, domain and dt, checked, masks as bool; None: everything.

    Attributes:
        elements: e of eq. (1) as far as the mask says it, channels last: (N, T), (N, T, *S) or (N, T, *S, C).
        exists: eq. (4), (N, T) or (N, T, *S); of a series the events, (N, S).
        domain: (N, *S); always None for a series, whose domain speaks of events.
        elapsed: the times between the steps; None unless the state decays.
    """

    elements: Array | None
    exists: Array | None
    domain: Array | None
    elapsed: Elapsed | None = None


class Seen(NamedTuple):
    """What the layers read.

    Attributes:
        x: x~ of eq. (2).
        update: u of eq. (5), (N, T) or (N, T, *S'), or for a series `kept` of eq. (14), (N, S); None: True everywhere.
        domain: the domain at the output sites, (N, *S', 1), for eq. (11); None: all of them.
        elapsed: the times between the steps; None unless the state decays.
    """

    x: Array
    update: Array | None
    domain: Array | None
    elapsed: Elapsed | None


def resolve(
    spec: Spec,
    x: Array,
    mask: Array | None,
    lengths: Array | None,
    domain: Array | None,
    dt: Array | None = None,
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
        dt: (N, T), or of a series (N, S): the time since the step or event before, for gap="decay"; None: 1.
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
    if spec.gap != "hold" and lengths is None and dt is None and elements is not None:
        _warn_of_padding(elements, spec.gap)
    if spec.window is not None:
        exists = _existing_events(lengths, domain, sites, x)
        return Coverage(elements, exists, None, _elapsed(spec, dt, exists, sites, x))
    exists = masks.existing(lengths, domain, sites, x)
    within = masks.existing(lengths, None, sites, x) if spec.gap == "decay" else None
    domain = None if domain is None else _domain(domain, (sites[0], *sites[2:]), x)
    return Coverage(elements, exists, domain, _elapsed(spec, dt, within, sites, x))


def see(spec: Spec, x: Array, coverage: Coverage) -> Seen:
    """Select what is observed of x (channels last), and find where the state of the first layer steps."""
    elements = _both(coverage.elements, coverage.exists)
    if elements is not None:
        x = arrays.where(masks.expand(elements, x.ndim), x, 0)
    moved = coverage.exists
    if spec.gap != "predict" and elements is not None:
        moved = masks.observed_sites(elements, x.ndim)
    if spec.window is not None:
        return Seen(x, moved, None, coverage.elapsed)
    domain = coverage.domain
    if domain is not None:
        domain = through_input_convolution(spec, domain[:, None])[:, 0, ..., None]
    update = None if moved is None else through_input_convolution(spec, moved)
    return Seen(x, update, domain, coverage.elapsed)


def wait(elapsed: Array, steps: Array) -> Waits:
    """The times (N, T) between those of the steps where `steps` (N, T) is True; the first counts from the beginning."""
    before = masks.time_since(steps, elapsed)
    since = arrays.where(steps, arrays.zeros((), before), before)
    last = arrays.arange(arrays.shape(steps)[1], steps) == arrays.shape(steps)[1] - 1
    return Waits(before, since, arrays.sum_along(arrays.where(last, since, 0), 1))


def wait_for_windows(elapsed: Array, kept: Array | None, window: int) -> Waits:
    """`wait` for the kept events of a series, `before` being (N, T) that of each window's first event."""
    kept = arrays.ones(arrays.shape(elapsed), elapsed) if kept is None else kept
    waits = wait(elapsed, kept)
    before, _ = masks.compact(waits.before, kept)
    return waits._replace(before=masks.windows(before, window)[..., 0])


def _elapsed(spec: Spec, dt: Array | None, exists: Array | None, sizes: Sequence[int], like: Array) -> Elapsed | None:
    """Times of steps or events; `exists` says which exist, (N, T), and `sizes` begins with these sizes."""
    if spec.gap != "decay":
        if dt is not None:
            raise ValueError(
                f'`dt` is given, but `gap` is "{spec.gap}": only gap="decay" looks at the time; leave it out'
            )
        return None
    sizes = tuple(sizes)[:2]
    exists = arrays.ones(sizes, like) if exists is None else exists
    dt = arrays.ones(sizes, like) if dt is None else _checked_times(arrays.same_kind(dt, like), exists, sizes)
    ahead = arrays.where(exists, arrays.as_float(dt), 0)
    return Elapsed(ahead, _backwards(ahead, exists) if spec.bidirectional or spec.go_backwards else None)


def _backwards(ahead: Array, exists: Array) -> Array:
    """To each step that exists, the time from the one after it."""
    first = exists & (arrays.cumulative_count(exists, 1) == 1)
    behind = arrays.reverse(arrays.where(first, arrays.zeros((), ahead), ahead), 1)
    place = arrays.arange(arrays.shape(ahead)[1], exists)
    behind = arrays.where(place > 0, arrays.take(behind, arrays.where(place > 0, place - 1, 0), 1), 0)
    waited = arrays.reverse(masks.time_since(arrays.reverse(exists, 1), behind), 1)
    return arrays.where(exists, waited, 0)


def _checked_times(dt: Array, exists: Array, sizes: Sequence[int]) -> Array:
    if not arrays.equal_sizes(dt.shape, sizes):
        raise ValueError(
            f"`dt` has shape {tuple(dt.shape)}, but the input has {tuple(sizes)} rows and steps: expected "
            f"{tuple(sizes)}, the time since the step before"
        )
    if arrays.is_bool(dt) or arrays.is_complex(dt):
        raise ValueError(
            f"`dt` has dtype {dt.dtype}, expected floating point or integers, the time since the step before"
        )
    if arrays.is_concrete(dt) and arrays.is_concrete(exists):
        values, there = arrays.look_at(dt), arrays.look_at(exists)
        # Not finite: 0 times infinity would make NaN of a rate of 0.
        wrong = values[there & ~((values >= 0) & (values < float("inf")))]
        if len(wrong):
            raise ValueError(
                f"`dt` holds {float(wrong[0])} at a step that exists, expected finite times of at least 0; beyond "
                "`lengths` it may hold anything"
            )
    return arrays.of_sizes(dt, tuple(sizes), "`dt` has other rows or steps than the input")


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


def _warn_of_padding(elements: Array, gap: str) -> None:
    if not arrays.is_concrete(elements) or 0 in elements.shape:
        return
    elements = arrays.look_at(elements)
    steps = elements if elements.ndim == 2 else elements.reshape((*elements.shape[:2], -1)).any(-1)
    if not bool(steps[:, 0].all() and steps[:, -1].all()):
        surprises.warn(
            f'gap="{gap}" {_PASSES[gap]}, and the mask of a row begins or ends in steps without any '
            "observation. If these are padding, say so with lengths=; if they are real, pass lengths to silence this"
        )
