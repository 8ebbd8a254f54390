"""The encoders: what carries an entity's history from event to event."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gapcell.detect.options import EncoderName
from gapcell.torch import ConvGRU1d, ConvLSTM1d

DAY, WEEK = 86_400, 604_800
HOURS, WEEKDAYS = 24, 7
MONDAY = 4 * DAY  # 1970-01-05 began the first whole week since 1970
LONGEST_GRID = 4096  # steps; what is older than these is not read


class Recurrent(nn.Module):
    """A causal recurrent layer over events (lstm) or over windows of events (convlstm, convgru).

    With a kernel as long as the window, the state reads each of the last `window` events directly, and older ones
    through what the window before left behind.

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

    def forward(
        self, x: Tensor, state: object, mask: Tensor, lengths: Tensor, seconds: Tensor
    ) -> tuple[Tensor, object]:
        """Hidden states (N, S, F) after each event of x (N, S, C), and the state to go on from; times play no part."""
        return self.layer(x, state, mask=mask, lengths=lengths)  # pyrefly: ignore  # the state is the layer's own


class Calendar(nn.Module):
    """A ConvLSTM over the calendar: a step is a day and its sites are the hours, or a week and its weekdays.

    A cell has the number of its events, always observed, and the mean of each input, observed only where something
    was. What an event leaves behind is read from the steps that were over when it happened, at its own site and over
    all sites, and from the event itself, so that no event is seen before it happens.

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

    def forward(
        self, x: Tensor, state: object, mask: Tensor, lengths: Tensor, seconds: Tensor
    ) -> tuple[Tensor, object]:
        """Hidden states (N, S, F) after each event of x (N, S, C) at `seconds` (N, S); whole series only.

        Raises:
            ValueError: a state is given: a series is read from its beginning.
        """
        if state is not None:
            raise ValueError("the calendar reads a series from its beginning: give no state")
        there = torch.arange(x.shape[1]) < lengths[:, None]
        place = seconds.double() - self.origin
        step = torch.div(place, self.step, rounding_mode="floor").long()
        site = torch.div((place - step * self.step) * self.sites, self.step, rounding_mode="floor").long()
        last = torch.where(there, step, step[:, :1]).amax(1, keepdim=True)  # an empty row's first place stands in
        first = torch.maximum(torch.where(there, step, step[:, :1]).amin(1, keepdim=True), last - LONGEST_GRID)
        step = torch.where(there, step - first, 0)
        grid, observed, steps = self.grid(x, mask & there.unsqueeze(-1), there & (step >= 0), step.clamp(min=0), site)
        hidden, _ = self.layer(grid, mask=observed, lengths=steps)  # (N, T, F, sites)
        nothing = hidden.new_zeros(len(x), 1, *hidden.shape[2:])
        over = torch.cat([nothing, hidden], 1)  # place t: after the steps before t
        row, at = torch.arange(len(x))[:, None], step.clamp(min=0)
        own = over[row, at, :, site.clamp(0, self.sites - 1)]
        seen = torch.where(mask, x, 0)
        read = torch.cat([over.mean(-1)[row, at], own, seen], -1).to(self.mix.weight.dtype)
        return torch.tanh(self.mix(read)), None

    def grid(self, x: Tensor, mask: Tensor, there: Tensor, step: Tensor, site: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Cells (N, T, 1 + C, sites), their mask, and the steps (N,) of each row that were over before its last."""
        rows, _, channels = x.shape
        most = int(torch.where(there, step, 0).max()) if x.numel() else 0
        cell = (torch.arange(rows)[:, None] * most + step) * self.sites + site
        used = there & (step < most)  # a row's last steps end after all its events: nobody reads them
        index = cell[used]
        cells = rows * most * self.sites
        happened = x.new_zeros(cells).index_add(0, index, torch.ones_like(index, dtype=x.dtype))
        known = mask[used].to(x.dtype)
        count = x.new_zeros(cells, channels).index_add(0, index, known)
        total = x.new_zeros(cells, channels).index_add(0, index, torch.where(mask[used], x[used], 0))
        values = torch.cat([torch.log1p(happened).unsqueeze(-1), total / count.clamp(min=1)], -1)
        observed = torch.cat([torch.ones_like(happened, dtype=torch.bool).unsqueeze(-1), count > 0], -1)
        shape = (rows, most, self.sites, channels + 1)
        steps = torch.where(there, step, 0).amax(1) if x.shape[1] else step.new_zeros(rows)
        return values.view(shape).transpose(2, 3), observed.view(shape).transpose(2, 3), steps


def encoder_of(name: EncoderName, channels: int, hidden_size: int, window: int, *, hours: bool) -> Recurrent | Calendar:
    """The encoder of this name."""
    if name == "calendar":
        return Calendar(channels, hidden_size, hours=hours)
    return Recurrent(name, channels, hidden_size, window)
