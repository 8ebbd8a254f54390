"""What Keras's config of a layer says, as a Spec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from gapcell.spec import Spec

__all__ = ["CLASSES", "both_directions", "spec_of"]

CLASSES: dict[str, tuple[Literal["lstm", "gru"], int]] = {
    "ConvLSTM1D": ("lstm", 1),
    "ConvLSTM2D": ("lstm", 2),
    "ConvLSTM3D": ("lstm", 3),
    "ConvGRU1D": ("gru", 1),  # gapcell.keras's own
    "ConvGRU2D": ("gru", 2),
    "ConvGRU3D": ("gru", 3),
}
_ACTIVATIONS = {"activation": "tanh", "recurrent_activation": "sigmoid"}


def spec_of(kind: str, config: Mapping[str, Any], channels: int) -> Spec:
    """The Spec of a layer.

    Args:
        kind: the name of its class.
        config: as its get_config gives it.
        channels: C of its input.

    Raises:
        ValueError: it computes what ours cannot, or the config is none.
    """
    cell, rank = CLASSES[kind]
    for name, wanted in _ACTIVATIONS.items():
        if config.get(name, wanted) != wanted:
            raise ValueError(
                f"{kind} has {name}={config[name]!r}, expected {wanted!r}, the only one that gapcell's weights have"
            )
    filters: Any = config.get("filters")  # whatever a file says: Spec refuses what is no size, and no word
    padding: Any = config.get("padding", "valid")
    return Spec(
        cell=cell,
        rank=rank,
        in_channels=channels,
        filters=filters,
        kernel_size=_sizes(config.get("kernel_size")),
        bias=config.get("use_bias", True),
        go_backwards=config.get("go_backwards", False),
        stride=_sizes(config.get("strides", 1)),
        padding=padding.lower() if isinstance(padding, str) else padding,  # pyrefly: ignore[bad-argument-type] # see above
        same_padding="keras",
        dilation=_sizes(config.get("dilation_rate", 1)),
        masked_output="zero" if config.get("zero_output_for_mask") else "hold",
        **{name: config[name] for name in ("gap", "window", "causal", "mask_rule") if name in config},
    )


def both_directions(ahead: Spec, back: Spec, merge_mode: object) -> Spec:
    """The Spec of keras.layers.Bidirectional around two layers.

    Raises:
        ValueError: its outputs are not concatenated, or the directions differ.
    """
    if merge_mode != "concat":
        raise ValueError(
            f"Bidirectional has merge_mode={merge_mode!r}, expected 'concat', the only one that a Spec has"
        )
    if back != replace(ahead, go_backwards=True):
        raise ValueError("Bidirectional has a backward layer of another kind than its forward layer; one Spec has both")
    return replace(ahead, bidirectional=True)


def _sizes(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
