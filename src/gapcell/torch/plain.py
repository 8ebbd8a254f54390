"""The recurrence as differentiable PyTorch operations, for compilers, exporters, transforms and higher derivatives.

Everywhere else `gapcell.torch.recurrence` computes the same faster.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from gapcell import cell
from gapcell.torch.plan import Inputs, Plan

__all__ = ["OPERATIONS", "run", "scan"]


OPERATIONS = cell.Operations(torch.sigmoid, torch.tanh, torch.where, partial(torch.chunk, dim=-1))


def run(plan: Plan, inputs: Inputs, operations: cell.Operations = OPERATIONS) -> tuple[Tensor, ...]:
    """The recurrence over computed pairs.

    Args:
        plan: of this layer and direction.
        inputs: what is read.
        operations: of one step.

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
        update, dropout = inputs.update_of(span), inputs.dropout_of(span)
        state = inputs.decayed(state, inputs.elapsed_of(span))
        state = _step(plan, inputs, operations, from_input[span.here], state, update, dropout)
        outputs.append(state[0])
    hs = torch.cat(outputs) if outputs else inputs.h[:0]
    parts = [state, *reversed(finished)]
    return (hs, *(torch.cat([part[index] for part in parts]) for index in range(len(state))))


def scan(plan: Plan, inputs: Inputs, operations: cell.Operations = OPERATIONS) -> tuple[Tensor, ...]:
    """The recurrence over all steps through torch's scan operator, which keeps their number dynamic in an export.

    Args:
        plan: its `batch_sizes` are not used.
        inputs: with x (T, N, *S, C), update (T, N, *S', 1) and elapsed (T, N), steps first and not flattened.
        operations: of one step.

    Returns:
        hs (T, N, *S', F), then the final state.
    """
    from torch._higher_order_ops.scan import scan as torch_scan

    def combine(state: list[Tensor], here: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        x, *rest = here
        update = None if inputs.update is None else rest.pop(0)
        elapsed = None if inputs.elapsed is None else rest.pop(0)
        from_input = _from_input(plan, inputs._replace(x=x))
        before = inputs.decayed(tuple(state), elapsed)
        new = _step(plan, inputs, operations, from_input, before, update, inputs.dropout)
        return [part.contiguous() for part in new], new[0].clone()  # the operator's outputs may not share memory

    xs = [part.contiguous() for part in (inputs.x, inputs.update, inputs.elapsed) if part is not None]
    # The operator cannot differentiate the slices that read the previous window; an export of a series only infers.
    with torch.set_grad_enabled(torch.is_grad_enabled() and plan.spec.window is None):
        final, outputs = torch_scan(combine, [part.clone() for part in _initial(inputs)], xs)
    return (outputs, *final)


def _initial(inputs: Inputs) -> cell.State:
    return (inputs.h,) if inputs.c is None else (inputs.h, inputs.c)


def _from_input(plan: Plan, inputs: Inputs) -> Tensor:
    return plan.input_convolution.traceable(inputs.x, inputs.weight_ih, inputs.bias).to(inputs.h.dtype)


def _step(
    plan: Plan,
    inputs: Inputs,
    operations: cell.Operations,
    from_input: Tensor,
    state: cell.State,
    update: Tensor | None,
    dropout: Tensor | None,
) -> cell.State:
    h = plan.enter_state(state[0], dropout).to(inputs.weight_hh.dtype)
    from_state = plan.recurrent_convolution.traceable(h, inputs.weight_hh).to(state[0].dtype)
    return cell.step(
        operations, plan.spec, from_input, from_state, state, update=update, recurrent_bias=inputs.recurrent_bias
    )
