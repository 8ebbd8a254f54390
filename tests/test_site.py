"""The documentation builds as a site without a warning: every link and every docstring."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

# Found and not imported: every worker collects this file, and Keras alone would bring TensorFlow along.
for package in ("sphinx", "furo", "myst_parser", "torch", "jax", "flax", "keras", "polars", "pyspark"):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"the site is built with {package}", allow_module_level=True)

ROOT = Path(__file__).parents[1]


def built(source, folder):
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", source, folder]
    environment = os.environ | {"KERAS_BACKEND": "torch"}
    return subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", timeout=600, check=False)


def test_the_site_builds_without_a_warning(tmp_path):
    done = built(ROOT / "docs", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "ConvLSTM1d" in (tmp_path / "api" / "torch.html").read_text(encoding="utf-8")


def test_a_broken_link_is_found(tmp_path):
    (tmp_path / "conf.py").write_text("extensions = ['myst_parser']", encoding="utf-8")
    (tmp_path / "index.md").write_text("# A page\n\n[nowhere](missing.md)\n", encoding="utf-8")
    done = built(tmp_path, tmp_path / "site")
    assert done.returncode != 0
    assert "missing.md" in done.stderr
