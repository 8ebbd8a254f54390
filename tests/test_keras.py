"""gapcell.keras on each backend, in a process of its own: Keras takes its backend when it is imported."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
# A fifth of XLA's time, which is most of what these tests take on JAX; what it compiles is only slower.
QUICK = "--xla_cpu_use_fusion_emitters=false --xla_backend_optimization_level=0"


@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_the_layers_on(backend):
    for package in ("keras", backend):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    environment = os.environ | {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    environment["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK}".strip()
    environment = {name: value for name, value in environment.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", TESTS / "keras_layers", "-p", "no:cacheprovider", "--durations=10"]
    ran = subprocess.run(command, env=environment, cwd=TESTS.parent, capture_output=True, text=True, check=False)
    print(ran.stdout)
    assert ran.returncode == 0, ran.stdout[-20_000:] + ran.stderr[-2_000:]
