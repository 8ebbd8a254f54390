"""The forest on top of the encoders: it is scikit-learn's, kept in arrays that lead nowhere else."""

import numpy as np
import pytest
import torch
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.metrics import roc_auc_score

from gapcell.detect import label_model
from gapcell.detect.label_model import DEPTH, LabelModel, fit_labels, perfect


def silent(done: int, total: int) -> None:
    """Progress that nobody watches."""


def events(number: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Events of which a twentieth is labelled, by a rule on two of six inputs."""
    draws = np.random.default_rng(0)
    x = draws.normal(size=(number, 6))
    return x, (x[:, 1] > 1.0) & (x[:, 4] < -0.3)


@pytest.fixture(scope="module")
def model() -> LabelModel:
    return fit_labels(*events(), 0, silent)


def test_a_perfect_tree_gives_what_the_grown_one_gives() -> None:
    x, labels = events()
    x = np.round(x, 1).astype(np.float32)  # so that many inputs lie on a threshold's float32 neighbours
    forest = ExtraTreesClassifier(5, max_depth=DEPTH, random_state=1).fit(x, labels)
    for tree in forest:
        feature, threshold, value = perfect(tree, 0.5)
        alone = LabelModel(feature[None], threshold[None], value[None])
        weight = tree.tree_.weighted_n_node_samples[tree.apply(x)]
        wanted = (tree.predict_proba(x)[:, 1] * weight + 0.5) / (weight + 1)
        np.testing.assert_allclose(1 / (1 + np.exp(-alone.log_odds(x))), wanted, rtol=1e-5)


def test_it_finds_the_rule_and_says_how_likely(model: LabelModel) -> None:
    x, labels = events(8000)
    odds = model.log_odds(x[4000:])
    assert roc_auc_score(labels[4000:], odds) > 0.98
    assert np.isfinite(odds).all()
    assert np.mean(1 / (1 + np.exp(-odds))) == pytest.approx(labels[4000:].mean(), abs=0.02)


def test_drawing_from_the_others_does_not_make_the_label_likelier(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_model, "MOST_OTHERS", 500)
    x, labels = events()
    found = 1 / (1 + np.exp(-fit_labels(x, labels, 0, silent).log_odds(x)))
    assert found.mean() == pytest.approx(labels.mean(), abs=0.02)


def test_it_is_the_same_after_a_file(model: LabelModel) -> None:
    x = events()[0]
    np.testing.assert_array_equal(LabelModel.of(model.tensors(), 6).log_odds(x), model.log_odds(x))


@pytest.mark.parametrize(("name", "number"), [("feature", 6.0), ("feature", -1.0), ("feature", 0.5), ("value", 1.0)])
def test_what_no_forest_holds_is_refused(model: LabelModel, name: str, number: float) -> None:
    tensors = {key: tensor.clone() for key, tensor in model.tensors().items()}
    tensors[name][3, 5] = number
    with pytest.raises(ValueError, match="input that is none of the 6" if name == "feature" else "no probability"):
        LabelModel.of(tensors, 6)


def test_progress_reaches_the_end() -> None:
    told: list[tuple[int, int]] = []
    fit_labels(*events(500), 0, lambda done, total: told.append((done, total)))
    assert told[-1] == (label_model.TREES, label_model.TREES)
    assert torch.get_num_threads() >= 1


def test_too_few_labels_are_refused() -> None:
    x, _ = events(100)
    with pytest.raises(ValueError, match="1 of the 100 training events with a known label are labelled"):
        fit_labels(x, np.arange(100) == 3, 0, silent)
