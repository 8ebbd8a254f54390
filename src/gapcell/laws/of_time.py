"""Laws 7 to 9, 15 and 16: splits, causality, directions and elapsed time."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from gapcell.laws.adapter import Adapter, Gradients, has_gradients, need_params
from gapcell.laws.cases import Case, like, parts
from gapcell.laws.comparison import all_arrays, all_gradients, assert_close, assert_zero, cotangents
from gapcell.laws.verdicts import CannotBeAsked, ask_each


def law_7_a_split_with_carried_state_is_the_whole(layer: Adapter, case: Case) -> None:
    """One direction; a series is cut where a window ends in every row."""
    values = layer.run(case)
    if not parts(values[1]):
        raise CannotBeAsked("its last state")
    dy, dstate = cotangents(layer, case)
    want = layer.grad(case, dy, dstate) if has_gradients(layer) else None
    cuts = [cut for cut in range(case.x.shape[1] + 1) if may_cut(case, cut)]
    if len(cuts) < 3:
        raise CannotBeAsked("a case without a step to cut before")
    ask_each(partial(_ask_split, layer, case, cut, values, want, (dy, dstate)) for cut in cuts)


def _ask_split(layer: Adapter, case: Case, cut: int, values: Any, want: Gradients | None, cotangents: Any) -> None:
    (y, last), (dy, dstate) = values, cotangents
    before, after = _steps(case, slice(0, cut)), _steps(case, slice(cut, None))
    head, state = layer.run(before)
    after = after.but(state=state)
    tail, end = layer.run(after)
    assert_close((np.concatenate([head, tail], axis=1), parts(end)), (y, parts(last)), f"split before step {cut}")
    if want is None or cut in (0, case.x.shape[1]) or not has_gradients(layer):
        return
    second = layer.grad(after, dy[:, cut:], dstate)
    first = layer.grad(before, dy[:, :cut], second.state)
    summed = [a + b for a, b in zip(all_arrays(first.params), all_arrays(second.params), strict=True)]
    chained = summed, np.concatenate([first.x, second.x], axis=1), parts(first.state)
    assert_close(chained, (all_arrays(want.params), *all_gradients(want)[1:]), f"gradients, split before step {cut}")


def may_cut(case: Case, cut: int) -> bool:
    """Whether law 7 speaks of a cut before this step."""
    return case.spec.window is None or bool((case.kept[:, :cut].sum(axis=1) % case.spec.window == 0).all())


def _steps(case: Case, steps: slice) -> Case:
    lengths = None
    if case.lengths is not None:
        start, stop, _ = steps.indices(case.x.shape[1])
        lengths = np.clip(case.bounds, start, stop) - start
    domain = case.domain
    if domain is not None and case.spec.window is not None:
        domain = domain[..., steps]
    return case.but(
        x=case.x[:, steps],
        mask=None if case.mask is None else case.mask[:, steps],
        lengths=lengths,
        domain=domain,
        dt=None if case.dt is None else case.dt[:, steps],
    )


def law_8_no_output_depends_on_the_future(layer: Adapter, case: Case) -> None:
    """Neither on later values nor, where the case has a mask, on what is observed later, nor on later times."""
    y, _ = layer.run(case)
    dy, dstate = cotangents(layer, case)
    rng = np.random.default_rng(13)
    for cut in range(1, case.x.shape[1]):
        x = case.x.copy()
        x[:, cut:] = rng.normal(size=x[:, cut:].shape)
        mask = None if case.mask is None else case.mask.copy()
        if mask is not None:
            mask[:, cut:] = rng.random(mask[:, cut:].shape) < 0.5
        dt = None if case.dt is None else case.dt.copy()
        if dt is not None:
            dt[:, cut:] = rng.exponential(size=dt[:, cut:].shape)
        other, _ = layer.run(case.but(x=x, mask=mask, dt=dt))
        assert_close(other[:, :cut], y[:, :cut], f"outputs before step {cut}, when the later inputs change")
        if has_gradients(layer):
            past = np.where((np.arange(y.shape[1]) < cut).reshape(-1, *(1,) * (y.ndim - 2)), dy, np.zeros_like(dy))
            found = layer.grad(case, past, like(dstate, [np.zeros_like(part) for part in parts(dstate)]))
            assert_zero(found.x[:, cut:], f"outputs before step {cut} have gradients at later inputs")


def law_9_directions_are_runs_of_the_reversed_sequence(layer: Adapter, case: Case) -> None:
    """A bidirectional layer; more layers are stacked here by hand from single directions (hold and stride 1)."""
    need_params(layer)
    y, last = layer.run(case)
    one = replace(case.spec, num_layers=1, bidirectional=False)
    x, mask, ends = case.x, case.mask, []
    for index in range(case.spec.num_layers):
        spec = one if index == 0 else replace(case.spec.layer(index), bidirectional=False)
        outputs = []
        for direction in range(2):
            slot = 2 * index + direction
            state = like(case.state, [part[slot : slot + 1] for part in parts(case.state)])
            single = case.but(spec=spec, params=[case.params[slot]], x=x, mask=mask, state=state)
            out, end = layer.run(reverse(single) if direction else single)
            outputs.append(_backwards(out) if direction else out)
            ends.append(parts(end))
        x, mask = np.concatenate(outputs, axis=-1), case.kept
    assert_close(y, x, "outputs of both directions")
    assert_close(parts(last), [np.concatenate(part) for part in zip(*ends, strict=True)], "states of both directions")
    if not has_gradients(layer) or case.spec.num_layers > 1:
        return
    dy, dstate = cotangents(layer, case)
    want, F, found = layer.grad(case, dy, dstate), case.spec.filters, []
    for direction in range(2):
        state, end = ([part[direction : direction + 1] for part in parts(s)] for s in (case.state, dstate))
        single = case.but(spec=one, params=[case.params[direction]], state=like(case.state, state))
        single, out = (reverse(single), _backwards(dy)[..., F:]) if direction else (single, dy[..., :F])
        found.append(layer.grad(single, np.ascontiguousarray(out), like(dstate, end)))
    ahead, back = found
    assert_close((ahead.params, back.params), (want.params[:1], want.params[1:]), "parameter gradients by direction")
    assert_close(ahead.x + _backwards(back.x), want.x, "input gradients of both directions")


def _backwards(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array[:, ::-1])


def reverse(case: Case) -> Case:
    """Equation (13)."""
    lengths = None if case.lengths is None else _backwards(case.x.shape[1] - case.bounds)
    domain = case.domain
    if domain is not None and case.spec.window is not None:
        domain = np.ascontiguousarray(domain[..., ::-1])
    return case.but(
        x=_backwards(case.x),
        mask=None if case.mask is None else _backwards(case.mask),
        lengths=lengths,
        domain=domain,
        dt=_backwards(_times_back(case)) if case.spec.gap == "decay" else None,
    )


def _times_back(case: Case) -> np.ndarray:
    """To each step that exists, the time from the next one that does."""
    times = np.zeros_like(case.elapsed)
    for row, exists, elapsed in zip(times, case.existing_steps, case.elapsed, strict=True):
        present = np.flatnonzero(exists)
        row[present[:-1]] = elapsed[present[1:]]
    return times.astype(case.x.dtype)


def law_15_missing_steps_are_their_time(layer: Adapter, case: Case) -> None:
    """Under gap="decay": without the missing steps, their time added to that of the next observed one."""
    N, T = case.x.shape[:2]
    place = np.arange(T) + np.cumsum(np.array([0, 1, 0, 3, 2])[np.arange(T) % 5])
    dt = np.random.default_rng(17).exponential(size=(N, place[-1] + 1)).astype(case.x.dtype)
    mask = np.zeros(dt.shape, dtype=bool)
    mask[:, place] = True
    x = np.full((*dt.shape, *case.x.shape[2:]), np.nan, case.x.dtype)
    x[:, place] = case.x
    domain = case.domain if case.spec.window is None else None  # of a series it speaks of events
    waited = np.add.reduceat(dt, np.append(0, place[:-1] + 1), axis=1)
    short = case.but(mask=None, lengths=None, domain=domain, dt=waited)
    long = short.but(x=x, mask=mask, dt=dt)
    y, last = layer.run(short)
    got, got_last = layer.run(long)
    assert_close((got[:, place], parts(got_last)), (y, parts(last)), "time in place of missing steps", scale=2)
    if not has_gradients(layer):
        return
    dy, dstate = cotangents(layer, short)
    long_dy = np.zeros(got.shape, got.dtype)
    long_dy[:, place] = dy
    found, want = layer.grad(long, long_dy, dstate), layer.grad(short, dy, dstate)
    found = replace(found, x=found.x[:, place])
    assert_close(all_gradients(found), all_gradients(want), "gradients, time in place of missing steps", scale=2)


def law_16_at_rates_of_0_it_is_hold(layer: Adapter, case: Case) -> None:
    """A rate below 0 counts as 0."""
    need_params(layer)
    spec = replace(case.spec, gap="hold")
    still = [{**cell, "decay": np.minimum(cell["decay"], 0)} for cell in case.params]
    plain = [{name: cell[name] for name in cell if name != "decay"} for cell in case.params]
    y, last = layer.run(case.but(params=still))
    want = layer.run(case.but(spec=spec, params=plain, dt=None))
    assert_close((y, parts(last)), (want[0], parts(want[1])), "rates of 0")
