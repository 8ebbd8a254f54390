"""gapcell.keras obeys the laws of docs/semantics.md, section 8, on the backend at hand.

On torch every law is tried on every case. On JAX a shape that is new costs a second of compiling, and gapcell.jax has
all laws behind it; TensorFlow's eager mode is slow: there laws that bring many shapes or runs are tried on fewer cases.
"""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch", reason="the yardstick of law 13 is written in torch")

from gapcell.laws.adapters.keras import KerasLayer
from gapcell.laws.cases import Case
from gapcell.laws.suite import LAWS, applies, ask
from gapcell.laws.table import CASES, DECAYING, DTYPES, build
from keras_layers.running import BACKEND
from laws.plain import PlainLayer

ONE_SHAPE = (1, 6, 13)  # these laws run the shapes of the case only
RANKS = ("1d site mask", "2d gru", "3d")
BOTH_DTYPES = ("1d site mask", "1d gru", "2d", "3d", "series, causal")


def case_of(name: str, dtype=np.float64) -> Case:
    case = build(name, dtype)
    return case.but(spec=replace(case.spec, same_padding="keras"))


NAMES = [name for name in CASES if KerasLayer.fits(case_of(name).spec)]


@pytest.fixture(scope="module", autouse=True)
def compiled():
    """Hundreds of compiled functions are of no use to later tests."""
    yield
    if BACKEND == "jax":
        import jax

        jax.clear_caches()


def wanted(law: int, name: str, dtype) -> bool:
    if not applies(law, case_of(name)) or (dtype == np.float32 and name not in BOTH_DTYPES):
        return False
    if name in DECAYING:
        few = (1, 9, 13, 15, 16) if name == "decay" else (9, 13)
        return law in DECAYING[name] and dtype == np.float64 and (BACKEND == "torch" or law in few)
    if law in (10, 11, 12):
        return name in RANKS and dtype == np.float64
    if BACKEND == "torch" or law == 9 or law in ONE_SHAPE:
        return True
    few = RANKS if BACKEND == "jax" else (*RANKS, "series, causal")
    return name in few and dtype == np.float64


CLAIMS = [(law, name, dtype) for name in NAMES for law in LAWS for dtype in DTYPES if wanted(law, name, dtype)]


@pytest.mark.parametrize(
    ("law", "name", "dtype"), CLAIMS, ids=[f"{law}-{name}-{dtype.__name__}" for law, name, dtype in CLAIMS]
)
def test_the_layer_obeys(law, name, dtype):
    ask(law, KerasLayer(), case_of(name, dtype), PlainLayer())


def test_every_law_is_tried_on_every_rank():
    assert len(NAMES) > 24
    tried = {(law, case_of(name).spec.rank) for law, name, _ in CLAIMS}
    assert tried >= {(law, rank) for law in LAWS if law < 15 for rank in (1, 2, 3)}
    assert {law for law, _ in tried} == set(LAWS)


@pytest.mark.parametrize("law", [1, 2, 3, 6, 8] if BACKEND != "jax" else [1, 6])  # 4: Keras draws for every site
@pytest.mark.parametrize("name", ["1d site mask", "hold output", "series, causal"])
def test_the_layer_obeys_for_a_given_dropout_draw(law, name):
    case = case_of(name)
    case = case.but(spec=replace(case.spec, recurrent_dropout=0.4, input_dropout=0.3))
    if applies(law, case):
        ask(law, KerasLayer(dropout=True), case, PlainLayer())


@pytest.mark.skipif(BACKEND != "tensorflow", reason="of TensorFlow's graphs")
@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize(
    ("law", "name"), [(1, "1d site mask"), (13, "1d site mask"), (13, "2d gru"), (13, "series, causal")]
)
def test_the_layer_obeys_in_a_graph(law, name, jit_compile):
    import tensorflow as tf

    def compiled(call):
        return tf.function(call, jit_compile=jit_compile)

    ask(law, KerasLayer(compiled), case_of(name), PlainLayer())
