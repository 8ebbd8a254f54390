import pytest


@pytest.fixture
def compiled_quickly():
    """For tests of what is computed, not of how fast: XLA compiles in half the time without its optimisations."""
    jax = pytest.importorskip("jax", reason="these are tests of gapcell.jax")
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture
def float64(compiled_quickly):
    """JAX in double precision, for one test."""
    import jax

    with jax.enable_x64(True):
        yield
