"""The kernel runs on PyTorch's own threads, and on its own where these are gone."""

import multiprocessing
import os

import pytest

pytest.importorskip("torch", reason="these are tests of the torch layers")

import torch

from gapcell import native
from gapcell.torch import ConvLSTM1d, threads

if native.active().name == "off":
    pytest.skip(f"no kernel: {native.active().reason}", allow_module_level=True)


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def trained(layer, x):
    output, _ = layer(x)
    return [output.detach(), *torch.autograd.grad(output.square().sum(), list(layer.parameters()))]


@pytest.mark.usefixtures("two_threads")
def test_results_do_not_depend_on_whose_threads_they_are(monkeypatch):
    layer, x = ConvLSTM1d(8, 64, 3), torch.randn(6, 20, 8, 16)
    assert threads.parallel(), "PyTorch's wheels are built with OpenMP"
    lent = trained(layer, x)
    monkeypatch.setattr(threads, "parallel", lambda: 0)
    for got, want in zip(trained(layer, x), lent, strict=True):
        assert torch.equal(got, want)


def test_where_pytorch_has_no_openmp_the_kernels_own_threads_serve(monkeypatch):
    monkeypatch.setattr(torch.backends.openmp, "is_available", lambda: False)
    assert threads._found.__wrapped__() == 0


def child(queue, layer, x):
    torch.set_num_threads(2)  # of its own: the parent's are gone
    with torch.no_grad():
        queue.put((threads.parallel(), layer(x)[0].numpy()))


@pytest.mark.usefixtures("two_threads")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_does_not_wait_for_its_parents_threads():
    """OpenMP does, and so do PyTorch's own operators, on tensors larger than these."""
    layer, x = ConvLSTM1d(8, 32, 3, channels_last=True), torch.randn(6, 20, 16, 8)
    with torch.no_grad():
        want = layer(x)[0].numpy()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=child, args=(queue, layer, x))
    process.start()
    lent, got = queue.get(timeout=60)
    process.join(60)
    assert lent == 0
    assert (got == want).all()
