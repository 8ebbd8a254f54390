"""dm-haiku's Conv1DLSTM, Conv2DLSTM and Conv3DLSTM in hk.dynamic_unroll, which has no way to say what is padding."""

from __future__ import annotations

from typing import Any

import haiku
import numpy as np

from gapcell.laws.adapters.two_convolutions import TwoConvolutionsLayer
from gapcell.laws.cases import Case
from gapcell.laws.verdicts import CannotBeAsked


class HaikuLayer(TwoConvolutionsLayer):
    """Without masks or lengths; the other direction is dynamic_unroll(reverse=True)."""

    def lengths(self, case: Case) -> np.ndarray | None:
        """None can be given."""
        for name in ("mask", "lengths", "domain"):
            if getattr(case, name) is not None:
                raise CannotBeAsked({"mask": "a mask", "domain": "a domain"}.get(name, name))
        return None

    def forward(self, spec: Any, cell: Any, x: Any, state: Any, lengths: Any, backwards: bool) -> tuple[Any, Any]:
        """Through Haiku's public interface."""
        kind = getattr(haiku, f"Conv{spec.rank}DLSTM")

        def unrolled(x: Any, state: Any) -> Any:
            core = kind(input_shape=x.shape[2:-1], output_channels=spec.filters, kernel_shape=spec.kernel_size)
            return haiku.dynamic_unroll(core, x, haiku.LSTMState(*state), time_major=False, reverse=backwards)

        module = haiku.without_apply_rng(haiku.transform(unrolled))
        params = {
            f"conv{spec.rank}_dlstm/{theirs}": {"w": cell[ours]["kernel"], "b": cell[ours]["bias"]}
            for ours, theirs in (("of_input", "input_to_hidden"), ("of_state", "hidden_to_hidden"))
        }
        y, last = module.apply(params, x, state)
        return y, (last.hidden, last.cell)
