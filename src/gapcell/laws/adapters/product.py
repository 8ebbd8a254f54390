"""The usual advice: a ConvLSTM in PyTorch that knows no mask, fed with x * mask."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv1d, conv2d, conv3d, pad

from gapcell.laws.adapter import Gradients
from gapcell.laws.cases import Case, parts

CONVOLUTIONS = {1: conv1d, 2: conv2d, 3: conv3d}


class ProductLayer:
    """The loop over steps that one writes: it runs on in masked steps, on zeros."""

    takes_params = True

    def run(self, case: Case) -> tuple[np.ndarray, Any]:
        """Values, without gradients."""
        with torch.no_grad():
            y, state, *_ = self._forward(case, gradients=False)
        return y.numpy(), tuple(part.numpy() for part in state)

    def grad(self, case: Case, dy: np.ndarray, dstate: Any) -> Gradients:
        """By autograd; what a loss of no steps does not reach has zeros."""
        y, state, params, x, start = self._forward(case, gradients=True)
        leaves = [x, *start, *params.values()]
        cotangents = [torch.tensor(array) for array in (dy, *dstate)]
        found = torch.autograd.grad([y, *state], leaves, cotangents, allow_unused=True, materialize_grads=True)
        of_x, of_h, of_c, *of_params = (gradient.numpy() for gradient in found)
        return Gradients(
            y=y.detach().numpy(),
            last=tuple(part.detach().numpy() for part in state),
            params=[dict(zip(params, of_params, strict=True))],
            x=of_x,
            state=None if case.state is None else (of_h, of_c),
        )

    def _forward(self, case: Case, gradients: bool) -> Any:
        case.takes_only("recurrent_kernel_size")
        mask = case.mask_within_lengths()
        params = {name: torch.tensor(array, requires_grad=gradients) for name, array in case.params[0].items()}
        x = torch.tensor(case.x, requires_grad=gradients)
        zeros = np.zeros((1, len(case.x), *case.x.shape[2:-1], case.spec.filters), case.x.dtype)
        start = [torch.tensor(part, requires_grad=gradients) for part in parts(case.state) or (zeros, zeros)]
        shown = x
        if mask is not None:
            shown = x * torch.tensor(mask, dtype=x.dtype).reshape(*mask.shape, *(1,) * (x.ndim - mask.ndim))
        h, c = (part[0] for part in start)
        outputs = [x.new_zeros(len(x), 0, *h.shape[1:])]
        for t in range(x.shape[1]):
            gates = _convolved(shown[:, t], params["kernel"], params["bias"])
            gates = gates + _convolved(h, params["recurrent_kernel"], None)
            i, f, g, o = gates.chunk(4, dim=-1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            outputs.append(h[:, None])
        return torch.cat(outputs, dim=1), (h[None].clone(), c[None].clone()), params, x, start


def _convolved(x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    """Channels last, "same"."""
    sides = [side for taps in reversed(kernel.shape[:-2]) for side in ((taps - 1) // 2, taps // 2)]
    padded = pad(x.movedim(-1, 1), sides)
    return CONVOLUTIONS[kernel.ndim - 2](padded, kernel.movedim((-1, -2), (0, 1)), bias).movedim(1, -1)
