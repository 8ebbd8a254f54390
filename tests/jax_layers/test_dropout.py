"""Dropout: one draw a sequence and channel, each kind at its own place, judged by the oracle with weights scaled."""

import functools

import pytest

pytest.importorskip("jax", reason="these are tests of gapcell.jax")

import jax
import jax.numpy as jnp
import numpy as np

import gapcell.jax as gj
from gapcell import reference
from jax_layers.batches import CELLS, assert_close, loss, make_batch, make_params, make_spec

pytestmark = pytest.mark.usefixtures("compiled_quickly")

P = 0.4
KINDS = ["dropout", "input_dropout", "recurrent_dropout"]


@pytest.fixture
def key():
    return jax.random.key(5)


def kept(gradient, axis):
    """Where a gradient is not zero throughout, along one axis: a dropped channel has none."""
    others = tuple(other for other in range(gradient.ndim) if other != axis % gradient.ndim)
    return np.any(np.asarray(gradient), axis=others)


def gradients(spec, params, x, key):
    return jax.grad(functools.partial(loss, spec, key=key), (0, 1))(params, x)


@pytest.mark.parametrize("cell", CELLS)
def test_without_a_key_nothing_is_dropped(cell):
    spec = make_spec(cell, num_layers=2, **dict.fromkeys(KINDS, P))
    batch = make_batch(spec)
    want = reference.conv_rnn(batch.params, batch.x, spec, **batch.said)
    assert_close(gj.apply(*batch[:2], spec, **batch.said), want, 2e-6)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_scales_what_it_says_and_nothing_else(kind, cell, key):
    """The gradients say which channels a row lost; its weights for them are then struck out of the oracle's."""
    spec = make_spec(cell, num_layers=2, filters=4, **{kind: P})
    params, N = make_params(spec), 4
    x = np.random.default_rng(0).normal(size=(N, 3, 5, 2))
    run = jax.jit(lambda params: gj.apply(params, x, spec, key=key)[0])
    got = run(params)
    weighed = np.random.default_rng(1).normal(size=got.shape[1:])
    slopes = jax.jit(jax.jacrev(lambda params: jnp.sum(run(params) * weighed, axis=(1, 2, 3))))(params)
    places = {"dropout": [(1, "kernel")], "input_dropout": [(0, "kernel")]}
    places["recurrent_dropout"] = [(0, "recurrent_kernel"), (1, "recurrent_kernel")]
    seen = []
    for row in range(N):
        scaled = [dict(layer) for layer in params]
        for index, name in places[kind]:
            channels = kept(slopes[index][name][row], -2)
            seen.append(channels)
            scaled[index][name] = scaled[index][name] * channels[:, None] / (1 - P)
        assert_close(got[row], reference.conv_rnn(scaled, x[[row]], spec)[0][0])
    assert 0 < np.mean(seen) < 1
    assert len({tuple(channels) for channels in seen}) > 1  # rows and layers draw for themselves


def test_a_draw_does_not_depend_on_time_sites_or_mask(key):
    spec = make_spec(kernel_size=1, input_dropout=P, recurrent_dropout=P)
    params = make_params(spec)
    x = np.random.default_rng(0).normal(size=(4, 6, 5, 2))
    whole, _ = gj.apply(params, x, spec, key=key)
    assert_close(gj.apply(params, x[:, :4, :3], spec, key=key)[0], whole[:, :4, :3], 2e-6)
    masked, _ = gj.apply(params, x, spec, mask=np.tile(np.arange(6) < 4, (4, 1)), key=key)
    assert_close(masked[:, :4], whole[:, :4], 2e-6)


def test_a_dropped_input_channel_is_dropped_at_every_step_and_site(key):
    spec = make_spec(input_dropout=P, in_channels=6)
    x = np.random.default_rng(0).normal(size=(4, 3, 5, 6))
    _, of_input = gradients(spec, make_params(spec), x, key)
    alive = np.asarray(of_input) != 0  # (N, T, L, C)
    assert (alive == alive[:, :1, :1]).all()
    assert 0 < alive.mean() < 1


@pytest.mark.parametrize("kind", ["input_dropout", "recurrent_dropout"])
def test_the_expectation_is_right(kind, key):
    """Where the layer is all but linear in what is dropped; the error of a mean over rows is known."""
    N, C = 4000, 3
    spec = make_spec("gru", in_channels=C, filters=C, kernel_size=1, **{kind: P})
    params = jax.tree.map(np.zeros_like, make_params(spec))
    size = 1e-3
    scaled = "kernel" if kind == "input_dropout" else "recurrent_kernel"
    params[scaled] = size * make_params(spec)[scaled]
    x = np.full((N, 1, 1, C), 1.0)
    state = np.full((N, 1, C), 1.0)
    y, _ = gj.apply(params, x, spec, state=state, key=key)
    want, _ = gj.apply(params, x[:1], spec, state=state[:1])
    moved, wanted = np.asarray(y - 0.5)[:, 0, 0], np.asarray(want - 0.5)[0, 0, 0]
    assert (np.abs(moved.mean(0) - wanted) < 5 * moved.std(0) / N**0.5).all()
    assert (moved.std(0) > np.abs(wanted) / 20).all()


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("cell", CELLS)
def test_lean_gradients_under_dropout_are_those_of_plain(cell, key):
    spec = make_spec(cell, num_layers=2, **dict.fromkeys(KINDS, P))
    batch = make_batch(spec)
    got, want = (
        jax.jit(jax.grad(functools.partial(loss, spec, vjp=vjp, key=key, **batch.said), (0, 1)))(*batch[:2])
        for vjp in ("lean", "plain")
    )
    assert_close(got, want)


def test_vmap_over_keys_is_one_run_a_key(key):
    spec = make_spec(num_layers=2, **dict.fromkeys(KINDS, P))
    batch = make_batch(spec)
    keys = jax.random.split(key, 3)
    run = jax.jit(lambda key: gj.apply(*batch[:2], spec, key=key, **batch.said))
    each = [run(key) for key in keys]
    assert_close(jax.vmap(run)(keys), jax.tree.map(lambda *leaves: jnp.stack(leaves), *each), 2e-6)
    assert not np.array_equal(each[0][0], each[1][0])


def test_keys_of_the_old_kind():
    spec = make_spec(input_dropout=P)
    batch = make_batch(spec)
    old, new = jax.random.PRNGKey(3), jax.random.key(3)
    assert old.dtype == jnp.uint32
    run = jax.jit(lambda key: gj.apply(*batch[:2], spec, key=key, **batch.said))
    assert_close(run(old), run(new), 0)


def test_with_a_key_and_nothing_to_drop_it_is_the_run_without(key):
    spec = make_spec()
    batch = make_batch(spec)
    want = gj.apply(*batch[:2], spec, **batch.said)
    assert_close(gj.apply(*batch[:2], spec, key=key, **batch.said), want, 0)
