"""Where a mask comes from, in which forms, and what the next layer gets."""

import warnings

import keras
import numpy as np
import pytest

from gapcell import masks
from gapcell.keras import Bidirectional, ConvGRU1D, ConvLSTM1D, ConvLSTM2D, MaskNaN, SiteMask, StepMask
from keras_layers.running import BACKEND, C, F, N, T, batch, masks_of, numpy, randomised, spoiled


def made(shape, kind=ConvLSTM1D, **options):
    layer = kind(F, 3, **{"return_sequences": True, "padding": "same"} | options)
    layer.build(shape)
    return randomised(layer)


@pytest.mark.parametrize("kind", ["step", "site", "element"])
def test_bool_int_and_float_masks_are_one(kind):
    x = batch()
    mask = masks_of(x)[kind]
    layer = made(x.shape)
    want = numpy(layer(x, mask=mask))
    for dtype in ("int32", "float32", "uint8"):
        np.testing.assert_array_equal(numpy(layer(x, mask=mask.astype(dtype))), want)
    unsaid = np.where(mask, 1, np.nan).astype("float32")  # NaN never counts as observed
    np.testing.assert_array_equal(numpy(layer(x, mask=unsaid)), want)


def test_a_step_mask_may_carry_an_axis_of_one():
    x = batch()
    mask = masks_of(x)["step"]
    layer = made(x.shape)
    np.testing.assert_array_equal(numpy(layer(x, mask=mask[..., None])), numpy(layer(x, mask=mask)))


def test_that_axis_is_the_site_where_there_is_one_site():
    x = batch()[:, :, :1]
    mask = masks_of(x)["step"]
    layer = made(x.shape)
    np.testing.assert_array_equal(numpy(layer(x, mask=mask[..., None])), numpy(layer(x, mask=mask)))
    np.testing.assert_array_equal(numpy(layer(x, mask=mask[..., None])._keras_mask), mask[..., None])


def test_values_other_than_0_and_1_are_refused():
    x = batch()
    with pytest.raises(ValueError, match="values other than 0, 1 and NaN"):
        made(x.shape)(x, mask=np.full((N, T), 0.5, "float32"))


@pytest.mark.parametrize("kind", ["step", "site", "element"])
@pytest.mark.parametrize("options", [{}, {"padding": "valid"}, {"strides": 2}, {"go_backwards": True}], ids=str)
def test_the_next_layer_gets_the_mask_of_the_output_sites(options, kind):
    x = batch()
    mask = masks_of(x, seed=4)[kind]
    layer = made(x.shape, zero_output_for_mask=True, **options)
    y = layer(spoiled(x, mask), mask=mask)
    sites = masks.observed_sites(mask, x.ndim)
    if kind != "step":
        geometry = {"stride": options.get("strides", 1), "padding": options.get("padding", "same")}
        sites = masks.through_conv(sites, 3, same_padding="keras", **geometry)
    want = sites[:, ::-1] if "go_backwards" in options else sites
    got = numpy(y._keras_mask)
    assert got.dtype == bool
    np.testing.assert_array_equal(got, want)
    assert (numpy(y)[~got] == 0).all()  # what it calls masked is silent


@pytest.mark.parametrize(
    ("options", "handed_on"), [({}, True), ({"return_sequences": False}, False), ({"gap": "predict"}, False)], ids=str
)
@pytest.mark.parametrize("return_state", [False, True])
def test_there_is_a_mask_only_where_there_are_masked_steps(options, handed_on, return_state):
    x = batch()
    layer = made(x.shape, return_state=return_state, **options)
    given = keras.ops.ones((N, T), dtype="bool")
    found = layer.compute_mask(keras.ops.convert_to_tensor(x), given)
    if return_state:
        assert found[1:] == [None, None]
        found = found[0]
    assert (found is not None) == handed_on
    assert layer.compute_mask(keras.ops.convert_to_tensor(x), None) in (None, [None, None, None])


def test_a_series_hands_on_the_mask_of_its_events():
    x = np.random.default_rng(0).normal(size=(N, 7, C)).astype("float32")
    mask = np.random.default_rng(1).random((N, 7, C)) < 0.5
    y = made(x.shape, window=3)(spoiled(x, mask), mask=mask)
    np.testing.assert_array_equal(numpy(y._keras_mask), mask.any(-1))


def test_masking_reaches_a_series():
    x = np.random.default_rng(0).normal(size=(N, 7, C)).astype("float32")
    x[:, 5:], x[0, 2] = 0, 0
    layer = made(x.shape, window=3)
    y = layer(keras.layers.Masking()(x))
    np.testing.assert_array_equal(numpy(y), numpy(layer(x, mask=(x != 0).any(-1))))


def test_embedding_reaches_a_series_and_sites():
    ids = np.random.default_rng(0).integers(0, 3, size=(N, 7))
    embedding = keras.layers.Embedding(3, C, mask_zero=True)
    layer = made((N, 7, C), window=3)
    y = layer(embedding(ids))
    np.testing.assert_array_equal(numpy(y), numpy(layer(numpy(embedding(ids)), mask=ids != 0)))
    ids = np.random.default_rng(0).integers(0, 3, size=(N, T, 5))
    layer = made((N, T, 5, C))
    np.testing.assert_array_equal(numpy(layer(embedding(ids))), numpy(layer(numpy(embedding(ids)), mask=ids != 0)))


def test_a_carried_mask_is_read_beside_an_initial_state():
    """Keras drops it: it passes a mask on where the sequences are the only tensor."""
    x = batch()
    x[:, 1] = 0
    state = [np.ones((N, 5, F), "float32")] * 2
    layer = made(x.shape)
    y = layer(keras.layers.Masking()(x), initial_state=state)
    np.testing.assert_array_equal(numpy(y), numpy(layer(x, initial_state=state, mask=(x != 0).any(-1))))


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_carried_mask_is_read_beside_an_initial_state_also_when_compiled(wrapped):
    """On JAX a traced array cannot carry an attribute: Keras keeps masks elsewhere."""
    x = batch()
    x[:, 1] = 0
    state = np.ones((N, 5, F), "float32")
    layer = made(x.shape)
    if wrapped:
        layer = Bidirectional(layer)
        layer.build(x.shape)
    inputs, given = keras.Input(x.shape[1:]), keras.Input((5, F))
    model = keras.Model(
        [inputs, given], layer(keras.layers.Masking()(inputs), initial_state=[given] * (4 if wrapped else 2))
    )
    want = layer(x, initial_state=[state] * (4 if wrapped else 2), mask=(x != 0).any(-1))
    np.testing.assert_allclose(model.predict([x, state], verbose=0), numpy(want), atol=1e-6)


@pytest.mark.parametrize("sizes", [(3, 4, 5), (1, 4, 4), (4, 4, 4)], ids=str)
def test_the_loss_of_an_output_with_sites_needs_a_mask_of_sites(sizes):
    """Keras multiplies a loss (N, T, L) by a mask (N, T): that raises, or is wrong where the sizes happen to fit."""
    rows, steps, sites = sizes
    x = np.random.default_rng(0).normal(size=(*sizes, C)).astype("float32")
    mask = np.random.default_rng(1).random((rows, steps)) < 0.6
    inputs, said = keras.Input((steps, sites, C)), keras.Input((steps,), dtype="bool")
    y = SiteMask()(ConvLSTM1D(F, 3, padding="same", return_sequences=True)(inputs, mask=said))
    model = keras.Model([inputs, said], y)
    model.compile(loss="mse")
    target = np.ones((*sizes, F), "float32")
    want = ((numpy(model([x, mask])) - target) ** 2)[mask].mean()
    assert model.evaluate([x, mask], target, verbose=0) == pytest.approx(want, rel=1e-5)


def test_layers_that_know_steps_only_get_a_mask_of_steps():
    x = batch()
    x[0, 1], x[1, 2:], x[2, :, 3] = np.nan, np.nan, np.nan
    layers = keras.layers
    head = [layers.TimeDistributed(layers.Flatten()), layers.LSTM(2), layers.Dense(1)]
    model = keras.Sequential([keras.Input(x.shape[1:]), MaskNaN(), made(x.shape), StepMask(), *head])
    model.compile("sgd", "mse")
    model.fit(x, np.zeros((N, 1), "float32"), verbose=0)
    changed = model.predict(x, verbose=0)
    x[0, 1, 0] = np.nan  # still
    np.testing.assert_array_equal(model.predict(x, verbose=0), changed)
    assert np.isfinite(changed).all()
    found = StepMask().compute_mask(None, keras.ops.convert_to_tensor(masks_of(x)["element"]))
    np.testing.assert_array_equal(numpy(found), masks_of(x)["element"].any((2, 3)))


def test_both_directions_of_channels_first_are_joined_on_the_channels():
    x = batch(2)
    mask = masks_of(x)["site"]
    options = {"padding": "same", "return_state": True}
    last, first = (
        Bidirectional(ConvLSTM2D(F, 3, return_sequences=True, data_format=name, **options))
        for name in ("channels_last", "channels_first")
    )
    last.build(x.shape)
    first.build(np.moveaxis(x, -1, 2).shape)
    randomised(last)
    first.set_weights(last.get_weights())
    moved = np.moveaxis(spoiled(x, mask), -1, 2)
    got, want = numpy(first(moved, mask=mask)), numpy(last(spoiled(x, mask), mask=mask))
    np.testing.assert_allclose(np.moveaxis(got[0], 2, -1), want[0], atol=1e-6)
    assert [part.shape for part in got] == list(first.compute_output_shape(moved.shape))


def test_bidirectional_refuses_other_layers():
    with pytest.raises(ValueError, match=r"`layer` is a LSTM, expected .* use keras.layers.Bidirectional"):
        Bidirectional(keras.layers.LSTM(3))


def test_layers_in_a_row_obey_one_mask():
    """Strided and valid layers behind a mask of sites: what is masked never reaches the end."""
    x = batch(2)
    mask = masks_of(x)["site"]
    first = made(x.shape, ConvLSTM2D, strides=(2, 1))
    second = made((N, T, 2, 3, F), ConvLSTM2D, padding="same", zero_output_for_mask=True)

    def both(fill):
        return numpy(second(first(spoiled(x, mask, fill), mask=mask)))

    np.testing.assert_array_equal(both(np.nan), both(1e30))


@pytest.mark.parametrize("options", [{}, {"return_state": True}, {"return_sequences": False}], ids=str)
@pytest.mark.parametrize("merge_mode", ["concat", None])
def test_both_directions_hand_on_the_mask_of_the_output(merge_mode, options):
    """keras.layers.Bidirectional hands on the input's, whose sites are others."""
    x = batch()
    mask = masks_of(x)["element"]
    layer = Bidirectional(ConvLSTM1D(F, 3, **{"return_sequences": True} | options), merge_mode=merge_mode)
    outputs = keras.tree.flatten(layer(spoiled(x, mask), mask=mask))
    found = [getattr(output, "_keras_mask", None) for output in outputs]
    sequences = 1 if merge_mode else 2
    assert found[sequences:] == [None] * (4 if "return_state" in options else 0)
    for output, handed_on in zip(outputs[:sequences], found, strict=False):
        if "return_sequences" in options:
            assert handed_on is None
            continue
        want = masks.through_conv(mask.any(-1), 3, padding="valid")
        np.testing.assert_array_equal(numpy(handed_on), want)
        assert not numpy(output)[~want].any()


def test_a_functional_model_passes_masks_of_every_rank():
    x = batch()
    mask = masks_of(x)["site"]
    inputs, said = keras.Input((None, 5, C)), keras.Input((None, 5), dtype="bool")
    first, second = ConvLSTM1D(F, 3, return_sequences=True), ConvGRU1D(F, 2)
    model = keras.Model([inputs, said], second(first(inputs, mask=said)))
    y = model([spoiled(x, mask), mask])
    hidden = first(spoiled(x, mask), mask=mask)
    assert hidden._keras_mask.shape == (N, T, 3)
    np.testing.assert_array_equal(numpy(y), numpy(second(hidden)))
    np.testing.assert_allclose(model.predict([spoiled(x, mask), mask], verbose=0), numpy(y), atol=1e-6)


def test_the_loss_leaves_out_what_is_masked():
    x = batch()
    x[1, 2:] = np.nan
    model = keras.Sequential([keras.Input(x.shape[1:]), MaskNaN(), ConvLSTM1D(F, 3, return_sequences=True)])
    model.compile(loss="mse")
    target = np.zeros((N, T, 3, F), "float32")
    spoiled_target = target.copy()
    spoiled_target[1, 2:] = 1e6
    assert model.evaluate(x, target, verbose=0) == model.evaluate(x, spoiled_target, verbose=0)


def test_predict_warns_of_a_mask_that_looks_like_padding():
    x = batch()
    layer = made(x.shape, gap="predict")
    mask = np.ones((N, T), bool)
    mask[0, -1] = False
    with pytest.warns(UserWarning, match="pass lengths to silence this"):
        layer(x, mask=mask)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer(x, mask=mask, lengths=np.full(N, T))


@pytest.mark.skipif(BACKEND != "tensorflow", reason="only TensorFlow's graphs have sizes that are not known")
def test_a_mask_of_unknown_size_is_refused_when_it_runs():
    import tensorflow as tf

    x = batch()
    layer = made((None, None, 5, C))
    signature = [tf.TensorSpec((None, None, 5, C)), tf.TensorSpec((None, None), "bool")]
    call = tf.function(lambda x, mask: layer(x, mask=mask), input_signature=signature)
    call(x, np.ones((N, T), bool))
    for shape in ((N, 1), (N, T + 1), (T, N), (1, T)):
        with pytest.raises(tf.errors.InvalidArgumentError):
            call(x, np.ones(shape, bool))
