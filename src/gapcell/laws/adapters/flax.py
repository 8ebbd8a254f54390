"""flax.linen's ConvLSTMCell in nn.RNN, told about padding by seq_lengths."""

from __future__ import annotations

from typing import Any

import flax.linen
import numpy as np

from gapcell.laws.adapters.two_convolutions import TwoConvolutionsLayer
from gapcell.laws.cases import Case


class FlaxLayer(TwoConvolutionsLayer):
    """As flax.linen.Bidirectional does for both directions: one RNN runs in reverse and keeps the order."""

    def lengths(self, case: Case) -> np.ndarray | None:
        """`seq_lengths` are padding on the right."""
        return case.right_lengths()

    def forward(self, spec: Any, cell: Any, x: Any, state: Any, lengths: Any, backwards: bool) -> tuple[Any, Any]:
        """Through flax's public interface; its carry is (c, h)."""
        module = flax.linen.RNN(
            flax.linen.ConvLSTMCell(spec.filters, spec.kernel_size, dtype=x.dtype, param_dtype=x.dtype),
            return_carry=True,
            reverse=backwards,
            keep_order=True,
        )
        variables = {"params": {"cell": {"ih": cell["of_input"], "hh": cell["of_state"]}}}
        (c, h), y = module.apply(variables, x, initial_carry=state[::-1], seq_lengths=lengths)
        return y, (h, c)
