"""Double, single and half precision: which type comes out, how exact it is, and what is refused."""

import functools

import pytest

pytest.importorskip("jax", reason="these are tests of gapcell.jax")

import jax
import jax.numpy as jnp
import numpy as np

import gapcell.jax as gj
from gapcell.jax import convolution
from jax_layers.batches import CELLS, assert_close, loss, make_batch, make_params, make_spec, oracle

LOW = [jnp.bfloat16, jnp.float16]


def cast(tree, dtype):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), tree)


def dtypes(tree):
    return {leaf.dtype.name for leaf in jax.tree.leaves(tree)}


def worst(got, want):
    """The largest difference, against the largest value of each leaf."""
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
    pairs = [(np.asarray(one, np.float64), np.asarray(other, np.float64)) for one, other in pairs]
    return max(np.abs(one - other).max() / np.abs(other).max() for one, other in pairs)


def eps(dtype):
    return float(jnp.finfo(dtype).eps)


# Double and single ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("cell", CELLS)
def test_under_x64_everything_is_float64(cell):
    spec = make_spec(cell, num_layers=2)
    batch = make_batch(spec)
    got = gj.apply(*batch[:2], spec, **batch.said)
    assert dtypes(got) == {"float64"}
    assert_close(got, oracle(spec, batch._replace(state=None)))
    gradients = jax.jit(jax.grad(functools.partial(loss, spec, **batch.said), (0, 1)))(*batch[:2])
    assert dtypes(gradients) == {"float64"}


@pytest.mark.usefixtures("float64")
def test_under_x64_single_precision_stays_single():
    """And an input in single precision may meet parameters in double."""
    spec = make_spec()
    batch = make_batch(spec)
    params, x = cast(batch.params, jnp.float32), cast(batch.x, jnp.float32)
    y, state = gj.apply(params, x, spec, state=batch.state, **batch.said)
    assert dtypes((y, state)) == {"float32"}
    assert worst((y, state), oracle(spec, batch)) < 1e-6
    y, state = gj.apply(batch.params, x, spec, state=batch.state, **batch.said)
    assert (dtypes(y), dtypes(state)) == ({"float32"}, {"float64"})
    assert worst((y, state), oracle(spec, batch)) < 1e-6


@pytest.mark.parametrize("cell", CELLS)
def test_without_x64_everything_is_float32(cell):
    """Also where NumPy's float64 comes in, which JAX then reads as float32."""
    spec = make_spec(cell)
    batch = make_batch(spec)
    got = gj.apply(*batch[:2], spec, state=batch.state, **batch.said)
    assert dtypes(got) == {"float32"}
    assert worst(got, oracle(spec, batch)) < 1e-6


# Half -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", LOW, ids=str)
@pytest.mark.parametrize(("cell", "options"), [("lstm", {}), ("gru", {"stride": 2})])
def test_a_low_input_with_single_parameters_is_mixed_precision(cell, options, dtype):
    spec = make_spec(cell, **options)
    batch = make_batch(spec)
    x = cast(batch.x, dtype)
    y, state = gj.apply(batch.params, x, spec, state=batch.state, **batch.said)
    assert y.dtype == dtype
    assert dtypes(state) == {"float32"}
    assert 0 < worst((y, state), oracle(spec, batch)) < 4 * eps(dtype)

    def of(params, x):
        return loss(spec, params, x, **batch.said).astype(jnp.float32)

    got = jax.jit(jax.grad(of, (0, 1)))(cast(batch.params, jnp.float32), x)
    assert (dtypes(got[0]), got[1].dtype) == ({"float32"}, dtype)
    want = jax.jit(jax.grad(of, (0, 1)))(cast(batch.params, jnp.float32), cast(x, jnp.float32))
    assert worst(got, want) < 8 * eps(dtype)


@pytest.mark.parametrize("dtype", LOW, ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_low_parameters_carry_a_low_state(cell, dtype):
    spec = make_spec(cell)
    batch = make_batch(spec)
    params, x, state = cast(batch[:3], dtype)
    got = gj.apply(params, x, spec, state=state, **batch.said)
    assert dtypes(got) == {jnp.dtype(dtype).name}
    exact = [jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree) for tree in (params, x, state)]
    assert 0 < worst(got, oracle(spec, batch._replace(params=exact[0], x=exact[1], state=exact[2]))) < 4 * eps(dtype)


def error_of_sums(cell):
    """Of the parameter gradients of 64 steps in bfloat16 against float32, in units of bfloat16's eps.

    All contributions to a sum have one sign: kept in bfloat16 it grows the worse the larger it is.
    """
    spec = make_spec(cell, kernel_size=1)
    rng = np.random.default_rng(0)
    low = cast(jax.tree.map(np.abs, make_params(spec)), jnp.bfloat16)
    x = cast(np.abs(rng.normal(size=(1, 64, 1, 2))), jnp.bfloat16)

    @jax.jit
    def gradient(params, x):
        return jax.grad(lambda params: jnp.sum(gj.apply(params, x, spec)[0].astype(jnp.float32)))(params)

    got = gradient(low, x)
    assert dtypes(got) == {"bfloat16"}
    return worst(got, gradient(*cast((low, x), jnp.float32))) / eps(jnp.bfloat16)


@pytest.mark.parametrize("cell", CELLS)
def test_bfloat16_gradients_are_summed_in_more_than_bfloat16(cell):
    assert error_of_sums(cell) < 1


@pytest.mark.usefixtures("no_kernel")  # which the mutant would not reach
@pytest.mark.parametrize("cell", CELLS)
def test_a_sum_kept_in_bfloat16_is_caught(cell, monkeypatch):
    """The assertion above can fail: this mutant sums in the parameters' type."""
    monkeypatch.setattr(convolution, "_wide", lambda parameter: parameter)
    jax.clear_caches()
    try:
        error = error_of_sums(cell)
    finally:
        jax.clear_caches()  # of what was compiled from the mutant
    assert error > 2


@pytest.mark.parametrize("cell", CELLS)
def test_bfloat16_obeys_the_mask(cell):
    spec = make_spec(cell)
    batch = make_batch(spec)
    params = cast(batch.params, jnp.bfloat16)
    of = jax.jit(jax.value_and_grad(functools.partial(loss, spec, **batch.said)))
    got, want = (of(params, cast(np.nan_to_num(batch.x, nan=hidden), jnp.bfloat16)) for hidden in (np.nan, 1e30))
    assert all(np.array_equal(*pair) for pair in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True))


# What is refused ------------------------------------------------------------------------------------------------------

WANTED = "expected that or a narrower floating-point dtype; convert one of them, e.g. x.astype"


@pytest.mark.parametrize(
    ("x", "params"),
    [
        ("int32", "float32"),
        ("bool", "float32"),
        ("complex64", "float32"),
        ("float32", "bfloat16"),
        ("float16", "bfloat16"),
        ("bfloat16", "float16"),
    ],
)
def test_an_input_that_is_no_float_or_wider_than_the_parameters(x, params):
    spec = make_spec()
    with pytest.raises(ValueError, match=r"^`x` has dtype ") as refusal:
        gj.apply(cast(make_params(spec), params), jnp.ones((2, 4, 5, 2), x), spec)
    assert str(refusal.value) == (
        f"`x` has dtype {x} and shape (2, 4, 5, 2), but the parameters have {params}: {WANTED}('{params}')"
    )


@pytest.mark.usefixtures("float64")
def test_a_double_input_with_single_parameters():
    spec = make_spec()
    with pytest.raises(ValueError, match=r"^`x` has dtype float64 and .* have float32: .* x\.astype\('float32'\)$"):
        gj.apply(cast(make_params(spec), jnp.float32), np.ones((2, 4, 5, 2)), spec)


def test_parameters_of_several_types_or_of_integers():
    spec = make_spec(num_layers=2)
    params = make_params(spec)
    x = np.ones((2, 4, 5, 2), np.float32)
    mixed = [params[0], cast(params[1], jnp.bfloat16)]
    with pytest.raises(ValueError, match=r"^`params` have dtypes bfloat16, float32, expected one floating-point dtype"):
        gj.apply(mixed, x, spec)
    with pytest.raises(ValueError, match=r"^`params` have dtypes int32, expected one floating-point dtype for all$"):
        gj.apply(cast(params, jnp.int32), x, spec)
