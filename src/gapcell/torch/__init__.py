"""Masked ConvLSTM and ConvGRU layers for PyTorch."""

from gapcell import extras

try:
    import torch as _torch  # noqa: F401 # for its absence to be said here
except ModuleNotFoundError as error:
    raise extras.answered(error, "gapcell.torch", "torch") from None

from gapcell.torch.layers import ConvGRU1d, ConvGRU2d, ConvGRU3d, ConvLSTM1d, ConvLSTM2d, ConvLSTM3d

__all__ = ["ConvGRU1d", "ConvGRU2d", "ConvGRU3d", "ConvLSTM1d", "ConvLSTM2d", "ConvLSTM3d"]
