"""The mask algebra: which values are observed, which exist, and how masks move with the data.

Every function takes NumPy, PyTorch, JAX or TensorFlow arrays and returns the caller's type; no framework is imported
that the caller has not imported. In every mask True means "observed" (docs/semantics.md, section 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gapcell import arrays, footprints
from gapcell.spec import Spec

__all__ = [
    "compact",
    "elapsed",
    "existing",
    "expand",
    "from_lengths",
    "from_nan",
    "from_windows",
    "last_valid",
    "observed_sites",
    "resolve",
    "scatter",
    "through_conv",
    "through_conv_transpose",
    "time_since",
    "windows",
    "with_indicator",
]

Array = arrays.Array


def from_lengths(lengths: Array | Sequence[int], steps: int) -> Array:
    """Which steps exist, from the lengths of ragged sequences.

    Args:
        lengths: (N,) lengths, or (N, 2) with start and stop of each row; integers.
        steps: T, the padded number of steps.

    Returns:
        (N, T) bool, True at existing steps; eq. (4).

    Raises:
        ValueError: the shape fits neither form, the type is not integer, or a value is outside 0..T or start > stop
            (checked where the values are concrete; under tracing they are clamped).
    """
    lengths = arrays.as_array(lengths)
    shape = tuple(lengths.shape)
    if len(shape) not in (1, 2) or (len(shape) == 2 and shape[1] != 2):
        raise ValueError(f"`lengths` has shape {shape}, expected (N,) or (N, 2) with start and stop")
    if not arrays.is_integer(lengths):
        raise ValueError(f"`lengths` has dtype {lengths.dtype}, expected integers counting steps")
    if arrays.is_concrete(lengths):
        _check_lengths(np.asarray(arrays.look_at(lengths).tolist(), np.int64).reshape(shape), steps)
    start, stop = (None, lengths) if len(shape) == 1 else (lengths[:, 0], lengths[:, 1])
    step = arrays.arange(steps, lengths)[None, :]
    within = step < stop[:, None]
    return within if start is None else within & (step >= start[:, None])


def from_nan(x: Array) -> Array:
    """Where `x` holds a value: True where it is not NaN, same shape as `x`."""
    return ~arrays.isnan(arrays.as_array(x))


def resolve(mask: Array, shape: Sequence[int], *, channel_axis: int = -1) -> Array:
    """A user's mask as bool, checked against the shape of the input it belongs to.

    Args:
        mask: bool, integer, or float 0/1, NaN meaning "not observed". Its rank says what it covers: steps (N, T),
            sites (N, T, *S), or elements, the shape of the input. It is never broadcast.
        shape: of the input, e.g. (N, T, *S, C).
        channel_axis: where `shape` has its channels.

    Returns:
        bool of the mask's own shape, True where observed; eq. (1).

    Raises:
        ValueError: rank or sizes do not fit exactly, or a concrete value is neither 0, 1 nor NaN.
    """
    mask, shape = arrays.as_array(mask), tuple(shape)
    channel_axis %= len(shape)
    sites = shape[:channel_axis] + shape[channel_axis + 1 :]
    fitting = {len(kind): kind for kind in (shape[:2], sites, shape)}
    if mask.ndim not in fitting or not arrays.equal_sizes(fitting[mask.ndim], mask.shape):
        expected = " or ".join(str(tuple(kind)) for kind in fitting.values())
        raise ValueError(
            f"`mask` has shape {tuple(mask.shape)}, but the input has shape {shape}: expected {expected}; "
            "a mask is matched exactly and never broadcast"
        )
    return _as_bool(mask)


def existing(lengths: Array | None, domain: Array | None, shape: Sequence[int], like: Array) -> Array | None:
    """Which sites exist at which steps, eq. (4).

    Args:
        lengths: see `from_lengths`; None for all steps.
        domain: (N, *S) or (*S,), True at sites that exist (types as in `resolve`); None for all sites.
        shape: (N, T, *S).
        like: an array whose type and device the result has.

    Returns:
        None if everything exists, (N, T) bool if only lengths are given, else (N, T, *S) bool.

    Raises:
        ValueError: a shape does not fit, or a concrete value is out of range.
    """
    samples, steps, *sites = shape
    within = None
    if lengths is not None:
        lengths = arrays.same_kind(lengths, like)
        if not arrays.equal_sizes(lengths.shape[:1], (samples,)):
            raise ValueError(
                f"`lengths` has shape {tuple(lengths.shape)}, but the input has {samples} rows (N, T, *S) = "
                f"{tuple(shape)}: expected ({samples},) or ({samples}, 2)"
            )
        within = from_lengths(lengths, steps)
    if domain is None:
        return within
    domain = arrays.same_kind(domain, like)
    if not any(arrays.equal_sizes(domain.shape, kind) for kind in ((samples, *sites), sites)):
        raise ValueError(
            f"`domain` has shape {tuple(domain.shape)}, but the input has sites (N, T, *S) = {tuple(shape)}: "
            f"expected {(samples, *sites)} or {tuple(sites)}"
        )
    domain = _as_bool(domain, "domain")
    domain = domain[:, None] if domain.ndim == len(sites) + 1 else domain[None, None]
    everywhere = arrays.ones(tuple(shape), like)
    return everywhere & domain if within is None else everywhere & domain & expand(within, len(shape))


def expand(mask: Array, ndim: int) -> Array:
    """The mask with axes of size 1 behind, so that it selects from an array of `ndim` axes it leads."""
    return arrays.expand(mask, ndim)


def observed_sites(elements: Array, ndim: int) -> Array:
    """Reduce e to v of eq. (3): an element mask of `ndim` axes loses its channels (last); others are returned as is."""
    return arrays.any_along(elements, -1) if elements.ndim == ndim else elements


def through_conv(
    mask: Array,
    kernel_size: int | Sequence[int],
    *,
    stride: int | Sequence[int] = 1,
    padding: str | int | Sequence[int] = "same",
    dilation: int | Sequence[int] = 1,
    rule: str | None = None,
    causal: bool = False,
    same_padding: str = "torch",
) -> Array:
    """A site mask moved to the output sites of a convolution, eq. (5) and section 4.

    Args:
        mask: (N, T, *S) bool, True where observed.
        kernel_size: taps, one int or one a site axis.
        stride: likewise.
        padding: "same", "valid", or zeros on both sides, one int or one a site axis, as nn.Conv takes them.
        dilation: as kernel_size.
        rule: "centre", "all" (all taps inside the array) or "any"; None takes "all" without padding, else "centre".
        causal: the convolution looks back only.
        same_padding: where "same" places its zeros: as "torch" or as "keras" does.

    Returns:
        (N, T, *S') bool.

    Raises:
        ValueError: an option is out of range, or the kernel is larger than the padded input.
    """
    if not isinstance(padding, str) and causal:
        raise ValueError(f'`causal` pads on the left, so `padding` must be "same", but it is {padding!r}')
    options: dict[str, Any] = {"stride": stride, "dilation": dilation, "mask_rule": rule, "causal": causal}
    spec = _geometry(mask, kernel_size, options | {"padding": padding, "same_padding": same_padding})
    found = footprints.of_convolution(spec, tuple(mask.shape[2:]), padding)
    return _through(mask, found, spec.rule)


def through_conv_transpose(
    mask: Array,
    kernel_size: int | Sequence[int],
    *,
    stride: int | Sequence[int] = 1,
    padding: str | int | Sequence[int] = "valid",
    output_padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    rule: str | None = None,
    same_padding: str = "torch",
) -> Array:
    """A site mask moved to the output sites of a transposed convolution, eq. (20).

    Args:
        mask: (N, T, *S) bool, True where observed.
        kernel_size: taps, one int or one a site axis.
        stride: likewise.
        padding: "valid"; "same" for L·stride output sites; or sites cut off on both sides, as nn.ConvTranspose takes
            them.
        output_padding: sites added behind.
        dilation: as kernel_size.
        rule: "centre" (None: the input site nearest to the output site, of two the left one), "all" or "any" of the
            input sites that reach the output site.
        same_padding: as in `through_conv`.

    Returns:
        (N, T, *S') bool.

    Raises:
        ValueError: an option is out of range, or no output site is left.
    """
    options: dict[str, Any] = {"stride": stride, "dilation": dilation, "mask_rule": rule or "centre"}
    spec = _geometry(mask, kernel_size, options | {"padding": padding, "same_padding": same_padding})
    found = footprints.of_transposed_convolution(spec, tuple(mask.shape[2:]), padding, output_padding)
    return _through(mask, found, spec.rule)


def compact(x: Array, mask: Array) -> tuple[Array, Array]:
    """Each row's observed events moved to the front, in order, eq. (15).

    Args:
        x: (N, S, ...).
        mask: (N, S) bool, True at the events to keep.

    Returns:
        x with zeros (False) behind the kept events, and their number a row, (N,) int.
    """
    order = arrays.stable_argsort(~mask)
    moved = arrays.take_rows(x, order)
    counts = arrays.count_along(mask, 1)
    kept = expand(from_lengths(counts, arrays.shape(x)[1]), x.ndim)
    return arrays.where(kept, moved, 0), counts


def scatter(y: Array, mask: Array, held: Array | None = None) -> Array:
    """The way back from `compact`: outputs of kept events put where these were, eq. (18).

    Args:
        y: (N, S, ...) outputs in compacted order.
        mask: (N, S) bool, as given to `compact`.
        held: None gives zeros at events not kept; an array (N, ...) gives the output of the kept event before, and
            `held` before the first.

    Returns:
        (N, S, ...).
    """
    place = arrays.cumulative_count(mask, 1) - 1
    spread = arrays.take_rows(y, arrays.where(place >= 0, place, 0))
    if held is None:
        return arrays.where(expand(mask, y.ndim), spread, 0)
    return arrays.where(expand(place >= 0, y.ndim), spread, held[:, None])


def windows(x: Array, window: int) -> Array:
    """A series (N, S, ...) cut into windows: (N, ceil(S/W), W, ...), zeros (False) at the end, eq. (16)."""
    events = arrays.shape(x)[1]
    steps = (events + window - 1) // window
    place = arrays.arange(steps, x)[:, None] * window + arrays.arange(window, x)
    exists = place < events
    return arrays.where(expand(exists[None], x.ndim + 1), arrays.take(x, arrays.where(exists, place, 0), 1), 0)


def from_windows(y: Array, events: int) -> Array:
    """The way back from `windows`: (N, T, W, ...) to (N, events, ...)."""
    samples, steps, window, *rest = arrays.shape(y)
    if arrays.namespace(y).__name__ != "torch" or arrays.is_concrete(y):
        return arrays.reshape(y, (samples, steps * window, *rest))[:, :events]
    # A reshape and a slice would oblige an exporter to prove that `events` fits, which it cannot for a dynamic number.
    place = arrays.arange(events, y)
    return y[:, place // window, place % window]


def last_valid(y: Array, mask: Array) -> Array:
    """The value at each row's last observed step, zeros where nothing is observed.

    Args:
        y: (N, T, ...).
        mask: (N, T) bool, or (N, T, *S) for the last observed step of each site.

    Returns:
        (N, ...), y without its step axis.
    """
    mask = _as_bool(arrays.as_array(mask))
    if not arrays.equal_sizes(y.shape[: mask.ndim], mask.shape):
        raise ValueError(
            f"`mask` has shape {tuple(mask.shape)}, but `y` {tuple(y.shape)}: expected leading axes of `y`"
        )
    is_last = mask & (arrays.cumulative_count(mask, 1) == arrays.count_along(mask, 1)[:, None])
    return arrays.sum_along(arrays.where(expand(is_last, y.ndim), y, 0), 1)


def with_indicator(x: Array, mask: Array, *, channel_axis: int = -1) -> Array:
    """x~ with what is observed as further channels, so that a layer can tell a missing value from a zero, section 10.

    Args:
        x: (N, T, *S, C), or with its channels at `channel_axis`; of floating point.
        mask: steps (N, T), sites (N, T, *S) or elements; see `resolve`.
        channel_axis: of x and of an element mask.

    Returns:
        x with zeros where nothing is observed, and behind its C channels 1 more (steps, sites) or C more (elements) of
        its dtype: 1 where observed, else 0.

    Raises:
        ValueError: the mask does not fit x.
    """
    x = arrays.as_array(x)
    observed = resolve(arrays.same_kind(mask, x), arrays.shape(x), channel_axis=channel_axis)
    values = arrays.move_axis(x, channel_axis, -1)
    if observed.ndim == x.ndim:
        observed = arrays.move_axis(observed, channel_axis, -1)
    observed = expand(observed, x.ndim)
    places = values[..., :1] if observed.shape[-1] == 1 else values
    indicator = arrays.where(observed & arrays.ones(arrays.shape(places), x), arrays.cast(observed, x), 0)
    joined = arrays.concatenate([arrays.where(observed, values, 0), indicator], -1)
    return arrays.move_axis(joined, -1, channel_axis)


def elapsed(mask: Array, dt: Array | None = None) -> Array:
    """The time since the last observation before each step, eq. (25): GRU-D's delta (Che et al. 2018).

    Args:
        mask: (N, T), or with further axes, (N, T, *S) or (N, T, *S, C), to ask for each site or value of its own.
        dt: (N, T) the time since the step before, at least 0; that of the first step is not looked at. None: 1.

    Returns:
        The shape of the mask; 0 at the first step. Before the first observation it counts from the first step. Of the
        floating-point type of `dt`, or where that has none, of the framework's default.

    Raises:
        ValueError: `dt` is not (N, T), or the mask holds other values than 0, 1 and NaN.
    """
    mask = _as_bool(arrays.as_array(mask))
    steps = arrays.shape(mask)[:2]
    dt = arrays.ones(steps, mask) if dt is None else arrays.same_kind(dt, mask)
    if not arrays.equal_sizes(dt.shape, mask.shape[:2]):
        raise ValueError(
            f"`dt` has shape {tuple(dt.shape)}, but the mask has shape {tuple(mask.shape)}: expected "
            f"{tuple(mask.shape[:2])}"
        )
    later = arrays.arange(steps[1], mask) > 0
    return time_since(mask, arrays.where(later, arrays.as_float(dt), 0))


def time_since(mask: Array, dt: Array) -> Array:
    """The sum of dt (N, T) over the steps behind the last one before each step where the mask (N, T, ...) is True."""
    place = arrays.arange(arrays.shape(mask)[1], mask)
    before = arrays.take(mask, arrays.where(place > 0, place - 1, 0), 1)
    restart = before & (place > 0)[(slice(None), *(None,) * (mask.ndim - 2))]
    return arrays.running_sum(arrays.where(mask | ~mask, expand(dt, mask.ndim), 0), restart)


def _as_bool(mask: Array, name: str = "mask") -> Array:
    if arrays.is_bool(mask):
        return mask
    if arrays.is_complex(mask):
        raise ValueError(f"`{name}` has dtype {mask.dtype}, expected bool, integer or float 0/1 with 1 = observed")
    # NaN compares unequal to everything, so it never counts as observed.
    observed = mask == 1
    if arrays.is_concrete(mask):
        values = arrays.look_at(mask)
        if not bool(((values == 1) | (values == 0) | (values != values)).all()):
            raise ValueError(
                f"`{name}` holds values other than 0, 1 and NaN; it must be bool, integer or float 0/1 with "
                "1 = observed"
            )
    return observed


def _check_lengths(lengths: np.ndarray, steps: int) -> None:
    start, stop = (np.zeros_like(lengths), lengths) if lengths.ndim == 1 else lengths.T
    wrong = np.flatnonzero((start < 0) | (stop > steps) | (start > stop))
    if wrong.size:
        row = int(wrong[0])
        raise ValueError(
            f"`lengths` says steps {int(start[row])} to {int(stop[row])} for row {row}, but the input has {steps} "
            f"steps: expected 0 <= start <= stop <= {steps} (shapes {stop.shape} and {steps} steps)"
        )


def _geometry(mask: Array, kernel_size: int | Sequence[int], options: dict[str, Any]) -> Spec:
    """The options checked, as those of a layer."""
    padding = options["padding"]
    if not isinstance(padding, str):
        # Spec knows no numbers; what they say of the mask rule it says too.
        unpadded = padding == 0 or (not isinstance(padding, int) and not any(padding))
        options = options | {"padding": "valid" if unpadded else "same"}
    sizes: dict[str, Any] = {n: tuple(value) if isinstance(value, list) else value for n, value in options.items()}
    kernel = kernel_size if isinstance(kernel_size, int) else tuple(kernel_size)
    return Spec(rank=mask.ndim - 2, in_channels=1, filters=1, kernel_size=kernel, **sizes)


def _through(mask: Array, found: Sequence[footprints.Footprint], rule: str) -> Array:
    for axis, footprint in enumerate(found, start=2):
        mask = footprints.through(mask, footprint, axis, rule)
    return mask
