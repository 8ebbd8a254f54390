"""PyPOTS's detector on SAITS (Du et al. 2023), in an environment of its own, for it brings many packages.

    GAPCELL_PYPOTS=/path/to/its/python python -m benchmarks.detect --only SAITS

It takes arrays of one length: sequences are cut into windows of 24 events, the last one filled up with NaN. Its score
is its own: the squared distance between its reconstruction and the input, in which it puts 0 for what is missing.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

PYTHON = "GAPCELL_PYPOTS"
WINDOW = 24
EPOCHS = 10


def interpreter() -> str | None:
    """The Python that has PyPOTS, or None."""
    return os.environ.get(PYTHON)


def windows(codes: np.ndarray, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Kept events of each entity cut into windows: rows (windows, WINDOW) int64, and bool, True where an event is.

    Args:
        codes: (rows,) in time order, whose event it is.
        kept: (rows,) bool.
    """
    rows = np.flatnonzero(kept)
    rows = rows[np.argsort(codes[rows], kind="stable")]
    starts = np.searchsorted(codes[rows], np.unique(codes[rows]))
    lengths = np.diff(np.append(starts, len(rows)))
    pieces = -(-lengths // WINDOW)
    begin = np.repeat(starts, pieces)
    begin = begin + WINDOW * (np.arange(len(begin)) - np.repeat(np.cumsum(pieces) - pieces, pieces))
    places = begin[:, None] + np.arange(WINDOW)
    there = places < np.repeat(starts + lengths, pieces)[:, None]
    return np.where(there, rows[np.minimum(places, len(rows) - 1)], 0), there


def scores(training: np.ndarray, values: np.ndarray, seed: int, epochs: int = EPOCHS) -> np.ndarray:
    """Fit on windows (n, WINDOW, C), NaN where missing, and score others: (m, WINDOW).

    Raises:
        RuntimeError: when no interpreter is named, or its run failed.
    """
    python = interpreter()
    if python is None:
        raise RuntimeError(f"{PYTHON} names no Python that has PyPOTS")
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder) / "given.npz", Path(folder) / "found.npy"
        np.savez(given, training=training, values=values, seed=seed, epochs=epochs)
        # alone, so that this interpreter's packages are not looked for in the other's
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run([python, __file__, given, found], capture_output=True, text=True, env=environment)
        if done.returncode:
            raise RuntimeError(f"PyPOTS failed: {done.stderr.strip().splitlines()[-1:]}")
        return np.load(found)


def main(given: str, found: str) -> None:
    """In the other interpreter."""
    import torch
    from pypots.anomaly_detection import SAITS

    torch.set_num_threads(1)
    content = np.load(given)
    torch.manual_seed(int(content["seed"]))
    np.random.seed(int(content["seed"]))
    training, values = content["training"].astype(np.float32), content["values"].astype(np.float32)
    model = SAITS(
        n_steps=WINDOW, n_features=training.shape[2], anomaly_rate=0.01, n_layers=2, d_model=32, n_heads=2, d_k=16,
        d_v=16, d_ffn=64, epochs=int(content["epochs"]), device="cpu", verbose=False,
    )  # fmt: skip
    model.fit({"X": training})
    network = model.model.eval()
    pieces = []
    with torch.no_grad():
        for start in range(0, len(values), 1024):
            x = torch.from_numpy(values[start : start + 1024])
            inputs = {"X": torch.nan_to_num(x), "missing_mask": (~x.isnan()).float()}
            pieces.append((inputs["X"] - network(inputs)["reconstruction"]).square().mean(-1).numpy())
    np.save(found, np.concatenate(pieces))


if __name__ == "__main__":
    main(*sys.argv[1:])
