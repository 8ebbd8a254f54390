"""The network: a causal masked ConvLSTM over windows of events that predicts every event from those before it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gapcell.detect.features import Encoded
from gapcell.detect.heads import Head
from gapcell.detect.series import Chunks, batches, gather, segments
from gapcell.torch import ConvLSTM1d

EVENTS_AT_ONCE = 32_768  # of a batch to be scored, padding counted
LONGEST_SEGMENT_IN_WINDOWS = 512  # a longer series is scored piece by piece, its state carried


@contextmanager
def one_thread() -> Iterator[None]:
    """Runs torch in one thread: so small a network gains nothing from more, loses sevenfold beside other processes.

    Scores then do not depend on the number of threads either.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True, eq=False)
class Sequences:
    """What the network reads, sorted by entity and time: inputs (rows, channels) and their mask, bool."""

    inputs: Tensor
    observed: Tensor

    @classmethod
    def of(cls, encoded: Encoded) -> Sequences:
        """The inputs of encoded events with their mask."""
        return cls(torch.from_numpy(encoded.inputs), torch.from_numpy(encoded.observed))

    @classmethod
    def without_mask(cls, encoded: Encoded, flags: slice) -> Sequences:
        """The usual advice, x * mask: zeros where missing, and neither mask nor presence flags to tell."""
        kept = np.delete(encoded.inputs * encoded.observed, flags, axis=1)
        return cls(torch.from_numpy(kept), torch.ones(kept.shape, dtype=torch.bool))


class Network(nn.Module):
    """Predicts the parameters of every head for every event from the entity's earlier events.

    The hidden state after event e predicts event e + 1; a learnt start predicts the first event. With a kernel as long
    as the window, the prediction reads each of the last `window` events directly, and older ones through the state.

    Args:
        channels: input channels C.
        hidden_size: channels F of the hidden state.
        window: events a recurrent step.
        heads: what is predicted.
    """

    def __init__(self, channels: int, hidden_size: int, window: int, heads: Sequence[Head]) -> None:
        super().__init__()
        self.window = window
        self.cell = ConvLSTM1d(channels, hidden_size, window, window=window, causal=True)
        self.start = nn.Parameter(torch.zeros(hidden_size))
        self.hidden = nn.Linear(hidden_size, hidden_size)
        self.parameters_of_heads = nn.Linear(hidden_size, heads[-1].stop)

    @torch.no_grad()
    def begin_at(self, population: Tensor) -> None:
        """Start as the population: every prediction near these parameters (all,), whatever the history."""
        self.parameters_of_heads.bias.copy_(population)
        self.parameters_of_heads.weight.mul_(0.1)

    def predict(self, state: Tensor) -> Tensor:
        """Parameters (..., all) from the hidden state (..., F)."""
        return self.parameters_of_heads(F.silu(self.hidden(state)))

    def forward(self, x: Tensor, mask: Tensor, lengths: Tensor) -> Tensor:
        """Parameters (N, S + 1, all) of events 0..S from x (N, S, C), each predicted from the events before it."""
        output, _ = self.cell(x, mask=mask, lengths=lengths)
        return self.predict(torch.cat([self.start.expand(len(x), 1, -1), output], 1))


@torch.no_grad()
def predictions(
    network: Network, sequences: Sequences, begin: np.ndarray, end: np.ndarray
) -> Iterator[tuple[Tensor, Tensor]]:
    """Predict every event of the series [begin, end): yields places (events,) and parameters (events, all).

    In the network's own type, series by series of similar length, long ones piece by piece with the state carried, so
    that memory is bounded and the result is that of the whole.
    """
    kind = network.start.dtype
    everything = Chunks(begin, begin, end, np.ones(len(begin), dtype=bool))
    for group in batches(everything, EVENTS_AT_ONCE):
        carried = None
        before = network.start.expand(len(group), 1, -1)
        for low, high in segments(begin[group], end[group], LONGEST_SEGMENT_IN_WINDOWS * network.window):
            places, there = gather(low, high)
            lengths = torch.from_numpy(high - low)
            output, carried = network.cell(
                sequences.inputs[places].to(kind), carried, mask=sequences.observed[places], lengths=lengths
            )
            state = torch.cat([before, output], 1)
            yield places[there], network.predict(state[:, :-1][there])
            before = state[:, -1:]
