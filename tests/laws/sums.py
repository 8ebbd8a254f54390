"""A layer of a few lines, as a user of gapcell.laws may have it, and one that looks ahead."""

import numpy as np

from gapcell.laws import CannotBeAsked

WEIGHTS = np.random.default_rng(0).normal(size=(9, 9))


class Sums:
    """A layer of a few lines with weights of its own: y = tanh of the running sum of x, steps masked by a select."""

    def run(self, case):
        case.takes_only("cell")
        if case.state is not None:
            raise CannotBeAsked("an initial state")
        mask = case.step_mask()
        if mask is not None and mask.shape != case.x.shape[:2]:
            raise ValueError(f"`mask` has shape {mask.shape}, expected {case.x.shape[:2]}")
        if case.x.ndim != case.spec.rank + 3 or case.x.shape[-1] != case.spec.in_channels:
            raise ValueError(f"`x` has shape {case.x.shape}, expected (N, T, L, {case.spec.in_channels})")
        seen = np.ones(case.x.shape[:2], bool) if mask is None else mask == 1
        seen = seen.reshape(*seen.shape, *(1,) * (case.x.ndim - 2))
        return np.where(seen, self.outputs(case, np.where(seen, case.x, 0)), 0), None

    def outputs(self, case, x):
        return np.tanh(np.cumsum(x, axis=1) @ WEIGHTS[: x.shape[-1], : case.spec.filters].astype(x.dtype))


class BackwardSums(Sums):
    def outputs(self, case, x):
        return super().outputs(case, x[:, ::-1])[:, ::-1]
