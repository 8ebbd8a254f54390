"""The recurrence as differentiable PyTorch operations, for compilers, exporters, transforms and higher derivatives.

Everywhere else `gapcell.torch.recurrence` computes the same faster.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gapcell import cell
from gapcell.spec import Spec
from gapcell.torch.plan import Inputs, Plan

__all__ = ["run", "scan"]


class _TorchOperations:
    sigmoid = staticmethod(torch.sigmoid)
    tanh = staticmethod(torch.tanh)
    where = staticmethod(torch.where)

    @staticmethod
    def split(x: Tensor, parts: int) -> tuple[Tensor, ...]:
        return x.chunk(parts, -1)


_OPERATIONS = _TorchOperations()


def run(plan: Plan, inputs: Inputs) -> tuple[Tensor, ...]:
    """The recurrence over computed pairs.

    Returns:
        hs (P, *S', F), the state after each pair, then the final state, each (N, *S', F): h, and c for the LSTM.
    """
    state = _initial(inputs)
    from_input = _from_input(plan, inputs)
    finished: list[cell.State] = []
    outputs: list[Tensor] = []
    for span in plan.spans():
        if span.count < state[0].shape[0]:
            finished.append(tuple(part[span.count :] for part in state))
            state = tuple(part[: span.count] for part in state)
        state = _step(plan, inputs, from_input[span.here], state, inputs.update_of(span), inputs.dropout_of(span))
        outputs.append(state[0])
    hs = torch.cat(outputs) if outputs else inputs.h[:0]
    parts = [state, *reversed(finished)]
    return (hs, *(torch.cat([part[index] for part in parts]) for index in range(len(state))))


def scan(plan: Plan, inputs: Inputs, steps: int) -> tuple[Tensor, ...]:
    """`run` over all pairs through torch's scan operator, which keeps the number of steps dynamic in an export."""
    from torch._higher_order_ops.scan import scan as torch_scan

    def by_step(packed: Tensor) -> Tensor:
        return packed.unflatten(0, (steps, -1))

    def combine(state: list[Tensor], here: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        update = here[1] if inputs.update is not None else None
        new = _step(plan, inputs, here[0], tuple(state), update, inputs.dropout)
        return list(new), new[0].clone()  # the operator's outputs may not share memory

    xs = [by_step(_from_input(plan, inputs))]
    if inputs.update is not None:
        xs.append(by_step(inputs.update))
    final, outputs = torch_scan(combine, [part.clone() for part in _initial(inputs)], xs)
    return (outputs.flatten(0, 1), *final)


def _initial(inputs: Inputs) -> cell.State:
    return (inputs.h,) if inputs.c is None else (inputs.h, inputs.c)


def _from_input(plan: Plan, inputs: Inputs) -> Tensor:
    convolution = plan.input_convolution
    return convolution.forward(inputs.x, convolution.prepare(inputs.weight_ih), inputs.bias).to(inputs.h.dtype)


def _step(
    plan: Plan, inputs: Inputs, from_input: Tensor, state: cell.State, update: Tensor | None, dropout: Tensor | None
) -> cell.State:
    convolution, weight = plan.recurrent_convolution, inputs.weight_hh
    h = plan.enter_state(state[0], dropout).to(weight.dtype)
    from_state = convolution.forward(h, convolution.prepare(weight)).to(state[0].dtype)
    spec: Spec = plan.spec
    return cell.step(
        _OPERATIONS, spec, from_input, from_state, state, update=update, recurrent_bias=inputs.recurrent_bias
    )
