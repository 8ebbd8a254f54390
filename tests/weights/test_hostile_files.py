"""Files that are damaged, foreign or made to harm are refused in one sentence, quickly and in little memory."""

import json
import re
import sys
import tempfile
import time
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save

from gapcell import Spec, weights
from gapcell.weights import safetensors_file
from weights.cases import assert_same, listed, params_of
from weights.hostile import SMALL, files

PARAMS = params_of(SMALL)


def judged(loader, path, kind, contents):
    """What became of a file; fails where it is neither refused cleanly nor what it has to be."""
    path.write_bytes(contents)
    refusal = None
    try:
        params, spec = loader(path)
    except weights.WeightsError as error:
        refusal = str(error)
    if refusal is not None:
        assert "\n" not in refusal
        assert len(refusal) < 400 + len(str(path))
        return "refused"
    shapes = [spec.parameter_shapes(slot // spec.directions) for slot in range(spec.num_layers * spec.directions)]
    assert [{name: array.shape for name, array in cell.items()} for cell in listed(params)] == shapes
    assert all(np.isfinite(array).all() for cell in listed(params) for array in cell.values())
    if kind == "mutated":
        assert spec == SMALL
        assert_same(params, PARAMS)
    return "loaded"


def fuzzed(loader, folder, count):
    weights.save(folder / "m.safetensors", PARAMS, SMALL)
    contents = (folder / "m.safetensors").read_bytes()
    found = Counter()
    for kind, file in files(contents, PARAMS, count):
        found[kind, judged(loader, folder / "mutant", kind, file)] += 1
    return found


@pytest.fixture
def folder(tmp_path):
    """In memory where the system has such a place: thousands of files are written to it."""
    memory = Path("/dev/shm")  # noqa: S108 # a folder of our own is made in it
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as made:
        yield Path(made)


def test_10_000_hostile_files_do_no_harm(folder):
    before, resident = time.monotonic(), memory()
    found = fuzzed(weights.load, folder, 10_000)
    assert found["mutated", "refused"] > 4_500
    assert found["lying", "refused"] > 3_000
    assert found["lying", "loaded"] > 100, "lies that a Spec allows show that the checks behind the checksum are met"
    assert time.monotonic() - before < 300
    assert memory() - resident < 100_000_000


def memory():
    """The most bytes that this process has had; 0 where the system does not say."""
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def test_no_hostile_file_takes_memory_while_it_is_read(folder):
    tracemalloc.start()
    try:
        fuzzed(weights.load, folder, 300)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def trusting(path):
    """A loader that believes what the file says, and calls all that fails a refusal."""
    try:
        contents = path.read_bytes()
        tensors = load(contents)
        header = json.loads(contents[8 : 8 + int.from_bytes(contents[:8], "little")])
        spec = Spec.from_dict(json.loads(header["__metadata__"][safetensors_file.FORMAT])["spec"])
        return {name.removesuffix("_l0"): array for name, array in tensors.items()}, spec
    except Exception as error:
        raise weights.WeightsError(type(error).__name__) from None


def raising(path):
    """A loader that says what went wrong inside it."""
    return weights.load(path) if path.read_bytes()[8:9] == b"{" else {}[path]


@pytest.mark.parametrize(("mutant", "failure"), [(trusting, AssertionError), (raising, KeyError)])
def test_the_fuzz_would_notice_a_loader_that_lets_through(tmp_path, mutant, failure):
    with pytest.raises(failure):
        fuzzed(mutant, tmp_path, 500)


# One by one -----------------------------------------------------------------------------------------------------------


STORED = {f"{name}_l0": array for name, array in PARAMS.items()}


def written(spec=None, tensors=None, **about):
    """A file with a right checksum."""
    tensors = STORED if tensors is None else tensors
    about = {"version": 1, "spec": SMALL.to_dict() | (spec or {})} | about
    about.setdefault("sha256", safetensors_file.checksum(about["spec"], tensors))
    return save(tensors, {"gapcell weights": json.dumps(about)})


def header(text, data=b""):
    return len(text).to_bytes(8, "little") + text.encode() + data


GOOD = written()
HOSTILE = {
    "empty": (b"", "header too small"),
    "a header of 2 GB": (
        (2**31).to_bytes(8, "little") + b"{", "it announces a header of 2,147,483,648 bytes, where at most 1,000,000",
    ),
    "cut off": (GOOD[:-5], "incomplete metadata, file not fully covered"),
    "more behind": (GOOD + b"x", "incomplete metadata, file not fully covered"),
    "a pickle": (b"\x80\x04\x95\x00\x00\x00\x00\x00", "it announces a header of"),
    "deep JSON": (header("[" * 100_000), "invalid JSON in header"),
    "deep JSON inside": (save({}, {"gapcell weights": "[" * 100_000}), "it is nested too deep"),
    "a state_dict": (
        save({"conv.weight": np.zeros(3)}),
        "its metadata has no 'gapcell weights'; those of other programs are read by weights.from_pytorch etc.",
    ),
    "no JSON": (save({}, {"gapcell weights": "{"}), "Expecting property name"),
    "NaN": (save({}, {"gapcell weights": '{"version": NaN}'}), "NaN is no number of JSON"),
    "a list": (save({}, {"gapcell weights": "[]"}), "its 'gapcell weights' is no object"),
    "a later version": (written(version=2), "it is of version 2, and this gapcell reads version 1; use the one that"),
    "no Spec": (save({}, {"gapcell weights": '{"version": 1, "spec": 1}'}), "its Spec is no object"),
    "an option of tomorrow": (written({"novel": 1}), "unknown options ['novel']"),
    "a billion layers": (written({"num_layers": 10**9}), "it has 3 tensors, and its Spec asks for 3000000000"),
    "a huge layer": (
        written({"filters": 10**12}), "the shape of its 'kernel_l0' is not (1, 1, 4000000000000), which its Spec asks",
    ),
    "another tensor": (
        written(tensors={name.replace("l0", "l1"): array for name, array in STORED.items()}),
        "it has no tensor 'kernel_l0', which its Spec asks for",
    ),
    "whole numbers": (
        written(tensors={name: array.astype("int32") for name, array in STORED.items()}),
        "the type of its 'kernel_l0' is I32, which is none of F16, F32, F64",
    ),
    "not finite": (
        written(tensors={name: array * np.float32(np.nan) for name, array in STORED.items()}),
        "kernel has values that are NaN or infinite",
    ),
    "two types": (
        written(tensors=STORED | {"bias_l0": PARAMS["bias"].astype("f8")}),
        "have types float32, float64, expected one type for all",
    ),
    "one bit": (GOOD[:-1] + bytes([GOOD[-1] ^ 1]), "its contents are not those that were saved, as its checksum"),
    "another checksum": (written(sha256="0" * 64), "its contents are not those that were saved"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_it_is_refused_in_one_sentence(tmp_path, name):
    contents, message = HOSTILE[name]
    path = tmp_path / "m.safetensors"
    path.write_bytes(contents)
    with pytest.raises(weights.WeightsError, match=re.escape(message)) as caught:
        weights.load(path)
    assert str(caught.value).startswith(repr(str(path)))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400 + len(str(path))


def test_an_endless_number_is_refused(tmp_path):
    about = json.dumps({"version": 1, "spec": SMALL.to_dict()}).replace('"filters": 1', '"filters": 1' + "0" * 10_000)
    (tmp_path / "m").write_bytes(save({}, {"gapcell weights": about}))
    with pytest.raises(weights.WeightsError, match="integer string conversion"):
        weights.load(tmp_path / "m")


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file '.*nowhere'"):
        weights.load(tmp_path / "nowhere")
    for read in (weights.load, weights.from_keras):
        with pytest.raises(weights.WeightsError, match="is not a file; give the name of a file of weights"):
            read(tmp_path)


def test_the_good_file_is_read(tmp_path):
    (tmp_path / "m").write_bytes(GOOD)
    params, spec = weights.load(tmp_path / "m")
    assert spec == SMALL
    assert_same(params, PARAMS)
