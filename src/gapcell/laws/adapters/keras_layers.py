"""keras.layers' own ConvLSTM1D, 2D and 3D, on the backend that Keras was started with."""

from __future__ import annotations

from typing import Any

import keras

from gapcell.laws.adapters.keras import BACKEND, KerasLayer, arguments_of_all, tensor
from gapcell.laws.cases import Case


class KerasOwnLayer(KerasLayer):
    """Given masks of steps, the only ones that Keras documents; lengths become part of them.

    It also accepts others without a word, and reads or breaks on them; that is law 11.
    """

    system = f"keras.layers on {BACKEND}"

    def made(self, case: Case) -> Any:
        """A layer, not built; Keras's Bidirectional around it for both directions."""
        case.takes_only("padding", "stride", "dilation", "bias", "masked_output", "bidirectional")
        spec = case.spec
        layer = getattr(keras.layers, f"ConvLSTM{spec.rank}D")(**arguments_of_all(case))
        return keras.layers.Bidirectional(layer, dtype=str(case.x.dtype)) if spec.bidirectional else layer

    def arguments(self, case: Case) -> dict[str, Any]:
        """Keras has neither lengths nor a domain."""
        mask = case.step_mask()
        return {} if mask is None else {"mask": tensor(mask)}
