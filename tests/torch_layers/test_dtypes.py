"""Low and high precision: bfloat16 layers, autocast, float64; the yardstick is the float64 layer."""

import copy

import pytest

pytest.importorskip("torch", reason="these are tests of the torch layers")

import torch
import torch.nn.functional as F

from gapcell.torch import ConvGRU1d, ConvLSTM1d, ConvLSTM2d, ConvLSTM3d

KINDS = [ConvLSTM1d, ConvGRU1d, ConvLSTM2d, ConvLSTM3d]
CELLS = [ConvLSTM1d, ConvGRU1d]
SITES = {1: (5,), 2: (3, 4), 3: (3, 4, 3)}


def parts(state):
    return (state,) if isinstance(state, torch.Tensor) else tuple(state)


def gradients(layer, output, cotangent):
    return torch.autograd.grad((output * cotangent).double().sum(), list(layer.parameters()))


def worst(got, want):
    """The largest difference, against the largest value of each."""
    return max(float(((g.double() - w).abs().max() / w.abs().max()).detach()) for g, w in zip(got, want, strict=True))


def plain_lstm(layer, x):
    """The step-by-step loop that a user would run in the same precision."""
    convolve = (F.conv1d, F.conv2d, F.conv3d)[layer.rank - 1]
    h = c = x.new_zeros(x.shape[0], layer.hidden_size, *x.shape[3:])
    outputs = []
    for t in range(x.shape[1]):
        z = convolve(x[:, t], layer.weight_ih_l0, layer.bias_l0, padding=1) + convolve(h, layer.weight_hh_l0, padding=1)
        i, f, g, o = z.chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        outputs.append(h)
    return torch.stack(outputs, 1)


@pytest.mark.parametrize("kind", [ConvLSTM1d, ConvLSTM2d, ConvLSTM3d])
def test_bfloat16_errs_at_most_twice_as_much_as_the_plain_loop(kind):
    low = kind(2, 8, 3, dtype=torch.bfloat16)
    exact = copy.deepcopy(low).double()
    x = torch.randn(2, 6, 2, *SITES[kind.rank]).bfloat16()
    truth, _ = exact(x.double())
    output, state = low(x)
    plain = plain_lstm(low, x)
    assert output.dtype == parts(state)[0].dtype == torch.bfloat16
    eps, cotangent = torch.finfo(torch.bfloat16).eps, torch.randn_like(output)
    assert worst([output], [truth]) <= 2 * worst([plain], [truth]) + 4 * eps
    want = gradients(exact, truth, cotangent.double())
    got = gradients(low, output, cotangent)
    assert {gradient.dtype for gradient in got} == {torch.bfloat16}
    assert worst(got, want) <= 2 * worst(gradients(low, plain, cotangent), want) + 4 * eps


def test_bfloat16_in_3d_with_fewer_sites_than_taps():
    """oneDNN's own weight gradient is garbage there (2 sites, 3 taps), up to infinity; that must not reach a user."""
    low = ConvLSTM3d(2, 8, 3, dtype=torch.bfloat16)
    exact = copy.deepcopy(low).double()
    x = torch.randn(2, 6, 2, 2, 4, 3).bfloat16()
    cotangent = torch.randn(2, 6, 8, 2, 4, 3).bfloat16()
    want = gradients(exact, exact(x.double())[0], cotangent.double())
    assert worst(gradients(low, low(x)[0], cotangent), want) < 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_obeys_the_mask(kind):
    layer = kind(2, 4, 3, dtype=torch.bfloat16)
    x = torch.randn(2, 6, 2, *SITES[kind.rank]).bfloat16()
    mask = torch.rand(x.shape) < 0.6
    got, want = (layer(x.masked_fill(~mask, hidden), mask=mask)[0] for hidden in (torch.nan, 1e30))
    assert torch.equal(got, want)
    cotangent = torch.randn_like(got)
    for one, other in zip(gradients(layer, got, cotangent), gradients(layer, want, cotangent), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("kind", CELLS)
def test_float64_is_exact_to_its_own_rounding(kind):
    """float32 weights and inputs are float64 numbers too, so the two runs differ by float32's rounding only."""
    single = kind(2, 8, 3, num_layers=2)
    x, mask = torch.randn(2, 6, 2, 5), torch.rand(2, 6, 5) < 0.6
    output, state = copy.deepcopy(single).double()(x.double(), mask=mask)
    assert output.dtype == parts(state)[0].dtype == torch.float64
    assert 0 < worst([single(x, mask=mask)[0]], [output]) < 1e-5


@pytest.mark.parametrize("kind", CELLS)
def test_under_autocast_the_output_is_low_and_the_state_is_not(kind):
    layer, x = kind(2, 8, 3, num_layers=2), torch.randn(2, 6, 2, 5)
    mask = torch.rand(2, 6, 2, 5) < 0.7
    want, _ = layer(x, mask=mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, state = layer(x.masked_fill(~mask, torch.nan), mask=mask)
    assert output.dtype == torch.bfloat16
    assert {part.dtype for part in parts(state)} == {torch.float32}
    assert worst([output], [want.double()]) < 0.02
    cotangent = torch.randn_like(want)
    got = gradients(layer, output, cotangent)
    assert {gradient.dtype for gradient in got} == {torch.float32}
    assert worst(got, [gradient.double() for gradient in gradients(layer, want, cotangent)]) < 0.05


def test_under_autocast_a_float_mask_is_read_before_it_is_rounded():
    layer, x = ConvLSTM1d(2, 3, 3), torch.randn(2, 4, 2, 5)
    mask = torch.tensor([[1.0, torch.nan, 1.0, 0.0], [0.0, 1.0, 1.0, torch.nan]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer(x, mask=mask)[0], layer(x, mask=mask == 1)[0])
        with pytest.raises(ValueError, match="holds values other than 0, 1 and NaN"):  # 1 in bfloat16
            layer(x.bfloat16(), mask=torch.full((2, 4), 0.9999))


def test_under_autocast_a_low_precision_input_needs_no_cast_by_the_caller():
    layer, x = ConvLSTM1d(2, 3, 3), torch.randn(2, 4, 2, 5).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, (h, c) = layer(x)
        carried, _ = layer(x, (torch.zeros_like(h).bfloat16(), torch.zeros_like(c)))
    assert torch.equal(carried, output)


def test_under_autocast_a_stream_may_be_read_in_pieces():
    layer, x = ConvLSTM1d(2, 3, 3), torch.randn(2, 4, 2, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        whole, _ = layer(x)
        first, state = layer(x[:, :2])
        second, _ = layer(x[:, 2:], state)
    assert torch.equal(torch.cat([first, second], 1), whole)


def test_a_backward_pass_outside_autocast_is_the_same():
    layer, x = ConvLSTM1d(2, 8, 3), torch.randn(2, 4, 2, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, _ = layer(x)
        inside = gradients(layer, output, torch.ones_like(output))
        output, _ = layer(x)
    for one, other in zip(gradients(layer, output, torch.ones_like(output)), inside, strict=True):
        assert torch.equal(one, other)
