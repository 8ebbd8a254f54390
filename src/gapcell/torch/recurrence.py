"""The recurrence in plain eager PyTorch, forward and backward written out.

Three things make it faster than a loop under autograd, and need no compiler. The input convolution runs over several
steps at once. Only what the backward pass needs is stored, in pooled memory: the gates and the states. The weight
gradients are taken over several steps at once, from pre-activation gradients that are still in cache. Equations:
docs/semantics.md, section 2; the backward pass is their chain rule.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gapcell.masks import expand
from gapcell.torch import differentiable, plain
from gapcell.torch.buffers import Buffer, pool
from gapcell.torch.cells import GRU, LSTM, Cell
from gapcell.torch.plan import Inputs, Plan, Span

__all__ = ["run"]

# Pre-activations a chunk of steps may hold: many enough for the convolution, few enough for the cache.
_CHUNK = 1024**2

# Rows times sites that one call may sum for the gradient of the input weights.
_SUMMED = 3072

_CELLS: dict[str, Cell] = {"lstm": LSTM(), "gru": GRU()}


def run(plan: Plan, inputs: Inputs) -> tuple[Tensor, ...]:
    """The recurrence over computed pairs; returns as `plain.run` does."""
    # Asked here: inside `forward` gradients are always off, and `needs_input_grad` does not know of no_grad.
    return _Recurrence.apply(plan, torch.is_grad_enabled(), *inputs)


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plan: Plan, recording: bool, *arguments: Tensor | None) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        inputs = Inputs._make(arguments)
        training = recording and any(ctx.needs_input_grad)
        with torch.autocast(inputs.x.device.type, enabled=False):
            states, stored = _forward(plan, inputs, store=training)
        if training:
            # The states' h is an output: held by ctx it would hold itself, so it goes through save_for_backward.
            ctx.plan, ctx.stored = plan, (states.cells, stored)
            ctx.save_for_backward(*arguments, states.hs)
        return (states.hs, *states.final(plan))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        *arguments, hs = ctx.saved_tensors
        inputs, wanted = Inputs._make(arguments), ctx.needs_input_grad[2:]
        if torch.is_grad_enabled():
            # create_graph: what is written out below would come back as constants.
            return (None, None, *differentiable.gradients(partial(plain.run, ctx.plan), inputs, gradients, wanted))
        # The pass overwrites what was stored, so a second one over the same graph computes it again.
        stored, ctx.stored = ctx.stored, None
        with torch.autocast(inputs.x.device.type, enabled=False):
            if stored is None:
                states, kept = _forward(ctx.plan, inputs, store=True)
            else:
                states, kept = _States(inputs, hs, stored[0]), stored[1]
            return (None, None, *_Backward(ctx.plan, inputs, states, kept, wanted).run(gradients))


class _States:
    """h and c after every computed pair; without a backward pass c is one batch, updated in place."""

    def __init__(self, inputs: Inputs, hs: Tensor, cells: Buffer | None) -> None:
        self.hs, self.cells, self._inputs = hs, cells, inputs
        self._h, self._c = inputs.h, inputs.c
        if inputs.c is not None and cells is None:
            self._c = inputs.c.clone()

    def before(self, span: Span) -> tuple[Tensor, ...]:
        """What the step reads: what the step before wrote, decayed."""
        return self._inputs.decayed(self._written(span), self._inputs.elapsed_of(span))

    def _written(self, span: Span) -> tuple[Tensor, ...]:
        first = span.previous < 0
        h = self._h[: span.count] if first else self.hs[span.before]
        if self._c is None:
            return (h,)
        if first or self.cells is None:
            return h, self._c[: span.count]
        return h, self.cells.tensor[span.before]

    def after(self, span: Span) -> tuple[Tensor, ...]:
        h = self.hs[span.here]
        if self._c is None:
            return (h,)
        return h, self._c[: span.count] if self.cells is None else self.cells.tensor[span.here]

    def final(self, plan: Plan) -> tuple[Tensor, ...]:
        """The state of each row after its last computed step, (N, *S, F) each."""
        h = _last(plan, self.hs, self._h)
        if self._c is None:
            return (h,)
        return h, self._c if self.cells is None else _last(plan, self.cells.tensor, self._c)


def _last(plan: Plan, values: Tensor, initial: Tensor) -> Tensor:
    pieces, running = [], 0
    for span in reversed(list(plan.spans())):
        if span.count > running:
            pieces.append(values[span.offset + running : span.stop])
            running = span.count
    return torch.cat([*pieces, initial[running:]])


def _forward(plan: Plan, inputs: Inputs, *, store: bool) -> tuple[_States, list[Buffer]]:
    cell = _CELLS[plan.spec.cell]
    convolution, recurrent = plan.input_convolution, plan.recurrent_convolution
    weight_ih, weight_hh = convolution.prepare(inputs.weight_ih), recurrent.prepare(inputs.weight_hh)
    *shape, filters = inputs.x.shape[0], *inputs.h.shape[1:]
    kept = [pool.borrow((*shape, width * filters), inputs.h) for width in cell.stored] if store else []
    cells = pool.borrow((*shape, filters), inputs.h) if store and cell.keeps_c else None
    states = _States(inputs, inputs.h.new_empty((*shape, filters)), cells)
    for chunk in plan.chunks(plan.spec.gates * inputs.h[:1].numel(), _CHUNK):
        first = chunk[0].offset
        a = convolution.forward(inputs.x[first : chunk[-1].stop], weight_ih, inputs.bias).to(inputs.h.dtype)
        for span in chunk:
            before = states.before(span)
            h = plan.enter_state(before[0], inputs.dropout_of(span)).to(weight_hh.dtype)
            cell.forward(
                a[span.offset - first : span.stop - first],
                recurrent.forward(h, weight_hh).to(inputs.h.dtype),
                before,
                states.after(span),
                [buffer.tensor[span.here] for buffer in kept],
                inputs.update_of(span),
                inputs.recurrent_bias,
            )
    return states, kept


class _Backward:
    """One backward pass; `kept` is overwritten with the gradients of the pre-activations."""

    def __init__(
        self, plan: Plan, inputs: Inputs, states: _States, kept: list[Buffer], wanted: tuple[bool, ...]
    ) -> None:
        self.plan, self.inputs, self.states = plan, inputs, states
        self.kept = [buffer.tensor for buffer in kept]
        self.wanted = dict(zip(Inputs._fields, wanted, strict=True))
        self.cell = _CELLS[plan.spec.cell]
        self.weight_ih = plan.input_convolution.prepare(inputs.weight_ih)
        self.weight_hh = plan.recurrent_convolution.prepare(inputs.weight_hh)
        self.sums: dict[str, Tensor] = {}
        self.dx = torch.empty_like(inputs.x) if self.wanted["x"] else None

    def run(self, gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
        """The gradients of `inputs` from those of (hs, final h and c)."""
        dhs, *final = gradients
        dh = _cotangent(final[0], self.inputs.h)
        dc = None if self.inputs.c is None else _cotangent(final[1], self.inputs.c)
        chunks = list(self.plan.chunks(self.plan.spec.gates * self.inputs.h[:1].numel(), _CHUNK))
        for chunk in reversed(chunks):
            for span in reversed(chunk):
                self._step(span, dhs, dh, dc)
            self._weights(chunk)
        return (self.dx, dh, dc, *(self._sum(name) for name in Inputs._fields[3:]))

    def _step(self, span: Span, dhs: Tensor | None, dh: Tensor, dc: Tensor | None) -> None:
        """Takes `dh` and `dc` of the span's rows from after the step to before it, in place."""
        inputs, recurrent = self.inputs, self.plan.recurrent_convolution
        rows, dropout = slice(span.count), inputs.dropout_of(span)
        before, after = self.states.before(span), self.states.after(span)
        kept = [buffer[span.here] for buffer in self.kept]
        arriving = dh[rows] if dhs is None else dh[rows].add_(dhs[span.here])
        dc_rows = None if dc is None else dc[rows]
        passed, dc_before = self.cell.backward(arriving, dc_rows, before, after, kept, inputs.update_of(span))
        entered = self.plan.enter_state(before[0], dropout).to(self.weight_hh.dtype)
        gradient = recurrent.input_gradient(kept[-1].to(self.weight_hh.dtype), entered, self.weight_hh)
        gradient = self.plan.leave_state(gradient.to(dh.dtype), dropout)
        if passed is None:
            dh[rows] = gradient
        else:
            torch.add(gradient, passed, out=dh[rows])
        if dc is not None and dc_before is not None:
            dc[rows] = dc_before
        if inputs.elapsed is not None:
            self._through_decay(span, before, (dh,) if dc is None else (dh, dc))

    def _through_decay(self, span: Span, decayed: tuple[Tensor, ...], gradients: tuple[Tensor, ...]) -> None:
        """Takes the gradients of the decayed state to those of the state before, in place; adds the rates' share."""
        elapsed, rates = self.inputs.elapsed_of(span), self.inputs.decay
        assert elapsed is not None and rates is not None  # noqa: S101, PT018 # the caller looked
        rows = slice(span.count)
        if self.wanted["decay"]:
            time = expand(elapsed, decayed[0].ndim)
            shares = (part * gradient[rows] * time for part, gradient in zip(decayed, gradients, strict=True))
            slope = sum(share.flatten(0, -2).sum(0) for share in shares)
            self._add("decay", torch.where(rates < 0, 0, -slope))
        for gradient in gradients:
            (gradient[rows],) = self.inputs.decayed((gradient[rows],), elapsed)  # linear, so its own adjoint

    def _weights(self, chunk: list[Span]) -> None:
        """Adds the chunk's share to the weights' gradients, and writes that of x."""
        inputs, wanted, here = self.inputs, self.wanted, slice(chunk[0].offset, chunk[-1].stop)
        convolution, recurrent = self.plan.input_convolution, self.plan.recurrent_convolution
        da, dr = self.kept[0][here], self.kept[-1][here]
        filters = inputs.h.shape[-1]
        da_low, x = da.to(inputs.x.dtype), inputs.x[here]
        if self.dx is not None:
            self.dx[here] = convolution.input_gradient(da_low, x, self.weight_ih)
        if wanted["weight_ih"]:
            self._add_weight_ih(da_low, x)
        if wanted["weight_hh"]:
            entered = self._entered(chunk).to(self.weight_hh.dtype)
            self._add("weight_hh", recurrent.weight_gradient(dr.to(entered.dtype), entered, self.weight_hh))
        if wanted["bias"]:
            self._add("bias", da.flatten(0, -2).sum(0))
        if wanted["recurrent_bias"]:
            self._add("recurrent_bias", dr[..., -filters:].flatten(0, -2).sum(0))

    def _add_weight_ih(self, da: Tensor, x: Tensor) -> None:
        # With few input channels oneDNN sums all rows of a call in one chain, and its float32 error grows with the
        # chain: over blocks of so many values it stays at that of a step-by-step loop.
        rows = max(1, _SUMMED // math.prod(da.shape[1:-1]))
        for block_da, block_x in zip(da.split(rows), x.split(rows), strict=True):
            self._add("weight_ih", self.plan.input_convolution.weight_gradient(block_da, block_x, self.weight_ih))

    def _entered(self, chunk: list[Span]) -> Tensor:
        """What the recurrent convolution read at the chunk's steps."""
        # One piece of hs where as many rows run at every step, the one before the chunk included.
        even = chunk[0].previous >= 0 and chunk[0].offset - chunk[0].previous == chunk[0].count == chunk[-1].count
        if even and self.inputs.dropout is None and self.inputs.elapsed is None:
            first, last = chunk[0].before.start, chunk[-1].before.stop
            return self.plan.enter_state(self.states.hs[first:last], None)
        entered = [self.plan.enter_state(self.states.before(s)[0], self.inputs.dropout_of(s)) for s in chunk]
        return torch.cat(entered)

    def _add(self, name: str, share: Tensor) -> None:
        # Sums over chunks are kept in the state's type: in bfloat16 they would stop growing.
        share = share.to(self.inputs.h.dtype)
        if name in self.sums:
            self.sums[name].add_(share)
        else:
            self.sums[name] = share

    def _sum(self, name: str) -> Tensor | None:
        """The gradient of one parameter; zeros, not None, when nothing was computed (law 6)."""
        if not self.wanted[name]:
            return None
        parameter = getattr(self.inputs, name)
        return self.sums[name].to(parameter.dtype) if name in self.sums else torch.zeros_like(parameter)


def _cotangent(given: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if given is None else given.clone(memory_format=torch.contiguous_format)
