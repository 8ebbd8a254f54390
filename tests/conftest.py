"""Backends and data that a machine may lack: skipped by name on a user's, a failure where they are required."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Keras has one backend a process: test_keras.py runs this folder in a process for each.
collect_ignore = [] if "KERAS_BACKEND" in os.environ else ["keras_layers"]

REQUIRED = frozenset(filter(None, os.environ.get("REQUIRE_BACKENDS", "").split(",")))

JAVA = bool(shutil.which("java") or os.environ.get("JAVA_HOME"))


def pytest_configure(config: pytest.Config) -> None:
    missing = sorted(name for name in REQUIRED if importlib.util.find_spec(name) is None)
    if missing:
        raise pytest.UsageError(f"REQUIRE_BACKENDS names {', '.join(missing)}, which cannot be imported here")
    if "pyspark" in REQUIRED and not JAVA:
        raise pytest.UsageError("REQUIRE_BACKENDS names pyspark, for which Java is not installed here")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The file that takes longest goes first, so that no worker waits for it at the end."""
    items.sort(key=lambda item: item.path.name != "test_keras.py")


@pytest.fixture(autouse=True, scope="module")
def no_compiled_functions_left() -> Iterator[None]:
    """A compiled function takes some forty memory maps; Linux allows a process 65530, and beyond them XLA crashes."""
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()


@pytest.fixture
def no_kernel() -> Iterator[None]:
    """Without the compiled kernel, also where it is built."""
    from gapcell import native

    if native.active().name == "off":
        yield
    else:
        with native.using("off"):
            yield


@pytest.fixture
def compiled_quickly() -> Iterator[None]:
    """For tests of what is computed, not of how fast: XLA compiles in half the time without its optimisations."""
    jax = pytest.importorskip("jax", reason="these are tests in JAX")
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="session")
def java() -> None:
    """What Spark runs on."""
    if not JAVA:
        pytest.skip("Spark needs Java, which is not installed")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of data sets that are used but never copied into the project."""
    folder = Path(os.environ.get("GAPCELL_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no data sets at {folder} (set GAPCELL_DATA)")
    return folder
