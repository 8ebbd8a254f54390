"""Laws 7 to 9: splits, causality and directions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from laws.cases import Case, like, parts
from laws.comparison import all_gradients, assert_close, cotangents, has_gradients
from laws.layers import Layer


def law_7_a_split_with_carried_state_is_the_whole(layer: Layer, case: Case) -> None:
    """One direction; a series is cut where a window ends in every row."""
    y, last = layer.run(case)
    gradients = has_gradients(layer)
    dy, dstate = cotangents(layer, case)
    want = layer.grad(case, dy, dstate) if gradients else None
    cuts = [cut for cut in range(case.x.shape[1] + 1) if may_cut(case, cut)]
    assert len(cuts) > 2, "the case cannot be cut"
    for cut in cuts:
        before, after = _steps(case, slice(0, cut)), _steps(case, slice(cut, None))
        head, state = layer.run(before)
        tail, end = layer.run(after.but(state=state))
        assert_close((np.concatenate([head, tail], axis=1), parts(end)), (y, parts(last)), f"split before step {cut}")
        if want is None or cut in (0, case.x.shape[1]):
            continue
        second = layer.grad(after.but(state=state), dy[:, cut:], dstate)
        first = layer.grad(before, dy[:, :cut], second.state)
        summed = [{name: a[name] + b[name] for name in a} for a, b in zip(first.params, second.params, strict=True)]
        chained = summed, np.concatenate([first.x, second.x], axis=1), parts(first.state)
        assert_close(chained, all_gradients(want), f"gradients, split before step {cut}")


def may_cut(case: Case, cut: int) -> bool:
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
        x=case.x[:, steps], mask=None if case.mask is None else case.mask[:, steps], lengths=lengths, domain=domain
    )


def law_8_no_output_depends_on_the_future(layer: Layer, case: Case) -> None:
    y, _ = layer.run(case)
    dy, dstate = cotangents(layer, case)
    rng = np.random.default_rng(13)
    for cut in range(1, case.x.shape[1]):
        x = case.x.copy()
        x[:, cut:] = rng.normal(size=x[:, cut:].shape)
        mask = np.ones(case.x.shape[:2], dtype=bool) if case.mask is None else case.mask.copy()
        mask[:, cut:] = rng.random(mask[:, cut:].shape) < 0.5
        other, _ = layer.run(case.but(x=x, mask=mask))
        assert_close(other[:, :cut], y[:, :cut], f"outputs before step {cut}, when the later inputs change")
        if has_gradients(layer):
            past = np.where((np.arange(y.shape[1]) < cut).reshape(-1, *(1,) * (y.ndim - 2)), dy, np.zeros_like(dy))
            found = layer.grad(case, past, like(dstate, [np.zeros_like(part) for part in parts(dstate)]))
            assert not found.x[:, cut:].any(), f"outputs before step {cut} have gradients at later inputs"


def law_9_directions_are_runs_of_the_reversed_sequence(layer: Layer, case: Case) -> None:
    """A bidirectional layer; more layers are stacked here by hand from single directions (hold and stride 1)."""
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
        x=_backwards(case.x), mask=None if case.mask is None else _backwards(case.mask), lengths=lengths, domain=domain
    )
