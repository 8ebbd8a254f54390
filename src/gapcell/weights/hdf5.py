"""HDF5 files of which nothing is trusted, read in a process of its own that may fail."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
from safetensors.numpy import load

from gapcell.weights.refusals import WeightsError, shortened

__all__ = ["REFUSED", "SIGNATURE", "Stored", "read"]

SIGNATURE = b"\x89HDF\r\n\x1a\n"
REFUSED = 3  # the reader's exit status where it says why
LONGEST, BYTES_A_SECOND = 30.0, 20_000_000  # seconds, and how many more for a large file

Stored = list[list[np.ndarray]]  # of a layer: its directions, each with its arrays in Keras's order


def read(contents: bytes) -> dict[str, Stored]:
    """The arrays of every ConvLSTM or ConvGRU layer in a file of Keras's, by the layers' names.

    Raises:
        WeightsError: the file is damaged, or has in it what Keras does not write.
        ImportError: h5py is missing.
    """
    if find_spec("h5py") is None:
        raise ImportError("weights.from_keras reads Keras's files by h5py: pip install h5py")
    found: dict[str, dict[tuple[int, int], np.ndarray]] = {}
    for key, array in load(_read_apart(contents)).items():
        direction, number, name = key.split(".", 2)
        found.setdefault(name, {})[int(direction), int(number)] = array
    return {
        name: [
            [arrays[place] for place in sorted(arrays) if place[0] == direction]
            for direction in sorted({direction for direction, _ in arrays})
        ]
        for name, arrays in found.items()
    }


def _read_apart(contents: bytes) -> bytes:
    """What `hdf5_reader` makes of a file: safetensors."""
    patience = LONGEST + len(contents) / BYTES_A_SECOND
    # The reader finds what this process finds; one thread, as threads reserve memory, which is limited there.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    environment["OPENBLAS_NUM_THREADS"] = "1"
    command = [sys.executable, "-P", "-m", "gapcell.weights.hdf5_reader"]  # -P: not from the working folder
    try:
        done = subprocess.run(  # noqa: S603  # our own program
            command, input=contents, env=environment, capture_output=True, timeout=patience, check=False
        )
    except subprocess.TimeoutExpired:
        raise WeightsError(f"HDF5's library did not come to an end with it in {patience:.0f} seconds") from None
    if done.returncode == REFUSED:
        raise WeightsError(
            f"it is damaged or no HDF5 file of Keras's: {shortened(done.stderr.decode(errors='replace'))}"
        )
    if done.returncode:
        last = shortened(done.stderr.decode(errors="replace").strip().rpartition("\n")[2])
        raise WeightsError(f"HDF5's library broke on it (exit status {done.returncode}) {last}".strip())
    return done.stdout
