"""The network: an encoder that reads an entity's events, and the heads' parameters that it predicts for the next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gapcell.detect.carried import BEFORE
from gapcell.detect.encoders import Calendar, Memory, encoder_of, nothing_yet
from gapcell.detect.features import Encoded
from gapcell.detect.heads import Head
from gapcell.detect.options import EncoderName
from gapcell.detect.series import Chunks, batches, gather, segments

EVENTS_AT_ONCE = 32_768  # of a batch to be scored, padding counted
LONGEST_SEGMENT_IN_WINDOWS = 512  # a longer series is scored piece by piece, its state carried
WINDOW_OF_STEPS = 8  # events that an encoder without windows counts as one when series are cut


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
    """What the network reads, sorted by series and time.

    Attributes:
        inputs: (places, channels) float32.
        observed: (places, channels) bool, their mask.
        seconds: (places,) float64.
        moments: (places, M) float32, what the numbers were like so far.
    """

    inputs: Tensor
    observed: Tensor
    seconds: Tensor
    moments: Tensor

    @classmethod
    def of(cls, encoded: Encoded, seconds: np.ndarray) -> Sequences:
        """The inputs of encoded places with their mask."""
        return cls(*map(torch.from_numpy, (encoded.inputs, encoded.observed, seconds, encoded.moments)))

    def without_mask(self, flags: slice) -> Sequences:
        """The usual advice, x * mask: zeros where missing, and neither mask nor presence flags to tell."""
        kept = np.delete(torch.where(self.observed, self.inputs, 0).numpy(), flags, axis=1)
        return Sequences(torch.from_numpy(kept), torch.ones(kept.shape, dtype=torch.bool), self.seconds, self.moments)


class Readout(nn.Module):
    """Predicts the parameters of every head from a hidden state.

    Args:
        hidden_size: channels F of the hidden state.
        size: of all heads' parameters together.
    """

    def __init__(self, hidden_size: int, size: int) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.zeros(hidden_size))
        self.hidden = nn.Linear(hidden_size, hidden_size)
        self.parameters_of_heads = nn.Linear(hidden_size, size)

    def forward(self, state: Tensor) -> Tensor:
        """Parameters (..., all) from the hidden state (..., F)."""
        return self.parameters_of_heads(F.silu(self.hidden(state)))


class LabelHead(nn.Module):
    """The log odds of an event's label, from the history before it and from the event itself.

    Args:
        hidden_size: channels F of the hidden state.
        channels: input channels C.
    """

    def __init__(self, hidden_size: int, channels: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(hidden_size + channels, hidden_size)
        self.odds = nn.Linear(hidden_size, 1)

    def forward(self, before: Tensor, x: Tensor, mask: Tensor) -> Tensor:
        """Log odds (...) from the state (..., F) before the event and the event x (..., C) under its mask."""
        seen = torch.where(mask, x, 0).to(before.dtype)
        return self.odds(F.silu(self.hidden(torch.cat([before, seen], -1)))).squeeze(-1)


class Network(nn.Module):
    """Predicts the parameters of every head for every event from the series' earlier places.

    The hidden state after place e, and the running moments up to it, predict the event at e + 1; a learnt start
    predicts the first. F below counts both.

    Args:
        channels: input channels C.
        moments: numbers M that say what the series was like so far.
        hidden_size: channels F of the hidden state.
        window: events a recurrent step.
        heads: what is predicted.
        encoder: what carries the history; any but "none".
        hours: True where times have hours.
        labels: True for a head that predicts labels.
    """

    def __init__(
        self,
        channels: int,
        moments: int,
        hidden_size: int,
        window: int,
        heads: Sequence[Head],
        encoder: EncoderName = "convlstm",
        *,
        hours: bool = True,
        labels: bool = False,
    ) -> None:
        super().__init__()
        self.name = encoder
        self.encoder = encoder_of(encoder, channels, hidden_size, window, hours=hours)
        self.window = window if encoder.startswith("conv") else WINDOW_OF_STEPS
        self.readout = Readout(hidden_size + moments, heads[-1].stop)
        self.label_head = LabelHead(hidden_size + moments, channels) if labels else None

    @torch.no_grad()
    def begin_at(self, population: Tensor) -> None:
        """Start as the population: every prediction near these parameters (all,), whatever the history."""
        self.readout.parameters_of_heads.bias.copy_(population)
        self.readout.parameters_of_heads.weight.mul_(0.1)

    def states(self, sequences: Sequences, places: Tensor, lengths: Tensor) -> Tensor:
        """Hidden states (N, S + 1, F) before each of the places (N, S), and after the last."""
        output, _ = self.read(sequences, places, None, lengths)
        return torch.cat([self.readout.start.expand(len(places), 1, -1), output], 1)

    def read(
        self, sequences: Sequences, places: Tensor, memory: Memory | None, lengths: Tensor
    ) -> tuple[Tensor, Memory | None]:
        """States (N, S, F) after each of the places (N, S), and the memory to go on from where one is given."""
        output, memory = self.encoder(
            sequences.inputs[places], memory, sequences.observed[places], lengths, sequences.seconds[places]
        )
        return torch.cat([output, sequences.moments[places]], -1), memory

    def forward(self, sequences: Sequences, places: Tensor, lengths: Tensor) -> Tensor:
        """Parameters (N, S + 1, all) for the places (N, S) and the one after, each predicted from the places before."""
        return self.readout(self.states(sequences, places, lengths))


def in_double(network: Network) -> Network:
    """The same network, its recurrent layer in float32 and all else in float64, as scores are made."""
    network.readout.double()
    if isinstance(network.encoder, Calendar):
        network.encoder.mix.double()
    if network.label_head is not None:
        network.label_head.double()
    return network


@torch.no_grad()
def states_before(
    network: Network, sequences: Sequences, begin: np.ndarray, end: np.ndarray, memory: Memory | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """The hidden state before every place of the series [begin, end): yields places (n,) and states (n, F).

    Series by series of similar length, long ones piece by piece with the memory carried, so that what is held at once
    is bounded and the result is that of the whole.

    Args:
        network: that reads.
        sequences: what it reads.
        begin: (series,) the first place of each.
        end: (series,) one past the last.
        memory: what the series have left behind, and `BEFORE`, the state before the first place; brought up to date as
            places are read. None for whole series.
    """
    everything = Chunks(begin, begin, end, np.ones(len(begin), dtype=bool))
    longest = LONGEST_SEGMENT_IN_WINDOWS * network.window
    start = network.readout.start.to(sequences.inputs.dtype)
    for group in batches(everything, EVENTS_AT_ONCE):
        carried, before = None, start.expand(len(group), -1)
        if memory is not None:
            carried = {name: values[group] for name, values in memory.items()}
            before = carried.pop(BEFORE)
        elif (end - begin)[group].max() > longest:
            carried = nothing_yet(network.encoder.fields(), len(group), start.dtype)
        for low, high in segments(begin[group], end[group], longest):
            places, there = gather(low, high)
            lengths = torch.from_numpy(high - low)
            output, carried = network.read(sequences, places, carried, lengths)
            state = torch.cat([before.unsqueeze(1), output], 1)
            yield places[there], state[:, :-1][there]
            before = state[torch.arange(len(group)), lengths]
        if memory is not None and carried is not None:
            for name, values in (carried | {BEFORE: before}).items():
                memory[name][group] = values
