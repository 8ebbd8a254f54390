"""The recurrence over time on TensorFlow: a while loop of `gapcell.cell`, with a backward pass that keeps little.

Over few sites a convolution is written as its taps side by side and one matrix product, and the gradient of a kernel
always is: under XLA, with which `fit` compiles, TensorFlow's own gradient of a convolution runs at a twentieth of that
speed. Left to TensorFlow, the loop's gradient would keep every intermediate value of every step; here it keeps
pre-activations and states. Equations: docs/semantics.md, section 2.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import tensorflow as tf

from gapcell import arrays, cell
from gapcell.spec import Spec

__all__ = ["OPERATIONS", "Loop", "Weights"]

Tensor = Any
Sizes = tuple[int, ...]

_MANY_SITES = 64  # from here on a convolution costs less than copying its taps side by side


OPERATIONS = cell.Operations(tf.sigmoid, tf.tanh, tf.where, partial(tf.split, axis=-1))


class Weights(NamedTuple):
    """What a step convolves with: for the LSTM one kernel over x and h together, for the GRU one each.

    Attributes:
        kernels: (*k, channels, gates*F) each; where x and h are read in different geometries, (taps·channels, gates*F).
        biases: (gates*F,) each, or None; the GRU's second is bhn in its block.
        decay: rates of eq. (24), (F,), or None.
    """

    kernels: tuple[Tensor, ...]
    biases: tuple[Tensor | None, ...]
    decay: Tensor | None

    @property
    def present(self) -> list[Tensor]:
        """All that there are, in this order."""
        return [weight for weight in (*self.kernels, *self.biases, self.decay) if weight is not None]

    def like(self, values: Sequence[Tensor]) -> Weights:
        """Other values in the places of `present`."""
        rest = iter(values)
        kernels, biases, (decay,) = (
            tuple(None if weight is None else next(rest) for weight in group)
            for group in (self.kernels, self.biases, (self.decay,))
        )
        return Weights(kernels, biases, decay)

    @classmethod
    def of(
        cls,
        spec: Spec,
        kernel: Tensor,
        recurrent_kernel: Tensor,
        bias: Tensor | None,
        recurrent_bias: Tensor | None,
        decay: Tensor | None,
    ) -> Weights:
        """The parameters of `Spec.parameter_shapes` as the loop wants them."""
        if spec.cell == "gru":
            padded = None if bias is None else tf.pad(recurrent_bias, [(2 * spec.filters, 0)])
            return cls((kernel, recurrent_kernel), (bias, padded), decay)
        if _joint(spec):
            return cls((tf.concat([kernel, recurrent_kernel], -2),), (bias,), decay)
        return cls((tf.concat([_flat(kernel), _flat(recurrent_kernel)], 0),), (bias,), decay)


class _Kept(NamedTuple):
    """What the backward pass reads: pre-activations of every step, and the states after it, steps first."""

    products: tuple[Tensor, ...]
    states: tuple[Tensor, ...]


@dataclass(frozen=True)
class Loop:
    """The recurrence of one layer in one direction.

    Attributes:
        spec: of the layer.
        operations: of one step.
        dropout: scale on h_(t-1) inside eq. (6), broadcast over (N, *S', F); None: none.
        keep: whether to keep what a backward pass needs; it computes all of it again otherwise.
    """

    spec: Spec
    operations: cell.Operations
    dropout: Tensor | None
    keep: bool

    def run(
        self, weights: Weights, x: Tensor, update: Tensor | None, elapsed: Tensor | None, state: cell.State
    ) -> tuple[Tensor, cell.State]:
        """The states after every step, hs (T, N, *S', F), and the last state.

        Args:
            weights: of the layer.
            x: (T, N, *S, C) x~ of eq. (2), padded for the input convolution.
            update: u of eq. (5), bool, (T, N, *S', 1) or with axes of size 1; None: all True.
            elapsed: (T, N) the time since the step before, eq. (24); None: the state does not decay.
            state: (h, c) or (h,), each (N, *S', F).
        """
        given = [x, *state, *weights.present]

        @tf.custom_gradient
        def recurrence(*given: Tensor) -> tuple[Any, Callable[..., Any]]:
            x, state, held = given[0], given[1 : 1 + len(start)], weights.like(given[1 + len(start) :])
            hs, kept, last = self._forward(held, x, update, elapsed, state, self.keep)

            def gradients(dhs: Tensor, *dlast: Tensor) -> tuple[Tensor, ...]:
                residuals = kept if self.keep else self._forward(held, x, update, elapsed, state, True)[1]
                return self._backward(held, x, update, elapsed, state, residuals, dhs, dlast)

            return (hs, *last), gradients

        start = state
        hs, *last = recurrence(*given)
        return hs, tuple(last)

    def _forward(
        self,
        weights: Weights,
        x: Tensor,
        update: Tensor | None,
        elapsed: Tensor | None,
        state: cell.State,
        keep: bool,
    ) -> tuple[Tensor, _Kept, cell.State]:
        steps = arrays.shape(x)[0]
        kinds = len(weights.kernels) if keep else 0
        widths = [self.spec.gates * self.spec.filters] * kinds + [self.spec.filters] * (len(state) if keep else 1)
        written = [
            tf.TensorArray(state[0].dtype, steps, element_shape=(*state[0].shape[:-1], width), clear_after_read=False)
            for width in widths
        ]

        def body(time: Tensor, written: list[Any], before: cell.State) -> tuple[Any, ...]:
            before = _decayed(before, weights.decay, _at(elapsed, time))
            products = self._multiply(weights, x[time], before[0])
            after = self._activate(products, _at(update, time), before)
            values = [*products[:kinds], *after]
            written = [array.write(time, value) for array, value in zip(written, values, strict=False)]
            return time + 1, written, after

        _, written, last = _loop(steps, body, (tf.constant(0), written, state))
        return written[kinds].stack(), _Kept(tuple(written[:kinds]), tuple(written[kinds:])), last

    def _backward(
        self,
        weights: Weights,
        x: Tensor,
        update: Tensor | None,
        elapsed: Tensor | None,
        state: cell.State,
        kept: _Kept,
        dhs: Tensor,
        dlast: cell.State,
    ) -> tuple[Tensor, ...]:
        """The gradients of x, state, kernels and biases from those of hs and the last state."""
        steps = arrays.shape(x)[0]
        dxs = tf.TensorArray(x.dtype, steps, element_shape=x.shape[1:])

        def body(count: Tensor, dxs: Any, dafter: cell.State, sums: list[Tensor]) -> tuple[Any, ...]:
            time = steps - 1 - count
            products = tuple(product.read(time) for product in kept.products)
            before = tuple(
                tf.where(time > 0, after.read(tf.maximum(time - 1, 0)), part)
                for part, after in zip(state, kept.states, strict=True)
            )
            decayed = _decayed(before, weights.decay, _at(elapsed, time))
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch((products, decayed))
                after = self._activate(products, _at(update, time), decayed)
            upstream = (dafter[0] + dhs[time], *dafter[1:])
            dproducts, ddecayed = tape.gradient(after, (products, decayed), upstream, unconnected_gradients="zero")
            dx, dh, shares = self._multiplied(weights, x[time], decayed[0], dproducts)
            ddecayed = (ddecayed[0] + dh, *ddecayed[1:])
            dbefore, drates = _through_decay(before, weights.decay, _at(elapsed, time), ddecayed)
            shares += drates
            sums = [total + share for total, share in zip(sums, shares, strict=True)]
            return count + 1, dxs.write(time, dx), dbefore, sums

        nothing = [tf.zeros_like(weight) for weight in weights.present]
        _, dxs, dstate, sums = _loop(steps, body, (tf.constant(0), dxs, tuple(dlast), nothing))
        return (dxs.stack(), *dstate, *sums)

    def _read(self, x: Tensor, h: Tensor) -> list[list[tuple[_Geometry, Tensor]]]:
        """What each kernel reads, in the dtype of x, and how."""
        entered = _enter(self.spec, tf.cast(h if self.dropout is None else h * self.dropout, x.dtype))
        of_input, of_state = _geometries(self.spec)
        if _joint(self.spec):
            return [[(of_state, tf.concat([x, entered], -1))]]
        both = [(of_input, x), (of_state, entered)]
        return [both] if self.spec.cell == "lstm" else [[each] for each in both]

    def _multiply(self, weights: Weights, x: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        """Eq. (6): (a + r,) for the LSTM, (a, r) for the GRU, r with bhn; each (N, *S', gates*F)."""
        products = []
        for read, kernel, bias in zip(self._read(x, h), weights.kernels, weights.biases, strict=True):
            low = tf.cast(kernel, x.dtype)
            if _convolves(read, h):
                product = tf.reshape(tf.nn.convolution(read[0][1], low), (-1, kernel.shape[-1]))
            else:
                product = tf.matmul(_rows(read), _flat(low))
            product = tf.cast(product, h.dtype)
            if bias is not None:
                product = tf.nn.bias_add(product, bias)
            products.append(tf.reshape(product, (*arrays.shape(h)[:-1], kernel.shape[-1])))
        return tuple(products)

    def _multiplied(
        self, weights: Weights, x: Tensor, h: Tensor, dproducts: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """The gradients of x, h, kernels and biases from those of `_multiply`."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch((x, h))
            products = self._read(x, h)
        dkernels, dbiases, dread = [], [], []
        for read, kernel, bias, dproduct in zip(products, weights.kernels, weights.biases, dproducts, strict=True):
            flat = tf.reshape(dproduct, (-1, kernel.shape[-1]))
            if bias is not None:  # a product with ones: TensorFlow's own sum over rows is slower
                dbiases.append(tf.matmul(tf.ones((1, arrays.shape(flat)[0]), flat.dtype), flat)[0])
            low, low_kernel = tf.cast(flat, x.dtype), tf.cast(kernel, x.dtype)
            # Summed over steps in the parameters' type: in bfloat16 the sum would stop growing.
            share = tf.matmul(_rows(read), low, transpose_a=True)
            dkernels.append(tf.reshape(tf.cast(share, kernel.dtype), kernel.shape))
            if _convolves(read, h):
                dread += [_convolved(tf.cast(dproduct, x.dtype), low_kernel)]
            else:
                dread += _scattered(tf.matmul(low, _flat(low_kernel), transpose_b=True), read)
        dx, dh = tape.gradient([array for read in products for _, array in read], (x, h), dread)
        return dx, dh, dkernels + dbiases

    def _activate(self, products: tuple[Tensor, ...], update: Tensor | None, before: cell.State) -> cell.State:
        a, r = products if len(products) == 2 else (*products, tf.zeros((), before[0].dtype))
        return cell.step(self.operations, self.spec, a, r, before, update=update)


def _loop(steps: Any, body: Callable[..., Any], start: Any) -> Any:
    return tf.while_loop(lambda count, *_: count < steps, body, start, maximum_iterations=steps)


def _at(array: Tensor | None, time: Tensor) -> Tensor | None:
    return None if array is None else array[time]


def _decayed(state: cell.State, rates: Tensor | None, elapsed: Tensor | None) -> cell.State:
    """Eq. (24)."""
    return state if elapsed is None else tuple(cell.decayed(part, rates, elapsed) for part in state)


def _through_decay(
    state: cell.State, rates: Tensor | None, elapsed: Tensor | None, ddecayed: cell.State
) -> tuple[cell.State, list[Tensor]]:
    """The gradients of the state and of the rates from those of `_decayed`."""
    if elapsed is None:
        return ddecayed, []
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch((state, rates))
        decayed = _decayed(state, rates, elapsed)
    dstate, drates = tape.gradient(decayed, (state, rates), ddecayed)
    return dstate, [drates]


def _joint(spec: Spec) -> bool:
    """Whether both convolutions are one over the channels of x and h together."""
    of_input, of_state = _geometries(spec)
    return spec.cell == "lstm" and of_input == of_state


def _convolves(read: list[tuple[_Geometry, Tensor]], h: Tensor) -> bool:
    """Whether TensorFlow's own convolution is the faster one: in float32, over many sites, stride and dilation 1."""
    geometry, array = read[0]
    plain = len(read) == 1 and {*geometry.stride, *geometry.dilation} == {1}
    return plain and array.dtype == tf.float32 and math.prod(h.shape[1:-1]) >= _MANY_SITES


def _convolved(gradient: Tensor, kernel: Tensor) -> Tensor:
    """The gradient of what a convolution read, as a convolution: XLA is slow at TensorFlow's own gradient."""
    sites = range(len(kernel.shape) - 2)
    turned = tf.transpose(tf.reverse(kernel, list(sites)), [*sites, len(sites) + 1, len(sites)])
    around = [(size - 1, size - 1) for size in kernel.shape[:-2]]
    return tf.nn.convolution(tf.pad(gradient, [(0, 0), *around, (0, 0)]), turned)


def _flat(kernel: Tensor) -> Tensor:
    return tf.reshape(kernel, (-1, kernel.shape[-1]))


def _rows(read: list[tuple[_Geometry, Tensor]]) -> Tensor:
    """What a kernel reads at each tap side by side, (N·S', taps·channels)."""
    taps = [tap for geometry, array in read for tap in geometry.taps(array)]
    return tf.reshape(tf.concat(taps, -1), (-1, sum(tap.shape[-1] for tap in taps)))


def _scattered(rows: Tensor, read: list[tuple[_Geometry, Tensor]]) -> list[Tensor]:
    """The adjoint of `_rows`."""
    widths = [array.shape[-1] for geometry, array in read for _ in range(geometry.number)]
    pieces = iter(tf.split(rows, widths, -1))
    return [geometry.scatter([next(pieces) for _ in range(geometry.number)], array) for geometry, array in read]


class _Geometry(NamedTuple):
    """Where the taps of a convolution lie over padded sites."""

    size: Sizes
    stride: Sizes
    dilation: Sizes

    @property
    def number(self) -> int:
        """How many taps there are."""
        return math.prod(self.size)

    def taps(self, x: Tensor) -> list[Tensor]:
        """What each tap reads of padded (N, *S, channels), in the kernel's order, (N, *S', channels) each."""
        return [
            x[(slice(None), *(slice(first, first + (n - 1) * s + 1, s) for first, n, s in place))]
            for place in self._places(x)
        ]

    def scatter(self, taps: list[Tensor], like: Tensor) -> Tensor:
        """The adjoint of `taps`, from (N·S', channels) each; far faster than the gradients of as many slices."""
        spread = []
        for tap, place in zip(taps, self._places(like), strict=True):
            sites = tf.reshape(tap, (-1, *(n for _, n, _ in place), tap.shape[-1]))
            for axis, (_, n, stride) in enumerate(place, start=1):
                sites = _apart(sites, axis, n, stride)
            behind = [
                size - first - (n - 1) * s - 1 for size, (first, n, s) in zip(like.shape[1:-1], place, strict=True)
            ]
            spread.append(
                tf.pad(
                    sites,
                    [(0, 0), *((first, after) for (first, _, _), after in zip(place, behind, strict=True)), (0, 0)],
                )
            )
        return tf.add_n(spread)

    def _places(self, x: Tensor) -> list[list[tuple[int, int, int]]]:
        """First site, number of sites and stride on each axis, tap by tap."""
        geometry = list(zip(x.shape[1:-1], *self, strict=True))
        counts = [(length - d * (k - 1) - 1) // s + 1 for length, k, s, d in geometry]
        return [
            [(t * d, n, s) for t, n, (_, _, s, d) in zip(tap, counts, geometry, strict=True)]
            for tap in itertools.product(*map(range, self.size))
        ]


def _geometries(spec: Spec) -> tuple[_Geometry, _Geometry]:
    """Of the input convolution and of the recurrent one."""
    once = (1,) * spec.rank
    of_input = _Geometry(spec.sizes("kernel_size"), spec.sizes("stride"), spec.sizes("dilation"))
    return of_input, _Geometry(spec.sizes("recurrent_kernel_size"), once, once)


def _apart(x: Tensor, axis: int, sites: int, stride: int) -> Tensor:
    """Stride - 1 zeros between the sites of one axis."""
    if stride == 1:
        return x
    before, behind = arrays.shape(x)[:axis], x.shape[axis + 1 :]
    wide = tf.reshape(x, (*before, sites, 1, *behind))
    wide = tf.pad(wide, [(0, stride - 1) if place == axis + 1 else (0, 0) for place in range(len(wide.shape))])
    return tf.reshape(wide, (*before, sites * stride, *behind))[
        (slice(None),) * axis + (slice(0, (sites - 1) * stride + 1),)
    ]


def _enter(spec: Spec, h: Tensor) -> Tensor:
    """h_(t-1) with what the recurrent convolution reads beyond its sites: zeros, or by eq. (17) the previous window."""
    padding = spec.recurrent_padding()
    if spec.window is None:
        return _padded(h, padding)
    ((left, right),) = padding
    wrapped = min(left, spec.window)
    return _padded(tf.concat([h[:, spec.window - wrapped :], h], 1), ((left - wrapped, right),))


def _padded(h: Tensor, padding: Sequence[tuple[int, int]]) -> Tensor:
    return tf.pad(h, [(0, 0), *padding, (0, 0)]) if any(map(any, padding)) else h
