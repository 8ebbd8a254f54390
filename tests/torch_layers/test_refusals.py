"""What the layers refuse, in which words, and what they warn of. Every refusal of shapes names both shapes."""

import re
import warnings

import pytest

pytest.importorskip("torch", reason="these are tests of the torch layers")

import torch
from torch.nn.utils.rnn import pack_sequence

from gapcell.torch import ConvGRU1d, ConvLSTM1d, ConvLSTM2d, ConvLSTM3d

x1d = torch.zeros(2, 4, 3, 5)  # (N, T, C, L)


def refused(message):
    return pytest.raises(ValueError, match=f"^{re.escape(message)}$")


# The input ------------------------------------------------------------------------------------------------------------


def test_a_series_without_a_window():
    """The question people start from: their (batch, steps, features) tensor has no sites."""
    with refused(
        "`input` has shape (32, 10, 3) but ConvLSTM1d expects (N, T, C, L); for a series (N, S, C) make the layer with "
        "window=W (rank 1), the number of events a step"
    ):
        ConvLSTM1d(3, 64, 3)(torch.zeros(32, 10, 3))


def test_a_series_without_a_window_channels_last():
    with pytest.raises(ValueError, match=r"^`input` has shape \(32, 10, 3\) but ConvLSTM1d expects \(N, T, L, C\); "):
        ConvLSTM1d(3, 64, 3, channels_last=True)(torch.zeros(32, 10, 3))


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (ConvLSTM1d(3, 4, 3), (2, 4, 5, 3), "(2, 4, 5, 3), expected (N, T, C, L) with C = input_size = 3"),
        (ConvLSTM1d(3, 4, 3), (2, 4, 3, 5, 5), "(2, 4, 3, 5, 5), expected (N, T, C, L) with C = input_size = 3"),
        (ConvLSTM2d(3, 4, 3), (2, 4, 3, 5), "(2, 4, 3, 5), expected (N, T, C, H, W) with C = input_size = 3"),
        (ConvLSTM3d(3, 4, 3), (2, 3), "(2, 3), expected (N, T, C, D, H, W) with C = input_size = 3"),
        (ConvLSTM2d(3, 4, 3, channels_last=True), (2, 4, 3, 5, 5), "(2, 4, 3, 5, 5), expected (N, T, H, W, C) with"),
        (ConvLSTM1d(3, 4, 3, window=2), (2, 4, 5), "(2, 4, 5), expected (N, S, C) with C = input_size = 3"),
        (ConvLSTM1d(3, 4, 3, window=2), (2, 4, 3, 5), "(2, 4, 3, 5), expected (N, S, C) with C = input_size = 3"),
    ],
)
def test_an_input_of_the_wrong_shape(layer, shape, message):
    with pytest.raises(ValueError, match="^" + re.escape(f"`input` has shape {message}")):
        layer(torch.zeros(shape))


def test_an_input_of_integers():
    with refused(
        "`input` has dtype torch.int64 and shape (2, 4, 3, 5), expected floating point; call input.float()",
    ):
        ConvLSTM1d(3, 4, 3)(x1d.long())


def test_an_input_of_another_precision():
    with refused(
        "`input` has dtype torch.float64, but the parameters have torch.float32 (input shape (2, 4, 3, 5)); "
        "convert one of them, e.g. layer.to(input.dtype)"
    ):
        ConvLSTM1d(3, 4, 3)(x1d.double())


def test_a_kernel_larger_than_the_input():
    with refused(
        '`kernel_size` (3,) with dilation (3,) covers (7,) sites, but the input has only (5,) under padding="valid"; '
        'use padding="same" or a smaller kernel'
    ):
        ConvLSTM1d(3, 4, 3, padding="valid", dilation=3)(x1d)


def test_an_input_without_sites():
    with refused("the input has sites (5, 0), expected at least one on each of the 2 axes"):
        ConvLSTM2d(3, 4, 3)(torch.zeros(2, 4, 3, 5, 0))


# The mask -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2,), (2, 1), (1, 4), (4, 2), (2, 4, 1), (2, 4, 3), (2, 4, 5, 3), (2, 4, 1, 5), ()])
def test_a_mask_that_does_not_fit(shape):
    with refused(
        f"`mask` has shape {shape}, but the input has shape (2, 4, 3, 5): expected (2, 4) or (2, 4, 5) or (2, 4, 3, 5)"
        "; a mask is matched exactly and never broadcast"
    ):
        ConvLSTM1d(3, 4, 3)(x1d, mask=torch.ones(shape))


@pytest.mark.parametrize("shape", [(4,), (1, 4), (4, 1), (4, 4, 1), (1, 4, 4), (4, 1, 1, 4), (4, 4, 4, 4, 1)])
def test_a_mask_that_would_broadcast_where_all_sizes_are_equal(shape):
    with pytest.raises(ValueError, match=re.escape(f"`mask` has shape {shape}, but the input has shape (4, 4, 4, 4)")):
        ConvLSTM1d(4, 4, 3)(torch.zeros(4, 4, 4, 4), mask=torch.ones(shape))


@pytest.mark.parametrize("shape", [(32,), (32, 1), (10, 32), (32, 10, 1), (32, 10, 3, 1)])
def test_a_mask_that_does_not_fit_a_series(shape):
    with pytest.raises(
        ValueError,
        match=re.escape(
            f"`mask` has shape {shape}, but the input has shape (32, 10, 3): expected (32, 10) or (32, 10, 3); a mask"
        ),
    ):
        ConvLSTM1d(3, 4, 3, window=8)(torch.zeros(32, 10, 3), mask=torch.ones(shape))


@pytest.mark.parametrize("value", [2.0, 0.5, -1.0, torch.inf])
def test_a_mask_of_other_values(value):
    """Weights or additive (-inf) masks are other things than masks."""
    mask = torch.ones(2, 4)
    mask[1, 2] = value
    with refused(
        "`mask` holds values other than 0, 1 and NaN; it must be bool, integer or float 0/1 with 1 = observed"
    ):
        ConvLSTM1d(3, 4, 3)(x1d, mask=mask)


# Lengths and domain ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lengths", "said"),
    [
        ([2, 5], "steps 0 to 5 for row 1"),
        ([-1, 2], "steps 0 to -1 for row 0"),
        ([[0, 4], [-1, 3]], "steps -1 to 3 for row 1"),
        ([[3, 2], [0, 4]], "steps 3 to 2 for row 0"),
        ([[0, 4], [1, 5]], "steps 1 to 5 for row 1"),
    ],
)
def test_lengths_beyond_the_input(lengths, said):
    with pytest.raises(ValueError, match=f"^`lengths` says {said}, but the input has 4 steps: expected 0 <= start "):
        ConvLSTM1d(3, 4, 3)(x1d, lengths=torch.tensor(lengths))


def test_lengths_beyond_a_series():
    with pytest.raises(ValueError, match=r"^`lengths` says steps 0 to 8 for row 1, but the input has 7 steps"):
        ConvLSTM1d(3, 4, 3, window=4)(torch.zeros(2, 7, 3), lengths=torch.tensor([7, 8]))


@pytest.mark.parametrize("shape", [(3,), (1,), (4,), (3, 2), (2, 3), (2, 1), (2, 2, 2), ()])
def test_lengths_of_the_wrong_shape(shape):
    with pytest.raises(ValueError, match=f"^`lengths` has shape {re.escape(str(shape))}.*expected \\("):
        ConvLSTM1d(3, 4, 3)(x1d, lengths=torch.ones(shape, dtype=torch.long))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool])
def test_lengths_that_are_no_integers(dtype):
    with refused(f"`lengths` has dtype {dtype}, expected integers counting steps"):
        ConvLSTM1d(3, 4, 3)(x1d, lengths=torch.ones(2, dtype=dtype))


@pytest.mark.parametrize("shape", [(2, 4), (4,), (2, 1), (1, 5), (2, 4, 5), (2, 3, 5), ()])
def test_a_domain_of_the_wrong_shape(shape):
    with refused(
        f"`domain` has shape {shape}, but the input has sites (N, T, *S) = (2, 4, 5): expected (2, 5) or (5,)"
    ):
        ConvLSTM1d(3, 4, 3)(x1d, domain=torch.ones(shape))


@pytest.mark.parametrize("shape", [(2, 4), (4,), (2, 7, 3)])
def test_a_domain_of_the_wrong_shape_for_a_series(shape):
    wanted = rf"^`domain` has shape {re.escape(str(shape))}.*expected \(2, 7\) or \(7,\)$"
    with pytest.raises(ValueError, match=wanted):
        ConvLSTM1d(3, 4, 3, window=4)(torch.zeros(2, 7, 3), domain=torch.ones(shape))


def test_a_domain_of_other_values():
    with pytest.raises(ValueError, match=r"^`domain` holds values other than 0, 1 and NaN"):
        ConvLSTM1d(3, 4, 3)(x1d, domain=torch.full((5,), 0.5))


# The state ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 4, 5), (1, 3, 4, 5), (1, 2, 5, 4), (2, 2, 4, 5), (1, 1, 4, 5)])
def test_a_state_of_the_wrong_shape(shape):
    good = torch.zeros(1, 2, 4, 5)
    layer = ConvLSTM1d(3, 4, 3)
    for name, state in (("h", (torch.zeros(shape), good)), ("c", (good, torch.zeros(shape)))):
        with refused(f"`state` {name} has shape {shape}, expected (1, 2, 4, 5) for this input"):
            layer(x1d, state)


def test_a_state_of_the_wrong_shape_in_other_layouts():
    wrong = torch.zeros(1, 2, 4, 5)
    with refused("`state` h has shape (1, 2, 4, 5), expected (1, 2, 5, 4) for this input"):
        ConvGRU1d(3, 4, 3, channels_last=True)(x1d.movedim(2, -1), wrong)
    with refused("`state` h has shape (1, 2, 4, 5), expected (1, 2, 4, 3) for this input"):
        ConvGRU1d(3, 4, 3, stride=2)(x1d, wrong)
    with refused("`state` h has shape (1, 2, 4, 5), expected (1, 2, 4, 8) for this input"):
        ConvGRU1d(3, 4, 3, window=8)(torch.zeros(2, 10, 3), wrong)


@pytest.mark.parametrize(
    ("layer", "state", "said"),
    [
        (ConvLSTM1d(3, 4, 3), torch.zeros(1, 2, 4, 5), "`state` is Tensor of 1, expected tensors h, c"),
        (ConvLSTM1d(3, 4, 3), (torch.zeros(1, 2, 4, 5),), "`state` is tuple of 1, expected tensors h, c"),
        (ConvLSTM1d(3, 4, 3), (torch.zeros(1, 2, 4, 5), None), "`state` is tuple of 2, expected tensors h, c"),
        (ConvGRU1d(3, 4, 3), (torch.zeros(1, 2, 4, 5),) * 2, "`state` is tuple of 2, expected tensors h"),
    ],
)
def test_a_state_of_the_other_cell(layer, state, said):
    with refused(said):
        layer(x1d, state)


# Combinations ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beside", [{"mask": torch.ones(2, 4)}, {"lengths": torch.tensor([4, 2])}])
def test_lengths_or_a_mask_beside_a_packed_sequence(beside):
    packed = pack_sequence([torch.zeros(4, 3, 5), torch.zeros(2, 3, 5)])
    with refused(
        "`mask` or `lengths` beside a PackedSequence, which carries its own lengths; pad it "
        "(torch.nn.utils.rnn.pad_packed_sequence) to give a mask"
    ):
        ConvLSTM1d(3, 4, 3)(packed, **beside)


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        (
            ConvLSTM1d,
            {"causal": True, "bidirectional": True},
            "`causal` with `bidirectional`: the backward direction reads the future; drop one of them",
        ),
        (ConvLSTM2d, {"causal": True}, "`causal` needs one ordered site axis, but `rank` is 2; use rank 1"),
        (
            ConvLSTM1d,
            {"causal": True, "padding": "valid"},
            '`causal` pads on the left, so `padding` must be "same", but it is "valid"',
        ),
        (
            ConvLSTM1d,
            {"window": 4, "stride": 2},
            '`window` keeps every event\'s place, so it needs stride 1 and padding "same", but stride is (2,) and '
            'padding is "same"',
        ),
        (
            ConvLSTM1d,
            {"window": 4, "padding": "valid"},
            '`window` keeps every event\'s place, so it needs stride 1 and padding "same", but stride is (1,) and '
            'padding is "valid"',
        ),
        (ConvLSTM2d, {"window": 4}, "`window` cuts a series (N, S, C) and needs rank 1, but `rank` is 2"),
        (ConvLSTM1d, {"window": 0}, "`window` is 0, expected an integer of at least 1"),
        (ConvLSTM2d, {"stride": (1, 2, 3)}, "`stride` is (1, 2, 3), expected an integer or 2 of them (rank 2)"),
        (ConvLSTM1d, {"dropout": 1.0}, "`dropout` is 1.0, expected a probability in [0, 1)"),
        (ConvLSTM1d, {"num_layers": 0}, "`num_layers` is 0, expected an integer of at least 1"),
    ],
)
def test_options_that_do_not_go_together(kind, options, said):
    with refused(said):
        kind(3, 4, 3, **options)


# Warnings -------------------------------------------------------------------------------------------------------------

PADDING_LIKE = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
PADDING_WARNING = (
    'gap="predict" steps through missing values, and the mask of a row begins or ends in steps without any '
    "observation. If these are padding, say so with lengths=; if they are real, pass lengths to silence this"
)
SURPRISES = [
    (
        lambda: ConvLSTM1d(3, 4, 3, dropout=0.5),
        "`dropout` acts between layers, and num_layers is 1: it does nothing",
    ),
    (
        lambda: ConvLSTM1d(3, 4, 5, recurrent_kernel_size=3, window=4, causal=True),
        "kernel_size 3 is smaller than window 4: an event does not see all of the 4 events before it; make both "
        "kernels at least as long as the window",
    ),
    (lambda: ConvLSTM1d(3, 4, 3, gap="predict")(x1d, mask=PADDING_LIKE), PADDING_WARNING),
]


@pytest.mark.parametrize(("surprise", "said"), SURPRISES, ids=["dropout", "causal kernel", "padding"])
def test_a_warning_names_the_users_line(surprise, said):
    with pytest.warns(UserWarning, match=f"^{re.escape(said)}$") as caught:
        surprise()
    assert len(caught) == 1
    assert (caught[0].filename, caught[0].lineno) == (__file__, surprise.__code__.co_firstlineno)


@pytest.mark.parametrize(
    "mask",
    [
        torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]]),
        torch.zeros(2, 4),
        PADDING_LIKE[..., None].expand(2, 4, 5),
        PADDING_LIKE[..., None, None].expand(2, 4, 3, 5),
    ],
)
def test_any_mask_that_looks_like_padding_draws_the_warning(mask):
    with pytest.warns(UserWarning, match="these are padding"):
        ConvLSTM1d(3, 4, 3, gap="predict")(x1d, mask=mask)


def test_what_is_no_surprise_draws_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ConvLSTM1d(3, 4, 3, num_layers=2, dropout=0.5)
        ConvLSTM1d(3, 4, 4, window=4, causal=True)
        ConvLSTM1d(3, 4, 3, window=4)
        predict = ConvLSTM1d(3, 4, 3, gap="predict")
        predict(x1d, mask=PADDING_LIKE, lengths=torch.tensor([4, 4]))
        predict(x1d, mask=torch.tensor([[1, 0, 0, 1], [1, 1, 1, 1]]))
        predict(x1d)
        ConvLSTM1d(3, 4, 3)(x1d, mask=PADDING_LIKE)
        partly = torch.ones(2, 4, 5)
        partly[:, -1, 1:] = 0
        predict(x1d, mask=partly)
