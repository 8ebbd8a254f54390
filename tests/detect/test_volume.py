"""VUS-PR against its definition, written out, and against what its authors' program gives."""

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="gapcell.detect needs its extra")

from gapcell.detect.volume import volume_under_pr


def borders(label, length):
    """The soft label of every step: 1 in a range, sqrt(1 - d / length) at a distance d <= length // 2 from one."""
    steps = len(label)
    inside = [step for step in range(steps) if label[step]]
    first = [step for step in inside if step == 0 or not label[step - 1]]
    last = [step for step in inside if step == steps - 1 or not label[step + 1]]
    soft = []
    for step in range(steps):
        value = float(label[step])
        value += sum((1 - (step - end) / length) ** 0.5 for end in last if 0 < step - end <= length // 2)
        value += sum((1 - (begin - step) / length) ** 0.5 for begin in first if 0 < begin - step <= length // 2)
        soft.append(min(value, 1.0))
    groups = [[first[0], last[0]]]
    for begin, end in zip(first[1:], last[1:], strict=True):
        if groups[-1][1] + length // 2 >= begin - length // 2:
            groups[-1][1] = end
        else:
            groups.append([begin, end])
    return soft, [(begin - length // 2, end + length // 2) for begin, end in groups]


def by_definition(label, score, buffer, thresholds):
    """Equations of the paper, a threshold at a time."""
    steps, falling = len(label), sorted(score, reverse=True)
    areas = []
    for length in range(buffer + 1):
        soft, groups = borders(label, length)
        area, recall_before = 0.0, 0.0
        for place in np.linspace(0, steps - 1, thresholds).astype(int):
            flagged = [value >= falling[place] for value in score]
            hits = sum(soft[step] for step in range(steps) if flagged[step])
            beside = sum(soft[step] for step in range(steps) if flagged[step] and not label[step])
            wanted = (sum(label) + sum(label) + beside) / 2
            found = [any(flagged[max(low, 0) : high + 1]) for low, high in groups]
            recall = min(hits / wanted, 1) * sum(found) / len(found)
            area += (recall - recall_before) * hits / sum(flagged)
            recall_before = recall
        areas.append(area)
    return sum(areas) / len(areas)


CASES = {
    "ranges in the middle": [(10, 14), (40, 41)],
    "at both ends": [(0, 3), (55, 60)],
    "neighbours whose borders meet": [(20, 22), (26, 27), (50, 50)],
    "everything": [(0, 60)],
}


@pytest.mark.parametrize("digits", [None, 0], ids=["no ties", "ties"])
@pytest.mark.parametrize("ranges", CASES.values(), ids=CASES)
def test_it_is_the_definition(ranges, digits):
    label = np.zeros(60, dtype=bool)
    for begin, end in ranges:
        label[begin : end + 1] = True
    score = np.random.default_rng(0).normal(size=60) + label
    score = score if digits is None else np.round(score, digits)
    for buffer, thresholds in ((0, 250), (1, 20), (9, 7), (30, 60)):
        assert volume_under_pr(label, score, buffer, thresholds) == pytest.approx(
            by_definition(label.tolist(), score.tolist(), buffer, thresholds), abs=1e-12
        )


def test_it_is_what_the_authors_program_gives():
    """RangeAUC_volume_opt of TSB-AD, commit 16e14dde, with its 250 thresholds."""
    label = np.zeros(50, dtype=bool)
    label[[0, 1, 2, 20, 21, 30, 49]] = True
    score = (np.arange(50) * 7 % 11).astype(float)
    for buffer, theirs in ((0, 0.1228459127200276), (8, 0.28685525023108727), (30, 0.6998024640141811)):
        assert volume_under_pr(label, score, buffer) == pytest.approx(theirs, abs=1e-12)
    step = np.arange(400)
    label = (step % 130 >= 100) & (step % 130 < 112)
    score = np.sin(step * 0.7) + 1.5 * ((step % 130 >= 95) & (step % 130 < 108))
    assert volume_under_pr(label, score, 20) == pytest.approx(0.6464325721825732, abs=1e-12)


def test_a_perfect_score_is_near_one_and_a_late_one_is_better_than_a_random_one():
    label = np.zeros(1000, dtype=bool)
    label[300:340] = label[700:720] = True
    noise = 0.01 * np.random.default_rng(0).normal(size=1000)
    perfect, late = label + noise, np.roll(label, 8) + noise
    assert volume_under_pr(label, perfect, 0) > 0.99
    assert volume_under_pr(label, noise, 20) < 0.2 < volume_under_pr(label, late, 20)
    assert volume_under_pr(label, late, 0) < volume_under_pr(label, late, 40)


def test_only_the_order_of_the_scores_counts():
    label = np.zeros(80, dtype=bool)
    label[30:35] = True
    score = np.random.default_rng(1).normal(size=80)
    assert volume_under_pr(label, score, 10) == volume_under_pr(label, np.exp(3 * score) - 5, 10)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"score": np.zeros(4)}, r"label and score must both be \(steps,\), got \(5,\) and \(4,\)"),
        ({"score": np.array([0.0, 1, np.nan, 0, 0])}, "score is NaN at step 2: leave out the steps without a score"),
        ({"label": np.zeros(5)}, "label is True nowhere: there is nothing to be found"),
        ({"buffer": -1}, r"buffer \(=-1\) must be at least 0 and thresholds \(=250\) at least 1"),
        ({"thresholds": 0}, r"buffer \(=100\) must be at least 0 and thresholds \(=0\) at least 1"),
    ],
)
def test_what_cannot_be_measured_is_refused(changed, message):
    given = {"label": np.array([0, 1, 0, 0, 0]), "score": np.arange(5.0)} | changed
    with pytest.raises(ValueError, match=f"^{message}$"):
        volume_under_pr(**given)
