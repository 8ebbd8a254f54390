"""What the laws are tried on: every piece, two whole models, and batches for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

import gapcell.torch
from gapcell.torch import nn as gnn

SITES = {1: (7,), 2: (7, 3), 3: (3, 2, 3)}
C = 4


@dataclass(frozen=True)
class Piece:
    """One module and which laws speak of it.

    Attributes:
        make: the module for a rank; without arguments otherwise.
        ranks: it is made for.
        dead: where sites that do not exist may be appended without a trace: "both" ends, the "right" one, or None.
        narrow: the output sites that L input sites make, on one axis.
        pads: whether steps may be added without a trace.
        rows: whether rows are independent of each other in training, too.
        takes_domain: whether dead sites must be said by `domain`.
        frames: whether frames are taken beside sequences.
        steps: whether the output has the input's step axis.
    """

    make: Callable[..., nn.Module]
    ranks: tuple[int, ...] = (1, 2, 3)
    dead: str | None = "both"
    narrow: Callable[[int], int] = lambda size: size
    pads: bool = True
    rows: bool = True
    takes_domain: bool = False
    frames: bool = True
    steps: bool = True


def named(name: str, *arguments: Any, **options: Any) -> Callable[..., nn.Module]:
    """The class of this name for a rank."""
    return lambda rank, **more: getattr(gnn, f"{name}{rank}d")(*arguments, **options, **more)


def free(name: str, *arguments: Any, **options: Any) -> Callable[..., nn.Module]:
    """The class of this name, told the rank."""
    return lambda rank, **more: getattr(gnn, name)(*arguments, **options, rank=rank, **more)


def layer_norm(rank: int, **more: Any) -> nn.Module:
    shape = (*SITES[rank], C) if more.get("channels_last") else (C, *SITES[rank])
    return gnn.MaskedLayerNorm(shape, rank=rank, **more)


def _dense(rank: int) -> nn.Module:
    size = C * int(torch.tensor(SITES[rank]).prod())
    return nn.Sequential(nn.Flatten(), nn.Linear(size, 3), nn.Tanh())


def classifier(rank: int, **more: Any) -> gnn.MaskedSequential:
    """Convolution, norm, ConvLSTM, pools, Linear."""
    lstm = getattr(gapcell.torch, f"ConvLSTM{rank}d")
    return gnn.MaskedSequential(
        named("MaskedConv", C, 6, 3, padding=1)(rank, **more),
        named("MaskedBatchNorm", 6)(rank, **more),
        nn.ReLU(),
        lstm(6, 5, 3, **more),
        gnn.MaskedMeanPool("time", rank=rank, **more),
        gnn.MaskedMaxPool("sites", rank=rank, **more),
        nn.Linear(5, 3),
    )


def autoencoder(rank: int, **more: Any) -> gnn.MaskedSequential:
    """An encoder with a strided convolution, its last state repeated, a decoder with a transposed convolution."""
    lstm = getattr(gapcell.torch, f"ConvLSTM{rank}d")
    encoder = gnn.MaskedSequential(
        named("MaskedConv", C, 6, 3, stride=2, padding=1)(rank, **more),
        named("MaskedInstanceNorm", 6, affine=True)(rank, **more),
        lstm(6, 5, 3, **more),
        gnn.LastObserved(rank=rank, **more),
    )
    decoder = gnn.MaskedSequential(
        gnn.MaskedRepeat(4, **more),
        lstm(5, 5, 3, **more),
        named("MaskedConvTranspose", 5, C, 4, stride=2, padding=1)(rank, **more),
    )
    return gnn.MaskedSequential(encoder, decoder)


PIECES: dict[str, Piece] = {
    "conv": Piece(named("MaskedConv", C, 6, 3, padding=1)),
    "conv same, groups": Piece(named("MaskedConv", C, 6, 3, padding="same", groups=2, dilation=2)),
    "conv valid": Piece(named("MaskedConv", C, 6, 2), dead="right", narrow=lambda size: size - 1),
    "conv all": Piece(named("MaskedConv", C, 6, 3, padding=1, mask_rule="all"), dead=None),
    "conv any": Piece(named("MaskedConv", C, 6, 3, padding=1, mask_rule="any"), dead=None),
    "conv strided": Piece(
        named("MaskedConv", C, 6, 3, stride=2, padding=1), dead="right", narrow=lambda size: (size - 1) // 2 + 1
    ),
    "partial conv": Piece(named("MaskedConv", C, 6, 3, padding=1, groups=2, renormalize=True), takes_domain=True),
    "partial conv any": Piece(
        named("MaskedConv", C, 6, 3, padding=1, mask_rule="any", renormalize=True), dead=None, takes_domain=True
    ),
    "transposed": Piece(
        named("MaskedConvTranspose", C, 6, 4, stride=2, padding=1), dead="right", narrow=lambda size: 2 * size
    ),
    "transposed all, partial": Piece(
        named("MaskedConvTranspose", C, 6, 3, stride=2, groups=2, mask_rule="all", renormalize=True), dead=None
    ),
    "upsample": Piece(free("MaskedUpsample", scale_factor=2), dead="right", narrow=lambda size: 2 * size),
    "batch norm": Piece(named("MaskedBatchNorm", C), rows=False),
    "instance norm": Piece(named("MaskedInstanceNorm", C, affine=True)),
    "instance norm, tracking": Piece(named("MaskedInstanceNorm", C, track_running_stats=True)),
    "group norm": Piece(free("MaskedGroupNorm", 2, C)),
    "layer norm": Piece(layer_norm, dead=None),
    "mean over time": Piece(free("MaskedMeanPool", "time"), frames=False, steps=False),
    "mean over sites": Piece(free("MaskedMeanPool", "sites"), narrow=lambda size: 0),
    "mean over both": Piece(free("MaskedMeanPool", "both"), narrow=lambda size: 0, frames=False, steps=False),
    "max over time": Piece(free("MaskedMaxPool", "time"), frames=False, steps=False),
    "max over sites": Piece(free("MaskedMaxPool", "sites"), narrow=lambda size: 0),
    "sum over both": Piece(free("MaskedSumPool", "both"), narrow=lambda size: 0, frames=False, steps=False),
    "last observed": Piece(free("LastObserved"), frames=False, steps=False),
    "attention over time": Piece(free("AttentionPool", C, 3, "time"), frames=False, steps=False),
    "attention over both": Piece(free("AttentionPool", C, 3, "both"), narrow=lambda size: 0, frames=False, steps=False),
    "flatten": Piece(free("MaskedFlatten"), dead=None),
    "per step": Piece(lambda rank: gnn.TimeDistributed(_dense(rank)), dead=None, frames=False),
    "per step, masked": Piece(
        lambda rank, **more: gnn.TimeDistributed(named("MaskedConv", C, 6, 3, padding=1)(rank, **more)), frames=False
    ),
    "classifier": Piece(classifier, rows=False, narrow=lambda size: 0, frames=False, steps=False),
    "autoencoder": Piece(
        autoencoder, dead="right", narrow=lambda size: 2 * ((size + 1) // 2), frames=False, steps=False
    ),
}
EVERY = [(name, rank) for name, piece in PIECES.items() for rank in piece.ranks]
KINDS = ("steps", "sites", "elements")


@dataclass(frozen=True)
class Batch:
    """x (N, T, C, *S) and a mask; `domain` where a piece is told of one."""

    x: Tensor
    mask: Tensor | None
    domain: Tensor | None = None

    def but(self, **changes: Any) -> Batch:
        return replace(self, **changes)

    @property
    def observed(self) -> Tensor:
        """The shape of x."""
        return over(self.x, self.mask)

    def filled(self, fill: float) -> Batch:
        """With `fill` wherever nothing is observed."""
        return self.but(x=torch.where(self.observed, self.x.detach(), fill))


def over(x: Tensor, mask: Tensor | None) -> Tensor:
    """A mask of steps, sites or elements of (N, T, C, *S), for each element."""
    if mask is None:
        return torch.ones_like(x, dtype=torch.bool)
    if mask.ndim == x.ndim:
        return mask
    if mask.ndim == 2:
        return mask[(..., *(None,) * (x.ndim - 2))].expand_as(x)
    return mask.unsqueeze(2).expand_as(x)


def make_batch(rank: int = 1, kind: str | None = "sites", *, N: int = 3, T: int = 5, dtype: Any = None) -> Batch:
    """Normal values, three fifths of them observed; the last row's last step not at all."""
    x = torch.randn(N, T, C, *SITES[rank], dtype=dtype)
    if kind is None:
        return Batch(x, None)
    shape = {"steps": (N, T), "sites": (N, T, *SITES[rank]), "elements": x.shape}[kind]
    mask = torch.rand(shape) < 0.6
    mask[-1, -1] = False
    mask[0, 0] = True
    return Batch(x, mask)
