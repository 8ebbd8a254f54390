"""What flax nnx layers and cells share: parameters as nnx.Param, dropout by streams of keys, dtypes that promote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import ArrayLike, DTypeLike

from gapcell.jax.functional import Params, init
from gapcell.spec import Spec

__all__ = ["Keys", "Size", "Weighted", "spec_of"]

Size = int | Sequence[int]
Keys = nnx.Rngs | nnx.RngStream | Array

_FLAX_WORDS = {"`in_channels`": "`in_features`", "`filters`": "`hidden_features`", "`bias`": "`use_bias`"}


def spec_of(rank: int | None, *, kernel_size: Any, **options: Any) -> Spec:
    """The Spec of flax's arguments; what it refuses is said in flax's words."""
    if rank is None:
        rank = len(kernel_size) if isinstance(kernel_size, tuple | list) else 1
    try:
        return Spec(rank=rank, kernel_size=kernel_size, **options)
    except ValueError as error:
        message = str(error)
        for ours, theirs in _FLAX_WORDS.items():
            message = message.replace(ours, theirs)
        raise ValueError(message) from None


class Weighted(nnx.Module):
    """Parameters, dtypes and dropout: what layers and cells share."""

    cell: ClassVar[Literal["lstm", "gru"]]

    def __init__(
        self,
        spec: Spec,
        *,
        dtype: DTypeLike | None,
        param_dtype: DTypeLike,
        deterministic: bool,
        vjp: Literal["lean", "plain"],
        convolution: Literal["matmul", "xla"] | None,
        rngs: nnx.Rngs,
    ) -> None:
        self.spec = spec
        self.dtype = dtype
        self.param_dtype = param_dtype
        self.deterministic = deterministic
        self.vjp: Literal["lean", "plain"] = vjp
        self.convolution: Literal["matmul", "xla"] | None = convolution
        drawn = _listed(init(rngs.params(), spec, dtype=param_dtype))
        self.weights = nnx.List([nnx.Dict({name: nnx.Param(array) for name, array in cell.items()}) for cell in drawn])
        drops = spec.dropout or spec.input_dropout or spec.recurrent_dropout
        self.rngs = rngs["dropout"].fork() if drops else nnx.data(None)

    @property
    def in_features(self) -> int:
        """C, channels of the input."""
        return self.spec.in_channels

    @property
    def hidden_features(self) -> int:
        """F, channels of the hidden state."""
        return self.spec.filters

    @property
    def params(self) -> Params:
        """The parameters as `gapcell.jax.init` returns them and `gapcell.jax.apply` takes them.

        Assign to it to load parameters of that form, of functional code or of another layer; they are converted to the
        type that is held.

        Raises:
            ValueError: what is assigned has other names or shapes; the message says both.
        """
        cells = [{name: weight.get_value() for name, weight in cell.items()} for cell in self.weights]
        return cells if len(cells) > 1 else cells[0]

    @params.setter
    def params(self, params: Mapping[str, ArrayLike] | Sequence[Mapping[str, ArrayLike]]) -> None:
        given = _listed(params)
        shapes, wanted = (
            [{name: jnp.shape(cell[name]) for name in sorted(cell)} for cell in cells]
            for cells in (given, _listed(self.params))
        )
        if shapes != wanted:
            raise ValueError(f"`params` has {shapes}, expected {wanted}: one dict a layer and direction")
        for cell, arrays in zip(self.weights, given, strict=True):
            for name, weight in cell.items():
                weight.set_value(jnp.asarray(arrays[name], weight.get_value().dtype))

    def __setattr__(self, name: str, value: Any) -> None:
        # nnx keeps whatever is assigned as data of its own; `params` is a view of data that it keeps already.
        if name == "params":
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def set_view(self, deterministic: bool | None = None) -> None:
        """What nnx.view may set.

        Args:
            deterministic: True: no dropout.
        """
        if deterministic is not None:
            self.deterministic = deterministic

    def _promoted(self, x: ArrayLike) -> tuple[list[dict[str, Array]], Array]:
        """Parameters and x in the types that flax's promote_dtype chooses, but never narrower parameters."""
        x, cells = jnp.asarray(x), _listed(self.params)
        held = cells[0]["kernel"].dtype
        dtype = jnp.promote_types(x.dtype, held) if self.dtype is None else jnp.dtype(self.dtype)
        wide = jnp.promote_types(held, dtype)
        return jax.tree.map(lambda array: array.astype(wide), cells), x.astype(dtype)

    def _key(self, deterministic: bool | None, rngs: Keys | None) -> Array | None:
        """The key of this call's dropout, drawn as nnx.Dropout draws it; None: nothing is dropped."""
        if self.rngs is None or (self.deterministic if deterministic is None else deterministic):
            return None
        stream = self.rngs if rngs is None else rngs
        if isinstance(stream, nnx.Rngs):
            return stream["dropout"]()
        if isinstance(stream, nnx.RngStream):
            return stream()
        if isinstance(stream, Array):
            return stream
        raise TypeError(f"`rngs` is a {type(stream).__name__}, expected nnx.Rngs, nnx.RngStream or a key of jax.random")


def _listed(params: Any) -> list[Any]:
    return [params] if isinstance(params, Mapping) else list(params)
