"""What one layer and direction is given, and how it is to run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor

from gapcell import native
from gapcell.spec import Spec

__all__ = ["Arguments", "Run", "StoreGates"]

StoreGates = Literal["fp32", "bf16", "recompute"]


class Arguments(NamedTuple):
    """What one layer and direction reads.

    Attributes:
        x: (N, T, *S, C) x~ of eq. (2), float32 or bfloat16.
        h: (N, *S', F) initial state.
        c: likewise; None for the GRU.
        weight_ih: (gates*F, C, *k), of x's type.
        weight_hh: (gates*F, F, *k), of x's type.
        bias: (gates*F,) or None.
        recurrent_bias: (F,) bhn of eq. (8), or None.
        dropout: scale on h_(t-1) inside eq. (6), (N, *S', F) or with site axes of size 1; None: none.
        update: (N, T) or (N, T, *S') bool, u of eq. (5); None: all True.
        decay: (F,) rates of eq. (24), or None.
        elapsed: (N, T) the time before each step as it is processed, float32; None: the state does not decay.
    """

    x: Tensor
    h: Tensor
    c: Tensor | None
    weight_ih: Tensor
    weight_hh: Tensor
    bias: Tensor | None
    recurrent_bias: Tensor | None
    dropout: Tensor | None
    update: Tensor | None
    decay: Tensor | None = None
    elapsed: Tensor | None = None


@dataclass(frozen=True)
class Run:
    """How to run: the layer, what its output holds where the state does not step, and what backward reads.

    Attributes:
        spec: of one layer and direction.
        hold: whether a held place gives h_t, else 0.
        store: gates in "fp32" or "bf16", or "recompute".
        reverse: whether step T-1 is processed first, eq. (13); arrays keep their order.
        packed: the weights, packed before; without it they are packed for this run.
    """

    spec: Spec
    hold: bool
    store: StoreGates = "fp32"
    reverse: bool = False
    packed: native.Weights | None = None
