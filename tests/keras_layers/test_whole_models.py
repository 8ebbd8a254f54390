"""Whole models: padding, rows beside it and what stands under the mask change nothing, and batched equals alone."""

import re
from pathlib import Path

import keras
import numpy as np
import pytest

import gapcell.keras as gk
from keras_layers.running import BACKEND, numpy

L, C, CLASSES = 6, 2, 3
RNG = np.random.default_rng(0)


def classifier():
    """Convolutions, normalisations, a ConvLSTM and pools: a class for each sequence."""
    return keras.Sequential(
        [
            keras.Input((None, L, C)),
            gk.MaskNaN(),
            gk.TimeDistributed(gk.Conv1D(4, 3, padding="same")),
            gk.TimeDistributed(gk.GroupNormalization(2)),
            gk.ConvLSTM1D(4, 3, padding="same", return_sequences=True, zero_output_for_mask=True),
            gk.BatchNormalization(),
            keras.layers.Dropout(0.3, seed=1),
            gk.TimeDistributed(gk.GlobalMaxPooling1D()),
            gk.AttentionPooling(3),
            keras.layers.Dense(CLASSES),
        ]
    )


def autoencoder():
    """A sequence to itself: a strided encoder, its last state at every observed step, a decoder back to the sites."""
    inputs = keras.Input((None, L, C))
    x = gk.MaskNaN()(inputs)
    seen = gk.TimeDistributed(gk.Conv1D(4, 3, strides=2, padding="same"))(x)
    code = gk.ConvLSTM1D(4, 3, padding="same")(seen)
    y = gk.RepeatVector()(code, like=seen)
    y = gk.ConvLSTM1D(4, 3, padding="same", return_sequences=True)(y)
    y = gk.TimeDistributed(gk.Conv1DTranspose(4, 3, strides=2, padding="same"))(y)
    y = gk.LayerNormalization()(y)
    return keras.Model(inputs, gk.TimeDistributed(keras.layers.Dense(2 * C))(y))


def target(name, x):
    """Labels of the rows that have any observation, or the sequence itself."""
    if name == "autoencoder":
        return x
    labels = (np.arange(len(x)) % CLASSES).astype("float32")
    return np.where(np.isnan(x).all((1, 2, 3)), np.nan, labels)


LOSSES = {
    "classifier": lambda: gk.losses.SparseCategoricalCrossentropy(from_logits=True, missing="nan"),
    "autoencoder": lambda: gk.losses.GaussianNLL(missing="nan"),
}
MODELS = {"classifier": classifier, "autoencoder": autoencoder}


def ragged():
    """Rows of 5, 3 and 2 steps, with a missing step and missing sites."""
    x = RNG.normal(size=(3, 5, L, C)).astype("float32")
    x[1, 3:], x[2, 2:] = np.nan, np.nan
    x[0, 2], x[0, 3, 1:3], x[1, 1, 4] = np.nan, np.nan, np.nan
    return x


@pytest.fixture(scope="module", params=MODELS)
def trained(request):
    """A model, its name and a batch; trained a little, so that its moving moments are not the initial ones."""
    keras.utils.set_random_seed(1)
    model, x = MODELS[request.param](), ragged()
    model.compile(keras.optimizers.SGD(0.1), LOSSES[request.param]())
    model.fit(x, target(request.param, x), epochs=2, verbose=0)
    assert all(np.isfinite(weight).all() for weight in model.get_weights())
    return request.param, model, x


def with_steps(x, *places):
    """x with steps of nothing before these steps."""
    return np.insert(x, places, np.nan, axis=1)


def run(name, model, x, y=None):
    """The output where there is one, and the loss."""

    def both(x, y):
        output = model(x)
        return output, LOSSES[name]()(y, output)

    call = both
    if BACKEND == "jax":  # one function to compile instead of each operation
        import jax

        call = jax.jit(both)
    output, loss = numpy(call(x, target(name, x) if y is None else y))
    return output if name == "classifier" else output[~np.isnan(x).all(-1)], loss


def assert_same(name, found, wanted):
    np.testing.assert_allclose(found[0][: len(wanted[0])], wanted[0], atol=2e-6)
    np.testing.assert_allclose(found[1], wanted[1], rtol=1e-5)


@pytest.mark.parametrize("places", [(5,), (0,), (2, 2), (0, 2, 5)] if BACKEND != "jax" else [(0, 2, 5)], ids=str)
def test_padded_steps_change_nothing(trained, places):
    name, model, x = trained
    assert_same(name, run(name, model, with_steps(x, *places)), run(name, model, x))


def test_padded_sites_change_nothing(trained):
    name, model, x = trained
    padded = np.pad(x, [(0, 0), (0, 0), (0, 2), (0, 0)], constant_values=np.nan)
    wider = keras.models.clone_model(model, input_tensors=keras.Input((None, L + 2, C)))
    wider.set_weights(model.get_weights())
    assert_same(name, run(name, wider, padded), run(name, model, x))


def test_a_row_is_itself_whatever_stands_beside_it(trained):
    name, model, x = trained
    together = run(name, model, x)[0]
    rows = np.arange(len(x)) if name == "classifier" else np.nonzero(~np.isnan(x).all(-1))[0]
    for row, length in enumerate((5, 3, 2) if BACKEND != "jax" else (5,)):
        alone = run(name, model, x[row : row + 1, :length])[0]
        np.testing.assert_allclose(together[rows == row], alone, atol=2e-6)


def test_a_row_without_observation_is_zero_and_trains_nothing(trained):
    name, model, x = trained
    more = np.concatenate([x, np.full_like(x[:1], np.nan)])
    assert_same(name, run(name, model, more), run(name, model, x))
    if name == "classifier":
        return  # its dropout draws for that row too
    weights = []
    for batch in (x, more):
        again = keras.models.clone_model(model)
        again.set_weights(model.get_weights())
        again.compile(keras.optimizers.SGD(0.1), LOSSES[name](), run_eagerly=BACKEND == "tensorflow")
        again.train_on_batch(batch, target(name, batch))
        weights.append(again.get_weights())
    for left, right in zip(*weights, strict=True):
        np.testing.assert_allclose(right, left, atol=2e-6)


@pytest.mark.parametrize("fill", [1e30, np.inf])
def test_what_a_missing_target_says_changes_nothing(trained, fill):
    """Below the mask of the prediction; above it a NaN target is missing."""
    name, model, x = trained
    spoiled = np.where(np.isnan(x).all((2, 3), keepdims=True), fill, x) if name == "autoencoder" else None
    assert run(name, model, x, spoiled)[1] == run(name, model, x)[1]


def test_it_is_saved_and_loaded(trained, tmp_path):
    name, model, x = trained
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(run(name, loaded, x)[0], run(name, model, x)[0])
    assert loaded.loss.get_config() == model.loss.get_config()


def test_compiled_it_is_the_same(trained):
    """The trainer compiles: a graph, and under XLA on TensorFlow and JAX."""
    name, model, x = trained
    again = keras.models.clone_model(model)
    again.set_weights(model.get_weights())
    again.compile(loss=LOSSES[name](), jit_compile=BACKEND != "torch")
    assert again.evaluate(x, target(name, x), verbose=0) == pytest.approx(run(name, model, x)[1], rel=1e-5)


@pytest.mark.skipif(BACKEND != "torch", reason="on one backend the text is seen to run")
def test_the_example_of_the_documentation_runs():
    text = (Path(__file__).parents[2] / "docs" / "keras.md").read_text(encoding="utf-8")
    (example,) = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "model.fit" in block]
    names = {}
    exec(example, names)  # noqa: S102 # our own text
    assert np.isfinite(names["model"].evaluate(names["x"], names["x"], verbose=0))
