"""gapcell.jax beside the ConvLSTMs of flax and dm-haiku: the same where nothing is masked, right where they are wrong.

The agreement with gapcell.reference is law 13 (test_laws_jax.py).
"""

import re
from functools import partial

import numpy as np
import pytest

pytest.importorskip("jax", reason="this compares gapcell.jax with other layers of JAX's")

import jax
import jax.numpy as jnp

from gapcell import Spec
from gapcell.jax import apply
from gapcell.laws.adapters.jax import QUICK
from gapcell.laws.cases import normal
from gapcell.laws.comparison import all_arrays, assert_close

N, T, C, F = 3, 4, 2, 5
SPECS = {
    1: Spec(rank=1, in_channels=C, filters=F, kernel_size=3),
    2: Spec(rank=2, in_channels=C, filters=F, kernel_size=(3, 2)),
}
SITES = {1: (6,), 2: (3, 4)}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def flax():
    """flax.linen, whose ConvLSTMCell runs in nn.RNN."""
    return pytest.importorskip("flax.linen", reason="this compares with flax.linen.ConvLSTMCell")


@pytest.fixture
def haiku():
    """dm-haiku, which JAX's newer releases may leave behind."""
    return pytest.importorskip("haiku", reason="this compares with hk.Conv1DLSTM")


def random_batch(rank):
    """x and an initial state (h, c) without the axis of layers."""
    shape = (N, *SITES[rank], F)
    return jnp.asarray(normal(N, T, *SITES[rank], C)), tuple(jnp.asarray(normal(*shape, seed=seed)) for seed in (2, 3))


def disturbed(params):
    """Biases start at 0, where a lost one would not be missed."""
    return jax.tree.map(lambda leaf: leaf + 0.3 * normal(*leaf.shape, seed=4), params)


def in_our_order(gates):
    """Both others order the gates i, g, f, o; here they are i, f, g, o."""
    i, g, f, o = jnp.split(gates, 4, axis=-1)
    return jnp.concatenate([i, f, g, o], axis=-1)


def from_two_convolutions(of_input, of_state, kernel, bias):
    """Both others have a bias in each convolution, and add 1 to the forget gate in every step."""
    forget = jnp.zeros(4 * F).at[F : 2 * F].set(1)
    return {
        "kernel": in_our_order(of_input[kernel]),
        "recurrent_kernel": in_our_order(of_state[kernel]),
        "bias": in_our_order(of_input[bias] + of_state[bias]) + forget,
    }


def ours(convert, spec, params, x, state, **arguments):
    """Our layer as a function of their parameters, so that gradients are compared as theirs."""
    y, last = apply(convert(params), x, spec, state=tuple(part[None] for part in state), **arguments)
    return y, tuple(part[0] for part in last)


def assert_agree(theirs, ours, params, x, state):
    """Output, last state, and the gradients of all arguments for random cotangents.

    Theirs are compiled with `QUICK`: as jaxlib 0.10.2 fuses by default, XLA gives wrong gradients (by 10 % and more) of
    flax's layer and of our vjp="plain" on a CPU with AVX-512, in float64 for sites (3, 4) and 5 filters.
    """
    cotangents = jnp.asarray(normal(*x.shape[:-1], F, seed=5)), (jnp.asarray(normal(*state[0].shape, seed=6)),) * 2

    def all_of(function, **options):
        @partial(jax.jit, **options)
        def run(arguments, cotangents):
            values, pull = jax.vjp(function, *arguments)
            return values, pull(cotangents)

        return [as_numpy(part) for part in run((params, x, state), cotangents)]

    want, want_gradients = all_of(theirs, compiler_options=QUICK)
    got, gradients = all_of(ours)
    assert_close(got, want, "values")
    assert_close(gradients, want_gradients, "gradients")


def as_numpy(values):
    return all_arrays(jax.tree.map(np.asarray, jax.tree.leaves(values)))


# flax --------


def of_flax(variables):
    cell = variables["params"]["cell"]
    return from_two_convolutions(cell["ih"], cell["hh"], "kernel", "bias")


def flax_layer(flax, rank):
    """nn.RNN over ConvLSTMCell with our signature, and variables for it."""
    cell = flax.ConvLSTMCell(F, SPECS[rank].kernel_size, param_dtype=jnp.float64)
    module = flax.RNN(cell, return_carry=True)

    def run(variables, x, state, lengths=None):
        h, c = state
        (c, h), y = module.apply(variables, x, initial_carry=(c, h), seq_lengths=lengths)
        return y, (h, c)

    x, _ = random_batch(rank)
    return run, disturbed(module.init(jax.random.key(0), x))


@pytest.mark.parametrize("masked", [False, True], ids=["no mask", "mask of ones"])
@pytest.mark.parametrize("rank", [1, 2])
def test_flax_agrees_where_nothing_is_masked(flax, rank, masked):
    theirs, variables = flax_layer(flax, rank)
    x, state = random_batch(rank)
    mask = jnp.ones(x.shape, bool) if masked else None
    assert_agree(theirs, partial(ours, of_flax, SPECS[rank], mask=mask), variables, x, state)


def test_flax_agrees_up_to_the_lengths(flax):
    """Where a row has at least one step, flax's last carry is right."""
    theirs, variables = flax_layer(flax, 1)
    x, state = random_batch(1)
    lengths = jnp.array([2, T, 1])
    want, want_last = theirs(variables, x, state, lengths)
    y, last = ours(of_flax, SPECS[1], variables, x, state, lengths=lengths)
    within = np.arange(T) < np.asarray(lengths)[:, None]
    assert_close(np.asarray(y)[within], np.asarray(want)[within], "outputs within the lengths")
    assert_close(as_numpy(last), as_numpy(want_last), "last states")


def mended(what):
    return f"flax {what} now: say so where the documents compare, and drop this half of the test"


def test_a_row_of_length_0_returns_its_initial_state(flax):
    theirs, variables = flax_layer(flax, 1)
    x, state = random_batch(1)
    lengths = jnp.array([0, T, 2])
    _, last = ours(of_flax, SPECS[1], variables, x, state, lengths=lengths)
    for part, initial in zip(last, state, strict=True):
        np.testing.assert_array_equal(part[0], initial[0])
    _, want = theirs(variables, x, state)  # the padding run through to its end
    _, got = theirs(variables, x, state, lengths)
    for part, end in zip(got, want, strict=True):
        assert np.array_equal(part[0], end[0]), mended("returns another state for a row of length 0")


def test_outputs_in_padding_are_zero(flax):
    theirs, variables = flax_layer(flax, 1)
    x, state = random_batch(1)
    lengths = jnp.array([2, T, 1])
    padding = np.arange(T) >= np.asarray(lengths)[:, None]
    y, _ = ours(of_flax, SPECS[1], variables, x, state, lengths=lengths)
    assert not np.asarray(y)[padding].any()
    other, _ = theirs(variables, x, state, lengths)
    assert np.asarray(other)[padding].all(), mended("gives zeros in padding")


def test_nan_in_padding_reaches_no_gradient(flax):
    """Though the loss selects the steps that exist."""
    theirs, variables = flax_layer(flax, 1)
    x, state = random_batch(1)
    lengths = jnp.array([2, T, 1])
    within = jnp.arange(T) < lengths[:, None]
    spoiled = jnp.where(within[..., None, None], x, jnp.nan)

    def loss(layer, variables, x, state):
        y, last = layer(variables, x, state, lengths=lengths)
        return jnp.where(within[..., None, None], y, 0).sum() + sum(part.sum() for part in last)

    gradients = {
        name: jax.jit(jax.grad(partial(loss, layer), argnums=(0, 1, 2)))(variables, spoiled, state)
        for name, layer in (("ours", partial(ours, of_flax, SPECS[1])), ("flax", theirs))
    }
    clean = jax.jit(jax.grad(partial(loss, theirs), argnums=(0, 1, 2)))(variables, x, state)
    assert_close(as_numpy(gradients["ours"]), as_numpy(clean), "gradients beside NaN in padding")
    of_parameters = as_numpy(gradients["flax"][0])
    assert all(np.isnan(leaf).all() for leaf in of_parameters), mended("keeps NaN in padding out of its gradients")


def test_lengths_beyond_the_input_are_refused_where_they_are_known(flax):
    theirs, variables = flax_layer(flax, 1)
    x, state = random_batch(1)
    lengths = jnp.array([2, T + 3, 1])
    for given in (lengths, np.asarray(lengths), jnp.stack([0 * lengths, lengths], axis=1)):
        with pytest.raises(ValueError, match=re.escape(f"`lengths` says steps 0 to {T + 3} for row 1")) as refusal:
            ours(of_flax, SPECS[1], variables, x, state, lengths=given)
        assert f"the input has {T} steps" in str(refusal.value)
    try:
        _, got = theirs(variables, x, state, lengths)
    except (ValueError, IndexError) as error:
        pytest.fail(f"{mended('refuses lengths beyond the input')} ({error})")
    _, want = theirs(variables, x, state, jnp.minimum(lengths, T))
    assert_close(as_numpy(got), as_numpy(want), mended("treats lengths beyond the input in another way"))


@pytest.mark.parametrize("bounds", [(0, T + 3), (-2, T), (-1, T + 1)])
def test_lengths_are_clamped_under_tracing(bounds):
    spec, (x, state) = SPECS[1], random_batch(1)
    params = our_params(spec)

    @jax.jit
    def run(lengths):
        return apply(params, x, spec, lengths=lengths, state=tuple(part[None] for part in state))

    lengths = jnp.array([[0, 2], bounds, [1, 3]])
    np.testing.assert_array_equal(*(run(given)[0] for given in (lengths, jnp.clip(lengths, 0, T))))


def our_params(spec):
    return {name: jnp.asarray(normal(*shape, seed=6)) for name, shape in spec.parameter_shapes(0).items()}


@pytest.mark.parametrize("gap", ["hold", "predict"])
def test_new_values_of_mask_and_lengths_are_not_traced_again(gap):
    x, _ = random_batch(1)
    spec = Spec(rank=1, in_channels=C, filters=F, kernel_size=3, gap=gap)
    traces = []

    @jax.jit
    def gradients(params, x, mask, lengths):
        traces.append(x.shape)
        return jax.grad(lambda params, x: apply(params, x, spec, mask=mask, lengths=lengths)[0].sum(), (0, 1))(
            params, x
        )

    rng = np.random.default_rng(8)
    found = [
        gradients(our_params(spec), x, jnp.asarray(rng.random(x.shape) < share), jnp.asarray(lengths))
        for share, lengths in ((0.5, [T, T, T]), (0.0, [1, 0, 2]), (1.0, [0, 0, 0]), (0.2, [T + 1, 3, T]))
    ]
    assert traces == [x.shape]
    assert not np.array_equal(found[0][1], found[3][1])
    assert all(np.isfinite(leaf).all() for leaf in as_numpy(found))


# dm-haiku --------


def of_haiku(params):
    return from_two_convolutions(
        params["conv1_dlstm/input_to_hidden"], params["conv1_dlstm/hidden_to_hidden"], "w", "b"
    )


def test_haiku_agrees(haiku):
    x, state = random_batch(1)

    def unrolled(x, state):
        core = haiku.Conv1DLSTM(input_shape=SITES[1], output_channels=F, kernel_shape=3)
        y, last = haiku.dynamic_unroll(core, x.swapaxes(0, 1), haiku.LSTMState(*state))
        return y.swapaxes(0, 1), (last.hidden, last.cell)

    module = haiku.without_apply_rng(haiku.transform(unrolled))
    params = disturbed(module.init(jax.random.key(0), x, state))
    assert_agree(module.apply, partial(ours, of_haiku, SPECS[1]), params, x, state)
