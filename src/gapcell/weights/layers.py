"""Weights out of a layer and into another, whatever the framework of either."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from gapcell.spec import Spec
from gapcell.weights import canonical
from gapcell.weights.canonical import Cell, Params

__all__ = ["Framework", "differences", "into", "of"]

_ACT_IN_TRAINING_ONLY = ("dropout", "input_dropout", "recurrent_dropout")


class Framework(Protocol):
    """What the module `weights` of a framework's package gives."""

    def spec_of(self, layer: Any) -> Spec:
        """The Spec of a layer."""
        ...

    def read(self, layer: Any) -> list[Cell]:
        """Copies of its parameters."""
        ...

    def write(self, layer: Any, cells: list[Cell]) -> None:
        """Set its parameters, converted to the type that it holds."""
        ...


def of(layer: Any) -> tuple[Params, Spec]:
    """The parameters and the Spec of a layer, copied: `weights.save(path, *weights.of(layer))`.

    Args:
        layer: of gapcell.torch; of gapcell.keras, built, or Bidirectional around one with merge_mode="concat"; or a
            flax nnx module of gapcell.jax. (Functional JAX code has its parameters in the canonical layout already.)

    Returns:
        params, NumPy arrays in the canonical layout of `save`, and the Spec.

    Raises:
        ValueError: it is no such layer, is not built, or has activations that a Spec cannot name.
    """
    framework = _framework_of(layer)
    spec = framework.spec_of(layer)
    return canonical.together(framework.read(layer)), spec


def into(layer: Any, params: Mapping[str, Any] | Sequence[Mapping[str, Any]], spec: Spec) -> None:
    """Set the parameters of a layer: `weights.into(layer, *weights.load(path))`.

    The layer must be of the same Spec as far as results go without dropout: dropouts may differ, and names of the
    same thing (a `mask_rule` that is the default, `same_padding` where nothing is strided).

    Args:
        layer: as `of` takes it; its parameters are converted to the type that it holds.
        params: in the canonical layout of `save`.
        spec: of these parameters.

    Raises:
        ValueError: it is no such layer, or of another Spec; the message names each difference.
    """
    framework = _framework_of(layer)
    cells = canonical.checked(params, spec)
    found = differences(spec, framework.spec_of(layer))
    if found:
        raise ValueError(f"`layer` is of another Spec than the weights: {'; '.join(found)}; make it with these options")
    framework.write(layer, cells)


def differences(weights: Spec, layer: Spec) -> list[str]:
    """Where two Specs mean different results without dropout, in words."""
    theirs, ours = (_meaning(spec) for spec in (weights, layer))
    return [
        f"`{name}` is {theirs[name]!r} in the weights' Spec and {ours[name]!r} in the layer's"
        for name in theirs
        if theirs[name] != ours[name]
    ]


def _meaning(spec: Spec) -> dict[str, Any]:
    options = spec.to_dict() | {"mask_rule": spec.rule}
    if spec.padding == "valid" or spec.causal or set(spec.sizes("stride")) == {1}:
        del options["same_padding"]
    return {name: value for name, value in options.items() if name not in _ACT_IN_TRAINING_ONLY}


def _framework_of(layer: Any) -> Framework:
    """The module that knows the layer; what is not imported has made no layer."""
    ahead = getattr(layer, "forward_layer", None)  # of Keras's Bidirectional
    if _is_a(layer, "gapcell.torch.layers", "ConvRNN"):
        from gapcell.torch import weights
    elif _is_a(layer, "gapcell.jax.weighted", "Weighted"):
        from gapcell.jax import weights
    elif _is_a(layer, "gapcell.keras.conv_rnn", "ConvRNN") or _is_a(ahead, "gapcell.keras.conv_rnn", "ConvRNN"):
        from gapcell.keras import weights
    else:
        raise ValueError(
            f"`layer` is a {type(layer).__module__}.{type(layer).__qualname__}, expected a ConvLSTM or ConvGRU layer "
            "of gapcell.torch, gapcell.keras or gapcell.jax; weights.from_keras and its kin read those of others"
        )
    return weights


def _is_a(layer: Any, module: str, name: str) -> bool:
    return module in sys.modules and isinstance(layer, getattr(sys.modules[module], name))
