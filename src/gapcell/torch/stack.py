"""A stack of layers and directions over one batch: what is observed, what each layer reads, what comes out.

Arrays are channels last. Sections 1 and 3 to 6 of docs/semantics.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from gapcell import arrays, cell, masks, native, observed
from gapcell.spec import Spec
from gapcell.torch import kernel, operator, plain, recurrence
from gapcell.torch.arguments import Arguments, Run, StoreGates
from gapcell.torch.dropout import Scales
from gapcell.torch.plan import Inputs, Plan
from gapcell.torch.rows import Rows

__all__ = ["How", "Parameters", "State", "autocast_dtype", "run"]

State = tuple[Tensor, ...]


class Parameters(NamedTuple):
    """One layer and direction, shaped as nn.Conv keeps them; biases may be None."""

    weight_ih: Tensor
    weight_hh: Tensor
    bias: Tensor | None
    bias_hn: Tensor | None
    decay: Tensor | None = None


class How(NamedTuple):
    """How to compute, whatever the layer.

    Attributes:
        operations: of one step, other than the defaults; they are left to autograd.
        store_gates: what the CPU kernel keeps of the gates for its backward pass.
        packed: the weights packed for the CPU kernel, one for each of the parameters; None: every run packs them.
    """

    operations: cell.Operations | None = None
    store_gates: StoreGates = "fp32"
    packed: Sequence[native.Weights] | None = None


def run(
    specs: Sequence[Spec],
    spec: Spec,
    parameters: Sequence[Parameters],
    x: Tensor,
    coverage: observed.Coverage,
    state: State,
    scales: Scales,
    how: How,
) -> tuple[Tensor, State]:
    """Run every layer.

    Args:
        specs: of each layer, `spec.layer(index)`.
        spec: of the stack; its probabilities are not looked at.
        parameters: in nn.LSTM's order: layer 0 forward, layer 0 backward, layer 1 forward, ...
        x: (N, T, *S, C), or (N, S, C) for a series.
        coverage: what is observed and what exists.
        state: (h, c) or (h,), each (layers·directions, N, *S', F).
        scales: what dropout drew.
        how: to compute.

    Returns:
        output (N, T, *S', F·directions), or (N, S, F·directions) for a series, and the final state.
    """
    seen = observed.see(spec, x, coverage)
    x, update = _drop(seen.x, scales.input), seen.update
    if seen.domain is not None:
        state = tuple(part.masked_fill(~seen.domain, 0) for part in state)
    elapsed = None if seen.elapsed is None else seen.elapsed.cast_wide(state[0])
    if spec.go_backwards:
        x, update = x.flip(1), _reversed(update)
        elapsed = None if elapsed is None else elapsed.reversed()
    final: list[State] = []
    for index, layer in enumerate(specs):
        hold = spec.masked_output == "hold" and index == len(specs) - 1
        outputs = []
        for reverse in (False, True)[: spec.directions]:
            place = len(final)
            packed = None if how.packed is None else how.packed[place]
            manner = Run(layer, hold, how.store_gates, reverse, packed)
            direction = _Direction(layer, parameters[place], scales.recurrent[place], how.operations, manner)
            times = None if elapsed is None else elapsed[reverse]
            output, last = direction.run(x, update, times, tuple(part[place] for part in state))
            outputs.append(output)
            final.append(last)
        x = outputs[0] if len(outputs) == 1 else torch.cat(outputs, -1)
        if index < len(specs) - 1:
            x = _drop(x, scales.between[index])
    return x, tuple(torch.stack(parts) for parts in zip(*final, strict=True))


@dataclass(frozen=True)
class _Direction:
    """One layer in one direction."""

    spec: Spec
    parameters: Parameters
    dropout: Tensor | None
    operations: cell.Operations | None
    how: Run

    def run(self, x: Tensor, update: Tensor | None, times: Tensor | None, state: State) -> tuple[Tensor, State]:
        if self.spec.window is None and self._kernel_serves(x, state):
            return self._on_kernel(x, update, times, state)
        # Eq. (13): the backward direction is the run of the reversed sequence, its output reversed back.
        if self.how.reverse:
            x, update, times = x.flip(1), _reversed(update), _reversed(times)
        forwards = replace(self, how=replace(self.how, reverse=False))
        output, state = (forwards._sites if self.spec.window is None else forwards._series)(x, update, times, state)
        return output.flip(1) if self.how.reverse else output, state

    def _series(self, x: Tensor, kept: Tensor | None, times: Tensor | None, state: State) -> tuple[Tensor, State]:
        """Section 6."""
        window, (samples, events, _) = self.spec.window, x.shape
        assert window is not None  # noqa: S101 # `run` chose this by it
        counts = None
        if kept is not None:
            x, counts = masks.compact(x, kept)
        valid = x.new_ones((samples, events), dtype=torch.bool)
        if counts is not None:
            valid = masks.from_lengths(counts, events)
        whole = counts is None and not _traced(x) and events % window == 0
        update = None if whole else masks.windows(valid, window)
        waits = None if times is None else observed.wait_for_windows(times, kept, window)
        y, final = self._sites(masks.windows(x, window), update, None if waits is None else waits.before, state)
        y = masks.from_windows(y, events)
        if kept is not None:
            y = masks.scatter(y, kept, state[0][:, -1].to(y.dtype) if self.how.hold else None)
        return self._waited(y, final, waits)

    def _waited(self, output: Tensor, final: State, waits: observed.Waits | None) -> tuple[Tensor, State]:
        """Eq. (24) where nothing was computed: held outputs, and the state from the last computed step to the end."""
        if waits is None:
            return output, final
        rates = self.parameters.decay
        if self.how.hold:
            output = cell.decayed(output, rates, waits.since)
        return output, tuple(cell.decayed(part, rates, waits.rest) for part in final)

    def _sites(self, x: Tensor, update: Tensor | None, times: Tensor | None, state: State) -> tuple[Tensor, State]:
        """Sections 2 and 3 over (N, T, *S, C); `update` is (N, T) or (N, T, *S'), `times` (N, T)."""
        if self._kernel_serves(x, state):
            return self._on_kernel(x, update, times, state)
        samples, steps = x.shape[:2]
        traced = _traced(x)
        if traced and torch.compiler.is_exporting():
            return self._scanned(x, update, times, state)
        waits = None
        if traced or update is None:
            rows = Rows.everything(samples, steps)
        else:
            active = update if update.ndim == 2 else update.flatten(2).any(-1)
            rows = Rows.where_active(active)
            waits = None if times is None else observed.wait(times, active)
        packed = None
        if update is not None and (traced or update.ndim > 2):
            packed = masks.expand(rows.pack(update), x.ndim - 1)
            if not traced and bool(packed.all()):
                packed = None
        plan = Plan.of(self.spec, tuple(x.shape[2:-1]), rows.batch_sizes)
        scale = None if self.dropout is None else rows.sort(self.dropout)
        inputs = self._inputs(plan, rows.pack(x), tuple(rows.sort(part) for part in state), scale, packed)
        if times is not None:
            inputs = inputs._replace(elapsed=rows.pack(times if waits is None else waits.before))
        if self.operations is not None:
            hs, *final = plain.run(plan, inputs, self.operations)
        else:
            hs, *final = (plain if traced else recurrence).run(plan, inputs)
        if packed is not None and not self.how.hold:
            hs = torch.where(packed, hs, 0)
        output = rows.unpack(hs.to(inputs.x.dtype), inputs.h if self.how.hold else None)
        return self._waited(output, tuple(rows.unsort(part) for part in final), waits)

    def _kernel_serves(self, x: Tensor, state: State) -> bool:
        return self.operations is None and (operator if _traced(x) else kernel).serves(x, self._type(x), state)

    def _on_kernel(self, x: Tensor, update: Tensor | None, times: Tensor | None, state: State) -> tuple[Tensor, State]:
        """`_sites` on the compiled kernel, which finds its way through the gaps itself."""
        low = self._type(x)
        h, c = (*state, None)[:2]
        weights = self._weights(low)
        arguments = Arguments(x.to(low), h, c, *weights[:4], self.dropout, update, weights.decay, times)
        output, final = (operator if _traced(x) else kernel).run(self.how, arguments)
        return output.to(low), tuple(part.to(state[0].dtype) for part in final)

    def _scanned(self, x: Tensor, update: Tensor | None, times: Tensor | None, state: State) -> tuple[Tensor, State]:
        """`_sites` for an exporter: no loop that would freeze T, nothing that looks at values."""
        if update is not None:
            update = masks.expand(update, x.ndim).transpose(0, 1)
        plan = Plan.of(self.spec, tuple(x.shape[2:-1]), ())
        inputs = self._inputs(plan, x.transpose(0, 1), state, self.dropout, update)
        inputs = inputs._replace(elapsed=None if times is None else times.transpose(0, 1))
        hs, *final = plain.scan(plan, inputs, self.operations or plain.OPERATIONS)
        if update is not None and not self.how.hold:
            hs = torch.where(update, hs, 0)
        return hs.transpose(0, 1).to(inputs.x.dtype), tuple(final)

    def _inputs(self, plan: Plan, x: Tensor, state: State, scale: Tensor | None, update: Tensor | None) -> Inputs:
        low = self._type(x)
        weight_ih, weight_hh, bias, recurrent_bias, decay = self._weights(low)
        return Inputs(
            x=plan.pad_input(x).to(low),
            h=state[0],
            c=state[1] if len(state) > 1 else None,
            weight_ih=weight_ih,
            weight_hh=weight_hh,
            bias=bias,
            recurrent_bias=recurrent_bias,
            dropout=scale,
            update=update,
            decay=decay,
        )

    def _type(self, x: Tensor) -> torch.dtype:
        """What convolutions compute in."""
        return autocast_dtype(x) or x.dtype

    def _weights(self, low: torch.dtype) -> Parameters:
        weight_ih, weight_hh, bias, *rest = self.parameters
        return Parameters(weight_ih.to(low), weight_hh.to(low), None if bias is None else bias.to(low), *rest)


def _traced(x: Tensor) -> bool:
    """Whether only the dense form will do: values may not be looked at, or forward-mode differentiation is on."""
    return not arrays.is_concrete(x) or getattr(forward_ad, "_current_level", -1) >= 0


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """The type autocast asks for where x lives, or None where it is off or unknown (the meta device)."""
    device = x.device.type
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return None
    return torch.get_autocast_dtype(device)


def _reversed(array: Tensor | None) -> Tensor | None:
    return None if array is None else array.flip(1)


def _drop(x: Tensor, scale: Tensor | None) -> Tensor:
    return x if scale is None else x * scale.to(x.dtype)
