"""The layers in several processes and threads: DataLoader workers, forks, DistributedDataParallel, thread pools."""

import gc
import multiprocessing
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="these are tests of the torch layers")

import torch
from torch.utils.data import DataLoader, Dataset

import two_processes
from gapcell.torch import ConvGRU1d, ConvLSTM1d
from gapcell.torch.buffers import BufferPool, pool

forks = pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="this system cannot fork a process"
)
# From Python 3.12 on; the tensors here are tiny, and the child uses one thread.
fork_warning = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def train_once(layer, x, mask):
    """The output and the gradients of the parameters."""
    output, _ = layer(x, mask=mask)
    return [output.detach(), *torch.autograd.grad(output.sin().sum(), list(layer.parameters()))]


def example(seed, N=3, T=6):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(N, T, 2, 5, generator=generator)
    mask = torch.rand(N, T, generator=generator) < 0.6
    return x.masked_fill(~mask[..., None, None], torch.nan), mask


def assert_equal(got, want):
    assert len(got) == len(want)
    assert all(torch.equal(one, other) for one, other in zip(got, want, strict=True))


# Processes ------------------------------------------------------------------------------------------------------------


class Embedded(Dataset):
    """A dataset that runs the layer on each item, as when a frozen encoder makes the features."""

    def __init__(self, layer):
        self.layer = layer

    def __len__(self):
        return 6

    def __getitem__(self, index):
        x, mask = example(index, N=1)
        with torch.no_grad():
            output, _ = self.layer(x, mask=mask)
        return output[0]


@forks
@fork_warning
def test_dataloader_workers_run_the_layer():
    layer = ConvLSTM1d(2, 3, 3, num_layers=2)
    train_once(layer, *example(0))  # the parent's buffers are warm when the workers are forked
    dataset = Embedded(layer)
    want = torch.stack([dataset[index] for index in range(6)])
    loader = DataLoader(dataset, batch_size=2, num_workers=2, multiprocessing_context="fork", timeout=60)
    assert torch.equal(torch.cat(list(loader)), want)


def in_child(layer, want, answers):
    torch.set_num_threads(1)
    empty = pool.idle_bytes == 0
    got = train_once(layer, *example(0))
    answers.put((empty, all(torch.equal(one, other) for one, other in zip(got, want, strict=True))))


@forks
@fork_warning
def test_a_forked_child_trains_with_buffers_of_its_own():
    """Also where another thread of the parent holds the pool's lock, which nobody in the child would ever free."""
    layer = ConvGRU1d(2, 3, 3)
    want = train_once(layer, *example(0))
    assert pool.idle_bytes > 0
    fork = multiprocessing.get_context("fork")
    answers = fork.SimpleQueue()
    held, done = threading.Event(), threading.Event()

    def hold():
        with pool._lock:
            held.set()
            done.wait(60)

    other = threading.Thread(target=hold)
    other.start()
    held.wait(60)
    child = fork.Process(target=in_child, args=(layer, want, answers))
    child.start()
    done.set()
    other.join()
    child.join(60)
    hanging = child.is_alive()
    child.kill()
    child.join()
    assert not hanging
    assert child.exitcode == 0
    assert answers.get() == (True, True)


@pytest.mark.skipif(not two_processes.GLOO, reason=two_processes.WITHOUT_GLOO)
def test_data_parallel_training_with_a_wholly_masked_batch_on_one_rank(tmp_path):
    """A missing gradient on that rank would make every process wait for ever; each has a limit of two minutes."""
    script = Path(__file__).with_name("data_parallel.py")
    worker = two_processes.imported(script)
    two_processes.run(script, tmp_path)

    layer = worker.make_layer()
    for rank in range(2):  # the gradients of both ranks add up, as they do in one process
        (worker.loss_of(layer, *worker.batch(rank)) / 2).backward()
    assert not worker.batch(1)[1].any()
    for rank in range(2):
        gradients = torch.load(tmp_path / f"gradients-{rank}.pt", weights_only=True)
        assert list(gradients) == [name for name, _ in layer.named_parameters()]
        for name, parameter in layer.named_parameters():
            assert gradients[name].isfinite().all()
            assert gradients[name].any()
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-5, atol=1e-6)


# Threads --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [ConvLSTM1d, ConvGRU1d])
def test_several_threads_compute_what_one_does(kind):
    layer = kind(2, 8, 3, num_layers=2)
    batches = [example(seed, N=2 + seed % 4, T=4 + seed % 3) for seed in range(24)]
    want = [train_once(layer, *batch) for batch in batches]
    with ThreadPoolExecutor(4) as threads:
        got = list(threads.map(lambda batch: train_once(layer, *batch), batches * 2))
    for one, other in zip(got, want * 2, strict=True):
        assert_equal(one, other)


# Memory ---------------------------------------------------------------------------------------------------------------


def test_the_pool_keeps_no_more_than_its_limit():
    like, small = torch.zeros(()), BufferPool(limit=1000)
    lent = [small.borrow((50,), like) for _ in range(10)]  # 200 bytes each
    assert small.idle_bytes == 0
    del lent
    assert small.idle_bytes == 1000
    too_large = small.borrow((251,), like)
    del too_large
    assert small.idle_bytes <= 1000
    small.clear()
    assert small.idle_bytes == 0


def test_the_pool_lends_the_same_memory_again_but_never_twice_at_once():
    like, small = torch.zeros(()), BufferPool(limit=10_000)
    first, second = small.borrow((100,), like), small.borrow((100,), like)
    places = {first.tensor.data_ptr(), second.tensor.data_ptr()}
    assert len(places) == 2
    del first, second
    again = [small.borrow((10, 10), like), small.borrow((9, 11), like)]
    assert {buffer.tensor.data_ptr() for buffer in again} == places
    assert [tuple(buffer.tensor.shape) for buffer in again] == [(10, 10), (9, 11)]
    assert small.borrow((100,), like).tensor.data_ptr() not in places
    assert small.borrow((100,), like.double()).tensor.dtype == torch.float64


def test_two_threads_never_hold_the_same_memory():
    """The second thread asks while the first is looking through the idle buffers."""
    small, lent = BufferPool(limit=10_000), []
    second = threading.Thread(target=lambda: lent.append(small.borrow((4,), torch.zeros(()))))

    class Interrupting:
        device = torch.device("cpu")

        @property
        def dtype(self):
            if second.ident is None:
                second.start()
                second.join(0.2)
            return torch.float32

    small.borrow((4,), torch.zeros(()))
    assert small.idle_bytes == 16  # given back at once
    lent.append(small.borrow((4,), Interrupting()))
    second.join(60)
    assert len({buffer.tensor.data_ptr() for buffer in lent}) == 2


def test_shapes_that_change_leave_no_pile_of_buffers():
    """What no longer fits is given up for what does."""
    layer, limit = ConvLSTM1d(2, 3, 3), pool.limit
    pool.clear()
    pool.limit = 20_000
    try:
        for T in range(2, 30):
            train_once(layer, *example(T, T=T))
            assert pool.idle_bytes <= 20_000
    finally:
        pool.limit = limit


@pytest.mark.usefixtures("no_kernel")
def test_dropping_the_output_frees_what_was_stored_without_the_garbage_collector():
    layer = ConvLSTM1d(2, 3, 3, num_layers=2, bidirectional=True)
    x, mask = example(0)
    pairs = int(mask.sum())
    gc.collect()
    gc.disable()
    pool.clear()
    try:
        output, state = layer(x, mask=mask)
        assert pool.idle_bytes == 0
        del output, state
        # Gates (4F) and c (F) of each computed pair, in two layers and two directions, all back.
        assert pool.idle_bytes == 4 * pairs * 5 * (4 + 1) * 3 * torch.float32.itemsize
    finally:
        gc.enable()


def test_no_graph_is_kept_without_gradients():
    layer = ConvLSTM1d(2, 3, 3)
    gc.collect()
    pool.clear()
    with torch.no_grad():
        output, (h, c) = layer(example(0)[0].nan_to_num())
    assert not output.requires_grad
    assert not h.requires_grad
    assert not c.requires_grad
    del output, h, c
    assert pool.idle_bytes == 0
