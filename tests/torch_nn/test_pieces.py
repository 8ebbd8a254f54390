"""What is special to one piece: skipped work, compilers, arguments, and what is refused in which words."""

import pytest

pytest.importorskip("torch", reason="these are tests of gapcell.torch.nn")

import torch
from torch import nn

from gapcell.torch import nn as gnn
from torch_nn.laws import assert_close
from torch_nn.pieces import PIECES, C, make_batch

# Masked work is skipped -----------------------------------------------------------------------------------------------


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.frames = 0

    def forward(self, x):
        self.frames += len(x)
        return x.flatten(1)


def test_time_distributed_computes_observed_steps_only():
    module = Counting()
    batch = make_batch(1, "elements")
    batch.mask[0, 1] = False
    gnn.TimeDistributed(module)(batch.x, batch.mask)
    assert module.frames == batch.mask.flatten(2).any(-1).sum() < 15


@pytest.mark.parametrize("name", ["MaskedConv1d", "MaskedConvTranspose1d"])
def test_a_convolution_computes_frames_with_an_observed_output_only(name, monkeypatch):
    module, computed = getattr(gnn, name)(C, 6, 3), []
    plain = type(module)._transform
    monkeypatch.setattr(type(module), "_transform", lambda self, x, *a: computed.append(len(x)) or plain(self, x, *a))
    batch = make_batch(1, "steps")
    module(batch.x, batch.mask)
    assert sum(computed) == batch.mask.sum() < 15
    computed.clear()
    module(batch.x, torch.zeros(3, 5, 7))
    assert sum(computed) == 0


# Compilers, exporters, transforms -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["classifier", "autoencoder"])
def test_a_compiled_model_is_the_eager_one(name):
    model = PIECES[name].make(1).eval()
    batch = make_batch(1, "sites").filled(torch.nan)
    with torch.no_grad():
        want, want_mask = model(batch.x, batch.mask)
        got, mask = torch.compile(model, backend="aot_eager", fullgraph=True)(batch.x, batch.mask)
    assert_close(got, want, "compiled")
    assert torch.equal(mask, want_mask)


def test_an_exported_model_is_the_eager_one():
    """For any number of samples and steps."""
    model = gnn.MaskedSequential(
        gnn.MaskedConv1d(C, 6, 3, padding=1, renormalize=True),
        gnn.MaskedBatchNorm1d(6),
        nn.ReLU(),
        gnn.TimeDistributed(nn.Sequential(nn.Flatten(), nn.Linear(6 * 7, 3))),
        gnn.AttentionPool(3),
    ).eval()
    batch, other = make_batch(1, "elements").filled(torch.nan), make_batch(1, "elements", N=4, T=8)
    dynamic = {0: torch.export.Dim("N", min=1, max=64), 1: torch.export.Dim("T", min=1, max=64)}
    shapes = {"x": dynamic, "mask": dynamic}
    exported = torch.export.export(model, (batch.x, batch.mask), dynamic_shapes=shapes)
    got, mask = exported.module()(other.x, other.mask)
    want, want_mask = model(other.x, other.mask)
    assert_close(got, want, "exported")
    assert torch.equal(mask, want_mask)


def test_gradients_of_each_sample_by_vmap():
    model = PIECES["classifier"].make(1).eval()
    batch = make_batch(1, "sites")
    parameters = dict(model.named_parameters())

    def loss(parameters, x, mask):
        return torch.func.functional_call(model, parameters, (x[None], mask[None]))[0].square().sum()

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(parameters, batch.x, batch.mask)
    for n in range(3):
        want = torch.autograd.grad(loss(parameters, batch.x[n], batch.mask[n]), list(parameters.values()))
        for got, expected in zip(each.values(), want, strict=True):
            assert_close(got[n], expected, "gradient", 10)


# Shapes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in PIECES if name not in ("autoencoder", "classifier")])
@pytest.mark.parametrize(("N", "T"), [(0, 3), (2, 0), (0, 0)])
def test_no_samples_and_no_steps(name, N, T):
    module = PIECES[name].make(1).eval()
    x = torch.zeros(N, T, C, 7)
    for mask in (None, torch.ones(N, T), torch.ones(N, T, 7)):
        y, moved = module(x, mask)
        assert len(y) == N
        assert not y.numel() or not y.any()
        assert moved is None or len(moved) == N


def test_a_mask_of_numbers_is_read_as_one_of_truth():
    batch = make_batch(1, "sites")
    want, want_mask = gnn.MaskedMeanPool()(batch.x, batch.mask)
    for mask in (batch.mask.long(), batch.mask.double(), torch.where(batch.mask, 1.0, torch.nan), batch.mask.numpy()):
        got, got_mask = gnn.MaskedMeanPool()(batch.x, mask)
        assert torch.equal(got, want)
        assert torch.equal(got_mask, want_mask)


@pytest.mark.parametrize("kernel", [2, 3, 4])
def test_padding_same_keeps_a_mask_of_sites(kernel):
    batch = make_batch(2, "sites")
    y, mask = gnn.MaskedConv2d(C, 6, kernel, padding="same", dilation=2)(batch.x, batch.mask)
    assert torch.equal(mask, batch.mask)
    assert y.shape[3:] == batch.x.shape[3:]


def test_vectors_are_frames():
    x, mask = torch.randn(5, 4), torch.tensor([1, 0, 1, 1, 0])
    y, moved = gnn.MaskedGroupNorm(2, 4)(x, mask)
    assert moved.tolist() == [True, False, True, True, False]
    assert_close(y[moved], nn.GroupNorm(2, 4)(x[moved]), "observed vectors", 10)
    y, moved = gnn.MaskedRepeat(3)(x, mask)
    assert y.shape == (5, 3, 4)
    assert moved.tolist() == [[bool(row)] * 3 for row in mask]


def test_a_time_distributed_piece_gives_on_its_own_mask():
    batch = make_batch(1, "elements")
    plain, per_step = gnn.MaskedConv1d(C, 6, 3, stride=2), gnn.TimeDistributed(gnn.MaskedConv1d(C, 6, 3, stride=2))
    per_step.module.load_state_dict(plain.state_dict())
    want, want_mask = plain(batch.x, batch.mask)
    got, mask = per_step(batch.x, batch.mask)
    assert_close(got, want, "per step")
    assert torch.equal(mask, want_mask)


def test_nothing_observed_leaves_a_module_per_step_as_it_is():
    """Its batch norm too, which refuses a batch of one and spoils its statistics on a batch of none."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(C * 7, 3), nn.BatchNorm1d(3))
    x = torch.full((2, 3, C, 7), torch.nan, requires_grad=True)
    y, mask = gnn.TimeDistributed(module)(x, torch.zeros(2, 3))
    y.sum().backward()
    assert y.shape == (2, 3, 3)
    assert not y.any()
    assert not mask.any()
    assert not x.grad.any()
    assert all(torch.equal(parameter.grad, torch.zeros_like(parameter)) for parameter in module.parameters())
    assert module[2].num_batches_tracked == 0
    assert module[2].running_var.tolist() == [1, 1, 1]


# Refusals -------------------------------------------------------------------------------------------------------------

X = torch.zeros(2, 3, 4, 5)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda: gnn.MaskedConv1d(4, 4, 3, padding_mode="reflect"),
            "`padding_mode` is 'reflect', expected \"zeros\": other modes read values where the mask says nothing",
        ),
        (
            lambda: gnn.MaskedConv1d(4, 4, 3, mask_rule="center"),
            "`mask_rule` is 'center', expected one of 'centre', 'all', 'any', None",
        ),
        (
            lambda: gnn.MaskedConv1d(3, 4, 3)(X),
            "`x` has shape (2, 3, 4, 5) with 4 channels, expected in_channels = 3; channels_last is False",
        ),
        (
            lambda: gnn.MaskedConv1d(4, 4, 3)(X.double()),
            "`x` has dtype torch.float64, but the parameters have torch.float32; convert one of them, e.g. "
            "conv.to(x.dtype)",
        ),
        (
            lambda: gnn.MaskedConv2d(3, 4, 3)(X[0, 0]),
            "`x` has shape (4, 5), expected a sequence (N, T, C, H, W) or frames (N, C, H, W)",
        ),
        (
            lambda: gnn.MaskedConv1d(4, 4, 3)(X.long()),
            "`x` has dtype torch.int64 and shape (2, 3, 4, 5), expected floating point; call x.float()",
        ),
        (
            lambda: gnn.MaskedConv1d(4, 4, 3)(X[:, 0], torch.ones(2, 4)),
            "`mask` has shape (2, 4), but the input is frames of shape (2, 4, 5): expected (2,) or (2, 5) or (2, 4, "
            "5); a mask is matched exactly and never broadcast",
        ),
        (
            lambda: gnn.MaskedConv1d(4, 4, 3)(X, torch.ones(2, 4)),
            "`mask` has shape (2, 4), but the input has shape (2, 3, 4, 5): expected (2, 3) or (2, 3, 5) or (2, 3, 4, "
            "5); a mask is matched exactly and never broadcast",
        ),
        (
            lambda: gnn.MaskedConv1d(4, 4, 3)(X, domain=torch.ones(4)),
            "`domain` has shape (4,), but the input has sites (N, T, *S) = (2, 3, 5): expected (2, 5) or (5,)",
        ),
        (
            lambda: gnn.MaskedBatchNorm1d(3)(X),
            "`x` has shape (2, 3, 4, 5) with 4 channels, expected num_features = 3; channels_last is False",
        ),
        (
            lambda: gnn.MaskedGroupNorm(1, 3)(X[:, 0]),
            "`x` has shape (2, 4, 5) with 5 channels, expected num_channels = 3; channels_last is False",
        ),
        (
            lambda: gnn.MaskedLayerNorm((3, 4, 5))(X),
            "`x` has shape (2, 3, 4, 5), expected its last axes to be normalized_shape = (3, 4, 5), without steps; "
            "give rank=, the number of site axes, for frames",
        ),
        (
            lambda: gnn.MaskedMeanPool("steps"),
            "`over` is 'steps', expected one of time, sites, both",
        ),
        (
            lambda: gnn.MaskedMeanPool("sites")(X[..., 0]),
            "`x` has shape (2, 3, 4), a sequence without sites, expected sites to pool over; give rank=, the number "
            "of site axes, for frames",
        ),
        (
            lambda: gnn.MaskedMeanPool("time", rank=1)(X[:, 0]),
            "`x` has shape (2, 4, 5), frames without steps, expected a sequence to pool over time",
        ),
        (
            lambda: gnn.AttentionPool(3)(X),
            "`x` has shape (2, 3, 4, 5) with 4 channels, expected num_channels = 3",
        ),
        (
            lambda: gnn.MaskedFlatten()(X[0, 0, 0]),
            "`x` has shape (5,), expected a sequence (N, T, C, *S); give rank=, the number of site axes, for frames "
            "(N, C, *S)",
        ),
        (
            lambda: gnn.MaskedRepeat(0),
            "`steps` is 0, expected at least 1, or None for the steps of the sequential's input",
        ),
        (
            lambda: gnn.MaskedRepeat()(X[:, 0]),
            "`steps` is None, which takes the steps of a MaskedSequential's input; there is none here: give "
            "MaskedRepeat(steps)",
        ),
        (
            lambda: gnn.MaskedUpsample(),
            "`size` is None and `scale_factor` is None, expected exactly one of them",
        ),
        (
            lambda: gnn.MaskedUpsample(scale_factor=1.5),
            "`scale_factor` is 1.5, expected whole numbers of at least 1",
        ),
        (
            lambda: gnn.MaskedUpsample(scale_factor=(2, 2))(X),
            "`scale_factor` is (2, 2), but the input has sites (5,): expected one number a site axis; give rank=, the "
            "number of site axes, for frames",
        ),
        (
            lambda: gnn.TimeDistributed(torch.tanh),
            "`module` is a builtin_function_or_method, expected a torch.nn.Module",
        ),
        (
            lambda: gnn.TimeDistributed(nn.Flatten(0))(X),
            "Flatten in TimeDistributed gave shape (120,) for frames of shape (6, 4, 5), expected one tensor (6, ...)",
        ),
        (
            lambda: gnn.TimeDistributed(nn.LSTM(5, 5))(X),
            "LSTM in TimeDistributed gave tuple for frames of shape (6, 4, 5), expected one tensor (6, ...)",
        ),
    ],
)
def test_refusals(call, said):
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 # the text is compared
        call()
    assert str(refusal.value) == said
