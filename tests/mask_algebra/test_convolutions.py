"""Masks through convolutions, for every kind of array, against the rule at every output site written out."""

import itertools
import re

import numpy as np
import pytest
from hypothesis import strategies as st

from gapcell import masks
from mask_algebra.kinds import bools, drawn, every_kind, numbers, refused, run


@st.composite
def convolutions(draw):
    rank = draw(st.integers(1, 3))
    sites = [draw(st.integers(1, (9, 5, 3)[rank - 1])) for _ in range(rank)]
    options = {
        "stride": [draw(st.integers(1, 3)) for _ in range(rank)],
        "dilation": [draw(st.integers(1, 3)) for _ in range(rank)],
        "padding": draw(st.sampled_from(["same", "valid"])),
        "rule": draw(st.sampled_from([None, "centre", "all", "any"])),
        "same_padding": draw(st.sampled_from(["torch", "keras"])),
    }
    kernel = [draw(st.integers(1, (6, 4, 3)[rank - 1])) for _ in range(rank)]
    if rank == 1 and options["padding"] == "same":
        options["causal"] = draw(st.booleans())
    if options["padding"] == "valid":
        spans = [d * (k - 1) + 1 for d, k in zip(options["dilation"], kernel, strict=True)]
        sites = [max(size, span) for size, span in zip(sites, spans, strict=True)]
    return draw(bools((2, 1, *sites))), kernel, options


def read_by_hand(size, kernel, stride, dilation, padding, same_padding, causal=False):
    """The input positions that each output site reads on one axis, and the one in the middle of them (section 4)."""
    span = dilation * (kernel - 1) + 1
    out = (size - span) // stride + 1 if padding == "valid" else -(-size // stride)
    left = 0 if padding == "valid" else (span - 1) // 2
    if padding == "same" and same_padding == "keras":
        left = max((out - 1) * stride + span - size, 0) // 2
    if causal:
        left = span - 1
    middle = span - 1 if causal else (span - 1) // 2
    starts = [site * stride - left for site in range(out)]
    return [[start + tap * dilation for tap in range(kernel)] for start in starts], [start + middle for start in starts]


def decided(mask, reads, centres, rule):
    """The rule over boxes of input sites, `reads[axis][output site]`, written out."""
    result = np.zeros((*mask.shape[:2], *map(len, reads)), dtype=bool)
    size = mask.shape[2:]
    for place in np.ndindex(result.shape):
        chosen = []
        for axis, site in enumerate(place[2:]):
            inside = [p for p in reads[axis][site] if 0 <= p < size[axis]]
            centre = centres[axis][site]
            chosen.append([centre] if rule == "centre" or not inside else inside)
        inside = [p for p in itertools.product(*chosen) if all(0 <= i < n for i, n in zip(p, size, strict=True))]
        seen = [mask[(*place[:2], *p)] for p in inside]
        result[place] = bool(seen) and (any if rule == "any" else all)(seen)
    return result


@drawn(case=convolutions())
def test_through_conv_is_the_rule_at_every_output_site(kind, case):
    mask, kernel, options = case
    got = run(kind, masks.through_conv, mask, kernel, **options)
    rule = options.pop("rule") or ("all" if options["padding"] == "valid" else "centre")
    geometry = zip(mask.shape[2:], kernel, options.pop("stride"), options.pop("dilation"), strict=True)
    reads, centres = zip(*(read_by_hand(*axis, **options) for axis in geometry), strict=True)
    np.testing.assert_array_equal(got, decided(mask, reads, centres, rule))


def test_through_conv_takes_one_size_for_all_axes():
    mask = numbers(2, 3, 6, 5) > 0
    got = masks.through_conv(mask, 3, stride=2, padding="valid", dilation=1, rule="any")
    want = masks.through_conv(mask, (3, 3), stride=(2, 2), padding="valid", dilation=(1, 1), rule="any")
    np.testing.assert_array_equal(got, want)


@every_kind
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel_size": 6, "padding": "valid"}, "`kernel_size` (6,) with dilation (1,) covers (6,) sites, but the"),
        ({"kernel_size": 3, "padding": "full"}, "`padding` is 'full', expected one of 'same', 'valid'"),
        ({"kernel_size": 3, "rule": "most"}, "`mask_rule` is 'most', expected one of 'centre', 'all', 'any', None"),
        ({"kernel_size": (3, 3)}, "`kernel_size` is (3, 3), expected an integer or 1 of them (rank 1)"),
        ({"kernel_size": 3, "stride": 0}, "`stride` is 0, expected an integer of at least 1"),
    ],
)
def test_a_convolution_that_cannot_be_is_refused(kind, options, message):
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        run(kind, masks.through_conv, np.ones((2, 3, 5), dtype=bool), **options)


# Padding as nn.Conv takes it, and transposed convolutions -------------------------------------------------------------


@st.composite
def padded(draw, transposed):
    rank = draw(st.integers(1, 3))
    kernel = [draw(st.integers(1, (6, 4, 3)[rank - 1])) for _ in range(rank)]
    options = {name: [draw(st.integers(1, 3)) for _ in range(rank)] for name in ("stride", "dilation")}
    options["rule"] = draw(st.sampled_from([None, "centre", "all", "any"]))
    spans = [d * (k - 1) for d, k in zip(options["dilation"], kernel, strict=True)]
    sites = [draw(st.integers(1, (9, 5, 3)[rank - 1])) for _ in range(rank)]
    if transposed:
        options["padding"] = [draw(st.integers(0, span // 2)) for span in spans]
        options["output_padding"] = [draw(st.integers(0, stride - 1)) for stride in options["stride"]]
    else:
        options["padding"] = [draw(st.integers(0, span + 1)) for span in spans]
        sites = [max(size, span + 1 - 2 * p) for size, span, p in zip(sites, spans, options["padding"], strict=True)]
    return draw(bools((2, 1, *sites))), kernel, options


@drawn(case=padded(transposed=False))
def test_through_conv_with_padding_in_numbers(kind, case):
    mask, kernel, options = case
    reads, centres = [], []
    geometry = [kernel, *(options[name] for name in ("stride", "dilation", "padding"))]
    for size, k, s, d, p in zip(mask.shape[2:], *geometry, strict=True):
        firsts = [o * s - p for o in range((size + 2 * p - d * (k - 1) - 1) // s + 1)]
        reads.append([[first + j * d for j in range(k)] for first in firsts])
        centres.append([first + d * (k - 1) // 2 for first in firsts])
    rule = options["rule"] or ("centre" if any(options["padding"]) else "all")
    got = run(kind, masks.through_conv, mask, kernel, **options)
    np.testing.assert_array_equal(got, decided(mask, reads, centres, rule))


@drawn(case=padded(transposed=True))
def test_through_conv_transpose_is_the_rule_at_every_output_site(kind, case):
    mask, kernel, options = case
    reads, centres = [], []
    geometry = [kernel, *(options[name] for name in ("stride", "dilation", "padding", "output_padding"))]
    for size, k, s, d, p, more in zip(mask.shape[2:], *geometry, strict=True):
        out = (size - 1) * s - 2 * p + d * (k - 1) + 1 + more
        reaching = [[i for i in range(size) for j in range(k) if i * s + j * d - p == o] for o in range(out)]
        middle = [[i * s + d * (k - 1) / 2 - p for i in range(size)] for _ in range(out)]
        reads.append(reaching)
        centres.append([int(np.argmin(np.abs(np.array(at) - o))) for o, at in enumerate(middle)])
    got = run(kind, masks.through_conv_transpose, mask, kernel, **options)
    np.testing.assert_array_equal(got, decided(mask, reads, centres, options["rule"] or "centre"))


def test_the_way_there_and_back_of_a_strided_convolution():
    mask = numbers(2, 3, 6) > 0
    down = masks.through_conv(mask, 3, stride=2)
    np.testing.assert_array_equal(down, mask[..., ::2])
    up = masks.through_conv_transpose(down, 3, stride=2, padding="same")
    np.testing.assert_array_equal(up, down.repeat(2, axis=-1))
    down = masks.through_conv(mask, 3, stride=2, padding=1)
    up = masks.through_conv_transpose(down, 3, stride=2, padding=1, output_padding=1)
    np.testing.assert_array_equal(up, down.repeat(2, axis=-1))
    # As TensorFlow does it: from an even number of sites site s reads 2s to 2s + 2.
    down = masks.through_conv(mask, 3, stride=2, same_padding="keras")
    np.testing.assert_array_equal(down, mask[..., 1::2])
    up = masks.through_conv_transpose(down, 3, stride=2, padding="same", same_padding="keras")
    np.testing.assert_array_equal(up, down[..., [0, 0, 0, 1, 1, 2]])


@every_kind
def test_sites_that_a_padded_convolution_cannot_have_are_refused(kind):
    mask = np.ones((2, 3, 5), dtype=bool)
    with refused(
        "`kernel_size` (9,) with dilation (1,) covers more sites than the input (5,) has with `padding` 1; use more "
        "padding or a smaller kernel"
    ):
        run(kind, masks.through_conv, mask, 9, padding=1)
    with refused("`padding` is [1, 2], expected a number of sites or 1 of them (rank 1)"):
        run(kind, masks.through_conv, mask, 3, padding=[1, 2])
    with refused("`output_padding` is -1, expected a number of sites or 1 of them (rank 1)"):
        run(kind, masks.through_conv_transpose, mask, 3, output_padding=-1)
    with refused("`padding` 4 leaves no output site of an input with sites (5,)"):
        run(kind, masks.through_conv_transpose, mask, 3, padding=4)
    with refused('`causal` pads on the left, so `padding` must be "same", but it is 2'):
        run(kind, masks.through_conv, mask, 3, padding=2, causal=True)
