"""The layers around the recurrence obey the laws of docs/semantics.md, and are keras.layers' own without gaps."""

import keras
import numpy as np
import pytest

import gapcell.keras
from keras_layers import receptive
from keras_layers.pieces import PIECES, SHAPE, handed_on, masks_for
from keras_layers.running import BACKEND, gradients, numpy, spoiled

X = np.random.default_rng(0).normal(size=SHAPE).astype("float32")
NAMES = list(PIECES)
# Ranks between the others, and on JAX, where every operation is compiled, all that the layers treat alike.
UNTRIED = ("sample", "leading") if BACKEND == "jax" else ("leading",)


@pytest.mark.parametrize("name", NAMES)
def test_the_mask_behind_a_layer_is_that_of_what_it_reads(name):
    piece = PIECES[name]
    layer = piece.built()
    for kind, mask in masks_for().items():
        y = layer(spoiled(X, mask), mask=mask)
        got = handed_on(y)
        assert got.dtype == bool
        want = piece.behind(receptive.expanded(mask, SHAPE))
        shape = (*got.shape, *y.shape[got.ndim :])
        if got.ndim == y.ndim:  # a mask of elements stays one
            np.testing.assert_array_equal(got, mask if y.shape == SHAPE else np.repeat(mask, 2, 1), err_msg=kind)
        else:
            same = receptive.expanded(got, (*y.shape[:-1], 1))
            np.testing.assert_array_equal(same, receptive.expanded(want, (*y.shape[:-1], 1)), err_msg=kind)
        assert not numpy(y)[~np.broadcast_to(got.reshape(*got.shape, *(1,) * (y.ndim - got.ndim)), shape)].any()


@pytest.mark.parametrize("name", NAMES)
def test_what_stands_under_the_mask_changes_nothing(name):
    piece = PIECES[name]
    training = {"training": True} if name == "batch norm" else {}
    for kind, mask in masks_for().items():
        if kind in UNTRIED:
            continue
        found = []
        for fill in (0.0, np.nan, np.inf):
            layer = piece.built()
            found.append((*gradients(layer, spoiled(X, mask, fill), mask=mask, **training), layer.get_weights()))
            seen = numpy(layer(spoiled(X, mask, fill), mask=mask))
            found[-1] += (seen,)
        for other in found[1:]:
            for left, right in zip(keras.tree.flatten(found[0]), keras.tree.flatten(other), strict=True):
                np.testing.assert_array_equal(left, right, err_msg=kind)
        of_x = found[1][1]
        assert np.isfinite(of_x).all()
        assert not spoiled(of_x, ~mask, 0).any()


@pytest.mark.parametrize("name", [name for name in NAMES if PIECES[name].own])
def test_with_everything_observed_it_is_keras_own(name):
    piece = PIECES[name]
    ours = piece.built()
    theirs = piece.built(keras.layers)
    want = numpy(theirs(X))
    np.testing.assert_array_equal(numpy(ours(X)), want)
    for mask in (np.ones(SHAPE[:-1], bool), np.ones(SHAPE, bool)):
        np.testing.assert_allclose(numpy(ours(X, mask=mask)), want, atol=2e-6)
    for got, wanted in zip(
        keras.tree.flatten(gradients(ours, X, mask=np.ones(SHAPE[:-1], bool))),
        keras.tree.flatten(gradients(theirs, X)),
        strict=True,
    ):
        np.testing.assert_allclose(got, wanted, atol=3e-6 * max(np.abs(wanted).max(), 1))


# Numbers, by loops over what is observed ------------------------------------------------------------------------------


def observed_in(x, mask, row, channels=slice(None)):
    """The observed values of a row in some channels; the mask is of sites or elements."""
    elements = np.broadcast_to(mask[..., None], x.shape) if mask.ndim < x.ndim else mask
    return x[row][..., channels][elements[row][..., channels]]


@pytest.mark.parametrize("kind", ["site", "element"])
def test_moments_are_of_what_is_observed(kind):
    mask = masks_for()[kind]
    group = numpy(gapcell.keras.GroupNormalization(2)(spoiled(X, mask), mask=mask))
    layer = numpy(gapcell.keras.LayerNormalization([1, 2, 3])(spoiled(X, mask), mask=mask))
    batch = gapcell.keras.BatchNormalization()
    normal = numpy(batch(spoiled(X, mask), mask=mask, training=True))
    for channel in range(2):
        seen = np.concatenate([observed_in(X, mask, row, [channel]) for row in range(3)])
        got = np.concatenate([observed_in(normal, mask, row, [channel]) for row in range(3)])
        np.testing.assert_allclose(got, (seen - seen.mean()) / np.sqrt(seen.var() + 1e-3), atol=2e-6)
        np.testing.assert_allclose(numpy(batch.moving_mean.value)[channel], 0.01 * seen.mean(), atol=1e-7)
        np.testing.assert_allclose(numpy(batch.moving_variance.value)[channel], 0.99 + 0.01 * seen.var(), atol=1e-6)
    for row in range(2):
        for channel in range(2):
            seen = observed_in(X, mask, row, [channel])
            got = observed_in(group, mask, row, [channel])
            np.testing.assert_allclose(got, (seen - seen.mean()) / np.sqrt(seen.var() + 1e-3), atol=2e-6)
        seen = observed_in(X, mask, row)
        got = observed_in(layer, mask, row)
        np.testing.assert_allclose(got, (seen - seen.mean()) / np.sqrt(seen.var() + 1e-3), atol=2e-6)


def test_a_channel_without_observation_leaves_its_moving_moments():
    mask = np.ones(SHAPE, bool)
    mask[..., 1] = False
    layer = PIECES["batch norm"].built()
    before = [numpy(variable.value) for variable in layer.non_trainable_variables]
    layer(spoiled(X, mask), mask=mask, training=True)
    for variable, was in zip(layer.non_trainable_variables, before, strict=True):
        assert numpy(variable.value)[0] != was[0]
        assert numpy(variable.value)[1] == was[1]


@pytest.mark.parametrize("kind", ["site", "element"])
def test_pools_are_of_what_is_observed(kind):
    mask = masks_for()[kind]
    pools = {"GlobalAveragePooling2D": np.mean, "GlobalMaxPooling2D": np.max, "GlobalSumPooling2D": np.sum}
    for name, pool in pools.items():
        got = numpy(getattr(gapcell.keras, name)()(spoiled(X, mask), mask=mask))
        for row, channel in np.ndindex(2, 2):
            np.testing.assert_allclose(got[row, channel], pool(observed_in(X, mask, row, [channel])), atol=1e-5)
    attention = PIECES["attention"].built()
    got = numpy(attention(spoiled(X, mask), mask=mask))
    kernel, score = attention.get_weights()
    scores = (np.tanh(spoiled(X, mask, 0) @ kernel) @ score)[..., 0]
    elements = np.broadcast_to(mask[..., None], X.shape) if kind == "site" else mask
    for row, channel in np.ndindex(2, 2):
        seen = elements[row, ..., channel]
        weights = np.exp(scores[row][seen])
        np.testing.assert_allclose(got[row, channel], (weights / weights.sum()) @ X[row, ..., channel][seen], atol=1e-5)
    last = numpy(gapcell.keras.LastObserved()(spoiled(X, mask), mask=mask))
    for row, site, channel in np.ndindex(3, 5, 2):
        seen = np.flatnonzero(elements[row, :, site, channel])
        assert last[row, site, channel] == (X[row, seen[-1], site, channel] if seen.size else 0)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kind", ["site", "element"])
def test_a_partial_convolution_counts_the_taps_inside_the_array_and_the_domain(kind, groups):
    mask = masks_for()[kind]
    domain = np.ones(SHAPE[1:-1], bool)
    domain[:, -1] = False
    options = {"padding": "same", "groups": groups, "mask_rule": "any", "renormalize": True}
    layer = gapcell.keras.Conv2D(4, 3, **options)
    layer.build(X.shape)
    got = numpy(layer(spoiled(X, mask), mask=mask, domain=domain))
    elements = np.broadcast_to(mask[..., None], X.shape) if kind == "site" else mask
    elements = elements & domain[..., None]
    kernel = layer.get_weights()[0]
    for row, *at, channel in np.ndindex(got.shape):
        group = channel // (4 // groups)
        total = seen = possible = 0
        for i, j, k in np.ndindex(3, 3, 2 // groups):
            site = (at[0] + i - 1, at[1] + j - 1)
            if not (0 <= site[0] < SHAPE[1] and 0 <= site[1] < SHAPE[2] and domain[site]):
                continue
            source = (row, *site, group * (2 // groups) + k)
            possible += 1
            if elements[source]:
                seen += 1
                total += kernel[i, j, k, channel] * X[source]
        # Whether the output site is observed is decided over all channels.
        want = total * possible / seen if seen else 0
        np.testing.assert_allclose(got[(row, *at, channel)], want, atol=1e-5)


def test_what_lies_outside_the_domain_is_the_edge_of_a_narrower_input():
    domain = np.ones(SHAPE[1:-1], bool)
    domain[:, 3:] = False
    layer = PIECES["conv any"].built()
    got, narrow = (
        numpy(layer(spoiled(X, np.broadcast_to(domain, SHAPE[:-1])), domain=domain)),
        numpy(layer(X[:, :, :3])),
    )
    np.testing.assert_allclose(got[:, :, :3], narrow, atol=1e-6)


def test_low_precision_counts_as_float32_does():
    """float16 has no whole numbers beyond 2048; the window here has 49 x 60 pairs."""
    x = np.random.default_rng(0).normal(size=(1, 9, 9, 60)).astype("float32") / 60
    mask = np.random.default_rng(1).random(x.shape) < 0.5
    options = {"padding": "same", "mask_rule": "any", "renormalize": True}
    found = []
    for dtype in ("float32", "mixed_float16"):
        keras.utils.set_random_seed(0)
        layer = gapcell.keras.Conv2D(2, 7, dtype=dtype, **options)
        found.append(numpy(layer(spoiled(x, mask), mask=mask)).astype("float32"))
    np.testing.assert_allclose(found[1], found[0], atol=2e-3)
    mask[:] = False
    assert not numpy(layer(spoiled(x, mask), mask=mask)).any()
