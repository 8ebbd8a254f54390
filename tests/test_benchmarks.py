"""The benchmarks' own arithmetic, and that documents say what was measured. Nothing is timed here."""

import copy
import itertools
import statistics
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import catalogue, document, goals, laws, places, readme
from benchmarks.catalogue import SYSTEMS, Task
from benchmarks.comparisons import comparisons, others_ahead
from benchmarks.interleaved import SLOW_ROUNDS, TaskError, Worker, measure
from benchmarks.results import Results
from benchmarks.shapes import RAGGED_SHARE, SHAPES, Shape, flops, make_mask
from benchmarks.worker import median_of_slice
from gapcell.laws import NAMES


@pytest.fixture
def results():
    return Results.read()


# Documents ------------------------------------------------------------------------------------------------------------


def test_documents_are_what_the_results_say(results):
    assert document.DOCUMENT.read_text(encoding="utf-8") == document.document(results)


def test_documents_change_with_the_results(results):
    changed = Results(copy.deepcopy(results.content))
    changed.figure("plain PyTorch loop", "S2", "train")["ms"] *= 3
    assert document.document(changed) != document.document(results)
    assert readme.figures(changed) != readme.figures(results)


def test_the_table_of_laws_has_a_sign_for_each_and_the_error_of_what_is_broken():
    held = {"verdict": "holds", "held": 3, "broken": 0, "case": "", "message": ""}
    summaries = [held | {"law": law} for law in NAMES]
    summaries[0] |= {"verdict": "broken", "broken": 2, "case": "2d", "message": "x | <b> *y* _z_ `w` differ"}
    summaries[3] |= {"verdict": "cannot be asked", "held": 0, "case": "2d", "message": "a mask of sites"}
    text = laws.figures({"rank": 1, "systems": {"it": {"versions": {"numpy": "2.0"}, "laws": summaries}}})
    assert "| it | ✗ | ✓ | ✓ |  | ✓ |" in text
    assert "Cases with 1 site axis, float32; numpy 2.0." in text
    row = r"| it | 1 | 2 of 5 | 2d: x \| \<b\> \*y\* \_z\_ \`w\` differ |"
    assert [line for line in text.splitlines() if line.startswith("| it | 1")] == [row]
    assert "| it | 1 | 4 |" in laws.small({"systems": {"it": {"laws": summaries}}})


def test_laws_that_a_system_breaks_by_one_error_are_one_row():
    broken = {"verdict": "broken", "held": 1, "broken": 2, "message": "raised"}
    summaries = [broken | {"law": law, "case": f"case {law}"} for law in NAMES]
    summaries[1]["message"] = "differs"
    text = laws.figures({"rank": 1, "systems": {"it": {"versions": {}, "laws": summaries}}})
    rest = ", ".join(str(law) for law in NAMES if law != 2)
    assert f"| it | {rest} | 30 of 45 | case 1: raised |" in text
    assert "| it | 2 | 2 of 3 | case 2: differs |" in text


def test_a_text_without_the_place_for_figures_is_refused():
    with pytest.raises(ValueError, match=r"^README\.md has not .* once each, in this order"):
        places.updated("# gapcell\n", "figures", "README.md")
    marked = f"a\n{places.BEGIN}old\n{places.END}b\n"
    assert places.updated(2 * marked, ("1\n", "2\n"), "x") == marked.replace("old", "1") + marked.replace("old", "2")
    with pytest.raises(ValueError, match=r"x has not .* 2 times each"):
        places.updated(marked, ("1\n", "2\n"), "x")


def test_where_others_are_ahead_is_listed_and_nothing_else_is(results):
    changed = Results(copy.deepcopy(results.content))
    changed.figure("flax", "S2", "forward")["ms"] = 1e-3
    worst = others_ahead(changed)[0]
    assert (worst.what, worst.other) == ("S2 forward", "flax")
    assert worst.factor == pytest.approx(1e-3 / worst.own)
    listed = set(others_ahead(changed))
    assert all((comparison in listed) == (comparison.others < comparison.own) for comparison in comparisons(changed))


@pytest.mark.parametrize(
    ("kind", "reached", "holds"),
    [("times", 2.0, True), ("times", 1.99, False), ("times", 1.996, True), ("cost", 2.0, True), ("cost", 2.1, False)],
)
def test_a_goal_holds_by_the_digits_that_are_shown(kind, reached, holds):
    assert goals.Goal("", kind, 2.0, None, reached).holds(2.0) is holds


def test_a_goal_that_was_not_measured_neither_holds_nor_fails():
    assert goals.Goal("", "times", 2.0, None, None).holds(2.0) is None


# What is measured -----------------------------------------------------------------------------------------------------


def test_every_other_system_has_one_of_ours_on_the_same_shapes():
    for name, system in SYSTEMS.items():
        assert not system.ours or not SYSTEMS[system.ours].ours, name
        assert not system.ours or set(system.shapes) <= set(SYSTEMS[system.ours].shapes), name


def test_no_step_of_over_a_minute_is_measured():
    measured = [task for shape in SHAPES for task in catalogue.tasks(shape, "train")]
    assert measured
    assert not {(task.system, task.shape) for task in measured} & catalogue.OVER_A_MINUTE


def test_masks_observe_what_they_are_named_for():
    shape = Shape(400, 100, (1,), 1, 1, 1)
    assert make_mask(shape, "full") is None
    assert make_mask(shape, "25%").mean() == pytest.approx(0.25, abs=0.01)
    assert not make_mask(shape, "0%").any()
    ragged = make_mask(shape, "ragged")
    assert ragged.mean() == pytest.approx(RAGGED_SHARE, abs=0.01)
    assert (np.diff(ragged.astype(int), axis=1) <= 0).all()  # observed first, padded on the right
    assert ragged[:, 0].all()
    assert ragged[:, -1].any()


@pytest.mark.parametrize("sites", [(1,), (3,), (7,), (4, 5)])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_operations_are_those_of_a_loop_over_taps(sites, kernel):
    shape = Shape(2, 3, sites, 5, 7, kernel)
    reach, inside, every = range(-(kernel // 2), kernel // 2 + 1), 0, 0
    for site in itertools.product(*map(range, sites)):
        for tap in itertools.product(reach, repeat=len(sites)):
            every += 1
            inside += all(0 <= s + t < n for s, t, n in zip(site, tap, sites, strict=True))
    a_tap = 2 * 3 * 2 * (5 + 7) * 4 * 7
    assert flops(shape, "forward") == every * a_tap
    assert flops(shape, "train", only_inside=True) == 3 * inside * a_tap


# How it is measured ---------------------------------------------------------------------------------------------------


class Scripted:
    """A worker that answers from a script, and notes what it was asked."""

    def __init__(self, script):
        self.script, self.asked = script, []

    def ask(self, task, seconds):
        self.asked.append((task.system, seconds))
        answer = self.script[task.system](len([1 for system, _ in self.asked if system == task.system]))
        if answer is None:
            raise TaskError("out of order")
        return answer


@pytest.fixture
def no_pause(monkeypatch):
    monkeypatch.setattr("benchmarks.interleaved.PAUSE_SECONDS", 0)


def test_systems_take_turns_and_the_first_round_does_not_count(no_pause, capsys):
    quick, other = Task("gapcell.torch", "S1", "train"), Task("plain PyTorch loop", "S1", "train")
    worker = Scripted({quick.system: lambda turn: [900.0, 3.0, 1.0, 2.0][turn - 1], other.system: lambda turn: 10.0})
    figures, failed = measure({"torch": worker}, [quick, other], rounds=3)
    order = [system for system, _ in worker.asked]
    assert all(set(order[turn : turn + 2]) == {quick.system, other.system} for turn in range(0, 8, 2))
    assert len({order[turn] for turn in range(0, 8, 2)}) == 2  # neither always goes first
    assert figures[quick] == {"ms": statistics.median([3.0, 1.0, 2.0]), "lowest": 1.0, "highest": 3.0, "rounds": 3}
    assert failed == []


def test_slow_systems_take_fewer_rounds_and_one_that_fails_is_left_out(no_pause, capsys):
    slow, broken = Task("gapcell.torch", "S3", "train"), Task("plain PyTorch loop", "S3", "train")
    worker = Scripted({slow.system: lambda turn: 2000.0, broken.system: lambda turn: None if turn == 2 else 1.0})
    figures, failed = measure({"torch": worker}, [slow, broken], rounds=7)
    assert set(figures) == {slow}
    assert figures[slow]["rounds"] == SLOW_ROUNDS
    assert failed == ["S3 train, plain PyTorch loop, full: out of order"]
    assert "FAILED S3 train" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("seconds", "median", "runs"),
    [
        ([3.0, 9.0], 3000.0, 1),  # longer than the slice: one run, which counts
        ([0.9, 0.25, 0.5, 0.75, 9.0], 500.0, 4),  # shorter: until the slice is full, the first not counted
    ],
)
def test_a_slice_of_time_holds_one_long_run_or_several_short_ones(monkeypatch, seconds, median, runs):
    clock, taken = [0.0], iter(seconds)

    def run():
        clock.append(clock[-1] + next(taken))

    monkeypatch.setattr("benchmarks.worker.time.perf_counter", lambda: clock[-1])
    assert median_of_slice(run, 1.0) == pytest.approx(median)
    assert len(clock) == 1 + runs


def test_a_worker_that_ends_is_told_and_the_next_question_starts_another(monkeypatch):
    started = []

    def start(module, worker):
        code = "import sys; sys.stdin.readline(); " + ("sys.exit(3)" if not started else "print('{\"ms\": 5}')")
        started.append(worker)
        return subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True)

    monkeypatch.setattr("benchmarks.interleaved.start", start)
    worker, task = Worker("torch"), Task("gapcell.torch", "S1", "train")
    with pytest.raises(TaskError, match="the process ended with 3"):
        worker.ask(task, 0.1)
    assert worker.ask(task, 0.1) == 5
    worker.end()
    assert started == ["torch", "torch"]


def test_results_of_another_machine_are_not_mixed(tmp_path):
    path = tmp_path / "layers.json"
    Results.started({"cpu": "one"}, {}, anew=False, path=path).write(path)
    assert Results.started({"cpu": "one"}, {}, anew=False, path=path).content["shapes"] == {}
    with pytest.raises(SystemExit, match="measure everything with --anew"):
        Results.started({"cpu": "other"}, {}, anew=False, path=path)
    assert Results.started({"cpu": "other"}, {}, anew=True, path=path).content["machine"] == {"cpu": "other"}
