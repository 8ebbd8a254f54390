import importlib.util

import pytest


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """The arrays of the laws are tiny: threads only wait for each other, tenfold where other tests run beside them."""
    if importlib.util.find_spec("torch") is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
