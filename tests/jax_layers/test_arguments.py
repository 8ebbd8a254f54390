"""init, and the forms in which apply takes its arguments; batches without rows or steps."""

import dataclasses
import functools
from types import MappingProxyType

import pytest

pytest.importorskip("jax", reason="these are tests of gapcell.jax")

import jax
import jax.numpy as jnp
import numpy as np

import gapcell.jax as gj
from gapcell import reference
from jax_layers.batches import CELLS, assert_close, loss, make_batch, make_params, make_spec, oracle

pytestmark = pytest.mark.usefixtures("compiled_quickly")

# init -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", CELLS)
def test_init_gives_a_dict_for_one_layer_and_a_list_for_several(cell):
    one = make_spec(cell, rank=2, kernel_size=(3, 2), recurrent_kernel_size=1)
    params = gj.init(jax.random.key(0), one)
    assert {name: array.shape for name, array in params.items()} == one.parameter_shapes()
    stack = make_spec(cell, num_layers=2, bidirectional=True)
    params = jax.jit(lambda key: gj.init(key, stack))(jax.random.key(0))
    assert isinstance(params, list)
    shapes = [{name: array.shape for name, array in slot.items()} for slot in params]
    assert shapes == [stack.parameter_shapes(index) for index in (0, 0, 1, 1)]
    drawn = [np.asarray(slot[name]).ravel()[:8].tobytes() for slot in params for name in ("kernel", "recurrent_kernel")]
    assert len(set(drawn)) == 8  # nothing is drawn twice


@pytest.mark.parametrize("cell", CELLS)
def test_init_draws_weights_within_their_bound_and_opens_the_forget_gate(cell):
    spec = make_spec(cell, in_channels=8, filters=16)
    params = gj.init(jax.random.key(0), spec)
    for name, fan_in in (("kernel", 3 * 8), ("recurrent_kernel", 3 * 16)):
        bound, weight = fan_in**-0.5, np.asarray(params[name])
        assert 0.98 * bound < np.abs(weight).max() <= bound
        assert abs(weight.mean()) < 0.05 * bound
        assert abs(weight.std() - bound / 3**0.5) < 0.05 * bound
    forget = slice(16, 32) if cell == "lstm" else slice(0)
    want = np.zeros(spec.gates * 16)
    want[forget] = 1
    assert np.array_equal(params["bias"], want)
    if cell == "gru":
        assert not params["recurrent_bias"].any()
    spec = dataclasses.replace(spec, bias=False)
    assert set(gj.init(jax.random.key(0), spec)) == {"kernel", "recurrent_kernel"}


def test_init_is_a_function_of_the_key_and_has_the_dtype_asked_for():
    spec = make_spec()
    one, other = (gj.init(jax.random.key(seed), spec) for seed in (0, 1))
    assert not np.array_equal(one["kernel"], other["kernel"])
    assert_close(gj.init(jax.random.PRNGKey(0), spec), one, 0)
    assert {leaf.dtype for leaf in jax.tree.leaves(one)} == {jnp.dtype("float32")}
    low = gj.init(jax.random.key(0), spec, dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(low)} == {jnp.dtype("bfloat16")}
    keys = jax.random.wrap_key_data(jnp.stack([jax.random.key_data(jax.random.key(seed)) for seed in (0, 1)]))
    ensemble = jax.jit(jax.vmap(lambda key: gj.init(key, spec)))(keys)
    assert_close(ensemble, jax.tree.map(lambda *leaves: jnp.stack(leaves), one, other), 1e-6)


# The state ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", CELLS)
def test_the_leading_axis_of_a_state_may_be_left_out(cell):
    spec = make_spec(cell)
    batch = make_batch(spec)
    want = gj.apply(*batch[:2], spec, state=batch.state, **batch.said)
    short = jax.tree.map(lambda part: part[0], batch.state)
    got = gj.apply(*batch[:2], spec, state=short, **batch.said)
    assert_close(got, want, 0)
    assert {part.shape for part in jax.tree.leaves(got[1])} == {(1, 2, 5, 3)}
    assert_close(want, oracle(spec, batch), 2e-6)


def test_a_state_may_be_a_list_and_what_was_given_back():
    spec = make_spec()
    batch = make_batch(spec)
    _, state = gj.apply(*batch[:2], spec, **batch.said)
    got = gj.apply(*batch[:2], spec, state=list(state), **batch.said)
    want = reference.conv_rnn(*batch[:2], spec, state=tuple(map(np.asarray, state)), **batch.said)
    assert_close(got, want, 2e-6)


@pytest.mark.parametrize("vjp", ["lean", "plain"])
@pytest.mark.parametrize(("cell", "options"), [("lstm", {}), ("gru", {"num_layers": 2}), ("lstm", {"window": 2})])
def test_no_steps_give_the_initial_state_and_an_empty_output(cell, options, vjp):
    spec = make_spec(cell, **options)
    batch = make_batch(spec)
    params, x, state = jax.tree.map(jnp.asarray, (batch.params, batch.x[:, :0], batch.state))
    mask = batch.said["mask"][:, :0]

    def of(params, x, state):
        y, last = gj.apply(params, x, spec, state=state, mask=mask, vjp=vjp)
        return sum(jnp.sum(part) for part in jax.tree.leaves((y, last))), (y, last)

    gradients, (y, last) = jax.grad(of, (0, 1, 2), has_aux=True)(params, x, state)
    assert y.shape == (*x.shape[:-1], 3)
    assert_close(last, state, 0)
    want = *jax.tree.map(np.zeros_like, (params, x)), jax.tree.map(np.ones_like, state)
    assert_close(gradients, want, 0)


@pytest.mark.parametrize("vjp", ["lean", "plain"])
@pytest.mark.parametrize(("cell", "options"), [("lstm", {}), ("gru", {"num_layers": 2}), ("lstm", {"window": 2})])
def test_no_rows_give_an_empty_output(cell, options, vjp):
    spec = make_spec(cell, **options)
    batch = make_batch(spec)
    x, mask = batch.x[:0], batch.said["mask"][:0]
    y, last = gj.apply(batch.params, x, spec, mask=mask, vjp=vjp)
    assert y.shape == (*x.shape[:-1], 3)
    assert all(part.shape[1] == 0 for part in jax.tree.leaves(last))
    params = jax.tree.map(jnp.asarray, batch.params)
    gradients = jax.grad(functools.partial(loss, spec, mask=mask, vjp=vjp))(params, x)
    assert_close(gradients, jax.tree.map(np.zeros_like, params), 0)


# Kinds of arguments ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray, lambda leaf: leaf.tolist()], ids=["NumPy", "JAX", "list"])
def test_arrays_of_any_kind_give_arrays_of_jax(convert):
    spec = make_spec()
    batch = make_batch(spec)
    params, x, state, said = jax.tree.map(convert, tuple(batch))
    got = gj.apply(params, x, spec, state=state, **said)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(got))
    assert_close(got, oracle(spec, batch), 2e-6)


def test_the_layers_of_a_stack_may_come_as_a_tuple_and_as_other_mappings():
    spec = make_spec(num_layers=2)
    batch = make_batch(spec)
    want = oracle(spec, batch)
    for params in (tuple(batch.params), [MappingProxyType(layer) for layer in batch.params]):
        assert_close(gj.apply(params, batch.x, spec, state=batch.state, **batch.said), want, 2e-6)
    one = make_spec()
    batch = make_batch(one)
    assert_close(gj.apply([batch.params], batch.x, one, state=batch.state, **batch.said), oracle(one, batch), 2e-6)


@pytest.mark.usefixtures("float64")
def test_parameters_may_lie_anywhere_in_a_larger_model():
    spec, above = make_spec(), make_spec("gru", in_channels=3, num_layers=2)
    batch = make_batch(spec)
    model = {"encoder": {"cell": batch.params}, "decoder": (make_params(above), np.ones(3)), "unused": np.zeros(2)}

    def of(model):
        y, _ = gj.apply(model["encoder"]["cell"], batch.x, spec, **batch.said)
        return loss(above, model["decoder"][0], y * model["decoder"][1])

    def apart(encoder, decoder, scale):
        y, _ = gj.apply(encoder, batch.x, spec, vjp="plain", **batch.said)
        return loss(above, decoder, y * scale, vjp="plain")

    got = jax.jit(jax.grad(of))(model)
    encoder, decoder, scale = jax.jit(jax.grad(apart, (0, 1, 2)))(batch.params, *model["decoder"])
    assert_close(got, {"encoder": {"cell": encoder}, "decoder": (decoder, scale), "unused": np.zeros(2)})


def test_what_comes_in_is_not_changed():
    spec = make_spec(num_layers=2)
    batch = make_batch(spec)
    before = jax.tree.map(np.copy, tuple(batch))
    gj.apply(*batch[:2], spec, state=batch.state, **batch.said)
    pairs = zip(jax.tree.leaves(before), jax.tree.leaves(tuple(batch)), strict=True)
    assert all(np.array_equal(one, other, equal_nan=True) for one, other in pairs)
