"""Masked ConvLSTM and ConvGRU for JAX: two functions, and flax nnx modules where flax is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gapcell import extras

try:
    import jax as _jax  # noqa: F401 # for its absence to be said here
except ModuleNotFoundError as error:
    raise extras.answered(error, "gapcell.jax", "jax") from None

from gapcell.jax.functional import apply, init

if TYPE_CHECKING:
    from gapcell.jax.modules import ConvGRU, ConvGRUCell, ConvLSTM, ConvLSTMCell

__all__ = ["ConvGRU", "ConvGRUCell", "ConvLSTM", "ConvLSTMCell", "apply", "init"]


def __getattr__(name: str) -> Any:
    """Import flax only for those who use a module of it."""
    if name not in __all__:
        raise AttributeError(f"module 'gapcell.jax' has no attribute {name!r}; it has {', '.join(__all__)}")
    try:
        from gapcell.jax import modules
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "flax":
            raise
        raise extras.answered(error, f"gapcell.jax.{name}", "flax") from None
    return getattr(modules, name)
