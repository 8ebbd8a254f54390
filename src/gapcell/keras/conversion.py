"""A model with Keras's ConvLSTM layers becomes one with ours."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras

from gapcell import surprises
from gapcell.keras.layers import ConvLSTM1D, ConvLSTM2D, ConvLSTM3D

__all__ = ["convert"]

_OURS = {
    keras.layers.ConvLSTM1D: ConvLSTM1D,
    keras.layers.ConvLSTM2D: ConvLSTM2D,
    keras.layers.ConvLSTM3D: ConvLSTM3D,
}
_OURS_BY_NAME = {theirs.__name__: ours for theirs, ours in _OURS.items()}


def convert(model: keras.Model) -> keras.Model:
    """A copy of the model with gapcell's layers in place of keras.layers.ConvLSTM1D, 2D and 3D.

    Args:
        model: Sequential or functional; the layers are also found in nested models and in wrappers such as
            Bidirectional and TimeDistributed.

    Returns:
        A new model of the same names and weights. Without a mask its outputs are the same; with one, they are what
        the mask promises. It is compiled as `model` was, with a fresh optimizer; a loss or metric that Keras cannot
        copy (a function that is not registered) leaves it uncompiled, with a warning. States of stateful layers
        begin anew.

    Raises:
        ValueError: the model is neither Sequential nor functional, or has no such layer; from Keras: a Lambda layer
            holds a Python lambda, which it copies only after keras.config.enable_unsafe_deserialization().
    """
    if not isinstance(model, keras.Sequential | _Functional):
        raise ValueError(
            f"`model` is a {type(model).__name__}, expected a Sequential or functional model: a subclassed model makes "
            "its layers itself, so import them there from gapcell.keras; its saved weights will load"
        )
    found = []

    def ours_or_same(layer: Any) -> Any:
        ours = _OURS.get(type(layer))
        if ours is not None:
            found.append(layer.name)
            return ours.from_config(layer.get_config())
        return type(layer).from_config(_with_ours(layer.get_config(), found))

    with _uncompiled(model):
        converted = keras.models.clone_model(model, clone_function=ours_or_same, recursive=True)
    if not found:
        raise ValueError(
            "`model` has no keras.layers.ConvLSTM1D, ConvLSTM2D or ConvLSTM3D to convert (a subclass of them, or one "
            "that a custom layer makes itself, cannot be exchanged from outside)"
        )
    left = [layer.name for layer in converted._flatten_layers() if isinstance(layer, tuple(_OURS))]
    if left:
        surprises.warn(
            f"left as they are: {', '.join(left)}; subclasses of Keras's ConvLSTM layers, and what a custom layer "
            "makes itself, cannot be exchanged from outside"
        )
    if model.built:
        converted.set_weights(model.get_weights())
    if model.compiled:
        try:
            converted.compile_from_config(model.get_compile_config())
        except (TypeError, ValueError):
            surprises.warn(
                "the converted model is not compiled, as its loss or a metric cannot be copied: compile it again"
            )
    return converted


@contextlib.contextmanager
def _uncompiled(model: keras.Model) -> Iterator[None]:
    """Keras copies a model with its loss, and fails where it cannot."""
    compiled = [part for part in _models(model) if part.compiled]
    for part in compiled:
        part.compiled = False
    try:
        yield
    finally:
        for part in compiled:
            part.compiled = True


def _models(model: keras.Model) -> Iterator[keras.Model]:
    """The model and those inside it."""
    yield model
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _models(layer)


_Functional = type(keras.Model(*[keras.Input((1,))] * 2))


def _with_ours(config: Any, found: list[str]) -> Any:
    """A config with ours for every serialized layer of Keras's inside it."""
    if isinstance(config, list | tuple):
        return type(config)(_with_ours(item, found) for item in config)
    if not isinstance(config, dict):
        return config
    config = {key: _with_ours(value, found) for key, value in config.items()}
    ours = _OURS_BY_NAME.get(str(config.get("class_name")))
    if ours is not None and config.get("module") == "keras.layers":
        found.append(config["config"]["name"])
        config |= {"module": ours.__module__, "registered_name": f"gapcell>{ours.__name__}"}
    return config
