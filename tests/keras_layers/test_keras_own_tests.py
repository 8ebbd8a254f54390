"""Keras's own tests of ConvLSTM1D, 2D, 3D and their cell, as they are installed with it, on these classes."""

import importlib
import unittest

import keras
import pytest

import gapcell.keras

MODULES = ["conv_lstm1d_test", "conv_lstm2d_test", "conv_lstm3d_test", "conv_lstm_test"]


def _by_rank(rank, **options):
    return getattr(gapcell.keras, f"ConvLSTM{rank}D")(**options)


def _cell(rank, **options):
    return _by_rank(rank, **options).cell


def _load(name):
    try:
        module = importlib.import_module(f"keras.src.layers.rnn.{name}")
    except ImportError as error:
        pytest.skip(f"this Keras has no {name}: {error}")
    return module


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.filterwarnings("ignore")  # Keras judges what its tests do
def test_keras_own_tests_pass(name, monkeypatch):
    module = _load(name)
    for rank in (1, 2, 3):
        monkeypatch.setattr(keras.src.layers, f"ConvLSTM{rank}D", getattr(gapcell.keras, f"ConvLSTM{rank}D"))
    if name == "conv_lstm_test":
        monkeypatch.setattr(module, "ConvLSTM", _by_rank)
        monkeypatch.setattr(module, "ConvLSTMCell", _cell)
    suite = unittest.defaultTestLoader.loadTestsFromModule(module)
    result = unittest.TestResult()
    suite.run(result)
    assert result.testsRun >= 2
    assert not result.errors + result.failures, "\n".join(text for _, text in result.errors + result.failures)
