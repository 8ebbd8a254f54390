import pytest


@pytest.fixture
def float64(compiled_quickly):
    """JAX in double precision, for one test."""
    import jax

    with jax.enable_x64(True):
        yield
