"""The flax cells: a step is the layer's, in nnx.RNN or a loop of one's own, over any batch axes."""

import warnings

import numpy as np
import pytest

pytest.importorskip("jax", reason="these are tests of the flax modules")
pytest.importorskip("flax", reason="these are tests of the flax modules")

import jax
import jax.numpy as jnp
from flax import nnx

import gapcell.jax as gj
from gapcell import masks
from jax_layers.modules import C, F, L, N, T, assert_close, cell_of, gapped, layer, mask, refused, same, x


@nnx.jit(static_argnames="run")
def gradients_of(module, inputs, run):
    def loss(module, inputs):
        y, state = run(module, inputs)
        return jnp.sin(y).sum() + sum(jnp.cos(part).sum() for part in jax.tree.leaves(state)), (y, state)

    return nnx.value_and_grad(loss, argnums=(0, 1), has_aux=True)(module, inputs)


def through_rnn(cell, inputs):
    state, y = nnx.RNN(cell, return_carry=True)(inputs)
    return y, state


def through_layer(module, inputs):
    y, state = module(inputs, mask=masks.from_nan(inputs))
    return y, jax.tree.map(lambda part: part[0], state)


@pytest.mark.parametrize(
    ("kind", "cell_kind", "options"),
    [
        (gj.ConvLSTM, gj.ConvLSTMCell, {"stride": 2, "recurrent_dropout": 0.0}),
        (gj.ConvGRU, gj.ConvGRUCell, {"gap": "predict", "causal": True}),
    ],
)
def test_a_cell_in_an_rnn_is_the_layer(kind, cell_kind, options):
    trained = layer(kind, **options)
    cell = cell_of(trained, cell_kind, mask_from_nan=True, **options)
    (_, outputs), (weights, inputs) = gradients_of(trained, gapped, through_layer)
    (_, cell_outputs), (cell_weights, cell_inputs) = gradients_of(cell, gapped, through_rnn)
    assert_close(cell_outputs, outputs)
    assert_close(nnx.to_pure_dict(cell_weights), nnx.to_pure_dict(weights), 1e-5)
    assert_close(cell_inputs, inputs, 1e-5)
    assert not cell_inputs[~mask].any()


def test_an_rnn_with_time_first_running_backwards_over_lengths():
    lengths, full = np.array([4, 1, 3]), layer()
    backwards = layer(go_backwards=True)
    backwards.params = full.params
    rnn = nnx.RNN(cell_of(full), time_major=True, reverse=True, keep_order=True)
    y = rnn(jnp.asarray(x.swapaxes(0, 1)), seq_lengths=jnp.asarray(lengths)).swapaxes(0, 1)
    expected = backwards(x, lengths=lengths)[0][:, ::-1]
    exists = masks.from_lengths(lengths, T)
    assert_close(np.where(exists[..., None, None], y, 0), expected)


def test_with_nan_the_last_carry_of_an_empty_row_is_its_first():
    """nnx.RNN's own seq_lengths takes the last carry of the padding there."""
    lengths, trained = np.array([4, 0, 3]), layer()
    padded = np.where(masks.from_lengths(lengths, T)[..., None, None], x, np.nan)
    (h, c), _ = nnx.RNN(cell_of(trained, mask_from_nan=True), return_carry=True)(jnp.asarray(padded))
    assert not h[1].any()
    assert not c[1].any()
    _, state = trained(x, lengths=lengths)
    assert_close((h[None], c[None]), state)
    (h, _), _ = nnx.RNN(cell_of(trained), return_carry=True)(jnp.asarray(x), seq_lengths=jnp.asarray(lengths))
    assert h[1].any()


@pytest.mark.parametrize("covers", [2, 3, 4], ids=["steps", "sites", "elements"])
@pytest.mark.parametrize("options", [{}, {"gap": "predict", "masked_output": "hold"}], ids=["hold", "predict"])
def test_a_mask_is_handed_to_a_step(covers, options):
    trained = layer(**options)
    observed = mask[(..., *(0,) * (4 - covers))]
    holey = np.where(masks.expand(observed, 4), x, np.nan)
    cell, outputs = cell_of(trained, **options), []
    carry = cell.initialize_carry((N, L, C))
    for step in range(T):
        carry, y = cell(carry, holey[:, step], observed[:, step].astype(int))
        outputs.append(y)
    expected, state = trained(holey, mask=observed, lengths=np.full(N, T))
    assert_close(jnp.stack(outputs, 1), expected)
    assert_close(tuple(part[None] for part in carry), state)


def test_a_mask_beside_nan_hides_more():
    cell, plain = cell_of(layer(), mask_from_nan=True), cell_of(layer())
    carry, step, observed = cell.initialize_carry((N, L, C)), gapped[:, 0], np.array([1.0, np.nan, 0.0])
    both = mask[:, 0] & (observed == 1)[:, None, None]
    assert same(cell(carry, step, observed), plain(carry, step, both))


@pytest.mark.parametrize("batch", [(), (2, 3), (0,)])
def test_any_batch_axes(batch):
    cell = layer(gj.ConvLSTMCell, stride=2)
    flat = np.random.default_rng(1).normal(size=(6, L, C)).astype("float32")[: int(np.prod(batch))]
    step, observed = flat.reshape(*batch, L, C), mask[:2, :3].reshape(6, L, C)[: len(flat)].reshape(*batch, L, C)
    carry = cell.initialize_carry(step.shape, nnx.Rngs(0), nnx.initializers.normal())
    assert carry[0].shape == (*batch, 3, F)
    (h, c), y = cell(carry, step, observed)
    assert h.shape == c.shape == y.shape == (*batch, 3, F)
    flat_carry = jax.tree.map(lambda part: part.reshape(-1, 3, F), carry)
    (flat_h, flat_c), flat_y = cell(flat_carry, flat, observed.reshape(-1, L, C))
    assert_close((flat_h.reshape(h.shape), flat_c.reshape(c.shape), flat_y.reshape(y.shape)), (h, c, y))


def test_a_carry_is_drawn_if_asked():
    cell = layer(gj.ConvLSTMCell)
    zeros = cell.initialize_carry((N, L, C))
    assert not any(part.any() for part in zeros)
    h, c = cell.initialize_carry((N, L, C), nnx.Rngs(carry=0), nnx.initializers.normal())
    assert h.any()
    assert not same(h, c)
    assert same(h, cell.initialize_carry((N, L, C), nnx.Rngs(carry=0).carry, nnx.initializers.normal())[0])
    with refused("`carry_init` is given without `rngs`, whose stream 'carry' draws its keys; pass nnx.Rngs"):
        cell.initialize_carry((N, L, C), carry_init=nnx.initializers.normal())


@pytest.mark.parametrize(
    ("options", "drawn", "output"),
    [
        ({"dtype": jnp.bfloat16}, "float32", "bfloat16"),
        ({"dtype": jnp.float32, "param_dtype": jnp.bfloat16}, "float32", "float32"),
        ({"param_dtype": jnp.bfloat16}, "bfloat16", "float32"),
    ],
)
def test_the_carry_keeps_its_type(options, drawn, output):
    """nnx.RNN needs this: a scan's carry cannot change its type."""

    def step(inputs):
        cell = layer(gj.ConvGRUCell, **options)
        carry = cell.initialize_carry(inputs.shape)
        return carry, *cell(carry, inputs)

    before, after, y = jax.eval_shape(step, jax.ShapeDtypeStruct((N, L, C), "float32"))
    assert (before.dtype, after.dtype, y.dtype) == (drawn, drawn, output)


def test_an_rnn_draws_dropout_once_a_sequence_if_told():
    rows = 8
    inputs = jnp.asarray(np.random.default_rng(1).normal(size=(rows, T, L, 1)), "float32")
    cell = gj.ConvGRUCell(1, F, 3, input_dropout=0.5, rngs=nnx.Rngs(0))
    whole = gj.ConvGRU(1, F, 3, rngs=nnx.Rngs(0))
    whole.params = cell.params
    kept, dropped = whole(2 * inputs)[0], whole(0 * inputs)[0]

    def drawn_once(y):
        """Whether each row has its one channel kept, or dropped, at all steps."""
        each = [np.abs(y - run).max(axis=(1, 2, 3)) < 1e-5 for run in (kept, dropped)]
        return np.any(each, axis=0)

    assert drawn_once(nnx.RNN(cell, broadcast_rngs=nnx.RngState)(inputs)).all()
    assert not drawn_once(nnx.RNN(cell)(inputs)).all()
    cell.eval()
    assert_close(nnx.RNN(cell)(inputs), whole(inputs)[0])


def test_steps_that_a_cell_refuses():
    cell = layer(gj.ConvLSTMCell)
    h, c = cell.initialize_carry((N, L, C))
    with refused("`x` has shape (3, 5, 4), expected (*batch, L, 2) with C = in_features, channels last"):
        cell((h, c), np.zeros((N, L, 4)))
    with refused("`x` has shape (2,), expected (*batch, L, 2) with C = in_features, channels last"):
        cell.initialize_carry((C,))
    with refused("`carry` has 1 arrays, expected 2: h, c"):
        cell(h, x[:, 0])
    with refused("`carry`: c has shape (2, 5, 3), expected (3, 5, 3) for x of shape (3, 5, 2)"):
        cell((h, c[:2]), x[:, 0])
    with refused(
        "`mask` has shape (3, 1), but x has shape (3, 5, 2): expected (3,) or (3, 5) or (3, 5, 2); "
        "a mask is matched exactly and never broadcast"
    ):
        cell((h, c), x[:, 0], np.ones((N, 1)))


def test_a_missing_step_is_no_padding_to_a_cell():
    cell = layer(gj.ConvLSTMCell, gap="predict")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cell(cell.initialize_carry((N, L, C)), x[:, 0], np.zeros(N, bool))
