"""gapcell.reference as the laws see it: the oracle, without gradients."""

from __future__ import annotations

from typing import Any

import numpy as np

from gapcell.laws.cases import Case
from gapcell.reference import conv_rnn


class ReferenceLayer:
    """gapcell.reference; it always computes in float64."""

    takes_params = True
    dtype = np.float64

    def run(self, case: Case) -> tuple[np.ndarray, Any]:
        """What the case means."""
        return conv_rnn(case.params, case.x, case.spec, **case.arguments)
