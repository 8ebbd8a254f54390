"""Without a mask the layers are keras.layers' own, argument by argument; with one they are gapcell.reference."""

import inspect
import itertools

import keras
import numpy as np
import pytest

import gapcell.keras
from gapcell.reference import conv_rnn
from keras_layers.running import SITES, C, F, N, T, batch, gradients, masks_of, numpy, randomised, spoiled

LSTMS = {rank: f"ConvLSTM{rank}D" for rank in (1, 2, 3)}
GRUS = {rank: f"ConvGRU{rank}D" for rank in (1, 2, 3)}
OPTIONS = [
    {},
    {"padding": "same"},
    {"padding": "same", "strides": 2},
    {"padding": "valid", "strides": 2},
    {"padding": "SAME", "dilation_rate": 2},
    {"kernel_size": 2, "padding": "same"},
    {"use_bias": False, "return_sequences": True},
    {"activation": "relu", "recurrent_activation": "hard_sigmoid", "return_sequences": True},
    {"go_backwards": True, "return_sequences": True, "return_state": True},
    {"return_sequences": True, "return_state": True, "unroll": True},
    {"return_state": True, "zero_output_for_mask": True},
    {"data_format": "channels_first", "padding": "same", "return_sequences": True, "return_state": True},
    {"data_format": "channels_first", "strides": 2},
]


def pair(rank, x, **options):
    """Keras's layer and ours, with the same weights."""
    arguments = {"filters": F, "kernel_size": 3 if rank < 3 else 2} | options
    layers = [getattr(module, LSTMS[rank])(**arguments) for module in (keras.layers, gapcell.keras)]
    for layer in layers:
        randomised(_built(layer, x.shape))
    return layers


def _built(layer, shape):
    layer.build(shape)
    return layer


GRID = {
    "padding": ["valid", "same"],
    "strides": [1, 2],
    "dilation_rate": [1, 2],
    "kernel_size": [1, 2, 3],
    "data_format": ["channels_last", "channels_first"],
    "activation": ["tanh", "tanh", "softsign"],
    "recurrent_activation": ["sigmoid", "sigmoid", "hard_sigmoid"],
    "use_bias": [True, False],
    "unit_forget_bias": [True, False],
    "return_sequences": [True, False],
    "return_state": [True, False],
    "go_backwards": [True, False],
    "unroll": [True, False],
}


def combinations(rank, number):
    """Some of the grid, the same every time."""
    rng = np.random.default_rng(rank)
    found = []
    while len(found) < number:
        options = {name: values[rng.integers(len(values))] for name, values in GRID.items()}
        reach = options["dilation_rate"] * (options["kernel_size"] - 1) + 1
        fits = options["padding"] == "same" or reach <= min(SITES[rank])
        if fits and not options["strides"] == options["dilation_rate"] == 2:
            found.append((rank, options))
    return found


@pytest.mark.parametrize(
    ("rank", "options"),
    [*itertools.product([1, 2], OPTIONS), *combinations(1, 20), *combinations(2, 10), *combinations(3, 6)],
    ids=str,
)
def test_every_argument_does_what_it_does_in_keras(rank, options):
    x = batch(rank)
    if options.get("data_format") == "channels_first":
        x = np.moveaxis(x, -1, 2)
    theirs, ours = pair(rank, x, **options)
    want, got = numpy(theirs(x)), numpy(ours(x))
    assert isinstance(got, type(want))
    for theirs_of, ours_of in zip(keras.tree.flatten(want), keras.tree.flatten(got), strict=True):
        np.testing.assert_allclose(ours_of, theirs_of, atol=1e-6)
    shapes = keras.tree.map_structure(np.shape, keras.tree.flatten(got))
    computed = ours.compute_output_shape(x.shape)
    assert list(computed if ours.return_state else [computed]) == shapes
    assert computed == theirs.compute_output_shape(x.shape)


def test_three_site_axes_are_keras_own():
    x = batch(3)
    theirs, ours = pair(3, x, return_sequences=True, padding="same", strides=(1, 2, 1))
    np.testing.assert_allclose(numpy(ours(x)), numpy(theirs(x)), atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"activation": "relu"}, {"padding": "same", "strides": 2}], ids=str)
def test_the_gradients_are_keras_own(options):
    x = batch(seed=3)
    theirs, ours = pair(1, x, return_sequences=True, **options)
    (want, want_x), (got, got_x) = gradients(theirs, x), gradients(ours, x)
    for left, right in zip([*got, got_x], [*want, want_x], strict=True):
        np.testing.assert_allclose(left, right, atol=2e-6 * np.abs(right).max())


def test_without_training_the_gradients_are_those_of_training():
    """On TensorFlow only training keeps what the backward pass needs; elsewhere it is computed again."""
    x = batch()
    _, ours = pair(1, x, return_sequences=True)
    for kept, again in zip(gradients(ours, x, training=True)[0], gradients(ours, x, training=False)[0], strict=True):
        np.testing.assert_allclose(kept, again, atol=1e-6 * np.abs(again).max())


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_weights_have_keras_own_names_order_shapes_and_first_values(rank):
    x = batch(rank)
    made = []
    for module in (keras.layers, gapcell.keras):
        keras.utils.clear_session(free_memory=False)
        options = {"kernel_initializer": keras.initializers.GlorotUniform(seed=1), "bias_initializer": "ones"}
        options["recurrent_initializer"] = keras.initializers.Orthogonal(seed=2)
        made.append(_built(getattr(module, LSTMS[rank])(F, 2, **options), x.shape))
    theirs, ours = made
    assert [weight.path for weight in ours.weights] == [weight.path for weight in theirs.weights]
    assert [len(layer.variables) for layer in made] == [4, 4]  # the weights and the seed
    for left, right in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)


def test_a_gru_has_a_fourth_weight():
    layer = _built(gapcell.keras.ConvGRU1D(F, 3, bias_initializer="ones"), (N, T, 5, C))
    shapes = {weight.name: weight.shape for weight in layer.weights}
    assert shapes == {"kernel": (3, C, 9), "recurrent_kernel": (3, F, 9), "bias": (9,), "recurrent_bias": (F,)}
    assert all((numpy(weight) == 1).all() for weight in layer.weights[2:])


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_the_constructor_is_keras_own_with_more_behind(rank):
    ours, theirs = (
        list(inspect.signature(getattr(module, LSTMS[rank])).parameters.values())
        for module in (gapcell.keras, keras.layers)
    )
    more = ["gap", "window", "causal", "mask_rule", "decay_initializer"]
    assert [p.name for p in ours] == [*(p.name for p in theirs[:-1]), *more, "kwargs"]
    assert [p.default for p in ours[: len(theirs) - 1]] == [p.default for p in theirs[:-1]]
    layer = getattr(gapcell.keras, LSTMS[rank])(F, 3)
    assert all(getattr(layer, p.name, p.default) is not None for p in theirs[:-1] if p.default is not None)


def test_regularizers_and_constraints_see_their_weights():
    x = batch()
    losses = []
    for module in (keras.layers, gapcell.keras):
        layer = module.ConvLSTM1D(
            F,
            3,
            kernel_regularizer="l2",
            recurrent_regularizer="l1",
            bias_regularizer="l2",
            activity_regularizer="l1",
            kernel_constraint="non_neg",
            recurrent_constraint="unit_norm",
            bias_constraint="non_neg",
        )
        randomised(_built(layer, x.shape))
        layer(x)
        losses.append([float(numpy(loss)) for loss in layer.losses])
        constraints = [type(weight.constraint).__name__ for weight in layer.weights]
        assert constraints == ["NonNeg", "UnitNorm", "NonNeg"]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    assert len(losses[0]) == 4


def test_other_activations_obey_a_mask():
    x = batch()
    mask = masks_of(x)["step"]
    _, layer = pair(1, x, activation="relu", recurrent_activation="hard_sigmoid", return_sequences=True)
    y = numpy(layer(spoiled(x, mask), mask=mask))
    for row in range(N):
        alone = numpy(layer(x[row : row + 1, mask[row]]))
        np.testing.assert_allclose(y[row, mask[row]], alone[0], atol=1e-6)


# With masks -----------------------------------------------------------------------------------------------------------


def oracle(layer, x, **arguments):
    """What the layer promises, channels last, in float64: outputs, and the states without nn.LSTM's first axis."""
    spec = layer._spec()
    weights = [weight.astype(np.float64) for weight in layer.get_weights()]
    params = dict(zip(spec.parameter_shapes(), weights, strict=True))
    y, state = conv_rnn(params, np.nan_to_num(x).astype(np.float64), spec, **arguments)
    state = [part[0] for part in (state if spec.cell == "lstm" else (state,))]
    if not layer.return_sequences:
        y = y[:, -1] if layer.window is not None else state[0]
    return [y, *state]


def assert_agrees(layer, x, want, **arguments):
    assert layer.return_state
    for got, wanted in zip(numpy(layer(x, **arguments)), want, strict=True):
        np.testing.assert_allclose(got, wanted, atol=2e-6)


MASKED = [
    {},
    {"go_backwards": True},
    {"padding": "same", "strides": 2},
    {"padding": "same", "mask_rule": "any", "zero_output_for_mask": True},
    {"causal": True},
    {"return_sequences": False, "zero_output_for_mask": True},
]


@pytest.mark.parametrize("options", MASKED, ids=str)
@pytest.mark.parametrize("name", [LSTMS[1], GRUS[1]])
def test_a_masked_layer_is_the_oracle(name, options):
    x = batch()
    options = {"return_sequences": True, "return_state": True} | options
    layer = randomised(_built(getattr(gapcell.keras, name)(F, 3, **options), x.shape))
    for mask in masks_of(x).values():
        assert_agrees(layer, spoiled(x, mask), oracle(layer, spoiled(x, mask), mask=mask), mask=mask)


@pytest.mark.parametrize("name", [LSTMS[2], GRUS[2], LSTMS[3], GRUS[3]])
def test_a_masked_layer_of_higher_rank_is_the_oracle(name):
    x = batch(int(name[-2]))
    layer = getattr(gapcell.keras, name)(F, 2, padding="same", return_sequences=True, return_state=True)
    randomised(_built(layer, x.shape))
    for mask in masks_of(x).values():
        assert_agrees(layer, spoiled(x, mask), oracle(layer, spoiled(x, mask), mask=mask), mask=mask)


def test_predict_steps_through_gaps_and_stops_where_lengths_say():
    x = batch()
    mask = masks_of(x)["site"]
    said = {"lengths": np.array([4, 2, 0]), "domain": np.array([1, 1, 0, 1, 1], bool)}
    options = {"gap": "predict", "padding": "same", "return_sequences": True, "return_state": True}
    layer = randomised(_built(gapcell.keras.ConvLSTM1D(F, 3, **options), x.shape))
    assert_agrees(layer, spoiled(x, mask), oracle(layer, spoiled(x, mask), mask=mask, **said), mask=mask, **said)


SERIES = [
    {},
    {"causal": True},
    {"go_backwards": True, "zero_output_for_mask": True},
    {"return_sequences": False, "zero_output_for_mask": True},
    {"return_sequences": False, "go_backwards": True},
]


@pytest.mark.parametrize("options", SERIES, ids=str)
@pytest.mark.parametrize("name", [LSTMS[1], GRUS[1]])
def test_a_masked_series_is_the_oracle(name, options):
    x = np.random.default_rng(0).normal(size=(N, 7, C)).astype("float32")
    mask = np.random.default_rng(1).random((N, 7)) < 0.6
    mask[1] = False  # nothing observed
    options = {"return_sequences": True, "return_state": True} | options
    layer = randomised(_built(getattr(gapcell.keras, name)(F, 3, window=3, **options), x.shape))
    assert layer.padding == "same"
    for given in (mask, mask[..., None], mask[..., None] & (x > -1)):
        kept = given[..., 0] if given.shape[-1] == 1 else given
        assert_agrees(layer, spoiled(x, kept), oracle(layer, spoiled(x, kept), mask=kept), mask=given)


@pytest.mark.parametrize(("rank", "kind"), list(itertools.product([1, 2], ["site", "element", "step"])))
def test_channels_first_is_channels_last_with_the_axes_moved(rank, kind):
    x = batch(rank)
    mask = masks_of(x)[kind]
    options = {"return_sequences": True, "padding": "same", "strides": 2, "return_state": True}
    last, first = (
        randomised(_built(getattr(gapcell.keras, LSTMS[rank])(F, 3, data_format=name, **options), shape))
        for name, shape in (("channels_last", x.shape), ("channels_first", np.moveaxis(x, -1, 2).shape))
    )
    moved = np.moveaxis(mask, -1, 2) if kind == "element" else mask
    sequences = keras.ops.convert_to_tensor(np.moveaxis(spoiled(x, mask), -1, 2))
    y, *states = first(sequences, mask=moved)
    want, *want_states = numpy(last(spoiled(x, mask), mask=mask))
    np.testing.assert_allclose(np.moveaxis(numpy(y), 2, -1), want, atol=1e-6)
    for state, wanted in zip(states, want_states, strict=True):
        np.testing.assert_allclose(np.moveaxis(numpy(state), 1, -1), wanted, atol=1e-6)
    wanted_mask = last.compute_mask(keras.ops.convert_to_tensor(x), keras.ops.convert_to_tensor(mask))[0]
    np.testing.assert_array_equal(numpy(y._keras_mask), numpy(wanted_mask))
