import pytest


@pytest.fixture(autouse=True)
def one_thread():
    """The tensors of these tests are tiny: threads only wait for each other."""
    import sys

    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 0
    if torch:
        torch.set_num_threads(1)
    yield
    if torch:
        torch.set_num_threads(before)
