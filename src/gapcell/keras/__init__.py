"""Masked ConvLSTM and ConvGRU for Keras 3, in the place of keras.layers' own; on TensorFlow, JAX and PyTorch."""

from __future__ import annotations

try:
    import keras as _keras  # noqa: F401 # for its absence to be said here
except ModuleNotFoundError as error:
    if error.name != "keras":  # Keras's backend is missing, which Keras says itself
        raise
    raise ImportError("gapcell.keras needs Keras 3: pip install 'gapcell[keras]' and a backend of Keras's") from error

from gapcell.keras.bidirectional import Bidirectional
from gapcell.keras.conversion import convert
from gapcell.keras.layers import ConvGRU1D, ConvGRU2D, ConvGRU3D, ConvLSTM1D, ConvLSTM2D, ConvLSTM3D
from gapcell.keras.masking import BatchNormalization, MaskNaN, SiteMask, StepMask

__all__ = [
    "BatchNormalization",
    "Bidirectional",
    "ConvGRU1D",
    "ConvGRU2D",
    "ConvGRU3D",
    "ConvLSTM1D",
    "ConvLSTM2D",
    "ConvLSTM3D",
    "MaskNaN",
    "SiteMask",
    "StepMask",
    "convert",
]
