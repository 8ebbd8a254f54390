"""Any module applied to each step, computed on observed steps only."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from gapcell import masks
from gapcell.torch.nn.frames import Frames
from gapcell.torch.nn.module import Covers, MaskedModule, Seen, checked, fit

__all__ = ["TimeDistributed"]


class TimeDistributed(MaskedModule):
    r"""A module applied to each step, on observed steps only.

    Shapes (N samples, T steps, \*S sites, C channels, P frames):
        x: (N, T, C, \*S), or (N, T, \*S, C) with `channels_last`.
        mask: True where observed: steps (N, T), sites (N, T, \*S) or elements (x's shape).
        returns: (N, T, ...) of what the module gives for frames (P, C, \*S), zero at steps of which nothing is
            observed. With a plain module the mask is (N, T), True where anything of the step is observed; a
            MaskedModule is given the frames' masks, and its own come out.

    A plain module reads zeros where a frame's sites or elements are not observed. Where values may be looked at the
    frames of all samples and steps that have any observation are gathered, so nn.BatchNorm inside sees these alone;
    under torch.compile, export and function transforms the module runs on all frames, with the same result where it
    treats each frame on its own. If nothing at all is observed the parameters' gradients are zeros, not None; a module
    that talks to other processes (nn.SyncBatchNorm) would then wait for ever: use a MaskedBatchNorm in its stead.

    Args:
        module: what is applied: frames (P, ...) in, one tensor (P, ...) out; or a MaskedModule.
        channels_last: whether channels are the last axis; None takes the module's.
    """

    def __init__(self, module: nn.Module, *, channels_last: bool | None = None) -> None:
        super().__init__()
        if not isinstance(module, nn.Module):
            raise ValueError(f"`module` is a {type(module).__name__}, expected a torch.nn.Module")
        self.module = module
        if channels_last is None and isinstance(module, MaskedModule):
            channels_last = module.channels_last
        self.channels_last = channels_last

    def forward(
        self, x: Tensor, mask: Tensor | None = None, *, channels_last: bool | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Apply the module; shapes are in the class docstring.

        Args:
            x: a sequence.
            mask: what is observed; None: everything.
            channels_last: where neither the constructor nor the module was told.

        Returns:
            what the module gives for each step, and its mask.
        """
        seen = fit(
            x, mask, rank=None, channels_last=channels_last if self.channels_last is None else self.channels_last
        )
        frames = Frames.where(seen.observed_steps, x)
        values = seen.select()
        if frames.index is not None and len(frames.index) == 0:
            if not isinstance(self.module, MaskedModule):
                return self._of_nothing(seen, values)
            frames = replace(frames, index=None)  # its own affair, also what it exchanges with other processes
        y, frame_mask = self._run(frames.pack(values), None if seen.mask is None else frames.pack(seen.mask))
        y = frames.unpack(y)
        steps = seen.observed_steps
        if steps is not None:
            y = torch.where(masks.expand(steps, y.ndim), y, 0)
        if frame_mask is None:
            return y, steps
        moved = frames.unpack(frame_mask)
        return y, moved if steps is None else moved & masks.expand(steps, moved.ndim)

    def mask_in_words(self, covers: Covers) -> str:
        """For `MaskedSequential.summary`."""
        if isinstance(self.module, MaskedModule):
            return self.module.mask_in_words(covers)
        return "unchanged" if covers == "steps" else "steps: anything observed"

    def _run(self, frames: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if isinstance(self.module, MaskedModule):
            y, mask = checked(self.module, mask, self.module(frames, mask))
        else:
            y, mask = self.module(frames), None
        if not isinstance(y, Tensor) or y.ndim < 2 or y.shape[0] != frames.shape[0]:  # len() would freeze an export's
            came = f"shape {tuple(y.shape)}" if isinstance(y, Tensor) else type(y).__name__
            raise ValueError(
                f"{type(self.module).__name__} in TimeDistributed gave {came} for frames of shape "
                f"{tuple(frames.shape)}, expected one tensor ({frames.shape[0]}, ...)"
            )
        return y, mask

    def _of_nothing(self, seen: Seen, values: Tensor) -> tuple[Tensor, Tensor | None]:
        """Zeros of the shape the module would give; its parameters and x take part, so their gradients are zeros."""
        y = self._of_two_frames(values.new_zeros((2, *values.shape[2:])))
        y = y.new_zeros((*values.shape[:2], *y.shape[1:]))
        parts = [each for each in (values, *self.module.parameters()) if each.requires_grad]
        for part in parts:
            y = y + torch.where(torch.zeros_like(part, dtype=torch.bool), part, 0).sum().to(y.dtype)
        return y, seen.observed_steps

    def _of_two_frames(self, zeros: Tensor) -> Tensor:
        """What the module gives for them; its buffers stay as they are."""
        kept: dict[str, Any] = {name: buffer.clone() for name, buffer in self.module.named_buffers()}
        with torch.no_grad():
            try:
                return self._run(zeros, None)[0]
            finally:
                for name, buffer in self.module.named_buffers():
                    buffer.copy_(kept[name])
