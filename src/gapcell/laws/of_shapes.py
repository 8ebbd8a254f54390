"""Laws 10 to 13: shapes, inputs and the agreement with the reference."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from gapcell.laws.adapter import Adapter, has_gradients, need_params
from gapcell.laws.adapters.reference import ReferenceLayer
from gapcell.laws.cases import Case, like, make_case, parts
from gapcell.laws.comparison import all_arrays, all_gradients, assert_close, assert_same, cotangents, garbage
from gapcell.laws.verdicts import CannotBeAsked, LawBroken, ask_each, require

SLOPE = {np.dtype(np.float64): 1e-6, np.dtype(np.float32): 1e-4}  # allowed, of the sum of the terms' magnitudes


def law_10_no_accidents_of_shape(layer: Adapter, case: Case, plain: Adapter | None = None) -> None:
    """Where sizes are equal, or 1, and nothing tells the axes apart.

    With a yardstick at hand against gapcell.reference. Else the layer is compared with itself beside one more row and
    before one more step, where the sizes are equal no longer: that needs no weights from outside, and a layer that is
    wrong about masks whatever the sizes is not said to be wrong about shapes.
    """
    question = _ask_beside_more if plain is None else _ask_near_reference
    ask_each(partial(question, layer, same, what) for same, what in _cases_of_equal_sizes(case))


def _cases_of_equal_sizes(case: Case) -> Iterator[tuple[Case, str]]:
    masks = [("step", None), ("site", None), ("element", None), (None, None), ("site", "shared"), ("site", "row")]
    masks.append(("padding", None))
    one = case.x.ndim > 3 and set(case.x.shape[2:-1]) == {1}  # a layer of one site: no other number fits it
    for n, T, size in ((3, 3, 3), (1, 4, 3), (4, 1, 3), (1, 1, 1), (2, 2, 2)):
        channels = 3 if n == 3 else case.spec.in_channels
        spec = replace(case.spec, in_channels=channels, filters=3, padding="same")
        sites = (1 if one else size,) * spec.rank
        for mask, domain in masks:
            same = make_case(spec, mask, N=n, T=T, sites=sites, domain=domain, dtype=case.x.dtype)
            same = same.but(state=None) if case.state is None else same
            yield same, f"N {n}, T {T}, L {sites[0]}, C {channels}, F 3, {mask} mask, {domain} domain"


def _ask_near_reference(layer: Adapter, case: Case, what: str) -> None:
    """Far closer than any accident could be; law 13 measures the rest."""
    dtype = case.x.dtype
    want = [array.astype(dtype) for array in all_arrays(ReferenceLayer().run(case))]
    assert_close([np.asarray(array, dtype) for array in all_arrays(layer.run(case))], want, what, scale=10)


def _ask_beside_more(layer: Adapter, case: Case, what: str) -> None:
    y, last = layer.run(case)
    got, got_last = layer.run(_with_one_more(case, axis=0))
    few = [part[:, :-1] for part in parts(got_last)]
    assert_close((got[:-1], few), (y, parts(last)), f"{what}: beside one more row", scale=10)
    if not case.spec.bidirectional and (case.spec.window is None or case.spec.causal):
        longer, _ = layer.run(_with_one_more(case, axis=1))
        assert_close(longer[:, :-1], y, f"{what}: before one more step", scale=10)


def _with_one_more(case: Case, axis: int) -> Case:
    """The last row or step twice; where there are lengths, the step is beyond them."""

    def longer(array: np.ndarray | None, along: int = axis) -> np.ndarray | None:
        return None if array is None else np.concatenate([array, array.take([-1], along)], axis=along)

    more = case.but(x=longer(case.x), mask=longer(case.mask), dt=longer(case.dt))
    if axis == 1:
        return more if case.spec.window is None else more.but(domain=longer(case.domain, -1))  # it is of events
    by_row = case.domain is not None and case.domain.ndim > case.spec.rank
    state = like(case.state, [longer(part, 1) for part in parts(case.state)])
    return more.but(lengths=longer(case.lengths), domain=longer(case.domain) if by_row else case.domain, state=state)


def law_11_wrong_shapes_are_refused(layer: Adapter, case: Case) -> None:
    """For a layer in the canonical layout; the message holds the shape that came and one that was wanted."""
    layer.run(case)  # the right ones are accepted
    accepted = getattr(layer, "accepted_masks", lambda case: set())(case)
    ask_each(
        partial(_ask_refusal, layer, case.but(**changes), name, wrong)
        for name, wrong, changes in _wrong_shapes(case)
        if name != "mask" or wrong not in accepted
    )


def _ask_refusal(layer: Adapter, case: Case, name: str, wrong: tuple[int, ...]) -> None:
    try:
        layer.run(case)
    except CannotBeAsked:
        raise
    except ValueError as error:
        message = str(error)
    except Exception as error:
        raise LawBroken(f"{name} of shape {wrong}: raised {type(error).__name__}, not a ValueError: {error}") from error
    else:
        raise LawBroken(f"{name} of shape {wrong} is accepted")
    shapes = re.findall(r"\([^()]*\)", message)
    require(str(wrong) in shapes, f"{name} {wrong}: the message does not name the shape: {message}")
    require(set(shapes) - {str(wrong)}, f"{name} {wrong}: the message does not name the shape wanted: {message}")


def _wrong_shapes(case: Case) -> Iterator[tuple[str, tuple[int, ...], dict[str, Any]]]:
    N, T, *rest = case.x.shape
    sites, series = tuple(rest[:-1]), case.spec.window is not None
    masks = {(N,), (T, N), (N, T + 1), (N + 1, T), (1, T), (N, 1), (N, T, *sites, 1), (N, T, 1), (1, T, *sites)}
    masks |= {(N, T, *sites, rest[-1] + 1), (N, T, *sites, 1, 1), (N, T, rest[-1], *sites)}
    for shape in masks - {(N, T), (N, T, *sites), case.x.shape}:
        yield "mask", shape, {"mask": np.ones(shape, dtype=bool)}
    for shape in ((N + 1,), (N, 3), (1, N), (1,)):
        yield "lengths", shape, {"lengths": np.ones(shape, dtype=np.int64)}
    if case.spec.gap == "decay":
        for shape in ((N,), (T, N), (N, T + 1), (N, 1), (N, T, 1)):
            yield "dt", shape, {"dt": np.ones(shape, case.x.dtype)}
    places = (T,) if series else sites
    for shape in ((N + 1, *places), (1, *places), (*places[:-1], places[-1] + 1), (N, 1, *places)):
        yield "domain", shape, {"domain": np.ones(shape, dtype=bool)}
    for shape in ((N, T, *sites, rest[-1] + 1), (N, *case.x.shape)):
        yield "input", shape, {"x": np.zeros(shape, case.x.dtype), "mask": None}
    state = parts(case.state)
    if not state:
        return
    for shape in ((state[0].shape[0] + 1, *state[0].shape[1:]), (*state[0].shape[:-1], 1), state[0].shape[:-1]):
        for index in range(len(state)):
            given = [np.zeros(shape, case.x.dtype) if i == index else part for i, part in enumerate(state)]
            yield "state", shape, {"state": like(case.state, given)}


def law_12_inputs_are_not_changed(layer: Adapter, case: Case) -> None:
    """Nor is a result the memory of an input."""
    case = garbage(case)
    given = [array for array in (case.x, case.mask, case.lengths, case.domain, case.dt) if array is not None]
    given += [*parts(case.state), *all_arrays(case.params)]
    before = [array.copy() for array in given]
    y, last = layer.run(case)
    if has_gradients(layer):
        dy, dstate = cotangents(layer, case)
        copies = dy.copy(), [part.copy() for part in parts(dstate)]
        layer.grad(case, dy, dstate)
        assert_same((dy, parts(dstate)), copies, "a cotangent was changed")
    for array, copy in zip(given, before, strict=True):
        same = np.array_equal(array, copy, equal_nan=array.dtype.kind == "f")
        require(same, f"an input of shape {array.shape} was changed in place")
    shared = any(np.shares_memory(array, out) for array in given for out in (y, *parts(last)))
    require(not shared, "a result shares the memory of an input")


def law_13_agrees_with_the_reference(layer: Adapter, case: Case, plain: Adapter | None = None) -> None:
    """Values against gapcell.reference, gradients against `plain` in float64.

    In float32 the yardstick is `plain` without mask, lengths and domain, against its own float64 results. Without
    `plain` float32 may differ by 2e-5 of the largest value, and gradients are compared with the slope of the reference
    in a random direction.
    """
    need_params(layer)
    wide = _as_float64(case)
    y, last = layer.run(case)
    want = ReferenceLayer().run(wide)
    if last is None:
        want = want[0], None
    if plain is None and case.x.dtype == np.float32:
        assert_close(all_arrays((y, last)), [array.astype(y.dtype) for array in all_arrays(want)], "values", scale=10)
    else:
        _check_error(all_arrays((y, last)), all_arrays(want), _yardstick(case, plain, gradients=False))
    if not has_gradients(layer):
        return
    dy, dstate = cotangents(layer, case)
    found = layer.grad(case, dy, dstate)
    assert_close((found.y, found.last), (y, last), "values with and without gradients")
    if plain is None or not has_gradients(plain):
        _check_slope(wide, found, dy, dstate, SLOPE[case.x.dtype])
        return
    wanted = plain.grad(wide, dy.astype(np.float64), like(dstate, [part.astype(np.float64) for part in parts(dstate)]))
    _check_error(
        all_arrays(all_gradients(found)), all_arrays(all_gradients(wanted)), _yardstick(case, plain, gradients=True)
    )


def _check_slope(case: Case, found: Any, dy: np.ndarray, dstate: Any, tolerance: float) -> None:
    """The gradients' slope in a random direction against the reference's, by central differences."""
    rng, step = np.random.default_rng(5), 1e-5
    towards = case.but(
        params=[{name: rng.normal(size=array.shape) for name, array in cell.items()} for cell in case.params],
        x=rng.normal(size=case.x.shape),
        state=like(case.state, [rng.normal(size=part.shape) for part in parts(case.state)]),
    )
    terms = [
        (g * d).sum(dtype=np.float64)
        for g, d in zip(
            all_arrays(all_gradients(found)),
            all_arrays((towards.params, towards.x, parts(towards.state))),
            strict=True,
        )
    ]

    def objective(step: float) -> float:
        moved = case.but(
            params=[{k: a[k] + step * b[k] for k in a} for a, b in zip(case.params, towards.params, strict=True)],
            x=case.x + step * towards.x,
            state=like(
                case.state, [a + step * b for a, b in zip(*map(parts, (case.state, towards.state)), strict=True)]
            ),
        )
        y, last = ReferenceLayer().run(moved)
        return float(np.vdot(y, dy) + sum(np.vdot(a, b) for a, b in zip(parts(last), parts(dstate), strict=False)))

    measured = (objective(step) - objective(-step)) / (2 * step)
    error, limit = abs(measured - sum(terms)), tolerance * (abs(measured) + sum(map(abs, terms)))
    require(error <= limit, f"gradients: the slope differs by {error:.2e}, allowed {limit:.2e}")


def _as_float64(case: Case) -> Case:
    params = [{name: array.astype(np.float64) for name, array in cell.items()} for cell in case.params]
    state = like(case.state, [part.astype(np.float64) for part in parts(case.state)])
    return case.but(params=params, x=case.x.astype(np.float64), state=state)


def _yardstick(case: Case, plain: Any, gradients: bool) -> list[float] | None:
    """The error of the plain unmasked form in the case's dtype, array by array; None in float64."""
    if case.x.dtype == np.float64:
        return None
    bare = case.but(mask=None, lengths=None, domain=None)
    if not gradients:
        narrow, wide = all_arrays(plain.run(bare)), all_arrays(ReferenceLayer().run(_as_float64(bare)))
    else:
        dy, dstate = cotangents(plain, bare)
        wide_dstate = like(dstate, [part.astype(np.float64) for part in parts(dstate)])
        narrow = all_arrays(all_gradients(plain.grad(bare, dy, dstate)))
        wide = all_arrays(all_gradients(plain.grad(_as_float64(bare), dy.astype(np.float64), wide_dstate)))
    return [float(np.abs(a - b).max(initial=0)) for a, b in zip(narrow, wide, strict=True)]


def _check_error(got: list[np.ndarray], want: list[np.ndarray], yardstick: list[float] | None) -> None:
    # Sums that cancel to almost nothing keep the rounding of their terms.
    noise = 4 * np.finfo(np.float64).eps * max(np.abs(w).max(initial=0) for w in want)
    for index, (g, w) in enumerate(zip(got, want, strict=True)):
        require(g.shape == w.shape, f"array {index}: shape {g.shape}, expected {w.shape}")
        largest = np.abs(w).max(initial=0)
        eps = np.finfo(np.float32).eps
        limit = 1e-12 * largest + noise if yardstick is None else 2 * yardstick[index] + 4 * eps * largest
        error = np.abs(g - w).max(initial=0)
        require(error <= limit, f"array {index}: error {error:.2e}, allowed {limit:.2e}")
