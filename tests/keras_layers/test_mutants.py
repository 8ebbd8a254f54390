"""The laws as the Keras layers are held to them can fail: on Keras's own layer, and on mistakes made on the way in."""

import keras
import numpy as np
import pytest

pytest.importorskip("torch", reason="the yardstick of law 13 is written in torch")

import gapcell.keras
from gapcell.laws.adapters.keras import KerasLayer
from gapcell.laws.suite import applies, ask
from keras_layers.running import BACKEND
from keras_layers.test_laws import case_of
from laws.plain import PlainLayer


class MaskAsProduct(KerasLayer):
    """The usual advice, x * mask."""

    def run(self, case):
        mask = case.mask.reshape(*case.mask.shape, *(1,) * (case.x.ndim - case.mask.ndim))
        return super().run(case.but(x=case.x * mask, mask=None))


class MaskDropped(KerasLayer):
    def arguments(self, case):
        return {name: value for name, value in super().arguments(case).items() if name != "mask"}


class StateDropped(KerasLayer):
    def _call(self, layer):
        call = super()._call(layer)
        return lambda x, state, arguments: call(x, [keras.ops.zeros_like(part) for part in state], arguments)


class MaskOfTheFirstRow(KerasLayer):
    """Every row under one row's mask."""

    def arguments(self, case):
        arguments = super().arguments(case)
        return arguments | {"mask": keras.ops.repeat(arguments["mask"][:1], len(case.x), axis=0)}


class DirectionsExchanged(KerasLayer):
    def _layer(self, case):
        layer = super()._layer(case)
        if case.spec.bidirectional:
            layer.forward_layer, layer.backward_layer = layer.backward_layer, layer.forward_layer
        return layer


@pytest.mark.parametrize(
    ("broken", "law", "name"),
    [
        (MaskAsProduct, 1, "1d site mask"),
        (MaskAsProduct, 3, "1d step mask"),
        (MaskDropped, 13, "1d site mask"),
        (MaskDropped, 6, "1d step mask"),
        (StateDropped, 7, "1d site mask"),
        (MaskOfTheFirstRow, 5, "1d site mask"),
        (DirectionsExchanged, 9, "bidirectional"),
    ],
)
def test_a_mistake_is_caught(broken, law, name):
    case = case_of(name, np.float32)
    assert applies(law, case)
    with pytest.raises(AssertionError):
        ask(law, broken(), case, PlainLayer())


@pytest.mark.skipif(BACKEND == "jax", reason="on JAX Keras's own layer takes no mask of steps: test_defects.py")
def test_keras_own_layer_is_caught(monkeypatch):
    monkeypatch.setattr(gapcell.keras, "ConvLSTM1D", lambda *args, **options: _keras_own(*args, **options))
    with pytest.raises(AssertionError):
        ask(1, KerasLayer(), case_of("1d step mask", np.float32), PlainLayer())


def _keras_own(*args, **options):
    for name in ("gap", "window", "causal", "mask_rule"):
        del options[name]
    return keras.layers.ConvLSTM1D(*args, **options)
