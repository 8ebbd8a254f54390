"""Norms and losses over two processes that observe unequally much: as one process with the whole batch."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="these are tests of gapcell.torch.nn")

import torch

from gapcell.torch import nn as gnn
from torch_nn.laws import assert_close


def worker_script():
    """data_parallel.py as a module: the processes run it, and the tests compare with what it computes."""
    path = Path(__file__).with_name("data_parallel.py")
    spec = importlib.util.spec_from_file_location("nn_data_parallel", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return path, module


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each of two processes found; a collective call that one of them leaves out would hang, so there is a "
    "limit."""
    if not (torch.distributed.is_available() and torch.distributed.is_gloo_available()):
        pytest.skip("this PyTorch is built without torch.distributed and gloo")
    folder = tmp_path_factory.mktemp("processes")
    path, _ = worker_script()
    commands = [[sys.executable, str(path), str(folder), str(rank), "2"] for rank in range(2)]
    running = [subprocess.Popen(each, stderr=subprocess.PIPE, text=True) for each in commands]
    try:
        said = [process.communicate(timeout=120)[1] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0, 0], said
    return [torch.load(folder / f"found-{rank}.pt", weights_only=True) for rank in range(2)]


def whole():
    _, worker = worker_script()
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
