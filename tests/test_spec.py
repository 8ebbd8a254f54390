"""Spec: what it refuses and in which words, its round trip, and its arithmetic against counting by brute force."""

import dataclasses
import itertools
import json
import re

import pytest

from gapcell.spec import Spec


def make_spec(**options):
    return Spec(**({"rank": 1, "in_channels": 2, "filters": 3, "kernel_size": 3} | options))


REFUSALS = [
    ({"cell": "rnn"}, "`cell` is 'rnn', expected one of 'lstm', 'gru'"),
    ({"padding": "causal"}, "`padding` is 'causal', expected one of 'same', 'valid'"),
    ({"same_padding": "tf"}, "`same_padding` is 'tf', expected one of 'torch', 'keras'"),
    ({"gap": "skip"}, "`gap` is 'skip', expected one of 'hold', 'predict', 'decay'"),
    ({"masked_output": None}, "`masked_output` is None, expected one of 'zero', 'hold'"),
    ({"mask_rule": "center"}, "`mask_rule` is 'center', expected one of 'centre', 'all', 'any', None"),
    ({"rank": 4}, "`rank` is 4, expected 1, 2 or 3 site axes"),
    ({"rank": True}, "`rank` is True, expected an integer of at least 1"),
    ({"in_channels": 0}, "`in_channels` is 0, expected an integer of at least 1"),
    ({"filters": 2.0}, "`filters` is 2.0, expected an integer of at least 1"),
    ({"num_layers": -1}, "`num_layers` is -1, expected an integer of at least 1"),
    ({"bias": 1}, "`bias` is 1, expected True or False"),
    ({"bidirectional": "yes"}, "`bidirectional` is 'yes', expected True or False"),
    ({"dropout": 1.0}, "`dropout` is 1.0, expected a probability in [0, 1)"),
    ({"input_dropout": -0.1}, "`input_dropout` is -0.1, expected a probability in [0, 1)"),
    ({"recurrent_dropout": True}, "`recurrent_dropout` is True, expected a probability in [0, 1)"),
    ({"recurrent_dropout": float("nan")}, "`recurrent_dropout` is nan, expected a probability in [0, 1)"),
    ({"kernel_size": (3, 3)}, "`kernel_size` is (3, 3), expected an integer or 1 of them (rank 1)"),
    ({"kernel_size": 0}, "`kernel_size` is 0, expected an integer of at least 1"),
    ({"kernel_size": 3.0}, "`kernel_size` is 3.0, expected an integer or 1 of them (rank 1)"),
    ({"stride": -1}, "`stride` is -1, expected an integer of at least 1"),
    ({"rank": 2, "dilation": (1, 0)}, "`dilation` is 0, expected an integer of at least 1"),
    ({"rank": 2, "recurrent_kernel_size": (3,)}, "`recurrent_kernel_size` is (3,), expected an integer or 2 of them"),
    ({"bidirectional": True, "go_backwards": True}, "`bidirectional` already runs backwards; drop `go_backwards`"),
    ({"bidirectional": True, "causal": True}, "`causal` with `bidirectional`: the backward direction reads the future"),
    ({"rank": 2, "causal": True}, "`causal` needs one ordered site axis, but `rank` is 2; use rank 1"),
    ({"causal": True, "padding": "valid"}, '`causal` pads on the left, so `padding` must be "same", but it is "valid"'),
    ({"window": 0}, "`window` is 0, expected an integer of at least 1"),
    ({"window": 4, "rank": 2}, "`window` cuts a series (N, S, C) and needs rank 1, but `rank` is 2"),
    (
        {"window": 4, "stride": 2},
        '`window` keeps every event\'s place, so it needs stride 1 and padding "same", but stride is (2,)',
    ),
    (
        {"window": 4, "padding": "valid"},
        '`window` keeps every event\'s place, so it needs stride 1 and padding "same", but stride is (1,) and pad',
    ),
    ({"window": 4, "mask_rule": "any"}, "`window` keeps every event's place, so `mask_rule` must be "),
]


@pytest.mark.parametrize(("options", "message"), REFUSALS, ids=[str(options) for options, _ in REFUSALS])
def test_refusals_say_what_came_and_what_was_wanted(options, message):
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        make_spec(**options)


def test_a_spec_is_frozen_hashable_and_equal_by_value():
    spec, same = make_spec(kernel_size=3, rank=2), make_spec(kernel_size=[3, 3], rank=2)
    assert spec == same
    assert hash(spec) == hash(same)
    assert len({spec, same, make_spec()}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.filters = 5


def test_sizes_are_spread_over_the_axes():
    spec = make_spec(rank=3, kernel_size=5, stride=(1, 2, 3))
    assert spec.kernel_size == spec.recurrent_kernel_size == (5, 5, 5)
    assert spec.sizes("stride") == (1, 2, 3)
    assert spec.sizes("dilation") == (1, 1, 1)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"cell": "gru", "rank": 2, "kernel_size": (3, 5), "stride": 2, "padding": "valid", "mask_rule": "any"},
        {"window": 8, "causal": True, "recurrent_kernel_size": 5, "num_layers": 3, "dropout": 0.25, "bias": False},
        {"bidirectional": True, "gap": "predict", "masked_output": "hold", "dilation": 2, "input_dropout": 0.1},
    ],
    ids=str,
)
def test_a_spec_survives_json(options):
    spec = make_spec(**options)
    again = Spec.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert again == spec
    assert hash(again) == hash(spec)


def test_from_dict_refuses_unknown_and_missing_options():
    options = make_spec().to_dict()
    with pytest.raises(ValueError, match=r"unknown options \['colour'\]; Spec has \['bias', "):
        Spec.from_dict(options | {"colour": "red"})
    del options["filters"]
    with pytest.raises(ValueError, match=r"options \['filters'\] are missing; Spec cannot be made without them"):
        Spec.from_dict(options)
    with pytest.raises(ValueError, match="`gap` is 'skip'"):
        Spec.from_dict(make_spec().to_dict() | {"gap": "skip"})


def test_parameter_shapes():
    spec = make_spec(rank=2, kernel_size=(3, 5), recurrent_kernel_size=1, num_layers=2, bidirectional=True)
    assert spec.parameter_shapes() == {"kernel": (3, 5, 2, 12), "recurrent_kernel": (1, 1, 3, 12), "bias": (12,)}
    assert spec.parameter_shapes(1) == {"kernel": (3, 5, 6, 12), "recurrent_kernel": (1, 1, 3, 12), "bias": (12,)}
    gru = make_spec(cell="gru")
    assert gru.parameter_shapes() == {
        "kernel": (3, 2, 9),
        "recurrent_kernel": (3, 3, 9),
        "bias": (9,),
        "recurrent_bias": (3,),
    }
    assert make_spec(cell="gru", bias=False).parameter_shapes() == {"kernel": (3, 2, 9), "recurrent_kernel": (3, 3, 9)}


def test_the_layers_above_read_both_directions_and_convolve_plainly():
    options = {"stride": 2, "dilation": 3, "padding": "valid", "mask_rule": "any", "input_dropout": 0.5, "dropout": 0.2}
    spec = make_spec(num_layers=2, bidirectional=True, gap="predict", recurrent_dropout=0.3, **options)
    below, above = spec.layer(0), spec.layer(1)
    assert below == make_spec(gap="predict", recurrent_dropout=0.3, **(options | {"dropout": 0.0}))
    assert above == make_spec(in_channels=6, gap="predict", recurrent_dropout=0.3)
    assert (spec.rule, below.rule, above.rule) == ("any", "any", "centre")
    assert make_spec(padding="valid").rule == "all"


GRID = list(itertools.product(range(1, 9), range(1, 6), range(1, 5), range(1, 4)))  # L, k, stride, dilation


def places_read(outputs, taps, stride, dilation, left):
    return [s * stride + j * dilation - left for s in range(outputs) for j in range(taps)]


def test_same_starts_a_window_at_every_stride():
    for L, k, stride, dilation in GRID:
        for options in ({}, {"same_padding": "keras"}, {"causal": True}):
            spec = make_spec(kernel_size=k, stride=stride, dilation=dilation, **options)
            assert spec.output_sites((L,)) == (len(range(0, L, stride)),)


def test_valid_counts_the_windows_that_fit():
    for L, k, stride, dilation in GRID:
        spec = make_spec(kernel_size=k, stride=stride, dilation=dilation, padding="valid")
        fitting = [s for s in range(0, L, stride) if s + (k - 1) * dilation < L]
        if fitting:
            assert spec.output_sites((L,)) == (len(fitting),)
            assert spec.input_padding((L,))[0][0] == 0
        else:
            with pytest.raises(
                ValueError, match=rf"covers \({(k - 1) * dilation + 1},\) sites, but the input has only"
            ):
                spec.output_sites((L,))


def test_padding_left_and_right_is_what_the_windows_read():
    for L, k, stride, dilation in GRID:
        for options in ({}, {"same_padding": "keras"}, {"causal": True}, {"padding": "valid"}):
            spec = make_spec(kernel_size=k, stride=stride, dilation=dilation, **options)
            if spec.padding == "valid" and (k - 1) * dilation >= L:
                continue
            ((left, right),) = spec.input_padding((L,))
            places = places_read(*spec.output_sites((L,)), k, stride, dilation, left)
            assert (min(places), max(places)) == (-left, L - 1 + right)


def test_where_same_places_its_zeros():
    for L, k, stride, dilation in GRID:
        options = {"kernel_size": k, "stride": stride, "dilation": dilation}
        K, outputs = dilation * (k - 1) + 1, len(range(0, L, stride))
        ((left, _),) = make_spec(**options).input_padding((L,))
        assert left == (K // 2 if K % 2 else K // 2 - 1)  # nn.Conv's padding=k//2 where that is symmetric
        ((left, right),) = make_spec(**options, same_padding="keras").input_padding((L,))
        total = max((outputs - 1) * stride + K - L, 0)  # TensorFlow's "SAME"
        assert left == total // 2
        assert right == total - total // 2 or total == 0
        ((left, _),) = make_spec(**options, causal=True).input_padding((L,))
        assert left == K - 1


def test_the_recurrent_convolution_keeps_its_size():
    for k in range(1, 7):
        assert make_spec(recurrent_kernel_size=k).recurrent_padding() == (((k - 1) // 2, k // 2),)
        assert make_spec(recurrent_kernel_size=k, causal=True).recurrent_padding() == ((k - 1, 0),)
    spec = make_spec(rank=2, recurrent_kernel_size=(3, 4), stride=2)
    assert spec.recurrent_padding() == ((1, 1), (1, 2))


def test_every_axis_has_its_own_arithmetic():
    spec = make_spec(rank=3, kernel_size=(1, 3, 4), stride=(2, 1, 3), dilation=(1, 2, 1))
    assert spec.output_sites((5, 6, 7)) == (3, 6, 3)
    assert [left for left, _ in spec.input_padding((5, 6, 7))] == [0, 2, 1]
