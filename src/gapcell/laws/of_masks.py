"""Laws 1 to 6: what is masked, padded or dead is not there."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from gapcell.laws.adapter import Adapter, Gradients, has_gradients, need_params
from gapcell.laws.adapters.reference import ReferenceLayer
from gapcell.laws.cases import Case, like, parts
from gapcell.laws.comparison import (
    all_arrays,
    all_gradients,
    assert_close,
    assert_same,
    assert_zero,
    cotangents,
    garbage,
)
from gapcell.laws.verdicts import CannotBeAsked, ask_each, require

FILLS = (1e30, np.nan, np.inf, -np.inf)


def law_1_values_under_the_mask_change_nothing(layer: Adapter, case: Case) -> None:
    """Bitwise, also NaN cotangents at zero outputs; the input gradient under the mask is exactly 0."""
    if case.observed.all():
        raise CannotBeAsked("a case with nothing under its mask")
    base = garbage(case, 0.0)
    y, last = layer.run(base)
    for fill in FILLS:
        assert_same(layer.run(garbage(case, fill)), (y, last), f"values with {fill} under the mask")
    if not has_gradients(layer):
        return
    dy, dstate = cotangents(layer, base)
    held = (y == 0).all(axis=-1) if case.spec.masked_output == "zero" else np.zeros(y.shape[:-1], dtype=bool)
    want = layer.grad(base, np.where(held[..., None], np.asarray(0, y.dtype), dy), dstate)
    for fill in FILLS:
        spoiled = np.where(held[..., None], np.asarray(np.nan, y.dtype), dy)
        got = layer.grad(garbage(case, fill), spoiled, dstate)
        assert_same(
            (got.y, got.last), (want.y, want.last), f"values with {fill} under the mask, in a pass with gradients"
        )
        assert_same(got.params, want.params, f"parameter gradients with {fill} under the mask")
        assert_same((got.x, parts(got.state)), (want.x, parts(want.state)), f"input gradients with {fill} there")
        assert_zero(got.x[~case.observed], "the input gradient under the mask is not 0")


def law_2_all_ones_is_no_mask(layer: Adapter, case: Case) -> None:
    """Whatever the shape and the type of the mask."""
    case = case.but(mask=None)
    want = layer.run(case)
    wanted = layer.grad(case, *cotangents(layer, case)) if has_gradients(layer) else None
    shapes = {case.x.shape[:2], case.x.shape[:-1], case.x.shape}
    ask_each(partial(_ask_ones, layer, case, shape, want, wanted) for shape in sorted(shapes, key=len))


def _ask_ones(layer: Adapter, case: Case, shape: tuple[int, ...], want: Any, wanted: Gradients | None) -> None:
    for dtype in (bool, np.int64, np.float32):
        ones = case.but(mask=np.ones(shape, dtype))
        assert_close(layer.run(ones), want, f"a mask of ones {shape} {np.dtype(dtype)}")
    if wanted is not None and has_gradients(layer):
        got = layer.grad(ones, *cotangents(layer, case))
        assert_close(all_gradients(got), all_gradients(wanted), f"gradients under a mask of ones {shape}")


# Padding, dead sites, rows --------


def law_3_padding_is_absence(layer: Adapter, case: Case) -> None:
    """For values and gradients; NaN stands in the padding, and it is said as docs/semantics.md says for each gap."""
    N, T = case.x.shape[:2]
    rng = np.random.default_rng(11)
    inside = np.stack([np.sort(rng.permutation(T + 3)[:T]) for _ in range(N)])
    ragged = np.arange(T) + rng.integers(0, 4, size=(N, 1))
    places = {"right": np.tile(np.arange(T), (N, 1)), "left": np.tile(np.arange(3, T + 3), (N, 1)), "both": ragged}
    if case.spec.gap == "hold":  # elsewhere what is masked inside a row is a missing step
        places["inside"] = inside
    values = layer.run(case)
    ask_each(partial(_ask_padding, layer, case, values, where, place) for where, place in places.items())


def _ask_padding(layer: Adapter, case: Case, values: tuple[np.ndarray, Any], where: str, place: np.ndarray) -> None:
    N, T = case.x.shape[:2]
    longer, take = _padded(case, place, T + 3), (np.arange(N)[:, None], place)
    got, got_last = layer.run(longer)
    assert_close((got[take], got_last), values, f"padding: {where}")
    if not has_gradients(layer):
        return
    dy, dstate = cotangents(layer, case)
    longer_dy = np.zeros(got.shape, got.dtype)
    longer_dy[take] = dy
    found, want = layer.grad(longer, longer_dy, dstate), layer.grad(case, dy, dstate)
    found = replace(found, x=found.x[take])
    assert_close(all_gradients(found), all_gradients(want), f"gradients, padding: {where}")


def _padded(case: Case, place: np.ndarray, T: int) -> Case:
    """The steps of the case at `place` (N, T before) among T, NaN between them; hidden by mask, or by lengths."""
    N, rows = len(place), np.arange(len(place))[:, None]
    x = np.full((N, T, *case.x.shape[2:]), np.nan, case.x.dtype)
    x[rows, place] = case.x
    mask = np.ones(case.x.shape[:2], dtype=bool) if case.mask is None else case.mask
    hold = case.spec.gap == "hold"
    longer = np.full((N, T, *mask.shape[2:]), not hold, dtype=mask.dtype)  # beyond the lengths a mask says nothing
    longer[rows, place] = mask
    lengths = None
    if case.lengths is not None or not hold:
        first, count = np.append(place, np.full((N, 1), T), axis=1), np.diff(case.bounds, axis=1)
        start = np.take_along_axis(first, case.bounds[:, :1], axis=1)
        stop = np.take_along_axis(first, np.maximum(case.bounds[:, 1:] - 1, 0), axis=1) + 1
        lengths = np.concatenate([start, np.where(count > 0, stop, start)], axis=1)
    domain = case.domain
    if domain is not None and case.spec.window is not None:
        within = np.broadcast_to(domain, case.x.shape[:2])
        domain = np.ones((N, T), dtype=bool)
        domain[rows, place] = within
    dt = None
    if case.dt is not None:
        dt = np.full((N, T), np.nan, case.dt.dtype)
        dt[rows, place] = case.dt
    return case.but(x=x, mask=longer, lengths=lengths, domain=domain, dt=dt)


def law_4_dead_sites_are_a_narrower_input(layer: Adapter, case: Case) -> None:
    """Only for inputs with sites; with a stride or "valid" dead sites are appended on the right only."""
    spec = case.spec
    case = case.but(mask=case.observed.copy())
    plain = spec.padding == "same" and set(spec.sizes("stride")) == {1}
    sides = ((0, 2), (2, 1)) if plain else ((0, 2),)
    ask_each(partial(_ask_dead_sites, layer, case, axis, pair) for axis in range(spec.rank) for pair in sides)


def _ask_dead_sites(layer: Adapter, case: Case, axis: int, sides: tuple[int, int]) -> None:
    def widen(array: np.ndarray, at: int, fill: Any) -> np.ndarray:
        return np.pad(array, [sides if i == at else (0, 0) for i in range(array.ndim)], constant_values=fill)

    mask = case.observed if case.spec.gap != "predict" else case.observed | ~case.exists[..., None]
    wide_mask = widen(mask, axis + 2, case.spec.gap == "predict")
    everywhere = np.ones(case.x.shape[2:-1], dtype=bool)
    domain = None
    if case.domain is not None or case.spec.gap == "predict":
        given = everywhere if case.domain is None else case.domain
        domain = widen(given, axis + given.ndim - case.spec.rank, False)
    x = widen(case.x, axis + 2, np.nan)
    outputs, fewer = (case.spec.output_sites(array.shape[2:-1])[axis] for array in (x, case.x))
    spare = (sides[0], outputs - sides[0] - fewer)

    def spread(array: np.ndarray) -> np.ndarray:
        return np.pad(array, [spare if i == axis + 2 else (0, 0) for i in range(array.ndim)])

    def narrow(array: np.ndarray, sides: tuple[int, int] = spare) -> np.ndarray:
        return np.take(array, np.arange(sides[0], array.shape[axis + 2] - sides[1]), axis=axis + 2)

    wide = case.but(x=x, mask=wide_mask, domain=domain, state=like(case.state, map(spread, parts(case.state))))
    what = f"{sides} dead sites on axis {axis}"
    got, got_last = layer.run(wide)  # first: a layer that cannot be given it has nothing to answer for
    want, want_last = layer.run(case)
    assert_close(narrow(got), want, what)
    if case.spec.masked_output == "zero":
        assert_same(spread(narrow(got)), got, f"outputs of {what}")
    for g, w in zip(parts(got_last), parts(want_last), strict=True):
        assert_close(narrow(g), w, f"states, {what}")
        assert_same(spread(narrow(g)), g, f"states of {what}")
    if not has_gradients(layer):
        return
    dy, dstate = cotangents(layer, case)
    found = layer.grad(wide, spread(dy), like(dstate, map(spread, parts(dstate))))
    found = replace(found, x=narrow(found.x, sides), state=like(found.state, map(narrow, parts(found.state))))
    assert_close(all_gradients(found), all_gradients(layer.grad(case, dy, dstate)), f"gradients, {what}")


def law_5_rows_do_not_depend_on_each_other(layer: Adapter, case: Case) -> None:
    """Each row alone, all but the first, and the first row last: the same as in the whole batch."""
    N = len(case.x)
    y, last = layer.run(case)
    gradients = has_gradients(layer)
    dy, dstate = cotangents(layer, case)
    want = layer.grad(case, dy, dstate) if gradients else None
    for chosen in [*([n] for n in range(N)), [*range(1, N), 0]]:
        some = _rows(case, chosen)
        got, got_last = layer.run(some)
        assert_close((got, parts(got_last)), (y[chosen], _of_rows(last, chosen)), f"rows {chosen}")
        if want is not None and has_gradients(layer):
            found = layer.grad(some, dy[chosen], like(dstate, _of_rows(dstate, chosen)))
            wanted = (want.x[chosen], _of_rows(want.state, chosen))
            assert_close((found.x, parts(found.state)), wanted, f"gradients of rows {chosen}")


def _of_rows(state: Any, rows: list[int]) -> list[np.ndarray]:
    return [part[:, rows] for part in parts(state)]


def _rows(case: Case, rows: list[int]) -> Case:
    def pick(array: np.ndarray | None) -> np.ndarray | None:
        return None if array is None else array[rows]

    shared = case.domain is None or case.domain.ndim == (1 if case.spec.window is not None else case.spec.rank)
    return case.but(
        x=case.x[rows],
        mask=pick(case.mask),
        lengths=pick(case.lengths),
        domain=case.domain if shared else pick(case.domain),
        state=like(case.state, _of_rows(case.state, rows)),
        dt=pick(case.dt),
    )


def law_6_no_observed_step_returns_the_initial_state(layer: Adapter, case: Case) -> None:
    """For one such row and for a whole batch of them; all that comes out is finite."""
    every = list(range(len(case.x)))
    ask_each(partial(_ask_empty_rows, layer, case, rows) for rows in ([0], every))


def _ask_empty_rows(layer: Adapter, case: Case, rows: list[int]) -> None:
    empty = _emptied(case, rows)
    y, last = layer.run(empty)
    before = _kept_state(layer, empty, last)
    alike = assert_close if case.spec.gap == "decay" else assert_same
    alike(_of_rows(last, rows), [part[:, rows] for part in before], f"states of the empty rows {rows}")
    require(all(np.isfinite(array).all() for array in (y, *parts(last))), "an output or a state is not finite")
    if case.spec.masked_output == "zero":
        assert_zero(y[rows], f"the outputs of the empty rows {rows} are not 0")
    if not has_gradients(layer):
        return
    dy, dstate = cotangents(layer, empty)
    found = layer.grad(empty, dy, dstate)
    finite = all(np.isfinite(array).all() for array in all_arrays(all_gradients(found)))
    require(finite, f"a gradient is not finite where rows {rows} are empty")
    assert_zero(found.x[rows], "the input gradient of an empty row is not 0")
    if len(rows) == len(case.x) and case.spec.masked_output == "zero":
        weights = found.params
        if case.spec.gap == "decay":
            weights = [{name: cell[name] for name in cell if name != "decay"} for cell in found.params]
        for array in all_arrays(weights):
            assert_zero(array, "a parameter gradient of an empty batch is not 0")
        if case.domain is None and case.spec.gap != "decay" and case.state is not None:
            assert_same(parts(found.state), parts(dstate), "the state's gradient is not its cotangent")


def _emptied(case: Case, rows: list[int]) -> Case:
    """The case with nothing observed, under predict nothing in existence, in these rows."""
    if case.spec.gap == "predict":
        lengths = case.bounds.copy()
        lengths[rows] = lengths[rows, :1]
        return garbage(case.but(lengths=lengths))
    mask = np.ones(case.x.shape[:2], dtype=bool) if case.mask is None else case.mask.copy()
    mask[rows] = False
    return garbage(case.but(mask=mask))


def _kept_state(layer: Adapter, case: Case, last: Any) -> tuple[np.ndarray, ...]:
    """The initial state by equation (11), and decayed by equation (24) over all steps; zeros where none is given."""
    if case.state is None or last is None:
        return tuple(np.zeros_like(part) for part in parts(last))
    state = parts(case.state)
    if case.domain is not None and case.spec.window is None:
        dt = None if case.dt is None else case.dt[:, :0]
        state = parts(ReferenceLayer().run(case.but(x=case.x[:, :0], mask=None, lengths=None, dt=dt))[1])
    if case.spec.gap == "decay":
        need_params(layer)
        state = [part * _left(case, part.ndim) for part in state]
    return tuple(part.astype(case.x.dtype) for part in state)


def _left(case: Case, ndim: int) -> np.ndarray:
    """What is left of a state after all steps, (layers·directions, N, ..., F)."""
    first = case.existing_steps & (case.existing_steps.cumsum(axis=1) == 1)
    times = [case.elapsed.sum(axis=1), np.where(first, 0, case.elapsed).sum(axis=1)]  # the way back has one step less
    exponents = [
        np.multiply.outer(
            times[slot % case.spec.directions if case.spec.bidirectional else 0], cell["decay"].clip(min=0)
        )
        for slot, cell in enumerate(case.params)
    ]
    left = np.exp(-np.stack(exponents))
    return left.reshape(*left.shape[:2], *(1,) * (ndim - 3), left.shape[2])
