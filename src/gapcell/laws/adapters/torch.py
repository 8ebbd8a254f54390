"""gapcell.torch as the laws see it."""

from __future__ import annotations

import contextlib
import warnings
from typing import Any

import numpy as np
import torch
from torch.autograd import forward_ad

import gapcell.torch
from gapcell.laws.adapter import Gradients
from gapcell.laws.cases import Case, like, parts
from gapcell.laws.verdicts import require
from gapcell.spec import Spec


class TorchLayer:
    """gapcell.torch in either layout.

    Args:
        channels_last: the layout.
        dense: whether to run as under compilers and function transforms, which cannot skip masked work.
        dropout: whether to run in training mode, every run with the same draw.
    """

    takes_params = True

    def __init__(self, channels_last: bool = False, dense: bool = False, dropout: bool = False) -> None:
        self.channels_last, self.dense, self.dropout = channels_last, dense, dropout

    def run(self, case: Case) -> tuple[np.ndarray, Any]:
        """Values, without gradients."""
        with torch.no_grad():
            y, last, *_ = self._forward(case, gradients=False)
        return y, last

    def grad(self, case: Case, dy: np.ndarray, dstate: Any) -> Gradients:
        """Values and gradients in one pass."""
        y, last, (output, state), module, (x, start) = self._forward(case, gradients=True)
        require(output.requires_grad, "the output has no gradients")
        cotangents = [self._inwards(dy, 2), *(self._inwards(part, 2) for part in parts(dstate))]
        torch.autograd.backward([output, *parts(state)], [torch.tensor(a) for a in cotangents])
        leaves = {"x": x, **dict(zip("hc", start, strict=False)), **dict(module.named_parameters())}
        for name, leaf in leaves.items():
            require(leaf.grad is not None, f"the gradient of {name} is None")
        return Gradients(
            y=y,
            last=last,
            params=collect_parameters(module, case.spec),
            x=self._outwards(x.grad, 2),
            state=like(case.state, [self._outwards(part.grad, 2) for part in start]),
        )

    def _forward(self, case: Case, gradients: bool) -> Any:
        module = make_module(case.spec, case.params, self.channels_last)
        x = self._tensor(case.x, 2).requires_grad_(gradients)
        mask = None
        if case.mask is not None:
            mask = self._tensor(case.mask, 2) if case.mask.ndim == case.x.ndim else torch.from_numpy(case.mask)
        start = (
            []
            if case.state is None
            else [self._tensor(part, 2).requires_grad_(gradients) for part in parts(case.state)]
        )
        module.train(self.dropout)
        torch.manual_seed(0)
        # Any dual level makes the layer take the differentiable dense form.
        with forward_ad.dual_level() if self.dense else contextlib.nullcontext():
            output, state = module(
                x,
                None if case.state is None else like(case.state, start),
                mask=mask,
                lengths=None if case.lengths is None else torch.from_numpy(case.lengths),
                domain=None if case.domain is None else torch.from_numpy(case.domain),
                dt=None if case.dt is None else torch.from_numpy(case.dt),
            )
        last = like(state, [self._outwards(part.detach(), 2) for part in parts(state)])
        return self._outwards(output.detach(), 2), last, (output, state), module, (x, start)

    def _inwards(self, array: np.ndarray, axis: int) -> np.ndarray:
        """To the module's layout: a view, so that a change in place would be seen by the caller."""
        return array if self.channels_last or array.ndim <= 3 else np.moveaxis(array, -1, axis)

    def _tensor(self, array: np.ndarray, axis: int) -> torch.Tensor:
        return torch.from_numpy(self._inwards(array, axis))

    def _outwards(self, tensor: torch.Tensor, axis: int) -> np.ndarray:
        array = tensor.numpy()
        return array if self.channels_last or array.ndim <= 3 else np.moveaxis(array, axis, -1)


NAMES = {
    "kernel": "weight_ih",
    "recurrent_kernel": "weight_hh",
    "bias": "bias",
    "recurrent_bias": "bias_hn",
    "decay": "decay",
}


def parameter_names(spec: Spec, slot: int) -> dict[str, str]:
    """gapcell.torch's names of one layer and direction, by those of `Spec.parameter_shapes`."""
    layer, direction = divmod(slot, spec.directions)
    suffix = f"_l{layer}" + ("_reverse" if direction else "")
    return {ours: NAMES[ours] + suffix for ours in spec.parameter_shapes(layer)}


def make_module(spec: Spec, params: list[dict[str, np.ndarray]], channels_last: bool = False) -> torch.nn.Module:
    """The torch layer of a Spec with copies of these parameters, in eval mode, in the parameters' dtype."""
    kind = getattr(gapcell.torch, f"Conv{spec.cell.upper()}{spec.rank}d")
    options = {name: getattr(spec, name) for name in ("kernel_size", "recurrent_kernel_size", "stride", "padding")}
    options |= {name: getattr(spec, name) for name in ("dilation", "window", "causal", "gap", "masked_output")}
    options |= {name: getattr(spec, name) for name in ("mask_rule", "num_layers", "bias", "bidirectional")}
    options |= {name: getattr(spec, name) for name in ("dropout", "input_dropout", "recurrent_dropout")}
    dtype = torch.from_numpy(params[0]["kernel"]).dtype
    with warnings.catch_warnings():  # a causal series with short kernels is a poor model, but a lawful one
        warnings.filterwarnings("ignore", message="kernel_size . is smaller than window")
        module = kind(spec.in_channels, spec.filters, channels_last=channels_last, dtype=dtype, **options)
    values = {}
    for slot, cell in enumerate(params):
        for ours, theirs in parameter_names(spec, slot).items():
            array = cell[ours] if cell[ours].ndim == 1 else np.moveaxis(cell[ours], (-1, -2), (0, 1))
            values[theirs] = torch.tensor(np.ascontiguousarray(array))
    module.load_state_dict(values)
    return module.eval()


def collect_parameters(module: torch.nn.Module, spec: Spec) -> list[dict[str, np.ndarray]]:
    """The gradients of the module's parameters, named and shaped as `Spec.parameter_shapes` says."""
    found = dict(module.named_parameters())
    cells = []
    for slot in range(spec.num_layers * spec.directions):
        cell = {}
        for ours, theirs in parameter_names(spec, slot).items():
            gradient = found[theirs].grad
            require(gradient is not None, f"the gradient of {theirs} is None")
            array = np.asarray(gradient)
            cell[ours] = array if array.ndim == 1 else np.moveaxis(array, (0, 1), (-1, -2))
        cells.append(cell)
    return cells
