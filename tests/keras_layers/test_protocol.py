"""What Keras expects of a recurrent layer, with masks: states, wrappers, dropout, dtypes, compilers, unknown sizes."""

import re

import keras
import numpy as np
import pytest

from gapcell.keras import ConvGRU1D, ConvLSTM1D, ConvLSTM2D, MaskNaN
from keras_layers.running import BACKEND, C, F, N, T, batch, gradients, masks_of, numpy, policy, randomised, spoiled

KINDS = {"lstm": ConvLSTM1D, "gru": ConvGRU1D}


def made(shape, kind=ConvLSTM1D, **options):
    layer = kind(F, 3, **{"return_sequences": True, "padding": "same"} | options)
    layer.build(shape)
    return randomised(layer)


# States ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_stateful_is_one_long_sequence_also_where_it_is_masked(kind):
    x = batch()
    mask = masks_of(x)["step"]
    mask[:, 2] = False  # the second half begins masked: only the states know of the first
    whole = numpy(made(x.shape, kind)(spoiled(x, mask), mask=mask))
    layer = made((N, 2, 5, C), kind, stateful=True)
    for _ in range(2):
        halves = [numpy(layer(spoiled(x, mask)[:, part], mask=mask[:, part])) for part in (slice(2), slice(2, None))]
        np.testing.assert_allclose(np.concatenate(halves, 1), whole, atol=1e-6)
        layer.reset_state()


@pytest.mark.skipif(BACKEND == "jax", reason="on JAX fit carries no states, those of keras.layers' own neither")
def test_stateful_trains():
    x = batch()
    layer = made(x.shape, stateful=True)
    model = keras.Sequential([keras.Input(batch_shape=x.shape), layer])
    model.compile("sgd", "mse")
    for _ in range(2):
        model.fit(x, np.zeros((N, T, 5, F), "float32"), batch_size=N, verbose=0)
    assert np.isfinite(numpy(layer.states[0].value)).all()
    assert numpy(layer.states[0].value).any()


def test_stateful_needs_the_batch_it_was_built_for():
    x = batch()
    layer = made(x.shape, stateful=True)
    with pytest.raises(ValueError, match="with stateful=True every batch has the first one's size"):
        layer(x[:2])


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_returned_states_carry_on(kind):
    x = batch()
    mask = masks_of(x)["element"]
    layer = made(x.shape, kind, return_state=True)
    whole, *last = numpy(layer(spoiled(x, mask), mask=mask))
    first, *states = layer(spoiled(x, mask)[:, :2], mask=mask[:, :2])
    second, *end = layer(spoiled(x, mask)[:, 2:], mask=mask[:, 2:], initial_state=states)
    np.testing.assert_allclose(np.concatenate([numpy(first), numpy(second)], 1), whole, atol=1e-6)
    for got, want in zip(numpy(end), last, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-6)


def test_no_steps_give_the_state_back():
    x = batch()[:, :0]
    state = [np.full((N, 5, F), value, "float32") for value in (1, 2)]
    y, h, c = made(batch().shape, return_state=True)(x, initial_state=state)
    assert y.shape == (N, 0, 5, F)
    np.testing.assert_array_equal(numpy(h), state[0])
    np.testing.assert_array_equal(numpy(c), state[1])


def test_a_series_without_events_gives_what_the_state_holds():
    x = np.zeros((N, 0, C), "float32")
    state = [np.random.default_rng(seed).normal(size=(N, 3, F)).astype("float32") for seed in (2, 3)]
    layer = made((N, 7, C), window=3, return_sequences=False, return_state=True)
    y, h, _ = numpy(layer(x, initial_state=state))
    np.testing.assert_array_equal(y, state[0][:, -1])
    np.testing.assert_array_equal(h, state[0])


@pytest.mark.skipif(BACKEND != "tensorflow", reason="only TensorFlow's graphs have sizes that are not known")
def test_stateful_needs_its_batch_also_where_a_graph_does_not_know_it():
    import tensorflow as tf

    layer = made((N, T, 5, C), stateful=True)
    call = tf.function(layer, input_signature=[tf.TensorSpec((None, None, 5, C))])
    with pytest.raises(tf.errors.InvalidArgumentError, match="with stateful=True every batch has the size"):
        call(batch()[:2])


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ([np.zeros((N, 5, F), "float32")], "`initial_state` has 1 tensors, expected 2: [h, c]"),
        ([np.zeros((N, 5, C), "float32")] * 2, "`initial_state` has shape (3, 5, 2), expected (3, 5, 3)"),
        ([np.zeros((1, 5, F), "float32")] * 2, "`initial_state` has shape (1, 5, 3), expected (3, 5, 3)"),
    ],
)
def test_states_of_other_shapes_are_refused(state, said):
    x = batch()
    with pytest.raises(ValueError, match=re.escape(said)):
        made(x.shape)(x, initial_state=state)


# Wrappers -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("merge_mode", ["concat", "sum", None])
def test_bidirectional_reads_both_ways_under_a_mask(merge_mode):
    x = batch()
    mask = masks_of(x)["step"]
    layer = keras.layers.Bidirectional(ConvLSTM1D(F, 3, padding="same", return_sequences=True), merge_mode=merge_mode)
    layer.build(x.shape)
    randomised(layer)
    y = numpy(layer(spoiled(x, mask), mask=mask))
    ahead = numpy(layer.forward_layer(spoiled(x, mask), mask=mask))
    back = numpy(layer.backward_layer(spoiled(x, mask), mask=mask))[:, ::-1]
    assert not ahead[~mask].any()  # Bidirectional asks for zeros
    assert not back[~mask].any()
    for row in range(N):
        backwards = x[row : row + 1, mask[row]]
        np.testing.assert_allclose(back[row, mask[row]], numpy(layer.backward_layer(backwards))[0, ::-1], atol=1e-6)
    want = {
        "concat": lambda: np.concatenate([ahead, back], -1),
        "sum": lambda: ahead + back,
        None: lambda: (ahead, back),
    }
    for got, wanted in zip(keras.tree.flatten(y), keras.tree.flatten(want[merge_mode]()), strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_bidirectional_returns_last_outputs_and_states():
    x = batch()
    mask = np.ones((N, T), bool)
    mask[0, 2:] = False
    layer = keras.layers.Bidirectional(ConvGRU1D(F, 3, return_state=True))
    layer.build(x.shape)
    y, ahead, back = numpy(layer(spoiled(x, mask), mask=mask))
    np.testing.assert_array_equal(y, np.concatenate([ahead, back], -1))
    short = numpy(layer(x[:1, :2])[0])
    np.testing.assert_allclose(y[:1], short, atol=1e-6)


def test_time_distributed_runs_the_layer_slice_by_slice():
    x = np.stack([batch(seed=seed) for seed in range(2)], 1)
    inner = ConvLSTM1D(F, 3, padding="same")
    layer = keras.layers.TimeDistributed(inner)
    mask = np.stack([masks_of(x[:, 0], seed)["step"] for seed in range(2)], 1)
    y = numpy(layer(spoiled(x, mask), mask=mask))
    for index in range(2):
        want = numpy(inner(spoiled(x, mask)[:, index], mask=mask[:, index]))
        np.testing.assert_allclose(y[:, index], want, atol=1e-6)


# Dropout --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["dropout", "recurrent_dropout"])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_dropout_acts_in_training_only_with_its_seed(kind, which):
    x = batch()
    plain, dropping = made(x.shape, kind), made(x.shape, kind, **{which: 0.5}, seed=1)
    np.testing.assert_array_equal(numpy(dropping(x)), numpy(plain(x)))
    again = made(x.shape, kind, **{which: 0.5}, seed=1)
    first = numpy(dropping(x, training=True))
    assert np.abs(first - numpy(plain(x))).max() > 1e-2
    np.testing.assert_array_equal(numpy(again(x, training=True)), first)
    assert (numpy(dropping(x, training=True)) != first).any()  # a new draw every call


def test_dropout_is_one_draw_a_sequence_of_keras_own_shape():
    """A layer that only adds up what it reads shows the draw: 0 or 2 at each site and channel, at every step."""
    x = np.ones((N, T, 5, C), "float32")
    layer = ConvLSTM1D(F, 1, dropout=0.5, activation="linear", recurrent_activation=lambda z: z * 0 + 0.5)
    layer.build(x.shape)
    drawn = layer.cell._drawn(0.5, (N, 5, C), "float32")
    assert set(np.unique(numpy(drawn))) == {0.0, 2.0}
    kernel = np.zeros((1, C, 4 * F), "float32")
    kernel[0, 0, 2 * F :] = kernel[0, 1, 2 * F :] = [1] * F + [0] * F
    layer.set_weights([kernel, np.zeros((1, F, 4 * F), "float32"), np.zeros(4 * F, "float32")])
    h = numpy(layer(x, training=True))
    # c_t = c/2 + g/2 with g the sum of the kept channels times 2, the same at every step: h = (1 - 2^-T) g / 2
    g = h * 2 / (1 - 0.5**T)
    assert set(np.unique(g.round(4))) <= {0.0, 2.0, 4.0}
    assert len(np.unique(g.round(4)[..., 0].reshape(N, -1), axis=1)) == N
    assert len(np.unique(g.round(4))) == 3  # sites differ


@pytest.mark.parametrize("which", ["dropout", "recurrent_dropout"])
def test_masked_values_change_nothing_under_dropout(which):
    x = batch()
    mask = masks_of(x)["element"]
    found = []
    for fill in (0.0, np.nan):
        layer = made(x.shape, **{which: 0.5}, seed=1)
        found.append(gradients(layer, spoiled(x, mask, fill), mask=mask, training=True))
    for left, right in zip(keras.tree.flatten(found[0]), keras.tree.flatten(found[1]), strict=True):
        np.testing.assert_array_equal(left, right)


def test_dropout_of_a_series_is_one_draw_a_channel():
    x = np.random.default_rng(0).normal(size=(N, 7, C)).astype("float32")
    layer = made(x.shape, window=3, dropout=0.5, recurrent_dropout=0.3, seed=1)
    assert np.isfinite(numpy(layer(x, training=True))).all()


# Dtypes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_mixed_precision_computes_low_and_carries_high(name, kind):
    x = batch()
    mask = masks_of(x)["site"]
    want = numpy(made(x.shape, kind)(spoiled(x, mask), mask=mask))
    with policy(name):
        layer = made(x.shape, kind, return_state=True)
        y, *states = layer(spoiled(x, mask), mask=mask)
    low = name.removeprefix("mixed_")
    assert {keras.backend.standardize_dtype(part.dtype) for part in (y, *states)} == {low}
    assert {weight.dtype for weight in layer.weights} == {"float32"}
    np.testing.assert_allclose(numpy(keras.ops.cast(y, "float32")), want, atol={"bfloat16": 3e-2, "float16": 4e-3}[low])


def test_mixed_precision_trains():
    x = batch()
    x[0, 1] = np.nan
    with policy("mixed_bfloat16"):
        layers = [keras.Input(x.shape[1:]), MaskNaN(), ConvLSTM1D(F, 3), keras.layers.Flatten()]
        model = keras.Sequential([*layers, keras.layers.Dense(1, dtype="float32")])
    model.compile("sgd", "mse")
    model.fit(x, np.zeros((N, 1), "float32"), verbose=0)
    assert all(np.isfinite(weight).all() for weight in model.get_weights())


def test_integers_are_read_as_numbers():
    x = np.arange(N * T * 5 * C).reshape(N, T, 5, C) % 3
    layer = made(x.shape)
    np.testing.assert_array_equal(numpy(layer(x.astype("int32"))), numpy(layer(x.astype("float32"))))


# Unknown sizes and compilers ------------------------------------------------------------------------------------------


def test_rows_and_steps_may_be_unknown():
    model = keras.Sequential([keras.Input((None, 5, C)), MaskNaN(), made((None, None, 5, C))])
    assert model.output_shape == (None, None, 5, F)
    for rows, steps in ((2, 3), (3, 5)):
        x = np.random.default_rng(0).normal(size=(rows, steps, 5, C)).astype("float32")
        x[0, 1] = np.nan
        np.testing.assert_allclose(model.predict(x, verbose=0), numpy(model(x)), atol=1e-6)


def test_the_events_of_a_series_may_be_unknown():
    model = keras.Sequential([keras.Input((None, C)), MaskNaN(), ConvLSTM1D(F, 3, window=3, return_sequences=True)])
    for rows, events in ((2, 4), (3, 6)):
        x = np.random.default_rng(0).normal(size=(rows, events, C)).astype("float32")
        x[0, 1] = np.nan
        np.testing.assert_allclose(model.predict(x, verbose=0), numpy(model(x)), atol=1e-6)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="only TensorFlow's graphs have sizes that are not known")
def test_unroll_wants_to_know_the_steps():
    import tensorflow as tf

    layer = made((None, None, 5, C), unroll=True)
    call = tf.function(layer, input_signature=[tf.TensorSpec((None, None, 5, C))])
    with pytest.raises(ValueError, match="`unroll` needs to know the number of steps"):
        call(batch())


@pytest.mark.parametrize(("kind", "options"), [(ConvLSTM1D, {}), (ConvGRU1D, {"strides": 2})], ids=str)
@pytest.mark.parametrize("jit_compile", [True, False])
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # torch.compile's, of its own looking
def test_compiled_or_not_it_trains_alike(kind, options, jit_compile):
    if BACKEND == "torch" and jit_compile and options:
        pytest.skip("torch.compile takes half a minute; the other layer shows that it runs")
    x = batch()
    x[0, 1] = np.nan
    found = []
    for settings in ({"jit_compile": jit_compile}, {"run_eagerly": True}):
        layer = made(x.shape, kind, seed=1, **options)
        model = keras.Sequential([keras.Input(x.shape[1:]), MaskNaN(), layer])
        model.compile("sgd", "mse", **settings)
        target = np.zeros((*x.shape[:2], *model.output_shape[2:]), "float32")
        model.fit(x, target, batch_size=N, epochs=2, shuffle=False, verbose=0)
        found.append(model.get_weights())
    for left, right in zip(*found, strict=True):
        np.testing.assert_allclose(left, right, atol=2e-6)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow's own differentiation of gradients")
def test_second_derivatives_are_those_of_keras_own():
    import tensorflow as tf

    x = batch()
    theirs = keras.layers.ConvLSTM1D(F, 3, padding="same", return_sequences=True)
    theirs.build(x.shape)
    found = []
    for layer in (made(x.shape), randomised(theirs)):
        value = tf.convert_to_tensor(x)
        with tf.GradientTape() as outer:
            outer.watch(value)
            with tf.GradientTape() as inner:
                inner.watch(value)
                loss = tf.reduce_sum(layer(value) ** 2)
            of_x = inner.gradient(loss, value)
            norm = tf.reduce_sum(of_x**2)
        found.append(numpy(outer.gradient(norm, value)))
    np.testing.assert_allclose(*found, atol=1e-5 * np.abs(found[1]).max())


# Refusals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "arguments", "said"),
    [
        (
            ConvLSTM1D,
            {"strides": 2, "dilation_rate": 2},
            "Specifying `strides > 1` is not compatible with `dilation_rate > 1`",
        ),
        (ConvLSTM1D, {"strides": 0}, "`strides` is 0, expected an integer of at least 1"),
        (ConvLSTM2D, {"dilation_rate": (1,)}, "`dilation_rate` is (1,), expected an integer or 2 of them (rank 2)"),
        (ConvLSTM2D, {"causal": True}, "`causal` needs one ordered site axis, but `rank` is 2"),
        (ConvLSTM1D, {"causal": True, "padding": "valid"}, '`causal` pads on the left, so `padding` must be "same"'),
        (ConvLSTM1D, {"window": 3, "padding": "valid"}, "`window` keeps every event's place"),
        (ConvLSTM1D, {"window": 3, "strides": 2}, "`window` keeps every event's place"),
        (ConvLSTM1D, {"data_format": "NCW"}, "`data_format` is 'ncw', expected 'channels_last' or 'channels_first'"),
        (ConvLSTM1D, {"padding": "full"}, "`padding` is 'full', expected one of 'same', 'valid'"),
    ],
)
def test_options_that_do_not_fit_are_refused(kind, arguments, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        kind(F, 3, **arguments)


@pytest.mark.parametrize(
    ("options", "shape", "said"),
    [
        (
            {},
            (N, 7, C),
            "`sequences` has shape (3, 7, 2), but ConvLSTM1D expects (N, T, L, C); a series (N, S, C) needs a ",
        ),
        ({"window": 3}, (N, T, 5, C), "`sequences` has shape (3, 4, 5, 2), but ConvLSTM1D expects (N, S, C)"),
        ({"data_format": "channels_first"}, (N, C), "but ConvLSTM1D expects (N, T, C, L)"),
        (
            {},
            (N, T, None, C),
            "`sequences` has shape (3, 4, None, 2): sites and channels of (N, T, L, C) must be known",
        ),
        ({}, (N, T, 2, C), "covers (3,) sites, but the input has only (2,)"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(options, shape, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        ConvLSTM1D(F, 3, **options).build(shape)


def test_other_channels_than_it_was_built_for_are_refused():
    layer = made((N, T, 5, C))
    with pytest.raises(ValueError, match=re.escape("`sequences` has shape (3, 4, 5, 4), expected (N, T, L, 2)")):
        layer(np.zeros((N, T, 5, 4), "float32"))
