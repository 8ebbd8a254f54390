"""A detector as two files in a folder: detector.json to be read, detector.safetensors with the numbers.

Nothing in them is trusted: the format, every type and range, the shapes of the tensors and their values are checked
before a detector is made of them.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from gapcell.detect.columns import MOST_FEATURES, Column
from gapcell.detect.features import GAP, Encoder, FeatureSpec, Scaling
from gapcell.detect.heads import Head, candidate_heads
from gapcell.detect.model import Network
from gapcell.detect.options import FitOptions
from gapcell.detect.refusals import ModelError
from gapcell.detect.results import Epoch, Split
from gapcell.detect.scoring import Predictor
from gapcell.detect.state import Schema, State
from gapcell.files import replacing

FORMAT, VERSION = "gapcell detector", 1
DESCRIPTION, WEIGHTS = "detector.json", "detector.safetensors"
LARGEST_DESCRIPTION = 16_000_000  # bytes
POPULATION = "population"


def save_state(detector: State, folder: Path) -> None:
    """Write a detector; each file appears whole, and a checksum ties the two together.

    Raises:
        OSError: when the folder cannot be made or written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.float().contiguous() for name, tensor in detector.predictor.network.state_dict().items()}
    weights = save({**tensors, POPULATION: detector.predictor.population.float()})
    with replacing(folder / WEIGHTS) as path:
        path.write_bytes(weights)
    text = json.dumps(describe(detector, weights), indent=1, allow_nan=False, ensure_ascii=False)
    with replacing(folder / DESCRIPTION) as path:
        path.write_text(text, encoding="utf-8")


def describe(detector: State, weights: bytes) -> dict[str, Any]:
    """Everything but the tensors, as JSON has it."""
    predictor = detector.predictor
    return {
        "format": FORMAT,
        "version": VERSION,
        "sha256": hashlib.sha256(weights).hexdigest(),
        "schema": asdict(detector.schema),
        "options": asdict(detector.options),
        "encoder": asdict(detector.encoder),
        "own": [head.family for head in predictor.own],
        "population": [head.family for head in predictor.common],
        "tails": list(predictor.tails),
        "split": asdict(detector.split),
        "threshold": detector.threshold,
        "threshold_events": detector.threshold_events,
        "epochs": [asdict(epoch) for epoch in detector.epochs],
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
    encoder = read_encoder(reader.inner("encoder"), options)
    schema = read_schema(reader.inner("schema"), encoder)
    heads = candidate_heads(encoder.features, options.mixture_components)
    count = len(encoder.features)
    tails = reader.list("tails", str, count)
    if len(tails) != count or not set(tails) <= {"two-sided", "upper", "lower"}:
        reader.refuse("names no tail for each feature")
    own, common = (read_families(reader, name, heads, count) for name in ("own", POPULATION))
    network, population = read_weights(folder / WEIGHTS, reader.value("sha256", str), encoder, options, heads)
    split = reader.inner("split")
    return State(
        schema=schema,
        options=options,
        encoder=encoder,
        predictor=Predictor(network, population, own, common, tuple(tails)),
        split=Split(*(split.value(name, float) for name in ("train_until", "threshold_from", "test_from"))),
        threshold=reader.value("threshold", float),
        threshold_events=reader.value("threshold_events", int),
        epochs=tuple(
            Epoch(epoch.value("epoch", int), epoch.value("train", float), epoch.value("held_out", float))
            for epoch in reader.items("epochs", 10_000)
        ),
    )


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

    def refuse(word: str) -> NoReturn:
        raise ValueError(word)

    try:
        return json.loads(contents.decode("utf-8"), parse_constant=refuse)
    except (ValueError, RecursionError):
        raise ModelError(f"{path} is damaged or no detector: it is not JSON") from None


def read_options(reader: Reader) -> FitOptions:
    """The options, held to the same limits as those of a fit."""
    given = dict(reader.contents)
    if set(given) != set(FitOptions.names()):
        reader.refuse("are not the options this version knows")
    for name in ("upper", "lower"):
        given[name] = tuple(reader.list(name, str, MOST_FEATURES + 1))
    for name in ("train_until", "test_from"):
        if given[name] is not None and type(given[name]) not in (str, int, float):
            reader.refuse(f"have {name} that is no time")
    try:
        return FitOptions(**given)
    except (ValueError, TypeError) as error:
        reader.refuse(f"are out of range: {error}")


def read_encoder(reader: Reader, options: FitOptions) -> Encoder:
    """Scaling and categories."""
    features = []
    for item in reader.items("features", MOST_FEATURES + 1):
        kind = item.choice("kind", ("numeric", "categorical", "boolean", "gap"))
        scaling = None
        if kind in ("numeric", "gap"):
            inner = item.inner("scaling")
            scaling = Scaling(
                inner.value("logarithmic", bool), inner.positive("unit"), inner.value("centre", float),
                inner.positive("spread"), abs(inner.value("step", float)),
            )  # fmt: skip
            if scaling.logarithmic != (kind == "gap"):
                inner.refuse("does not suit its feature")
        categories = tuple(item.list("categories", str, options.max_categories if kind == "categorical" else 0))
        features.append(FeatureSpec(item.value("name", str), kind, scaling, categories))
    if not features or [f.name for f in features if f.kind == "gap"] != [GAP] or features[-1].name != GAP:
        reader.refuse(f"does not end in {GAP!r}")
    return Encoder(tuple(features), reader.value("hours", bool), reader.value("weekdays", bool))


def read_schema(reader: Reader, encoder: Encoder) -> Schema:
    """The columns, which must be those of the encoder."""
    columns = tuple(
        Column(item.value("name", str), item.choice("kind", ("numeric", "categorical", "boolean")))  # pyrefly: ignore
        for item in reader.items("columns", MOST_FEATURES)
    )
    if [(c.name, c.kind) for c in columns] != [(f.name, f.kind) for f in encoder.features[:-1]]:
        reader.refuse("does not have the columns of the encoder")
    entity, time, form = (reader.value(name, str) for name in ("entity", "time", "time_form"))
    return Schema(entity, time, form, columns)


def read_families(reader: Reader, name: str, heads: tuple[Head, ...], count: int) -> tuple[Head, ...]:
    """The chosen head of each feature."""
    families = reader.list(name, str, count)
    known = {(head.feature, head.family): head for head in heads}
    chosen = [known.get((number, family)) for number, family in enumerate(families)]
    found = tuple(head for head in chosen if head is not None)
    if len(found) != count:
        reader.refuse(f"names no family that suits each feature in {name!r}")
    return found


def read_weights(
    path: Path, checksum: str, encoder: Encoder, options: FitOptions, heads: tuple[Head, ...]
) -> tuple[Network, Tensor]:
    """The network and the population, after a check of checksum, names, shapes, types and values."""
    with torch.device("meta"):
        network = Network(encoder.channels, options.hidden_size, options.window, heads)
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    wanted[POPULATION] = (heads[-1].stop,)
    contents = read(path, 4 * sum(int(math.prod(shape)) for shape in wanted.values()) + 100_000)
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
    population = tensors.pop(POPULATION).double()
    network.load_state_dict(tensors, assign=True)
    return network.double().eval().requires_grad_(requires_grad=False), population
