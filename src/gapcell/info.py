"""What is installed beside gapcell and which kernel runs, found out without importing any of it."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib import metadata

from gapcell import __version__, native

PACKAGES = {  # what is looked up: (distributions that provide it, the extra that installs it)
    "numpy": (("numpy",), None),
    "safetensors": (("safetensors",), None),
    "torch": (("torch",), "torch"),
    "jax": (("jax",), "jax"),
    "flax": (("flax",), "flax"),
    "dm-haiku": (("dm-haiku",), None),
    "keras": (("keras",), "keras"),
    "tensorflow": (("tensorflow", "tensorflow-cpu", "tf-nightly"), None),
    "polars": (("polars",), "detect"),
    "scikit-learn": (("scikit-learn",), "detect"),
    "altair": (("altair",), "detect"),
    "vl-convert": (("vl-convert-python",), "detect"),
    "jinja2": (("jinja2",), "detect"),
    "pyspark": (("pyspark",), "spark"),
    "cyclopts": (("cyclopts",), "cli"),
    "rich": (("rich",), "cli"),
}


@dataclass(frozen=True)
class Package:
    """A package that gapcell can use.

    Attributes:
        name: as people call it.
        version: None where it is not installed.
        extra: the extra of gapcell that installs it; None where none does.
    """

    name: str
    version: str | None
    extra: str | None


@dataclass(frozen=True)
class Kernel:
    """What computes the layers: `name`, and `reason`, a sentence without its full stop."""

    name: str
    reason: str


def packages() -> list[Package]:
    """Python, gapcell, and everything it can use, installed or not."""
    known = [Package("python", platform.python_version(), None), Package("gapcell", __version__, None)]
    return known + [Package(name, version_of(names), extra) for name, (names, extra) in PACKAGES.items()]


def version_of(distributions: tuple[str, ...]) -> str | None:
    """The version of the first of these distributions that is installed."""
    for name in distributions:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def kernel() -> Kernel:
    """Which implementation runs a layer here."""
    active = native.active()
    if active.name != "off":
        return Kernel(f"compiled, {active.name}", active.reason)
    if version_of(("torch",)) is None:
        return Kernel("NumPy reference", "PyTorch is not installed: pip install 'gapcell[torch]'")
    return Kernel("pure PyTorch", active.reason)


def kernel_in_jax() -> Kernel | None:
    """What computes a layer of gapcell.jax on a CPU, as far as JAX need not be asked; None: there is no JAX."""
    if version_of(PACKAGES["jax"][0]) is None:
        return None
    active = native.active()
    if active.name == "off":
        return Kernel("pure JAX", active.reason)
    if native.xla_handlers():
        return Kernel(f"compiled, {active.name}", "called by XLA itself")
    again = "install gapcell again where jax is installed"
    return Kernel(f"compiled, {active.name}", f"called through Python, as it was built without JAX's headers; {again}")
