"""Derivatives of apply: the lean backward pass against JAX's own, finite differences, higher orders, forward mode."""

import functools

import pytest

pytest.importorskip("jax", reason="these are tests of gapcell.jax")

import jax
import jax.numpy as jnp
import numpy as np
from jax.test_util import check_grads

import gapcell.jax as gj
from gapcell.jax import recurrence
from jax_layers.batches import CASES, assert_close, assert_not_zero, loss, make_batch, make_spec, oracle

pytestmark = pytest.mark.usefixtures("float64")

OF_THE_GRU = ["1d", "3d", "stride", "window", "bidirectional stack", "predict"]  # the rest is the LSTM's code


def pulled_back(spec, batch, vjp):
    """Output and state, and the gradients of parameters, input and initial state for cotangents of all of them."""

    @jax.jit
    def run(params, x, state, cotangents):
        def forward(params, x, state):
            return gj.apply(params, x, spec, state=state, vjp=vjp, **batch.said)

        values, pull = jax.vjp(forward, params, x, state)
        return values, pull(cotangents)

    rng = np.random.default_rng(2)
    cotangents = jax.tree.map(lambda value: rng.normal(size=value.shape), oracle(spec, batch))
    return run(*batch[:3], cotangents)


@pytest.mark.parametrize(
    ("cell", "case"), [*(("lstm", case) for case in CASES), *(("gru", case) for case in OF_THE_GRU)]
)
def test_lean_gradients_are_those_of_plain_and_the_values_those_of_the_oracle(cell, case):
    rank, options = CASES[case]
    spec = make_spec(cell, rank, **options)
    batch = make_batch(spec)
    values, gradients = pulled_back(spec, batch, "lean")
    _, plain = pulled_back(spec, batch, "plain")
    assert_close(values, oracle(spec, batch))
    assert_close(gradients, plain)
    assert_not_zero(gradients)
    assert not gradients[1][np.isnan(batch.x)].any()


@pytest.mark.parametrize(
    ("cell", "options"), [("lstm", {}), ("gru", {}), ("lstm", {"stride": 2, "recurrent_dropout": 0.3})]
)
def test_gates_that_are_computed_again_give_the_same_gradients(cell, options):
    """Past a size that fits a cache the backward pass has no gates; the other tests here are smaller than that."""
    spec = make_spec(cell, filters=32, **options)
    rng = np.random.default_rng(0)
    params, x = make_batch(spec).params, rng.normal(size=(8, 64, 32 * spec.sizes("stride")[0], 2))
    assert 8 * 64 * 32 * 32 * spec.gates * 8 > recurrence.FEW
    gradients = {}
    for vjp in ("lean", "plain"):
        of = jax.grad(functools.partial(loss, spec, vjp=vjp, key=jax.random.key(1)), (0, 1))
        gradients[vjp] = jax.jit(of)(params, x)
    assert_close(gradients["lean"], gradients["plain"])
    assert_not_zero(gradients["lean"])


@pytest.mark.parametrize(("cell", "options"), [("lstm", {}), ("gru", {"window": 2}), ("gru", {"num_layers": 2})])
def test_gradients_are_those_of_finite_differences(cell, options):
    spec = make_spec(cell, **options)
    batch = make_batch(spec)
    check_grads(
        lambda params, x, state: gj.apply(params, x, spec, state=state, **batch.said),
        (batch.params, np.nan_to_num(batch.x), batch.state),
        order=1,
        modes=("rev",),
        atol=1e-5,
        rtol=1e-5,
    )


# Higher orders --------------------------------------------------------------------------------------------------------


def loss_of_bias(spec, batch, vjp):
    """As a function of the biases alone: a Hessian of all weights is large."""

    def of(bias):
        return loss(spec, {**batch.params, "bias": bias}, batch.x, vjp=vjp, **batch.said)

    return of


def second_gradient(of):
    return jax.grad(lambda bias: jnp.sum(jax.grad(of)(bias) ** 3))


HIGHER = {
    "hessian": jax.hessian,
    "jacfwd(jacrev)": lambda of: jax.jacfwd(jax.jacrev(of)),
    "jacrev(jacrev)": lambda of: jax.jacrev(jax.jacrev(of)),
    "grad of grad": second_gradient,
}


@pytest.mark.parametrize(("cell", "name"), [*(("lstm", name) for name in HIGHER), ("gru", "hessian")])
def test_higher_derivatives_of_lean_are_those_of_plain(cell, name):
    spec = make_spec(cell)
    batch = make_batch(spec)
    higher = HIGHER[name]
    got, want = (jax.jit(higher(loss_of_bias(spec, batch, vjp)))(batch.params["bias"]) for vjp in ("lean", "plain"))
    assert_close(got, want)
    assert_not_zero(got)


def test_a_hessian_vector_product_over_all_arguments():
    spec = make_spec()
    batch = make_batch(spec)
    rng = np.random.default_rng(4)
    arguments = (batch.params, np.nan_to_num(batch.x), batch.state)
    direction = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), arguments)

    def product(vjp):
        of = functools.partial(loss, spec, vjp=vjp, **batch.said)
        return jax.jit(lambda *a: jax.jvp(jax.grad(of, (0, 1, 2)), a, direction)[1])(*arguments)

    got = product("lean")
    assert_close(got, product("plain"))
    assert_not_zero(got)


# Forward mode ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cell", "options"), [("lstm", {}), ("gru", {"window": 2})])
def test_plain_may_be_differentiated_forwards(cell, options):
    spec = make_spec(cell, **options)
    batch = make_batch(spec)
    rng = np.random.default_rng(3)
    arguments = (batch.params, np.nan_to_num(batch.x), batch.state)
    direction = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), arguments)

    def of(params, x, state):
        return gj.apply(params, x, spec, state=state, vjp="plain", **batch.said)

    def moved(amount):
        return of(*jax.tree.map(lambda leaf, along: leaf + amount * along, arguments, direction))

    want = jax.tree.map(lambda after, before: (after - before) / 2e-5, moved(1e-5), moved(-1e-5))
    value, tangent = jax.jvp(of, arguments, direction)
    assert_close(value, oracle(spec, batch))
    assert_close(tangent, want, 1e-8)
    assert_close(jax.linearize(of, *arguments)[1](*direction), tangent)


def test_jacfwd_of_plain_is_jacrev_of_lean():
    spec = make_spec()
    batch = make_batch(spec)
    forwards = jax.jit(jax.jacfwd(loss_of_bias(spec, batch, "plain")))(batch.params["bias"])
    assert_close(forwards, jax.jit(jax.jacrev(loss_of_bias(spec, batch, "lean")))(batch.params["bias"]))


FORWARDS = {
    "jvp": lambda of, x: jax.jvp(of, (x,), (x,)),
    "jit(jvp)": lambda of, x: jax.jit(lambda x: jax.jvp(of, (x,), (x,)))(x),
    "jvp(jit)": lambda of, x: jax.jvp(jax.jit(of), (x,), (x,)),
    "linearize": lambda of, x: jax.linearize(of, x)[1](x),
    "jit(linearize)": lambda of, x: jax.jit(lambda x: jax.linearize(of, x)[1](x))(x),
    "jacfwd": lambda of, x: jax.jacfwd(of)(x),
    "vmap(jacfwd)": lambda of, x: jax.vmap(jax.jacfwd(of))(x[None]),
    "jit(vmap(jacfwd))": lambda of, x: jax.jit(jax.vmap(jax.jacfwd(of)))(x[None]),
    "jvp(vmap)": lambda of, x: jax.jvp(jax.vmap(of), (x[None],), (x[None],)),
    "jvp(checkpoint)": lambda of, x: jax.jvp(jax.checkpoint(of), (x,), (x,)),
    "jvp(scan)": lambda of, x: jax.jvp(lambda x: jax.lax.map(of, x[None]), (x,), (x,)),
}


@pytest.mark.parametrize("forwards", FORWARDS.values(), ids=FORWARDS)
def test_lean_differentiated_forwards_says_what_to_do(forwards):
    spec = make_spec()
    batch = make_batch(spec)
    of = functools.partial(loss, spec, batch.params)
    with pytest.raises(TypeError, match=r'vjp="lean" has no forward-mode derivative .*call it with vjp="plain"'):
        forwards(of, np.nan_to_num(batch.x))


def test_forward_mode_around_lean_that_does_not_pass_through_it_is_allowed():
    spec = make_spec()
    batch = make_batch(spec)
    value, tangent = jax.jvp(lambda a: a * loss(spec, batch.params, batch.x, **batch.said), (2.0,), (1.0,))
    assert_close(2 * tangent, value)
