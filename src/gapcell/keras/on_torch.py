"""The layer on PyTorch: gapcell.torch's, which computes no masked step."""

from __future__ import annotations

from torch import Tensor

from gapcell.cell import State
from gapcell.keras import engine
from gapcell.observed import Coverage
from gapcell.spec import Spec
from gapcell.torch import plain, stack
from gapcell.torch.dropout import Scales

__all__ = ["run"]


def run(
    spec: Spec,
    parameters: engine.Parameters,
    x: Tensor,
    coverage: Coverage,
    state: State,
    dropout: Tensor | None,
    activations: engine.Activations | None,
    *,
    training: bool,  # autograd says whether there is a backward pass
) -> tuple[Tensor, State]:
    """Run the layer; see `engine.Engine.run`."""
    kernel, recurrent_kernel, *rest = parameters
    weights = stack.Parameters(_as_conv(kernel), _as_conv(recurrent_kernel), *rest)
    layers = tuple(part[None] for part in state)
    operations = None if activations is None else plain.OPERATIONS._replace(**activations._asdict())
    scales = Scales(None, (dropout,), ())
    y, last = stack.run([spec], spec, [weights], x, coverage, layers, scales, stack.How(operations))
    return y, tuple(part[0] for part in last)


def _as_conv(kernel: Tensor) -> Tensor:
    """(*k, in, out) as nn.Conv keeps it: (out, in, *k)."""
    return kernel.movedim((-1, -2), (0, 1))
