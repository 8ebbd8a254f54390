"""gapcell.laws as a tool: what it says of broken layers, of those that can do less, and of other libraries' layers."""

import re
import subprocess
import sys

import numpy as np
import pytest

from gapcell.laws import CannotBeAsked, LawBroken, check
from gapcell.laws.adapters.reference import ReferenceLayer
from gapcell.laws.comparison import assert_close, assert_same
from gapcell.laws.suite import LAWS, NAMES, NOT_ASKED, ask
from gapcell.laws.table import CASES, MANY_SHAPES, OPTIONS, ORDINARY, build
from laws.sums import BackwardSums, Sums


class Falling(Sums):
    def outputs(self, case, x):
        raise ZeroDivisionError("fell\nover")


def verdicts(report):
    return {summary.law: summary.verdict for summary in report.laws()}


# What is asked and what is said --------


def test_a_layer_with_weights_of_its_own_and_no_state_is_asked_what_can_be_asked():
    found = verdicts(check(Sums(), rank=1))
    held = {law for law, verdict in found.items() if verdict == "holds"}
    assert held == {1, 2, 3, 5, 6, 8, 10, 11, 12}
    assert {law for law, verdict in found.items() if verdict == "cannot be asked"} == {4, 7, 9, 13, 15, 16}
    assert found[14] == "not asked"


def test_a_mistake_is_named_with_its_law_its_case_and_the_size_of_the_error():
    report = check(BackwardSums(), rank=1, laws=[8])
    (summary,) = report.laws()
    assert (summary.verdict, summary.held, report.broken) == ("broken", 0, "8")
    assert summary.case == "nothing masked"
    assert re.fullmatch(r"outputs before step 1, .*: differs by \d\.\d\de.\d\d, allowed .*", summary.message)
    assert summary.message in report.table()


def test_a_layer_that_falls_over_breaks_the_law():
    (row, *_) = check(Falling(), rank=1, laws=[5]).rows
    assert (row.verdict, row.message) == ("broken", "raised ZeroDivisionError: fell over")
    assert isinstance(row.error, ZeroDivisionError)


def test_what_cannot_be_asked_has_the_reason_of_the_plainest_case():
    summaries = {summary.law: summary for summary in check(Sums(), rank=1).laws()}
    assert summaries[4].message == "a mask of elements"
    assert summaries[7].message == "its last state"
    assert summaries[13].message.startswith("given weights")
    assert summaries[15].message == "gap='decay'"
    assert summaries[14].message == NOT_ASKED[14]
    assert {summary.law: summary.message for summary in check(Sums(), rank=3).laws()}[15] == "no case of rank 3"


def test_a_run_that_gives_no_pair_or_no_floats_is_told_so():
    class One(Sums):
        def run(self, case):
            return super().run(case)[0]

    class Whole(Sums):
        def run(self, case):
            return np.zeros((*case.x.shape[:-1], 3), int), None

    said = {kind: check(kind(), rank=1, laws=[12]).rows[0].message for kind in (One, Whole)}
    assert said[One].startswith("raised TypeError: `run` returns the output and the last state")
    assert said[Whole] == "raised TypeError: a result is of type int64; the laws compare float32 and float64"


def test_a_sequence_of_no_steps_may_be_refused():
    class Some(ReferenceLayer):
        def run(self, case):
            if not case.x.shape[1]:
                raise RuntimeError("no steps")
            return super().run(case)

    assert verdicts(check(Some(), rank=1, laws=[7])) == {7: "holds"}


def test_options_that_a_layer_always_has_are_those_of_the_cases():
    asked = []

    class Held(Sums):
        options = {"masked_output": "hold"}  # noqa: RUF012

        def run(self, case):
            asked.append(case.spec.masked_output)
            raise CannotBeAsked("anything")

    assert verdicts(check(Held(), rank=2, laws=[2])) == {2: "cannot be asked"}
    assert set(asked) == {"hold"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rank": 4}, "`rank` is 4, expected 1, 2, 3 or None for all"),
        ({"laws": [3, 14]}, r"`laws` has \[14\], expected some of \[1, 2, .*16\]"),
        ({"dtype": np.float16}, "`dtype` is float16, expected float32 or float64"),
    ],
)
def test_arguments_out_of_range_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        check(Sums(), **given)


def test_every_law_has_a_name_and_every_case_its_place():
    assert set(NAMES) == set(LAWS) | set(NOT_ASKED)
    named = {name for names in MANY_SHAPES.values() for name in names}
    assert set(OPTIONS) | named <= set(CASES)
    assert not set(ORDINARY) & set(CASES)


# Verdicts do not hang on asserts --------


def test_under_python_o_a_broken_law_is_broken():
    code = (
        "from gapcell.laws import check\n"
        "class Zero:\n"
        "    def run(self, case):\n"
        "        case.x[:] = 0\n"
        "        return case.x.sum() + case.x, None\n"
        "print(__debug__, check(Zero(), rank=1, laws=[12]).broken)"
    )
    ran = subprocess.run([sys.executable, "-O", "-c", code], capture_output=True, text=True, check=True, timeout=600)
    assert ran.stdout == "False 12\n"


@pytest.mark.parametrize(
    ("got", "want", "said"),
    [
        ([1.0, 2.0], [1.0, 2.5], "x: 1 of 2 values differ, by up to 5.00e-01"),
        ([1.0, np.nan], [1.0, 2.5], "x: 1 of 2 values differ, some are not finite"),
        ([1.0], [1.0, 2.5], "x: shape (1,), expected (2,)"),
    ],
)
def test_a_difference_is_said_with_its_size(got, want, said):
    with pytest.raises(LawBroken, match=re.escape(said)):
        assert_same(np.array(got), np.array(want), "x")


def test_nan_is_near_nothing():
    with pytest.raises(LawBroken, match="x: 1 of 2 values are not finite"):
        assert_close(np.array([1.0, np.nan]), np.array([1.0, np.nan]), "x")


# Masks as layers take them --------


@pytest.fixture
def case():
    return build("nothing masked").but(x=np.zeros((2, 4, 3, 2)), state=None)


def test_lengths_become_part_of_a_mask(case):
    bounds = np.array([[1, 3], [0, 4]])
    steps = np.array([[0, 1, 1, 0], [1, 1, 1, 1]], bool)
    np.testing.assert_array_equal(case.but(lengths=bounds).step_mask(), steps)
    sites = np.ones((2, 4, 3), np.float32)
    np.testing.assert_array_equal(case.but(lengths=bounds, mask=sites).step_mask(), steps)
    sites[0, 1, 2] = 0
    with pytest.raises(CannotBeAsked, match="a mask of sites"):
        case.but(mask=sites).step_mask()
    with pytest.raises(CannotBeAsked, match="a domain"):
        case.but(domain=np.ones(3, bool)).step_mask()
    assert case.step_mask() is None


def test_a_mask_of_padding_on_the_right_is_lengths(case):
    np.testing.assert_array_equal(case.but(lengths=np.array([[0, 3], [0, 0]])).right_lengths(), [3, 0])
    mask = np.array([[1, 1, 0, 0], [1, 1, 1, 1]])
    np.testing.assert_array_equal(case.but(mask=mask).right_lengths(), [2, 4])
    with pytest.raises(CannotBeAsked, match="a gap before a row's end"):
        case.but(mask=mask[:, ::-1]).right_lengths()


def test_what_fits_nothing_comes_out_as_it_is_to_be_refused(case):
    wrong = np.ones((4, 2), bool)
    assert case.but(mask=wrong).step_mask() is wrong
    lengths = np.ones(5, int)
    assert case.but(lengths=lengths).right_lengths() is lengths
    with pytest.raises(CannotBeAsked, match="lengths"):
        case.but(lengths=lengths).step_mask()


def test_options_are_refused_by_name(case):
    case.takes_only()
    with pytest.raises(CannotBeAsked, match="num_layers=2"):
        case.but(spec=build("2 layers").spec).takes_only("cell")


# Other layers --------


@pytest.fixture(scope="module")
def broken_by():
    """A system's broken laws at rank 1."""
    pytest.importorskip("torch", reason="these layers are written in torch")
    found = {}

    def of(name):
        found.setdefault(name, check(name, rank=1))
        return found[name]

    return of


def test_x_times_mask_leaks_nan_and_runs_on(broken_by):
    report = broken_by("x*mask")
    assert report.broken == "1, 3, 4, 6, 11, 13"
    leak = next(row for row in report.rows if (row.law, row.case) == (1, "padding on the right"))
    assert leak.message.startswith("values with nan under the mask: ")
    runs_on = next(row for row in report.rows if (row.law, row.case) == (13, "steps missing"))
    assert float(re.search(r"differs by (\S+),", runs_on.message)[1]) > 0.1
    assert next(row.verdict for row in report.rows if (row.law, row.case) == (13, "nothing masked")) == "holds"


@pytest.mark.parametrize("cell", ["LSTM", "GRU"])
def test_packed_sequences_obey_but_for_the_refusals(broken_by, cell):
    report = broken_by(f"torch.nn.{cell}")
    assert report.broken == "11"
    summaries = {summary.law: summary for summary in report.laws()}
    assert summaries[6].message == "a row without steps"
    assert summaries[4].message == "more than one site"
    assert summaries[13].held == 3


def test_flax_reads_its_padding():
    pytest.importorskip("flax", reason="this is flax's layer")
    report = check("flax", rank=2, laws=[1, 13])
    assert report.broken == "1, 13"
    where = {(row.law, row.case): row for row in report.rows}
    assert where[13, "2d, nothing masked"].verdict == "holds"
    assert where[1, "2d, padding on the right"].message.startswith("values with 1e+30 under the mask: ")
    assert where[1, "2d, steps missing"].message == "a gap before a row's end"


def test_haiku_takes_no_mask():
    pytest.importorskip("haiku", reason="this is dm-haiku's layer")
    report = check("haiku", rank=2, laws=[1, 13])
    assert verdicts(report) == {1: "cannot be asked", 13: "holds"}
    assert {summary.message for summary in report.laws()} == {"a mask", ""}


@pytest.mark.parametrize("name", ["nothing masked", "2d", "series", "bidirectional"])
def test_accidents_of_shape_are_seen_without_a_yardstick(name):
    pytest.importorskip("torch", reason="the mutant is written in torch")
    from laws.plain import PlainLayer

    ask(10, PlainLayer(), build(name))
    with pytest.raises(LawBroken, match="beside one more row"):
        ask(10, PlainLayer("mask broadcast over the wrong axis"), build(name))


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("bug", ["gradient cut at masked steps", "initial c ignored", "window border not read"])
def test_wrong_gradients_and_values_differ_from_the_reference_without_a_yardstick(bug, dtype):
    pytest.importorskip("torch", reason="the mutants are written in torch")
    from laws.plain import PlainLayer

    case = build("series" if bug == "window border not read" else "1d site mask", dtype)
    ask(13, PlainLayer(), case)
    with pytest.raises(LawBroken):
        ask(13, PlainLayer(bug), case)
