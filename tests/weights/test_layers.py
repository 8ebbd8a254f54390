"""Weights out of a layer, through a file, into a layer of another framework: the outputs are the same."""

import re
from dataclasses import replace

import numpy as np
import pytest

from gapcell import Spec, weights
from gapcell.reference import conv_rnn
from weights.cases import ONE, SPECS, assert_close, assert_same, batch, params_of
from weights.frameworks import MAKE, NEEDS, RUN, torch_layer


@pytest.fixture(params=["torch", "nnx"])
def framework(request):
    pytest.importorskip(NEEDS[request.param], reason=f"the layer is one of {NEEDS[request.param]}")
    if request.param == "nnx":
        request.getfixturevalue("compiled_quickly")
    return request.param


@pytest.mark.parametrize("name", SPECS)
def test_a_layer_gives_what_the_file_says(tmp_path, framework, name):
    spec, path = SPECS[name], tmp_path / "m.safetensors"
    weights.save(path, params_of(spec), spec)
    layer = MAKE[framework](spec)
    weights.into(layer, *weights.load(path))
    x, mask = batch(spec)
    assert_close(RUN[framework](layer, x, mask), conv_rnn(params_of(spec), x, spec, mask)[0])
    params, found = weights.of(layer)
    assert found == spec
    assert_same(params, params_of(spec))


def test_weights_are_copied(framework):
    layer = MAKE[framework](ONE)
    before = weights.of(layer)[0]
    kept = {name: array.copy() for name, array in before.items()}
    weights.into(layer, params_of(ONE), ONE)
    assert_same(before, kept)


def test_a_layer_keeps_its_type(framework):
    layer = MAKE[framework](ONE)
    weights.into(layer, params_of(ONE, dtype="float64"), ONE)
    params, _ = weights.of(layer)
    assert_same(params, params_of(ONE))


def test_nothing_but_its_name_differs(framework):
    """What acts in training only, and two words for one thing, stand in no one's way."""
    layer = MAKE[framework](ONE)
    weights.into(layer, params_of(ONE), replace(ONE, dropout=0.1, recurrent_dropout=0.5, input_dropout=0.2))
    weights.into(layer, params_of(ONE), replace(ONE, same_padding="keras", mask_rule="centre"))


OTHER = {
    "filters": Spec(rank=1, in_channels=2, filters=4, kernel_size=3),
    "kernel_size": Spec(rank=1, in_channels=2, filters=3, kernel_size=5, recurrent_kernel_size=3),
    "gap": replace(ONE, gap="predict"),
    "masked_output": replace(ONE, masked_output="hold"),
    "causal": replace(ONE, causal=True),
    "mask_rule": replace(ONE, mask_rule="any"),
}
SAID = {
    "filters": "`filters` is 4 in the weights' Spec and 3 in the layer's",
    "kernel_size": "`kernel_size` is [5] in the weights' Spec and [3] in the layer's",
    "gap": "`gap` is 'predict' in the weights' Spec and 'hold' in the layer's",
    "masked_output": "`masked_output` is 'hold' in the weights' Spec and 'zero' in the layer's",
    "causal": "`causal` is True in the weights' Spec and False in the layer's",
    "mask_rule": "`mask_rule` is 'any' in the weights' Spec and 'centre' in the layer's",
}


@pytest.mark.parametrize("name", OTHER)
def test_a_layer_of_another_spec_is_refused_and_stays_as_it_is(framework, name):
    layer = MAKE[framework](ONE)
    before = weights.of(layer)[0]
    message = f"`layer` is of another Spec than the weights: {SAID[name]}; make it with these options"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        weights.into(layer, params_of(OTHER[name]), OTHER[name])
    assert_same(weights.of(layer)[0], before)


def test_where_something_is_strided_its_padding_counts():
    pytest.importorskip("flax", reason="the layer is one of flax")
    strided = SPECS["strided"]
    with pytest.raises(ValueError, match="`same_padding` is 'keras' in the weights' Spec and 'torch' in the layer's"):
        weights.into(MAKE["nnx"](strided), params_of(strided), replace(strided, same_padding="keras"))


def test_every_difference_is_named():
    pytest.importorskip("torch", reason="the layer is one of torch")
    other = Spec(cell="gru", rank=2, in_channels=2, filters=3, kernel_size=3)
    with pytest.raises(ValueError, match=r"`cell` is .*; `rank` is .*; `kernel_size` is .*; make it") as caught:
        weights.into(torch_layer(ONE), params_of(other), other)
    assert "\n" not in str(caught.value)


def test_what_is_no_layer_is_refused():
    message = (
        "`layer` is a builtins.dict, expected a ConvLSTM or ConvGRU layer of gapcell.torch, gapcell.keras or "
        "gapcell.jax; weights.from_keras and its kin read those of others"
    )
    for call in (lambda: weights.of({}), lambda: weights.into({}, params_of(ONE), ONE)):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            call()


def test_weights_that_others_are_computed_to_are_not_written_to():
    torch = pytest.importorskip("torch", reason="the layer is one of torch")
    layer = torch_layer(ONE)
    torch.nn.utils.parametrizations.weight_norm(layer, "weight_hh_l0")
    assert weights.of(layer)[0]["recurrent_kernel"].shape == (3, 3, 12)
    with pytest.raises(ValueError, match=r"^`layer` computes its weights from others \(parametrized or pruned\)"):
        weights.into(layer, params_of(ONE), ONE)


def test_cells_of_flax_are_layers_too():
    nnx = pytest.importorskip("flax.nnx", reason="the cell is one of flax")
    import gapcell.jax

    cell = gapcell.jax.ConvLSTMCell(2, 3, 3, rngs=nnx.Rngs(0))
    weights.into(cell, params_of(ONE), ONE)
    assert_same(weights.of(cell)[0], params_of(ONE))


def test_a_comparison_would_notice_gates_in_another_order():
    x, mask = batch(ONE)
    good = params_of(ONE)
    swapped = {name: np.roll(array, 3, axis=-1) for name, array in good.items()}
    with pytest.raises(AssertionError):
        assert_close(conv_rnn(swapped, x, ONE, mask)[0], conv_rnn(good, x, ONE, mask)[0])
