"""The mistakes that masked pieces are made with, each caught by a law: the tests can fail."""

import pytest

pytest.importorskip("torch", reason="the mutants are written in torch")

import torch

from gapcell import masks
from gapcell.torch import nn as gnn
from gapcell.torch.nn import convolution, losses, module, moments, normalization, pooling, sequential, time_distributed
from torch_nn import laws, test_agreement, test_equations, test_losses, test_sequential
from torch_nn.pieces import PIECES, make_batch


def obeys(law, name, kind="elements", training=True):
    return lambda: law(PIECES[name].make(1).train(training), PIECES[name], make_batch(1, kind))


def equation_19():
    for rule in ("centre", "any"):
        test_equations.test_convolution_is_equation_19(3, 1, 1, 1, rule)


def product_for_select(patch):
    patch.setattr(module.Seen, "select", lambda seen: seen.x if seen.mask is None else seen.x * seen.observed)


def select_after_the_sum(patch):
    patch.setattr(module.Seen, "select", lambda seen: seen.x)


def bias_inside_the_ratio(patch):
    plain = convolution._Convolution._convolve

    def convolve(self, x, ratio):
        y = plain(self, x, None)
        return y if ratio is None else (y * ratio).to(y.dtype)

    patch.setattr(convolution._Convolution, "_convolve", convolve)


def epsilon_in_half_precision(patch):
    plain = convolution._Convolution._ratio

    def ratio(self, seen, domain, frames):
        found = self._count_taps(frames.pack(seen.mask.unsqueeze(2)).float()).half()
        return None if plain(self, seen, domain, frames) is None else 2 / (found + 1e-8)

    patch.setattr(convolution._Convolution, "_ratio", ratio)


def counts_under_autocast(patch):
    patch.setattr(torch, "autocast", lambda *_, enabled=True: torch.inference_mode(False))


def taps_counted_outside_the_domain(patch):
    plain = convolution._Convolution._ratio
    patch.setattr(convolution._Convolution, "_ratio", lambda self, seen, _, frames: plain(self, seen, None, frames))


def channels_of_all_groups_counted(patch):
    plain = convolution._Convolution._ratio

    def ratio(self, seen, domain, frames):
        if seen.mask is not None and seen.mask.ndim == seen.x.ndim:
            share = seen.mask.any(2, keepdim=True).expand_as(seen.mask)
            seen = seen._replace(mask=share)
        return plain(self, seen, domain, frames)

    patch.setattr(convolution._Convolution, "_ratio", ratio)


def skipped_by_the_input(patch):
    """The frames left out are those that read nothing, in order, but put back in another."""
    plain = convolution.Frames.unpack
    patch.setattr(convolution.Frames, "unpack", lambda self, y: plain(self, y).roll(1, 1))


def padding_counted_by_a_norm(patch):
    plain = moments._count
    patch.setattr(moments, "_count", lambda x, observed, axes: plain(x, None, axes))


def variance_of_one_entry(patch):
    plain = normalization._RunningNorm._track
    patch.setattr(
        normalization._RunningNorm,
        "_track",
        lambda self, mean, variance, known, _: plain(self, mean, variance, known, known),
    )


def norm_leaves_its_bias(patch):
    """What the norm adds stands in masked places, too."""
    patch.setattr(module.Seen, "observed", property(lambda seen: None))


def mean_over_all_steps(patch):
    plain = pooling.MaskedSumPool._pool
    patch.setattr(pooling.MaskedMeanPool, "_pool", lambda self, seen, axes: plain(self, seen, axes) / seen.x.shape[1])


def largest_with_zeros(patch):
    patch.setattr(pooling.MaskedMaxPool, "_pool", lambda self, seen, axes: seen.select().amax(axes, keepdim=True))


def last_of_the_array(patch):
    patch.setattr(pooling.LastObserved, "_pool", lambda self, seen, axes: seen.select()[:, -1:])


def attention_over_all(patch):
    plain = pooling._softmax
    patch.setattr(
        pooling, "_softmax", lambda scores, axes, finite=None: plain(scores if finite is None else finite, axes)
    )


def loss_over_all_elements(patch):
    plain = losses._count
    patch.setattr(losses, "_count", lambda observed, like, axes: plain(None, like, axes))


def loss_masked_by_a_product(patch):
    patch.setattr(losses, "select", lambda observed, x, fill=0.0: x if observed is None else x * observed)


def forgotten_by_the_sequential(patch):
    plain = sequential.MaskedSequential._plain
    patch.setattr(
        sequential.MaskedSequential, "_plain", lambda self, place, each, flow: (plain(self, place, each, flow)[0], None)
    )


def zeros_not_put_back(patch):
    patch.setattr(sequential, "spread", lambda mask, *_: mask.new_ones(()))


def recurrence_hands_on_its_input_mask(patch):
    patch.setattr(sequential, "_stepped", lambda layer, x, mask, lengths, domain: mask)


def all_steps_computed(patch):
    """A module inside sees frames of zeros where nothing is observed."""
    patch.setattr(time_distributed.Frames, "where", lambda _, x: time_distributed.Frames(*x.shape[:2], None))


def mask_left_at_the_input_sites(patch):
    patch.setattr(masks, "through_conv", lambda mask, *_, stride, **__: mask[..., : mask.shape[-1] // stride[0] + 1])


UNDER, PADDING, DEAD = (
    laws.values_under_the_mask_change_nothing,
    laws.padding_in_time_is_absence,
    laws.dead_sites_are_a_narrower_input,
)
MUTANTS = [
    (product_for_select, obeys(UNDER, "conv")),
    (product_for_select, obeys(UNDER, "batch norm")),
    (select_after_the_sum, obeys(UNDER, "mean over time")),
    (bias_inside_the_ratio, equation_19),
    (epsilon_in_half_precision, test_agreement.test_a_window_whose_centre_only_is_observed_gives_the_bias),
    (counts_under_autocast, lambda: test_agreement.test_autocast(torch.bfloat16)),
    (taps_counted_outside_the_domain, obeys(DEAD, "partial conv", "sites")),
    (channels_of_all_groups_counted, equation_19),
    (skipped_by_the_input, obeys(PADDING, "conv")),
    (padding_counted_by_a_norm, obeys(PADDING, "batch norm")),
    (padding_counted_by_a_norm, obeys(DEAD, "group norm")),
    (variance_of_one_entry, test_agreement.test_running_statistics_wait_for_enough_entries),
    (norm_leaves_its_bias, obeys(UNDER, "instance norm")),
    (mean_over_all_steps, obeys(PADDING, "mean over time")),
    (largest_with_zeros, lambda: test_equations.test_pooling_is_equation_22("elements", "max")),
    (last_of_the_array, obeys(PADDING, "last observed")),
    (attention_over_all, obeys(PADDING, "attention over time")),
    (loss_over_all_elements, lambda: test_losses.test_padding_and_masked_rows_change_nothing("mse", "elements")),
    (loss_masked_by_a_product, lambda: test_losses.test_what_is_under_the_mask_has_no_say("mse", "sites", "elements")),
    (forgotten_by_the_sequential, obeys(PADDING, "classifier")),
    (zeros_not_put_back, test_sequential.test_it_is_the_chain_of_its_modules),
    (recurrence_hands_on_its_input_mask, test_sequential.test_under_predict_without_lengths_everything_exists),
    (mask_left_at_the_input_sites, lambda: test_equations.test_the_mask_after_each_layer_of_the_autoencoder(1)),
]


def run(check):
    torch.manual_seed(0)
    check()


@pytest.mark.parametrize(("mutant", "check"), MUTANTS, ids=[mutant.__name__ for mutant, _ in MUTANTS])
def test_a_law_catches(mutant, check, monkeypatch):
    run(check)
    with monkeypatch.context() as patch:
        mutant(patch)
        with pytest.raises(AssertionError):
            run(check)


def test_a_batch_norm_inside_sees_observed_steps_only(monkeypatch):
    norm = torch.nn.BatchNorm1d(4)
    batch = make_batch(1, "steps")
    gnn.TimeDistributed(norm)(batch.x, batch.mask)
    want = norm.running_mean.clone()
    assert want.any()
    norm.reset_running_stats()
    norm(batch.x[batch.mask])
    laws.assert_close(norm.running_mean, want, "running mean")
    all_steps_computed(monkeypatch)
    norm.reset_running_stats()
    gnn.TimeDistributed(norm)(batch.x, batch.mask)
    with pytest.raises(AssertionError):
        laws.assert_close(norm.running_mean, want, "running mean")
