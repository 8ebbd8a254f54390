"""The oracle's masks, gaps, directions and series, against deletion, reversal and loops written from the definition."""

import warnings

import numpy as np
import pytest

from gapcell.laws.cases import make_params, make_spec, normal
from gapcell.reference import conv_rnn


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_masked_step_is_a_deleted_step(cell):
    spec = make_spec(cell=cell)
    params, x = make_params(spec), normal(3, 7, 4, 2)
    mask = np.random.default_rng(0).random((3, 7)) < 0.6
    x[~mask] = np.nan
    y, state = conv_rnn(params, x, spec, mask=mask)
    for n in range(3):
        want, want_state = conv_rnn(params, x[n : n + 1, mask[n]], spec)
        np.testing.assert_array_equal(y[n, mask[n]], want[0])
        np.testing.assert_array_equal(np.asarray(state)[..., n, :, :], np.asarray(want_state)[..., 0, :, :])
    assert (y[~mask] == 0).all()


def test_the_three_mask_ranks_say_the_same():
    spec = make_spec(rank=2)
    params, x = make_params(spec), normal(2, 5, 3, 4, 2)
    steps = np.random.default_rng(0).random((2, 5)) < 0.5
    sites = np.broadcast_to(steps[:, :, None, None], (2, 5, 3, 4))
    elements = np.broadcast_to(sites[..., None], x.shape)
    y, _ = conv_rnn(params, x, spec, mask=steps)
    for mask in (sites, elements, steps.astype(int), steps.astype(np.float32), np.where(steps, 1.0, np.nan)):
        np.testing.assert_array_equal(conv_rnn(params, x, spec, mask=mask)[0], y)


def test_a_site_with_one_channel_observed_steps_and_reads_zero_for_the_other():
    spec = make_spec()
    params, x = make_params(spec), normal(2, 5, 4, 2)
    mask = np.random.default_rng(0).random(x.shape) < 0.5
    y, _ = conv_rnn(params, np.where(mask, x, np.inf), spec, mask=mask)
    filled, _ = conv_rnn(params, np.where(mask, x, 0.0), spec, mask=mask.any(axis=-1))
    np.testing.assert_array_equal(y, filled)
    assert not mask.all(axis=-1)[mask.any(axis=-1)].all()


RULES = [  # sites observed -> output sites that step
    ({"kernel_size": 3}, "1011 0", "1011 0"),
    ({"kernel_size": 4}, "1011 0", "1011 0"),
    ({"kernel_size": 3, "mask_rule": "all"}, "1111 0", "1110 0"),
    ({"kernel_size": 3, "mask_rule": "any"}, "1000 1", "1101 1"),
    ({"kernel_size": 3, "padding": "valid"}, "1110 1", "1 00"),
    ({"kernel_size": 3, "padding": "valid", "mask_rule": "centre"}, "1010 1", "0 10"),
    ({"kernel_size": 3, "padding": "valid", "mask_rule": "any"}, "1000 0", "1 00"),
    ({"kernel_size": 2, "padding": "valid", "dilation": 3}, "1011 0", "1 0"),
    ({"kernel_size": 2, "padding": "valid", "dilation": 3, "mask_rule": "any"}, "0110 1", "0 1"),
    ({"kernel_size": 3, "stride": 2}, "1011 0", "110"),
    ({"kernel_size": 2, "dilation": 20, "mask_rule": "all"}, "1011 0", "1011 0"),  # no tap inside: the centre
    ({"kernel_size": 2, "dilation": 20, "mask_rule": "any"}, "1011 0", "1011 0"),
    ({"kernel_size": 3, "causal": True}, "1011 0", "1011 0"),
    ({"kernel_size": 3, "causal": True, "mask_rule": "all"}, "1111 0", "1111 0"),
    ({"kernel_size": 3, "causal": True, "mask_rule": "any"}, "1000 0", "1110 0"),
]


@pytest.mark.parametrize(("options", "observed", "steps"), RULES, ids=[f"{o} {a}" for o, a, _ in RULES])
def test_how_a_site_mask_passes_the_convolution(options, observed, steps):
    observed, steps = ([int(digit) for digit in text.replace(" ", "")] for text in (observed, steps))
    spec = make_spec(**options)
    y, _ = conv_rnn(make_params(spec), normal(1, 1, 5, 2), spec, mask=[[observed]])
    assert (y[0, 0] != 0).all(axis=-1).tolist() == [bool(step) for step in steps]


def test_held_outputs_are_the_state():
    spec = make_spec(masked_output="hold")
    params, x, h, c = make_params(spec), normal(1, 4, 5, 2), normal(1, 5, 3), normal(1, 5, 3)
    y, (h1, c1) = conv_rnn(params, x, spec, mask=[[False, True, False, False]], state=(h, c))
    np.testing.assert_array_equal(y[:, 0], h)
    np.testing.assert_array_equal(y[:, 2:], np.stack([y[:, 1], y[:, 1]], axis=1))
    np.testing.assert_array_equal(h1[0], y[:, 1])
    assert (c1[0] != c).all()


def test_predict_steps_through_missing_values_with_zero_input():
    spec, hold = make_spec(gap="predict"), make_spec()
    params, x = make_params(spec), normal(2, 6, 4, 2)
    mask = np.random.default_rng(0).random((2, 6, 4)) < 0.5
    y, state = conv_rnn(params, np.where(mask[..., None], x, np.nan), spec, mask=mask, lengths=[6, 6])
    want, want_state = conv_rnn(params, np.where(mask[..., None], x, 0.0), hold)
    np.testing.assert_array_equal(y, want)
    np.testing.assert_array_equal(state, want_state)


@pytest.mark.parametrize("gap", ["hold", "predict"])
def test_steps_beyond_the_lengths_do_not_exist(gap):
    spec = make_spec(gap=gap, num_layers=2, bidirectional=True)
    params, x = make_params(spec), normal(2, 6, 4, 2)
    mask = np.random.default_rng(0).random((2, 6, 4)) < 0.7
    lengths = np.array([[1, 5], [0, 3]])
    y, (h, c) = conv_rnn(params, x, spec, mask=mask, lengths=lengths)
    for n, (start, stop) in enumerate(lengths):
        cut = slice(start, stop)
        want, (want_h, want_c) = conv_rnn(
            params, x[n : n + 1, cut], spec, mask=mask[n : n + 1, cut], lengths=[stop - start]
        )
        np.testing.assert_array_equal(y[n, cut], want[0])
        np.testing.assert_array_equal([h[:, n], c[:, n]], [want_h[:, 0], want_c[:, 0]])
        assert not y[n, :start].any()
        assert not y[n, stop:].any()


@pytest.mark.parametrize("gap", ["hold", "predict"])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2}, {"padding": "valid", "stride": 2}], ids=str)
def test_sites_outside_the_domain_do_not_exist(gap, options):
    spec = make_spec(gap=gap, rank=2, **options)
    params, x = make_params(spec), normal(2, 4, 7, 9, 2)
    domain = np.zeros((7, 9), dtype=bool)
    domain[:5, :7] = True
    y, _ = conv_rnn(params, x, spec, domain=domain)
    want, _ = conv_rnn(params, x[:, :, :5, :7], spec)
    H, W = want.shape[2:4]
    np.testing.assert_array_equal(y[:, :, :H, :W], want)
    assert not y[:, :, H:].any()
    assert not y[:, :, :, W:].any()
    np.testing.assert_array_equal(conv_rnn(params, x, spec, domain=np.stack([domain, domain]))[0], y)


def test_the_initial_state_is_zero_outside_the_domain():
    spec = make_spec()
    h, c = normal(2, 4, 3), normal(2, 4, 3)
    _, (h1, c1) = conv_rnn(make_params(spec), normal(2, 0, 4, 2), spec, domain=[1, 1, 0, 1], state=(h, c))
    assert not h1[0][:, 2].any()
    assert not c1[0][:, 2].any()
    np.testing.assert_array_equal(h1[0][:, [0, 1, 3]], h[:, [0, 1, 3]])


def test_predict_warns_of_what_looks_like_padding():
    spec = make_spec(gap="predict")
    params, x = make_params(spec), normal(2, 3, 4, 2)
    padded, inside = [[1, 1, 1], [1, 1, 0]], [[1, 0, 1], [1, 1, 1]]
    with pytest.warns(UserWarning, match="begins or ends in steps without any observation"):
        conv_rnn(params, x, spec, mask=padded)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        conv_rnn(params, x, spec, mask=inside)
        conv_rnn(params, x, spec, mask=padded, lengths=[3, 3])
        conv_rnn(params, x, make_spec(), mask=padded)


def test_go_backwards_is_the_run_of_the_reversed_sequence():
    spec, forwards = make_spec(go_backwards=True, num_layers=2), make_spec(num_layers=2)
    params, x = make_params(spec), normal(2, 5, 4, 2)
    mask = np.random.default_rng(0).random((2, 5, 4)) < 0.6
    y, _ = conv_rnn(params, x, spec, mask=mask, lengths=[[1, 4], [0, 5]])
    want, _ = conv_rnn(params, x[:, ::-1], forwards, mask=mask[:, ::-1], lengths=[[1, 4], [0, 5]])
    np.testing.assert_array_equal(y, want)


def test_bidirectional_is_both_directions_side_by_side():
    spec, one = make_spec(bidirectional=True), make_spec()
    params, x = make_params(spec), normal(2, 5, 4, 2)
    mask = np.random.default_rng(0).random((2, 5)) < 0.6
    y, (h, _) = conv_rnn(params, x, spec, mask=mask)
    ahead, (h_ahead, _) = conv_rnn(params[0], x, one, mask=mask)
    back, (h_back, _) = conv_rnn(params[1], x[:, ::-1], one, mask=mask[:, ::-1])
    np.testing.assert_array_equal(y, np.concatenate([ahead, back[:, ::-1]], axis=-1))
    np.testing.assert_array_equal(h, np.concatenate([h_ahead, h_back]))


def run_events(params, events, spec, h, c):
    """One row's events (M, C) in Python loops over events and taps: event e reads event numbers, never windows."""
    W, k, F = spec.window, spec.kernel_size[0], spec.filters
    left = k - 1 if spec.causal else (k - 1) // 2
    out = {site - W: (h[site], c[site]) for site in range(W)}  # events -W .. -1 are the initial state
    for e, _ in enumerate(events):
        first = e - e % W  # the first event of e's window
        z = params["bias"].copy()
        for j in range(k):
            source = e + j - left
            if first <= source < min(first + W, len(events)):
                z += events[source] @ params["kernel"][j]
            if first - W <= source - W < first:  # the same site one window before, or the window before that by (17)
                z += out[source - W][0] @ params["recurrent_kernel"][j]
            elif first - 2 * W <= source - W < first - W:
                z += out[source][0] @ params["recurrent_kernel"][j]
        i, f, g, o = (z[block * F : (block + 1) * F] for block in range(4))
        new_c = out[e - W][1] / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
        out[e] = np.tanh(new_c) / (1 + np.exp(-o)), new_c
    return np.array([out[e][0] for e in range(len(events))]).reshape(-1, F)


@pytest.mark.parametrize("W", [1, 2, 3, 5])
@pytest.mark.parametrize(("causal", "k"), [(True, 1), (True, 3), (True, 8), (False, 3), (False, 4), (False, 9)])
def test_a_series_is_a_loop_over_its_kept_events(W, causal, k):
    spec = make_spec(window=W, causal=causal, kernel_size=k)
    params, x = make_params(spec), normal(3, 12, 2)
    h, c = normal(3, W, 3, seed=2), normal(3, W, 3, seed=3)
    mask = np.random.default_rng(0).random((3, 12)) < [[0.7], [1.0], [0.0]]
    x[~mask] = np.nan
    y, _ = conv_rnn(params, x, spec, mask=mask, state=(h, c))
    for n in range(3):
        np.testing.assert_allclose(
            y[n, mask[n]], run_events(params[0], x[n, mask[n]], spec, h[n], c[n]), rtol=1e-12, atol=1e-14
        )
    assert not y[~mask].any()


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("place", ["left", "right", "inside"])
def test_a_masked_event_is_a_deleted_event(cell, place):
    spec = make_spec(cell=cell, window=3, bidirectional=True, num_layers=2)
    params, x = make_params(spec), normal(2, 8, 2)
    at = {"left": [0, 0], "right": [8, 8], "inside": [2, 5]}[place]
    longer, mask = np.insert(x, at, np.nan, axis=1), np.insert(np.ones((2, 8), dtype=bool), at, False, axis=1)
    want, want_state = conv_rnn(params, x, spec)
    y, state = conv_rnn(params, longer, spec, mask=mask)
    np.testing.assert_array_equal(y[mask].reshape(want.shape), want)
    np.testing.assert_array_equal(state, want_state)


@pytest.mark.parametrize("W", [1, 3, 4])
def test_a_causal_event_sees_every_one_of_the_last_window_events(W):
    spec = make_spec(window=W, causal=True, kernel_size=W)
    params, x = make_params(spec), normal(1, 12, 2)
    y, _ = conv_rnn(params, x, spec)
    for source in range(12):
        other = x.copy()
        other[:, source] += 1
        changed = (conv_rnn(params, other, spec)[0] != y).any(axis=-1)[0]
        assert not changed[:source].any()
        assert changed[source : source + W + 1].all()


def test_held_outputs_of_a_series():
    spec = make_spec(window=2, causal=True, masked_output="hold")
    h, c = normal(1, 2, 3), normal(1, 2, 3)
    y, _ = conv_rnn(make_params(spec), normal(1, 5, 2), spec, mask=[[0, 1, 0, 0, 1]], state=(h, c))
    np.testing.assert_array_equal(y[0, 0], h[0, 1])
    np.testing.assert_array_equal(y[0, 2:4], y[0, [1, 1]])


def test_the_lengths_and_the_domain_of_a_series_speak_of_events():
    spec = make_spec(window=3, gap="predict")
    params, x, mask = make_params(spec), normal(2, 8, 2), np.random.default_rng(0).random((2, 8)) < 0.5
    y, _ = conv_rnn(params, x, spec, mask=mask, lengths=[[1, 7], [0, 8]], domain=[1, 1, 1, 0, 1, 1, 1, 1])
    kept = [[1, 2, 4, 5, 6], [0, 1, 2, 4, 5, 6, 7]]
    for n, events in enumerate(kept):
        want, _ = conv_rnn(params, x[n : n + 1, events], spec, mask=mask[n : n + 1, events], lengths=[len(events)])
        np.testing.assert_array_equal(y[n, events], want[0])
        assert not np.delete(y[n], events, axis=0).any()
