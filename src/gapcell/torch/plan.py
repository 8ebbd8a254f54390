"""What one layer and direction does, worked out once from its Spec and the input's sites."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from gapcell import cell
from gapcell.spec import Spec
from gapcell.torch.convolution import Convolution, Padding, pad_sites, unwrap_sites, wrap_sites

__all__ = ["Inputs", "Plan", "Span"]


class Span(NamedTuple):
    """The computed pairs of one step: `count` rows from `offset` on.

    Attributes:
        offset: the first of them among all computed pairs.
        count: how many; the first `count` rows of the batch in the order of computation.
        previous: offset of the step before, or -1 at the first step.
    """

    offset: int
    count: int
    previous: int

    @property
    def stop(self) -> int:
        """Just behind the last of them."""
        return self.offset + self.count

    @property
    def here(self) -> slice:
        """Where they stand among all computed pairs."""
        return slice(self.offset, self.offset + self.count)

    @property
    def before(self) -> slice:
        """Where the same rows stand at the step before."""
        return slice(self.previous, self.previous + self.count)


class Inputs(NamedTuple):
    """What a recurrence reads; P computed (row, step) pairs in the order of computation (see Rows).

    Attributes:
        x: (P, *S, C) x~ of eq. (2), padded by `Plan.pad_input`.
        h: (N, *S', F) initial state.
        c: (N, *S', F) initial cell state; None for the GRU.
        weight_ih: (gates*F, C, *k).
        weight_hh: (gates*F, F, *k).
        bias: (gates*F,) or None.
        recurrent_bias: (F,) bhn of eq. (8), or None.
        dropout: scale on h_(t-1) inside eq. (6), (N, *S', F) or with site axes of size 1; None: none.
        update: (P, *S', 1) bool, u of eq. (5); None: all True.
        decay: (F,) rates of eq. (24), or None.
        elapsed: (P,) the time since the computed step before, float32 or wider; None: the state does not decay.
    """

    x: Tensor
    h: Tensor
    c: Tensor | None
    weight_ih: Tensor
    weight_hh: Tensor
    bias: Tensor | None
    recurrent_bias: Tensor | None
    dropout: Tensor | None
    update: Tensor | None
    decay: Tensor | None = None
    elapsed: Tensor | None = None

    def dropout_of(self, span: Span) -> Tensor | None:
        """The rows' dropout scale."""
        return None if self.dropout is None else self.dropout[: span.count]

    def update_of(self, span: Span) -> Tensor | None:
        """What u says at the span's pairs."""
        return None if self.update is None else self.update[span.here]

    def elapsed_of(self, span: Span) -> Tensor | None:
        """The time before the span's pairs."""
        return None if self.elapsed is None else self.elapsed[span.here]

    def decayed(self, state: tuple[Tensor, ...], elapsed: Tensor | None) -> tuple[Tensor, ...]:
        """Eq. (24); None: the state as it is."""
        return state if elapsed is None else tuple(cell.decayed(part, self.decay, elapsed) for part in state)


@dataclass(frozen=True)
class Plan:
    """The geometry of one layer and direction over given sites; made by `Plan.of`.

    Attributes:
        spec: of this layer and direction.
        batch_sizes: rows computed at the k-th step (see Rows).
        input_convolution: Wx of eq. (6), over x from `pad_input`.
        recurrent_convolution: Wh of eq. (6), over h from `enter_state`.
        input_padding: zeros (a negative number: a cut) that `pad_input` adds; empty if the convolution's own do.
        state_padding: sites that `enter_state` adds; empty if the convolution's own zeros do.
    """

    spec: Spec
    batch_sizes: tuple[int, ...]
    input_convolution: Convolution
    recurrent_convolution: Convolution
    input_padding: Padding
    state_padding: Padding

    @classmethod
    def of(cls, spec: Spec, sites: tuple[int, ...], batch_sizes: tuple[int, ...]) -> Plan:
        """The plan for an input over `sites`."""
        nothing, ones = (0,) * spec.rank, (1,) * spec.rank
        even = _even_padding(spec, sites)
        around_state = spec.recurrent_padding()
        wraps = spec.window is not None and around_state[0][0] > 0
        uneven = wraps or any(left != right for left, right in around_state)
        return cls(
            spec=spec,
            batch_sizes=batch_sizes,
            input_convolution=Convolution(even or nothing, spec.sizes("stride"), spec.sizes("dilation")),
            recurrent_convolution=Convolution(nothing if uneven else tuple(p for p, _ in around_state), ones, ones),
            input_padding=() if even else spec.input_padding(sites),
            state_padding=around_state if uneven else (),
        )

    def pad_input(self, x: Tensor) -> Tensor:
        """Zeros around x where the convolution's own, alike on both sides, would not do."""
        return pad_sites(x, self.input_padding) if self.input_padding else x

    def enter_state(self, h: Tensor, dropout: Tensor | None) -> Tensor:
        """h_(t-1) as the recurrent convolution reads it: dropout, and what lies beyond its sites."""
        if dropout is not None:
            h = h * dropout
        if not self.state_padding:
            return h
        if self.spec.window is not None:
            return wrap_sites(h, self.state_padding[0])
        return pad_sites(h, self.state_padding)

    def leave_state(self, gradient: Tensor, dropout: Tensor | None) -> Tensor:
        """The adjoint of `enter_state`."""
        if self.state_padding and self.spec.window is not None:
            gradient = unwrap_sites(gradient, self.state_padding[0])
        elif self.state_padding:
            gradient = pad_sites(gradient, tuple((-left, -right) for left, right in self.state_padding))
        return gradient if dropout is None else gradient * dropout

    def spans(self) -> Iterator[Span]:
        """The computed steps, first to last."""
        offset, previous = 0, -1
        for count in self.batch_sizes:
            yield Span(offset, count, previous)
            offset, previous = offset + count, offset

    def chunks(self, values_per_row: int, budget: int) -> Iterator[list[Span]]:
        """`spans` in runs whose rows hold at most `budget` values, at least one step each."""
        run: list[Span] = []
        held = 0
        for span in self.spans():
            if run and held + span.count * values_per_row > budget:
                yield run
                run, held = [], 0
            run.append(span)
            held += span.count * values_per_row
        if run:
            yield run


def _even_padding(spec: Spec, sites: tuple[int, ...]) -> tuple[int, ...] | None:
    """The zeros that nn.Conv would put on both sides, if these give what the Spec asks for."""
    padding = tuple(left for left, _ in spec.input_padding(sites))
    geometry = zip(
        sites,
        padding,
        spec.output_sites(sites),
        spec.sizes("kernel_size"),
        spec.sizes("stride"),
        spec.sizes("dilation"),
        strict=True,
    )
    for size, left, out, kernel, stride, dilation in geometry:
        if (size + 2 * left - dilation * (kernel - 1) - 1) // stride + 1 != out:
            return None
    return padding
