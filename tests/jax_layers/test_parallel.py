"""Data parallelism over two devices: the gradients of one."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("jax", reason="these are tests of gapcell.jax")

import jax
import numpy as np

import gapcell
from jax_layers.batches import assert_not_zero

SCRIPT = Path(__file__).with_name("data_parallel.py")
TWO_DEVICES = "--xla_force_host_platform_device_count=2"  # read when JAX starts: a process of its own
WAYS = ["sharded jit", "gradient of shard_map", "gradient in shard_map", "gradient in unchecked shard_map"]


def module():
    found = importlib.util.spec_from_file_location("data_parallel", SCRIPT)
    loaded = importlib.util.module_from_spec(found)
    found.loader.exec_module(loaded)
    return loaded


@pytest.fixture(scope="module")
def two_devices(tmp_path_factory):
    """Values and gradients by name of the layer, way of computing them and leaf, and what the script complained of."""
    path = tmp_path_factory.mktemp("parallel") / "found.npz"
    environment = os.environ | {
        "PYTHONPATH": str(Path(gapcell.__file__).parents[1]),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": TWO_DEVICES,
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", str(SCRIPT), str(path)],
        env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert path.exists(), done.stderr
    with np.load(path) as found:
        return dict(found), done.stderr


@pytest.fixture(scope="module")
def one_device():
    """The same in this process."""
    script = module()
    return {
        name: jax.tree.leaves(jax.jit(jax.value_and_grad(script.loss_of(spec), (0, 1)))(*script.arguments(spec)))
        for name, spec in script.SPECS.items()
    }


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["lstm", "series"])
def test_two_devices_give_the_gradients_of_one(name, way, two_devices, one_device):
    found, complaint = two_devices
    got = [leaf for key, leaf in sorted(found.items()) if key.startswith(f"{name}/{way}/")]
    assert len(got) == len(one_device[name]), complaint
    for one, other in zip(got, one_device[name], strict=True):
        assert np.abs(one - other).max() <= 4e-6 * np.abs(other).max()
    assert_not_zero(got)
