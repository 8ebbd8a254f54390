"""A detector as two files in a folder: detector.json to be read, detector.safetensors with the numbers.

Nothing in them is trusted: the format, every type and range, the shapes of the tensors and their values are checked
before a detector is made of them.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from gapcell.detect.columns import MOST_FEATURES, Column
from gapcell.detect.events import GAP, REPORTS
from gapcell.detect.features import Encoding, FeatureSpec, Scaling
from gapcell.detect.heads import Head, Tail, candidate_heads
from gapcell.detect.label_model import LabelModel
from gapcell.detect.model import Network, in_double
from gapcell.detect.moments import MOMENTS
from gapcell.detect.options import ENCODERS, FitOptions
from gapcell.detect.refusals import ModelError
from gapcell.detect.results import Candidate, Epoch, Split
from gapcell.detect.scoring import Predictor
from gapcell.detect.state import Schema, State, StreamModel
from gapcell.detect.tail_map import LEVELS, TailMap
from gapcell.files import parse_json, replacing

FORMAT, VERSION = "gapcell detector", 3
DESCRIPTION, WEIGHTS = "detector.json", "detector.safetensors"
LARGEST_DESCRIPTION = 16_000_000  # bytes
POPULATION, NETWORK, LABELS = "population", "network", "labels"
MOST_STREAMS = 16
MOST_NAMES = MOST_STREAMS * (MOST_FEATURES + 2)
CANDIDATE = (("stream", str), ("encoder", str), ("held_out", float), ("chosen", bool))


def save_state(detector: State, folder: Path) -> None:
    """Write a detector; each file appears whole, and a checksum ties the two together.

    Raises:
        OSError: when the folder cannot be made or written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = weights_of(detector)
    with replacing(folder / WEIGHTS) as path:
        path.write_bytes(weights)
    with replacing(folder / DESCRIPTION) as path:
        path.write_text(as_text(describe(detector, weights)), encoding="utf-8")


def identity_of(detector: State) -> str:
    """A hash of all that decides what a detector says: that of what `save_state` writes, in hexadecimal."""
    return hashlib.sha256(as_text(describe(detector, weights_of(detector))).encode()).hexdigest()


def as_text(description: dict[str, Any]) -> str:
    """A description as JSON."""
    return json.dumps(description, indent=1, allow_nan=False, ensure_ascii=False)


def weights_of(detector: State) -> bytes:
    """The contents of the file of numbers."""
    tensors = {}
    for number, model in enumerate(detector.streams):
        tensors[f"{number}.{POPULATION}"] = model.predictor.population
        if model.predictor.network is not None:
            state = model.predictor.network.state_dict()
            tensors |= {f"{number}.{NETWORK}.{name}": tensor for name, tensor in state.items()}
    if detector.labels is not None:
        tensors |= {f"{LABELS}.{name}": tensor for name, tensor in detector.labels.tensors().items()}
    return save({name: tensor.float().contiguous() for name, tensor in tensors.items()})


def describe(detector: State, weights: bytes) -> dict[str, Any]:
    """Everything but the tensors, as JSON has it."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "sha256": hashlib.sha256(weights).hexdigest(),
        "schema": asdict(detector.schema),
        "options": asdict(detector.options),
        "streams": [
            {
                "encoding": asdict(model.encoding),
                "encoder": "none" if model.predictor.network is None else model.predictor.network.name,
                "own": [head.family for head in model.predictor.own],
                "population": [head.family for head in model.predictor.common],
                "tails": list(model.predictor.tails),
                "epochs": [asdict(epoch) for epoch in model.epochs],
            }
            for model in detector.streams
        ],
        "own_maps": [asdict(worth) for worth in detector.own_maps],
        "population_maps": [asdict(worth) for worth in detector.population_maps],
        "split": asdict(detector.split),
        "threshold": detector.threshold,
        "threshold_events": detector.threshold_events,
        "budget": detector.budget,
        "candidates": [asdict(candidate) for candidate in detector.candidates],
    }


class Reader:
    """Takes values out of a JSON object and refuses what is not as expected."""

    def __init__(self, path: Path, contents: object, name: str = "") -> None:
        self.path, self.name = path, name
        if not isinstance(contents, dict):
            self.refuse("is no object")
        self.contents: dict[str, Any] = contents

    def refuse(self, problem: str) -> NoReturn:
        """Raise ModelError about this object."""
        raise ModelError(f"{self.path} is no detector of this version of gapcell, or is damaged: "
                         f"{self.name or 'its contents'} {problem}")  # fmt: skip

    def inner(self, name: str) -> Reader:
        """An object inside this one."""
        return Reader(self.path, self.contents.get(name), name)

    def items(self, name: str, most: int) -> list[Reader]:
        """A list of objects inside this one."""
        return [Reader(self.path, item, name) for item in self.list(name, dict, most)]

    def list(self, name: str, kind: type, most: int) -> list[Any]:
        """A list of values of one type."""
        values = self.contents.get(name)
        if not isinstance(values, list) or len(values) > most or any(type(value) is not kind for value in values):
            self.refuse(f"has no list {name!r} of at most {most:,} values of type {kind.__name__}")
        return values

    def value(self, name: str, kind: type) -> Any:
        """A str, bool, int, or finite float (which a whole number is too)."""
        value = self.contents.get(name)
        if kind is float and type(value) is int:
            value = float(value) if abs(value) < 1e300 else math.inf
        if type(value) is not kind or (kind is float and not math.isfinite(value)):
            self.refuse(f"has no {name!r} of type {kind.__name__}")
        return value

    def choice(self, name: str, values: Sequence[str]) -> str:
        """One of some words."""
        value = self.value(name, str)
        if value not in values:
            self.refuse(f"has {name} {value[:40]!r}, which is none of {', '.join(values)}")
        return value

    def positive(self, name: str) -> float:
        """A float above zero."""
        value = self.value(name, float)
        if value <= 0:
            self.refuse(f"has {name} {value}, which must be above 0")
        return value


def load_state(folder: Path) -> State:
    """Read a detector.

    Raises:
        ModelError: when a file is missing, damaged, or not of this kind.
    """
    description = folder / DESCRIPTION
    reader = Reader(description, parse(description, read(description, LARGEST_DESCRIPTION)))
    if reader.contents.get("format") != FORMAT:
        raise ModelError(f"{description} is no detector: it does not say {FORMAT!r}")
    if reader.contents.get("version") != VERSION:
        version = str(reader.contents.get("version"))[:20]
        raise ModelError(f"{description} is of version {version}, and this gapcell reads version {VERSION}: "
                         "fit the detector again or install the gapcell that wrote it")  # fmt: skip
    options = read_options(reader.inner("options"))
    schema = read_schema(reader.inner("schema"))
    items = reader.items("streams", MOST_STREAMS)
    if len(items) != 1 + len(schema.others):
        reader.refuse("has not one stream for each key")
    shapes = [read_stream(item, options, schema) for item in items]
    tensors = read_weights(folder / WEIGHTS, reader.value("sha256", str), wanted_of(shapes, options, schema))
    split = reader.inner("split")
    features = sum(len(shape.encoding.features) for shape in shapes)
    return State(
        schema=schema,
        options=options,
        streams=tuple(filled(shape, tensors, number, options) for number, shape in enumerate(shapes)),
        own_maps=read_maps(reader, "own_maps", features),
        population_maps=read_maps(reader, "population_maps", features),
        labels=label_model_of(tensors, shapes, folder / WEIGHTS) if options.supervised else None,
        split=Split(*(split.value(name, float) for name in ("train_until", "threshold_from", "test_from"))),
        threshold=reader.value("threshold", float),
        threshold_events=reader.value("threshold_events", int),
        budget=reader.positive("budget"),
        candidates=tuple(
            Candidate(*(item.value(*wanted) for wanted in CANDIDATE))
            for item in reader.items("candidates", MOST_STREAMS * len(ENCODERS))
        ),
    )


@dataclass(frozen=True, eq=False)
class Shape:
    """A stream as the description has it, its numbers still to be filled in."""

    encoding: Encoding
    encoder: str
    heads: tuple[Head, ...]
    own: tuple[Head, ...]
    common: tuple[Head, ...]
    tails: tuple[Tail, ...]
    epochs: tuple[Epoch, ...]

    def network(self, options: FitOptions) -> Network | None:
        """The network of this shape, without numbers."""
        if self.encoder == "none":
            return None
        with torch.device("meta"):
            return Network(
                self.encoding.channels, MOMENTS * len(self.encoding.remembered), options.hidden_size, options.window,
                self.heads, self.encoder, hours=self.encoding.hours, labels=options.supervised,  # pyrefly: ignore
            )  # fmt: skip


def read_stream(reader: Reader, options: FitOptions, schema: Schema) -> Shape:
    """What the description says of one stream."""
    encoding = read_encoding(reader.inner("encoding"), options, schema)
    heads = candidate_heads(encoding.features, options.mixture_components)
    count = len(encoding.features)
    tails = reader.list("tails", str, count)
    if len(tails) != count or not set(tails) <= {"two-sided", "upper", "lower"}:
        reader.refuse("names no tail for each feature")
    encoder = reader.choice("encoder", ENCODERS)
    own = () if encoder == "none" else read_families(reader, "own", heads, count)
    epochs = tuple(
        Epoch(epoch.value("epoch", int), epoch.value("train", float), epoch.value("held_out", float))
        for epoch in reader.items("epochs", 10_000)
    )
    common = read_families(reader, POPULATION, heads, count)
    return Shape(encoding, encoder, heads, own, common, tuple(tails), epochs)


def read_maps(reader: Reader, name: str, features: int) -> tuple[TailMap, ...]:
    """What the parts are worth: lines that rise."""
    maps = []
    for item in reader.items(name, features):
        stated, came = (tuple(item.list(ends, float, len(LEVELS) + 1)) for ends in ("stated", "came"))
        rising = all(np.isfinite(ends).all() and (np.diff(ends) > 0).all() for ends in (stated, came))
        if len(stated) != len(came) or not stated or stated[0] != 0 or came[0] != 0 or not rising:
            item.refuse("does not rise from 0")
        maps.append(TailMap(stated, came, item.positive("slope")))
    if len(maps) != features:
        reader.refuse(f"has no {name!r} for each feature")
    return tuple(maps)


def wanted_of(shapes: list[Shape], options: FitOptions, schema: Schema) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all tensors."""
    wanted = {}
    for number, shape in enumerate(shapes):
        wanted[f"{number}.{POPULATION}"] = (shape.heads[-1].stop,)
        network = shape.network(options)
        if network is not None:
            state = network.state_dict()
            wanted |= {f"{number}.{NETWORK}.{name}": tuple(tensor.shape) for name, tensor in state.items()}
    if options.supervised:
        wanted |= {f"{LABELS}.{name}": shape for name, shape in LabelModel.shapes().items()}
    return wanted


def filled(shape: Shape, tensors: dict[str, Tensor], number: int, options: FitOptions) -> StreamModel:
    """The model of a stream, of checked tensors."""
    network = shape.network(options)
    if network is not None:
        network.load_state_dict(under(tensors, f"{number}.{NETWORK}."), assign=True)
        in_double(network.eval().requires_grad_(requires_grad=False))
    predictor = Predictor(network, tensors[f"{number}.{POPULATION}"].double(), shape.own, shape.common, shape.tails)
    return StreamModel(shape.encoding, predictor, shape.epochs)


def label_model_of(tensors: dict[str, Tensor], shapes: list[Shape], path: Path) -> LabelModel:
    """The model of the labels, of tensors of the right shapes."""
    parts = 2 * sum(len(shape.encoding.features) for shape in shapes)
    inputs = 2 * (len(shapes) + parts) + shapes[0].encoding.channels
    try:
        return LabelModel.of(under(tensors, f"{LABELS}."), inputs)
    except ValueError as error:
        raise ModelError(f"{path} is no part of a detector: {error}") from None


def under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin so, by the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def read(path: Path, most: int) -> bytes:
    """The contents of a file of at most `most` bytes."""
    try:
        size = path.stat().st_size
        if size > most:
            raise ModelError(f"{path} is no part of a detector: it has {size:,} bytes where at most {most:,} belong")
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"there is no detector in {path.parent}: {path.name} cannot be read "
                         f"({error.strerror or type(error).__name__})") from None  # fmt: skip


def parse(path: Path, contents: bytes) -> object:
    """JSON, with NaN and infinity refused."""
    try:
        return parse_json(contents)
    except ValueError:
        raise ModelError(f"{path} is damaged or no detector: it is not JSON") from None


def read_options(reader: Reader) -> FitOptions:
    """The options, held to the same limits as those of a fit."""
    given = dict(reader.contents)
    if set(given) != set(FitOptions.names()):
        reader.refuse("are not the options this version knows")
    for name in ("upper", "lower", "unscored"):
        given[name] = tuple(reader.list(name, str, MOST_NAMES))
    for name in ("train_until", "test_from"):
        if given[name] is not None and type(given[name]) not in (str, int, float):
            reader.refuse(f"have {name} that is no time")
    try:
        return FitOptions(**given)
    except (ValueError, TypeError) as error:
        reader.refuse(f"are out of range: {error}")


def read_encoding(reader: Reader, options: FitOptions, schema: Schema) -> Encoding:
    """Scaling and categories."""
    features = []
    for item in reader.items("features", MOST_FEATURES + 2):
        kind = item.choice("kind", ("numeric", "categorical", "boolean", "gap", "reports"))
        scaling = None
        if kind in ("numeric", "gap", "reports"):
            inner = item.inner("scaling")
            scaling = Scaling(
                inner.value("logarithmic", bool), inner.positive("unit"), inner.value("centre", float),
                inner.positive("spread"), abs(inner.value("step", float)),
            )  # fmt: skip
            if scaling.logarithmic != (kind == "gap"):
                inner.refuse("does not suit its feature")
        categories = tuple(item.list("categories", str, options.max_categories if kind == "categorical" else 0))
        zeros = item.value("zeros", bool)
        features.append(FeatureSpec(item.value("name", str), kind, scaling, categories, zeros and scaling is not None))
    reports = options.label_delay is not None
    wanted = [(column.name, column.kind) for column in schema.columns] + [(GAP, "gap")]
    wanted += [(REPORTS, "reports")] if reports else []
    if [(feature.name, feature.kind) for feature in features] != wanted or reader.value("reports", bool) != reports:
        reader.refuse("does not have the columns of the schema")
    return Encoding(tuple(features), reader.value("hours", bool), reader.value("weekdays", bool), reports)


def read_schema(reader: Reader) -> Schema:
    """The columns."""
    columns = tuple(
        Column(item.value("name", str), item.choice("kind", ("numeric", "categorical", "boolean")))  # pyrefly: ignore
        for item in reader.items("columns", MOST_FEATURES)
    )
    entity, time, form = (reader.value(name, str) for name in ("entity", "time", "time_form"))
    others = tuple(reader.list("others", str, MOST_STREAMS - 1))
    label = None if reader.contents.get("label") is None else reader.value("label", str)
    return Schema(entity, time, form, columns, others, label)


def read_families(reader: Reader, name: str, heads: tuple[Head, ...], count: int) -> tuple[Head, ...]:
    """The chosen head of each feature."""
    families = reader.list(name, str, count)
    known = {(head.feature, head.family): head for head in heads}
    chosen = [known.get((number, family)) for number, family in enumerate(families)]
    found = tuple(head for head in chosen if head is not None)
    if len(found) != count:
        reader.refuse(f"names no family that suits each feature in {name!r}")
    return found


def read_weights(path: Path, checksum: str, wanted: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The tensors, after a check of checksum, names, shapes, types and values."""
    contents = read(path, 4 * sum(int(math.prod(shape)) for shape in wanted.values()) + 200 * len(wanted) + 100_000)
    if hashlib.sha256(contents).hexdigest() != checksum:
        raise ModelError(f"{path} is damaged or another detector's: its checksum is not the one in {DESCRIPTION}")
    try:
        tensors = load(contents)
    except (SafetensorError, ValueError, KeyError):
        raise ModelError(f"{path} is damaged: it is no safetensors file") from None
    if {name: tuple(tensor.shape) for name, tensor in tensors.items()} != wanted:
        raise ModelError(f"{path} does not fit {DESCRIPTION}: names or shapes of its tensors differ")
    if any(tensor.dtype != torch.float32 or not bool(tensor.isfinite().all()) for tensor in tensors.values()):
        raise ModelError(f"{path} is damaged: it holds numbers that are not finite float32")
    return tensors
