"""The modules of torch.nn that a mask passes without harm, and what to use in the stead of the others."""

from __future__ import annotations

from torch import nn

__all__ = ["CHANNEL_DROPOUTS", "is_plain", "why_not"]

CHANNEL_DROPOUTS: dict[type[nn.Module], int] = {nn.Dropout1d: 1, nn.Dropout2d: 2, nn.Dropout3d: 3}
_ELEMENTWISE: tuple[type[nn.Module], ...] = (
    nn.AlphaDropout,
    nn.CELU,
    nn.Dropout,
    nn.ELU,
    nn.GELU,
    nn.Hardshrink,
    nn.Hardsigmoid,
    nn.Hardswish,
    nn.Hardtanh,
    nn.Identity,
    nn.LeakyReLU,
    nn.LogSigmoid,
    nn.Mish,
    nn.PReLU,
    nn.RReLU,
    nn.ReLU,
    nn.ReLU6,
    nn.SELU,
    nn.SiLU,
    nn.Sigmoid,
    nn.Softplus,
    nn.Softshrink,
    nn.Softsign,
    nn.Tanh,
    nn.Tanhshrink,
    nn.Threshold,
)
_CURES: tuple[tuple[tuple[type[nn.Module], ...], str], ...] = (
    ((nn.Conv1d, nn.Conv2d, nn.Conv3d), "Masked{name}"),
    ((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), "Masked{name}"),
    ((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), "Masked{name}"),
    ((nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d), "Masked{name}"),
    ((nn.GroupNorm, nn.LayerNorm, nn.Flatten), "Masked{name}"),
    ((nn.SyncBatchNorm,), "MaskedBatchNorm1d, 2d or 3d, which synchronises by itself"),
    ((nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d), "MaskedUpsample"),
    ((nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d), 'MaskedMeanPool(over="sites") or a strided MaskedConv'),
    ((nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d), 'MaskedMeanPool(over="sites")'),
    ((nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d), 'MaskedMaxPool(over="sites") or a strided MaskedConv'),
    ((nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d), 'MaskedMaxPool(over="sites")'),
    (
        (nn.RNNBase,),
        "ConvLSTM1d or ConvGRU1d of gapcell.torch; with window=1, kernel_size=1 they are a masked LSTM and GRU",
    ),
    ((nn.Sequential,), "MaskedSequential"),
    ((nn.PReLU,), "nn.PReLU() with one parameter"),
    ((nn.modules.loss._Loss,), "the loss outside of the model, with the mask that the model returns"),
)
_ELSE = "TimeDistributed(it) if it treats each step alone, else a MaskedModule of your own"


def is_plain(module: nn.Module) -> bool:
    """Whether it is known: element by element, a dropout, or a Linear; a subclass with a forward of its own is not."""
    if isinstance(module, nn.PReLU) and module.num_parameters > 1:
        return False
    kinds = (*_ELEMENTWISE, *CHANNEL_DROPOUTS, nn.Linear)
    return any(isinstance(module, kind) and type(module).forward is kind.forward for kind in kinds)


def why_not(module: object, place: str) -> str:
    """The refusal of a module that is not known, with what to use instead."""
    name = type(module).__name__
    if not isinstance(module, nn.Module):
        return f"module {place} is a {name}, expected a torch.nn.Module"
    cure = next((cure for kinds, cure in _CURES if isinstance(module, kinds)), _ELSE)
    return (
        f"module {place} is a {name}, which does not know of masks and would drop or spoil them: "
        f"use {cure.format(name=name)} instead"
    )
