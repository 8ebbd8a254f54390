"""torch.nn.LSTM and torch.nn.GRU on packed sequences: a ConvLSTM or ConvGRU whose input has one site."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from gapcell.laws.adapter import Gradients
from gapcell.laws.cases import Case, like, parts
from gapcell.laws.verdicts import CannotBeAsked


class PackedLayer:
    """Rows are packed where the case has padding on the right, and padded again.

    Args:
        cell: "lstm" or "gru".
    """

    takes_params = True

    def __init__(self, cell: str) -> None:
        self.cell = cell

    def run(self, case: Case) -> tuple[np.ndarray, Any]:
        """Values, without gradients."""
        with torch.no_grad():
            y, state, *_ = self._forward(case, gradients=False)
        return _with_site(y), like(_form(self.cell), map(_with_site, state))

    def grad(self, case: Case, dy: np.ndarray, dstate: Any) -> Gradients:
        """Of the middle taps of the kernels, which are the only ones to meet the one site."""
        y, state, module, x, start = self._forward(case, gradients=True)
        cotangents = [torch.tensor(array[..., 0, :]) for array in (dy, *parts(dstate))]
        torch.autograd.backward([y, *state], cotangents)
        form = _form(self.cell)
        return Gradients(
            y=_with_site(y),
            last=like(form, map(_with_site, state)),
            params=[_collected(module, case, direction) for direction in range(case.spec.directions)],
            x=_with_site(_grad_of(x)),
            state=None if case.state is None else like(form, [_with_site(_grad_of(part)) for part in start]),
        )

    def _forward(self, case: Case, gradients: bool) -> Any:
        case.takes_only("cell", "bidirectional", "recurrent_kernel_size")
        if case.spec.cell != self.cell:
            raise CannotBeAsked(f"cell={case.spec.cell!r}")
        if case.spec.rank != 1 or (case.x.ndim == 4 and case.x.shape[2] != 1):
            raise CannotBeAsked("more than one site")
        lengths = case.right_lengths()
        if not case.x.shape[1] or (lengths is not None and not lengths.all()):
            raise CannotBeAsked("a row without steps")
        module = _module(case, self.cell)
        x, *start = (_without_site(array).requires_grad_(gradients) for array in (case.x, *parts(case.state)))
        packed = x
        if lengths is not None:
            packed = pack_padded_sequence(x, torch.from_numpy(lengths), batch_first=True, enforce_sorted=False)
        output, state = module(packed, like(_form(self.cell), start) if start else None)
        y = output if lengths is None else pad_packed_sequence(output, batch_first=True, total_length=x.shape[1])[0]
        return y, parts(state), module, x, start


def _form(cell: str) -> Any:
    """Something of the form the state has, for `like`."""
    return () if cell == "lstm" else 0


def _without_site(array: np.ndarray) -> Tensor:
    """Without its axis of sites; what has none, to be refused, comes as it is."""
    return torch.from_numpy(array[..., 0, :] if array.ndim == 4 else array)


def _with_site(tensor: Tensor) -> np.ndarray:
    return tensor.detach().numpy()[..., None, :]


def _grad_of(leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad


def _module(case: Case, cell: str) -> nn.Module:
    kind, spec = {"lstm": nn.LSTM, "gru": nn.GRU}[cell], case.spec
    dtype = torch.from_numpy(case.x).dtype
    module = kind(spec.in_channels, spec.filters, batch_first=True, bidirectional=spec.bidirectional, dtype=dtype)
    values = {}
    for direction, params in enumerate(case.params):
        of_state = np.zeros_like(params["bias"])
        if cell == "gru":
            of_state[2 * spec.filters :] = params["recurrent_bias"]
        arrays = {
            "weight_ih": params["kernel"][_middle(params["kernel"])].T,
            "weight_hh": params["recurrent_kernel"][_middle(params["recurrent_kernel"])].T,
            "bias_ih": params["bias"],
            "bias_hh": of_state,
        }
        values |= {_name(theirs, direction): torch.tensor(array) for theirs, array in arrays.items()}
    module.load_state_dict(values)
    return module


def _name(theirs: str, direction: int) -> str:
    return f"{theirs}_l0" + ("_reverse" if direction else "")


def _middle(kernel: np.ndarray) -> int:
    return (len(kernel) - 1) // 2


def _collected(module: nn.Module, case: Case, direction: int) -> dict[str, np.ndarray]:
    found = dict(module.named_parameters())
    gradients = {}
    for ours, theirs in (("kernel", "weight_ih"), ("recurrent_kernel", "weight_hh")):
        gradients[ours] = np.zeros_like(case.params[direction][ours])
        gradients[ours][_middle(gradients[ours])] = _grad_of(found[_name(theirs, direction)]).numpy().T
    gradients["bias"] = _grad_of(found[_name("bias_ih", direction)]).numpy()
    if case.spec.cell == "gru":
        gradients["recurrent_bias"] = _grad_of(found[_name("bias_hh", direction)]).numpy()[2 * case.spec.filters :]
    return gradients
