"""A detector as bytes that travel to Spark's workers, each of which makes one detector of them and keeps it."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from gapcell.detect import Detector, SequenceDetector
from gapcell.detect.model_file import DESCRIPTION, WEIGHTS

MODELS_KEPT = 2  # by a worker: while a model is rolled out, its tasks come of two


@dataclass(frozen=True)
class SavedDetector:
    """The contents of a saved detector's files, which `loaded` checks as it checks every model.

    Bytes that are part of a function need no file system that all machines share: Spark sends them with the function,
    as a broadcast where they are large. Objects of gapcell's are never unpickled.

    Attributes:
        description: of detector.json.
        weights: of detector.safetensors.
    """

    description: bytes
    weights: bytes

    @classmethod
    def of(cls, detector: Detector | SequenceDetector | str | Path) -> SavedDetector:
        """A detector, or what a folder holds.

        Raises:
            ModelError: there is no detector in the folder.
            TypeError: it is neither.
        """
        fitted = Detector.load(detector) if isinstance(detector, str | Path) else detector
        if not isinstance(fitted, Detector | SequenceDetector):
            raise TypeError(f"detector (={fitted!r}) must be a Detector, a fitted SequenceDetector, or the folder that "
                            "one was saved to")  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            fitted.save(folder)
            return cls((Path(folder) / DESCRIPTION).read_bytes(), (Path(folder) / WEIGHTS).read_bytes())


@lru_cache(maxsize=MODELS_KEPT)
def loaded(saved: SavedDetector) -> Detector:
    """The detector, made once a process.

    Raises:
        ModelError: the contents are damaged.
    """
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / DESCRIPTION).write_bytes(saved.description)
        (Path(folder) / WEIGHTS).write_bytes(saved.weights)
        return Detector.load(folder)
