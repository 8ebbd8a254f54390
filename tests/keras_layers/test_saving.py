"""Configs, weights and whole models on disk: to and from Keras's own layers, across backends, and exported."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import gapcell
import gapcell.keras
from gapcell.keras import (
    BatchNormalization,
    Bidirectional,
    ConvGRU1D,
    ConvLSTM1D,
    ConvLSTM2D,
    MaskNaN,
    SiteMask,
    StepMask,
)
from keras_layers.running import BACKEND, C, F, batch, randomised

OPTIONS = {
    "strides": 2,
    "padding": "same",
    "activation": "relu",
    "recurrent_activation": "hard_sigmoid",
    "kernel_regularizer": "l2",
    "recurrent_initializer": "zeros",
    "bias_constraint": "non_neg",
    "dropout": 0.1,
    "recurrent_dropout": 0.2,
    "seed": 3,
    "return_sequences": True,
    "return_state": True,
    "go_backwards": True,
    "zero_output_for_mask": True,
    "gap": "predict",
    "mask_rule": "any",
    "name": "mine",
}


@pytest.mark.parametrize(
    ("kind", "options"),
    [(ConvLSTM2D, OPTIONS), (ConvGRU1D, OPTIONS), (ConvLSTM1D, {"window": 3, "causal": True}), (ConvLSTM1D, {})],
)
def test_a_config_makes_the_same_layer(kind, options):
    layer = kind(F, 3, **options)
    again = kind.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    serialized = keras.saving.serialize_keras_object(layer)
    assert serialized["registered_name"] == f"gapcell>{kind.__name__}"
    assert keras.saving.deserialize_keras_object(serialized).get_config() == layer.get_config()
    for name, value in options.items():
        if isinstance(value, bool | float | int) and name not in ("strides",):
            assert getattr(again, name) == value, name


@pytest.mark.parametrize(
    "layer", [MaskNaN(axis=2, name="mine"), BatchNormalization(momentum=0.5, name="ours"), SiteMask(axis=2), StepMask()]
)
def test_a_config_of_the_other_layers_does_too(layer):
    serialized = keras.saving.serialize_keras_object(layer)
    assert keras.saving.deserialize_keras_object(serialized).get_config() == layer.get_config()


def test_keras_own_config_makes_ours():
    theirs = keras.layers.ConvLSTM1D(F, 3, strides=2, dropout=0.5, name="theirs", return_sequences=True)
    config = ConvLSTM1D.from_config(theirs.get_config()).get_config()
    assert {name: config[name] for name in theirs.get_config()} == theirs.get_config()


def small(module, rank=1):
    layer = getattr(module, f"ConvLSTM{rank}D")(F, 3, return_sequences=True)
    return keras.Sequential([keras.Input(batch(rank).shape[1:]), layer, keras.layers.Flatten(), keras.layers.Dense(2)])


def test_keras_own_weights_files_load(tmp_path):
    theirs = small(keras.layers)
    theirs.save_weights(tmp_path / "theirs.weights.h5")
    keras.utils.clear_session(free_memory=False)
    ours = small(gapcell.keras)
    ours.load_weights(tmp_path / "theirs.weights.h5")
    for left, right in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)


def masked_model():
    """Layers in a row behind a mask, one of them both ways."""
    model = keras.Sequential(
        [
            keras.Input((None, 5, C)),
            MaskNaN(),
            ConvLSTM1D(F, 3, padding="same", return_sequences=True),
            BatchNormalization(),
            Bidirectional(ConvGRU1D(F, 3, return_sequences=True)),
            ConvLSTM1D(2, 3, activation="relu"),
        ]
    )
    return randomised(model)


def gapped():
    x = batch()
    x[0, 1], x[1, 2:], x[2, :, 3] = np.nan, np.nan, np.nan
    return x


def test_a_model_is_saved_and_loaded(tmp_path):
    model = masked_model()
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(gapped(), verbose=0), model.predict(gapped(), verbose=0))


LOAD = """
import sys, keras, numpy as np, gapcell.keras
model = keras.saving.load_model(sys.argv[1])
np.save(sys.argv[3], model.predict(np.load(sys.argv[2]), verbose=0))
"""
NEXT = {"tensorflow": "jax", "jax": "torch", "torch": "tensorflow"}


def test_a_model_is_loaded_by_another_backend(tmp_path):
    pytest.importorskip(NEXT[BACKEND], reason="a model of this backend is loaded by another")
    model = masked_model()
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "x.npy", gapped())
    environment = os.environ | {"KERAS_BACKEND": NEXT[BACKEND], "PYTHONPATH": str(Path(gapcell.__file__).parents[1])}
    files = [str(tmp_path / name) for name in ("model.keras", "x.npy", "y.npy")]
    subprocess.run([sys.executable, "-c", LOAD, *files], env=environment, check=True, capture_output=True, timeout=600)
    np.testing.assert_allclose(np.load(files[2]), model.predict(gapped(), verbose=0), atol=2e-6)


@pytest.mark.skipif(BACKEND == "torch", reason="Keras exports no SavedModel from torch")
@pytest.mark.filterwarnings("ignore:The `native_serialization` parameter is deprecated")  # Keras's, to JAX
def test_a_model_is_exported(tmp_path):
    tf = pytest.importorskip("tensorflow", reason="an export is a SavedModel")
    model = masked_model()
    want = model.predict(gapped(), verbose=0)
    model.export(tmp_path / "exported", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "exported")
    np.testing.assert_allclose(loaded.serve(gapped()), want, atol=2e-6)
    np.testing.assert_allclose(loaded.serve(gapped()[:2, :3]), model.predict(gapped()[:2, :3], verbose=0), atol=2e-6)
