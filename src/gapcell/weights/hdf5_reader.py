"""The arrays of Keras's layers in an HDF5 file: a program of its own, run by `hdf5`.

It reads the file from its standard input and writes a safetensors file to its standard output. The HDF5 library may
loop for ever or crash on a damaged file, which is then this process's end and nobody else's. HDF5 can also point to
other files, fill in what was never written, and unpack by plugins: only what Keras writes is read, plain arrays inside
this file, whose sizes are checked before memory is taken for them.
"""

from __future__ import annotations

import io
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np
from safetensors.numpy import save

from gapcell.weights.canonical import TYPES
from gapcell.weights.hdf5 import REFUSED
from gapcell.weights.refusals import WeightsError, shortened

__all__ = ["arrays_of", "main"]

DEEPEST, MOST_OBJECTS, LONGEST_NAME = 32, 100_000, 1_000
_DIRECTIONS = ("forward_layer", "backward_layer")
_OLDER_NAMES = ("kernel", "recurrent_kernel", "bias")  # in the format of Keras 2, perhaps followed by :0


def main() -> int:
    """Read the standard input, and write to the standard output; gives the exit status."""
    contents = sys.stdin.buffer.read()
    _limit_memory(len(contents))
    try:
        with h5py.File(io.BytesIO(contents), "r") as file:
            found = arrays_of(file, len(contents))
    except Exception as error:  # whatever h5py makes of a damaged file
        print(shortened(error), file=sys.stderr)
        return REFUSED
    tensors = {
        f"{direction}.{number}.{name}": array
        for name, directions in found.items()
        for direction, arrays in enumerate(directions)
        for number, array in enumerate(arrays)
    }
    sys.stdout.buffer.write(save(tensors))
    return 0


def _limit_memory(size: int) -> None:
    """A damaged file may have the library ask for any amount."""
    try:
        import resource  # which Windows has not

        resource.setrlimit(resource.RLIMIT_AS, (4 * size + 2**32,) * 2)
    except (ImportError, ValueError, OSError):
        return


def arrays_of(file: h5py.File, most: int) -> dict[str, list[list[np.ndarray]]]:
    """The arrays of every layer with a cell, a list a direction, in the order in which Keras numbers them.

    Args:
        file: of Keras.
        most: bytes that all arrays together may have.

    Returns:
        them by the name that Keras kept, or by their path where there is none or several layers have the same.

    Raises:
        WeightsError: there is something in it that Keras does not write.
    """
    stored = _cells(file)
    for arrays in (arrays for directions in stored.values() for arrays in directions):
        for array in arrays:
            _check_plain(array)
            most -= array.nbytes
    if most < 0:
        raise WeightsError("its arrays claim more bytes than the file has")
    return {
        name: [[_native(array) for array in arrays] for arrays in directions] for name, directions in stored.items()
    }


def _native(array: h5py.Dataset) -> np.ndarray:
    return np.ascontiguousarray(array[()], dtype=array.dtype.newbyteorder("="))


def _cells(file: h5py.File) -> dict[str, list[list[h5py.Dataset]]]:
    """The datasets of every layer and direction, not read yet."""
    owners: dict[str, dict[str, list[h5py.Dataset]]] = {}
    names: dict[str, str] = {}
    for path, group in _groups(file):
        *above, last = path
        older = {key.removesuffix(":0"): key for key in group}
        if last == "vars" and above[-1:] == ["cell"]:
            direction = above[-2] if above[-2:-1] and above[-2] in _DIRECTIONS else ""
            owner = "/".join(above[: -2 if direction else -1])
            owners.setdefault(owner, {})[direction] = [group[str(number)] for number in range(len(group))]
        elif last == "vars":
            names["/".join(above)] = _name(group)
        elif {"kernel", "recurrent_kernel"} <= set(older):
            owner, direction = _older_place(path)
            if direction in owners.get(owner, {}):  # a model inside the model
                owner = "/".join(path)
            owners.setdefault(owner, {})[direction] = [group[older[name]] for name in _OLDER_NAMES if name in older]
    counts = Counter(names.get(owner) for owner in owners)
    return {
        names[owner] if names.get(owner) and counts[names[owner]] == 1 else owner: [
            parts[direction] for direction in ("", *_DIRECTIONS) if direction in parts
        ]
        for owner, parts in owners.items()
    }


def _older_place(path: list[str]) -> tuple[str, str]:
    """The layer and the direction of a group in the format of Keras 2: a group for each layer, by its name."""
    owner = path[1] if path[0] == "model_weights" and len(path) > 1 else path[0]
    return owner, next(
        (each for each in _DIRECTIONS for part in path if part.startswith(each.removesuffix("layer"))), ""
    )


def _groups(file: h5py.File) -> Iterator[tuple[list[str], h5py.Group]]:
    """Every group and its path, once all that hangs on it is known to hang by plain links inside this file."""
    waiting: list[tuple[list[str], h5py.Group]] = [([], file)]
    seen = 0
    while waiting:
        path, group = waiting.pop()
        for key in group:
            seen += 1
            if len(path) >= DEEPEST or seen > MOST_OBJECTS:
                raise WeightsError("it is nested deeper, or has more in it, than a model of Keras's")
            if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                raise WeightsError(
                    f"{shortened(key)!r} in it is a link, perhaps into another file, which Keras does not write"
                )
            if group.get(key, getclass=True) is h5py.Group:
                waiting.append(([*path, key], group[key]))
        if path:
            yield path, group


def _name(group: Any) -> str:
    """What Keras calls the layer, beside its variables; nothing where it is not said."""
    if "name" not in group.attrs:
        return ""
    attribute = group.attrs.get_id("name")
    if attribute.shape != () or attribute.get_storage_size() > LONGEST_NAME:
        raise WeightsError("the name of a layer in it is no short text")
    name = group.attrs["name"]
    if not isinstance(name, str) or len(name) > LONGEST_NAME:
        raise WeightsError("the name of a layer in it is no short text")
    return name


def _check_plain(array: Any) -> None:
    """Refuses what is not an array of numbers that lies in this file as it is."""
    if not isinstance(array, h5py.Dataset) or array.dtype.name not in TYPES or array.shape is None:
        kind = getattr(array, "dtype", type(array).__name__)
        raise WeightsError(f"an array in it is of type {shortened(kind)}, expected {', '.join(TYPES)}")
    made = array.id.get_create_plist()
    if made.get_layout() not in (h5py.h5d.CONTIGUOUS, h5py.h5d.COMPACT) or made.get_external_count():
        raise WeightsError("an array in it is packed, virtual, or in another file, which Keras does not write")
    if array.id.get_storage_size() != array.nbytes:
        raise WeightsError(f"an array in it claims {array.nbytes:,} bytes, and has {array.id.get_storage_size():,}")


if __name__ == "__main__":
    sys.exit(main())
