"""Layers at every step, and repeated steps: what they hand their layer, what they hand on, and what they refuse."""

import re

import keras
import numpy as np
import pytest

import gapcell.keras as gk
from keras_layers.pieces import PIECES, SHAPE, handed_on
from keras_layers.running import gradients, numpy, spoiled

N, T, L, C = SHAPE
X = np.random.default_rng(0).normal(size=SHAPE).astype("float32")
RAGGED = np.arange(T) < np.array([4, 2, 0])[:, None]
SITES = RAGGED[:, :, None] & (np.arange(L) != 3)


class Told(keras.layers.Layer):
    """A user's layer, which records the mask that it is given."""

    def call(self, inputs, mask=None):
        self.mask = None if mask is None else numpy(mask)
        return inputs

    def compute_output_shape(self, shape):
        return shape


@pytest.mark.parametrize("mask", [RAGGED, SITES, np.broadcast_to(SITES[..., None], SHAPE)], ids=["step", "site", "all"])
def test_the_layer_is_given_its_steps_mask_and_zeros_for_what_is_masked(mask):
    layer = gk.TimeDistributed(Told())
    y = numpy(layer(spoiled(X, mask), mask=mask))
    np.testing.assert_array_equal(layer.layer.mask, mask.reshape(N * T, *mask.shape[2:]))
    np.testing.assert_array_equal(y, spoiled(X, mask, 0))


def test_keras_recurrent_layers_read_the_mask_of_their_series():
    """TimeDistributed(LSTM) over the sites as steps: a mask of sites is the series' own."""
    inner = keras.layers.LSTM(3)
    layer = gk.TimeDistributed(inner)
    y = numpy(layer(spoiled(X, SITES), mask=SITES))
    alone = numpy(inner(X[0, :, [0, 1, 2, 4]].swapaxes(0, 1)))
    np.testing.assert_allclose(y[0], alone, atol=1e-6)
    assert not y[2].any()
    np.testing.assert_array_equal(handed_on(layer(X, mask=SITES)), RAGGED)


def test_a_model_at_every_step_obeys_the_mask():
    def made():
        keras.utils.set_random_seed(0)
        frame = [keras.Input((L, C)), gk.Conv1D(3, 3, padding="same"), gk.BatchNormalization(), keras.layers.ReLU()]
        return gk.TimeDistributed(keras.Sequential([*frame, gk.GlobalAveragePooling1D()]))

    found = [numpy(made()(spoiled(X, SITES, fill), mask=SITES, training=True)) for fill in (np.nan, 0)]
    np.testing.assert_array_equal(*found)
    layer = made()
    y = layer(spoiled(X, SITES), mask=SITES)
    np.testing.assert_array_equal(handed_on(y), RAGGED)
    narrow = np.concatenate([X[:, :, :3], np.zeros_like(X[:, :, :1]), X[:, :, 4:]], 2)
    assert np.abs(numpy(y)[0] - numpy(layer(narrow))[0]).max() > 1e-4  # a masked site is none that is zero


def test_a_domain_reaches_every_step():
    domain = np.stack([np.arange(L) < length for length in (5, 3, 5)])
    layer = gk.TimeDistributed(gk.Conv1D(3, 3, padding="same", mask_rule="any", renormalize=True))
    y = numpy(layer(spoiled(X, np.broadcast_to(domain[:, None], X.shape[:-1])), domain=domain))
    np.testing.assert_allclose(y[1:2, :, :3], numpy(layer(X[1:2, :, :3])), atol=1e-6)
    masked = numpy(layer(spoiled(X, SITES), mask=SITES, domain=domain))
    assert not masked[1, :, 4].any()
    assert np.isfinite(masked).all()


def test_a_sequence_is_repeated_as_another_one():
    """The mask that a sequence carries is that of the repeated one: of sites where these are the same."""
    code = np.random.default_rng(1).normal(size=(N, L, C)).astype("float32")
    like = gk.selection.carry(keras.ops.convert_to_tensor(X), keras.ops.convert_to_tensor(SITES))
    for given, want in ((code, SITES), (code[:, :3], RAGGED), (code[:, 0], RAGGED)):
        y = gk.RepeatVector()(given, like=like)
        np.testing.assert_array_equal(handed_on(y), want)
        wanted = np.broadcast_to(given[:, None], (N, T, *given.shape[1:]))
        np.testing.assert_array_equal(numpy(y), spoiled(wanted, want, 0))


def test_what_exists_goes_before_what_was_observed():
    code = np.ones((N, L, C), "float32")
    gappy = RAGGED & (np.arange(T) != 1)
    like = gk.selection.carry(keras.ops.convert_to_tensor(X), keras.ops.convert_to_tensor(gappy))
    y = gk.RepeatVector()(code, like=like, lengths=np.array([4, 2, 0]))
    np.testing.assert_array_equal(handed_on(y), RAGGED)
    domain = np.arange(L) < 3
    y = gk.RepeatVector()(code, like=like, lengths=np.array([4, 2, 0]), domain=domain)
    np.testing.assert_array_equal(handed_on(y), RAGGED[..., None] & domain)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_what_is_masked_is_not_repeated(rank):
    code = np.random.default_rng(1).normal(size=(N, L, C)).astype("float32")
    mask = np.random.default_rng(2).random(code.shape[:rank]) < 0.5
    y = gk.RepeatVector(T)(spoiled(code, mask), mask=mask)
    kept = mask.any(-1) if rank == 3 else mask
    np.testing.assert_array_equal(handed_on(y), np.repeat(kept[:, None], T, 1))
    np.testing.assert_array_equal(numpy(y), np.repeat(spoiled(code, mask, 0)[:, None], T, 1))
    layer = gk.RepeatVector(T)
    layer.build(code.shape)
    _, of_code = gradients(layer, spoiled(code, mask), mask=mask)
    assert not spoiled(of_code, ~mask, 0).any()


def test_without_a_mask_it_repeats_as_keras_does():
    code = np.ones((N, C), "float32")
    np.testing.assert_array_equal(numpy(gk.RepeatVector(3)(code)), numpy(keras.layers.RepeatVector(3)(code)))
    assert handed_on(gk.RepeatVector(3)(code)) is None


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: gk.RepeatVector(0), "`n` is 0, expected a positive number of steps"),
        (lambda: gk.RepeatVector()(X[:, 0]), "`n` is None and `like` missing: expected one of them"),
        (lambda: gk.RepeatVector(3)(X[:, 0], like=X), "`n` is 3 and `like` given: expected one of them"),
        (lambda: gk.Conv2D(3, 3, mask_rule="most"), "`mask_rule` is 'most', expected one of"),
        (
            lambda: gk.Conv1D(3, 3)(X, mask=RAGGED),
            "`inputs` has shape (3, 4, 5, 2), but Conv1D expects 3 axes; sequences go through "
            "gapcell.keras.TimeDistributed",
        ),
        (
            lambda: gk.GlobalMaxPooling2D()(X, mask=np.ones((N, T + 1), bool)),
            "`mask` has shape (3, 5), but the input has shape (3, 4, 5, 2): expected (3,), (3, 4), (3, 4, 5) or "
            "(3, 4, 5, 2); a mask is matched exactly and never broadcast",
        ),
        (lambda: gk.GroupNormalization(1)(X, mask=np.full((N, T), 0.5)), "holds values other than 0, 1 and NaN"),
        (
            lambda: gk.UpSampling2D(2, interpolation="bilinear")(X, mask=SITES),
            "`interpolation` is 'bilinear', which mixes observed and masked sites: expected 'nearest'",
        ),
        (lambda: gk.GlobalSumPooling2D()(X[0]), "but GlobalSumPooling2D with channels_last expects at least 4 axes"),
        (lambda: gk.GlobalSumPooling2D("last"), "`data_format` is 'last', expected 'channels_last'"),
        (lambda: gk.AttentionPooling(0), "`units` is 0, expected at least 1"),
        (lambda: gk.AttentionPooling(3)(X[:, 0, 0]), "expected (N, places, C)"),
    ],
)
def test_what_does_not_fit_is_refused(call, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        call()


@pytest.mark.parametrize("name", ["conv", "conv transpose", "group norm", "mean", "max", "flatten", "upsampling"])
def test_channels_first_is_the_same(name):
    piece = PIECES[name]
    layer = piece.built()
    config = layer.get_config()
    config |= {"axis": 1} if "axis" in config else {"data_format": "channels_first"}
    first = type(layer).from_config(config)
    first.build((None, C, T, L))
    first.set_weights(layer.get_weights())
    for mask in (SITES, np.broadcast_to(SITES[..., None], SHAPE)):
        element = mask.ndim == 4
        want = layer(spoiled(X, mask), mask=mask)
        given = np.moveaxis(mask, -1, 1) if element else mask
        got = first(np.moveaxis(spoiled(X, mask), -1, 1), mask=given)
        same = numpy(got) if got.ndim == 2 else np.moveaxis(numpy(got), 1, -1)
        np.testing.assert_allclose(same, numpy(want), atol=1e-6)
        kept = handed_on(got)
        np.testing.assert_array_equal(np.moveaxis(kept, 1, -1) if kept.ndim == 4 else kept, handed_on(want))
