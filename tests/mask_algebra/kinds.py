"""Arrays of every kind that the mask algebra takes, and how its tests call it."""

import importlib.util
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp


def installed(name):
    missing = importlib.util.find_spec(name) is None
    return pytest.param(name, marks=pytest.mark.skipif(missing, reason=f"{name} is not installed"))


def make(kind, array):
    """A NumPy array as an array of this kind."""
    if kind == "torch":
        return importlib.import_module("torch").from_numpy(np.array(array))
    return importlib.import_module("jax.numpy").asarray(array) if kind == "jax" else np.asarray(array)


every_kind = pytest.mark.parametrize("kind", ["numpy", installed("torch"), installed("jax")])
MANY, FEW = 60, 8  # examples; JAX compiles anew for every shape


def drawn(**strategies):
    """A test of every kind of array on examples that Hypothesis draws."""

    def decorate(test):
        runs = {
            count: settings(max_examples=count, deadline=None, derandomize=True, database=None)(
                given(**strategies)(test)
            )
            for count in (MANY, FEW)
        }

        def run(kind):
            runs[FEW if kind == "jax" else MANY](kind=kind)

        run.__name__, run.__qualname__ = test.__name__, test.__qualname__
        return every_kind(run)

    return decorate


def run(kind, function, *arguments, **options):
    """The result as NumPy arrays; it has the type and device of what went in, which is left as it was."""
    arrays = [make(kind, each) if isinstance(each, np.ndarray) else each for each in arguments]
    options = {name: make(kind, each) if isinstance(each, np.ndarray) else each for name, each in options.items()}
    result = function(*arrays, **options)
    for given_array, own in zip(arguments, arrays, strict=True):
        if isinstance(given_array, np.ndarray):
            np.testing.assert_array_equal(np.asarray(own), given_array)
            for part in result if isinstance(result, tuple) else (result,):
                assert type(part) is type(own)
    return tuple(np.asarray(part) for part in result) if isinstance(result, tuple) else np.asarray(result)


def bools(shape):
    return hnp.arrays(np.bool_, shape)


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def refused(message):
    return pytest.raises(ValueError, match=f"^{re.escape(message)}$")
