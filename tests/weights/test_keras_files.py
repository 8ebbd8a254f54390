"""Files of Keras's that are damaged, foreign or made to harm; what is good in them is tested in keras_layers."""

import io
import json
import random
import re
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from gapcell import Spec, weights
from gapcell.weights import hdf5
from weights.cases import assert_same, params_of
from weights.hostile import mutated

h5py = pytest.importorskip("h5py", reason="the files are HDF5")
from gapcell.weights import hdf5_reader  # noqa: E402  # which needs it

SPEC = Spec(rank=1, in_channels=1, filters=1, kernel_size=1, same_padding="keras", masked_output="hold")
PARAMS = params_of(SPEC)
LAYER = {"name": "mine", "filters": 1, "kernel_size": [1], "padding": "same"}


def stored(change=lambda file: None, params=PARAMS):
    """An HDF5 file as Keras writes it."""
    contents = io.BytesIO()
    with h5py.File(contents, "w") as file:
        file.create_group("layers/conv_lstm1d/vars").attrs["name"] = "mine"
        cell = file.create_group("layers/conv_lstm1d/cell/vars")
        for number, array in enumerate(params.values()):
            cell[str(number)] = array
        change(file)
    return contents.getvalue()


def archive(config=LAYER, arrays=None, names=("config.json", "model.weights.h5"), packed=zipfile.ZIP_STORED):
    """A .keras file; a config that is a dict is of one ConvLSTM1D."""
    if isinstance(config, dict):
        layer = {"module": "keras.layers", "class_name": "ConvLSTM1D", "config": config}
        config = json.dumps({"class_name": "Sequential", "config": {"layers": [layer]}})
    contents = io.BytesIO()
    with zipfile.ZipFile(contents, "w", packed) as file:
        for name, part in zip(names, (config, stored() if arrays is None else arrays), strict=True):
            file.writestr(name, part)
    return contents.getvalue()


def read(path, contents, **options):
    path.write_bytes(contents)
    return weights.from_keras(path, **options)


def replaced(make, name="layers/conv_lstm1d/cell/vars/0"):
    """Something else in the place of an array."""

    def change(file):
        del file[name]
        make(file, name)

    return change


def test_the_good_files_are_read(tmp_path):
    for contents, options in ((archive(), {}), (archive(), {"name": "mine"}), (stored(), {"spec": SPEC})):
        params, spec = read(tmp_path / "file", contents, **options)
        assert spec == SPEC
        assert_same(params, PARAMS)


@pytest.mark.parametrize("above", ["", "model_weights/"])
@pytest.mark.parametrize("suffix", ["", ":0"])
def test_the_format_of_keras_2_is_read(above, suffix):
    """Of save_weights("x.h5") and save("x.h5"): a group for each layer."""
    contents = io.BytesIO()
    with h5py.File(contents, "w") as file:
        for layer in ("mine/mine", "both/both/forward_conv", "both/both/backward_conv", "outer/a", "outer/b"):
            for name, array in PARAMS.items():
                file[f"{above}{layer}/{name}{suffix}"] = array
        file[f"{above}dense/dense/kernel{suffix}"] = PARAMS["kernel"]
        found = hdf5_reader.arrays_of(file, 10_000)
    assert {name: len(directions) for name, directions in found.items()} == {
        "mine": 1, "both": 2, "outer": 1, f"{above}outer/a": 1,
    }  # fmt: skip
    assert_same(dict(zip(PARAMS, found["mine"][0], strict=True)), PARAMS)


def test_a_compressed_archive_is_read(tmp_path):
    assert_same(read(tmp_path / "file", archive(packed=zipfile.ZIP_DEFLATED))[0], PARAMS)


def bomb():
    """A thousandfold."""
    return archive(arrays=b"\0" * 5_000_000, packed=zipfile.ZIP_DEFLATED)


def locked():
    """With the flag of a password."""
    contents = bytearray(archive())
    for start in (b"PK\x03\x04", b"PK\x01\x02"):
        at = contents.find(start)
        contents[at + (6 if start[2] == 3 else 8)] |= 1
    return bytes(contents)


ARCHIVES = {
    "neither": (b"\x80\x04pickle", "is neither a .keras file nor an HDF5 file"),
    "cut off": (archive()[:-40], "it is damaged: File is not a zip file"),
    "a flipped bit": (archive().replace(b'"mine"', b'"mind"', 1), "it is damaged: Bad CRC-32 for file 'config.json'"),
    "a password": (locked(), "is encrypted, password required"),
    "a bomb": (bomb(), "its model.weights.h5 is of 5,000,000 bytes, where at most"),
    "bzip2": (archive(packed=zipfile.ZIP_BZIP2), "its config.json is packed by method 12, which Keras does not use"),
    "no config": (archive(names=("x", "model.weights.h5")), "it has no config.json, which a .keras file"),
    "no arrays": (archive(names=("config.json", "x")), "it has no model.weights.h5, which a .keras file of Keras 3"),
    "no JSON": (archive("{"), "its config.json is damaged: Expecting property name"),
    "deep JSON": (archive("[" * 100_000), "its config.json is damaged: it is nested too deep"),
    "no name": (archive({"filters": 1}), "its config.json is damaged: a layer has no name"),
    "no ConvLSTM": (archive('{"layers": []}'), "its ConvLSTM layers are none; `name` is None, expected one of them"),
    "no size": (archive({"name": "mine"}), "`filters` is None, expected an integer of at least 1"),
    "a huge size": (
        archive(LAYER | {"filters": 10**12}), "kernel has shape (1, 1, 4), expected (1, 1, 4000000000000)",
    ),
    "an odd padding": (archive(LAYER | {"padding": ["same"]}), "`padding` is ['same'], expected one of 'same'"),
    "another kernel": (archive(LAYER | {"kernel_size": [2]}), "kernel has shape (1, 1, 4), expected (2, 1, 4)"),
    "no bias": (archive(LAYER | {"use_bias": False}), "1 directions with 3 arrays, expected 1 with 2: kernel, recurr"),
    "another name": (archive(LAYER | {"name": "other"}), "it has a layer 'other', but its model.weights.h5 has none"),
    "no HDF5": (archive(arrays=b"\x80\x04pickle"), "it is damaged or no HDF5 file of Keras's: Unable to"),
}  # fmt: skip


@pytest.mark.parametrize("name", ARCHIVES)
def test_an_archive_is_refused_in_one_sentence(tmp_path, name):
    contents, message = ARCHIVES[name]
    with pytest.raises(weights.WeightsError, match=re.escape(message)) as caught:
        read(tmp_path / "file.keras", contents)
    assert str(caught.value).startswith(repr(str(tmp_path / "file.keras")))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400 + len(str(tmp_path))


def of_shape(shape, dtype="float32", **options):
    return replaced(lambda file, name: file.create_dataset(name, shape, dtype, **options))


def link(made):
    return replaced(lambda file, name: file.__setitem__(name, made))


def deep(file):
    file.create_group("x" + "/x" * 100)


def long_name(file):
    file["layers/conv_lstm1d/vars"].attrs["name"] = ["mine"] * 1000


def elsewhere(file, name):
    layout = h5py.VirtualLayout((1, 1, 4), "float32")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (1, 1, 4))
    file.create_virtual_dataset(name, layout)


STORES = {
    "never written": (of_shape((10**5, 10**5, 4)), "claims 160,000,000,000 bytes, and has 0"),
    "packed": (of_shape((100, 100, 4), chunks=True, compression="gzip"), "is packed, virtual, or in another file"),
    "in another file": (of_shape((1, 1, 4), external="/etc/passwd"), "is packed, virtual, or in another file"),
    "virtual": (replaced(elsewhere), "is packed, virtual, or in another file, which Keras does not write"),
    "a soft link": (link(h5py.SoftLink("/layers")), "'0' in it is a link, perhaps into another file, which Keras does"),
    "a link outside": (link(h5py.ExternalLink("/etc/passwd", "x")), "'0' in it is a link, perhaps into another file"),
    "text": (of_shape((4,), h5py.string_dtype()), "is of type object, expected float16, float32, float64"),
    "complex": (of_shape((4,), "complex64"), "is of type complex64, expected float16, float32, float64"),
    "a group": (replaced(lambda file, name: file.create_group(name)), "is of type Group, expected float16"),
    "a hole": (lambda file: file.move("layers/conv_lstm1d/cell/vars/1", "layers/conv_lstm1d/cell/vars/9"), "'1'"),
    "deep": (deep, "it is nested deeper, or has more in it, than a model of Keras's"),
    "names": (long_name, "the name of a layer in it is no short text"),
}  # fmt: skip


@pytest.mark.parametrize("name", STORES)
def test_what_keras_does_not_write_is_refused(name):
    change, message = STORES[name]
    contents = stored(change)
    with h5py.File(io.BytesIO(contents), "r") as file, pytest.raises(Exception, match=re.escape(message)):
        hdf5_reader.arrays_of(file, len(contents))


def test_arrays_that_share_their_bytes_are_counted_each():
    """Hard links would have a small file fill any memory."""

    def shared(file):
        for number in range(3, 200):
            file[f"layers/conv_lstm1d/cell/vars/{number}"] = file["layers/conv_lstm1d/cell/vars/0"]

    contents = stored(shared, {name: np.ones((1000, 4), "float32") for name in PARAMS})
    claimed = "its arrays claim more bytes than the file has"
    with h5py.File(io.BytesIO(contents), "r") as file, pytest.raises(weights.WeightsError, match=claimed):
        hdf5_reader.arrays_of(file, len(contents))


def test_a_cell_that_hangs_in_itself_is_refused():
    def circle(file):
        file["layers/conv_lstm1d/again"] = file["layers"]

    with h5py.File(io.BytesIO(stored(circle)), "r") as file, pytest.raises(weights.WeightsError, match="nested deeper"):
        hdf5_reader.arrays_of(file, 10**6)


def endless():
    """HDF5's library walks its heap of texts by the sizes in it, and never leaves one of size 0."""
    contents = bytearray(stored())
    at = contents.index(b"GCOL") + 24
    contents[at : at + 8] = bytes(8)
    return bytes(contents)


def test_a_file_that_the_library_never_finishes_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(hdf5, "LONGEST", 3.0)
    with pytest.raises(weights.WeightsError, match=r"library did not come to an end with it in 3 seconds$"):
        read(tmp_path / "file", endless(), spec=SPEC)


def test_a_crash_of_the_library_is_not_ours(tmp_path, monkeypatch):
    crash = [sys.executable, "-c", "import os; os.abort()"]
    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda command, **options: run(crash, **options))
    with pytest.raises(weights.WeightsError, match=r"HDF5's library broke on it \(exit status -?\d+\)"):
        read(tmp_path / "file", stored(), spec=SPEC)


def test_mutated_files_are_refused_or_read(tmp_path, monkeypatch):
    """A few, as each takes a process; thousands were tried beside the suite."""
    monkeypatch.setattr(hdf5, "LONGEST", 10.0)
    rng = random.Random(0)  # noqa: S311 # the same files in every run
    good, found = stored(), []
    for place in range(20):
        arrays = mutated(good, rng)
        contents, options = (arrays, {"spec": SPEC}) if place % 2 else (archive(arrays=arrays), {})
        try:
            params, _ = read(tmp_path / "file", contents, **options)
        except weights.WeightsError as error:
            found.append(str(error))
            continue
        assert {name: array.shape for name, array in params.items()} == SPEC.parameter_shapes()
    assert 5 < len(found) < 20
    assert not [message for message in found if "\n" in message]


def test_arguments_that_do_not_fit_the_file(tmp_path):
    with pytest.raises(ValueError, match=r"^`spec` is for .h5 files; this file holds the config of its layers"):
        read(tmp_path / "file", archive(), spec=SPEC)
    with pytest.raises(
        ValueError, match=r"^`spec` is None, expected the layer's gapcell.Spec: file holds arrays, but not"
    ):
        read(tmp_path / "file", stored())
    with pytest.raises(weights.WeightsError, match="the layers in it are 'mine'; `name` is 'x', expected one of them"):
        read(tmp_path / "file", stored(), spec=SPEC, name="x")


def test_without_h5py_the_pip_line_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(hdf5, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"^weights.from_keras reads Keras's files by h5py: pip install h5py$"):
        read(tmp_path / "file", stored(), spec=SPEC)
