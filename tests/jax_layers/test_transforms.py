"""apply under every transform of JAX's, against the oracle, runs of one member at a time, or the plain form."""

import functools

import pytest

pytest.importorskip("jax", reason="these are tests of gapcell.jax")

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name

import gapcell.jax as gj
from gapcell import reference
from gapcell.jax import recurrence
from jax_layers.batches import CELLS, assert_close, assert_not_zero, loss, make_batch, make_params, make_spec, oracle

pytestmark = pytest.mark.usefixtures("float64")

STACK = {"num_layers": 2}


def stacked(trees):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def plain_gradient(spec, batch, **said):
    """Of the parameters, by JAX's own rules."""
    of = jax.jit(jax.grad(functools.partial(loss, spec, vjp="plain")))
    return of(batch.params, batch.x, batch.state, **said)


# jit and grad ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cell", "options"), [("gru", STACK), ("lstm", {"window": 2})], ids=str)
def test_jit_and_value_and_grad(cell, options):
    spec = make_spec(cell, **options)
    batch = make_batch(spec)
    run = jax.jit(functools.partial(gj.apply, spec=spec, **batch.said))
    assert_close(run(*batch[:2], state=batch.state), oracle(spec, batch))
    of = functools.partial(loss, spec, **batch.said)
    want = jax.jit(of)(*batch[:3]), plain_gradient(spec, batch, **batch.said)
    assert_close(jax.jit(jax.value_and_grad(of))(*batch[:3]), want)
    assert_close(jax.value_and_grad(jax.jit(of))(*batch[:3]), want)
    assert_close(jax.grad(of)(*batch[:3]), want[1])
    assert_not_zero(want)


def test_without_jit_for_the_sake_of_a_debugger():
    spec = make_spec()
    batch = make_batch(spec)
    with jax.disable_jit():
        values = gj.apply(*batch[:2], spec, state=batch.state, **batch.said)
        gradient = jax.grad(functools.partial(loss, spec, **batch.said))(*batch[:3])
    assert_close(values, oracle(spec, batch))
    assert_close(gradient, plain_gradient(spec, batch, **batch.said))


# vmap -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=[("lstm", {}), ("gru", STACK)], ids=str)
def members(request):
    """A Spec and three batches of it."""
    cell, options = request.param
    spec = make_spec(cell, **options)
    return spec, [make_batch(spec, seed=seed) for seed in range(3)]


def test_vmap_over_batches(members):
    spec, batches = members
    params = batches[0].params
    got = jax.vmap(lambda x, state, mask: gj.apply(params, x, spec, state=state, mask=mask))(
        *(np.stack([batch[1] for batch in batches]), stacked([batch.state for batch in batches])),
        np.stack([batch.said["mask"] for batch in batches]),
    )
    assert_close(got, stacked([oracle(spec, batch._replace(params=params)) for batch in batches]))


def test_vmap_over_an_ensemble_of_parameters(members):
    """Values, and the gradients of each member's loss: vmap of grad, and grad of vmap."""
    spec, batches = members
    first, ensemble = batches[0], stacked([batch.params for batch in batches])
    each = [first._replace(params=batch.params) for batch in batches]
    run = jax.vmap(functools.partial(gj.apply, spec=spec, **first.said), in_axes=(0, None))
    got = run(ensemble, first.x)
    assert_close(got, stacked([oracle(spec, batch._replace(state=None)) for batch in each]))

    of = functools.partial(loss, spec, **first.said)
    wanted = stacked([plain_gradient(spec, batch, **batch.said) for batch in each])
    arguments = (first.x, first.state)
    assert_close(jax.jit(jax.vmap(jax.grad(of), (0, None, None)))(ensemble, *arguments), wanted)
    assert_close(jax.grad(lambda params: jax.vmap(of, (0, None, None))(params, *arguments).sum())(ensemble), wanted)


def test_gradients_of_each_sample():
    spec = make_spec()
    batch = make_batch(spec, N=3)

    def of(params, x, mask):
        return loss(spec, params, x[None], mask=mask[None])

    got = jax.jit(jax.vmap(jax.grad(of), in_axes=(None, 0, 0)))(batch.params, batch.x, batch.said["mask"])
    rows = [(batch.x[[n]], batch.said["mask"][[n]]) for n in range(3)]
    want = [plain_gradient(spec, batch._replace(x=x, state=None), mask=mask) for x, mask in rows]
    assert_close(got, stacked(want))
    assert_close(
        jax.tree.map(lambda leaf: leaf.sum(0), got), plain_gradient(spec, batch._replace(state=None), **batch.said)
    )


def test_vmap_within_vmap_and_jit_anywhere():
    """Every parameter set on every batch, and the gradient of it all."""
    spec = make_spec()
    batches = [make_batch(spec, seed=seed) for seed in range(2)]
    ensemble, xs = stacked([batch.params for batch in batches]), np.stack([batch.x for batch in batches])
    masks = np.stack([batch.said["mask"] for batch in batches])

    def of(params, x, mask):
        return loss(spec, params, x, mask=mask)

    inner = jax.vmap(jax.jit(of), (None, 0, 0))
    table = jax.jit(jax.vmap(inner, (0, None, None)))
    plain = jax.jit(jax.value_and_grad(functools.partial(loss, spec, vjp="plain")))
    alone = [[plain(p.params, b.x, **b.said) for b in batches] for p in batches]
    assert_close(table(ensemble, xs, masks), np.array([[value for value, _ in row] for row in alone]))
    got = jax.grad(lambda params: table(params, xs, masks).sum())(ensemble)
    want = [jax.tree.map(lambda *leaves: sum(leaves), *(gradient for _, gradient in row)) for row in alone]
    assert_close(got, stacked(want))


def test_only_the_mask_or_the_state_may_be_mapped():
    spec = make_spec()
    batch = make_batch(spec)
    x = np.nan_to_num(batch.x)
    masks = np.stack([batch.said["mask"], ~batch.said["mask"]])
    got = jax.vmap(lambda mask: gj.apply(batch.params, x, spec, mask=mask))(masks)
    assert_close(got, stacked([reference.conv_rnn(batch.params, x, spec, mask=mask) for mask in masks]))
    states = stacked([batch.state, make_batch(spec, seed=1).state])
    got = jax.vmap(lambda state: gj.apply(batch.params, x, spec, state=state))(states)
    each = [tuple(part[index] for part in states) for index in range(2)]
    assert_close(got, stacked([reference.conv_rnn(batch.params, x, spec, state=state) for state in each]))


# Loops and branches ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", CELLS)
def test_a_scan_over_chunks_of_time_is_the_whole(cell):
    """Values and gradients, the state carried from chunk to chunk."""
    spec = make_spec(cell, num_layers=2)
    batch = make_batch(spec, T=6)

    def chunks(array):
        return array.reshape(array.shape[0], 3, 2, *array.shape[2:]).swapaxes(0, 1)

    def of(params, x, state):
        def body(state, chunk):
            y, state = gj.apply(params, chunk[0], spec, mask=chunk[1], state=state)
            return state, y

        last, ys = lax.scan(body, state, (chunks(x), chunks(batch.said["mask"])))
        y = jnp.concatenate(list(ys), axis=1)
        return sum(jnp.sum(jnp.sin(part)) for part in jax.tree.leaves((y, last))), (y, last)

    def whole(params, x, state):
        y, last = gj.apply(params, x, spec, state=state, vjp="plain", **batch.said)
        return sum(jnp.sum(jnp.sin(part)) for part in jax.tree.leaves((y, last)))

    gradients, values = jax.jit(jax.grad(of, (0, 1, 2), has_aux=True))(*batch[:3])
    assert_close(values, oracle(spec, batch))
    assert_close(gradients, jax.jit(jax.grad(whole, (0, 1, 2)))(*batch[:3]))


def test_inside_while_loop_and_cond():
    """A mask and a state that only the device knows."""
    spec = make_spec()
    batch = make_batch(spec)
    x = np.nan_to_num(batch.x)

    def body(carried):
        count, state = carried
        mask = jnp.roll(batch.said["mask"], count, axis=1)
        return count + 1, gj.apply(batch.params, x, spec, mask=mask, state=state)[1]

    got = jax.jit(lambda state: lax.while_loop(lambda carried: carried[0] < 3, body, (0, state)))(batch.state)
    want = batch.state
    for count in range(3):
        mask = np.roll(batch.said["mask"], count, axis=1)
        want = reference.conv_rnn(batch.params, x, spec, mask=mask, state=want)[1]
    assert_close(got, (3, want))

    def of(params, masked):
        return lax.cond(masked, lambda p: loss(spec, p, x, **batch.said), lambda p: loss(spec, p, x), params)

    gradient = jax.jit(jax.grad(of))
    assert_close(gradient(batch.params, True), plain_gradient(spec, batch._replace(state=None), **batch.said))
    assert_close(gradient(batch.params, False), plain_gradient(spec, batch._replace(x=x, state=None)))


# Rematerialisation and donation ---------------------------------------------------------------------------------------

POLICIES = {
    "none": None,
    "everything": jax.checkpoint_policies.everything_saveable,
    "nothing": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_saveable,
    "names": jax.checkpoint_policies.save_only_these_names("first"),
}


@pytest.fixture(scope="module")
def two_layers():
    """A loss through two calls, its arguments, and its gradients by JAX's own rules without checkpoints."""
    spec, above = make_spec(), make_spec("gru", in_channels=3)
    batch, params = make_batch(spec), make_params(above)

    def of(vjp, both, x):
        y, _ = gj.apply(both[0], x, spec, state=batch.state, vjp=vjp, **batch.said)
        return loss(above, both[1], checkpoint_name(y, "first"), vjp=vjp, **batch.said)

    arguments = ((batch.params, params), batch.x)
    with jax.enable_x64(True):
        return of, arguments, jax.jit(jax.grad(functools.partial(of, "plain"), (0, 1)))(*arguments)


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_checkpoint_gives_the_same_gradients(two_layers, policy):
    of, arguments, want = two_layers
    kept = jax.checkpoint(functools.partial(of, "lean"), policy=policy)
    assert_close(jax.jit(jax.grad(kept, (0, 1)))(*arguments), want)


def test_checkpoint_of_plain_and_of_a_part_of_the_arguments(two_layers):
    of, (both, x), want = two_layers
    assert_close(jax.jit(jax.grad(jax.checkpoint(functools.partial(of, "plain")), (0, 1)))(both, x), want)
    assert_close(jax.jit(jax.grad(jax.checkpoint(lambda x: of("lean", both, x))))(x), want[1])


def test_checkpoint_under_vmap_and_in_a_scan():
    spec = make_spec()
    batches = [make_batch(spec, seed=seed) for seed in range(2)]
    ensemble, first = stacked([batch.params for batch in batches]), batches[0]
    of = jax.checkpoint(functools.partial(loss, spec, **first.said))
    each = [first._replace(params=batch.params) for batch in batches]
    want = stacked([plain_gradient(spec, batch, **batch.said) for batch in each])
    of_all = jax.vmap(of, (0, None, None))
    assert_close(jax.jit(jax.vmap(jax.grad(of), (0, None, None)))(ensemble, *first[1:3]), want)
    assert_close(jax.jit(jax.grad(lambda params: of_all(params, *first[1:3]).sum()))(ensemble), want)
    in_a_scan = jax.grad(lambda params: lax.map(lambda p: of(p, *first[1:3]), params).sum())
    assert_close(jax.jit(in_a_scan)(ensemble), want)


def test_donated_parameters_and_state():
    """A training step that gives its buffers away, twice; JAX warns where a donation could not be used."""
    spec = make_spec()
    batch = make_batch(spec)

    def step(params, state):
        def of(params):
            y, last = gj.apply(params, batch.x, spec, state=state, **batch.said)
            return jnp.sum(jnp.sin(y)), last

        gradient, last = jax.grad(of, has_aux=True)(params)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient), last

    donating = jax.jit(step, donate_argnums=(0, 1))
    got = want = jax.tree.map(jnp.asarray, (batch.params, batch.state))
    got = jax.tree.map(jnp.copy, got)
    for _ in range(2):
        given, got = got, donating(*got)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(given))
        want = jax.jit(step)(*want)
    assert_close(got, want)


# No retracing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gap", ["hold", "predict"])
def test_one_trace_serves_every_mask_lengths_domain_and_state(gap):
    spec = make_spec(gap=gap)
    params, traces = make_params(spec), []

    @jax.jit
    def run(params, x, mask, lengths, domain, state):
        traces.append(1)
        return gj.apply(params, x, spec, mask=mask, lengths=lengths, domain=domain, state=state)

    for seed in range(3):
        batch, rng = make_batch(spec, seed=seed), np.random.default_rng(seed)
        said = {"mask": batch.said["mask"], "lengths": rng.integers(0, 5, 2), "domain": rng.random(5) < 0.7}
        got = run(params, batch.x, *said.values(), batch.state)
        assert_close(got, reference.conv_rnn(params, batch.x, spec, state=batch.state, **said))
    assert len(traces) == 1


def test_calls_without_jit_compile_once_too(monkeypatch):
    spec, traces, run = make_spec(filters=4), [], recurrence.run
    params = make_params(spec)
    monkeypatch.setattr(recurrence, "run", lambda *arguments: traces.append(1) or run(*arguments))
    for seed in range(3):
        batch = make_batch(spec, seed=seed)
        for mask in (batch.said["mask"], jnp.asarray(batch.said["mask"]), batch.said["mask"].astype(np.int32)):
            gj.apply(params, batch.x, spec, mask=mask)
    assert len(traces) == 1


CONSTANTS = {
    "mask": lambda: np.array([[1.0, 0.0, 1.0, np.nan], [1.0, 1.0, 0.0, 1.0]]),
    "lengths": lambda: np.array([[0, 3], [1, 4]]),
    "domain": lambda: np.array([1, 1, 0, 1, 1]),
}


@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray], ids=["NumPy", "JAX"])
@pytest.mark.parametrize("name", CONSTANTS)
def test_a_constant_inside_jit_is_as_good_as_an_argument(name, kind):
    """Under jit even the comparison of two constants is staged, and has no value while tracing."""
    spec = make_spec()
    batch = make_batch(spec)
    said = {name: CONSTANTS[name]()}
    x, constant = np.nan_to_num(batch.x), kind(said[name])
    got = jax.jit(lambda x: gj.apply(batch.params, x, spec, **{name: constant}))(x)
    assert_close(got, reference.conv_rnn(batch.params, x, spec, **said))


def test_a_constant_mask_of_jax_under_jit_and_predict():
    spec = make_spec(gap="predict")
    batch = make_batch(spec)
    mask = jnp.ones((2, 4), bool)
    x = np.nan_to_num(batch.x)
    got = jax.jit(lambda x: gj.apply(batch.params, x, spec, mask=mask))(x)
    assert_close(got, reference.conv_rnn(batch.params, x, spec))


def test_lengths_beyond_the_input_are_clamped_where_they_are_not_known():
    spec = make_spec()
    batch = make_batch(spec)
    x = np.nan_to_num(batch.x)
    run = jax.jit(lambda lengths: gj.apply(batch.params, x, spec, lengths=lengths))
    assert_close(run(np.array([9, -3])), reference.conv_rnn(batch.params, x, spec, lengths=np.array([4, 0])))
