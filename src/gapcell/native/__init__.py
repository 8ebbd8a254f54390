"""The compiled CPU kernel: one layer in one direction, forward and backward, over NumPy-like arrays.

Optional: where it was not built, or this machine cannot run it, `active` says why and everything else works without it.
"""

from gapcell.native.layer import Layer, Weights, stored_bytes_a_site
from gapcell.native.library import (
    Active,
    active,
    choose,
    idle_bytes,
    peak_flops,
    release_idle,
    using,
    xla_handlers,
)

__all__ = [
    "Active",
    "Layer",
    "Weights",
    "active",
    "choose",
    "idle_bytes",
    "peak_flops",
    "release_idle",
    "stored_bytes_a_site",
    "using",
    "xla_handlers",
]
