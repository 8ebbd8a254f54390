"""Keras's files, read without Keras: the zip of a .keras file, and what its config says of each layer.

Nothing is trusted, run, imported or unpickled. Sizes are checked before anything is unpacked.
"""

from __future__ import annotations

import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gapcell.files import parse_json
from gapcell.spec import Spec
from gapcell.weights import canonical, hdf5
from gapcell.weights.canonical import Params
from gapcell.weights.keras_config import CLASSES, both_directions, spec_of
from gapcell.weights.refusals import WeightsError, check_is_file, shortened

__all__ = ["Described", "read"]

CONFIG, ARRAYS = "config.json", "model.weights.h5"
LARGEST_CONFIG = 16_000_000  # bytes
LARGEST_RATIO = 4  # of what is unpacked to the archive: Keras does not compress, and trained weights hardly shrink
MODULES = ("keras.layers", "gapcell.keras.layers")
# What zipfile raises of a damaged archive, one with a password, or one packed in ways it does not know.
_BAD_ZIP = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError, ValueError, struct.error)


class Described(NamedTuple):
    """A layer as the config has it: its class and config, of both directions in Bidirectional."""

    directions: list[tuple[str, Mapping[str, Any]]]
    merge_mode: object = "concat"

    def spec(self, channels: int) -> Spec:
        """Its Spec, for an input of so many channels."""
        specs = [spec_of(kind, config, channels) for kind, config in self.directions]
        return specs[0] if len(specs) == 1 else both_directions(*specs, merge_mode=self.merge_mode)


def read(path: Path, name: str | None, spec: Spec | None) -> tuple[Params, Spec]:
    """What `from_keras` gives for a path.

    Raises:
        FileNotFoundError: there is no such file.
        WeightsError: it is damaged, foreign, or has not the layer asked for.
    """
    check_is_file(path)
    with path.open("rb") as file:
        start = file.read(8)
    try:
        if start.startswith(b"PK"):
            if spec is not None:
                raise ValueError("`spec` is for .h5 files; this file holds the config of its layers, drop it")
            return _read_archive(path, name)
        if start == hdf5.SIGNATURE:
            return _read_arrays(path, name, spec)
    except WeightsError as error:
        raise WeightsError(f"{str(path)!r} is refused: {error}") from None
    raise WeightsError(f"{str(path)!r} is neither a .keras file nor an HDF5 file")


def _read_archive(path: Path, name: str | None) -> tuple[Params, Spec]:
    config, arrays = _members(path)
    try:
        found = dict(_layers(parse_json(config)))
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"its {CONFIG} is damaged: {shortened(error)}") from None
    if name is None and len(found) == 1:
        name = next(iter(found))
    if name not in found:
        raise WeightsError(f"its ConvLSTM layers are {_listed(found)}; `name` is {name!r}, expected one of them")
    stored = hdf5.read(arrays).get(name)
    if stored is None:
        raise WeightsError(f"it has a layer {shortened(name)!r}, but its {ARRAYS} has none, or several, of that name")
    first = stored[0][0]
    if first.ndim < 2:
        raise WeightsError(f"the first array of {shortened(name)!r} has shape {first.shape}, expected (*k, C, 4F)")
    try:
        spec = found[name].spec(channels=first.shape[-2])
    except ValueError as error:
        raise WeightsError(shortened(error)) from None
    return _filled(stored, spec), spec


def _read_arrays(path: Path, name: str | None, spec: Spec | None) -> tuple[Params, Spec]:
    if not isinstance(spec, Spec):
        raise ValueError(
            f"`spec` is {spec!r}, expected the layer's gapcell.Spec: {path.name} holds arrays, but not what the layer "
            'does with them (padding="same"? same_padding="keras", masked_output="hold")'
        )
    found = hdf5.read(path.read_bytes())
    if name is None and len(found) == 1:
        name = next(iter(found))
    if name not in found:
        raise WeightsError(f"the layers in it are {_listed(found)}; `name` is {name!r}, expected one of them")
    return _filled(found[name], spec), spec


def _listed(found: Mapping[str, Any]) -> str:
    return shortened(", ".join(map(repr, found)) or "none")


def _filled(stored: hdf5.Stored, spec: Spec) -> Params:
    """The parameters of a Spec of one layer."""
    names = list(spec.parameter_shapes())
    counts = {len(arrays) for arrays in stored}
    if spec.num_layers != 1 or len(stored) != spec.directions or counts != {len(names)}:
        raise WeightsError(
            f"the layer has {len(stored)} directions with {', '.join(map(str, sorted(counts)))} arrays, expected "
            f"{spec.num_layers * spec.directions} with {len(names)}: {', '.join(names)}"
        )
    try:
        cells = [dict(zip(names, arrays, strict=True)) for arrays in stored]
        return canonical.together(canonical.checked(cells, spec))
    except ValueError as error:
        raise WeightsError(shortened(error)) from None


def _members(path: Path) -> tuple[bytes, bytes]:
    """The config and the HDF5 file in an archive, in memory."""
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            return (
                _member(archive, CONFIG, LARGEST_CONFIG),
                _member(archive, ARRAYS, LARGEST_RATIO * size + 1_000_000),
            )
    except WeightsError:
        raise
    except _BAD_ZIP as error:
        raise WeightsError(f"it is damaged: {shortened(error)}") from None


def _member(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    try:
        info = archive.getinfo(name)
    except KeyError:
        raise WeightsError(f"it has no {name}, which a .keras file of Keras 3 has") from None
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # the others unpack all at once
        raise WeightsError(f"its {name} is packed by method {info.compress_type}, which Keras does not use")
    if info.file_size > most:
        raise WeightsError(f"its {name} is of {info.file_size:,} bytes, where at most {most:,} are expected")
    with archive.open(info) as file:
        return file.read(info.file_size)


def _layers(config: object) -> Iterator[tuple[str, Described]]:
    """Every ConvLSTM or ConvGRU layer in a config by its name, also in nested models and wrappers."""
    waiting = [config]
    while waiting:
        part = waiting.pop()
        if isinstance(part, list):
            waiting += part
        if not isinstance(part, dict):
            continue
        described = _described(part)
        if described is None:
            waiting += part.values()
        else:
            yield _name(part), described


def _described(part: dict[str, Any]) -> Described | None:
    config = part.get("config")
    if part.get("module") == "keras.layers" and part.get("class_name") == "Bidirectional" and isinstance(config, dict):
        inner = [
            _described(each) for each in (config.get("layer"), config.get("backward_layer")) if isinstance(each, dict)
        ]
        known = [each.directions[0] for each in inner if each is not None and len(each.directions) == 1]
        return Described(known, config.get("merge_mode")) if len(known) == 2 else None
    if part.get("module") not in MODULES or part.get("class_name") not in list(CLASSES) or not isinstance(config, dict):
        return None
    return Described([(part["class_name"], config)])


def _name(part: dict[str, Any]) -> str:
    name = part["config"].get("name")
    if not isinstance(name, str):
        raise ValueError("a layer has no name")
    return name
