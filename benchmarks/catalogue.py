"""What is measured: which systems, on which shapes, how, and what is left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

SEQUENCES = ("S1", "S2", "S3", "S5")
MODES = ("forward", "train", "compile")
SHARES = ("0%", "10%", "25%", "50%", "75%")  # of the steps, beside "full"
SHARES_SHAPE = "S2"  # where all of them are measured
RAGGED_SHAPES = ("S2", "S3")


# The systems by name.
KERNEL, PURE, LOOP = "gapcell.torch", "gapcell.torch, no kernel", "plain PyTorch loop"
FROZEN, BF16_GATES, RECOMPUTE = f"{KERNEL}, frozen", f"{KERNEL}, bf16 gates", f"{KERNEL}, recompute"
OURS_ON_JAX, FLAX, LSTM = "gapcell.jax", "flax", "torch.nn.LSTM"
KERAS_TORCH, KERAS_JAX, KERAS, KERAS_XLA = (
    f"Keras on {backend}" for backend in ("PyTorch", "JAX", "TensorFlow", "TensorFlow, XLA")
)


@dataclass(frozen=True)
class System:
    """An implementation that is timed.

    Attributes:
        worker: the module of `systems/` whose process runs it.
        ours: of another's implementation, which of our systems it is compared with; "" for our own.
        shapes: it runs on.
        modes: it runs in.
        ragged: whether it also runs on ragged batches, with a mask of steps.
        quarter: whether it also runs with a quarter of the steps observed.
    """

    worker: str
    ours: str = ""
    shapes: tuple[str, ...] = (*SEQUENCES, "S6")
    modes: tuple[str, ...] = ("forward", "train")
    ragged: bool = False
    quarter: bool = False


def _keras(worker: str, theirs: str, **options: Any) -> dict[str, System]:
    """Keras's own layer and ours on one of its backends."""
    return {theirs: System(worker, ours_for(theirs), **options), ours_for(theirs): System(worker, **options)}


def ours_for(keras: str) -> str:
    """The name of our layer on the same backend as one of Keras's."""
    return f"gapcell.{keras[0].lower()}{keras[1:]}"


SYSTEMS = {
    LOOP: System("torch", KERNEL, ("S0", *SEQUENCES, "S6")),
    LSTM: System("torch", KERNEL, ("S0",)),
    KERNEL: System("torch", shapes=("S0", *SEQUENCES, "S6"), ragged=True, quarter=True),
    FROZEN: System("torch", shapes=("S6",), modes=("forward",)),
    BF16_GATES: System("torch", shapes=("S2", "S3"), modes=("train",)),
    RECOMPUTE: System("torch", shapes=("S2", "S3"), modes=("train",)),
    PURE: System("torch", shapes=("S0", *SEQUENCES, "S6"), ragged=True, quarter=True),
    **_keras("torch", KERAS_TORCH, ragged=True),
    FLAX: System("jax", OURS_ON_JAX, modes=MODES),
    OURS_ON_JAX: System("jax", modes=MODES, ragged=True, quarter=True),
    **_keras("jax", KERAS_JAX, modes=MODES),  # Keras's own takes no mask of steps there
    **_keras("tensorflow", KERAS, ragged=True),
    **_keras("tensorflow", KERAS_XLA, ragged=True),
}

# XLA-CPU's gradient of a convolution is slow: a training step takes more than a minute.
OVER_A_MINUTE = {(system, shape) for system in (FLAX, KERAS_JAX, KERAS_XLA) for shape in ("S3", "S5")}

# A training step's memory, in a fresh process.
MEMORY_SHAPE = "S3"
MEMORY = (LOOP, KERNEL, BF16_GATES, RECOMPUTE, PURE, OURS_ON_JAX, KERAS, ours_for(KERAS))

ENVIRONMENT = {  # of the processes; Keras has one backend each
    worker: {"KERAS_BACKEND": worker, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
    for worker in ("torch", "jax", "tensorflow")
}


class Task(NamedTuple):
    """One thing to time."""

    system: str
    shape: str
    mode: str
    observed: str = "full"

    def __str__(self) -> str:
        return f"{self.shape} {self.mode}, {self.system}, {self.observed}"


def tasks(shape: str, mode: str, systems: tuple[str, ...] = tuple(SYSTEMS)) -> list[Task]:
    """What is timed in turn, in one run."""
    found = []
    for name in systems:
        system = SYSTEMS[name]
        if shape not in system.shapes or mode not in system.modes or not _measured(name, shape, mode):
            continue
        found.append(Task(name, shape, mode))
        if shape == "S6" or mode == "compile":
            continue
        if system.ragged and shape in RAGGED_SHAPES:
            found.append(Task(name, shape, mode, "ragged"))
        if system.quarter and shape in SEQUENCES:
            found.append(Task(name, shape, mode, "25%"))
        if name == KERNEL and shape == SHARES_SHAPE:
            found += [Task(name, shape, mode, share) for share in SHARES if share != "25%"]
    return found


def _measured(system: str, shape: str, mode: str) -> bool:
    if mode == "train":
        return shape != "S6" and (system, shape) not in OVER_A_MINUTE
    return mode == "forward" or shape in ("S1", "S2")  # compiling costs the same on larger ones
