"""gap="decay" as users of gapcell.jax and its flax modules meet it; what decays and how is in tests/laws."""

import re
import warnings

import numpy as np
import pytest

pytest.importorskip("jax", reason="these are tests of the JAX layers")

import jax
import jax.numpy as jnp

import gapcell.jax as gj
from gapcell import Spec

N, T, L, C, F = 2, 4, 5, 2, 3
SPEC = Spec(rank=1, in_channels=C, filters=F, kernel_size=3, gap="decay")
X = np.random.default_rng(0).normal(size=(N, T, L, C)).astype("float32")
MASK = np.array([[1, 0, 0, 1], [1, 1, 0, 1]], bool)
DT = np.random.default_rng(1).exponential(size=(N, T)).astype("float32")


def refused(message):
    return pytest.raises(ValueError, match=f"^{re.escape(message)}$")


@pytest.fixture(scope="module")
def params():
    return gj.init(jax.random.key(0), SPEC)


def test_rates_start_apart_and_learn(params):
    np.testing.assert_allclose(params["decay"], [0.01, 0.1, 1.0], rtol=1e-5)
    assert "decay" not in gj.init(jax.random.key(0), Spec(rank=1, in_channels=C, filters=F, kernel_size=3))

    def loss(params, vjp):
        return jnp.sin(gj.apply(params, X, SPEC, mask=MASK, dt=DT, vjp=vjp)[0]).sum()

    found = [jax.grad(loss)(params, vjp)["decay"] for vjp in ("lean", "plain")]
    np.testing.assert_allclose(*found, rtol=1e-4)
    assert (np.asarray(found[0]) != 0).all()


def test_new_times_are_not_traced_again_and_dt_of_none_is_1(params):
    traces = []

    @jax.jit
    def run(dt):
        traces.append(dt.shape)
        return gj.apply(params, X, SPEC, mask=MASK, dt=dt)[0]

    assert not np.array_equal(run(DT), run(2 * DT))
    assert traces == [(N, T)]
    np.testing.assert_allclose(run(np.ones_like(DT)), gj.apply(params, X, SPEC, mask=MASK)[0], atol=1e-6)


def test_refusals_say_what_came_and_what_was_wanted(params):
    with refused(
        "`dt` has shape (4, 2), but the input has (2, 4) rows and steps: expected (2, 4), the time since the step "
        "before"
    ):
        gj.apply(params, X, SPEC, dt=DT.T)
    with refused(
        "`dt` holds -1.0 at a step that exists, expected finite times of at least 0; beyond `lengths` it may hold "
        "anything"
    ):
        gj.apply(params, X, SPEC, dt=-np.ones_like(DT))
    hold = Spec(rank=1, in_channels=C, filters=F, kernel_size=3)
    with refused('`dt` is given, but `gap` is "hold": only gap="decay" looks at the time; leave it out'):
        gj.apply(gj.init(jax.random.key(0), hold), X, hold, dt=DT)


def test_a_mask_that_looks_like_padding_draws_a_warning_unless_time_is_given(params):
    with pytest.warns(UserWarning, match='^gap="decay" lets the state decay in missing steps'):
        gj.apply(params, X, SPEC, mask=MASK[:, ::-1] & [1, 1, 1, 0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gj.apply(params, X, SPEC, mask=MASK & [1, 1, 1, 0], dt=DT)


def test_a_flax_cell_steps_through_time_as_the_layer_does():
    nnx = pytest.importorskip("flax.nnx", reason="of the flax modules")
    layer = gj.ConvLSTM(C, F, 3, gap="decay", rngs=nnx.Rngs(0))
    cell = gj.ConvLSTMCell(C, F, 3, gap="decay", rngs=nnx.Rngs(1))
    nnx.update(cell, nnx.state(layer, nnx.Param))
    want, want_state = layer(X, mask=MASK, dt=DT)
    carry, outputs = cell.initialize_carry((N, L, C)), []
    for t in range(T):
        carry, y = cell(carry, X[:, t], MASK[:, t], dt=DT[:, t])
        outputs.append(y)
    np.testing.assert_allclose(np.stack(outputs, 1), want, atol=2e-6)
    np.testing.assert_allclose(carry, [part[0] for part in want_state], atol=2e-6)
    with refused("`dt` has shape (2, 4), expected (2,), the time since the step before"):
        cell(carry, X[:, 0], dt=DT)
