"""What tests in PyTorch share: one thread, and the same numbers whatever ran before."""

import pytest


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """The tensors of these tests are tiny: threads only wait for each other, and tenfold on a busy machine."""
    torch = pytest.importorskip("torch", reason="these are tests in PyTorch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def seed():
    """The same weights and inputs whichever tests run before."""
    import torch

    torch.manual_seed(0)
