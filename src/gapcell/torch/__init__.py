"""Masked ConvLSTM and ConvGRU layers for PyTorch."""

from gapcell.torch.layers import ConvGRU1d, ConvGRU2d, ConvGRU3d, ConvLSTM1d, ConvLSTM2d, ConvLSTM3d

__all__ = ["ConvGRU1d", "ConvGRU2d", "ConvGRU3d", "ConvLSTM1d", "ConvLSTM2d", "ConvLSTM3d"]
