"""Masks pass convolutions as Keras's own operations move values, whatever the geometry, also with unknown sites."""

import itertools

import keras
import numpy as np
import pytest

import gapcell.keras
from gapcell.keras import unknown_sites
from keras_layers import receptive
from keras_layers.pieces import handed_on
from keras_layers.running import BACKEND, numpy

MASK = np.random.default_rng(0).random((4, 7)) < 0.6
RULES = ("centre", "all", "any")


def options_of(**names):
    """Every combination that Keras can run; on JAX, where each is compiled, few."""
    found = [dict(zip(names, values, strict=True)) for values in itertools.product(*names.values())]
    return [one for one in found if runs(**one)][:: {"torch": 1, "tensorflow": 2, "jax": 13}[BACKEND]]


def runs(kernel_size, strides, dilation_rate, padding, output_padding=None):
    if strides > 1 and dilation_rate > 1:
        return False
    if BACKEND == "tensorflow" and padding == "same" and output_padding == 0 and dilation_rate == 1:
        return kernel_size % 2 == 1  # of others oneDNN knows no gradient
    return (output_padding or 0) < strides


def numbers_read(make, **options):
    """How many observed sites, and how many of all, reach each output site: Keras's own layer on zeros and ones."""
    layer = make(1, kernel_initializer="ones", use_bias=False, **options)
    return [numpy(layer(values.astype("float32")[..., None]))[..., 0].round() for values in (MASK, np.ones_like(MASK))]


def moved(make, rule, **options):
    layer = make(1, mask_rule=rule, **options)
    return handed_on(layer(np.zeros((*MASK.shape, 1), "float32"), mask=MASK))


@pytest.mark.parametrize(
    "options",
    options_of(kernel_size=[1, 2, 3, 4], strides=[1, 2, 3], dilation_rate=[1, 2], padding=["same", "valid", "causal"]),
    ids=str,
)
def test_the_mask_behind_a_convolution(options):
    seen, of_all = numbers_read(keras.layers.Conv1D, **options)
    geometry = (options["kernel_size"], options["strides"], options["dilation_rate"], options["padding"])
    for rule in RULES:
        got = moved(gapcell.keras.Conv1D, rule, **options)
        np.testing.assert_array_equal(got, receptive.through_conv(MASK, rule, *geometry))
        if rule != "centre":
            np.testing.assert_array_equal(got, seen == of_all if rule == "all" else seen > 0)
        if BACKEND != "tensorflow":
            continue
        named = {"stride": (geometry[1],), "dilation": (geometry[2],), "rule": rule, "same_padding": "keras"}
        named |= {"padding": geometry[3].replace("causal", "same"), "causal": geometry[3] == "causal"}
        unknown = unknown_sites.through_conv(keras.ops.convert_to_tensor(MASK), (geometry[0],), **named)
        np.testing.assert_array_equal(numpy(unknown), got)


@pytest.mark.parametrize(
    "options",
    options_of(
        kernel_size=[1, 2, 3, 4],
        strides=[1, 2, 3],
        dilation_rate=[1, 2],
        padding=["same", "valid"],
        output_padding=[None, 0, 1],
    ),
    ids=str,
)
@pytest.mark.filterwarnings("ignore:(You might experience|Torch backend requires):UserWarning")  # Keras's, of its own
def test_the_mask_behind_a_transposed_convolution(options):
    seen, of_all = numbers_read(keras.layers.Conv1DTranspose, **options)
    for rule in RULES:
        got = moved(gapcell.keras.Conv1DTranspose, rule, **options)
        assert got.shape == seen.shape
        if rule != "centre":
            reached = of_all > 0
            np.testing.assert_array_equal(got[reached], (seen == of_all if rule == "all" else seen > 0)[reached])
        if BACKEND != "tensorflow":
            continue
        named = {"stride": (options["strides"],), "dilation": (options["dilation_rate"],), "rule": rule}
        more = options["output_padding"]
        named |= {"padding": options["padding"], "output_padding": None if more is None else (more,)}
        unknown = unknown_sites.through_conv_transpose(
            keras.ops.convert_to_tensor(MASK), (options["kernel_size"],), **named
        )
        np.testing.assert_array_equal(numpy(unknown), got)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="only TensorFlow's graphs have sizes that are not known")
@pytest.mark.parametrize("name", ["Conv2D", "Conv2DTranspose", "UpSampling2D", "GlobalMaxPooling2D", "Flatten"])
def test_sites_may_be_unknown(name):
    import tensorflow as tf

    layer = getattr(gapcell.keras, name)(*((3, 3) if "Conv" in name else ()))
    x = np.random.default_rng(0).normal(size=(2, 6, 5, 2)).astype("float32")
    mask = np.random.default_rng(1).random(x.shape[:-1]) < 0.6
    want = layer(np.where(mask[..., None], x, np.nan), mask=mask)
    signature = [tf.TensorSpec((None, None, None, 2)), tf.TensorSpec((None, None, None), "bool")]

    @tf.function(input_signature=signature)
    def call(x, mask):
        y = layer(x, mask=mask)
        return y, y._keras_mask

    got, found = call(np.where(mask[..., None], x, np.nan), mask)
    np.testing.assert_allclose(numpy(got), numpy(want), atol=1e-6)
    np.testing.assert_array_equal(numpy(found), handed_on(want))
    with pytest.raises(tf.errors.InvalidArgumentError):
        call(x, mask[:, :1])
