"""Writes docs/benchmarks.md from what the other scripts here measured.

python benchmarks/document.py
"""

from __future__ import annotations

import json
from pathlib import Path

from timing import SHAPES

HERE = Path(__file__).parent
HEAD = """\
# Benchmarks

Written by `benchmarks/document.py` from `benchmarks/results/`; do not edit. Milliseconds, median, the systems of a
table in turn within one run, float32. A factor above 1 is in our favour. Shapes are (N, T, sites, C, F, kernel).
"""


def of_run(result: dict, *packages: str) -> str:
    versions = ", ".join(f"{name} {result[name]}" for name in (*packages, "gapcell"))
    return f"{result['machine']}; {versions}; median of {result['repeats']}, load before the run {result['load']}."


def torch_table(result: dict) -> list[str]:
    lines = [
        "## PyTorch",
        "",
        of_run(result, "torch"),
        "",
        "*plain* is the per-step PyTorch loop under autograd, without a mask; *gapcell* runs on its compiled kernel;",
        "*25 %* observes a quarter of the steps, and *share* is its cost against all observed.",
        "",
        "| shape | | plain | gapcell | factor | gapcell 25 % | share |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, modes in result["shapes"].items():
        for mode, ms in modes.items():
            plain, ours, quarter = (ms[system] for system in ("plain", "gapcell", "gapcell 25 %"))
            lines.append(
                f"| {name} {SHAPES[name]} | {mode} | {plain:.1f} | {ours:.1f} | {plain / ours:.2f} | {quarter:.1f} "
                f"| {quarter / ours:.2f} |"
            )
    return lines


def jax_tables(result: dict) -> list[str]:
    lines = [
        "## JAX",
        "",
        of_run(result, "jax", "flax", "keras"),
        "",
        "*flax* is `flax.linen.RNN(ConvLSTMCell)`, *keras* `keras.layers.ConvLSTM` on the JAX backend, both jitted and",
        "without a mask; *mask* is gapcell with 70 % of the steps observed, at random (under XLA masked steps are",
        "computed). *compile* is the time to compile the training step.",
        "",
        "| shape | | flax | keras | gapcell | gapcell mask | factor flax | factor keras |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, modes in result["shapes"].items():
        for mode, ms in modes.items():
            if not ms:
                continue
            ours = ms["gapcell"]
            cells = [f"{ms[s]:.1f}" if s in ms else "-" for s in ("flax", "keras", "gapcell", "gapcell mask")]
            factors = [f"{ms[s] / ours:.2f}" if s in ms else "-" for s in ("flax", "keras")]
            lines.append(f"| {name} {SHAPES[name]} | {mode} | {' | '.join(cells + factors)} |")
    lines += [
        "",
        "Memory that XLA sets aside for one training step beside its arguments and results (MB, XLA's own figure);",
        '*plain* is gapcell with `vjp="plain"`, which lets JAX differentiate the scan.',
        "",
        "| shape | flax | plain | gapcell | share of plain |",
        "|---|---|---|---|---|",
    ]
    for name, megabytes in result["memory"].items():
        flax, plain, ours = (megabytes[system] for system in ("flax", "plain", "gapcell"))
        lines.append(f"| {name} {SHAPES[name]} | {flax:.0f} | {plain:.0f} | {ours:.0f} | {ours / plain:.2f} |")
    return lines


def keras_table(result: dict) -> list[str]:
    lines = [
        "## Keras",
        "",
        of_run(result, "keras", "tensorflow", "jax", "torch"),
        "",
        "*keras* is `keras.layers.ConvLSTM`, *ragged* pads rows to the longest, 44 % of the steps observed.",
        "*tensorflow* is a graph, *tensorflow, jit* the same under XLA, which is what `fit` does by default; JAX is",
        "jitted, PyTorch eager. On JAX Keras's layer takes no mask of steps. XLA and graphs compute masked steps,",
        "PyTorch does not. Where Keras's training step takes minutes (XLA, S3) it is left out.",
        "",
        "| backend | shape | | keras | gapcell | factor | keras ragged | gapcell ragged | factor |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for variant, shapes in result["shapes"].items():
        for name, modes in shapes.items():
            for mode, ms in modes.items():
                cells = [figure for kind in ("", " ragged") for figure in _pair(ms, f"keras{kind}", f"gapcell{kind}")]
                lines.append(f"| {variant} | {name} | {mode} | {' | '.join(cells)} |")
    return lines


def _pair(ms: dict[str, float], theirs: str, ours: str) -> list[str]:
    """Milliseconds of both and the factor between them."""
    if theirs not in ms:
        return ["-", f"{ms[ours]:.1f}", "-"]
    return [f"{ms[theirs]:.1f}", f"{ms[ours]:.1f}", f"{ms[theirs] / ms[ours]:.2f}"]


def main() -> None:
    sections = [HEAD]
    for name, table in (("layers", torch_table), ("jax_layers", jax_tables), ("keras_layers", keras_table)):
        result = json.loads((HERE / "results" / f"{name}.json").read_text(encoding="utf-8"))
        sections.append("\n".join(table(result)) + "\n")
    (HERE.parent / "docs" / "benchmarks.md").write_text("\n".join(sections), encoding="utf-8")


if __name__ == "__main__":
    main()
