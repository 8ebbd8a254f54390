"""What the layers and losses of Keras 3.15 around a recurrence do under a mask, and these must not.

Each test states one defect; what Keras does instead is asserted beside it.
"""

import keras
import numpy as np
import pytest

import gapcell.keras as gk
from keras_layers.pieces import handed_on
from keras_layers.running import BACKEND, gradients, numpy

X = np.random.default_rng(0).normal(size=(2, 4, 3)).astype("float32")
MASK = np.arange(4) < np.array([3, 0])[:, None]
PADDED = np.where(MASK[..., None], X, np.float32(9))
DROPPED = "does not support masking and will therefore destroy the mask"


def masked(x, mask=MASK):
    return gk.selection.carry(keras.ops.convert_to_tensor(x), keras.ops.convert_to_tensor(mask))


@pytest.mark.filterwarnings(f"ignore:.*{DROPPED}:UserWarning")
def test_max_pooling_reads_the_padding():
    assert numpy(keras.layers.GlobalMaxPooling1D()(masked(PADDED)))[0].max() == 9
    np.testing.assert_array_equal(numpy(gk.GlobalMaxPooling1D()(masked(PADDED)))[0], X[0, :3].max(0))


def test_the_mean_of_nothing_is_nan():
    assert np.isnan(numpy(keras.layers.GlobalAveragePooling1D()(masked(PADDED)))[1]).all()
    y = gk.GlobalAveragePooling1D()(masked(PADDED))
    assert not numpy(y)[1].any()
    np.testing.assert_array_equal(handed_on(y), [True, False])


@pytest.mark.parametrize("name", ["Flatten", "Conv1D", "UpSampling1D", "RepeatVector"])
def test_the_mask_is_dropped(name):
    arguments = {"Flatten": (), "Conv1D": (2, 3), "UpSampling1D": (2,), "RepeatVector": (2,)}[name]
    x = masked(PADDED[:, 0], MASK[:, 0]) if name == "RepeatVector" else masked(PADDED)
    with pytest.warns(UserWarning, match=DROPPED):
        assert handed_on(getattr(keras.layers, name)(*arguments)(x)) is None
    assert handed_on(getattr(gk, name)(*arguments)(x)) is not None


def test_time_distributed_hands_nan_on():
    """A masked step that holds NaN: every gradient of the layer is NaN."""
    x = np.where(MASK[..., None], X, np.float32(np.nan))
    for module, finite in ((keras.layers, False), (gk, True)):
        layer = module.TimeDistributed(keras.layers.Dense(2))
        layer.build(x.shape)
        found, _ = gradients(layer, x, mask=MASK)
        assert np.isfinite(found[0]).all() == finite


def test_normalisation_over_sites_counts_the_padding():
    near = np.where(MASK[..., None], X, np.float32(0))
    theirs, ours = (
        numpy(module.LayerNormalization([1, 2], center=False, scale=False)(masked(near)))[0, :3]
        for module in (keras.layers, gk)
    )
    assert abs(theirs.std() - 1) > 0.05
    assert abs(ours.std() - 1) < 0.01


@pytest.mark.skipif(BACKEND != "torch", reason="Keras calls torch's own there, which normalises the last axes")
def test_normalisation_over_sites_before_the_channels_raises_on_torch():
    with pytest.raises(RuntimeError):
        keras.layers.LayerNormalization([0, 1])(X)
    assert numpy(gk.LayerNormalization([0, 1])(X)).shape == X.shape


def test_a_missing_target_under_the_mask_makes_the_loss_nan():
    target = np.where(MASK[..., None], X, np.float32(np.nan))
    prediction = masked(np.zeros_like(X))
    assert np.isnan(numpy(keras.losses.MeanSquaredError()(target, prediction)))
    assert numpy(gk.losses.MeanSquaredError()(target, prediction)) == pytest.approx((X[0, :3] ** 2).mean(), rel=1e-5)


def test_a_missing_target_without_weight_makes_the_loss_nan():
    target, weight = X.copy(), np.ones((2, 4), "float32")
    target[0, 1], weight[0, 1] = np.nan, 0
    assert np.isnan(numpy(keras.losses.MeanSquaredError()(target, X * 0, weight)))
    assert np.isfinite(numpy(gk.losses.MeanSquaredError()(target, X * 0, weight)))


def test_weights_of_samples_beside_an_output_with_steps():
    """Keras takes them for weights of the steps, where their number fits, or raises."""
    x = X[:, :2]
    weight = np.array([1, 0], "float32")
    want = (x[0] ** 2).sum() / x.size
    theirs = numpy(keras.losses.MeanSquaredError()(x, x * 0, weight))
    assert abs(theirs - want) > 0.05
    assert numpy(gk.losses.MeanSquaredError()(x, x * 0, weight)) == pytest.approx(want, rel=1e-5)


def test_huber_forgets_its_delta_when_saved():
    for module, kept in ((keras.losses, False), (gk.losses, True)):
        config = keras.losses.serialize(module.Huber(delta=0.3))["config"]
        assert (config.get("delta") == 0.3) == kept
