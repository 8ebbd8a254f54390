"""Series of events, (N, S, C) with `window`: what an event sees, and that gaps and padding are not there."""

import pytest

pytest.importorskip("torch", reason="these are tests of the torch layers")

import torch
from torch import nn

from gapcell.torch import ConvGRU1d, ConvLSTM1d

CELLS = [ConvLSTM1d, ConvGRU1d]
W = 3


def make(kind=ConvLSTM1d, **options):
    return kind(2, 4, W, **({"window": W, "causal": True, "dtype": torch.float64} | options))


def parts(state):
    return (state,) if isinstance(state, torch.Tensor) else tuple(state)


def events(N, S):
    return torch.randn(N, S, 2, dtype=torch.float64)


def sees(layer, S, **arguments):
    """(S, S): how much output event s depends on input event e, by gradients; changed inputs must tell the same."""
    x = events(1, S).requires_grad_()
    output, _ = layer(x, **arguments)
    rows = [torch.autograd.grad(output[0, s].sum(), x, retain_graph=True)[0][0].abs().sum(-1) for s in range(S)]
    seen = torch.stack(rows)
    with torch.no_grad():
        changed = [layer(x + torch.eye(S)[event, :, None], **arguments)[0] - output for event in range(S)]
    moved = torch.stack([change[0].abs().sum(-1) for change in changed], 1)
    assert torch.equal(moved > 0, seen > 0)
    return seen


def assert_same(got, want):
    torch.testing.assert_close(got, want, rtol=0, atol=1e-13)


# What an event sees ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel_size", [W, W + 2])
@pytest.mark.parametrize("kind", CELLS)
def test_every_event_sees_each_of_the_w_events_before_it_and_no_later_one(kind, kernel_size):
    """On whichever site of its window it falls: the positions run through four windows."""
    S = 4 * W
    seen = sees(kind(2, 4, kernel_size, window=W, causal=True, dtype=torch.float64), S)
    for s in range(S):
        nearest = seen[s, max(0, s - W) : s + 1]
        assert (nearest > 0).all(), f"event {s} is blind to events {s - W + (nearest == 0).nonzero().flatten()}"
        assert not seen[s, s + 1 :].any(), f"event {s} sees a later one"


@pytest.mark.parametrize("masked", [[], [0, 1], [4], [2, 3, 4, 5, 6], [1, 4, 5, 9]])
def test_it_sees_the_w_observed_events_before_it(masked):
    """Masked events take no place in a window, wherever they stand; none of them is seen."""
    S = 4 * W
    observed = torch.ones(1, S, dtype=torch.bool)
    observed[0, masked] = False
    seen = sees(make(), S, mask=observed)
    kept = observed[0].nonzero().flatten()
    compacted = seen[kept][:, kept]
    for place in range(len(kept)):
        assert (compacted[place, max(0, place - W) : place + 1] > 0).all()
    assert not seen.triu(1).any()
    assert not seen[:, masked].any()
    assert not seen[masked].any()


def test_a_shorter_recurrent_kernel_is_blind_to_some_of_them():
    """The test above can fail; the constructor warns of this."""
    with pytest.warns(UserWarning, match="does not see all of the 3 events before it"):
        layer = make(recurrent_kernel_size=1)
    seen = sees(layer, 2 * W)
    assert seen[W, W - 1] == 0


def test_without_causal_it_sees_later_events_of_its_own_window():
    seen = sees(make(causal=False), 2 * W)
    assert seen[0, 1] > 0


def test_layers_above_see_no_later_event_either():
    seen = sees(make(num_layers=3), 3 * W)
    assert not seen.triu(1).any()
    assert (seen[-1] > 0).all()


# Gaps -----------------------------------------------------------------------------------------------------------------


def run(layer, x, present, **arguments):
    """Outputs of the present events, final states, gradients of these events and of the parameters; x is (S, C)."""
    x = x.clone().requires_grad_()
    layer.zero_grad()
    output, state = layer(x[None], **arguments)
    weights = torch.linspace(-1, 1, int(present.sum()), dtype=torch.float64)[:, None]
    ((output[0, present] * weights).sum() + sum(part.sin().sum() for part in parts(state))).backward()
    assert not x.grad[~present].any()
    return [output[0, present], *parts(state), x.grad[present], *(p.grad.clone() for p in layer.parameters())]


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("options", [{}, {"num_layers": 2}, {"causal": False, "bidirectional": True}])
@pytest.mark.parametrize("hidden", [torch.nan, 10.0], ids=["padding", "deleted"])
def test_left_padding_inserted_and_deleted_events_are_the_same(kind, options, hidden):
    layer, x = make(kind, **options), events(1, 7)[0]
    want = run(layer, x, torch.ones(7, dtype=torch.bool))
    for pattern in (".ooooooo", "....ooooooo", "ooo.oooo", "ooooooo.", "ooooooo....", ".o..ooo.oo..o.."):
        present = torch.tensor([place == "o" for place in pattern])
        longer = torch.full((len(pattern), 2), hidden, dtype=torch.float64)
        longer[present] = x
        for one, other in zip(run(layer, longer, present, mask=present[None]), want, strict=True):
            assert_same(one, other)


def test_a_deleted_event_is_not_the_same_as_one_that_is_there():
    layer, x = make(), events(1, 7)
    mask = torch.ones(1, 7, dtype=torch.bool)
    mask[0, 2] = False
    assert (layer(x, mask=mask)[0][0, 3:] - layer(x)[0][0, 3:]).abs().max() > 1e-3


def test_a_missing_channel_takes_no_events_place():
    """An element mask: an event with one channel observed is an event, the other channel reads 0."""
    layer, x = make(), events(2, 7)
    mask = torch.rand(2, 7, 2) < 0.7
    mask[:, 3] = False
    got, _ = layer(x.masked_fill(~mask, torch.nan), mask=mask)
    want, _ = layer(x.masked_fill(~mask, 0), mask=mask.any(-1))
    assert_same(got, want)


def test_held_outputs_repeat_the_event_before():
    layer = make(masked_output="hold")
    state = [torch.randn(1, 1, 4, W, dtype=torch.float64) for _ in "hc"]
    mask = torch.tensor([[False, True, False, True, False]])
    output, _ = layer(events(1, 5), tuple(state), mask=mask)
    assert torch.equal(output[0, 0], state[0][0, 0, :, -1])  # the last site: the event just before this series
    assert torch.equal(output[0, 2], output[0, 1])
    assert torch.equal(output[0, 4], output[0, 3])


@pytest.mark.parametrize("kind", CELLS)
def test_a_series_may_be_split_where_a_window_ends(kind):
    layer, x = make(kind, num_layers=2), events(2, 4 * W)
    want, want_state = layer(x)
    first, state = layer(x[:, :W])
    second, state = layer(x[:, W : 3 * W], state)
    third, state = layer(x[:, 3 * W :], state)
    assert_same(torch.cat([first, second, third], 1), want)
    for got_part, want_part in zip(parts(state), parts(want_state), strict=True):
        assert_same(got_part, want_part)


def test_a_series_with_gaps_may_be_split_where_a_window_of_its_events_ends():
    layer, x = make(), events(2, 10)
    mask = torch.tensor([[1, 0, 1, 1, 0, 0, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1, 1, 0, 1, 1]])
    want, _ = layer(x, mask=mask)
    first, state = layer(x[:, :5], mask=mask[:, :5])  # W observed events in each row
    second, _ = layer(x[:, 5:], state, mask=mask[:, 5:])
    assert_same(torch.cat([first, second], 1), want)


@pytest.mark.parametrize(("kind", "torchs"), [(ConvLSTM1d, nn.LSTM), (ConvGRU1d, nn.GRU)])
def test_with_a_window_of_one_it_is_the_recurrent_layer_of_torch_on_the_observed_events(kind, torchs):
    theirs = torchs(2, 4, batch_first=True, dtype=torch.float64)
    ours = kind(2, 4, 1, window=1, dtype=torch.float64)
    with torch.no_grad():
        ours.weight_ih_l0.copy_(theirs.weight_ih_l0[..., None])
        ours.weight_hh_l0.copy_(theirs.weight_hh_l0[..., None])
        bias = theirs.bias_hh_l0.clone()
        if kind is ConvGRU1d:
            ours.bias_hn_l0.copy_(bias[-4:])
            bias[-4:] = 0
        ours.bias_l0.copy_(theirs.bias_ih_l0 + bias)
    x, mask = events(3, 9), torch.rand(3, 9) < 0.6
    mask[2] = False
    got, state = ours(x.masked_fill(~mask[..., None], torch.nan), mask=mask)
    for row in range(3):
        if not mask[row].any():
            assert not got[row].any()
            continue
        want, want_state = theirs(x[row, mask[row]][None])
        assert_same(got[row, mask[row]], want[0])
        assert not got[row, ~mask[row]].any()
        for ours_part, theirs_part in zip(parts(state), parts(want_state), strict=True):
            assert_same(ours_part[0, row, :, 0], theirs_part[0, 0])


# Which events exist ---------------------------------------------------------------------------------------------------


def test_under_predict_a_missing_event_steps_with_zero_input_and_what_does_not_exist_is_deleted():
    hold, predict = make(), make(gap="predict")
    predict.load_state_dict(hold.state_dict())
    x, mask = events(3, 8), torch.rand(3, 8) < 0.5
    lengths = torch.tensor([[0, 8], [2, 7], [0, 0]])
    got, state = predict(x.masked_fill(~mask[..., None], torch.nan), mask=mask, lengths=lengths)
    for row, (start, stop) in enumerate(lengths.tolist()):
        zeroed = x[row : row + 1, start:stop].masked_fill(~mask[row, start:stop, None], 0)
        want, want_state = hold(zeroed)
        assert_same(got[row, start:stop], want[0])
        assert not got[row, :start].any()
        assert not got[row, stop:].any()
        for got_part, want_part in zip(state, want_state, strict=True):
            assert_same(got_part[:, row], want_part[:, 0])


@pytest.mark.parametrize("gap", ["hold", "predict"])
@pytest.mark.parametrize("shared", [False, True])
def test_the_domain_of_a_series_says_which_events_exist(gap, shared):
    layer, x = make(gap=gap), events(2, 8)
    domain = torch.tensor([1, 1, 0, 1, 1, 0, 0, 1], dtype=torch.bool)
    if not shared:
        domain = torch.stack([domain, ~domain])
    mask = torch.rand(2, 8) < 0.7
    lengths = torch.tensor([8, 8])
    got, _ = layer(x, mask=mask, lengths=lengths, domain=domain)
    for row in range(2):
        exists = domain if shared else domain[row]
        present = x[row : row + 1, exists]
        want, _ = layer(present, mask=mask[row : row + 1, exists], lengths=torch.tensor([present.shape[1]]))
        assert_same(got[row, exists], want[0])
        assert not got[row, ~exists].any()


@pytest.mark.parametrize("kind", CELLS)
def test_a_ragged_batch_read_both_ways_is_each_row_read_alone(kind):
    layer = make(kind, causal=False, bidirectional=True, num_layers=2)
    x, lengths = events(4, 10), torch.tensor([10, 4, 7, 1])
    got, state = layer(x, lengths=lengths)
    for row, length in enumerate(lengths.tolist()):
        want, want_state = layer(x[row : row + 1, :length])
        assert_same(got[row, :length], want[0])
        assert not got[row, length:].any()
        for got_part, want_part in zip(parts(state), parts(want_state), strict=True):
            assert_same(got_part[:, row], want_part[:, 0])


@pytest.mark.parametrize("S", [1, W - 1, W, W + 1])
def test_a_series_of_any_length_fills_up_its_last_window(S):
    layer = make()
    x = events(2, S)
    output, (h, _) = layer(x)
    assert output.shape == (2, S, 4)
    last = S % W or W
    if S <= W:
        assert not h[..., last:].any()  # sites that no event reached keep the initial state
    padded, _ = layer(torch.cat([x, events(2, W)], 1), lengths=torch.full((2,), S))
    assert_same(padded[:, :S], output)
