import keras
import pytest


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """The arrays are tiny: threads only wait for each other, tenfold where other tests run beside them."""
    if keras.backend.backend() == "torch":
        import torch

        torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def fresh():
    """Names and seeds as in a new process, whichever test ran before."""
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)
