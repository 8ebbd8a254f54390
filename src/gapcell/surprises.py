"""Warnings of what is legal but hardly meant, given at the user's line."""

from __future__ import annotations

import inspect
import warnings

from gapcell.spec import Spec

__all__ = ["of_spec", "warn"]

_OURS = frozenset(
    {"flax", "gapcell", "jax", "keras", "tensorflow", "torch"}
)  # frameworks call layers through frames of their own


def warn(message: str) -> None:
    """Warn at the innermost line outside gapcell and the frameworks."""
    frame, level = inspect.currentframe(), 1
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _OURS:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


def of_spec(spec: Spec) -> None:
    """Warn of options that do nothing, or less than their names say."""
    if spec.dropout and spec.num_layers == 1:
        warn("`dropout` acts between layers, and num_layers is 1: it does nothing")
    shortest = min(*spec.sizes("kernel_size"), *spec.sizes("recurrent_kernel_size"))
    if spec.causal and spec.window is not None and shortest < spec.window:
        warn(
            f"kernel_size {shortest} is smaller than window {spec.window}: an event does not see all of the "
            f"{spec.window} events before it; make both kernels at least as long as the window"
        )
