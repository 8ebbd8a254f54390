"""One layer in one direction on the CPU kernel: arrays in, arrays filled.

Arrays may be NumPy's or PyTorch's (or anything with `__array_interface__`): contiguous, channels last, on the CPU. They
are neither copied nor kept. Shapes: docs/semantics.md; N samples, T steps, *S input sites, *P output sites (S').
"""

from __future__ import annotations

import ctypes
import functools
import math
import weakref
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from gapcell.native import library
from gapcell.spec import Spec

__all__ = ["Layer", "Weights", "stored_bytes_a_site"]

Array = Any
Shape = tuple[int, ...]

_STORES = {"none": 0, "fp32": 1, "bf16": 2, "recompute": 3}
_HELD = {"zero": 0, "hold": 1}
_FLOAT, _LOW, _MASK = ("float32",), ("float32", "bfloat16"), ("bool", "uint8")
_PARAMETERS = ("kernel", "recurrent_kernel", "bias", "recurrent_bias")


class Layer:
    """What a call needs to know beside its arrays: the layer, the batch's sizes, and how to run.

    Args:
        spec: of one layer and direction (`Spec.layer(index)`); its dropout options are not looked at, nor its gap rule
            but for "decay"; `reverse` says the direction.
        samples: N.
        steps: T; of a series the recurrent steps, with `sites` (window,).
        sites: *S.
        store: what `forward` keeps for `backward` beside hs: "none", the gates in "fp32" or "bf16", or "recompute".
        held_output: what hs holds where the state does not step: "zero" or "hold" (eq. (10)).
        reverse: process step T-1 first (eq. (13)); arrays keep their order.
        threads: at most so many are used.
        parallel: address of a `gapcell_parallel` that lends threads; 0: the library's own.

    Raises:
        ValueError: a size or a choice is not one of these.
    """

    def __init__(
        self,
        spec: Spec,
        *,
        samples: int,
        steps: int,
        sites: Shape,
        store: Literal["none", "fp32", "bf16", "recompute"] = "none",
        held_output: Literal["zero", "hold"] = "zero",
        reverse: bool = False,
        threads: int = 1,
        parallel: int = 0,
    ) -> None:
        if store not in _STORES:
            raise ValueError(f"`store` is {store!r}, expected one of {', '.join(_STORES)}")
        if held_output not in _HELD:
            raise ValueError(f"`held_output` is {held_output!r}, expected one of {', '.join(_HELD)}")
        if len(sites) != spec.rank:
            raise ValueError(f"`sites` is {sites}, expected {spec.rank} of them (rank {spec.rank})")
        self.spec = spec
        struct, self._accepted = _described(spec, samples, steps, tuple(sites))
        self._struct = library.LayerStruct.from_buffer_copy(struct)
        self._struct.store = _STORES[store]
        self._struct.held_output = _HELD[held_output]
        self._struct.reverse = int(reverse)
        self._struct.threads = threads
        self._parallel = parallel

    def stored_bytes(self, update: Array | None = None) -> int:
        """Bytes of the `stored` that `forward` needs under this update mask (None: all True)."""
        struct, arguments = self._arguments({"update": update})
        count = ctypes.c_uint64()
        library.call("gapcell_stored_bytes", struct, arguments.buffer("update"), ctypes.byref(count))
        return count.value

    def describe(self, arrays: dict[str, tuple[Shape, str]]) -> bytes:
        """The `gapcell_layer` of a call with arrays of these shapes and dtypes, for callers of the library itself.

        Raises:
            ValueError: an array does not have the shape or dtype that `forward` and `backward` want.
        """
        struct = library.LayerStruct.from_buffer_copy(self._struct)
        for name, (shape, dtype) in arrays.items():
            self._enter(struct, name, shape, dtype)
        return bytes(struct)

    def pack(self, parameters: dict[str, Array]) -> Weights:
        """A packed copy of the parameters for many calls; later changes of the arrays do not show."""
        struct, arguments = self._arguments(parameters)
        handle = ctypes.c_void_p()
        library.call("gapcell_weights_create", struct, arguments.words, ctypes.byref(handle))
        assert handle.value is not None  # noqa: S101 # the call above did not raise
        return Weights(handle.value)

    def forward(self, weights: dict[str, Array] | Weights, **arrays: Array | None) -> None:
        """Fill hs, and what else is given.

        Args:
            weights: kernel, recurrent_kernel, bias and recurrent_bias as `Spec.parameter_shapes` says, float32 or
                bfloat16; or what `pack` made of them.
            arrays: float32 unless said otherwise; None is the same as absent.
                x (N, T, *S, C), float32 or bfloat16; observed (N, T), (N, T, *S) or (N, T, *S, C), bool, e of eq. (1):
                values where it is False are never read as numbers; update (N, T) or (N, T, *P), bool, u of eq. (5);
                recurrent_scale (N, F) or (N, *P, F); h0, c0 (N, *P, F); with gap="decay" dt (N, T) and rates (F,) of
                eq. (24), the time before each step as it is processed.
                Filled: hs (N, T, *P, F); stored (bytes: at least `stored_bytes`, 64-byte aligned); h, c (N, *P, F).

        Raises:
            ValueError: an array does not have the shape, dtype or layout described here.
        """
        self._run("gapcell_forward", weights, arrays)

    def repeated(self, weights: Weights, names: tuple[str, ...]) -> Callable[..., None]:
        """`forward` over arrays that are alike in every call, so that only where they lie is left to say.

        Args:
            weights: from `pack`.
            names: of float32 arrays; no masks.

        Returns:
            A function of their addresses, in this order; 0: absent. The arrays must be as `forward` wants them and live
            until it returns: nothing of this is checked here.
        """
        struct, arguments = self._arguments({})
        arguments.place_word("weights", weights.handle)
        arguments.place_word("parallel", self._parallel)
        for name in names:
            (count, _), *_ = self._accepted[name].shapes.values()
            arguments.place(name, 0, 4 * count)
        places = [arguments.place_of(name) for name in names]

        def run(*addresses: int) -> None:
            words = arguments.copied_words()
            for place, address in zip(places, addresses, strict=True):
                words[place] = address
            library.call("gapcell_forward", struct, words)
            _ = weights  # lives as long as this function

        return run

    def backward(self, weights: dict[str, Array], **arrays: Array | None) -> None:
        """Fill the gradients that are given.

        Args:
            weights: as for `forward`, not packed.
            arrays: x, observed, update, recurrent_scale, h0, c0, dt and rates as for `forward`, and hs and stored as it
                filled them; dhs (N, T, *P, F), dh, dc (N, *P, F): cotangents, None: zeros.
                Filled, float32: dx (N, T, *S, C); dh0, dc0 (N, *P, F); dkernel, drecurrent_kernel, dbias,
                drecurrent_bias, drates, as the parameters.

        Raises:
            ValueError: an array does not have the shape, dtype or layout described here.
        """
        self._run("gapcell_backward", weights, arrays)

    def _run(self, function: str, weights: dict[str, Array] | Weights, arrays: dict[str, Array | None]) -> None:
        if isinstance(weights, Weights):
            struct, arguments = self._arguments(arrays)
            arguments.place_word("weights", weights.handle)
        else:
            struct, arguments = self._arguments({**weights, **arrays})
        arguments.place_word("parallel", self._parallel)
        library.call(function, struct, arguments.words)

    def _arguments(self, arrays: dict[str, Array | None]) -> tuple[library.LayerStruct, library.Arguments]:
        struct, arguments = library.LayerStruct.from_buffer_copy(self._struct), library.Arguments()
        weight_type = None
        for name, array in arrays.items():
            if array is None:
                continue
            pointer, shape, dtype, size = _viewed(name, array)
            if name == "stored":
                arguments.place(name, pointer, math.prod(shape) * size)
                continue
            arguments.place(name, pointer, self._enter(struct, name, shape, dtype) * size)
            if name in _PARAMETERS:
                if weight_type not in (None, dtype):
                    raise ValueError(f"`{name}` has dtype {dtype}, but another parameter {weight_type}; expected one")
                weight_type = dtype
        return struct, arguments

    def _enter(self, struct: library.LayerStruct, name: str, shape: Shape, dtype: str) -> int:
        """Write down what an array's shape and dtype say about the call, and return the number of its values."""
        accepted = self._accepted.get(name)
        if accepted is None:
            raise ValueError(f"`{name}` is not an array of this layer; it has {', '.join(sorted(self._accepted))}")
        if shape not in accepted.shapes or dtype not in accepted.dtypes:
            raise ValueError(accepted.refusal(name, shape, dtype))
        count, kind = accepted.shapes[shape]
        if accepted.field is not None:
            setattr(struct, accepted.field, kind)
        if name == "x":
            struct.x_type = int(dtype == "bfloat16")
        elif name in _PARAMETERS:
            struct.weight_type = int(dtype == "bfloat16")
        return count


class Weights:
    """Packed parameters, made by `Layer.pack`: frozen, and freed with this object."""

    def __init__(self, handle: int) -> None:
        self.handle = handle
        self._finalizer = weakref.finalize(self, library.free_weights, handle)


def stored_bytes_a_site(spec: Spec, store: Literal["none", "fp32", "bf16", "recompute"]) -> int:
    """Bytes of `stored` for one computed step of one output site, for sizes that are not known yet.

    `Layer.stored_bytes` is this times the computed sites; the library checks it.
    """
    padded = -(-spec.filters // 16) * 16
    gates = {"none": 0, "recompute": 0, "bf16": 8, "fp32": 16}[store]
    return padded * (gates + (4 if spec.cell == "lstm" and store != "none" else 0))


class _Accepted(NamedTuple):
    """What an array may be.

    Attributes:
        shapes: with the number of values, and the `gapcell_mask` that the shape stands for.
        dtypes: names.
        field: of the layer's structure that says the latter.
    """

    shapes: dict[Shape, tuple[int, int]]
    dtypes: tuple[str, ...]
    field: str | None = None

    def refusal(self, name: str, shape: Shape, dtype: str) -> str:
        if shape not in self.shapes:
            return f"`{name}` has shape {tuple(shape)}, expected {' or '.join(map(str, self.shapes))}"
        return f"`{name}` has dtype {dtype}, expected {' or '.join(self.dtypes)}"


def _accept(*shapes: Shape, dtypes: tuple[str, ...] = _FLOAT, field: str | None = None) -> _Accepted:
    return _Accepted({shape: (math.prod(shape), kind) for kind, shape in enumerate(shapes, start=1)}, dtypes, field)


def _accepted(spec: Spec, samples: int, steps: int, sites: Shape, outputs: Shape) -> dict[str, _Accepted]:
    x, hs = (samples, steps, *sites, spec.in_channels), (samples, steps, *outputs, spec.filters)
    state = (samples, *outputs, spec.filters)
    accepted = {
        "x": _accept(x, dtypes=_LOW),
        "observed": _accept(x[:2], x[:-1], x, dtypes=_MASK, field="observed_mask"),
        "update": _accept(hs[:2], hs[:-1], dtypes=_MASK, field="update_mask"),
        "recurrent_scale": _accept((samples, spec.filters), state, field="recurrent_scale"),
        "dx": _accept(x),
        "hs": _accept(hs),
        "dhs": _accept(hs),
    }
    for name in ("h0", "h", "dh", "dh0") + (("c0", "c", "dc", "dc0") if spec.cell == "lstm" else ()):
        accepted[name] = _accept(state)
    for name, shape in spec.parameter_shapes().items():
        accepted[name], accepted[f"d{name}"] = _accept(shape, dtypes=_LOW), _accept(shape)
    if spec.gap == "decay":
        del accepted["decay"], accepted["ddecay"]
        accepted |= {"dt": _accept(x[:2]), "rates": _accept((spec.filters,)), "drates": _accept((spec.filters,))}
    return accepted


@functools.lru_cache(maxsize=256)  # a streaming step would take longer to describe than to compute
def _described(spec: Spec, samples: int, steps: int, sites: Shape) -> tuple[library.LayerStruct, dict[str, _Accepted]]:
    """What of a Layer depends on the layer and the sizes alone; not to be changed."""
    outputs = spec.output_sites(sites)
    struct = library.LayerStruct(
        version=library.INTERFACE_VERSION,
        cell=0 if spec.cell == "lstm" else 1,
        rank=spec.rank,
        wraps=int(spec.window is not None),
        samples=samples,
        steps=steps,
        channels=spec.in_channels,
        filters=spec.filters,
        sites=_three(sites),
        output_sites=_three(outputs),
        kernel_size=_three(spec.sizes("kernel_size")),
        stride=_three(spec.sizes("stride")),
        dilation=_three(spec.sizes("dilation")),
        left=_three(tuple(left for left, _ in spec.input_padding(sites))),
        recurrent_kernel_size=_three(spec.sizes("recurrent_kernel_size")),
        recurrent_left=_three(tuple(left for left, _ in spec.recurrent_padding())),
    )
    return struct, _accepted(spec, samples, steps, sites, outputs)


def _three(sizes: Shape) -> Any:
    return (ctypes.c_int64 * 3)(*sizes)


@functools.cache
def _dtype(dtype: Any) -> tuple[str, int]:
    """The name of a dtype, without its library's, and its bytes."""
    return str(dtype).removeprefix("torch."), dtype.itemsize


def _viewed(name: str, array: Array) -> tuple[int, Shape, str, int]:
    """Where an array lies, its shape, its dtype and the bytes of a value, without knowing its library."""
    if hasattr(array, "data_ptr"):  # PyTorch
        if array.device.type != "cpu":
            raise ValueError(f"`{name}` is on {array.device}, expected an array on the CPU")
        contiguous, pointer = array.is_contiguous(), array.data_ptr()
    elif hasattr(array, "__array_interface__"):
        interface = array.__array_interface__
        contiguous, pointer = interface["strides"] is None, interface["data"][0]
    else:
        raise ValueError(f"`{name}` is a {type(array).__name__}, expected an array of NumPy or PyTorch")
    if not contiguous:
        raise ValueError(f"`{name}` of shape {tuple(array.shape)} is not contiguous; pass a contiguous copy")
    return pointer, array.shape, *_dtype(array.dtype)
