"""What keras.layers.ConvLSTM1D, 2D and 3D of Keras 3.15 get wrong under a mask, and these layers must not.

Each test states one defect; what Keras does instead is in its docstring.
"""

import keras
import numpy as np
import pytest

from gapcell.keras import BatchNormalization, ConvGRU1D, ConvLSTM1D, ConvLSTM2D, MaskNaN
from keras_layers.running import BACKEND, C, F, N, T, batch, gradients, masks_of, numpy, randomised, spoiled

SEQUENCES = {"return_sequences": True, "padding": "same"}


def made(x, kind=ConvLSTM1D, **options):
    layer = kind(F, 3, **SEQUENCES | options)
    layer.build(x.shape)
    return randomised(layer)


def shortened(x, mask, row):
    """The observed steps of one row, alone."""
    return x[row : row + 1, mask[row]]


def test_a_step_mask_works_whatever_the_sizes():
    """Keras on JAX raises, and where N equals the width takes the rows of the mask for its sites."""
    x = batch()[:, :, :N]  # N == L
    mask = masks_of(x)["step"]
    layer = made(x)
    y = numpy(layer(x, mask=mask))
    for row in range(N):
        alone = numpy(layer(shortened(x, mask, row)))
        np.testing.assert_allclose(y[row, mask[row]], alone[0], atol=1e-6)


@pytest.mark.parametrize("fill", [np.nan, np.inf])
@pytest.mark.parametrize("rank", ["step", "site", "element"])
def test_gradients_are_finite_whatever_is_masked(rank, fill):
    """Keras multiplies NaN by 0: every gradient is NaN."""
    x = batch()
    mask = masks_of(x)[rank]
    layer = made(x)
    want, _ = gradients(layer, spoiled(x, mask, 0), mask=mask)
    found, of_x = gradients(layer, spoiled(x, mask, fill), mask=mask)
    for gradient, wanted in zip(found, want, strict=True):
        np.testing.assert_array_equal(gradient, wanted)
    assert np.isfinite(of_x).all()
    assert not spoiled(of_x, ~mask, 0).any()


@pytest.mark.parametrize("jit_compile", [False, True] if BACKEND != "torch" else [False])
def test_one_fit_step_on_nan_leaves_the_weights_finite(jit_compile):
    """In Keras every weight is NaN after one step."""
    x = batch()
    x[0, 1] = np.nan
    x[1, 2:] = np.nan
    layers = [keras.Input(x.shape[1:]), MaskNaN(), ConvLSTM1D(F, 3, **SEQUENCES), keras.layers.Dense(1)]
    model = keras.Sequential(layers)
    model.compile("sgd", "mse", jit_compile=jit_compile)
    before = model.get_weights()
    model.fit(x, np.zeros((*x.shape[:3], 1), "float32"), verbose=0)
    assert all(np.isfinite(weight).all() for weight in model.get_weights())
    assert any((weight != was).any() for weight, was in zip(model.get_weights(), before, strict=True))


def test_a_masked_site_does_not_reach_its_neighbours():
    """Keras knows steps only: what stands at a masked site enters the convolution of the sites beside it."""
    x = batch()
    mask = np.ones(x.shape[:-1], bool)
    mask[:, :, 2] = False
    layer = made(x)
    first, second = (numpy(layer(spoiled(x, mask, fill), mask=mask)) for fill in (0, 1e30))
    np.testing.assert_array_equal(first, second)


def test_an_element_mask_is_of_the_input_also_where_there_are_as_many_filters():
    """Keras selects outputs by it, channel by channel, where the sizes happen to fit."""
    x = np.concatenate([batch()] * 2, -1)[..., :F]
    mask = masks_of(x)["element"]
    layer = made(x)
    want = numpy(layer(spoiled(x, mask, 0), mask=mask.any(-1)))
    np.testing.assert_array_equal(numpy(layer(spoiled(x, mask), mask=mask)), want)


@pytest.mark.parametrize(
    "shape", [(N, T + 1), (N, T - 1), (N + 1, T), (N, 1), (T, N), (N, T, 4), (N, T, 5, C + 1), (N,)]
)
def test_a_mask_of_other_sizes_is_refused(shape):
    """Keras on torch takes a mask longer than T and reads its beginning."""
    x = batch()
    with pytest.raises(ValueError, match="matched exactly and never broadcast"):
        made(x)(x, mask=np.ones(shape, bool))


@pytest.mark.parametrize("kind", [ConvLSTM1D, ConvGRU1D])
@pytest.mark.parametrize("zero", [False, True])
def test_the_last_output_of_a_padded_row_is_its_last_valid_one(zero, kind):
    """With zero_output_for_mask Keras returns 0 there."""
    x = batch()
    mask = np.ones((N, T), bool)
    mask[0, 2:], mask[1, 1:] = False, False
    layer = made(x, kind, return_sequences=False, zero_output_for_mask=zero)
    y = numpy(layer(spoiled(x, mask), mask=mask))
    for row, length in enumerate(mask.sum(1)):
        np.testing.assert_allclose(y[row], numpy(layer(x[row : row + 1, :length]))[0], atol=1e-6)


@pytest.mark.parametrize("zero", [False, True])
def test_a_masked_first_step_gives_the_initial_state(zero):
    """In Keras it is zeros on one backend and what was computed from the masked values on another."""
    x = batch()
    mask = np.ones((N, T), bool)
    mask[:, 0] = False
    state = [np.random.default_rng(seed).normal(size=(N, 5, F)).astype("float32") for seed in (2, 3)]
    layer = made(x, zero_output_for_mask=zero)
    y = numpy(layer(spoiled(x, mask), initial_state=state, mask=mask))
    np.testing.assert_array_equal(y[:, 0], np.zeros_like(state[0]) if zero else state[0])
    np.testing.assert_allclose(y[:, 1:], numpy(layer(x[:, 1:], initial_state=state)), atol=1e-6)


@pytest.mark.parametrize("rank", ["step", "site", "element"])
def test_the_mask_behind_go_backwards_is_reversed(rank):
    """Keras reverses the output and hands on the mask as it was."""
    x = batch()
    mask = masks_of(x)[rank]
    layer = made(x, go_backwards=True, zero_output_for_mask=True)
    y = layer(spoiled(x, mask), mask=mask)
    kept = mask.any(-1) if rank == "element" else mask
    np.testing.assert_array_equal(numpy(y._keras_mask), kept[:, ::-1])
    silent = (numpy(y) == 0).all(-1)
    np.testing.assert_array_equal(silent if kept.ndim == 3 else silent.all(-1), ~kept[:, ::-1])


def test_unrolled_backwards_and_masked_is_the_same_as_in_a_loop():
    """Keras on torch raises."""
    x = batch()
    mask = masks_of(x)["step"]
    loop, unrolled = (made(x, go_backwards=True, unroll=unroll) for unroll in (False, True))
    np.testing.assert_array_equal(numpy(unrolled(x, mask=mask)), numpy(loop(x, mask=mask)))


@pytest.mark.parametrize("kind", ["step", "site"])
def test_batch_normalisation_trains_behind_a_masked_layer(kind):
    """Keras's own raises: it wants a mask of one axis less than its input, and gets that of the steps."""
    x = batch()
    mask = masks_of(x)[kind]
    y = made(x)(spoiled(x, mask), mask=mask)
    theirs, ours = keras.layers.BatchNormalization(), BatchNormalization()
    if kind == "step":
        with pytest.raises(ValueError, match="one dimension less"):
            theirs(y, training=True)
    normal = numpy(ours(y, training=True))
    seen = normal[mask]
    axes = tuple(range(seen.ndim - 1))
    np.testing.assert_allclose(seen.mean(axes), 0, atol=1e-4)
    assert (seen.std(axes) < 1.0).all()
    assert (seen.std(axes) > 0.5).all()


def test_batch_normalisation_is_keras_own_without_a_mask():
    x = batch()
    theirs, ours = keras.layers.BatchNormalization(), BatchNormalization()
    for training in (True, False):
        np.testing.assert_array_equal(numpy(ours(x, training=training)), numpy(theirs(x, training=training)))
    np.testing.assert_array_equal(*[np.concatenate(layer.get_weights()) for layer in (ours, theirs)])


def test_masking_nan_masks_nothing_and_mask_nan_does():
    """NaN is not equal to NaN, so keras.layers.Masking(nan) finds every step to differ from it."""
    x = batch()
    x[0, 1] = np.nan
    x[1, 2, 3] = np.nan
    x[2, 0, 0, 0] = np.nan  # one channel of a site: the site is observed
    assert numpy(keras.layers.Masking(np.nan).compute_mask(x)).all()
    y = MaskNaN()(x)
    want = np.ones(x.shape[:3], bool)
    want[0, 1], want[1, 2, 3] = False, False
    np.testing.assert_array_equal(numpy(y._keras_mask), want)
    np.testing.assert_array_equal(numpy(y), np.nan_to_num(x))


def test_mask_nan_is_a_mask_of_elements():
    x = batch()
    mask = masks_of(x)["element"]
    layer = made(x)
    want = numpy(layer(spoiled(x, mask), mask=mask))
    np.testing.assert_array_equal(numpy(layer(MaskNaN()(spoiled(x, mask)))), want)


def test_mask_nan_keeps_an_earlier_mask():
    x = batch()
    x[:, -1] = 0
    x[0, 0] = np.nan
    y = MaskNaN()(keras.layers.Masking()(x))
    want = np.ones(x.shape[:3], bool)
    want[:, -1], want[0, 0] = False, False
    np.testing.assert_array_equal(numpy(y._keras_mask), want)


def test_a_frame_is_masked_where_masking_found_zeros():
    """Masking on an input of frames gives a mask of sites, which Keras's ConvLSTM cannot read."""
    x = batch(2)
    x[:, 1:3, :2] = 0
    layer = made(x, ConvLSTM2D)
    mask = (x != 0).any(-1)
    np.testing.assert_array_equal(numpy(layer(keras.layers.Masking()(x))), numpy(layer(x, mask=mask)))
