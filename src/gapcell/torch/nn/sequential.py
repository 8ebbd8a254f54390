"""A chain of modules that hands the mask on from each to the next, and refuses a module that would drop it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from gapcell import arrays, masks, observed
from gapcell.torch.layers import ConvRNN
from gapcell.torch.nn import summary
from gapcell.torch.nn.convolution import MaskedConv, MaskedConvTranspose
from gapcell.torch.nn.known import CHANNEL_DROPOUTS, is_plain, why_not
from gapcell.torch.nn.module import Covers, MaskedModule, both, checked, fit, has_steps, spread
from gapcell.torch.nn.normalization import MaskedGroupNorm, MaskedLayerNorm
from gapcell.torch.nn.pooling import MaskedPool
from gapcell.torch.nn.shaping import MaskedFlatten, MaskedRepeat, MaskedUpsample
from gapcell.torch.nn.time_distributed import TimeDistributed

__all__ = ["MaskedSequential"]

_RANK_FREE = (MaskedGroupNorm, MaskedLayerNorm, MaskedPool, MaskedFlatten, MaskedUpsample, TimeDistributed)
_CHANGES_RANK = (MaskedPool, MaskedFlatten, MaskedRepeat, TimeDistributed)


@dataclass(frozen=True)
class _Flow:
    """What is on its way from one module to the next.

    Attributes:
        x: a sequence or frames.
        mask: bool, or None.
        steps: whether x has a step axis.
        input_steps: T of the sequential's input, or None.
        exists: (N, T), which of these exist; None: all.
        input_axis: whether x's step axis is the input's, or a MaskedRepeat of it.
        lengths: as the caller gave them, of the input's steps.
        dt: likewise.
        domain: as the caller gave it.
        same_sites: whether the sites are still those that `domain` speaks of.
    """

    x: Tensor
    mask: Tensor | None
    steps: bool
    input_steps: int | None
    exists: Tensor | None
    input_axis: bool
    lengths: Tensor | None
    dt: Tensor | None
    domain: Tensor | None
    same_sites: bool


Record = Callable[[str, nn.Module, _Flow, _Flow], None]


class MaskedSequential(MaskedModule):
    r"""nn.Sequential that threads the mask: each module gets the mask that the module before it gave on.

    Shapes (N samples, T steps, \*S sites, C channels):
        x: a sequence (N, T, C, \*S), (N, T, \*S, C) where its modules have `channels_last`, or frames without T where
            its first modules take them.
        mask: True where observed: steps (N, T), sites (N, T, \*S) or elements (x's shape). None: everything.
        lengths: (N,) or (N, 2) start and stop: which steps exist.
        domain: (N, \*S) or (\*S,), True at sites that exist.
        dt: (N, T), the time since the step before, for layers with gap="decay".
        returns: what the last module gives, and its mask.

    It takes pieces of gapcell.torch.nn, a MaskedModule of your own, the ConvLSTM and ConvGRU layers of gapcell.torch
    (their output goes on, their state does not), other MaskedSequentials, and of torch.nn activations, Identity,
    Dropout and Linear, after which zeros are put back where nothing is observed. Anything else is refused when the
    sequential is made. A recurrent layer gives on the mask of the places where its state steps: under gap="hold" what
    was observed, under "predict" what exists.

    What lies outside `lengths` or `domain` is observed nowhere. Both are also given to the pieces that tell a missing
    value from one that does not exist: recurrent layers under "predict" and "decay", and `domain` to renormalising
    convolutions; there the sites must still be those of the input. `MaskedRepeat()` takes T and `lengths` from here;
    of the steps of a `MaskedRepeat(steps)` they say nothing.

    Args:
        modules: in order, or one OrderedDict of them with their names. Parameters are named as nn.Sequential's.
    """

    def __init__(self, *modules: nn.Module | OrderedDict[str, nn.Module]) -> None:
        super().__init__()
        if len(modules) == 1 and isinstance(modules[0], OrderedDict):
            named: list[tuple[str, Any]] = list(modules[0].items())
        else:
            named = [(str(place), module) for place, module in enumerate(modules)]
        for name, module in named:
            if not (isinstance(module, MaskedModule | ConvRNN) or (isinstance(module, nn.Module) and is_plain(module))):
                raise ValueError(why_not(module, name))
            self.add_module(name, module)
        # A module that is set as an attribute later is no part of the chain.
        self._places = tuple(name for name, _ in named)
        self.channels_last = self._layout()
        self.rank = self._first_rank()

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[nn.Module]:
        return (self.get_submodule(name) for name in self._places)

    def __getitem__(self, place: int | slice) -> nn.Module:
        if isinstance(place, slice):
            return MaskedSequential(OrderedDict((name, self.get_submodule(name)) for name in self._places[place]))
        return self.get_submodule(self._places[place])

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        *,
        lengths: Tensor | None = None,
        domain: Tensor | None = None,
        dt: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Run the modules; shapes and meaning of every argument are in the class docstring.

        Args:
            x: what the first module reads.
            mask: what is observed; None: everything.
            lengths: which steps exist; None: all.
            domain: which sites exist; None: all.
            dt: time since the step before; None: 1.

        Returns:
            what the last module gives, and its mask.
        """
        flow = self._thread(self._enter(x, mask, lengths, domain, dt), None, "")
        return flow.x, flow.mask

    def summary(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        *,
        lengths: Tensor | None = None,
        domain: Tensor | None = None,
        dt: Tensor | None = None,
    ) -> str:
        """What happens to a batch and its mask layer by layer, as a table to print.

        Args:
            x: as in `forward`, likewise the others; the model runs in eval mode, and is left as it was.
            mask: see above.
            lengths: see above.
            domain: see above.
            dt: see above.

        Returns:
            a line for each module: the shapes of its output and mask, how much of the output is observed, and in words
            what the module does to a mask.
        """
        rows: list[summary.Row] = []

        def record(place: str, module: nn.Module, before: _Flow, after: _Flow) -> None:
            covers = _covers(before.x, before.mask, before.steps)
            rows.append(summary.row(place, module, covers, after.x, after.mask))

        modes = [(module, module.training) for module in self.modules()]
        self.eval()
        try:
            with torch.no_grad():
                entered = self._enter(x, mask, lengths, domain, dt)
                first = summary.input_row(entered.x, entered.mask)
                self._thread(entered, record, "")
        finally:
            for module, training in modes:
                module.training = training
        return summary.table([first, *rows])

    def steps_after(self, steps: bool) -> bool:
        """Whether its output has a step axis."""
        for module in self:
            steps = module.steps_after(steps) if isinstance(module, MaskedModule) else steps
        return steps

    def mask_in_words(self, covers: Covers) -> str:
        """For the summary of what is around it; one of a sequential lists the modules themselves."""
        return "as its modules do"

    # The way through ----------------------------------------------------------------------------------------------

    def _enter(
        self, x: Tensor, mask: Tensor | None, lengths: Tensor | None, domain: Tensor | None, dt: Tensor | None
    ) -> _Flow:
        """What is not observed is selected away, and the mask knows what does not exist, eq. (1) and (2)."""
        steps = has_steps(tuple(x.shape), self.rank, self.channels_last)
        if not steps and (lengths is not None or dt is not None):
            name = "lengths" if lengths is not None else "dt"
            raise ValueError(f"`{name}` beside frames of shape {tuple(x.shape)}, which have no steps")
        if dt is not None and not any(
            isinstance(each, ConvRNN) and each.spec.gap == "decay" for each in self.modules()
        ):
            raise ValueError('`dt` is read by layers with gap="decay", and there is none here; leave it out')
        series = any(isinstance(module, ConvRNN) and module.spec.window is not None for module in self)
        if domain is not None and series:
            raise ValueError(
                "`domain` speaks of sites, and the layers here read a series; say with `mask` or "
                "`lengths` which events there are"
            )
        seen = fit(x, mask, rank=self.rank, channels_last=self.channels_last).within(domain)
        exists = masks.existing(lengths, None, seen.sites_shape, x)
        seen = seen._replace(mask=both(seen.mask, exists))
        values, resolved = seen.leave(seen.select(), seen.mask)
        return _Flow(values, resolved, steps, x.shape[1] if steps else None, exists, steps, lengths, dt, domain, True)

    def _thread(self, flow: _Flow, record: Record | None, prefix: str) -> _Flow:
        for name in self._places:
            module = self.get_submodule(name)
            if isinstance(module, MaskedSequential):
                flow = module._thread(flow, record, f"{prefix}{name}.")
                continue
            before, sites = flow, self._sites(flow)
            x, mask = self._run(f"{prefix}{name}", module, flow)
            steps = module.steps_after(flow.steps) if isinstance(module, MaskedModule) else flow.steps
            flow = replace(flow, x=x, mask=mask, steps=steps)
            if isinstance(module, MaskedRepeat):
                flow = replace(flow, input_axis=module.steps is None)
            if self._sites(flow) != sites:
                flow = replace(flow, same_sites=False)
            if record is not None:
                record(f"{prefix}{name}", module, before, flow)
        return flow

    def _run(self, place: str, module: nn.Module, flow: _Flow) -> tuple[Tensor, Tensor | None]:
        if isinstance(module, ConvRNN):
            return self._recur(place, module, flow)
        if not isinstance(module, MaskedModule):
            return self._plain(place, module, flow)
        if not flow.steps and flow.x.ndim > 2 and isinstance(module, _RANK_FREE) and module.rank is None:
            cure = "MaskedRepeat before it" if isinstance(module, TimeDistributed) else "rank=, the number of site axes"
            raise ValueError(
                f"module {place} is a {type(module).__name__} and is given frames of shape {tuple(flow.x.shape)}, "
                f"without steps: it needs {cure}"
            )
        if isinstance(module, MaskedRepeat):
            return module(flow.x, flow.mask, steps=flow.input_steps, exists=None if module.steps else flow.exists)
        if isinstance(module, MaskedConv | MaskedConvTranspose) and module.renormalize and flow.domain is not None:
            return module(flow.x, flow.mask, domain=self._domain(place, module, flow))
        if isinstance(module, TimeDistributed):
            return module(flow.x, flow.mask, channels_last=self.channels_last)
        return checked(module, flow.mask, module(flow.x, flow.mask))

    def _recur(self, place: str, layer: ConvRNN, flow: _Flow) -> tuple[Tensor, Tensor | None]:
        if not flow.steps:
            raise ValueError(
                f"module {place} is a {type(layer).__name__} and is given frames of shape {tuple(flow.x.shape)}, "
                "without steps: MaskedRepeat before it gives them steps"
            )
        if layer.spec.gap == "hold":  # the mask says it all
            return layer(flow.x, mask=flow.mask)[0], _stepped(layer, flow.x, flow.mask, None, None)
        domain = None if flow.domain is None else self._domain(place, layer, flow)
        lengths, dt = (flow.lengths, flow.dt) if flow.input_axis else (None, None)
        options = {"dt": dt} if layer.spec.gap == "decay" and dt is not None else {}
        output, _ = layer(flow.x, mask=flow.mask, lengths=lengths, domain=domain, **options)
        return output, _stepped(layer, flow.x, flow.mask, lengths, domain)

    def _domain(self, place: str, module: nn.Module, flow: _Flow) -> Tensor | None:
        if not flow.same_sites:
            raise ValueError(
                f"`domain` speaks of the input's sites, but module {place}, a {type(module).__name__} that needs "
                f"it, is given others, {self._sites(flow)}; keep the sites (stride 1, same size) up to it, or leave "
                "`domain` out and mask what does not exist"
            )
        return flow.domain

    def _plain(self, place: str, module: nn.Module, flow: _Flow) -> tuple[Tensor, Tensor | None]:
        """A module of torch.nn that knows no mask; zeros are put back where nothing is observed."""
        x, mask, leading = flow.x, flow.mask, 2 if flow.steps else 1
        if isinstance(module, nn.Linear):
            if not self.channels_last and x.ndim > leading + 1:
                raise ValueError(
                    f"module {place} is a Linear, which reads the last axis, and is given shape {tuple(x.shape)}, "
                    "whose channels are not last: put MaskedFlatten or a pool over the sites before it, use a "
                    "convolution with kernel_size 1, or channels_last=True throughout"
                )
            if mask is not None and mask.ndim == x.ndim:
                mask = mask.any(-1)
            y = module(x)
        elif isinstance(module, tuple(CHANNEL_DROPOUTS)):
            y = self._drop_channels(place, module, flow)
        else:
            y = module(x)
        if mask is not None:
            y = torch.where(spread(mask, y.ndim, self._channel_axis(y, leading), leading), y, 0)
        return y, mask

    def _drop_channels(self, place: str, module: nn.Module, flow: _Flow) -> Tensor:
        rank = next(rank for kind, rank in CHANNEL_DROPOUTS.items() if isinstance(module, kind))
        sites = self._sites(flow)
        if len(sites) != rank:
            raise ValueError(
                f"module {place} is a {type(module).__name__}, but is given {len(sites)} site axes (shape "
                f"{tuple(flow.x.shape)}): expected {rank}"
            )
        frames = flow.x.flatten(0, 1) if flow.steps else flow.x
        axis = -1 if self.channels_last else 1
        y = module(frames.movedim(axis, 1)).movedim(1, axis)
        return y.view(flow.x.shape) if flow.steps else y

    def _channel_axis(self, x: Tensor, leading: int) -> int:
        return x.ndim - 1 if self.channels_last else leading

    def _sites(self, flow: _Flow) -> tuple[int, ...]:
        leading = 2 if flow.steps else 1
        channels = self._channel_axis(flow.x, leading)
        return tuple(size for axis, size in enumerate(flow.x.shape) if axis >= leading and axis != channels)

    # What its modules agree on -------------------------------------------------------------------------------------

    def _layout(self) -> bool | None:
        said: dict[bool, str] = {}
        for name, module in zip(self._places, self, strict=True):
            where = getattr(module, "channels_last", None)
            if where is None or (isinstance(module, ConvRNN) and module.spec.window is not None):
                continue
            said.setdefault(where, f"module {name} ({type(module).__name__})")
        if len(said) == 2:
            raise ValueError(
                f"{said[True]} has channels_last=True, but {said[False]} has not; expected all of them alike"
            )
        return next(iter(said), None)

    def _first_rank(self) -> int | None:
        """Site axes of the input, as far as the first modules say it."""
        for module in self:
            if isinstance(module, ConvRNN):
                return module.rank if module.spec.window is None else 0
            if isinstance(module, MaskedModule) and module.rank is not None:
                return module.rank
            if isinstance(module, _CHANGES_RANK):
                return None
        return None


def _covers(x: Tensor, mask: Tensor | None, steps: bool) -> Covers | None:
    if mask is None or mask.ndim == x.ndim:
        return None if mask is None else "elements"
    return "steps" if mask.ndim == (2 if steps else 1) else "sites"


def _stepped(
    layer: ConvRNN, x: Tensor, mask: Tensor | None, lengths: Tensor | None, domain: Tensor | None
) -> Tensor | None:
    """Where the layer's state steps, u of eq. (5), or of a series the events it reads; None: everywhere."""
    if mask is None:
        return None
    axis = 2 if not layer.channels_last and layer.spec.window is None else x.ndim - 1
    if layer.spec.gap == "predict":
        sites = [size for place, size in enumerate(x.shape) if place != axis]
        exists = masks.existing(lengths, domain, sites, x)
        stepped = arrays.ones(tuple(x.shape[:2]), x) if exists is None else exists
    else:
        stepped = mask.any(axis) if mask.ndim == x.ndim else mask
    return stepped if layer.spec.window is not None else observed.through_input_convolution(layer.spec, stepped)
