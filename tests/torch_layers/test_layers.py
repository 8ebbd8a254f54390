"""The PyTorch layers as a user of nn.LSTM and nn.Conv expects them: what they compute, and how they are laid out."""

import copy
import io
import pickle

import pytest

pytest.importorskip("torch", reason="these are tests of the torch layers")

import torch
import torch.nn.functional as F
from torch import nn

import gapcell.torch
from gapcell.torch import ConvGRU1d, ConvGRU2d, ConvGRU3d, ConvLSTM1d, ConvLSTM2d, ConvLSTM3d

KINDS = [ConvLSTM1d, ConvLSTM2d, ConvLSTM3d, ConvGRU1d, ConvGRU2d, ConvGRU3d]
CELLS = [ConvLSTM1d, ConvGRU1d]
SITES = {1: (5,), 2: (3, 4), 3: (2, 3, 2)}


def parts(state):
    return (state,) if isinstance(state, torch.Tensor) else tuple(state)


def like(layer, state):
    """What the layer takes and gives: a pair for the LSTM, one tensor for the GRU."""
    return tuple(state) if layer.cell == "lstm" else state[0]


def plain_loop(layer, x, state=None):
    """One layer, "same", without masks, as one would write it; x (N, T, C, *S)."""
    convolve = (F.conv1d, F.conv2d, F.conv3d)[layer.rank - 1]

    def same(h, weight, bias=None):
        sides = [side for k in reversed(weight.shape[2:]) for side in ((k - 1) // 2, k // 2)]
        return convolve(F.pad(h, sides), weight, bias)

    zeros = x.new_zeros(x.shape[0], layer.hidden_size, *x.shape[3:])
    state = [zeros, zeros][: 2 if layer.cell == "lstm" else 1] if state is None else [part[0] for part in state]
    outputs = []
    for t in range(x.shape[1]):
        a, r = same(x[:, t], layer.weight_ih_l0, layer.bias_l0), same(state[0], layer.weight_hh_l0)
        if layer.cell == "lstm":
            i, f, g, o = (a + r).chunk(4, 1)
            c = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
            state = [o.sigmoid() * c.tanh(), c]
        else:
            (a_r, a_z, a_n), (r_r, r_z, r_n) = a.chunk(3, 1), r.chunk(3, 1)
            bias = layer.bias_hn_l0.view(-1, *(1,) * layer.rank)
            z = (a_z + r_z).sigmoid()
            state = [(1 - z) * (a_n + (a_r + r_r).sigmoid() * (r_n + bias)).tanh() + z * state[0]]
        outputs.append(state[0])
    return torch.stack(outputs, 1), tuple(part[None] for part in state)


def random_state(layer, N, sites, **options):
    shape = (layer.spec.num_layers * layer.spec.directions, N, layer.hidden_size, *sites)
    return [torch.randn(shape, **options) for _ in range(2 if layer.cell == "lstm" else 1)]


# The values -----------------------------------------------------------------------------------------------------------


def as_conv(ours, theirs):
    """nn.LSTM's or nn.GRU's weights in a layer of kernel size 1, its two biases merged into one."""
    values = {}
    for name, parameter in theirs.named_parameters():
        kind, _, suffix = name.rpartition("_l")
        if kind.startswith("weight"):
            values[name] = parameter[..., None]
        elif kind == "bias_ih":
            hidden = getattr(theirs, f"bias_hh_l{suffix}").clone()
            if "bias_hn_l0" in ours.state_dict():
                values[f"bias_hn_l{suffix}"] = hidden[-ours.hidden_size :].clone()
                hidden[-ours.hidden_size :] = 0  # the GRU's third block stays inside the reset gate
            values[f"bias_l{suffix}"] = parameter + hidden
    ours.load_state_dict(values)
    return ours


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("kind", "torchs"), [(ConvLSTM1d, nn.LSTM), (ConvGRU1d, nn.GRU)])
def test_with_kernel_size_1_and_one_site_it_is_the_recurrent_layer_of_torch(kind, torchs, bidirectional):
    theirs = torchs(3, 4, num_layers=2, bidirectional=bidirectional, batch_first=True, dtype=torch.float64)
    ours = kind(3, 4, 1, num_layers=2, bidirectional=bidirectional, dtype=torch.float64)
    ours = as_conv(ours, theirs)
    x = torch.randn(2, 6, 3, dtype=torch.float64)
    start = [part[..., 0] for part in random_state(ours, 2, (1,), dtype=torch.float64)]

    want_leaves = [leaf.clone().requires_grad_() for leaf in (x, *start)]
    want, want_state = theirs(want_leaves[0], like(ours, want_leaves[1:]))
    leaves = [leaf[..., None].clone().requires_grad_() for leaf in (x, *start)]
    got, state = ours(leaves[0], like(ours, leaves[1:]))

    torch.testing.assert_close(got[..., 0], want, rtol=0, atol=1e-13)
    for ours_part, theirs_part in zip(parts(state), parts(want_state), strict=True):
        torch.testing.assert_close(ours_part[..., 0], theirs_part, rtol=0, atol=1e-13)

    weights = torch.randn_like(want)
    ((want * weights).sum() + sum(part.sin().sum() for part in parts(want_state))).backward()
    ((got[..., 0] * weights).sum() + sum(part.sin().sum() for part in parts(state))).backward()
    for ours_leaf, theirs_leaf in zip(leaves, want_leaves, strict=True):
        torch.testing.assert_close(ours_leaf.grad[..., 0], theirs_leaf.grad, rtol=0, atol=1e-12)
    for name, parameter in ours.named_parameters():
        source = {"bias_l": "bias_ih_l", "bias_hn_l": "bias_hh_l"}
        kind_of, _, suffix = name.rpartition("_l")
        wanted = getattr(theirs, source.get(f"{kind_of}_l", f"{kind_of}_l") + suffix).grad
        grad = parameter.grad.reshape(parameter.shape[:2])
        torch.testing.assert_close(grad.reshape(-1), wanted.reshape(-1)[-grad.numel() :], rtol=0, atol=1e-12)


@pytest.mark.parametrize("kernel_size", [3, 2, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_without_a_mask_and_with_nothing_masked_it_is_the_plain_loop(kind, kernel_size):
    layer = kind(2, 3, kernel_size, dtype=torch.float64)
    x = torch.randn(2, 4, 2, *SITES[layer.rank], dtype=torch.float64)
    state = random_state(layer, 2, SITES[layer.rank], dtype=torch.float64)
    want, want_state = plain_loop(layer, x, state)
    masks = [None, torch.ones(2, 4), torch.ones(2, 4, *SITES[layer.rank]), torch.ones_like(x)]
    for mask in masks:
        got, got_state = layer(x, like(layer, state), mask=mask)
        torch.testing.assert_close(got, want, rtol=0, atol=1e-13)
        torch.testing.assert_close(parts(got_state), want_state, rtol=0, atol=1e-13)


def test_an_input_without_gaps_takes_any_form_of_mask():
    layer, x = ConvLSTM1d(2, 3, 3), torch.randn(2, 4, 2, 5)
    masks = [torch.ones(2, 4, dtype=dtype) for dtype in (torch.bool, torch.uint8, torch.int64, torch.float32)]
    want, _ = layer(x)
    for mask in [*masks, torch.ones(2, 4, 5), torch.ones(2, 4, 2, 5)]:
        torch.testing.assert_close(layer(x, mask=mask)[0], want, rtol=0, atol=0)


def test_a_mask_may_be_a_numpy_array_and_lengths_a_list():
    layer, x = ConvLSTM1d(2, 3, 3), torch.randn(2, 4, 2, 5)
    mask = torch.rand(2, 4) < 0.5
    assert torch.equal(layer(x, mask=mask.numpy())[0], layer(x, mask=mask)[0])
    assert torch.equal(layer(x, lengths=[4, 1])[0], layer(x, lengths=torch.tensor([4, 1]))[0])


@pytest.mark.parametrize("kind", CELLS)
def test_a_masked_output_is_zero_or_the_held_state(kind):
    options = {"input_size": 2, "hidden_size": 3, "kernel_size": 3}
    zero, hold = kind(**options), kind(**options, masked_output="hold")
    hold.load_state_dict(zero.state_dict())
    x, state = torch.randn(1, 5, 2, 4), random_state(zero, 1, (4,))
    mask = torch.tensor([[False, True, False, False, True]])
    zeros, _ = zero(x, like(zero, state), mask=mask)
    held, _ = hold(x, like(hold, state), mask=mask)
    assert torch.equal(zeros[0, [0, 2, 3]], torch.zeros(3, 3, 4))
    assert torch.equal(held[0, 0], state[0][0, 0])
    assert torch.equal(held[0, 1], zeros[0, 1])
    assert torch.equal(held[0, 2], held[0, 1])
    assert torch.equal(held[0, 3], held[0, 1])
    assert torch.equal(held[0, 4], zeros[0, 4])


# The parameters -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_are_named_and_shaped_as_torchs(kind):
    sizes = (3, 2, 4)[: kind.rank]
    layer = kind(2, 5, sizes, num_layers=2, bidirectional=True, recurrent_kernel_size=3)
    gates, hidden = (20 if layer.cell == "lstm" else 15), (3,) * kind.rank
    want = {}
    for index, channels in enumerate((2, 10)):
        for suffix in (f"l{index}", f"l{index}_reverse"):
            want[f"weight_ih_{suffix}"] = (gates, channels, *sizes)
            want[f"weight_hh_{suffix}"] = (gates, 5, *hidden)
            want[f"bias_{suffix}"] = (gates,)
            if layer.cell == "gru":
                want[f"bias_hn_{suffix}"] = (5,)
    assert {name: tuple(parameter.shape) for name, parameter in layer.named_parameters()} == want
    assert not list(layer.buffers())


def test_without_bias_there_are_weights_only():
    assert list(ConvGRU1d(2, 3, 3, bias=False).state_dict()) == ["weight_ih_l0", "weight_hh_l0"]


def test_the_forget_gate_starts_open():
    layer = ConvLSTM2d(2, 4, 3, num_layers=2)
    for name in ("bias_l0", "bias_l1"):
        i, f, g, o = getattr(layer, name).chunk(4)
        assert (f == 1).all()
        assert not torch.cat([i, g, o]).any()
    assert not ConvGRU1d(2, 4, 3).bias_l0.any()


def test_weights_start_as_those_of_a_convolution():
    layer = ConvLSTM2d(4, 8, 3)
    for weight, fan_in in ((layer.weight_ih_l0, 4 * 9), (layer.weight_hh_l0, 8 * 9)):
        bound = fan_in**-0.5
        assert weight.abs().max() <= bound
        assert weight.abs().max() > 0.95 * bound
        assert weight.mean().abs() < 0.05 * bound
    before = layer.weight_ih_l0.clone()
    layer.reset_parameters()
    assert not torch.equal(layer.weight_ih_l0, before)


def test_device_and_dtype_reach_every_parameter():
    layer = ConvGRU1d(2, 3, 3, num_layers=2, device="meta", dtype=torch.float64)
    assert {(parameter.device.type, parameter.dtype) for parameter in layer.parameters()} == {("meta", torch.float64)}


@pytest.mark.parametrize(
    ("layer", "shown"),
    [
        (lambda: ConvLSTM1d(3, 64, 3, window=8), "ConvLSTM1d(3, 64, kernel_size=(3,), window=8)"),
        (lambda: ConvGRU2d(3, 8, (3, 5)), "ConvGRU2d(3, 8, kernel_size=(3, 5))"),
        (
            lambda: ConvLSTM1d(3, 8, 3, recurrent_kernel_size=5, bidirectional=True, masked_output="hold"),
            "ConvLSTM1d(3, 8, kernel_size=(3,), recurrent_kernel_size=(5,), bidirectional=True, masked_output='hold')",
        ),
        (lambda: ConvGRU3d(1, 2, 1, channels_last=True), "ConvGRU3d(1, 2, kernel_size=(1, 1, 1), channels_last=True)"),
    ],
)
def test_repr_shows_the_sizes_and_what_is_not_at_its_default(layer, shown):
    assert repr(layer()) == shown


# Copies ---------------------------------------------------------------------------------------------------------------


def saved_and_loaded(layer):
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    fresh = ConvLSTM1d(2, 3, 3, num_layers=2, bidirectional=True)
    fresh.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    return fresh


@pytest.mark.parametrize(
    "copied",
    [saved_and_loaded, copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))],  # noqa: S301 # our own bytes
    ids=["state_dict", "deepcopy", "pickle"],
)
def test_a_copy_computes_the_same_and_shares_nothing(copied):
    layer, x = ConvLSTM1d(2, 3, 3, num_layers=2, bidirectional=True), torch.randn(2, 4, 2, 5)
    mask = torch.rand(2, 4, 5) < 0.5
    want, _ = layer(x, mask=mask)
    want.sum().backward()  # a layer that has been trained is copied, too
    twin = copied(layer)
    assert repr(twin) == repr(layer)
    assert torch.equal(twin(x, mask=mask)[0], want)
    with torch.no_grad():
        layer.weight_hh_l0.zero_()
    assert torch.equal(twin(x, mask=mask)[0], want)


# Layouts and states ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_channels_last_is_the_same_with_the_channels_last(kind):
    first, last = (kind(2, 3, 3, num_layers=2, channels_last=flag, dtype=torch.float64) for flag in (False, True))
    last.load_state_dict(first.state_dict())
    x = torch.randn(2, 4, 2, *SITES[kind.rank], dtype=torch.float64)
    state = random_state(first, 2, SITES[kind.rank], dtype=torch.float64)
    elements = torch.rand(x.shape) < 0.4
    steps, sites = elements[:, :, 0].flatten(2).any(-1), elements.any(2)
    for mask, mask_last in ((steps, steps), (sites, sites), (elements, elements.movedim(2, -1))):
        want, want_state = first(x, like(first, state), mask=mask)
        got, got_state = last(x.movedim(2, -1), like(last, [part.movedim(2, -1) for part in state]), mask=mask_last)
        torch.testing.assert_close(got.movedim(-1, 2), want, rtol=0, atol=1e-14)
        for got_part, want_part in zip(parts(got_state), parts(want_state), strict=True):
            torch.testing.assert_close(got_part.movedim(-1, 2), want_part, rtol=0, atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_output_and_state_have_the_shapes_of_torchs(kind):
    layer = kind(2, 3, 3, num_layers=2, bidirectional=True, stride=2)
    output, state = layer(torch.randn(2, 4, 2, *SITES[kind.rank]))
    out = tuple(-(-size // 2) for size in SITES[kind.rank])
    assert output.shape == (2, 4, 6, *out)
    assert isinstance(state, tuple if layer.cell == "lstm" else torch.Tensor)
    assert [part.shape for part in parts(state)] == [(4, 2, 3, *out)] * len(parts(state))


@pytest.mark.parametrize("kind", CELLS)
def test_a_stream_may_be_read_in_pieces(kind):
    """Each row's state goes on where it stood, also where the piece before ended in a gap."""
    layer = kind(2, 3, 3, num_layers=2, dtype=torch.float64)
    x, mask = torch.randn(3, 9, 2, 5, dtype=torch.float64), torch.rand(3, 9) < 0.5
    want, want_state = layer(x, mask=mask)
    pieces, state = [], None
    for piece in (slice(0, 4), slice(4, 5), slice(5, 9)):
        output, state = layer(x[:, piece], state, mask=mask[:, piece])
        pieces.append(output)
    torch.testing.assert_close(torch.cat(pieces, 1), want, rtol=0, atol=1e-14)
    torch.testing.assert_close(parts(state), parts(want_state), rtol=0, atol=1e-14)


@pytest.mark.parametrize("kind", CELLS)
def test_the_last_output_is_the_last_state(kind):
    layer = kind(2, 3, 3, num_layers=2, bidirectional=True)
    output, state = layer(torch.randn(2, 4, 2, 5))
    h = parts(state)[0]
    assert torch.equal(output[:, -1, :3], h[2])
    assert torch.equal(output[:, 0, 3:], h[3])


@pytest.mark.parametrize("arguments", [{}, {"mask": torch.ones(2, 4)}, {"lengths": torch.tensor([4, 2])}], ids=list)
@pytest.mark.parametrize("kind", CELLS)
def test_shapes_can_be_had_on_the_meta_device(kind, arguments):
    """As tools do that look at a model before there is memory for it."""
    layer = kind(2, 3, 3, num_layers=2, device="meta")
    arguments = {name: value.to("meta") for name, value in arguments.items()}
    output, state = layer(torch.empty(2, 4, 2, 5, device="meta"), **arguments)
    assert output.shape == (2, 4, 3, 5)
    assert {tuple(part.shape) for part in parts(state)} == {(2, 2, 3, 5)}
    assert {part.device.type for part in (output, *parts(state))} == {"meta"}


# Edges of size --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("masked", [False, True])
def test_no_steps_give_the_initial_state_and_an_empty_output(kind, masked):
    layer = kind(2, 3, 3, num_layers=2, bidirectional=True)
    state = [part.requires_grad_() for part in random_state(layer, 4, (5,))]
    mask = torch.ones(4, 0, dtype=torch.bool) if masked else None
    output, final = layer(torch.randn(4, 0, 2, 5), like(layer, state), mask=mask)
    assert output.shape == (4, 0, 6, 5)
    assert all(torch.equal(got, given) for got, given in zip(parts(final), state, strict=True))
    (output.sum() + sum(part.sum() for part in parts(final))).backward()
    assert all(torch.equal(part.grad, torch.ones_like(part)) for part in state)
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in layer.parameters())


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("masked", [False, True])
def test_no_rows_give_an_empty_output(kind, masked):
    layer = kind(2, 3, 3, num_layers=2, bidirectional=True)
    mask = torch.ones(0, 4, dtype=torch.bool) if masked else None
    output, state = layer(torch.randn(0, 4, 2, 5), mask=mask)
    assert output.shape == (0, 4, 6, 5)
    assert all(part.shape == (4, 0, 3, 5) for part in parts(state))
    output.sum().backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in layer.parameters())


def test_a_series_of_no_events_and_a_series_without_rows():
    layer = ConvLSTM1d(2, 3, 3, window=4)
    output, (h, c) = layer(torch.randn(2, 0, 2))
    assert output.shape == (2, 0, 3)
    assert h.shape == c.shape == (1, 2, 3, 4)
    output, (h, c) = layer(torch.randn(0, 7, 2), mask=torch.ones(0, 7))
    assert output.shape == (0, 7, 3)
    assert h.shape == (1, 0, 3, 4)


# The package ----------------------------------------------------------------------------------------------------------


def test_the_public_names_are_the_six_layers():
    assert set(gapcell.torch.__all__) == {kind.__name__ for kind in KINDS}
