"""The encoders: what carries an entity's history from event to event.

An encoder reads whole series, or goes on where it left off: what it then needs of the past is its memory, tensors by
name with a row a series, of the kinds and shapes that `fields` says. A series cut anywhere is read as if whole.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from gapcell.detect.options import EncoderName
from gapcell.torch import ConvGRU1d, ConvLSTM1d

DAY, WEEK = 86_400, 604_800
HOURS, WEEKDAYS = 24, 7
MONDAY = 4 * DAY  # 1970-01-05 began the first whole week since 1970
LONGEST_GRID = 4096  # steps; what is older than these is not read

Memory = dict[str, Tensor]
Field = tuple[str, str, tuple[int, ...]]  # name, kind as NumPy writes it, and shape without the series


def nothing_yet(fields: list[Field], series: int, dtype: torch.dtype) -> Memory:
    """The memory of series before their first event, its numbers of this type."""
    kinds = {"<f4": dtype, "<i8": torch.int64, "?": torch.bool}
    return {name: torch.zeros(series, *shape, dtype=kinds[kind]) for name, kind, shape in fields}


class Recurrent(nn.Module):
    """A causal recurrent layer over events (lstm) or over windows of events (convlstm, convgru).

    With a kernel as long as the window, the state reads each of the last `window` events directly, and older ones
    through what the window before left behind. Its memory is the state after the last whole window, and the events of
    the window that is still open.

    Args:
        name: which layer.
        channels: input channels C.
        hidden_size: channels F of the hidden state.
        window: events a recurrent step; the lstm takes them one by one.
    """

    def __init__(self, name: EncoderName, channels: int, hidden_size: int, window: int) -> None:
        super().__init__()
        self.window = 1 if name == "lstm" else window
        layer = ConvGRU1d if name == "convgru" else ConvLSTM1d
        self.layer = layer(channels, hidden_size, self.window, window=self.window, causal=True)
        self.channels, self.hidden_size = channels, hidden_size
        self.states = ("h",) if name == "convgru" else ("h", "c")

    def fields(self) -> list[Field]:
        """The fields of the memory."""
        found: list[Field] = [(name, "<f4", (self.hidden_size, self.window)) for name in self.states]
        if self.window > 1:
            still_open = (self.window - 1, self.channels)
            found += [("open", "<i8", ()), ("inputs", "<f4", still_open), ("observed", "?", still_open)]
        return found

    def sound(self, memory: Mapping[str, np.ndarray]) -> bool:
        """Whether numbers of the right shapes can be a memory."""
        return self.window == 1 or bool(((memory["open"] >= 0) & (memory["open"] < self.window)).all())

    def forward(
        self, x: Tensor, memory: Memory | None, mask: Tensor, lengths: Tensor, seconds: Tensor
    ) -> tuple[Tensor, Memory | None]:
        """Hidden states (N, S, F) after each event of x (N, S, C), and the memory to go on from.

        Args:
            x: the events.
            memory: where the series were left; None for whole series, after which there is none.
            mask: (N, S, C), True where observed.
            lengths: (N,) events of each series.
            seconds: (N, S) of the events, which play no part here.
        """
        if memory is None:
            return self.layer(x, mask=mask, lengths=lengths)[0], None
        if self.window == 1:
            return self.read(x, memory, mask, lengths)
        still_open = memory["open"]
        x, mask = (behind(memory[name], new, still_open) for name, new in (("inputs", x), ("observed", mask)))
        together = still_open + lengths
        rest = together % self.window
        whole = together - rest
        hidden, memory = self.read(x, memory, mask, whole)
        left = whole[:, None] + torch.arange(self.window - 1)
        inputs, observed = taken(x, left), taken(mask, left) & (left < together[:, None]).unsqueeze(-1)
        inputs = torch.where(observed, inputs, 0)
        tail, _ = self.read(inputs, memory, observed, rest)
        place = still_open[:, None] + torch.arange(x.shape[1] - self.window + 1)
        in_tail = place - whole[:, None]
        hidden = torch.where((in_tail < 0).unsqueeze(-1), taken(hidden, place), taken(tail, in_tail))
        return hidden, memory | {"open": rest, "inputs": inputs, "observed": observed}

    def read(self, x: Tensor, memory: Memory, mask: Tensor, lengths: Tensor) -> tuple[Tensor, Memory]:
        """Hidden states (N, S, F) after each event, each series read from the border of a window on."""
        if not bool(lengths.any()):
            return x.new_zeros(*x.shape[:2], self.hidden_size), memory
        before = tuple(memory[name].unsqueeze(0) for name in self.states)
        hidden, after = self.layer(x, before if len(before) > 1 else before[0], mask=mask, lengths=lengths)
        after = after if isinstance(after, tuple) else (after,)
        return hidden, {name: state.squeeze(0) for name, state in zip(self.states, after, strict=True)}


def behind(first: Tensor, then: Tensor, count: Tensor) -> Tensor:
    """The first `count` (N,) of the places of `first` (N, K, C), and behind them all of `then` (N, S, C)."""
    place = torch.arange(first.shape[1] + then.shape[1])
    shifted = torch.where(place < count[:, None], place, place - count[:, None] + first.shape[1])
    return taken(torch.cat([first, then], 1), shifted)


def taken(x: Tensor, places: Tensor) -> Tensor:
    """The places (N, P) of x (N, S, C), the nearest one where there is no such place: (N, P, C)."""
    return x[torch.arange(len(x))[:, None], places.clamp(0, x.shape[1] - 1)]


class Calendar(nn.Module):
    """A ConvLSTM over the calendar: a step is a day and its sites are the hours, or a week and its weekdays.

    A cell has the number of its events, always observed, and the mean of each input, observed only where something
    was. What an event leaves behind is read from the steps that were over when it happened, at its own site and over
    all sites, and from the event itself, so that no event is seen before it happens. Its memory is the state after the
    steps that are over, and the sums in the cells of the one that is not.

    Args:
        channels: input channels C.
        hidden_size: channels F of the hidden state.
        hours: True for days and their hours, False for weeks and their weekdays.
    """

    def __init__(self, channels: int, hidden_size: int, *, hours: bool) -> None:
        super().__init__()
        self.step, self.sites = (DAY, HOURS) if hours else (WEEK, WEEKDAYS)
        self.origin = 0 if hours else MONDAY
        self.layer = ConvLSTM1d(channels + 1, hidden_size, 3)
        self.mix = nn.Linear(2 * hidden_size + channels, hidden_size)
        self.channels, self.hidden_size = channels, hidden_size

    def fields(self) -> list[Field]:
        """The fields of the memory."""
        state = (self.hidden_size, self.sites)
        cells = (self.sites, 1 + 2 * self.channels)
        return [("h", "<f4", state), ("c", "<f4", state), ("cells", "<f4", cells), ("step", "<i8", ()),
                ("begun", "?", ())]  # fmt: skip

    def sound(self, memory: Mapping[str, np.ndarray]) -> bool:
        """Whether numbers of the right shapes can be a memory."""
        return bool((memory["cells"][..., : 1 + self.channels] >= 0).all() and memory["begun"].all())

    def forward(
        self, x: Tensor, memory: Memory | None, mask: Tensor, lengths: Tensor, seconds: Tensor
    ) -> tuple[Tensor, Memory | None]:
        """Hidden states (N, S, F) after each event of x (N, S, C) at `seconds` (N, S), and the memory to go on from.

        Args:
            x: the events.
            memory: where the series were left; None for whole series, after which there is none.
            mask: (N, S, C), True where observed.
            lengths: (N,) events of each series.
            seconds: (N, S) of the events.
        """
        there = torch.arange(x.shape[1]) < lengths[:, None]
        place = seconds.double() - self.origin
        step = torch.div(place, self.step, rounding_mode="floor").long()
        site = torch.div((place - step * self.step) * self.sites, self.step, rounding_mode="floor").long()
        site = site.clamp(0, self.sites - 1)
        before = nothing_yet(self.fields(), len(x), x.dtype) if memory is None else memory
        first, before = self.began(before, torch.where(there, step, step[:, :1]))
        step = torch.where(there, step - first, 0)
        cells = self.cells(x, mask & there.unsqueeze(-1), there & (step >= 0), step.clamp(min=0), site, before["cells"])
        steps = torch.where(there, step, 0).amax(1) if x.shape[1] else step.new_zeros(len(x))  # that are over
        values, observed = self.grid(cells[:, :-1])
        state = () if memory is None else ((before["h"].unsqueeze(0), before["c"].unsqueeze(0)),)
        hidden, state = self.layer(values, *state, mask=observed, lengths=steps)  # (N, T, F, sites)
        over = torch.cat([before["h"].unsqueeze(1), hidden], 1)  # place t: after the steps before t
        row, at = torch.arange(len(x))[:, None], step.clamp(min=0)
        own = over[row, at, :, site]
        seen = torch.where(mask, x, 0)
        read = torch.cat([over.mean(-1)[row, at], own, seen], -1).to(self.mix.weight.dtype)
        after = None
        if memory is not None:
            h, c = (each.squeeze(0) for each in state)
            after = {"h": h, "c": c, "cells": cells[torch.arange(len(x)), steps],
                     "step": first.squeeze(1) + steps, "begun": before["begun"] | (lengths > 0)}  # fmt: skip
        return torch.tanh(self.mix(read)), after

    def began(self, memory: Memory, step: Tensor) -> tuple[Tensor, Memory]:
        """The step (N, 1) at which the grid of each series begins, and the memory as it was then.

        Args:
            memory: where the series were left.
            step: (N, S) of the events, an event's own in the places where none is.
        """
        latest = step.amax(1, keepdim=True)
        first = torch.where(memory["begun"], memory["step"], step.amin(1)).unsqueeze(1)
        forgotten = (first < latest - LONGEST_GRID).squeeze(1)
        if bool(forgotten.any()):
            kept = {name: torch.where(forgotten.view(-1, *[1] * (memory[name].dim() - 1)), 0, memory[name])
                    for name in ("h", "c", "cells")}  # fmt: skip
            return torch.maximum(first, latest - LONGEST_GRID), memory | kept
        return first, memory

    def cells(self, x: Tensor, mask: Tensor, there: Tensor, step: Tensor, site: Tensor, begun: Tensor) -> Tensor:
        """How many events each cell has, and of each input how many values and their sum: (N, T, sites, 1 + 2 C).

        Args:
            x: (N, S, C).
            mask: (N, S, C), True where observed.
            there: (N, S), True for the events that are counted.
            step: (N, S) from 0.
            site: (N, S).
            begun: (N, sites, 1 + 2 C), what the cells of the first step already have.
        """
        rows = len(x)
        length = 1 + (int(torch.where(there, step, 0).max()) if step.numel() else 0)
        index = ((torch.arange(rows)[:, None] * length + step) * self.sites + site)[there]
        known = mask[there].to(x.dtype)
        events = torch.cat([torch.ones_like(known[:, :1]), known, torch.where(mask[there], x[there], 0)], -1)
        cells = torch.cat([begun.unsqueeze(1), begun.new_zeros(rows, length - 1, *begun.shape[1:])], 1)
        return cells.view(-1, begun.shape[-1]).index_add(0, index, events).view_as(cells)

    def grid(self, cells: Tensor) -> tuple[Tensor, Tensor]:
        """What the layer reads of cells (N, T, sites, 1 + 2 C), and its mask: (N, T, 1 + C, sites)."""
        happened, count, total = cells.split([1, self.channels, self.channels], -1)
        values = torch.cat([torch.log1p(happened), total / count.clamp(min=1)], -1)
        observed = torch.cat([torch.ones_like(happened, dtype=torch.bool), count > 0], -1)
        return values.transpose(2, 3), observed.transpose(2, 3)


def encoder_of(name: EncoderName, channels: int, hidden_size: int, window: int, *, hours: bool) -> Recurrent | Calendar:
    """The encoder of this name."""
    if name == "calendar":
        return Calendar(channels, hidden_size, hours=hours)
    return Recurrent(name, channels, hidden_size, window)
