"""Layers behind one small interface, so that a law is written once for all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from gapcell.reference import conv_rnn
from laws.cases import Case


@dataclass(frozen=True)
class Gradients:
    """One pass with gradients: its values, and the gradients of sum(y * dy) + sum(state * dstate)."""

    y: np.ndarray
    last: Any
    params: list[dict[str, np.ndarray]]
    x: np.ndarray
    state: Any


class Layer(Protocol):
    """What a law needs. Arrays are NumPy's, channels last; the layer computes in the dtype of `case.x`."""

    def run(self, case: Case) -> tuple[np.ndarray, Any]:
        """The output and the last state."""
        ...

    def grad(self, case: Case, dy: np.ndarray, dstate: Any) -> Gradients:
        """Gradients for the cotangents dy (shaped as y) and dstate (shaped as the state); `case.state` is given.

        A gradient that the framework leaves out (None) is an AssertionError.
        """
        ...


class ReferenceLayer:
    """gapcell.reference; it has no gradients."""

    def run(self, case: Case) -> tuple[np.ndarray, Any]:
        return conv_rnn(case.params, case.x, case.spec, **case.arguments)

    def grad(self, case: Case, dy: np.ndarray, dstate: Any) -> Gradients:
        raise NotImplementedError("the oracle has no gradients")
