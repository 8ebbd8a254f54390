"""keras.layers.ConvLSTM1D, 2D and 3D: their weights are ours as they stand; what they compute is in their config."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from gapcell import arrays
from gapcell.spec import Spec
from gapcell.weights import canonical, keras_files
from gapcell.weights.canonical import Cell, Params
from gapcell.weights.keras_config import CLASSES, both_directions, spec_of

__all__ = ["from_keras"]


def from_keras(source: Any, *, name: str | None = None, spec: Spec | None = None) -> tuple[Params, Spec]:
    """The parameters and Spec of a ConvLSTM layer of keras.layers.

    Files are read without Keras, by h5py: nothing in them is run or imported.

    Args:
        source: a built keras.layers.ConvLSTM1D, 2D or 3D, or keras.layers.Bidirectional around one; or the path of a
            .keras file, or of a .weights.h5 or older .h5 file, with such a layer inside. (Layers of gapcell.keras:
            `of`; files with them are read here too.)
        name: of the layer in the file; needed where there are several. Inside a model inside the model of an older
            .h5 file: of that model.
        spec: of the layer; needed for .h5 files, of which only arrays are read: from Keras that is a Spec with
            same_padding="keras" and masked_output="hold".

    Returns:
        params in the canonical layout, and the Spec, with Keras's padding. Dropout, initializers and what is returned
        (`return_sequences`, `return_state`, `stateful`) are not carried.

    Raises:
        ValueError: the layer computes what ours cannot (activations, merge_mode), or is not built.
        FileNotFoundError: there is no such file.
        WeightsError: the file is damaged, foreign, or has not the layer asked for.
        ImportError: h5py is missing; the message says what to install.
    """
    if isinstance(source, str | Path):
        return keras_files.read(Path(source), name, spec)
    if name is not None or spec is not None:
        raise ValueError("`name` and `spec` choose in a file, but `source` is a layer; drop them")
    keras = sys.modules.get("keras")  # who has a layer of Keras's has imported it
    if keras is not None and type(source) is keras.layers.Bidirectional:
        return _from_both(source, keras)
    return _from_one(source, keras)


def _from_both(layer: Any, keras: Any) -> tuple[Params, Spec]:
    cells, specs = zip(*(_from_one(each, keras) for each in (layer.forward_layer, layer.backward_layer)), strict=True)
    return list(cells), both_directions(*specs, merge_mode=layer.merge_mode)


def _from_one(layer: Any, keras: Any) -> tuple[Cell, Spec]:
    theirs = [] if keras is None else [getattr(keras.layers, name) for name in CLASSES if hasattr(keras.layers, name)]
    kind = type(layer)
    if kind not in theirs:  # a subclass may compute anything
        raise ValueError(
            f"`source` is a {kind.__module__}.{kind.__qualname__}, expected a keras.layers.ConvLSTM1D, 2D or 3D, "
            "Bidirectional around one, or a path; of a model give model.get_layer(name); gapcell's go to weights.of"
        )
    if not layer.built:
        raise ValueError(f"`source` ({layer.name!r}) is not built and has no weights yet; call it once, or build it")
    held = [arrays.to_numpy(weight).copy() for weight in layer.get_weights()]  # on torch they are the layer's own
    spec = spec_of(kind.__name__, layer.get_config(), channels=held[0].shape[-2])
    return canonical.checked(dict(zip(spec.parameter_shapes(), held, strict=True)), spec)[0], spec
