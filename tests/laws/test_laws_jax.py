"""gapcell.jax obeys the laws of docs/semantics.md, section 8, under a caller's jax.jit and in plain calls.

Law 13 in float64 is the agreement with gapcell.reference within 1e-12, gradients included. A new shape costs a second
of compiling, so laws that bring many of them are tried on fewer cases, and plain calls, which XLA compiles with its own
options, on fewer still.
"""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("jax", reason="these are the laws of the JAX layer")
pytest.importorskip("torch", reason="the yardstick of law 13 is written in torch")

import jax
import jax.numpy as jnp

from gapcell.laws.adapters.jax import JaxLayer
from gapcell.laws.comparison import assert_same
from gapcell.laws.suite import LAWS, applies, ask
from gapcell.laws.table import CASES, DECAYING, DTYPES, MANY_SHAPES, build
from laws.plain import PlainLayer

ONE_SHAPE = (1, 6, 8, 11, 12, 13)  # these laws run the shapes of the case only


def claimed(law, name, dtype):
    if not applies(law, build(name)) or name not in MANY_SHAPES.get(law, CASES):
        return False
    if law not in DECAYING.get(name, LAWS):
        return False
    if dtype == np.float64:
        return True
    return law in (1, 6, 8, 13) and name.startswith(("1d", "2d", "3d", "hold", "predict", "series"))


JITTED = [(law, name, dtype) for dtype in DTYPES for name in CASES for law in LAWS if claimed(law, name, dtype)]


@pytest.fixture(scope="module")
def tests_done():
    yield [0]
    jax.clear_caches()


@pytest.fixture(autouse=True)
def few_compiled(tests_done):
    """Linux lets a process map 65530 pieces of memory; a compiled function takes some forty, and beyond XLA crashes."""
    yield
    tests_done[0] += 1
    if tests_done[0] % 60 == 0:
        jax.clear_caches()


def named(claims):
    return {"argvalues": claims, "ids": [f"{law}-{name}-{dtype.__name__}" for law, name, dtype in claims]}


@pytest.mark.parametrize(("law", "name", "dtype"), **named(JITTED))
def test_the_layer_obeys_under_jit(law, name, dtype):
    ask(law, JaxLayer(jit=True), build(name, dtype), PlainLayer())


# Plain calls --------

RANKS = (  # law 7 below
    ("1d site mask", np.float32, (1, 2, 3, 4, 5, 6, 8, 11, 12, 13)),
    ("1d site mask", np.float64, (1, 3, 5, 6, 8, 12, 13)),
    ("bidirectional", np.float32, (9,)),
    ("bidirectional", np.float64, (9,)),
    ("1d gru", np.float32, (10,)),
    ("2d", np.float32, (1, 3, 5, 6, 8, 11, 12, 13)),
    ("bidirectional 2d", np.float32, (9,)),
    ("3d gru", np.float64, (1, 3, 5, 6, 8, 11, 12, 13)),
    ("series, causal", np.float32, (1, 3, 6, 8, 11, 12, 13)),
)
OPTIONS = ("1d element mask", "hold output gru", "predict, domain", "domain", "valid", "series, elements")
PLAIN_CALLS = [(law, name, dtype) for name, dtype, laws in RANKS for law in laws]
PLAIN_CALLS += [(law, name, np.float32) for name in OPTIONS for law in ONE_SHAPE if applies(law, build(name))]


@pytest.mark.parametrize(("law", "name", "dtype"), **named(PLAIN_CALLS))
def test_the_layer_obeys(law, name, dtype):
    ask(law, JaxLayer(), build(name, dtype), PlainLayer())


@pytest.mark.parametrize("name", ["1d site mask", "2d", "3d gru"])
def test_a_split_is_the_whole(name):
    """Law 7 at the one place where two steps can be cut."""
    case = build(name, np.float32)
    ask(7, JaxLayer(), case.but(x=case.x[:, :2], mask=case.mask[:, :2]), PlainLayer())


# Options --------


@pytest.mark.usefixtures("no_kernel")  # which computes the calls above in float32, where it is built
@pytest.mark.parametrize("law", [1, 6, 13])
@pytest.mark.parametrize("name", ["1d site mask", "2d", "hold output gru"])
def test_the_pure_form_obeys_in_single_precision(law, name):
    ask(law, JaxLayer(), build(name, np.float32), PlainLayer())


@pytest.mark.parametrize("law", [1, 6, 13])
@pytest.mark.parametrize(
    "name", ["1d site mask", "hold output gru", "predict, domain", "stride 2d", "series, elements"]
)
@pytest.mark.parametrize("options", [{"vjp": "plain"}, {"convolution": "xla"}], ids=str)
def test_every_form_obeys(options, law, name):
    ask(law, JaxLayer(jit=True, **options), build(name), PlainLayer())


DROPOUT = {"dropout": 0.5, "input_dropout": 0.3, "recurrent_dropout": 0.4}


def with_dropout(name):
    case = build(name)
    return case.but(spec=replace(case.spec, **DROPOUT))


@pytest.mark.parametrize("law", [1, 3, 6, 8, 12])
@pytest.mark.parametrize("name", ["hold output gru", "predict, domain", "series, both ways"])
def test_the_layer_obeys_for_a_given_dropout_draw(law, name):
    if applies(law, with_dropout(name)):
        ask(law, JaxLayer(jit=True, dropout=True), with_dropout(name), PlainLayer())


def test_the_dropout_draw_is_there():
    case, layer = with_dropout("hold output gru"), JaxLayer(jit=True, dropout=True)
    assert np.abs(layer.run(case)[0] - JaxLayer(jit=True).run(case)[0]).max() > 1e-3
    assert_same(layer.run(case), layer.run(case), "two runs of one key")


# A law can fail --------


class Mutant(JaxLayer):
    """gapcell.jax called as it should not be; every mistake is one that masks are used with in the wild."""

    def __init__(self, mistake):
        super().__init__(jit=True)
        self.mistake = mistake

    def apply(self, params, x, spec, **given):
        return self.mistake(super().apply, params, x, spec, **given)


def product_instead_of_a_mask(apply, params, x, spec, *, mask, **given):
    return apply(params, x * mask[..., None, None], spec, mask=None, **given)


def zeros_instead_of_a_mask(apply, params, x, spec, *, mask, **given):
    return apply(params, jnp.where(mask[..., None, None], x, 0), spec, mask=None, **given)


def mask_off_by_one_step(apply, params, x, spec, *, mask, **given):
    return apply(params, x, spec, mask=jnp.roll(mask, 1, axis=1), **given)


def state_not_held_at_the_end(apply, params, x, spec, *, mask, **given):
    y, last = apply(params, x, spec, mask=mask, **given)
    return y, tuple(jnp.where(mask[:, -1, None, None], part, 0) for part in last)


def row_stepping_while_any_row_does(apply, params, x, spec, *, mask, **given):
    x = jnp.where(mask[..., None, None], x, 0)
    return apply(params, x, spec, mask=jnp.broadcast_to(mask.any(axis=0), mask.shape), **given)


def predicting_beyond_the_lengths(apply, params, x, spec, *, lengths, **given):
    return apply(params, x, spec, lengths=None, **given)


def gradient_cut_off(apply, params, x, spec, **given):
    return apply(jax.lax.stop_gradient(params), x, spec, **given)


def initial_state_ignored(apply, params, x, spec, *, state, **given):
    return apply(params, x, spec, state=jax.tree.map(jnp.zeros_like, state), **given)


def mask_of_any_shape_broadcast(apply, params, x, spec, *, mask, **given):
    return apply(params, x, spec, mask=jnp.broadcast_to(mask, x.shape[: mask.ndim]), **given)


MUTANTS = [
    (product_instead_of_a_mask, 1, "1d step mask"),
    (zeros_instead_of_a_mask, 3, "1d step mask"),
    (mask_off_by_one_step, 1, "1d step mask"),
    (row_stepping_while_any_row_does, 5, "1d step mask"),
    (state_not_held_at_the_end, 6, "1d step mask"),
    (initial_state_ignored, 7, "1d step mask"),
    (mask_of_any_shape_broadcast, 11, "1d step mask"),
    (gradient_cut_off, 13, "1d step mask"),
    (predicting_beyond_the_lengths, 3, "predict"),
]


@pytest.mark.parametrize(("mistake", "law", "name"), MUTANTS, ids=[mistake.__name__ for mistake, *_ in MUTANTS])
def test_a_law_catches(mistake, law, name):
    with pytest.raises(AssertionError):
        ask(law, Mutant(mistake), build(name), PlainLayer())
