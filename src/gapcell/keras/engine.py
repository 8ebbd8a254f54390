"""What a framework's code is asked for to run a layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from gapcell.cell import State
from gapcell.observed import Coverage
from gapcell.spec import Spec

__all__ = ["Activations", "Engine", "Parameters"]

Tensor = Any


class Activations(NamedTuple):
    """Keras's `activation` and `recurrent_activation`, as `cell.Operations` calls them."""

    tanh: Callable[[Tensor], Tensor]
    sigmoid: Callable[[Tensor], Tensor]


class Parameters(NamedTuple):
    """A layer's weights as `Spec.parameter_shapes` says; biases and decay may be None."""

    kernel: Tensor
    recurrent_kernel: Tensor
    bias: Tensor | None
    recurrent_bias: Tensor | None
    decay: Tensor | None


class Engine(Protocol):
    """A module that runs a layer."""

    def run(
        self,
        spec: Spec,
        parameters: Parameters,
        x: Tensor,
        coverage: Coverage,
        state: State,
        dropout: Tensor | None,
        activations: Activations | None,
        *,
        training: bool,
    ) -> tuple[Tensor, State]:
        """Run one layer in one direction.

        Args:
            spec: of the layer.
            parameters: its weights.
            x: (N, T, *S, C), or (N, S, C) for a series.
            coverage: what is observed and what exists.
            state: (h, c) or (h,), each (N, *S', F).
            dropout: scale on h_(t-1) inside eq. (6), (N, *S', F); None: none.
            activations: in the place of tanh and sigmoid; None: these.
            training: whether a backward pass is to be expected.

        Returns:
            y (N, T, *S', F), or (N, S, F) for a series, of x's dtype; and the last state.
        """
        ...
