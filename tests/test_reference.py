"""The oracle against what is not ours, numbers worked by hand and torch.nn; its edge cases and refusals."""

import math
import runpy
from pathlib import Path

import numpy as np
import pytest

from gapcell.laws.cases import make_params, make_spec, normal
from gapcell.reference import conv_rnn


def sigmoid(a):
    return 1 / (1 + math.exp(-a))


def test_one_lstm_step_by_hand():
    spec = make_spec(in_channels=1, filters=1, kernel_size=1)
    params = {
        "kernel": np.array([0.5, -0.3, 0.8, 0.1]).reshape(1, 1, 4),
        "recurrent_kernel": np.array([0.2, 0.4, -0.6, 0.7]).reshape(1, 1, 4),
        "bias": np.array([0.0, 1.0, 0.1, -0.2]),
    }
    x, h, c = 2.0, 0.5, -1.0
    i = sigmoid(0.5 * x + 0.2 * h)
    f = sigmoid(-0.3 * x + 0.4 * h + 1.0)
    g = math.tanh(0.8 * x - 0.6 * h + 0.1)
    o = sigmoid(0.1 * x + 0.7 * h - 0.2)
    want_c = f * c + i * g
    want_h = o * math.tanh(want_c)
    y, (h1, c1) = conv_rnn(params, [[[[x]]]], spec, state=([[[h]]], [[[c]]]))
    assert y.item() == pytest.approx(want_h, rel=1e-15)
    assert (h1.item(), c1.item()) == pytest.approx((want_h, want_c), rel=1e-15)


def test_one_gru_step_by_hand():
    spec = make_spec(cell="gru", in_channels=1, filters=1, kernel_size=1)
    params = {
        "kernel": np.array([0.5, -0.3, 0.8]).reshape(1, 1, 3),
        "recurrent_kernel": np.array([0.2, 0.4, -0.6]).reshape(1, 1, 3),
        "bias": np.array([0.3, 1.0, 0.1]),
        "recurrent_bias": np.array([-0.4]),
    }
    x, h = 2.0, 0.5
    r = sigmoid(0.5 * x + 0.2 * h + 0.3)
    z = sigmoid(-0.3 * x + 0.4 * h + 1.0)
    n = math.tanh(0.8 * x + 0.1 + r * (-0.6 * h - 0.4))
    want = (1 - z) * n + z * h
    y, h1 = conv_rnn(params, [[[[x]]]], spec, state=[[[[h]]]])
    assert (y.item(), h1.item()) == pytest.approx((want, want), rel=1e-15)


def test_neighbours_are_read_left_to_right_and_masked_ones_keep_their_state():
    # Two sites, kernel 3, only g and the recurrent g are not zero: c' = c/2 + tanh(g)/2.
    spec = make_spec(in_channels=1, filters=1)
    kernel, recurrent = np.zeros((3, 1, 4)), np.zeros((3, 1, 4))
    kernel[:, 0, 2], recurrent[:, 0, 2] = [0.1, 0.2, 0.4], [1.0, 2.0, 4.0]
    params = {"kernel": kernel, "recurrent_kernel": recurrent, "bias": np.zeros(4)}
    x, h, c = [[[[3.0], [np.nan]]]], [[[0.5], [0.25]]], [[[1.0], [7.0]]]
    y, (h1, c1) = conv_rnn(params, x, spec, mask=[[[True, False]]], state=(h, c))
    want_c = 1.0 / 2 + math.tanh(0.2 * 3.0 + 2.0 * 0.5 + 4.0 * 0.25) / 2  # site 1 gives x~ = 0 and its held h = 0.25
    want_h = math.tanh(want_c) / 2
    np.testing.assert_allclose(y[0, 0, :, 0], [want_h, 0.0], rtol=1e-15)
    np.testing.assert_allclose(h1[0, 0, :, 0], [want_h, 0.25], rtol=1e-15)
    np.testing.assert_allclose(c1[0, 0, :, 0], [want_c, 7.0], rtol=1e-15)


def from_torch_rnn(module, cell):
    """The parameters of nn.LSTM or nn.GRU with kernel 1, their two biases merged into ours."""
    cells = []
    for layer in range(module.num_layers):
        for suffix in ("", "_reverse")[: 2 if module.bidirectional else 1]:
            w_ih, w_hh, b_ih, b_hh = (
                getattr(module, f"{name}_l{layer}{suffix}").detach().numpy()
                for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            params = {"kernel": w_ih.T[None], "recurrent_kernel": w_hh.T[None], "bias": b_ih + b_hh}
            if cell == "gru":
                F = len(b_hh) // 3
                params["bias"] = np.concatenate([(b_ih + b_hh)[: 2 * F], b_ih[2 * F :]])
                params["recurrent_bias"] = b_hh[2 * F :]
            cells.append(params)
    return cells


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize(("layers", "bidirectional"), [(1, False), (2, False), (1, True), (3, True)])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_kernel_1_and_one_site_is_torch_nn(cell, layers, bidirectional, ragged):
    torch = pytest.importorskip("torch", reason="compares with torch.nn.LSTM and GRU")
    torch.manual_seed(0)
    N, T, C, F = 4, 6, 3, 5
    module = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[cell](
        C, F, layers, bidirectional=bidirectional, batch_first=True, dtype=torch.float64
    )
    x, lengths = normal(N, T, C), np.array([6, 1, 4, 2])
    slots = layers * module.bidirectional + layers
    h, c = normal(slots, N, F, seed=2), normal(slots, N, F, seed=3)
    start = (torch.from_numpy(h), torch.from_numpy(c)) if cell == "lstm" else torch.from_numpy(h)
    given = torch.from_numpy(x)
    if ragged:
        given = torch.nn.utils.rnn.pack_padded_sequence(given, lengths, batch_first=True, enforce_sorted=False)
    want, want_state = module(given, start)
    if ragged:
        want, _ = torch.nn.utils.rnn.pad_packed_sequence(want, batch_first=True, total_length=T)
    spec = make_spec(cell=cell, in_channels=C, filters=F, kernel_size=1, num_layers=layers, bidirectional=bidirectional)
    start = (h[:, :, None], c[:, :, None]) if cell == "lstm" else h[:, :, None]
    y, state = conv_rnn(
        from_torch_rnn(module, cell), x[:, :, None], spec, lengths=lengths if ragged else None, state=start
    )
    np.testing.assert_allclose(y[:, :, 0], want.detach().numpy(), rtol=1e-12, atol=1e-14)
    for got, wanted in zip(*((part,) if cell == "gru" else part for part in (state, want_state)), strict=True):
        np.testing.assert_allclose(got[:, :, 0], wanted.detach().numpy(), rtol=1e-12, atol=1e-14)


def test_window_1_and_kernel_1_is_a_masked_lstm():
    torch = pytest.importorskip("torch", reason="compares with torch.nn.LSTM")
    module = torch.nn.LSTM(2, 3, batch_first=True, dtype=torch.float64)
    spec = make_spec(kernel_size=1, window=1)
    x, mask = normal(4, 9, 2), np.random.default_rng(0).random((4, 9)) < 0.5
    y, _ = conv_rnn(from_torch_rnn(module, "lstm"), x, spec, mask=mask)
    for n in range(4):
        want, _ = module(torch.from_numpy(x[n, mask[n]]))
        np.testing.assert_allclose(y[n, mask[n]], want.detach().numpy(), rtol=1e-12, atol=1e-14)


CONVOLUTIONS = {
    "odd kernel": {"kernel_size": 5},
    "even kernel": {"kernel_size": 4},
    "kernel larger than the input": {"kernel_size": 11},
    "stride": {"kernel_size": 3, "stride": 2},
    "stride beyond the kernel": {"kernel_size": 2, "stride": 3},
    "dilation": {"kernel_size": 3, "dilation": 2},
    "even kernel, stride and dilation": {"kernel_size": 2, "stride": 2, "dilation": 3},
    "valid": {"kernel_size": 3, "padding": "valid"},
    "valid, stride and dilation": {"kernel_size": 2, "stride": 3, "dilation": 2, "padding": "valid"},
}


@pytest.mark.parametrize("options", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_convolutions_are_torchs(rank, options):
    torch = pytest.importorskip("torch", reason="compares with torch.nn.functional.conv1d, 2d and 3d")
    conv = {1: torch.conv1d, 2: torch.conv2d, 3: torch.conv3d}[rank]
    if rank == 3 and options["kernel_size"] == 11:
        options = {"kernel_size": 7}
    spec = make_spec(rank=rank, recurrent_kernel_size=2 if rank == 3 else 4, **options)
    params, sites = make_params(spec), (6, 5, 4)[:rank]
    x = normal(2, 2, *sites, 2)

    def convolve(a, kernel, lefts, stride=1, dilation=1):
        """Pads so far on the right that nothing is missing; the caller cuts to the outputs he wants."""
        a, kernel = torch.from_numpy(np.moveaxis(a, -1, 1).copy()), torch.from_numpy(kernel).movedim((-1, -2), (0, 1))
        a = torch.nn.functional.pad(a, [side for left in reversed(lefts) for side in (left, 40)])
        return np.moveaxis(conv(a, kernel, stride=stride, dilation=dilation).numpy(), 1, -1)

    k, stride, dilation = options["kernel_size"], options.get("stride", 1), options.get("dilation", 1)
    K = dilation * (k - 1) + 1
    valid = options.get("padding") == "valid"
    outputs = tuple((L - K) // stride + 1 if valid else math.ceil(L / stride) for L in sites)
    cut = (slice(None), *(slice(n) for n in outputs))
    h = c = np.zeros((2, *outputs, 3))
    want = []
    for t in range(2):
        a = convolve(x[:, t], params[0]["kernel"], [0 if valid else (K - 1) // 2] * rank, stride, dilation)[cut]
        left = (spec.recurrent_kernel_size[0] - 1) // 2
        r = convolve(h, params[0]["recurrent_kernel"], [left] * rank)[cut]
        i, f, g, o = np.split(a + r + params[0]["bias"], 4, axis=-1)
        c = c / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
        h = np.tanh(c) / (1 + np.exp(-o))
        want.append(h)
    y, _ = conv_rnn(params, x, spec)
    np.testing.assert_allclose(y, np.stack(want, axis=1), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("L", "k", "stride", "left"), [(6, 3, 2, 0), (5, 3, 2, 1), (7, 5, 3, 2), (6, 4, 1, 1), (7, 2, 3, 0)]
)
def test_keras_places_the_zeros_of_a_stride_as_keras_does(L, k, stride, left):
    # `left` is the padding_left of TensorFlow's formula for "SAME", worked by hand.
    spec = make_spec(kernel_size=k, stride=stride, same_padding="keras")
    params, x = make_params(spec), normal(1, 1, L, 2)
    shifted = np.pad(x, [(0, 0), (0, 0), (left, 20), (0, 0)])
    valid, outputs = make_spec(kernel_size=k, stride=stride, padding="valid"), math.ceil(L / stride)
    want, _ = conv_rnn(params, shifted, valid)
    y, _ = conv_rnn(params, x, spec)
    np.testing.assert_allclose(y, want[:, :, :outputs], rtol=1e-12, atol=1e-15)


def test_causal_reads_no_site_to_the_right():
    spec = make_spec(causal=True, kernel_size=3, dilation=2, stride=2)
    params, x = make_params(spec), normal(1, 3, 9, 2)
    y, _ = conv_rnn(params, x, spec)
    x[:, :, 5:] += 1
    changed, _ = conv_rnn(params, x, spec)
    np.testing.assert_array_equal(changed[:, :, :3], y[:, :, :3])  # output 2 reads input sites 0, 2, 4
    assert (changed[:, :, 3:] != y[:, :, 3:]).all()


@pytest.mark.parametrize("options", [{}, {"window": 4}], ids=str)
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_no_steps_return_the_state_and_no_samples_an_empty_output(cell, options):
    spec = make_spec(cell=cell, num_layers=2, **options)
    params, sites = make_params(spec), () if options else (4,)
    h = normal(2, 3, 4, 3)
    state = (h, 2 * h) if cell == "lstm" else h
    y, after = conv_rnn(params, np.zeros((3, 0, *sites, 2)), spec, state=state)
    assert y.shape == (3, 0, *sites, 3)
    np.testing.assert_array_equal(after, state)
    y, after = conv_rnn(params, np.zeros((0, 5, *sites, 2)), spec)
    assert y.shape == (0, 5, *sites, 3)
    assert np.asarray(after).shape[-4:] == (2, 0, 4, 3)


def test_inputs_are_not_changed():
    spec = make_spec(masked_output="hold")
    given = [normal(2, 3, 4, 2), np.ones((2, 3, 4)), np.array([2, 3]), np.ones(4), normal(1, 2, 4, 3)]
    given[0][0, 0], given[1][0, 0] = np.nan, np.nan
    before = [array.copy() for array in given]
    x, mask, lengths, domain, h = given
    params = make_params(spec)
    y, after = conv_rnn(params, x, spec, mask=mask, lengths=lengths, domain=domain, state=(h, h))
    for array, copy in zip(given, before, strict=True):
        np.testing.assert_array_equal(array, copy)
    assert not any(np.shares_memory(result, array) for result in (y, *after) for array in given)
    for name, array in make_params(spec)[0].items():
        np.testing.assert_array_equal(params[0][name], array)


def test_without_bias_there_are_no_bias_keys():
    spec = make_spec(cell="gru", bias=False)
    (params,), x = make_params(spec), normal(2, 3, 4, 2)
    assert set(params) == {"kernel", "recurrent_kernel"}
    zeros = params | {"bias": np.zeros(9), "recurrent_bias": np.zeros(3)}
    np.testing.assert_array_equal(conv_rnn(params, x, spec)[0], conv_rnn(zeros, x, make_spec(cell="gru"))[0])


REFUSALS = {
    "rank of x": ({"x": (2, 3, 2)}, r"`x` has shape \(2, 3, 2\), expected \(N, T, L, 2\); .* needs `window`"),
    "channels of x": ({"x": (2, 3, 4, 5)}, r"`x` has shape \(2, 3, 4, 5\), expected \(N, T, L, 2\)"),
    "no sites": ({"x": (2, 3, 0, 2)}, r"`x` has shape \(2, 3, 0, 2\)"),
    "mask": (
        {"mask": np.ones((3, 2))},
        r"`mask` has shape \(3, 2\), expected \(2, 3\) or \(2, 3, 4\) or \(2, 3, 4, 2\)",
    ),
    "mask to broadcast": ({"mask": np.ones((2, 3, 1))}, r"`mask` has shape \(2, 3, 1\)"),
    "mask values": ({"mask": np.full((2, 3), 0.5)}, "`mask` holds 0.5, expected only 0 and 1"),
    "mask dtype": ({"mask": np.full((2, 3), "yes")}, "`mask` has dtype <U3, expected bool"),
    "lengths shape": ({"lengths": [3]}, r"`lengths` has shape \(1,\), expected \(2,\) or \(2, 2\)"),
    "lengths dtype": ({"lengths": [3.0, 3.0]}, "`lengths` has dtype float64, expected integers"),
    "lengths too long": (
        {"lengths": [3, 4]},
        r"`lengths` holds \[0, 4\] \(start, stop\), expected 0 <= start <= stop <= 3",
    ),
    "lengths negative": ({"lengths": [-1, 3]}, r"`lengths` holds \[0, -1\]"),
    "lengths crossed": ({"lengths": [[2, 1], [0, 3]]}, r"`lengths` holds \[2, 1\]"),
    "domain": ({"domain": np.ones((4, 2))}, r"`domain` has shape \(4, 2\), expected \(2, 4\) or \(4,\)"),
    "state shape": (
        {"state": (np.zeros((1, 2, 4, 2)),) * 2},
        r"`state`: h has shape \(1, 2, 4, 2\), expected \(1, 2, 4, 3\)",
    ),
    "state alone": ({"state": np.zeros((1, 2, 4, 3))}, "`state` has 1 arrays, expected 2: h, c"),
    "params count": ({"params": []}, "`params` has 0 entries, expected 1"),
    "params keys": (
        {"params": {"kernel": np.zeros((3, 2, 12))}},
        r"`params\[0\]` has \['kernel'\], expected \['bias', ",
    ),
    "valid": (
        {"spec": {"kernel_size": 5, "padding": "valid"}},
        r"covers 5 sites under padding=\"valid\", but `x` has sites \(4,\)",
    ),
}


@pytest.mark.parametrize(("given", "message"), REFUSALS.values(), ids=REFUSALS)
def test_refusals_name_the_argument_and_both_shapes(given, message):
    given = dict(given)
    spec = make_spec(**given.pop("spec", {}))
    x = np.zeros(given.pop("x", (2, 3, 4, 2)))
    params = given.pop("params", make_params(spec))
    with pytest.raises(ValueError, match=message):
        conv_rnn(params, x, spec, **given)


def test_a_parameter_of_the_wrong_shape_is_refused():
    spec = make_spec()
    params = make_params(spec)[0] | {"bias": np.zeros(9)}
    with pytest.raises(ValueError, match=r"`params\[0\]`: bias has shape \(9,\), expected \(12,\)"):
        conv_rnn(params, normal(2, 3, 4, 2), spec)


def test_the_numpy_example_runs(capsys):
    runpy.run_path(str(Path(__file__).parents[1] / "examples" / "numpy_masked_convlstm.py"))
    printed = capsys.readouterr().out
    assert "output (32, 10, 64) state (1, 32, 5, 64) (1, 32, 5, 64)" in printed
    assert "all finite: True · masked events give zero: True" in printed
    assert printed.rstrip().endswith("without its masked events: 0.0")
