"""Trainings under way on disk, so that a fit that was killed goes on from its last epoch."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from gapcell.detect.distributed import ALONE, Ranks
from gapcell.detect.judging import Judgement
from gapcell.detect.material import Material
from gapcell.detect.options import FitOptions
from gapcell.detect.results import Epoch
from gapcell.detect.training import Course
from gapcell.files import replacing

FORMAT = "gapcell training, version 1"
MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class Checkpoints:
    """A folder of trainings, a file each, which appears whole after every epoch.

    A file of another table or of other options is not gone on with: the training starts over and replaces it.
    Of several processes the first alone writes and reads files, and tells the others what it has read.

    Args:
        folder: made when it is not there.
        material: what is fitted to.
        options: the choices of the fit.
        ranks: the processes that train.
    """

    def __init__(self, folder: Path, material: Material, options: FitOptions, ranks: Ranks = ALONE) -> None:
        self.folder, self.fingerprint, self.ranks = folder, fingerprint(material, options), ranks
        if ranks.first:
            folder.mkdir(parents=True, exist_ok=True)

    def path(self, name: str) -> Path:
        """The file of a training; its name says nothing of the table's."""
        return self.folder / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.safetensors"

    def keep(self, name: str, course: Course) -> None:
        """Write a training as it stands.

        Raises:
            OSError: when it cannot be written.
        """
        if not self.ranks.first:
            return
        tensors: dict[str, Tensor] = {f"network.{key}": value for key, value in course.network.state_dict().items()}
        tensors |= {f"best.{key}": value for key, value in course.best.items()}
        for number, state in course.optimiser.state_dict()["state"].items():
            tensors |= {f"{moment}.{number}": state[moment] for moment in MOMENTS}
        judged = course.judged
        about = {
            "format": FORMAT,
            "fingerprint": self.fingerprint,
            "epochs": [asdict(epoch) for epoch in course.epochs],
            "draws": course.draws.bit_generator.state,
            "schedule": course.schedule.state_dict(),
            "judged": None if judged is None else {
                **asdict(judged), "by_head": judged.by_head.tolist(), "calibration": judged.calibration.tolist()
            },
        }  # fmt: skip
        with replacing(self.path(name)) as path:
            save_file({key: value.contiguous() for key, value in tensors.items()}, path, {"course": json.dumps(about)})

    def restore(self, name: str, course: Course) -> None:
        """Bring a training to where it was kept; one that was not kept, or not of this fit, stays at its beginning."""
        path = self.path(name)
        contents = self.ranks.from_first(path.read_bytes() if self.ranks.first and path.exists() else b"")
        try:
            tensors = load(contents)
            header = json.loads(contents[8 : 8 + int.from_bytes(contents[:8], "little")])
            about = json.loads(header["__metadata__"]["course"])
            if about.get("fingerprint") == self.fingerprint and about.get("format") == FORMAT:
                put_back(course, about, tensors)
        except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError):
            return  # a damaged file is as good as none: nothing was put back before everything had been read


def put_back(course: Course, about: dict, tensors: dict[str, Tensor]) -> None:
    """Put what was read into a training that has not begun."""
    judged = about["judged"]
    epochs = [Epoch(**epoch) for epoch in about["epochs"]]
    kept = Judgement(**judged | {name: np.array(judged[name]) for name in ("by_head", "calibration")})
    best = {key.removeprefix("best."): value for key, value in tensors.items() if key.startswith("best.")}
    moments = course.optimiser.state_dict()
    moments["state"] = {
        number: {moment: tensors[f"{moment}.{number}"] for moment in MOMENTS}
        for number, _ in enumerate(course.network.parameters())
        if f"step.{number}" in tensors
    }
    course.network.load_state_dict(
        {key.removeprefix("network."): value for key, value in tensors.items() if key.startswith("network.")}
    )
    course.optimiser.load_state_dict(moments)
    course.schedule.load_state_dict(about["schedule"])
    for group, rate in zip(course.optimiser.param_groups, course.schedule.get_last_lr(), strict=True):
        group["lr"] = rate
    course.draws.bit_generator.state = about["draws"]
    course.epochs, course.best, course.judged = epochs, best, kept


def fingerprint(material: Material, options: FitOptions) -> str:
    """A hash of everything that decides how a training goes."""
    found = hashlib.sha256(repr((FORMAT, torch.__version__, options, material.split, material.encoding)).encode())
    for tensor in (material.sequences.inputs, material.sequences.observed, material.targets.value, material.labels):
        found.update(tensor.numpy().tobytes())
    for array in (material.stream.seconds, material.starts):
        found.update(array.tobytes())
    return found.hexdigest()
