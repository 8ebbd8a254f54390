"""A layer as one safetensors file: its parameters, and its Spec in the metadata.

Nothing in a file is trusted: the format, the Spec, names, shapes, types and values are checked before anything is
returned, and sizes before anything is read. A checksum tells a damaged file from a whole one; it does not tell who
wrote it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialized

from gapcell.files import parse_json, replacing
from gapcell.spec import Spec
from gapcell.weights import canonical
from gapcell.weights.canonical import Params
from gapcell.weights.refusals import WeightsError, check_is_file, shortened

__all__ = ["checksum", "load", "save"]

FORMAT, VERSION = "gapcell weights", 1
LARGEST_HEADER = 1_000_000  # bytes; about 100 a tensor are needed
TYPES = ("F16", "F32", "F64")


def save(path: str | Path, params: Mapping[str, Any] | Sequence[Mapping[str, Any]], spec: Spec) -> None:
    """Write the parameters and the Spec of a layer to a file, which appears whole or not at all.

    Args:
        path: of the file, by custom with the suffix .safetensors.
        params: in the canonical layout, as `gapcell.jax.init`, `of` and `load` give them: a dict of kernel
            (*k, C, 4F), recurrent_kernel (*k, F, 4F), bias (4F,), gates in the order i, f, g, o (GRU: 3F, and
            recurrent_bias (F,)), or a list of such dicts in nn.LSTM's order. Arrays of NumPy, PyTorch, JAX, Keras or
            TensorFlow, all of one type: float16, float32, float64, or bfloat16, which is kept as float32.
        spec: of the layer.

    Raises:
        ValueError: the parameters are not those of a layer of this Spec, or not finite.
        OSError: the file cannot be written.
    """
    cells = canonical.checked(params, spec)
    tensors = {
        f"{name}_{suffix}": np.ascontiguousarray(array)
        for suffix, cell in zip(canonical.names(spec), cells, strict=True)
        for name, array in cell.items()
    }
    options = spec.to_dict()
    # One entry: safetensors writes several in any order, and the same layer should be the same file.
    about = {"version": VERSION, "spec": options, "sha256": checksum(options, tensors)}
    metadata = {FORMAT: json.dumps(about, allow_nan=False)}
    with replacing(path) as temporary:
        # Not by save_file, which lets nobody but its owner read the file.
        temporary.write_bytes(serialized(tensors, metadata))


def load(path: str | Path) -> tuple[Params, Spec]:
    """Read what `save` wrote.

    Args:
        path: of the file.

    Returns:
        params, NumPy arrays in the canonical layout: a dict, or for several layers or directions a list of dicts in
        nn.LSTM's order; and the Spec.

    Raises:
        FileNotFoundError: there is no such file.
        WeightsError: it is damaged, or no file of weights of this version.
    """
    path = Path(path)
    check_is_file(path)
    _check_header(path)
    try:
        with safe_open(path, "np") as file:
            return _read(path, file)
    except SafetensorError as error:
        raise WeightsError(f"{str(path)!r} is damaged or no safetensors file: {shortened(error)}") from None


def checksum(options: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> str:
    """Of a Spec's options as the file has them, and of the tensors' names, types, shapes and values."""
    found = hashlib.sha256(json.dumps(options, sort_keys=True).encode())
    for name in sorted(tensors):
        array = tensors[name]
        found.update(repr((name, array.dtype.name, array.shape)).encode())
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


def _check_header(path: Path) -> None:
    """The first 8 bytes say how long the header is, which safetensors would read whatever they say."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > LARGEST_HEADER:
        raise WeightsError(
            f"{str(path)!r} is no file of weights of gapcell: it announces a header of {length:,} bytes, where at most "
            f"{LARGEST_HEADER:,} belong"
        )


def _read(path: Path, file: Any) -> tuple[Params, Spec]:
    try:
        about = _description(file.metadata() or {})
        spec = Spec.from_dict(about["spec"])
        wanted = _wanted(spec, len(file.keys()))
        _check_tensors(file, wanted)
        tensors = {name: file.get_tensor(name) for name in wanted}
        if checksum(about["spec"], tensors) != about.get("sha256"):
            raise ValueError("its contents are not those that were saved, as its checksum is another")
        cells = [
            {name: tensors[f"{name}_{suffix}"] for name in spec.parameter_shapes()} for suffix in canonical.names(spec)
        ]
        return canonical.together(canonical.checked(cells, spec)), spec
    except ValueError as error:
        raise WeightsError(f"{str(path)!r} is damaged or no file of gapcell's weights: {shortened(error)}") from None


def _description(metadata: Mapping[str, str]) -> dict[str, Any]:
    """What the metadata say, with a Spec's options that are an object."""
    if FORMAT not in metadata:
        raise ValueError(
            f"its metadata has no {FORMAT!r}; those of other programs are read by weights.from_pytorch etc."
        )
    about = parse_json(metadata[FORMAT])
    if not isinstance(about, dict):
        raise ValueError(f"its {FORMAT!r} is no object")
    if about.get("version") != VERSION:
        version = shortened(about.get("version"))[:20]
        raise ValueError(
            f"it is of version {version}, and this gapcell reads version {VERSION}; use the one that wrote it"
        )
    if not isinstance(about.get("spec"), dict):
        raise ValueError("its Spec is no object")
    return about


def _wanted(spec: Spec, present: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of a Spec."""
    # A Spec may claim any number of layers: the loop over them waits until the file has as many tensors.
    count = spec.num_layers * spec.directions * len(spec.parameter_shapes())
    if present != count:
        raise ValueError(f"it has {present} tensors, and its Spec asks for {count}")
    return {
        f"{name}_{suffix}": shape
        for slot, suffix in enumerate(canonical.names(spec))
        for name, shape in spec.parameter_shapes(slot // spec.directions).items()
    }


def _check_tensors(file: Any, wanted: dict[str, tuple[int, ...]]) -> None:
    present = set(file.keys())
    for name, shape in wanted.items():
        if name not in present:
            raise ValueError(f"it has no tensor {name!r}, which its Spec asks for")
        stored = file.get_slice(name)
        if tuple(stored.get_shape()) != shape:
            raise ValueError(f"the shape of its {name!r} is not {shape}, which its Spec asks for")
        if stored.get_dtype() not in TYPES:
            raise ValueError(f"the type of its {name!r} is {stored.get_dtype()}, which is none of {', '.join(TYPES)}")
