"""The pieces against loops, and the mask after each layer of the models against the receptive-field rule in loops."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="these are tests of gapcell.torch.nn")

import torch

from gapcell.torch import nn as gnn
from torch_nn import by_loops
from torch_nn.pieces import PIECES, make_batch, over

GEOMETRIES = [  # kernel, stride, padding, dilation
    (3, 1, 1, 1),
    (2, 1, 0, 1),
    (3, 2, 1, 1),
    (4, 2, 1, 1),
    (3, 1, 2, 2),
    (2, 3, 0, 3),
]


def example(rank, kind, with_domain, N=2, T=2, C=4):
    sites = {1: (7,), 2: (4, 5)}[rank]
    x = torch.randn(N, T, C, *sites, dtype=torch.float64)
    shape = {"steps": (N, T), "sites": (N, T, *sites), "elements": x.shape}[kind]
    mask = torch.rand(shape) < 0.5
    domain = torch.rand(N, *sites) < 0.7 if with_domain else None
    return x.masked_fill(~over(x, mask), torch.nan), mask, domain


def check(module, axes, weight, rule, x, mask, domain):
    got, got_mask = module(x, mask, domain=domain)
    inside = np.ones((len(x), *x.shape[3:]), dtype=bool) if domain is None else domain.numpy()
    want, want_mask = by_loops.convolved(
        x.numpy(),
        over(x, mask).numpy(),
        weight,
        module.bias.detach().numpy(),
        axes,
        groups=module.groups,
        rule=rule,
        renormalize=module.renormalize,
        domain=inside,
    )
    if got_mask.ndim == 2:
        got_mask = got_mask[(..., *(None,) * (x.ndim - 3))].expand(want_mask.shape)
        # A mask of steps says so of every output site, and where the window is empty the bias alone stands.
    np.testing.assert_array_equal(got_mask.numpy(), want_mask)
    np.testing.assert_allclose(got.detach().numpy(), want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("kernel", "stride", "padding", "dilation"), GEOMETRIES)
@pytest.mark.parametrize("rule", ["centre", "all", "any"])
def test_convolution_is_equation_19(kernel, stride, padding, dilation, rule):
    for rank, kind, renormalize, with_domain in [
        (1, "sites", False, False),
        (1, "sites", True, True),
        (1, "elements", True, False),
        (1, "elements", True, True),
        (1, "steps", True, False),
        (2, "elements", True, False),
    ]:
        module = getattr(gnn, f"MaskedConv{rank}d")(
            4,
            4,
            kernel,
            stride,
            padding,
            dilation,
            groups=2,
            mask_rule=rule,
            renormalize=renormalize,
            dtype=torch.float64,
        )
        x, mask, domain = example(rank, kind, with_domain)
        if rank == 2 and (kernel - 1) * dilation + 1 > 4 + 2 * padding:
            continue
        axes = [by_loops.of_convolution(size, kernel, stride, padding, dilation) for size in x.shape[3:]]
        weights = module.weight.detach().numpy()
        check(module, axes, lambda f, c, taps, w=weights: w[(f, c % 2, *taps)], rule, x, mask, domain)


@pytest.mark.parametrize(("kernel", "stride", "padding", "dilation"), GEOMETRIES)
@pytest.mark.parametrize("rule", ["centre", "all", "any"])
def test_transposed_convolution_is_equation_20(kernel, stride, padding, dilation, rule):
    for rank, kind, renormalize, with_domain, output_padding in [
        (1, "sites", False, False, 0),
        (1, "sites", True, True, min(1, stride - 1)),
        (1, "elements", True, False, 0),
        (2, "elements", True, False, min(1, stride - 1)),
    ]:
        module = getattr(gnn, f"MaskedConvTranspose{rank}d")(
            4,
            4,
            kernel,
            stride,
            padding,
            output_padding,
            groups=2,
            dilation=dilation,
            mask_rule=rule,
            renormalize=renormalize,
            dtype=torch.float64,
        )
        x, mask, domain = example(rank, kind, with_domain)
        axes = [by_loops.of_transposed(size, kernel, stride, padding, dilation, output_padding) for size in x.shape[3:]]
        weights = module.weight.detach().numpy()
        check(module, axes, lambda f, c, taps, w=weights: w[(c, f % 2, *taps)], rule, x, mask, domain)


@pytest.mark.parametrize("kind", ["steps", "sites", "elements"])
@pytest.mark.parametrize("how", ["mean", "max", "sum", "last"])
def test_pooling_is_equation_22(kind, how):
    batch = make_batch(1, kind, dtype=torch.float64).filled(torch.nan)
    e = batch.observed
    classes = {"mean": gnn.MaskedMeanPool, "max": gnn.MaskedMaxPool, "sum": gnn.MaskedSumPool}
    axes = {"time": (1,), "sites": (3,), "both": (1, 3)}
    for over_axes, pool in (
        [("time", gnn.LastObserved())] if how == "last" else [(where, classes[how](where)) for where in axes]
    ):
        got, got_mask = pool(batch.x, batch.mask)
        order = (0, *axes[over_axes], *(axis for axis in (1, 2, 3) if axis not in axes[over_axes]))
        x, seen = (values.permute(order).flatten(1, len(axes[over_axes])).numpy() for values in (batch.x, e))
        want, want_mask = by_loops.pooled(x, seen, how)
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-12)
        while got_mask.ndim < want_mask.ndim:  # what it says of a step, or a site, holds for every channel and site
            axis = 1 if got_mask.shape[1:] == want_mask.shape[2:] else got_mask.ndim
            got_mask = got_mask.unsqueeze(axis)
        np.testing.assert_array_equal(got_mask.expand(want_mask.shape).numpy(), want_mask)


def masks_on_the_way(model, batch):
    """The mask after each leaf of a MaskedSequential."""
    found = []
    leaves = [
        each
        for each in model.modules()
        if isinstance(each, gnn.MaskedModule) and not isinstance(each, gnn.MaskedSequential)
    ]
    hooks = [each.register_forward_hook(lambda _, __, result: found.append(result[1].numpy())) for each in leaves]
    with torch.no_grad():
        _, mask = model(batch.x, batch.mask)
    for hook in hooks:
        hook.remove()
    return found, mask.numpy()


@pytest.mark.parametrize("rank", [1, 2])
def test_the_mask_after_each_layer_of_the_classifier(rank):
    batch = make_batch(rank, "elements")
    found, last = masks_on_the_way(PIECES["classifier"].make(rank), batch)
    axes = [by_loops.of_convolution(size, 3, 1, 1, 1) for size in batch.x.shape[3:]]
    after_conv = by_loops.moved(batch.mask.any(2).numpy(), axes, "centre")
    over_time = after_conv.any(axis=1)
    over_sites = over_time.reshape(len(over_time), -1).any(axis=1)
    for got, want in zip([*found, last], [after_conv, after_conv, over_time, over_sites, over_sites], strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("rank", [1, 2])
def test_the_mask_after_each_layer_of_the_autoencoder(rank):
    batch = make_batch(rank, "sites")
    found, last = masks_on_the_way(PIECES["autoencoder"].make(rank), batch)
    down = [by_loops.of_convolution(size, 3, 2, 1, 1) for size in batch.x.shape[3:]]
    up = [by_loops.of_transposed(len(axis.reach), 4, 2, 1, 1, 0) for axis in down]
    strided = by_loops.moved(batch.mask.numpy(), down, "centre")
    state = strided.any(axis=1)
    repeated = np.stack([state] * 4, axis=1)
    decoded = by_loops.moved(repeated, up, "centre")
    for got, want in zip([*found, last], [strided, strided, state, repeated, decoded, decoded], strict=True):
        np.testing.assert_array_equal(got, want)
