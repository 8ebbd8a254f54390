"""Damage: mutations of a file's bytes, and files that are whole but tell lies."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
from safetensors.numpy import save

from gapcell import Spec
from gapcell.weights import safetensors_file

SMALL = Spec(rank=1, in_channels=1, filters=1, kernel_size=1)
NUMBERS = (b"0", b"-1", b"9" * 20, b"1e400", b"NaN", b"null", b"[]", b"{}", b'"F64"', b"2", b"true", b"1.5")
LIES: tuple[Any, ...] = (
    0, -1, 2, 3, 2**31, 2**63, 10**30, 1e308, 0.5, True, False, None, "", "x", "lstm", "gru", "valid", "decay", "F64",
    [], [1], [2], [1, 1], [10**9], {}, {"a": 1}, ["x"], "\ud800", "\x00\n", "x" * 1000,
)  # fmt: skip


def mutated(contents: bytes, rng: random.Random) -> bytes:
    """The bytes with one to eight things done to them."""
    data = bytearray(contents)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 8))):
        at, to = sorted((rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)))
        match rng.randrange(8):
            case 0 if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                data[at:to] = b""
            case 2:
                data[at:at] = data[at:to]
            case 3:
                data[at : at + 4] = rng.randbytes(4)
            case 4:
                data[:8] = rng.choice((0, 1, len(data), 2**20, 2**40, 2**63)).to_bytes(8, "little")
            case 5:
                data[at : at + rng.randrange(4)] = rng.choice(NUMBERS)
            case 6:
                del data[at:]
            case _:
                data += rng.randbytes(rng.randrange(1, 16))
    return bytes(data)


def lying(params: dict[str, np.ndarray], rng: random.Random) -> bytes:
    """A file whose checksum is right, and whose Spec, version, names, shapes, types or values may be anything."""
    tensors = {f"{name}_l0": array for name, array in params.items()}
    about: dict[str, Any] = {"version": safetensors_file.VERSION, "spec": SMALL.to_dict()}
    for _ in range(rng.choice((1, 1, 2, 3))):
        name = rng.choice(list(tensors) or ["none"])
        match rng.randrange(8):
            case 0 | 1 | 2:
                about["spec"][rng.choice([*about["spec"], "novel"])] = copy.deepcopy(rng.choice(LIES))
            case 3:
                tensors[name] = np.zeros(rng.choice([(), (0,), (1,), (4,), (1, 1, 4), (2, 1, 4), (4, 1, 1)]), "float32")
            case 4:
                tensors[rng.choice(["kernel_l1", "bias_l0_reverse", "decay_l0", "x"])] = tensors.pop(name, np.zeros(1))
            case 5:
                tensors[name] = np.zeros((1, 1, 4)).astype(rng.choice(["float64", "float16", "int8", "bool", "uint64"]))
            case 6:
                tensors[name] = np.full((1, 1, 4), rng.choice([np.nan, np.inf, 1e30]), "float32")
            case _:
                tensors.pop(name, None)
    about["sha256"] = safetensors_file.checksum(about["spec"], tensors)
    if rng.random() < 0.1:
        about[rng.choice(list(about))] = copy.deepcopy(rng.choice(LIES))
    return save(tensors, {safetensors_file.FORMAT: json.dumps(about)})


def files(contents: bytes, params: dict[str, np.ndarray], count: int) -> Iterator[tuple[str, bytes]]:
    """Half of them mutated, half lying."""
    rng = random.Random(0)  # noqa: S311 # the same files in every run
    for place in range(count):
        yield ("mutated", mutated(contents, rng)) if place % 2 else ("lying", lying(params, rng))
