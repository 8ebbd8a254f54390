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
from gapcell import native
from jax_layers.batches import assert_not_zero

SCRIPT = Path(__file__).with_name("data_parallel.py")
TWO_DEVICES = "--xla_force_host_platform_device_count=2"  # read when JAX starts: a process of its own
WAYS = ["sharded jit", "gradient of shard_map", "gradient in shard_map", "gradient in unchecked shard_map"]
DIVIDED = "sharded jit"  # by XLA, which cannot divide a call of the kernel


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


def in_this_process():
    script = module()
    return {
        name: jax.tree.leaves(jax.jit(jax.value_and_grad(script.loss_of(spec), (0, 1)))(*script.arguments(spec)))
        for name, spec in script.SPECS.items()
    }


@pytest.fixture(scope="module")
def one_device():
    """The same in this process, by whether the kernel computes it, if there is one."""
    if native.active().name == "off":
        return dict.fromkeys((True, False), in_this_process())
    with native.using("off"):
        pure = in_this_process()
    return {True: in_this_process(), False: pure}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["lstm", "series"])
def test_two_devices_give_the_gradients_of_one(name, way, two_devices, one_device):
    found, complaint = two_devices
    got = [leaf for key, leaf in sorted(found.items()) if key.startswith(f"{name}/{way}/")]
    want = one_device[way != DIVIDED][name]
    assert len(got) == len(want), complaint
    for one, other in zip(got, want, strict=True):
        assert np.abs(one - other).max() <= 4e-6 * np.abs(other).max()
    assert_not_zero(got)


@pytest.mark.skipif(
    native.active().name == "off" or not native.xla_handlers(), reason="no kernel, or one built without JAX's headers"
)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["lstm", "series"])
def test_each_device_calls_the_kernel_where_the_program_is_its_own(name, way, two_devices):
    calls = two_devices[0][f"kernel calls/{name}/{way}"]
    assert calls == (0 if way == DIVIDED else {"lstm": 4, "series": 2}[name])
