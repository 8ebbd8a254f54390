"""The tests of the layers around the recurrence can fail: on the usual mistakes, made in this package."""

import keras
import pytest
from keras import ops

from gapcell import masks
from gapcell.keras import normalization, pooling, selection
from gapcell.keras.observed_loss import ObservedLoss
from keras_layers import test_losses, test_pieces, test_steps, test_whole_models
from keras_layers.running import BACKEND

pytestmark = pytest.mark.skipif(BACKEND != "torch", reason="it is the tests that are tested, on the quickest backend")


def as_product(mask, x):
    """The usual advice, x * mask."""
    return x * ops.cast(mask, x.dtype)


@pytest.mark.parametrize("name", ["conv", "conv transpose", "batch norm", "layer norm", "mean", "flatten", "attention"])
def test_a_product_in_the_place_of_a_select(monkeypatch, name):
    monkeypatch.setattr(selection, "select", as_product)
    with pytest.raises(AssertionError):
        test_pieces.test_what_stands_under_the_mask_changes_nothing(name)


@pytest.mark.parametrize("name", ["conv", "conv all dilated", "conv by step"])
def test_a_mask_that_grows_like_any(monkeypatch, name):
    through = masks.through_conv
    monkeypatch.setattr(masks, "through_conv", lambda *args, **options: through(*args, **options | {"rule": "any"}))
    with pytest.raises(AssertionError):
        test_pieces.test_the_mask_behind_a_layer_is_that_of_what_it_reads(name)


def test_a_mask_that_is_passed_on_as_it_came(monkeypatch):
    monkeypatch.setattr(masks, "through_conv", lambda mask, *args, **options: mask)
    with pytest.raises((AssertionError, ValueError, RuntimeError)):
        test_pieces.test_the_mask_behind_a_layer_is_that_of_what_it_reads("conv any")


def test_a_mean_over_all_there_is(monkeypatch):
    monkeypatch.setattr(pooling._Average, "_pool", lambda self, x, seen: ops.mean(x, self._axes))
    with pytest.raises(AssertionError):
        test_pieces.test_pools_are_of_what_is_observed("site")


def test_moments_that_count_what_is_masked(monkeypatch):
    own = normalization._normalised
    monkeypatch.setattr(
        normalization, "_normalised", lambda x, seen, *rest: own(x, ops.ones_like(x, dtype="bool"), *rest)
    )
    with pytest.raises(AssertionError):
        test_pieces.test_moments_are_of_what_is_observed("site")


def test_batch_moments_by_places_where_elements_are_masked(monkeypatch):
    def moments(self, x, mask):
        return keras.layers.BatchNormalization._moments(self, x, ops.any(mask.seen, -1))

    monkeypatch.setattr(normalization.BatchNormalization, "_moments", moments)
    with pytest.raises(AssertionError):
        test_pieces.test_moments_are_of_what_is_observed("element")


def test_a_loss_divided_by_all_targets(monkeypatch):
    own = ObservedLoss._reduced

    def reduced(self, values, seen, weight):
        return own(self, values, ops.ones_like(seen), weight)

    monkeypatch.setattr(ObservedLoss, "_reduced", reduced)
    with pytest.raises(AssertionError):
        test_losses.test_the_mean_is_over_what_is_observed("MeanSquaredError", "step")


def test_keras_own_loss_is_caught(monkeypatch):
    monkeypatch.setattr(ObservedLoss, "__call__", keras.losses.Loss.__call__)
    with pytest.raises(AssertionError):
        test_losses.test_the_mean_is_over_what_is_observed("MeanSquaredError", "step")


def test_a_repeated_sequence_that_forgets_which_steps_there_are(monkeypatch):
    monkeypatch.setattr(test_steps.gk.RepeatVector, "_mirrored", lambda *args: None)
    with pytest.raises((AssertionError, AttributeError)):
        test_steps.test_a_sequence_is_repeated_as_another_one()


def test_a_whole_model_with_keras_own_time_distributed_is_caught(monkeypatch):
    """Keras's hands each step its mask and drops what the layer hands on."""
    monkeypatch.setattr(test_whole_models.gk, "TimeDistributed", keras.layers.TimeDistributed)
    with pytest.raises((AssertionError, ValueError)):
        padding_is_invisible()


def padding_is_invisible():
    model, x = test_whole_models.classifier(), test_whole_models.ragged()
    padded = test_whole_models.with_steps(x, 0)
    found, wanted = (test_whole_models.run("classifier", model, each) for each in (padded, x))
    test_whole_models.assert_same("classifier", found, wanted)
