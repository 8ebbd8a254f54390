"""Every piece of Python in the README, docs/pytorch.md and docs/detect.md runs, and prints what stands below it."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"```python\n(.*?)```(?:\n\n```\n(.*?)```)?", re.DOTALL)


def blocks(text):
    """The pieces of Python, and what is said to be printed, or None."""
    return [(code, printed or None) for code, printed in BLOCK.findall(text)]


BLOCKS = [
    pytest.param(code, printed, id=f"{document}-{place}")
    for document in ("README.md", "docs/pytorch.md", "docs/detect.md")
    for place, (code, printed) in enumerate(blocks((ROOT / document).read_text(encoding="utf-8")))
]


def ran(code):
    environment = os.environ | {"KERAS_BACKEND": "torch", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-X", "utf8", "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", timeout=120, check=False)


@pytest.mark.parametrize(("code", "printed"), BLOCKS)
def test_a_piece_of_python_does_what_the_text_says(code, printed):
    for package in ("torch", "jax", "keras"):
        if f"import {package}\n" in code and importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    done = ran(code)
    assert done.returncode == 0, done.stderr
    assert printed is None or done.stdout == printed


def test_what_a_text_says_is_compared():
    ((code, printed),) = blocks("So:\n\n```python\nprint(1)\n```\n\n```\n2\n```\n")
    assert ran(code).stdout != printed
    assert blocks("```python\nraise SystemExit(3)\n```\n")[0][1] is None
    assert ran("raise SystemExit(3)").returncode == 3
