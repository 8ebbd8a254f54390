"""PackedSequence in, PackedSequence out, as with nn.LSTM."""

import pytest

pytest.importorskip("torch", reason="these are tests of the torch layers")

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence, pad_packed_sequence

from gapcell.torch import ConvGRU1d, ConvLSTM1d, ConvLSTM2d

LENGTHS = torch.tensor([2, 5, 1, 4])  # in no order
UNSORTED = {"batch_first": True, "enforce_sorted": False}


def parts(state):
    return (state,) if isinstance(state, torch.Tensor) else tuple(state)


def rows(*shape):
    return [torch.randn(int(length), *shape, dtype=torch.float64) for length in LENGTHS]


@pytest.mark.parametrize(
    ("kind", "shape", "options"),
    [
        (ConvLSTM1d, (2, 5), {}),
        (ConvGRU1d, (2, 5), {"num_layers": 2, "bidirectional": True}),
        (ConvLSTM2d, (3, 4, 2), {"channels_last": True}),
        (ConvLSTM1d, (2,), {"window": 2}),
        (ConvGRU1d, (2,), {"window": 2, "bidirectional": True}),
    ],
)
def test_a_packed_sequence_is_the_padded_one_with_lengths(kind, shape, options):
    layer = kind(2, 3, 3, dtype=torch.float64, **options)
    packed = pack_sequence(rows(*shape), enforce_sorted=False)
    padded, lengths = pad_packed_sequence(packed, batch_first=True)
    assert torch.equal(lengths, LENGTHS)
    got, got_state = layer(packed)
    want, want_state = layer(padded, lengths=lengths)

    assert isinstance(got, PackedSequence)
    unpacked, got_lengths = pad_packed_sequence(got, batch_first=True)
    assert torch.equal(got_lengths, LENGTHS)
    assert torch.equal(unpacked, want)
    assert all(torch.equal(one, other) for one, other in zip(parts(got_state), parts(want_state), strict=True))


def test_rows_keep_the_callers_order():
    """Output, initial and final state belong to the rows as they were packed, not as they are sorted inside."""
    layer = ConvLSTM1d(2, 3, 3, dtype=torch.float64)
    sequences = rows(2, 5)
    state = tuple(torch.randn(1, 4, 3, 5, dtype=torch.float64) for _ in "hc")
    output, (h, c) = layer(pack_sequence(sequences, enforce_sorted=False), state)
    unpacked, _ = pad_packed_sequence(output, batch_first=True)
    for row, sequence in enumerate(sequences):
        want, want_state = layer(sequence[None], tuple(part[:, row : row + 1] for part in state))
        torch.testing.assert_close(unpacked[row, : len(sequence)], want[0], rtol=0, atol=1e-14)
        torch.testing.assert_close(h[:, row], want_state[0][:, 0], rtol=0, atol=1e-14)
        torch.testing.assert_close(c[:, row], want_state[1][:, 0], rtol=0, atol=1e-14)


def test_how_it_was_packed_is_kept():
    layer = ConvGRU1d(2, 3, 3)
    packed = pack_padded_sequence(torch.randn(4, 5, 2, 6), LENGTHS, **UNSORTED)
    output, _ = layer(packed)
    assert output.data.shape == (12, 3, 6)
    for name in ("batch_sizes", "sorted_indices", "unsorted_indices"):
        assert torch.equal(getattr(output, name), getattr(packed, name))


def test_sorted_rows_need_no_indices():
    layer = ConvGRU1d(2, 3, 3)
    packed = pack_padded_sequence(torch.randn(3, 5, 2, 6), torch.tensor([5, 3, 3]), batch_first=True)
    output, _ = layer(packed)
    assert packed.sorted_indices is None
    assert output.sorted_indices is None
    assert output.unsorted_indices is None


def test_padding_beyond_the_longest_row_is_dropped_as_torch_drops_it():
    layer = ConvGRU1d(2, 3, 3)
    x = torch.randn(2, 8, 2, 6)
    output, _ = layer(pack_padded_sequence(x, torch.tensor([3, 5]), **UNSORTED))
    unpacked, lengths = pad_packed_sequence(output, batch_first=True)
    assert lengths.tolist() == [3, 5]
    assert unpacked.shape == (2, 5, 3, 6)
    torch.testing.assert_close(unpacked, layer(x, lengths=torch.tensor([3, 5]))[0][:, :5], rtol=0, atol=0)


def test_packed_layers_stack():
    below, above = ConvLSTM1d(2, 3, 3, dtype=torch.float64), ConvLSTM1d(3, 4, 3, dtype=torch.float64)
    padded, lengths = pad_packed_sequence(packed := pack_sequence(rows(2, 5), enforce_sorted=False), batch_first=True)
    got, _ = pad_packed_sequence(above(below(packed)[0])[0], batch_first=True)
    want, _ = above(below(padded, lengths=lengths)[0], lengths=lengths)
    assert torch.equal(got, want)


def test_it_is_nn_lstm_read_both_ways():
    theirs = nn.LSTM(2, 3, bidirectional=True, batch_first=True, dtype=torch.float64)
    ours = ConvLSTM1d(2, 3, 1, bidirectional=True, dtype=torch.float64)
    with torch.no_grad():
        for suffix in ("l0", "l0_reverse"):
            for name in ("weight_ih", "weight_hh"):
                getattr(ours, f"{name}_{suffix}").copy_(getattr(theirs, f"{name}_{suffix}")[..., None])
            bias = getattr(theirs, f"bias_ih_{suffix}") + getattr(theirs, f"bias_hh_{suffix}")
            getattr(ours, f"bias_{suffix}").copy_(bias)
    sequences = rows(2)
    want, want_state = theirs(pack_sequence(sequences, enforce_sorted=False))
    got, state = ours(pack_sequence([sequence[..., None] for sequence in sequences], enforce_sorted=False))
    torch.testing.assert_close(got.data[..., 0], want.data, rtol=0, atol=1e-14)
    for ours_part, theirs_part in zip(state, want_state, strict=True):
        torch.testing.assert_close(ours_part[..., 0], theirs_part, rtol=0, atol=1e-14)


def test_gradients_pass_through():
    layer = ConvLSTM1d(2, 3, 3, dtype=torch.float64)
    x = torch.randn(4, 5, 2, 6, dtype=torch.float64)
    one, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    output, _ = layer(pack_padded_sequence(one, LENGTHS, **UNSORTED))
    unpacked, _ = pad_packed_sequence(output, batch_first=True)
    got = torch.autograd.grad(unpacked.sin().sum(), [one, *layer.parameters()])
    want = torch.autograd.grad(layer(other, lengths=LENGTHS)[0].sin().sum(), [other, *layer.parameters()])
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w, rtol=0, atol=1e-13)


def test_a_domain_may_stand_beside_it():
    layer = ConvGRU1d(2, 3, 3)
    x, domain = torch.randn(4, 5, 2, 6), torch.rand(4, 6) < 0.6
    output, _ = layer(pack_padded_sequence(x, LENGTHS, **UNSORTED), domain=domain)
    want, _ = layer(x, lengths=LENGTHS, domain=domain)
    assert torch.equal(pad_packed_sequence(output, batch_first=True)[0], want)
