"""MaskedSequential: what it threads, what it knows, what it refuses, and what its summary says."""

import copy
from collections import OrderedDict

import pytest

pytest.importorskip("torch", reason="these are tests of gapcell.torch.nn")

import torch
from torch import nn
from torch.nn.utils import parametrizations

from gapcell.torch import ConvGRU1d, ConvLSTM1d
from gapcell.torch import nn as gnn
from torch_nn.laws import assert_close, outcome
from torch_nn.pieces import Batch, C, make_batch, over


def test_it_is_the_chain_of_its_modules():
    conv, norm, lstm, pool, linear = (
        gnn.MaskedConv1d(C, 6, 3, padding=1),
        gnn.MaskedBatchNorm1d(6),
        ConvLSTM1d(6, 5, 3),
        gnn.MaskedMeanPool("both"),
        nn.Linear(5, 3),
    )
    model = gnn.MaskedSequential(conv, norm, nn.Sigmoid(), lstm, pool, linear).eval()
    batch = make_batch(1, "elements").filled(torch.nan)
    batch.mask[0] = False
    with torch.no_grad():
        got, got_mask = model(batch.x, batch.mask)
        x, mask = norm(*conv(batch.x, batch.mask))
        x = torch.where(mask.unsqueeze(2), torch.sigmoid(x), 0)
        x, mask = pool(lstm(x, mask=mask)[0], mask)
        x = torch.where(mask[:, None], linear(x), 0)
    assert torch.equal(got, x)
    assert torch.equal(got_mask, mask)
    assert not got[0].any()
    assert got_mask.tolist() == [False, True, True]


def test_it_is_a_container_like_nn_sequential():
    modules = [nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)]
    model, plain = gnn.MaskedSequential(*modules), nn.Sequential(*modules)
    assert len(model) == 3
    assert list(model) == modules
    assert model[0] is modules[0]
    assert model[-1] is modules[-1]
    assert list(model[1:]) == modules[1:]
    assert isinstance(model[1:], gnn.MaskedSequential)
    assert list(model.state_dict()) == list(plain.state_dict())
    named = gnn.MaskedSequential(OrderedDict(first=modules[0], last=modules[2]))
    assert [name for name, _ in named.named_parameters()] == ["first.weight", "first.bias", "last.weight", "last.bias"]
    x = torch.randn(3, 4)
    y, mask = model(x)
    assert torch.equal(y, plain(x))
    assert mask is None
    assert len(gnn.MaskedSequential()) == 0


def test_a_module_set_as_an_attribute_is_no_part_of_the_chain():
    model = gnn.MaskedSequential(nn.Linear(4, 5))
    model.head = nn.Conv1d(5, 5, 3)
    assert len(model) == 1
    assert model(torch.randn(3, 4))[0].shape == (3, 5)


def test_a_module_of_ones_own_is_taken():
    class Halve(gnn.MaskedModule):
        def forward(self, x, mask=None):
            return x / 2, mask

    model = gnn.MaskedSequential(Halve(), nn.Linear(4, 5))
    x, mask = torch.randn(2, 3, 4), torch.tensor([[1, 0, 1], [0, 0, 1]])
    assert model(x, mask)[0].shape == (2, 3, 5)
    assert "as the module decides" in model.summary(x, mask)
    with pytest.raises(NotImplementedError, match="MaskedModule has no forward"):
        gnn.MaskedModule()(x)


@pytest.mark.parametrize("gap", ["hold", "predict", "decay"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_recurrent_layer_gives_on_where_its_state_steps(gap, bidirectional):
    layer = ConvLSTM1d(C, 6, 3, stride=2, gap=gap, bidirectional=bidirectional)
    model = gnn.MaskedSequential(layer, gnn.MaskedMeanPool())
    batch = make_batch(1, "elements")
    lengths = torch.tensor([5, 3, 4])
    domain = torch.tensor([1, 1, 1, 0, 1, 1, 1])
    times = {"dt": torch.rand(3, 5)} if gap == "decay" else {}
    output, _ = layer(batch.x, mask=batch.mask, lengths=lengths, domain=domain, **times)
    exists = (torch.arange(5) < lengths[:, None])[:, :, None] & (domain == 1)
    stepped = (exists if gap == "predict" else exists & batch.mask.any(2))[:, :, ::2]
    want, want_mask = gnn.MaskedMeanPool()(output, stepped)
    got, mask = model(batch.x, batch.mask, lengths=lengths, domain=domain, **times)
    assert_close(got, want, "pooled")
    assert torch.equal(mask, want_mask)


def test_under_predict_without_lengths_everything_exists():
    model = gnn.MaskedSequential(ConvGRU1d(C, 6, 3, gap="predict"))
    mask = torch.ones(3, 5, 7)
    mask[:, 2] = 0
    assert model(torch.randn(3, 5, C, 7), mask)[1].tolist() == [[True] * 5] * 3
    assert model(torch.randn(3, 5, C, 7))[1] is None


def test_a_series_is_threaded():
    layer = ConvLSTM1d(C, 6, 3, window=4)
    x, mask = torch.randn(2, 9, C), torch.rand(2, 9) < 0.6
    got, got_mask = gnn.MaskedSequential(nn.Linear(C, C), layer, gnn.LastObserved())(x, mask)
    want = got.new_zeros(got.shape)
    x = torch.where(mask[..., None], x, 0)
    assert got_mask.tolist() == mask.any(1).tolist()
    assert got.shape == want.shape == (2, 6)
    with pytest.raises(ValueError, match="`domain` speaks of sites, and the layers here read a series"):
        gnn.MaskedSequential(layer)(x, mask, domain=torch.ones(9))


def test_lengths_and_domain_are_observed_nowhere_else():
    """A norm does not count what does not exist, and a pool does not either."""
    model = gnn.MaskedSequential(gnn.MaskedBatchNorm1d(C), gnn.MaskedMeanPool("both"))
    batch = make_batch(1, "sites")
    lengths, domain = torch.tensor([[0, 5], [1, 3], [2, 2]]), torch.rand(3, 7) < 0.7
    steps = torch.arange(5)
    within = (lengths[:, :1] <= steps) & (steps < lengths[:, 1:])
    mask = batch.mask & within[:, :, None] & domain[:, None]
    want = outcome(model, batch.but(mask=mask))

    class WithBounds(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = copy.deepcopy(model)

        def forward(self, x, mask):
            return self.model(x, mask, lengths=lengths, domain=domain)

    got = outcome(WithBounds(), batch)
    assert torch.equal(got.y, want.y)
    assert torch.equal(got.mask, want.mask)
    assert torch.equal(got.x_gradient, want.x_gradient)
    _, mask = model(batch.x, lengths=lengths)
    assert mask.tolist() == [True, True, False]


def test_a_renormalising_convolution_is_told_the_domain():
    conv = gnn.MaskedConv1d(C, 6, 3, padding=1, renormalize=True)
    batch, domain = make_batch(1, "sites"), torch.tensor([1, 1, 1, 1, 0, 0, 0])
    got, _ = gnn.MaskedSequential(conv)(batch.x, batch.mask, domain=domain)
    assert torch.equal(got, conv(batch.x, batch.mask, domain=domain)[0])
    assert not torch.equal(got, conv(batch.x, batch.mask & (domain == 1))[0])
    narrow, _ = conv(batch.x[..., :4], batch.mask[..., :4])
    assert_close(got[..., :4], narrow, "a narrower input")


def test_a_decoder_takes_steps_and_existence_of_the_input():
    encoder = gnn.MaskedSequential(ConvLSTM1d(C, 6, 3), gnn.LastObserved())
    decoder = gnn.MaskedSequential(gnn.MaskedRepeat(), ConvLSTM1d(6, 5, 3), gnn.MaskedConv1d(5, C, 1))
    model = gnn.MaskedSequential(encoder, decoder)
    batch = make_batch(1, "sites")
    lengths = torch.tensor([5, 3, 0])
    y, mask = model(batch.x, batch.mask, lengths=lengths)
    assert y.shape == batch.x.shape
    state = (batch.mask & (torch.arange(5) < lengths[:, None])[:, :, None]).any(1)
    want = (torch.arange(5) < lengths[:, None])[:, :, None] & state[:, None]
    assert torch.equal(mask, want)
    assert not y[~over(y, want)].any()
    assert model(batch.x)[1] is None
    predicting = gnn.MaskedSequential(encoder, gnn.MaskedRepeat(), ConvLSTM1d(6, 5, 3, gap="predict"))
    y, mask = predicting(batch.x, batch.mask, lengths=lengths)
    frames, seen = encoder(batch.x, batch.mask & (torch.arange(5) < lengths[:, None])[:, :, None])
    repeated, again = frames[:, None].expand(-1, 5, -1, -1), seen[:, None].expand(-1, 5, -1)
    assert torch.equal(y, predicting[2](repeated, mask=again, lengths=lengths)[0])
    assert mask.tolist() == (torch.arange(5) < lengths[:, None]).tolist()
    fixed = gnn.MaskedSequential(encoder, gnn.MaskedRepeat(2), ConvLSTM1d(6, 5, 3, gap="predict"))
    _, mask = fixed(batch.x, torch.ones(3, 5), lengths=torch.tensor([5, 3, 1]))
    assert mask.tolist() == [[True, True]] * 3


def test_dropout_of_whole_channels():
    model = gnn.MaskedSequential(nn.Dropout1d(0.5), gnn.MaskedConv1d(C, C, 1, padding="same"))
    model[1].weight.data.copy_(torch.eye(C)[..., None])
    nn.init.zeros_(model[1].bias)
    x = torch.rand(20, 5, C, 7) + 1
    y, _ = model(x, torch.ones(20, 5))
    kept = (y != 0).flatten(3)
    assert torch.equal(kept.any(-1), kept.all(-1))
    assert 0.4 < kept.float().mean() < 0.6
    last = gnn.MaskedSequential(nn.Dropout1d(0.5), gnn.MaskedConv1d(C, C, 1, padding="same", channels_last=True))
    last.load_state_dict(model.state_dict())
    kept = last(x.movedim(2, -1))[0] != 0
    assert torch.equal(kept.any(2), kept.all(2))
    with pytest.raises(ValueError, match=r"module 0 is a Dropout2d, but is given 1 site axes .* expected 2"):
        gnn.MaskedSequential(nn.Dropout2d(), gnn.MaskedConv1d(C, C, 1))(x)


def test_a_parametrized_linear_is_still_one():
    linear = parametrizations.weight_norm(nn.Linear(4, 5))
    assert gnn.MaskedSequential(linear)(torch.randn(3, 4))[0].shape == (3, 5)


class OwnLinear(nn.Linear):
    def forward(self, x):
        return x.roll(1, 0)


class WithoutAMask(gnn.MaskedModule):
    def forward(self, x, mask=None):
        return x


class Dropping(gnn.MaskedModule):
    def forward(self, x, mask=None):
        return x, None


# Refusals -------------------------------------------------------------------------------------------------------------

UNKNOWN = [
    (nn.Conv1d(2, 2, 3), "MaskedConv1d"),
    (nn.ConvTranspose2d(2, 2, 3), "MaskedConvTranspose2d"),
    (nn.BatchNorm3d(2), "MaskedBatchNorm3d"),
    (nn.InstanceNorm1d(2), "MaskedInstanceNorm1d"),
    (nn.SyncBatchNorm(2), "MaskedBatchNorm1d, 2d or 3d, which synchronises by itself"),
    (nn.LayerNorm(2), "MaskedLayerNorm"),
    (nn.GroupNorm(1, 2), "MaskedGroupNorm"),
    (nn.Flatten(), "MaskedFlatten"),
    (nn.Upsample(scale_factor=2), "MaskedUpsample"),
    (nn.AvgPool2d(2), 'MaskedMeanPool(over="sites") or a strided MaskedConv'),
    (nn.AdaptiveMaxPool1d(1), 'MaskedMaxPool(over="sites")'),
    (
        nn.LSTM(2, 2),
        "ConvLSTM1d or ConvGRU1d of gapcell.torch; with window=1, kernel_size=1 they are a masked LSTM and GRU",
    ),
    (nn.Sequential(nn.ReLU()), "MaskedSequential"),
    (nn.PReLU(3), "nn.PReLU() with one parameter"),
    (nn.MSELoss(), "the loss outside of the model, with the mask that the model returns"),
    (nn.Softmax(-1), "TimeDistributed(it) if it treats each step alone, else a MaskedModule of your own"),
    (OwnLinear(2, 2), "TimeDistributed(it) if it treats each step alone, else a MaskedModule of your own"),
]


@pytest.mark.parametrize(("module", "cure"), UNKNOWN)
def test_what_it_does_not_know_is_refused_when_it_is_made(module, cure):
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 # the text is compared
        gnn.MaskedSequential(nn.Identity(), module)
    name = type(module).__name__
    assert str(refusal.value) == (
        f"module 1 is a {name}, which does not know of masks and would drop or spoil them: use {cure} instead"
    )


def test_what_is_no_module_is_refused():
    with pytest.raises(ValueError, match=r"module 0 is a function, expected a torch.nn.Module"):
        gnn.MaskedSequential(test_a_parametrized_linear_is_still_one)


X = torch.zeros(2, 3, 4, 5)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda: gnn.MaskedSequential(gnn.MaskedConv1d(4, 4, 1, channels_last=True), ConvLSTM1d(4, 4, 3)),
            "module 0 (MaskedConv1d) has channels_last=True, but module 1 (ConvLSTM1d) has not; expected all of them "
            "alike",
        ),
        (
            lambda: gnn.MaskedSequential(gnn.MaskedConv1d(4, 4, 1), nn.Linear(5, 5))(X),
            "module 1 is a Linear, which reads the last axis, and is given shape (2, 3, 4, 5), whose channels are not "
            "last: put MaskedFlatten or a pool over the sites before it, use a convolution with kernel_size 1, or "
            "channels_last=True throughout",
        ),
        (
            lambda: gnn.MaskedSequential(gnn.MaskedMeanPool(), gnn.MaskedMaxPool("sites"))(X),
            "module 1 is a MaskedMaxPool and is given frames of shape (2, 4, 5), without steps: it needs rank=, the "
            "number of site axes",
        ),
        (
            lambda: gnn.MaskedSequential(gnn.MaskedMeanPool(), gnn.TimeDistributed(nn.ReLU()))(X),
            "module 1 is a TimeDistributed and is given frames of shape (2, 4, 5), without steps: it needs "
            "MaskedRepeat before it",
        ),
        (
            lambda: gnn.MaskedSequential(gnn.MaskedMeanPool(), ConvLSTM1d(4, 4, 3))(X),
            "module 1 is a ConvLSTM1d and is given frames of shape (2, 4, 5), without steps: MaskedRepeat before it "
            "gives them steps",
        ),
        (
            lambda: gnn.MaskedSequential(
                gnn.MaskedConv1d(4, 4, 3), gnn.MaskedConv1d(4, 4, 3, padding=1, renormalize=True)
            )(X, domain=torch.ones(5)),
            "`domain` speaks of the input's sites, but module 1, a MaskedConv1d that needs it, is given others, (3,); "
            "keep the sites (stride 1, same size) up to it, or leave `domain` out and mask what does not exist",
        ),
        (
            lambda: gnn.MaskedSequential(gnn.MaskedConv1d(4, 4, 1))(X[:, 0], lengths=torch.tensor([1, 1])),
            "`lengths` beside frames of shape (2, 4, 5), which have no steps",
        ),
        (
            lambda: gnn.MaskedSequential(gnn.MaskedConv1d(4, 4, 1), ConvLSTM1d(4, 4, 3))(X, dt=torch.ones(2, 3)),
            '`dt` is read by layers with gap="decay", and there is none here; leave it out',
        ),
        (
            lambda: gnn.MaskedSequential(WithoutAMask())(X),
            "WithoutAMask.forward gave Tensor, expected a pair (x, mask)",
        ),
        (
            lambda: gnn.TimeDistributed(Dropping())(X, torch.ones(2, 3)),
            "Dropping.forward was given a mask and gave none; where all it gives is observed, return a mask of True",
        ),
        (
            lambda: gnn.MaskedSequential(gnn.MaskedConv1d(4, 4, 1))(X[0, 0]),
            "`x` has shape (4, 5), expected a sequence (N, T, C, L) or frames (N, C, L)",
        ),
    ],
)
def test_refusals(call, said):
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 # the text is compared
        call()
    assert str(refusal.value) == said


def test_a_module_per_step_has_its_channels_where_the_others_have_them():
    model = gnn.MaskedSequential(gnn.MaskedConv1d(4, 4, 1, channels_last=True), gnn.TimeDistributed(nn.Flatten()))
    x, mask = torch.randn(2, 3, 5, 4), torch.rand(2, 3, 5) < 0.5
    y, moved = model(x, mask)
    assert y.shape == (2, 3, 20)
    assert torch.equal(moved, mask.any(2))


def test_batch_is_left_as_it_is():
    batch = make_batch(1, "elements")
    assert isinstance(batch, Batch)
    x, mask = batch.x.clone(), batch.mask.clone()
    gnn.MaskedSequential(gnn.MaskedConv1d(C, C, 3))(batch.x, batch.mask, lengths=torch.tensor([1, 2, 3]))
    assert torch.equal(batch.x, x)
    assert torch.equal(batch.mask, mask)
