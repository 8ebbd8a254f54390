"""The figures in the README, between two comments."""

from __future__ import annotations

import textwrap

from benchmarks.catalogue import (
    FLAX,
    KERAS,
    KERAS_JAX,
    KERAS_TORCH,
    KERAS_XLA,
    KERNEL,
    LOOP,
    OURS_ON_JAX,
    PURE,
    SEQUENCES,
    ours_for,
)
from benchmarks.comparisons import comparisons, others_ahead
from benchmarks.goals import ratio
from benchmarks.results import Results
from benchmarks.shapes import SHAPES
from benchmarks.tables import PASSES, factor, ms, table

SHAPE = "S2"
PASS_NAMES = {"forward": "forward", "train": "forward and backward"}
BACKENDS = {
    "PyTorch": KERAS_TORCH,
    "TensorFlow, compiled by XLA as `fit` does": KERAS_XLA,
    "TensorFlow, graph": KERAS,
}


def figures(results: Results) -> str:
    return "\n".join(
        [
            f"On {results.content['machine']['cores']} cores in float32 ({SHAPES[SHAPE]}), beside the loop over",
            "steps that one writes in PyTorch without masks:",
            "",
            *pytorch(results),
            "",
            "On JAX, beside flax's `RNN(ConvLSTMCell)` and Keras's ConvLSTM1D, the same shape and everything observed:",
            "",
            *jax(results),
            "",
            "In Keras, beside `keras.layers.ConvLSTM1D`, the same shape, rows padded to the longest (44 % observed):",
            "",
            *keras(results),
            "",
            *summary(results),
            "",
        ]
    )


def pytorch(results: Results) -> list[str]:
    head = ["", "plain loop", "gapcell", "gapcell, 25 % of steps observed", "gapcell without its kernel"]
    columns = ((LOOP, "full"), (KERNEL, "full"), (KERNEL, "25%"), (PURE, "full"))
    return table(head, [_row(results, mode, columns) for mode in PASSES])


def jax(results: Results) -> list[str]:
    columns = tuple((system, "full") for system in (FLAX, KERAS_JAX, OURS_ON_JAX))
    return table(["", "flax", "Keras on JAX", "gapcell.jax"], [_row(results, mode, columns) for mode in PASSES])


def keras(results: Results) -> list[str]:
    rows = []
    for name, system in BACKENDS.items():
        pair = [results.ms(layer, SHAPE, "train", "ragged") for layer in (system, ours_for(system))]
        rows.append([name, *map(_cell, pair)])
    return table([PASS_NAMES["train"], "keras.layers", "gapcell.keras"], rows)


def summary(results: Results) -> list[str]:
    """The range of the factors against the plain loop, and how often others are ahead."""
    found = [
        ratio(results.ms(LOOP, shape, mode), results.ms(KERNEL, shape, mode)) for shape in SEQUENCES for mode in PASSES
    ]
    factors = [value for value in found if value is not None]
    ahead = [c for c in others_ahead(results) if c.unit == "ms"]
    every = sum(c.unit == "ms" for c in comparisons(results))
    words = (
        "gapcell.torch, gapcell.jax and Keras on both run on a compiled CPU kernel where it could be built (`gapcell "
        f"info` says). Over the {len(SEQUENCES)} shapes measured, with everything observed, the PyTorch layer is "
        f"{factor(min(factors))} to {factor(max(factors))} times as fast as the plain loop. Others are faster in "
        f"{len(ahead)} of {every} comparisons, which [docs/benchmarks.md](docs/benchmarks.md#where-others-are-ahead) "
        "lists."
    )
    return textwrap.wrap(words, 120, break_long_words=False, break_on_hyphens=False)


def _row(results: Results, mode: str, columns: tuple[tuple[str, str], ...]) -> list[str]:
    return [PASS_NAMES[mode], *(_cell(results.ms(system, SHAPE, mode, observed)) for system, observed in columns)]


def _cell(milliseconds: float | None) -> str:
    return f"{ms(milliseconds)} ms"
