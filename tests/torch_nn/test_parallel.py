"""Norms and losses over two processes that observe unequally much: as one process with the whole batch."""

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="these are tests of gapcell.torch.nn")

import torch

import two_processes
from gapcell.torch import nn as gnn
from torch_nn.laws import assert_close

SCRIPT = Path(__file__).with_name("data_parallel.py")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each of two processes found; a collective call that one of them leaves out would hang, until the limit."""
    if not two_processes.GLOO:
        pytest.skip(two_processes.WITHOUT_GLOO)
    folder = tmp_path_factory.mktemp("processes")
    two_processes.run(SCRIPT, folder)
    return [torch.load(folder / f"found-{rank}.pt", weights_only=True) for rank in range(2)]


def whole():
    worker = two_processes.imported(SCRIPT)
    x, target, mask = worker.batch()
    count = gnn.global_count(gnn.MaskedMSELoss().count(target, mask))
    return worker, worker.train(worker.make_model(), x, target, mask, count)


def differences(found, how):
    """Which of what the processes found is not what one process finds."""
    worker, want = whole()
    wrong = set()
    for rank in range(2):
        for name, value in want.items():
            value = value[worker.part(rank)] if name == "y" else value
            try:
                assert_close(found[rank][how][name].double(), value.double(), name)
            except AssertionError:
                wrong.add(name)
    return wrong


def test_training_together_is_training_in_one_process(found):
    """Outputs, gradients and running statistics; the counts of the ranks are unequal."""
    worker, _ = whole()
    mask = worker.batch()[2]
    assert mask[worker.part(0)].sum() > 4 * mask[worker.part(1)].sum()
    assert differences(found, "together") == set()


def test_statistics_of_each_process_alone_are_others(found):
    assert {"y", "1.running_mean", "1.running_var", "gradient of 0.weight"} <= differences(found, "alone")


def test_accumulated_gradients_over_processes_are_those_of_the_whole_batch(found):
    worker, _ = whole()
    x, target, mask = worker.batch()
    model = worker.make_model().eval()
    gnn.MaskedMSELoss("samples")(model(x, mask)[0], target, mask).backward()
    for rank in range(2):
        for gradient, parameter in zip(found[rank]["accumulated"], model.parameters(), strict=True):
            assert gradient.any()
            assert_close(gradient, parameter.grad, "accumulated gradients")
