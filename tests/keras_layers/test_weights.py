"""Weights to and from Keras's layers, ours and its own, in memory and in files; on the backend at hand."""

import re

import keras
import numpy as np
import pytest

from gapcell import weights
from gapcell.keras import Bidirectional, ConvGRU1D, ConvGRU2D, ConvLSTM1D, ConvLSTM2D
from gapcell.reference import conv_rnn
from keras_layers.running import C, F, T, batch, masks_of, numpy, randomised, spoiled

OURS = {
    "lstm 1-D": lambda **options: ConvLSTM1D(F, 3, padding="same", **options),
    "lstm 2-D": lambda **options: ConvLSTM2D(F, (3, 2), padding="same", **options),
    "gru 1-D": lambda **options: ConvGRU1D(F, 2, padding="same", **options),
    "gru 2-D": lambda **options: ConvGRU2D(F, 3, padding="same", use_bias=False, **options),
    "bidirectional": lambda **options: Bidirectional(ConvLSTM1D(F, 3, padding="same", **options)),
}
ONLY_KERAS = {
    "valid, strided": lambda **options: ConvLSTM2D(F, 2, strides=2, padding="valid", **options),
    "same, strided": lambda **options: ConvLSTM2D(F, 3, strides=2, padding="same", **options),
    "backwards": lambda **options: ConvGRU1D(F, 3, padding="same", go_backwards=True, **options),
    "decay": lambda **options: ConvLSTM1D(F, 3, padding="same", gap="decay", **options),
}
THEIRS = {
    "1-D": lambda: keras.layers.ConvLSTM1D(F, 3, return_sequences=True, padding="same"),
    "2-D, valid, strided": lambda: keras.layers.ConvLSTM2D(F, 2, return_sequences=True, strides=2),
    "2-D, same, strided, even": lambda: keras.layers.ConvLSTM2D(
        F, (4, 3), return_sequences=True, strides=2, padding="SAME", unit_forget_bias=False
    ),
    "3-D, dilated": lambda: keras.layers.ConvLSTM3D(
        F, 2, return_sequences=True, dilation_rate=(1, 2, 1), padding="same", use_bias=False
    ),
    "backwards": lambda: keras.layers.ConvLSTM1D(F, 3, return_sequences=True, padding="same", go_backwards=True),
    "bidirectional": lambda: keras.layers.Bidirectional(
        keras.layers.ConvLSTM1D(F, 3, return_sequences=True, padding="same")
    ),
}
RANK = re.compile(r"(\d)-D")


def rank_of(layer):
    inner = getattr(layer, "forward_layer", layer)
    return len(inner.kernel_size)


def built(make, **options):
    layer = make(**options)
    x = batch(rank_of(layer))
    layer.build(x.shape)
    return randomised(layer), x


def close(found, wanted):
    assert found.shape == wanted.shape
    assert np.abs(wanted).max() > 0.05
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)


# Ours -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OURS)
def test_a_file_gives_equal_outputs_on_all_four(tmp_path, name, compiled_quickly):
    torch, nnx = pytest.importorskip("torch"), pytest.importorskip("flax.nnx")
    import gapcell.jax
    import gapcell.torch

    first, x = built(OURS[name], return_sequences=True, zero_output_for_mask=True)
    mask = masks_of(x)["element"]
    x = spoiled(x, mask)
    weights.save(tmp_path / "m.safetensors", *weights.of(first))
    params, spec = weights.load(tmp_path / "m.safetensors")
    again, _ = built(OURS[name], return_sequences=True, zero_output_for_mask=True)
    weights.into(again, params, spec)
    kind, sizes = f"Conv{spec.cell.upper()}", (C, F, spec.kernel_size)
    options = {"bidirectional": spec.bidirectional}
    torchs = getattr(gapcell.torch, f"{kind}{spec.rank}d")(*sizes, bias=spec.bias, channels_last=True, **options)
    flaxs = getattr(gapcell.jax, kind)(*sizes, use_bias=spec.bias, rngs=nnx.Rngs(0), **options)
    for layer in (torchs, flaxs):
        weights.into(layer, params, spec)
    outputs = {
        "reference": conv_rnn(params, x, spec, mask)[0],
        "keras": numpy(first(x, mask=mask)),
        "keras again": numpy(again(x, mask=mask)),
        "torch": torchs(torch.tensor(x), mask=torch.tensor(mask))[0].detach().numpy(),
        "jax": np.asarray(gapcell.jax.apply(params, x, spec, mask=mask)[0]),
        "flax": np.asarray(flaxs(x, mask=mask)[0]),
    }
    for output in outputs.values():
        for other in outputs.values():
            close(output, other)


@pytest.mark.parametrize("name", ONLY_KERAS)
def test_what_the_others_spell_differently_is_in_the_spec(name):
    layer, x = built(ONLY_KERAS[name], return_sequences=True)
    mask = masks_of(x)["site"]
    params, spec = weights.of(layer)
    close(numpy(layer(spoiled(x, mask), mask=mask)), conv_rnn(params, spoiled(x, mask), spec, mask)[0])


def test_kerass_variables_and_tensors_are_taken(tmp_path):
    layer, _ = built(OURS["lstm 1-D"])
    wanted, spec = weights.of(layer)
    variables = {name: getattr(layer.cell, name) for name in wanted}
    for given in (variables, {name: keras.ops.convert_to_tensor(variable) for name, variable in variables.items()}):
        weights.save(tmp_path / "m.safetensors", given, spec)
        for name, array in weights.load(tmp_path / "m.safetensors")[0].items():
            np.testing.assert_array_equal(array, wanted[name])


def test_keras_holds_where_others_give_zero():
    layer, _ = built(OURS["lstm 1-D"])
    params, spec = weights.of(layer)
    assert spec.masked_output == "hold"
    zero, _ = built(OURS["lstm 1-D"], zero_output_for_mask=True)
    with pytest.raises(ValueError, match="`masked_output` is 'hold' in the weights' Spec and 'zero' in the layer's"):
        weights.into(zero, params, spec)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: ConvLSTM1D(F, 3, name="mine"),
            r"^`layer` \('mine'\) is not built and has no weights yet; call it once",
        ),
        (
            lambda: built(lambda: ConvLSTM1D(F, 3, activation="relu", name="mine"))[0],
            r"^`layer` \('mine'\) has activation='relu' and recurrent_activation='sigmoid', expected 'tanh' and",
        ),
        (
            lambda: built(lambda: Bidirectional(ConvLSTM1D(F, 3), merge_mode="sum"))[0],
            "^`layer` has merge_mode='sum', expected 'concat', the only one that a Spec has",
        ),
    ],
)
def test_a_layer_that_no_spec_describes_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        weights.of(make())


# Keras's own ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", THEIRS)
def test_kerass_layer_is_imported(name):
    layer, x = built(THEIRS[name])
    params, spec = weights.from_keras(layer)
    close(conv_rnn(params, x, spec)[0], numpy(layer(x)))


def test_what_is_imported_does_not_change_with_the_layer():
    layer, _ = built(THEIRS["1-D"])
    params, _ = weights.from_keras(layer)
    kept = {name: array.copy() for name, array in params.items()}
    for weight in layer.weights:
        weight.assign(weight * 2)
    for name, array in params.items():
        np.testing.assert_array_equal(array, kept[name])


def model_of(x):
    """Two layers of the same sizes, one in a nested model, and one in both directions."""
    inner = keras.Sequential([keras.Input(x.shape[1:]), THEIRS["1-D"]()], name="inner")
    inner.layers[0].name = "deep"
    layers = [keras.layers.ConvLSTM1D(C, 3, padding="same", return_sequences=True, name="first"), inner]
    return keras.Sequential([keras.Input(x.shape[1:]), *layers, THEIRS["bidirectional"]()])


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")  # what is read here
@pytest.mark.parametrize("suffix", [".keras", ".weights.h5", ".h5"])
def test_kerass_files_are_imported(tmp_path, suffix):
    pytest.importorskip("h5py")
    x, path = batch(1), tmp_path / f"model{suffix}"
    model = randomised(model_of(x))
    model.save_weights(path) if suffix == ".weights.h5" else model.save(path)
    y = x
    for layer in (model.layers[0], model.layers[1].layers[0], model.layers[2]):
        wanted = numpy(layer(y))
        _, spec = weights.from_keras(layer)
        name = "inner" if (layer.name, suffix) == ("deep", ".h5") else layer.name  # by its model, in the older format
        params, found = weights.from_keras(path, name=name, **({} if suffix == ".keras" else {"spec": spec}))
        assert found == spec
        close(conv_rnn(params, y, spec)[0], wanted)
        y = wanted


def test_the_only_layer_of_a_file_needs_no_name(tmp_path):
    pytest.importorskip("h5py")
    model = keras.Sequential([keras.Input((T, 5, C)), ConvGRU1D(F, 3, return_sequences=True, gap="predict")])
    randomised(model)
    model.save(tmp_path / "model.keras")
    params, spec = weights.from_keras(tmp_path / "model.keras")
    wanted, its = weights.of(model.layers[0])
    assert spec == its
    for name, array in wanted.items():
        np.testing.assert_array_equal(params[name], array)


class Halved(keras.layers.ConvLSTM1D):
    """What a subclass computes, its config does not say."""


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: built(lambda: keras.layers.ConvLSTM1D(F, 3, recurrent_activation="hard_sigmoid"))[0],
            "^ConvLSTM1D has recurrent_activation='hard_sigmoid', expected 'sigmoid', the only one that gapcell's",
        ),
        (
            lambda: built(lambda: keras.layers.ConvLSTM1D(F, 3, activation="relu"))[0],
            "^ConvLSTM1D has activation='relu', expected 'tanh', the only one that gapcell's",
        ),
        (lambda: keras.layers.ConvLSTM1D(F, 3, name="mine"), r"^`source` \('mine'\) is not built"),
        (lambda: built(lambda: Halved(F, 3))[0], r"^`source` is a .*\.Halved, expected a keras.layers.ConvLSTM1D, 2D"),
        (lambda: built(OURS["lstm 1-D"])[0], "gapcell's go to weights.of$"),
        (
            lambda: built(lambda: keras.layers.Bidirectional(keras.layers.ConvLSTM1D(F, 3), merge_mode="ave"))[0],
            "^Bidirectional has merge_mode='ave', expected 'concat', the only one that a Spec has",
        ),
    ],
)
def test_a_layer_of_keras_that_is_not_ours_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        weights.from_keras(make())


def test_an_activation_is_refused_in_a_file_too(tmp_path):
    pytest.importorskip("h5py")
    model = keras.Sequential(
        [keras.Input((T, 5, C)), keras.layers.ConvLSTM1D(F, 3, recurrent_activation="hard_sigmoid")]
    )
    model.save(tmp_path / "model.keras")
    with pytest.raises(
        weights.WeightsError, match=r"model.keras' is refused: ConvLSTM1D has recurrent_activation='hard"
    ):
        weights.from_keras(tmp_path / "model.keras")
