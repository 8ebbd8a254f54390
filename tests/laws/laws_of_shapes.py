"""Laws 10 to 13: shapes, inputs and the agreement with the reference."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from laws.cases import Case, like, make_case, parts
from laws.comparison import all_arrays, all_gradients, assert_close, assert_same, cotangents, garbage, has_gradients
from laws.layers import Layer, ReferenceLayer


def law_10_no_accidents_of_shape(layer: Layer, case: Case) -> None:
    masks = [("step", None), ("site", None), ("element", None), (None, None), ("site", "shared"), ("site", "row")]
    for n, T, size in ((3, 3, 3), (1, 4, 3), (4, 1, 3), (1, 1, 1), (2, 2, 2)):
        channels = 3 if n == 3 else case.spec.in_channels
        spec = replace(case.spec, in_channels=channels, filters=3, padding="same")
        for mask, domain in masks:
            same = make_case(spec, mask, N=n, T=T, sites=(size,) * spec.rank, domain=domain, dtype=case.x.dtype)
            what = f"N {n}, T {T}, L {size}, C {channels}, F 3, {mask} mask, {domain} domain"
            _assert_near_reference(layer, same, what)


def _assert_near_reference(layer: Layer, case: Case, what: str) -> None:
    """Far closer than any accident could be; law 13 measures the rest."""
    dtype = case.x.dtype
    want = [array.astype(dtype) for array in all_arrays(ReferenceLayer().run(case))]
    assert_close([np.asarray(array, dtype) for array in all_arrays(layer.run(case))], want, what, scale=10)


def law_11_wrong_shapes_are_refused(layer: Layer, case: Case) -> None:
    """For a layer in the canonical layout; the message holds the shape that came and one that was wanted."""
    accepted = getattr(layer, "accepted_masks", lambda case: set())(case)
    for name, wrong, changes in _wrong_shapes(case):
        if name == "mask" and wrong in accepted:
            continue
        message = _refusal(layer, case.but(**changes))
        assert message is not None, f"{name} of shape {wrong} is accepted, the input being {case.x.shape}"
        shapes = re.findall(r"\([^()]*\)", message)
        assert str(wrong) in shapes, f"{name} {wrong}: the message does not name the shape: {message}"
        assert set(shapes) - {str(wrong)}, f"{name} {wrong}: the message does not name the shape wanted: {message}"


def _refusal(layer: Layer, case: Case) -> str | None:
    try:
        layer.run(case)
    except ValueError as error:
        return str(error)
    return None


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
    for shape in ((state[0].shape[0] + 1, *state[0].shape[1:]), (*state[0].shape[:-1], 1), state[0].shape[:-1]):
        for index in range(len(state)):
            given = [np.zeros(shape, case.x.dtype) if i == index else part for i, part in enumerate(state)]
            yield "state", shape, {"state": like(case.state, given)}


def law_12_inputs_are_not_changed(layer: Layer, case: Case) -> None:
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
        assert np.array_equal(array, copy, equal_nan=array.dtype.kind == "f"), "an input was changed in place"
    assert not any(np.shares_memory(array, out) for array in given for out in (y, *parts(last))), "a result is an input"


def law_13_agrees_with_the_reference(layer: Layer, case: Case, plain: Layer) -> None:
    """Values against gapcell.reference, gradients against `plain` in float64.

    In float32 the yardstick is `plain` without mask, lengths and domain, against its own float64 results.
    """
    wide = _as_float64(case)
    y, last = layer.run(case)
    _check_error([y, *parts(last)], all_arrays(ReferenceLayer().run(wide)), _yardstick(case, plain, gradients=False))
    if not has_gradients(layer):
        return
    dy, dstate = cotangents(layer, case)
    found = layer.grad(case, dy, dstate)
    assert_close((found.y, found.last), (y, last), "values with and without gradients")
    want = plain.grad(wide, dy.astype(np.float64), like(dstate, [part.astype(np.float64) for part in parts(dstate)]))
    _check_error(
        all_arrays(all_gradients(found)), all_arrays(all_gradients(want)), _yardstick(case, plain, gradients=True)
    )


def _as_float64(case: Case) -> Case:
    params = [{name: array.astype(np.float64) for name, array in cell.items()} for cell in case.params]
    state = like(case.state, [part.astype(np.float64) for part in parts(case.state)])
    return case.but(params=params, x=case.x.astype(np.float64), state=state)


def _yardstick(case: Case, plain: Layer, gradients: bool) -> list[float] | None:
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
        assert g.shape == w.shape, f"array {index}: shape {g.shape}, expected {w.shape}"
        largest = np.abs(w).max(initial=0)
        eps = np.finfo(np.float32).eps
        limit = 1e-12 * largest + noise if yardstick is None else 2 * yardstick[index] + 4 * eps * largest
        error = np.abs(g - w).max(initial=0)
        assert error <= limit, f"array {index}: error {error:.2e}, allowed {limit:.2e}"
