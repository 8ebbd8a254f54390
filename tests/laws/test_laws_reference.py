"""The oracle itself obeys the laws that need no gradients, and agrees with a plain PyTorch loop."""

import numpy as np
import pytest

from gapcell.laws.adapters.reference import ReferenceLayer
from gapcell.laws.cases import like, parts
from gapcell.laws.comparison import assert_close, cotangents
from gapcell.laws.suite import LAWS, applies
from gapcell.laws.table import CASES, build

# Laws 10 and 13 compare with the oracle.
CLAIMS = [(law, name) for name in CASES for law in LAWS if law not in (10, 13) and applies(law, build(name))]


@pytest.mark.parametrize(("law", "name"), CLAIMS)
def test_the_oracle_obeys(law, name):
    LAWS[law](ReferenceLayer(), build(name))


@pytest.mark.parametrize("name", CASES)
def test_a_plain_torch_loop_agrees_and_its_gradients_are_the_oracles_slopes(name):
    """So the gradients that law 13 compares with are those of the definition."""
    pytest.importorskip("torch", reason="the plain loop is written in torch")
    from laws.plain import PlainLayer

    case, oracle, plain = build(name), ReferenceLayer(), PlainLayer()
    y, last = oracle.run(case)
    assert_close(plain.run(case), (y, last), "plain loop")

    dy, dstate = cotangents(oracle, case)
    found = plain.grad(case, dy, dstate)
    rng = np.random.default_rng(5)
    towards = case.but(
        params=[{name: rng.normal(size=array.shape) for name, array in cell.items()} for cell in case.params],
        x=rng.normal(size=case.x.shape),
        state=like(case.state, [rng.normal(size=part.shape) for part in parts(case.state)]),
    )
    slope = sum(np.vdot(g, d) for g, d in zip(arrays(found), arrays(towards), strict=True))

    def objective(step):
        moved = case.but(
            params=[{k: a[k] + step * b[k] for k in a} for a, b in zip(case.params, towards.params, strict=True)],
            x=case.x + step * towards.x,
            state=like(
                case.state, [a + step * b for a, b in zip(*map(parts, (case.state, towards.state)), strict=True)]
            ),
        )
        y, last = oracle.run(moved)
        return np.vdot(y, dy) + sum(np.vdot(a, b) for a, b in zip(parts(last), parts(dstate), strict=True))

    step = 1e-5
    measured = (objective(step) - objective(-step)) / (2 * step)
    assert measured == pytest.approx(slope, rel=1e-6)


def arrays(of):
    return [*(cell[name] for cell in of.params for name in sorted(cell)), of.x, *parts(of.state)]
