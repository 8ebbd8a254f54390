"""Every mistake that masked layers are made with breaks a law here: the laws can fail."""

import pytest

pytest.importorskip("torch", reason="the mutants are written in torch")

from gapcell.laws.suite import LAWS, applies, ask
from gapcell.laws.table import build
from laws.plain import PlainLayer

# bug: the law that catches it, on which case
MUTANTS = {
    "product instead of select": (1, "1d site mask"),
    "output masked by a product": (1, "1d site mask"),
    "integer mask negated bitwise": (2, "1d site mask"),
    "bias running on in masked steps": (3, "1d step mask"),
    "mask off by one step": (3, "1d step mask"),
    "events left where they are": (3, "series"),
    "hidden state leaking at dead sites": (4, "1d site mask"),
    "row steps while any row does": (5, "1d step mask"),
    "state not held": (6, "1d step mask"),
    "skips a wholly masked batch": (6, "1d step mask"),
    "gradient cut at masked steps": (6, "1d step mask"),
    "predicting beyond the lengths": (3, "predict"),
    "state kept outside the domain": (13, "domain"),
    "initial c ignored": (7, "1d step mask"),
    "gaps filled from the next step": (8, "1d site mask"),
    "backward mask not reversed": (9, "bidirectional"),
    "mask broadcast over the wrong axis": (10, "1d site mask"),
    "mask of any shape broadcast": (11, "1d step mask"),
    "fills the mask's places in x": (12, "1d site mask"),
    "window border not read": (13, "series"),
    "decay behind the step": (15, "decay"),
    "dt not looked at": (15, "decay"),
    "decaying beyond the lengths": (3, "decay"),
    "c does not decay": (6, "decay"),
    "rates below 0 grow": (16, "decay"),
}


@pytest.mark.parametrize("bug", MUTANTS)
def test_a_law_catches(bug):
    law, name = MUTANTS[bug]
    assert applies(law, build(name))
    with pytest.raises(AssertionError):
        ask(law, PlainLayer(bug), build(name), PlainLayer())


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("name", sorted({name for _, name in MUTANTS.values()}))
def test_without_a_bug_every_law_holds(law, name):
    if applies(law, build(name)):
        ask(law, PlainLayer(), build(name), PlainLayer())


def test_every_law_has_a_mutant():
    assert {law for law, _ in MUTANTS.values()} == set(LAWS) == {*range(1, 14), 15, 16}
