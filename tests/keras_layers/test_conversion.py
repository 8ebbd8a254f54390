"""A trained model of Keras's own layers becomes one of ours."""

import keras
import numpy as np
import pytest

import gapcell.keras
from gapcell.keras import ConvLSTM1D, convert
from keras_layers.running import C, F, batch, numpy, randomised


def kinds(model):
    return [
        type(layer)
        for layer in model._flatten_layers()
        if type(layer).__name__.startswith("ConvLSTM") and "Cell" not in type(layer).__name__
    ]


def assert_converted(model, x):
    randomised(model)
    converted = convert(model)
    assert kinds(model)
    assert [kind.__name__ for kind in kinds(converted)] == [kind.__name__ for kind in kinds(model)]
    assert all(kind.__module__ == "gapcell.keras.layers" for kind in kinds(converted))
    for left, right in zip(converted.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)
    np.testing.assert_allclose(numpy(converted(x)), numpy(model(x)), atol=2e-6)
    return converted


def test_a_sequential_model():
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((None, 5, C)),
            layers.Bidirectional(layers.ConvLSTM1D(F, 3, return_sequences=True, dropout=0.5), name="both"),
            layers.ConvLSTM1D(2, 2, activation="relu"),
        ]
    )
    converted = assert_converted(model, batch())
    assert [layer.name for layer in converted.layers] == [layer.name for layer in model.layers]
    assert converted.layers[0].forward_layer.dropout == 0.5


def test_a_functional_model_with_a_shared_and_a_nested_one():
    layers = keras.layers
    first, second = keras.Input((4, 5, C)), keras.Input((4, 5, C))
    shared = layers.ConvLSTM1D(F, 3, padding="same", return_sequences=True)
    nested = keras.Sequential([keras.Input((4, 5, F)), layers.ConvLSTM1D(2, 3)], name="nested")
    model = keras.Model([first, second], nested(layers.Add()([shared(first), shared(second)])))
    converted = assert_converted(model, [batch(), batch(seed=1)])
    assert len(kinds(converted)) == 2
    assert converted.get_layer("nested") is not nested


def test_slices_of_time():
    model = keras.Sequential(
        [keras.Input((2, 4, 5, C)), keras.layers.TimeDistributed(keras.layers.ConvLSTM1D(F, 3, padding="same"))]
    )
    assert_converted(model, np.stack([batch(), batch(seed=1)], 1))


def test_two_and_three_site_axes():
    for rank in (2, 3):
        x = batch(rank)
        model = keras.Sequential([keras.Input(x.shape[1:]), getattr(keras.layers, f"ConvLSTM{rank}D")(F, 2)])
        assert_converted(model, x)


def test_the_converted_model_obeys_its_mask():
    model = keras.Sequential([keras.Input((4, 5, C)), keras.layers.Masking(), keras.layers.ConvLSTM1D(F, 3)])
    x = batch()
    x[0, 1:3] = 0
    converted = convert(model)
    short = numpy(converted.layers[-1](x[:1, [0, 3]]))
    np.testing.assert_allclose(converted.predict(x, verbose=0)[:1], short, atol=1e-6)


def test_a_compiled_model_stays_compiled_and_as_it_was():
    inner = keras.Sequential([keras.Input((4, 5, C)), keras.layers.ConvLSTM1D(F, 3)], name="inner")
    inner.compile(loss=lambda *_: 0)  # nothing that Keras could copy
    model = keras.Sequential([keras.Input((4, 5, C)), inner, keras.layers.Flatten(), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.5), "mae")
    x = batch()
    converted = convert(model)
    assert model.compiled
    assert inner.compiled
    assert (converted.loss, float(numpy(converted.optimizer.learning_rate))) == ("mae", 0.5)
    assert converted.evaluate(x, x[:, 0, 0, :1], verbose=0) == pytest.approx(
        model.evaluate(x, x[:, 0, 0, :1], verbose=0)
    )
    assert converted.optimizer is not model.optimizer


def test_a_loss_that_cannot_be_copied_leaves_it_uncompiled():
    def unregistered(target, y):
        return keras.ops.mean((target - y) ** 2)

    model = keras.Sequential([keras.Input((4, 5, C)), keras.layers.ConvLSTM1D(F, 3)])
    model.compile("sgd", unregistered)
    with pytest.warns(UserWarning, match="compile it again"):
        converted = convert(model)
    assert model.compiled
    assert not converted.compiled
    np.testing.assert_allclose(numpy(converted(batch())), numpy(model(batch())), atol=2e-6)


def test_a_model_without_such_a_layer_is_refused():
    with pytest.raises(ValueError, match=r"`model` has no .*ConvLSTM3D to convert"):
        convert(keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)]))
    with pytest.raises(ValueError, match="has no"):
        convert(keras.Sequential([keras.Input((4, 5, C)), ConvLSTM1D(F, 3)]))


def test_what_is_left_is_named():
    class Mine(keras.layers.ConvLSTM1D):
        pass

    model = keras.Sequential(
        [keras.Input((4, 5, C)), Mine(F, 3, return_sequences=True, name="own"), keras.layers.ConvLSTM1D(F, 3)]
    )
    with pytest.warns(UserWarning, match="left as they are: own; subclasses of"):
        convert(model)


def test_a_subclassed_model_is_refused():
    class Mine(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(ValueError, match="expected a Sequential or functional model"):
        convert(Mine())
    assert gapcell.keras.convert is convert
