"""gap="decay" as Keras's users meet it; what decays and how is in the laws."""

import re

import keras
import numpy as np
import pytest

from gapcell.keras import Bidirectional, ConvGRU1D, ConvLSTM1D, MaskNaN
from gapcell.reference import conv_rnn
from keras_layers.running import C, F, N, T, batch, masks_of, numpy, spoiled

DT = np.random.default_rng(5).exponential(size=(N, T)).astype("float32")


def refused(message):
    return pytest.raises(ValueError, match=re.escape(message))


def test_rates_are_a_weight_with_an_initializer_that_configs_and_files_keep(tmp_path):
    layer = ConvLSTM1D(F, 3, gap="decay")
    layer.build((N, T, 5, C))
    (decay,) = (weight for weight in layer.weights if weight.name == "decay")
    np.testing.assert_allclose(numpy(decay), [0.01, 0.1, 1.0], rtol=1e-5)
    layer = ConvGRU1D(F, 3, gap="decay", decay_initializer=keras.initializers.Constant(0.25), return_sequences=True)
    model = keras.Sequential([keras.Input((None, 5, C)), MaskNaN(), layer])
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(numpy(again.layers[-1].cell.decay), [0.25] * F)
    assert again.layers[-1].get_config() == layer.get_config()
    assert again.layers[-1].decay_initializer.value == 0.25


def test_times_of_any_batch_reach_a_compiled_model_that_is_trained():
    steps, times, mask = keras.Input((T, 5, C)), keras.Input((T,)), keras.Input((T,), dtype="bool")
    layer = ConvLSTM1D(F, 3, gap="decay")
    model = keras.Model([steps, times, mask], layer(steps, mask=mask, dt=times))
    model.compile("sgd", "mse")
    x = batch()
    observed = masks_of(x)["step"]
    before = numpy(layer.cell.decay)
    spec = layer._spec()
    params = {name: numpy(getattr(layer.cell, name)) for name in spec.parameter_shapes()}
    got = model.predict([spoiled(x, observed), DT, observed], verbose=0)
    _, (want, _) = conv_rnn(params, x, spec, mask=observed, dt=DT)
    np.testing.assert_allclose(got, want[0], atol=1e-5)
    model.fit([spoiled(x, observed), DT, observed], np.ones_like(got), verbose=0, epochs=2)
    after = numpy(layer.cell.decay)
    assert np.isfinite(after).all()
    assert (after != before).all()


def test_the_mask_of_the_output_is_that_of_hold():
    x = batch()
    observed = masks_of(x)["step"]
    for gap in ("hold", "decay"):
        layer = ConvLSTM1D(F, 3, gap=gap, return_sequences=True)
        np.testing.assert_array_equal(numpy(layer.compute_mask(keras.ops.convert_to_tensor(x), observed)), observed)


def test_dt_that_does_not_fit_is_refused():
    x = batch()
    with refused(f"`dt` has shape {(N, T + 1)}, but the input has {(N, T)} rows and steps: expected {(N, T)}"):
        ConvLSTM1D(F, 3, gap="decay")(x, dt=np.ones((N, T + 1), "float32"))
    with refused("`dt` holds -1.0 at a step that exists"):
        ConvLSTM1D(F, 3, gap="decay")(x, dt=-np.ones((N, T), "float32"))
    with refused('`dt` is given, but `gap` is "hold": only gap="decay" looks at the time; leave it out'):
        Bidirectional(ConvLSTM1D(F, 3))(x, dt=DT)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="of TensorFlow's graphs, which know no batch size")
def test_one_row_of_times_is_not_broadcast_in_a_graph():
    import tensorflow as tf

    layer = ConvLSTM1D(F, 3, gap="decay")
    layer.build((None, T, 5, C))
    run = tf.function(
        lambda x, dt: layer(x, dt=dt),
        input_signature=[tf.TensorSpec((None, T, 5, C)), tf.TensorSpec((None, T))],
    )
    assert run(batch(), DT).shape[0] == N
    with pytest.raises(tf.errors.InvalidArgumentError):
        run(batch(), DT[:1])
