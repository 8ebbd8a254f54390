"""Law 14, counted instead of timed: the rows that reach a convolution are the observed (row, step) pairs.

Of the path without the compiled kernel; tests/native has the kernel's.
"""

from collections import Counter

import pytest

pytest.importorskip("torch", reason="these are tests of the torch layers")

import torch

from gapcell.torch import ConvGRU1d, ConvLSTM1d, ConvLSTM2d
from gapcell.torch.convolution import Convolution
from gapcell.torch.rows import Rows

pytestmark = pytest.mark.usefixtures("no_kernel")

KINDS = [ConvLSTM1d, ConvGRU1d, ConvLSTM2d]
N, T = 6, 8


@pytest.fixture
def rows(monkeypatch):
    """Rows that reached each kind of convolution, by the method's name."""
    counted = Counter()

    def count(name):
        original = getattr(Convolution, name)

        def counting(self, x, *arguments):
            counted[name] += x.shape[0]
            return original(self, x, *arguments)

        monkeypatch.setattr(Convolution, name, counting)

    for name in ("forward", "input_gradient", "weight_gradient"):
        count(name)
    return counted


def train(layer, **arguments):
    x = torch.randn(N, T, 2, *(4,) * layer.rank).requires_grad_()
    layer(x, **arguments)[0].sum().backward()


def a_quarter():
    """Two of eight steps in each row, at places of its own."""
    return torch.stack([torch.randperm(T) < T // 4 for _ in range(N)])


def cost(rows, layer, **arguments):
    rows.clear()
    train(layer, **arguments)
    return dict(rows)


def assert_a_quarter_of_the_work(rows, layer):
    full = cost(rows, layer)
    # Two convolutions forward, of the input and of the state; backward the gradients of both their operands.
    assert full == {"forward": 2 * N * T, "input_gradient": 2 * N * T, "weight_gradient": 2 * N * T}
    assert cost(rows, layer, mask=a_quarter()) == {name: count // 4 for name, count in full.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_quarter_of_the_steps_is_a_quarter_of_the_work(rows, kind):
    assert_a_quarter_of_the_work(rows, kind(2, 3, 3))


@pytest.mark.parametrize("kind", KINDS)
def test_ragged_rows_cost_their_lengths(rows, kind):
    lengths = torch.tensor([8, 5, 0, 1, 3, 3])
    got = cost(rows, kind(2, 3, 3), lengths=lengths)
    assert set(got.values()) == {2 * int(lengths.sum())}


def test_every_layer_and_direction_skips_them(rows):
    mask = a_quarter()
    got = cost(rows, ConvLSTM1d(2, 3, 3, num_layers=3, bidirectional=True), mask=mask)
    assert got["forward"] == 3 * 2 * 2 * int(mask.sum())


def test_a_step_with_one_observed_site_is_computed_and_one_without_is_not(rows):
    mask = torch.zeros(N, T, 4, dtype=torch.bool)
    mask[0, 3, 1] = mask[2, 5, 0] = mask[2, 6] = True
    got = cost(rows, ConvLSTM1d(2, 3, 3), mask=mask)
    assert set(got.values()) == {2 * 3}


def test_a_wholly_masked_batch_costs_nothing(rows):
    assert cost(rows, ConvGRU1d(2, 3, 3), mask=torch.zeros(N, T)) == {}


def test_a_series_costs_its_windows(rows):
    """Ten events in windows of four are three steps, whatever lies between them."""
    layer = ConvLSTM1d(2, 3, 4, window=4, causal=True)
    mask = torch.zeros(1, 40)
    mask[0, torch.randperm(40)[:10]] = 1
    layer(torch.randn(1, 40, 2), mask=mask)
    assert rows["forward"] == 2 * 3


def test_inference_costs_the_observed_steps_too(rows):
    mask = a_quarter()
    with torch.no_grad():
        ConvLSTM1d(2, 3, 3)(torch.randn(N, T, 2, 4), mask=mask)
    assert rows == {"forward": 2 * int(mask.sum())}


def test_under_predict_a_missing_step_is_computed_and_padding_is_not(rows):
    lengths = torch.tensor([8, 5, 0, 1, 3, 3])
    got = cost(rows, ConvLSTM1d(2, 3, 3, gap="predict"), mask=a_quarter(), lengths=lengths)
    assert got["forward"] == 2 * int(lengths.sum())


def test_a_layer_that_computes_masked_steps_is_caught(rows, monkeypatch):
    """The count can fail: this mutant does not look at the mask when it chooses what to compute."""
    monkeypatch.setattr(Rows, "where_active", lambda active: Rows.everything(*active.shape))
    with pytest.raises(AssertionError):
        assert_a_quarter_of_the_work(rows, ConvLSTM1d(2, 3, 3))
