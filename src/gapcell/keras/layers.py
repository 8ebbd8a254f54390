"""The layers by name: keras.layers' ConvLSTM1D, 2D and 3D, and the same as GRU."""

from __future__ import annotations

import keras

from gapcell.keras.conv_rnn import ConvRNN

__all__ = ["ConvGRU1D", "ConvGRU2D", "ConvGRU3D", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D"]


@keras.saving.register_keras_serializable(package="gapcell")
class ConvLSTM1D(ConvRNN):
    """ConvLSTM over one site axis, or a series with `window`; shapes and arguments are those of ConvRNN.

    Source: Shi et al. 2015, without peepholes.
    """

    recurrence, rank = "lstm", 1


@keras.saving.register_keras_serializable(package="gapcell")
class ConvLSTM2D(ConvRNN):
    """ConvLSTM over two site axes; shapes and arguments are those of ConvRNN.

    Source: Shi et al. 2015, without peepholes.
    """

    recurrence, rank = "lstm", 2


@keras.saving.register_keras_serializable(package="gapcell")
class ConvLSTM3D(ConvRNN):
    """ConvLSTM over three site axes; shapes and arguments are those of ConvRNN.

    Source: Shi et al. 2015, without peepholes.
    """

    recurrence, rank = "lstm", 3


@keras.saving.register_keras_serializable(package="gapcell")
class ConvGRU1D(ConvRNN):
    """ConvGRU over one site axis, or a series with `window`; shapes and arguments are those of ConvRNN.

    Source: Ballas et al. 2016, reset after the convolution.
    """

    recurrence, rank = "gru", 1


@keras.saving.register_keras_serializable(package="gapcell")
class ConvGRU2D(ConvRNN):
    """ConvGRU over two site axes; shapes and arguments are those of ConvRNN.

    Source: Ballas et al. 2016, reset after the convolution.
    """

    recurrence, rank = "gru", 2


@keras.saving.register_keras_serializable(package="gapcell")
class ConvGRU3D(ConvRNN):
    """ConvGRU over three site axes; shapes and arguments are those of ConvRNN.

    Source: Ballas et al. 2016, reset after the convolution.
    """

    recurrence, rank = "gru", 3
