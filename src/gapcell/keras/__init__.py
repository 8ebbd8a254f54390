"""Masked ConvLSTM and ConvGRU for Keras 3 and the layers and losses around them; on TensorFlow, JAX and PyTorch."""

from __future__ import annotations

from gapcell import extras

try:
    import keras as _keras  # noqa: F401 # for its absence to be said here
except ModuleNotFoundError as error:
    raise extras.answered_for_keras(error) from None

from gapcell.keras import losses
from gapcell.keras.bidirectional import Bidirectional
from gapcell.keras.conversion import convert
from gapcell.keras.convolution import Conv1D, Conv1DTranspose, Conv2D, Conv2DTranspose, Conv3D, Conv3DTranspose
from gapcell.keras.layers import ConvGRU1D, ConvGRU2D, ConvGRU3D, ConvLSTM1D, ConvLSTM2D, ConvLSTM3D
from gapcell.keras.masking import MaskNaN, SiteMask, StepMask
from gapcell.keras.normalization import BatchNormalization, GroupNormalization, LayerNormalization
from gapcell.keras.pooling import (
    AttentionPooling,
    GlobalAveragePooling1D,
    GlobalAveragePooling2D,
    GlobalAveragePooling3D,
    GlobalMaxPooling1D,
    GlobalMaxPooling2D,
    GlobalMaxPooling3D,
    GlobalSumPooling1D,
    GlobalSumPooling2D,
    GlobalSumPooling3D,
    LastObserved,
)
from gapcell.keras.shaping import Flatten, RepeatVector, UpSampling1D, UpSampling2D, UpSampling3D
from gapcell.keras.time_distributed import TimeDistributed

__all__ = [
    "AttentionPooling",
    "BatchNormalization",
    "Bidirectional",
    "Conv1D",
    "Conv1DTranspose",
    "Conv2D",
    "Conv2DTranspose",
    "Conv3D",
    "Conv3DTranspose",
    "ConvGRU1D",
    "ConvGRU2D",
    "ConvGRU3D",
    "ConvLSTM1D",
    "ConvLSTM2D",
    "ConvLSTM3D",
    "Flatten",
    "GlobalAveragePooling1D",
    "GlobalAveragePooling2D",
    "GlobalAveragePooling3D",
    "GlobalMaxPooling1D",
    "GlobalMaxPooling2D",
    "GlobalMaxPooling3D",
    "GlobalSumPooling1D",
    "GlobalSumPooling2D",
    "GlobalSumPooling3D",
    "GroupNormalization",
    "LastObserved",
    "LayerNormalization",
    "MaskNaN",
    "RepeatVector",
    "SiteMask",
    "StepMask",
    "TimeDistributed",
    "UpSampling1D",
    "UpSampling2D",
    "UpSampling3D",
    "convert",
    "losses",
]
