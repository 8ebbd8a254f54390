"""A package that an extra installs is missing: what is said is the pip line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import gapcell
from gapcell.extras import answered_for_keras

SOURCE = str(Path(gapcell.__file__).parents[1])


def missing(package, tmp_path):
    """The environment of a process in which a package is not installed, whether it is here or not."""
    (tmp_path / f"{package}.py").write_text(f"raise ModuleNotFoundError('no {package}', name='{package}')")
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), SOURCE])}


@pytest.mark.parametrize(
    ("statement", "package", "said"),
    [
        ("import gapcell.torch", "torch", "gapcell.torch needs torch, which is not installed: *torch]'"),
        ("import gapcell.torch.nn", "torch", "gapcell.torch needs torch, which is not installed: *torch]'"),
        ("import gapcell.jax", "jax", "gapcell.jax needs jax, which is not installed: *jax]'"),
        ("import gapcell.keras", "keras", "gapcell.keras needs Keras 3 and a backend of it: *keras,torch]'"),
        ("import gapcell.detect", "polars", "gapcell.detect needs polars, which is not installed: *detect]'"),
        ("import gapcell.detect.simulate", "torch", "gapcell.detect needs torch, which is not installed: *detect]'"),
    ],
)
def test_an_import_is_answered_with_the_pip_line(statement, package, said, tmp_path):
    command = [sys.executable, "-c", statement]
    ran = subprocess.run(command, env=missing(package, tmp_path), capture_output=True, encoding="utf-8", check=False)
    assert ran.returncode == 1
    said = said.replace("*", "pip install 'gapcell[")
    assert ran.stderr.splitlines()[-1].startswith(f"ModuleNotFoundError: {said}")
    assert "During handling" not in ran.stderr


@pytest.mark.parametrize(
    ("backend", "said"),
    [
        ("tensorflow", "pip install tensorflow, or set KERAS_BACKEND to another: torch (pip install 'gapcell[torch]')"),
        ("torch", "pip install 'gapcell[torch]', or set KERAS_BACKEND to another: tensorflow (pip install tensorflow)"),
    ],
)
def test_a_missing_backend_of_keras_is_named(backend, said):
    answer = answered_for_keras(ModuleNotFoundError("no", name=f"{backend}.python"))
    assert str(answer).startswith(f"Keras is to run on {backend}, which is not installed: {said}")
    assert "jax (pip install 'gapcell[jax]')" in str(answer)
    assert answer.name == f"{backend}.python"


def test_what_no_extra_installs_is_left_as_it_is():
    error = ModuleNotFoundError("no", name="gapcell.lost")
    assert answered_for_keras(error) is error
