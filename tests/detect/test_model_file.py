"""Model files: saved and loaded alike, and refused in one sentence when damaged or foreign."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file

from gapcell.detect import Detection, Detector, ModelError


def test_a_saved_detector_scores_as_before(
    tmp_path: Path, frame: pl.DataFrame, detector: Detector, detection: Detection
) -> None:
    detector.save(tmp_path / "model")
    detector.save(tmp_path / "model")  # over the one that is there
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["detector.json", "detector.safetensors"]
    loaded = Detector.load(tmp_path / "model")
    assert loaded.options == detector.options
    assert loaded.features == detector.features
    again = loaded.score(loaded.read(frame))
    assert again.frame.equals(detection.frame)
    assert again.top.equals(detection.top)
    assert again.epochs == detection.epochs


def test_a_detector_cannot_be_saved_over_a_file(tmp_path: Path, detector: Detector) -> None:
    (tmp_path / "model").write_text("mine")
    with pytest.raises(FileExistsError):
        detector.save(tmp_path / "model")
    assert (tmp_path / "model").read_text() == "mine"


def edit(change: Callable[[dict], object]) -> Callable[[Path], None]:
    """Something that changes the JSON of a saved detector."""

    def damage(folder: Path) -> None:
        path = folder / "detector.json"
        contents = json.loads(path.read_text())
        change(contents)
        path.write_text(json.dumps(contents))

    return damage


def set_in(name: str, value: object, *inside: str | int) -> Callable[[Path], None]:
    def change(contents: dict) -> None:
        for key in inside:
            contents = contents[key]
        contents[name] = value

    return edit(change)


def overwrite(name: str, contents: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(contents)


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    """Something that changes the tensors, with a checksum that fits: a foreign file, not a damaged one."""

    def damage(folder: Path) -> None:
        path = folder / "detector.safetensors"
        loaded = load_file(path)
        change(loaded)
        save_file(loaded, path)
        set_in("sha256", hashlib.sha256(path.read_bytes()).hexdigest())(folder)

    return damage


def cut_in_half(folder: Path) -> None:
    path = folder / "detector.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(folder: Path) -> None:
    path = folder / "detector.safetensors"
    contents = bytearray(path.read_bytes())
    contents[-5] ^= 1
    path.write_bytes(contents)


FEATURE = ("streams", 0, "encoding", "features")
START = "0.network.readout.start"
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no description": (remove("detector.json"), "there is no detector in .*: detector.json cannot be read"),
    "no weights": (remove("detector.safetensors"), "detector.safetensors cannot be read"),
    "not JSON": (overwrite("detector.json", b"\x80\x04pickle"), "json is damaged or no detector: it is not JSON"),
    "deep JSON": (overwrite("detector.json", b"[" * 100_000), "it is not JSON"),
    "NaN": (overwrite("detector.json", b'{"threshold": NaN}'), "it is not JSON"),
    "a list": (overwrite("detector.json", b"[1, 2]"), "its contents is no object"),
    "another program's": (overwrite("detector.json", b'{"format": "onnx"}'), "json is no detector: it does not say"),
    "a later version": (set_in("version", 4), "is of version 4, and this gapcell reads version 3"),
    "no threshold": (edit(lambda contents: contents.pop("threshold")), "has no 'threshold' of type float"),
    "infinite threshold": (set_in("threshold", 10**400), "has no 'threshold' of type float"),
    "text for a number": (set_in("threshold", "5"), "has no 'threshold' of type float"),
    "a huge window": (set_in("window", 10**9, "options"), r"options are out of range: window \(=1000000000\)"),
    "another option": (set_in("device", "cuda", "options"), "options are not the options this version knows"),
    "no gap": (set_in("features", [], *FEATURE[:3]), "does not have the columns of the"),
    "negative spread": (set_in("spread", -1.0, *FEATURE, 0, "scaling"), "scaling has spread -1.0"),
    "another column": (set_in("name", "sum", "schema", "columns", 0), "does not have the columns of the schema"),
    "another kind": (set_in("kind", "text", *FEATURE, 0), "has kind 'text', which is none of numeric"),
    "families": (set_in("own", ["mixture"] * 4, "streams", 0), "names no family that suits each feature in 'own'"),
    "tails": (set_in("tails", ["up"] * 4, "streams", 0), "names no tail for each feature"),
    "too many categories": (
        set_in("categories", ["x"] * 10_000, *FEATURE, 1), "has no list 'categories' of at most 20 values",
    ),
    "fewer categories": (set_in("categories", ["web"], *FEATURE, 1), "shapes of its tensors differ"),
    "another encoder": (set_in("encoder", "transformer", "streams", 0), "has encoder 'transformer', which is none of"),
    "an encoder of another size": (set_in("encoder", "lstm", "streams", 0), "shapes of its tensors differ"),
    "a stream too many": (set_in("others", ["terminal"], "schema"), "has not one stream for each key"),
    "falling lines": (set_in("stated", [0.0, -1.0], "own_maps", 0), "does not rise from 0"),
    "a map too few": (edit(lambda contents: contents["own_maps"].pop()), "has no 'own_maps' for each feature"),
    "cut off": (cut_in_half, "detector.safetensors is damaged or another detector's: its checksum"),
    "one bit": (flip_a_bit, "its checksum is not the one in detector.json"),
    "a tensor too few": (tensors(lambda loaded: loaded.pop(START)), "shapes of its tensors differ"),
    "not finite": (tensors(lambda loaded: loaded[START].fill_(math.nan)), "numbers that are not finite float32"),
    "another type": (tensors(lambda loaded: loaded.update({START: loaded[START].half()})), "not finite float32"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_or_foreign_model_is_refused_in_one_sentence(tmp_path: Path, detector: Detector, name: str) -> None:
    damage, message = DAMAGE[name]
    detector.save(tmp_path)
    damage(tmp_path)
    with pytest.raises(ModelError, match=message) as caught:
        Detector.load(tmp_path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere", Path(__file__)):
        with pytest.raises(ModelError, match="there is no detector in"):
            Detector.load(path)
