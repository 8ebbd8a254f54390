"""What apply refuses, in which words, and what it warns of: the argument, what came, and what was wanted."""

import re
import warnings

import pytest

pytest.importorskip("jax", reason="these are tests of gapcell.jax")

import jax
import jax.numpy as jnp
import numpy as np

import gapcell.jax as gj
from jax_layers.batches import make_params, make_spec

SPEC = make_spec()
PARAMS = make_params(SPEC)
X = np.zeros((2, 4, 5, 2), np.float32)  # (N, T, L, C)


def refused(message):
    return pytest.raises(ValueError, match=f"^{re.escape(message)}$")


def run(x=X, spec=SPEC, params=None, **arguments):
    return gj.apply(make_params(spec) if params is None else params, x, spec, **arguments)


# Parameters -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "params", "message"),
    [
        ({"num_layers": 2}, PARAMS, "`params` has 1 entries, expected 2: one dict a layer and direction"),
        ({}, [PARAMS] * 3, "`params` has 3 entries, expected 1: one dict a layer and direction"),
        ({}, [], "`params` has 0 entries, expected 1: one dict a layer and direction"),
        ({"bias": False}, PARAMS,
         "`params[0]` has ['bias', 'kernel', 'recurrent_kernel'], expected ['kernel', 'recurrent_kernel']"),
        ({"cell": "gru"}, PARAMS, "`params[0]` has ['bias', 'kernel', 'recurrent_kernel'], expected ['bias', 'kernel', "
         "'recurrent_bias', 'recurrent_kernel']"),
        ({}, {"kernel": 1}, "`params[0]` has ['kernel'], expected ['bias', 'kernel', 'recurrent_kernel']"),
        ({"in_channels": 7}, PARAMS, "`params[0]`: kernel has shape (3, 2, 12), expected (3, 7, 12)"),
        ({}, {**PARAMS, "recurrent_kernel": PARAMS["kernel"]},
         "`params[0]`: recurrent_kernel has shape (3, 2, 12), expected (3, 3, 12)"),
        ({}, {**PARAMS, "bias": np.zeros((1, 12))}, "`params[0]`: bias has shape (1, 12), expected (12,)"),
        ({"num_layers": 2}, [PARAMS, PARAMS], "`params[1]`: kernel has shape (3, 2, 12), expected (3, 3, 12)"),
    ],
)  # fmt: skip
def test_parameters_that_are_not_those_of_the_spec(options, params, message):
    with refused(message):
        run(spec=make_spec(**options), params=params)


# The input ------------------------------------------------------------------------------------------------------------


def test_a_series_without_a_window():
    """The question people start from: their (batch, steps, features) array has no sites."""
    with refused("`x` has shape (32, 10, 2), expected (N, T, L, 2), channels last; a series (N, S, C) needs `window`"):
        run(np.zeros((32, 10, 2)))


@pytest.mark.parametrize(
    ("options", "shape", "message"),
    [
        ({}, (2, 4, 2, 5), "(2, 4, 2, 5), expected (N, T, L, 2), channels last"),
        ({}, (2, 4, 5, 5, 2), "(2, 4, 5, 5, 2), expected (N, T, L, 2), channels last"),
        ({}, (2, 4, 0, 2), "(2, 4, 0, 2), expected (N, T, L, 2), channels last"),
        ({}, (2, 2), "(2, 2), expected (N, T, L, 2), channels last"),
        ({"rank": 2}, (2, 4, 5, 2), "(2, 4, 5, 2), expected (N, T, H, W, 2), channels last"),
        ({"rank": 3}, (2, 4, 5, 5, 2), "(2, 4, 5, 5, 2), expected (N, T, D, H, W, 2), channels last"),
        ({"window": 2}, (2, 4, 3), "(2, 4, 3), expected (N, S, 2), channels last"),
        ({"window": 2}, (2, 4, 5, 2), "(2, 4, 5, 2), expected (N, S, 2), channels last"),
    ],
)
def test_an_input_of_the_wrong_shape(options, shape, message):
    with refused(f"`x` has shape {message}"):
        run(np.zeros(shape), make_spec(**options))


def test_a_kernel_larger_than_the_input():
    with refused(
        '`kernel_size` (3,) with dilation (3,) covers (7,) sites, but the input has only (5,) under padding="valid"; '
        'use padding="same" or a smaller kernel'
    ):
        run(spec=make_spec(padding="valid", dilation=3))


# The state ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "shapes", "message"),
    [
        ("lstm", [(1, 2, 5, 3)], "`state` has 1 arrays, expected 2: h, c"),
        ("lstm", [(1, 2, 5, 3)] * 3, "`state` has 3 arrays, expected 2: h, c"),
        ("gru", [(1, 2, 5, 3)] * 2, "`state` has 2 arrays, expected 1: h"),
        ("lstm", [(1, 2, 5, 3), (1, 2, 3, 5)], "`state`: c has shape (1, 2, 3, 5), expected (1, 2, 5, 3)"),
        ("lstm", [(1, 1, 5, 3), (1, 2, 5, 3)], "`state`: h has shape (1, 1, 5, 3), expected (1, 2, 5, 3)"),
        ("gru", [(2, 2, 5, 3)], "`state`: h has shape (2, 2, 5, 3), expected (1, 2, 5, 3)"),
        ("gru", [()], "`state`: h has shape (), expected (1, 2, 5, 3)"),
    ],
)
def test_a_state_that_does_not_fit(cell, shapes, message):
    with refused(message):
        run(spec=make_spec(cell), state=tuple(np.zeros(shape) for shape in shapes))


def test_a_state_of_a_stack_needs_its_leading_axis():
    with refused("`state`: h has shape (2, 5, 3), expected (2, 2, 5, 3)"):
        run(spec=make_spec("gru", num_layers=2), state=np.zeros((2, 5, 3)))


def test_the_state_of_a_series_has_the_windows_sites():
    with refused("`state`: h has shape (1, 2, 6, 3), expected (1, 2, 4, 3)"):
        run(np.zeros((2, 6, 2)), make_spec("gru", window=4), state=np.zeros((1, 2, 6, 3)))


# Mask, lengths and domain ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2,), (2, 1), (1, 4), (4, 2), (2, 4, 1), (2, 4, 2), (2, 4, 2, 5), (2, 4, 5, 1), ()])
def test_a_mask_that_does_not_fit(shape):
    with refused(
        f"`mask` has shape {shape}, but the input has shape (2, 4, 5, 2): expected (2, 4) or (2, 4, 5) or (2, 4, 5, 2)"
        "; a mask is matched exactly and never broadcast"
    ):
        run(mask=np.ones(shape))


def test_a_mask_of_the_wrong_shape_is_refused_under_jit_and_vmap_too():
    message = r"^`mask` has shape \(2, 1\), but the input has shape \(2, 4, 5, 2\)"
    with pytest.raises(ValueError, match=message):
        jax.jit(lambda mask: run(mask=mask))(np.ones((2, 1)))
    with pytest.raises(ValueError, match=message):
        jax.vmap(lambda mask: run(mask=mask))(np.ones((3, 2, 1)))


@pytest.mark.parametrize("value", [2.0, 0.5, -1.0, np.inf])
def test_a_mask_of_other_values(value):
    """Weights or additive (-inf) masks are other things than masks."""
    mask = np.ones((2, 4))
    mask[1, 2] = value
    with refused(
        "`mask` holds values other than 0, 1 and NaN; it must be bool, integer or float 0/1 with 1 = observed"
    ):
        run(mask=mask)


@pytest.mark.parametrize(
    ("lengths", "said"),
    [
        ([2, 5], "steps 0 to 5 for row 1"),
        ([-1, 2], "steps 0 to -1 for row 0"),
        ([[0, 4], [-1, 3]], "steps -1 to 3 for row 1"),
        ([[3, 2], [0, 4]], "steps 3 to 2 for row 0"),
    ],
)
@pytest.mark.parametrize("kind", [list, np.array, jnp.array])
def test_lengths_beyond_the_input(lengths, said, kind):
    with pytest.raises(ValueError, match=f"^`lengths` says {said}, but the input has 4 steps: expected 0 <= start "):
        run(lengths=kind(lengths))


@pytest.mark.parametrize("kind", [np.array, jnp.array])
def test_lengths_beyond_the_input_are_refused_as_constants_of_jit_too(kind):
    lengths = kind([2, 5])
    with pytest.raises(ValueError, match=r"^`lengths` says steps 0 to 5 for row 1, but the input has 4 steps"):
        jax.jit(lambda x: run(x, lengths=lengths))(X)


def test_lengths_of_the_wrong_shape_or_type():
    with pytest.raises(ValueError, match=r"^`lengths` has shape \(3,\), but the input has 2 rows .*: expected \(2,\) "):
        run(lengths=[1, 2, 3])
    with refused("`lengths` has shape (2, 3), expected (N,) or (N, 2) with start and stop"):
        run(lengths=np.zeros((2, 3), int))
    with refused("`lengths` has dtype float32, expected integers counting steps"):
        run(lengths=np.zeros(2, np.float32))


def test_a_domain_that_does_not_fit():
    with refused("`domain` has shape (4,), but the input has sites (N, T, *S) = (2, 4, 5): expected (2, 5) or (5,)"):
        run(domain=np.ones(4))
    with refused(
        "`domain` holds values other than 0, 1 and NaN; it must be bool, integer or float 0/1 with 1 = observed"
    ):
        run(domain=np.full(5, 0.5))


# Choices --------------------------------------------------------------------------------------------------------------


def test_choices():
    with refused("`vjp` is 'fast', expected one of 'lean', 'plain'"):
        run(vjp="fast")
    with refused("`convolution` is 'fft', expected one of 'matmul', 'xla', None"):
        run(convolution="fft")


# The warning ----------------------------------------------------------------------------------------------------------


def given(call):
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        call()
    return record


@pytest.mark.parametrize("kind", [np.array, jnp.array])
def test_predict_with_a_mask_that_ends_in_missing_steps_warns_at_the_callers_line(kind):
    mask = kind([[1, 1, 1, 0], [1, 0, 1, 1]])
    spec, record = make_spec(gap="predict"), []
    record = given(lambda: gj.apply(PARAMS, X, spec, mask=mask))  # the line that is named
    assert [str(warning.message) for warning in record] == [
        'gap="predict" steps through missing values, and the mask of a row begins or ends in steps without any '
        "observation. If these are padding, say so with lengths=; if they are real, pass lengths to silence this"
    ]
    assert record[0].filename == __file__
    with open(__file__, encoding="utf-8") as lines:  # noqa: PTH123 # a line of this file
        assert "# the line that is named" in list(lines)[record[0].lineno - 1]


def test_predict_does_not_warn_where_lengths_are_given_or_nothing_is_missing_or_known():
    spec, mask = make_spec(gap="predict"), np.array([[1, 1, 1, 0], [1, 0, 1, 1]])
    assert not given(lambda: gj.apply(PARAMS, X, spec, mask=mask, lengths=[4, 4]))
    assert not given(lambda: gj.apply(PARAMS, X, spec, mask=np.ones((2, 4))))
    assert not given(lambda: jax.jit(lambda mask: gj.apply(PARAMS, X, spec, mask=mask))(mask))
    assert not given(lambda: gj.apply(PARAMS, X, SPEC, mask=mask))
