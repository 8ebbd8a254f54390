"""Training as people do it: dropout, optimisers, in-place code, NaN-gapped ragged data, a GPU where there is one."""

import pytest

pytest.importorskip("torch", reason="these are tests of the torch layers")

import torch

from gapcell.torch import ConvGRU1d, ConvLSTM1d, ConvLSTM2d

CELLS = [ConvLSTM1d, ConvGRU1d]
DOUBLE = {"dtype": torch.float64}


def seeded(layer, *arguments, seed=1, **options):
    torch.manual_seed(seed)
    return layer(*arguments, **options)


# Dropout --------------------------------------------------------------------------------------------------------------

DROPOUTS = {
    "input_dropout": ({"input_dropout": 0.5}, "weight_ih_l0"),
    "recurrent_dropout": ({"recurrent_dropout": 0.5}, "weight_hh_l0"),
    "dropout": ({"dropout": 0.5, "num_layers": 2}, "weight_ih_l1"),
}


@pytest.mark.parametrize("where", DROPOUTS)
@pytest.mark.parametrize("kind", CELLS)
def test_one_draw_drops_a_channel_of_a_sequence_at_every_step_and_site(kind, where):
    """So that dropout equals a layer whose weights read these channels not at all, and the others doubled."""
    options, weight = DROPOUTS[where]
    layer = kind(6, 6, 3, **options, **DOUBLE)
    x, mask = torch.randn(1, 7, 6, 4, **DOUBLE), torch.rand(1, 7, 4) < 0.7
    output, _ = seeded(layer, x, mask=mask)
    (gradient,) = torch.autograd.grad(output.sum(), [getattr(layer, weight)])
    kept = gradient.abs().sum((0, 2)) > 0
    assert 0 < kept.sum() < 6
    with torch.no_grad():
        getattr(layer, weight).mul_(2 * kept[:, None])
    torch.testing.assert_close(output, layer.eval()(x, mask=mask)[0], rtol=0, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("kind", CELLS)
def test_an_empty_batch_trains(kind, dtype):
    layer = kind(2, 3, 3, input_dropout=0.5, recurrent_dropout=0.5, dtype=dtype)
    x = torch.randn(0, 4, 2, 5, dtype=dtype, requires_grad=True)
    output, _ = layer(x, mask=torch.ones(0, 4, dtype=torch.bool))
    output.sum().backward()
    assert (output.shape, x.grad.shape) == ((0, 4, 3, 5), x.shape)
    assert all(not parameter.grad.any() for parameter in layer.parameters())


@pytest.mark.parametrize("where", DROPOUTS)
@pytest.mark.parametrize("kind", [*CELLS, ConvLSTM2d])
def test_the_draw_does_not_depend_on_steps_sites_or_mask(kind, where):
    layer = kind(2, 6, 3, **DROPOUTS[where][0], **DOUBLE)
    x = torch.randn(3, 5, 2, *((4,) * layer.rank), **DOUBLE)
    want, want_state = seeded(layer, x)
    longer = torch.cat([x, torch.full_like(x, torch.nan)], 1)
    wider = torch.cat([longer, torch.full_like(longer, torch.nan)], -1)
    mask = torch.zeros(3, 10, *wider.shape[3:], dtype=torch.bool)
    mask[:, :5, ..., :4] = True
    for given, arguments in (
        (longer, {"lengths": torch.tensor([5, 5, 5])}),
        (wider, {"mask": mask}),
    ):
        got, state = seeded(layer, given, **arguments)
        torch.testing.assert_close(got[:, :5, ..., :4], want, rtol=0, atol=1e-13)
        h, want_h = (part[0] if isinstance(part, tuple) else part for part in (state, want_state))
        torch.testing.assert_close(h[..., :4], want_h, rtol=0, atol=1e-13)


def test_the_draw_of_a_series_does_not_depend_on_its_padding():
    layer = ConvLSTM1d(2, 6, 3, window=3, causal=True, input_dropout=0.5, recurrent_dropout=0.5, **DOUBLE)
    x = torch.randn(2, 7, 2, **DOUBLE)
    mask = torch.cat([torch.zeros(2, 4), torch.ones(2, 7)], 1)
    got, _ = seeded(layer, torch.cat([torch.full((2, 4, 2), torch.nan, **DOUBLE), x], 1), mask=mask)
    torch.testing.assert_close(got[:, 4:], seeded(layer, x)[0], rtol=0, atol=1e-13)


def test_rows_and_calls_have_draws_of_their_own():
    layer = ConvLSTM1d(4, 2, 3, input_dropout=0.25)
    x = torch.ones(500, 2, 4, 3, requires_grad=True)
    output, _ = seeded(layer, x)
    (gradient,) = torch.autograd.grad(output.sum(), x)
    kept = gradient.abs().sum((1, 3)) > 0
    assert abs(kept.float().mean() - 0.75) < 0.04
    assert len(kept.unique(dim=0)) == 16
    assert not torch.equal(layer(x)[0], output)


@pytest.mark.parametrize("where", DROPOUTS)
def test_dropout_is_off_in_eval_mode(where):
    layer, plain = ConvLSTM1d(2, 6, 3, **DROPOUTS[where][0]), ConvLSTM1d(2, 6, 3, num_layers=2)
    x = torch.randn(2, 5, 2, 4)
    assert not torch.equal(seeded(layer, x)[0], seeded(layer, x, seed=2)[0])
    layer.eval()
    assert torch.equal(layer(x)[0], layer(x)[0])
    if layer.spec.num_layers == 1:
        plain = ConvLSTM1d(2, 6, 3)
    plain.load_state_dict(layer.state_dict())
    assert torch.equal(layer(x)[0], plain(x)[0])


# Code that changes tensors in place -----------------------------------------------------------------------------------


def assert_an_error_or_right(gradients, want):
    """Autograd's error is right where the changed values were needed; wrong numbers never are."""
    try:
        got = gradients()
    except RuntimeError as error:
        if "modified by an inplace operation" not in str(error):
            raise
        return
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


MASKS = {
    "no mask": lambda x: None,
    "steps": lambda x: torch.rand(x.shape[:2]) < 0.6,
    "sites": lambda x: torch.rand(x.shape[0], x.shape[1], x.shape[3]) < 0.6,
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("change", [lambda y: y.mul_(2), lambda y: y.clamp_(min=0)], ids=["mul_", "clamp_"])
def test_changing_the_output_in_place_is_an_error_or_right(kind, mask, change):
    layer, x = kind(2, 3, 3, **DOUBLE), torch.randn(2, 5, 2, 4, **DOUBLE)
    seen = MASKS[mask](x)

    def gradients(copied):
        output, _ = layer(x, mask=seen)
        output = change(output.clone() if copied else output)
        return torch.autograd.grad(output.sin().sum(), list(layer.parameters()))

    assert_an_error_or_right(lambda: gradients(copied=False), gradients(copied=True))


def test_changing_the_stored_output_in_place_is_an_error():
    layer = ConvLSTM1d(2, 3, 3)
    output, _ = layer(torch.randn(2, 5, 2, 4))
    with torch.no_grad():
        output.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


def test_changing_the_state_in_place_between_pieces_is_an_error_or_right():
    layer, x = ConvLSTM1d(2, 3, 3, **DOUBLE), torch.randn(2, 6, 2, 4, **DOUBLE)

    def gradients(halve):
        _, (h, c) = layer(x[:, :3])
        output, _ = layer(x[:, 3:], (halve(h), halve(c)))
        return torch.autograd.grad(output.sin().sum(), list(layer.parameters()))

    assert_an_error_or_right(lambda: gradients(lambda part: part.mul_(0.5)), gradients(lambda part: part * 0.5))


@pytest.mark.parametrize("N", [1, 3])
@pytest.mark.parametrize("changed", ["x", "h", "mask", "lengths"])
def test_changing_an_input_before_the_backward_pass_is_an_error_or_right(changed, N):
    layer = ConvGRU1d(2, 3, 3, **DOUBLE)
    given = {"x": torch.randn(N, 5, 2, 4, **DOUBLE), "h": torch.randn(1, N, 3, 4, **DOUBLE)}
    given |= {"mask": torch.rand(N, 5, 4) < 0.6, "lengths": torch.full((N,), 4)}

    def gradients(change):
        own = {name: tensor.clone() for name, tensor in given.items()}
        output, _ = layer(own["x"], own["h"], mask=own["mask"], lengths=own["lengths"])
        if change:
            own[changed].zero_()
        return torch.autograd.grad(output.sin().sum(), list(layer.parameters()))

    assert_an_error_or_right(lambda: gradients(change=True), gradients(change=False))


@pytest.mark.parametrize("changed", ["weight_hh_l0", "weight_ih_l0"])
def test_changing_the_weights_before_the_backward_pass_is_an_error(changed):
    """An optimiser's step between forward and backward."""
    layer = ConvGRU1d(2, 3, 3)
    output, _ = layer(torch.randn(2, 5, 2, 4))
    with torch.no_grad():
        getattr(layer, changed).add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


# A whole training run -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options", "sites"),
    [
        (ConvLSTM1d, {"num_layers": 2, "bidirectional": True, "dropout": 0.1}, (6,)),
        (ConvGRU1d, {"input_dropout": 0.1, "recurrent_dropout": 0.1}, (6,)),
        (ConvLSTM2d, {"gap": "predict"}, (3, 4)),
        (ConvGRU1d, {"window": 4, "causal": True}, ()),
    ],
)
def test_training_on_ragged_data_full_of_nan_stays_finite_and_learns(kind, options, sites):
    layer = kind(2, 8, 5 if "window" in options else 3, **options)
    head = torch.nn.LazyLinear(2)
    x = torch.randn(8, 10, *sites, 2).cumsum(1) * 0.3
    lengths = torch.tensor([10, 7, 1, 0, 10, 4, 9, 2])
    mask = torch.rand(x.shape) < 0.7
    mask[5] = False
    exists = (torch.arange(10) < lengths[:, None]).view(8, 10, *(1,) * (x.ndim - 2))
    hidden = x.masked_fill(~(mask & exists), torch.nan)
    target, scored = x[:, 1:], (exists & mask)[:, 1:]

    def first(tensor):
        return tensor if not sites else tensor.movedim(-1, 2)

    def loss():
        output, _ = layer(first(hidden), mask=first(mask), lengths=lengths)
        predicted = head((output if not sites else output.movedim(2, -1))[:, :-1])
        return (predicted - target)[scored].square().mean()

    before = float(loss().detach())
    optimiser = torch.optim.Adam([*layer.parameters(), *head.parameters()], lr=0.02)
    for _ in range(25):
        optimiser.zero_grad()
        loss().backward()
        assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())
        optimiser.step()
    assert all(parameter.isfinite().all() for parameter in layer.parameters())
    assert float(loss().detach()) < 0.7 * before


@pytest.mark.parametrize("kind", CELLS)
def test_a_wholly_masked_batch_leaves_the_weights_where_they_are(kind):
    layer = kind(2, 3, 3, num_layers=2)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    optimiser = torch.optim.SGD(layer.parameters(), lr=1.0)
    x = torch.full((2, 5, 2, 4), torch.nan)
    output, _ = layer(x, mask=torch.zeros(2, 5))
    output.sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())
    optimiser.step()
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


def test_frozen_weights_get_no_gradients_and_the_others_do():
    layer, x = ConvLSTM1d(2, 3, 3), torch.randn(2, 5, 2, 4)
    want = torch.autograd.grad(layer(x)[0].sum(), [layer.weight_hh_l0])
    layer.weight_ih_l0.requires_grad_(False)
    layer.bias_l0.requires_grad_(False)
    layer(x)[0].sum().backward()
    assert layer.weight_ih_l0.grad is layer.bias_l0.grad is None
    assert torch.equal(layer.weight_hh_l0.grad, want[0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA smoke test: this machine has no CUDA device")
@pytest.mark.parametrize("kind", [*CELLS, ConvLSTM2d])
def test_cuda_gives_what_the_cpu_gives(kind):
    layer = kind(2, 3, 3, num_layers=2, bidirectional=True, **DOUBLE)
    x = torch.randn(3, 5, 2, *((4,) * layer.rank), **DOUBLE)
    mask = torch.rand(x.shape) < 0.6
    x = x.masked_fill(~mask, torch.nan)
    lengths = torch.tensor([5, 3, 0])
    results = []
    for device in ("cpu", "cuda"):
        layer.to(device).zero_grad()
        given = x.to(device).requires_grad_()
        output, _ = layer(given, mask=mask.to(device), lengths=lengths.to(device))
        output.sin().sum().backward()
        assert output.device.type == device
        results.append([t.detach().cpu() for t in (output, given.grad, *(p.grad for p in layer.parameters()))])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-9)
