"""Observed everywhere, a piece is torch.nn's own; in low precision too. Norms are torch.nn's of the observed values."""

import copy

import pytest

pytest.importorskip("torch", reason="these are tests of gapcell.torch.nn")

import torch
from torch import nn

from gapcell.torch import nn as gnn
from torch_nn.laws import assert_close, cotangent
from torch_nn.pieces import SITES, C

CONVOLUTIONS = [
    ("Conv", {"kernel_size": 3, "padding": 1}),
    ("Conv", {"kernel_size": 3, "padding": "same", "dilation": 2, "groups": 2}),
    ("Conv", {"kernel_size": 2, "stride": 2, "bias": False}),
    ("ConvTranspose", {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1}),
    ("ConvTranspose", {"kernel_size": 2, "groups": 2, "dilation": 2}),
]
NORMS = [
    ("BatchNorm", {}),
    ("BatchNorm", {"momentum": None, "affine": False}),
    ("BatchNorm", {"track_running_stats": False}),
    ("InstanceNorm", {}),
    ("InstanceNorm", {"affine": True, "track_running_stats": True}),
]


def compare(masked, plain, x, training):
    """Outputs, gradients and buffers, of sequences that torch.nn sees as frames; twice, so that statistics move on."""
    plain.load_state_dict(masked.state_dict())
    masked, plain, x = masked.double().train(training), plain.double().train(training), x.double()
    for mask in (None, torch.ones(x.shape[:2]), torch.ones(x.shape)):
        inputs = [x.clone().requires_grad_() for _ in "ab"]
        got, got_mask = masked(inputs[0], mask)
        want = plain(inputs[1].flatten(0, 1)).unflatten(0, x.shape[:2])
        assert (got_mask is None) == (mask is None)
        assert_close(got.detach(), want.detach(), "outputs")
        for y in (got, want):
            y.backward(cotangent(y))
        assert_close(inputs[0].grad, inputs[1].grad, "input gradient", 10)
        for (name, one), other in zip(masked.named_parameters(), plain.parameters(), strict=True):
            assert_close(one.grad, other.grad, name, 10)
        for (name, one), other in zip(masked.named_buffers(), plain.buffers(), strict=True):
            assert one.dtype == other.dtype
            if one.ndim or "Instance" not in type(masked).__name__:
                assert_close(one.double(), other.double(), name)  # nn.InstanceNorm does not count its batches


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(("kind", "options"), CONVOLUTIONS)
@pytest.mark.parametrize("renormalize", [False, True])
def test_convolutions(kind, options, rank, renormalize):
    masked = getattr(gnn, f"Masked{kind}{rank}d")(C, 6, **options, renormalize=renormalize)
    compare(masked, getattr(nn, f"{kind}{rank}d")(C, 6, **options), torch.randn(2, 3, C, *SITES[rank]), True)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(("kind", "options"), NORMS)
@pytest.mark.parametrize("training", [True, False])
def test_norms(kind, options, rank, training):
    masked = getattr(gnn, f"Masked{kind}{rank}d")(C, **options)
    compare(masked, getattr(nn, f"{kind}{rank}d")(C, **options), torch.randn(2, 3, C, *SITES[rank]) + 3, training)


def test_group_and_layer_norm():
    x = torch.randn(2, 3, C, *SITES[2]) + 3
    compare(gnn.MaskedGroupNorm(2, C), nn.GroupNorm(2, C), x, True)
    shape = (C, *SITES[2])
    compare(gnn.MaskedLayerNorm(shape), nn.LayerNorm(shape), x, True)
    compare(gnn.MaskedLayerNorm(shape, bias=False), nn.LayerNorm(shape, bias=False), x, True)
    compare(gnn.MaskedLayerNorm(SITES[2][-1], channels_last=True), nn.LayerNorm(SITES[2][-1]), x, True)


def test_upsampling():
    x = torch.randn(2, 3, C, *SITES[2])
    compare(gnn.MaskedUpsample(scale_factor=(2, 3)), nn.Upsample(scale_factor=(2, 3)), x, True)
    compare(gnn.MaskedUpsample(size=(4, 6)), nn.Upsample(size=(4, 6)), x, True)


# Norms of what is observed --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("momentum", [0.1, None])
def test_batch_norm_is_that_of_the_observed_values(momentum):
    """One channel's observed values, put into a batch of their own, with the same output and running statistics."""
    masked = gnn.MaskedBatchNorm1d(C, momentum=momentum)
    plain = [nn.BatchNorm1d(1, momentum=momentum) for _ in range(C)]
    for _ in range(3):
        x = torch.randn(3, 4, C, 7) * 2 + 5
        mask = torch.rand(x.shape) < 0.4
        y, _ = masked(x.masked_fill(~mask, torch.nan), mask)
        for c in range(C):
            seen = mask[:, :, c]
            assert_close(y[:, :, c][seen].detach(), plain[c](x[:, :, c][seen][:, None])[:, 0].detach(), f"channel {c}")
    for c in range(C):
        assert_close(masked.running_mean[c], plain[c].running_mean[0], "running mean")
        assert_close(masked.running_var[c], plain[c].running_var[0], "running variance")


def test_group_norm_is_that_of_the_observed_sites():
    masked, plain = gnn.MaskedGroupNorm(2, C), nn.GroupNorm(2, C)
    x, mask = torch.randn(2, 3, C, 7) + 5, torch.rand(2, 3, 7) < 0.6
    y, _ = masked(x, mask)
    for n in range(2):
        for t in range(3):
            seen = mask[n, t]
            if seen.any():
                assert_close(y[n, t][:, seen].detach(), plain(x[n, t][None, :, seen])[0].detach(), "a step's sites")


def test_running_statistics_wait_for_enough_entries():
    """One entry has a mean and no variance; none has neither, and an average over batches does not count it."""
    norm = gnn.MaskedBatchNorm1d(2, momentum=None)
    x, mask = torch.full((1, 1, 2, 3), 5.0), torch.zeros(1, 1, 2, 3)
    norm(x, mask)
    assert norm.num_batches_tracked == 0
    mask[0, 0, 0, 1] = 1
    y, _ = norm(x, mask)
    assert norm.num_batches_tracked == 1
    assert norm.running_mean.tolist() == [5, 0]
    assert norm.running_var.tolist() == [1, 1]
    assert not y.any()


def test_the_mean_of_large_values_leaves_the_variance_exact():
    """Two passes: the difference of squares would lose all digits."""
    x = torch.randn(4, 5, 2, 7) + 1e4
    y, _ = gnn.MaskedGroupNorm(1, 2)(x, torch.rand(4, 5, 7) < 0.7)
    centred = x.double() - 1e4
    want, _ = gnn.MaskedGroupNorm(1, 2).double()(centred, torch.ones(4, 5))
    got, _ = gnn.MaskedGroupNorm(1, 2)(x, torch.ones(4, 5))
    assert (got - want).abs().max() < 5e-3
    assert y.isfinite().all()


# Low precision --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "make",
    [
        lambda: gnn.MaskedConv1d(C, 6, 3, padding=1, mask_rule="any", renormalize=True),
        lambda: gnn.MaskedConvTranspose1d(C, 6, 4, 2, 1, renormalize=True),
        lambda: gnn.MaskedBatchNorm1d(C),
        lambda: gnn.MaskedGroupNorm(2, C),
        lambda: gnn.MaskedMeanPool("both"),
        lambda: gnn.MaskedSumPool("sites"),
        lambda: gnn.AttentionPool(C),
    ],
)
def test_low_precision_is_close_to_single(make, dtype):
    """At most twice as far from it as rounding the single-precision result is, and one more step of rounding."""
    module = make()
    low = copy.deepcopy(module).to(dtype)
    x, mask = torch.randn(3, 4, C, 7).to(dtype), torch.rand(3, 4, C, 7) < 0.4
    mask[0] = False
    got, got_mask = low(x.masked_fill(~mask, torch.nan), mask)
    assert got.dtype == dtype
    single = copy.deepcopy(low).float()
    want, want_mask = single(x.float(), mask)
    assert torch.equal(got_mask, want_mask)
    limit = 4 * torch.finfo(dtype).eps * want.abs().max()
    assert (got.float() - want).abs().max() <= limit


def test_sums_over_many_half_precision_values_do_not_overflow():
    x = torch.full((1, 300, 1, 300), 10.0, dtype=torch.float16)
    mean, _ = gnn.MaskedMeanPool("both")(x, torch.ones(1, 300))
    assert mean.item() == 10
    norm = gnn.MaskedBatchNorm1d(1, dtype=torch.float16)
    y, _ = norm(x, torch.ones(1, 300))
    assert y.isfinite().all()
    assert gnn.MaskedMSELoss()(x, torch.zeros_like(x), torch.ones(1, 300)) == 100


def test_an_empty_window_in_half_precision_is_zero_and_not_observed():
    """1e-8 added to a count is 0 in half precision: the ratio would be infinite, and inf * 0 is NaN."""
    conv = gnn.MaskedConv1d(1, 2, 3, padding=1, mask_rule="any", renormalize=True, dtype=torch.float16)
    x = torch.full((1, 1, 1, 9), torch.nan, dtype=torch.float16)
    mask = torch.zeros(1, 1, 9)
    x[..., 0], mask[..., 0] = 1, 1
    y, moved = conv(x, mask)
    assert moved[0, 0].tolist() == [True, True, *[False] * 7]
    assert y.isfinite().all()
    assert not y[..., 2:].any()
    assert y[..., :2].all()
    y.sum().backward()
    assert conv.weight.grad.isfinite().all()


def test_a_window_whose_centre_only_is_observed_gives_the_bias():
    """Two taps, two apart: the site between them decides, and neither reads it."""
    conv = gnn.MaskedConv1d(1, 1, 2, dilation=2, mask_rule="centre", renormalize=True, dtype=torch.float16)
    x, mask = torch.ones(1, 1, 1, 3, dtype=torch.float16), torch.tensor([[[0, 1, 0]]])
    y, moved = conv(x, mask)
    assert moved.tolist() == [[[True]]]
    assert y.item() == conv.bias.item()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast(dtype):
    """Counts stay whole numbers: a kernel of 300 taps has no such number of them in bfloat16."""
    conv = gnn.MaskedConv1d(1, 1, 301, padding=150, renormalize=True)
    nn.init.constant_(conv.weight, 1 / 300)
    mask = torch.ones(1, 1, 400)
    mask[..., 200] = 0
    x = torch.ones(1, 1, 1, 400)
    with torch.autocast("cpu", dtype):
        got, _ = conv(x, mask)
    want, _ = conv(x, mask)
    assert got.dtype == dtype
    # Only the sum and the result are rounded; weights and counts of powers of two would not even be.
    rounded = conv.weight.detach().to(dtype).float()[0, 0, 0] * 300
    seen = mask[0, 0] == 1
    assert not got[..., ~seen].any()
    assert ((got.float() / want)[..., seen] / rounded - 1).abs().max() <= 1.5 * torch.finfo(dtype).eps
    model = gnn.MaskedSequential(conv, gnn.MaskedBatchNorm1d(1), nn.ReLU(), gnn.MaskedMeanPool())
    with torch.autocast("cpu", dtype):
        y, _ = model(x, mask)
    y.sum().backward()
    assert conv.weight.grad.isfinite().all()
