"""What the laws need of a layer: a small adapter between a `Case` and the layer's own way of being called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard

import numpy as np

from gapcell.laws.cases import Case
from gapcell.laws.verdicts import CannotBeAsked

__all__ = [
    "Adapter",
    "AdapterWithGradients",
    "Gradients",
    "has_gradients",
    "need_params",
    "spec_options",
    "takes_params",
]


@dataclass(frozen=True)
class Gradients:
    """One pass with gradients: its values, and the gradients of sum(y * dy) + sum(state * dstate).

    Attributes:
        y: the output of the pass.
        last: its last state.
        params: of the parameters, in any nest of lists and dicts; of an adapter that takes `case.params`, in theirs.
        x: of the input.
        state: of the initial state, in the form of `case.state`.
    """

    y: np.ndarray
    last: Any
    params: Any
    x: np.ndarray
    state: Any


class Adapter(Protocol):
    """A layer as the laws see it. Arrays are NumPy's, channels last; the layer computes in the dtype of `case.x`.

    An adapter whose layer cannot be given something that the case holds raises `CannotBeAsked`, and the law is not
    asked with it; an initial state is then left out of the case, and the law asked again. `Case` has methods that say
    no for an adapter: `takes_only`, `step_mask` and `right_lengths`.

    A second method, `grad(case, dy, dstate) -> Gradients`, may be left out, and gradients are then not asked for. The
    cotangents are dy (shaped as y) and dstate (as the last state); a gradient that the framework leaves out (None) is a
    `LawBroken`.

    Attributes:
        takes_params: True: the layer computes with `case.params`. By default it has weights of its own, which must be
            the same whenever `case.spec` is the same, and what compares with gapcell.reference is not asked.
        options: a mapping of options of the Spec that the layer always has, e.g. {"masked_output": "hold"}.
        system: its name in reports.
        dtype: the type that it computes in, if there is only one.
        accepted_masks: a function of a case; shapes of masks that it takes beside those of docs/semantics.md.

    All of them may be missing.
    """

    def run(self, case: Case) -> tuple[np.ndarray, Any]:
        """The output (N, T, *S, F), and the last state as `case.state` is formed, or None if it returns none."""
        ...


class AdapterWithGradients(Adapter, Protocol):
    """An adapter with `grad`."""

    def grad(self, case: Case, dy: np.ndarray, dstate: Any) -> Gradients:
        """Gradients for the cotangents dy, shaped as y, and dstate, as the last state."""
        ...


def has_gradients(layer: Adapter) -> TypeGuard[AdapterWithGradients]:
    """Whether gradients can be asked for."""
    return callable(getattr(layer, "grad", None))


def takes_params(layer: Adapter) -> bool:
    """Whether the layer computes with the parameters of the case."""
    return bool(getattr(layer, "takes_params", False))


def spec_options(layer: Adapter) -> Mapping[str, Any]:
    """Options of the Spec that the layer always has."""
    return getattr(layer, "options", {})


def need_params(layer: Adapter) -> None:
    """Raises `CannotBeAsked` for a layer with weights of its own."""
    if not takes_params(layer):
        raise CannotBeAsked("given weights: the adapter has its own (no `takes_params = True`)")
