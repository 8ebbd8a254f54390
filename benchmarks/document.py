"""Writes docs/benchmarks.md and the figures of other texts: `python -m benchmarks.document`."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from benchmarks import laws, places, readme, scale, tables
from benchmarks.gaps import findings
from benchmarks.gaps.findings import Findings
from benchmarks.results import Results
from benchmarks.stream import findings as stream

ROOT = Path(__file__).parents[1]
DOCUMENT, CHARTS, README = ROOT / "docs" / "benchmarks.md", ROOT / "docs" / "benchmarks", ROOT / "README.md"
CHOOSING, LAWS, STREAMING, SCALE = (ROOT / "docs" / f"{name}.md" for name in ("choosing", "laws", "streaming", "scale"))
WIDTH = 120

HEAD = (
    "Written by `python -m benchmarks.document` from `benchmarks/results/layers.json`, which `python -m benchmarks` "
    "measured; do not edit. Times are milliseconds, medians over rounds. In a round every system of a shape is timed "
    "once, in turn, those of different frameworks in processes of their own while the others wait; a system gets a "
    "tenth of a second or one run, whichever is longer, and the first round does not count. All use every core with "
    "their own defaults. A factor above 1 is in our favour, below 1 in the other's.",
    "*train* is the outputs and the gradients of all parameters; *ragged* pads rows of drawn lengths on the right, "
    "44 % of the steps observed; *25 %* observes a quarter of the steps, at random; *no kernel* is gapcell.torch with "
    "its compiled kernel off. The plain PyTorch loop takes two convolutions a step under autograd, and no mask. JAX is "
    "jitted, Keras on PyTorch eager, Keras on TensorFlow a graph and, as *XLA*, compiled, as `fit` does by default.",
)


class Section(NamedTuple):
    """A title, what its table shows, how the table is made, and a chart above it."""

    title: str
    words: str
    table: Callable[[Results], list[str]]
    chart: str = ""


SECTIONS = (
    Section(
        "Shapes",
        "N samples, T steps, L or HxW sites, C channels in, F filters, kernel size k along every axis. S0 is what "
        "nn.LSTM computes; S6 is one streamed step, its state carried. Just before a shape was measured: *load* of the "
        "system; *busy*, the share of the cores' time that other programs took; the peak of fp32 multiply-adds in "
        "registers, of one thread / of all at once; the bandwidth of a = b + c over 256 MiB arrays, three transfers a "
        "value, likewise.",
        tables.shapes,
    ),
    Section(
        "What the kernel was to reach",
        "Goals that were set before it was written, for gapcell.torch unless said otherwise. Keras on TensorFlow "
        "counts both as a graph and under XLA.",
        tables.reached,
    ),
    Section(
        "Where others are ahead",
        "Every figure on full and ragged batches with a factor below 1, the largest lead first: each system beside "
        "ours in its own framework, and beside gapcell.torch with its kernel; the plain loop and nn.LSTM also beside "
        "it without.",
        tables.others_ahead,
    ),
    Section(
        "PyTorch",
        "The factors are the plain loop's. The last two columns are the cost with a quarter of the steps observed, as "
        "a share of that with all.",
        tables.pytorch,
        "![Training time of every system as a multiple of gapcell.torch's](benchmarks/training.svg)",
    ),
    Section(
        "Gaps",
        "Ragged batches; the plain loop computes all steps.",
        tables.ragged,
        "![Time against the share of steps observed](benchmarks/observed.svg)",
    ),
    Section(
        "Keras",
        "On JAX Keras's layer takes no mask of steps. Where its training step takes over a minute (XLA on S3 and S5) "
        "it is left out.",
        tables.keras,
    ),
    Section(
        "JAX",
        "*flax* is `flax.linen.RNN(ConvLSTMCell)`; *compile* is the time to compile the training step; *25 %* is the "
        "cost with a quarter of the steps observed, as a share of that with all. Where a training step takes over a "
        "minute (S3 and S5) it is left out.",
        tables.jax,
    ),
    Section("Streaming", "S6: one step after the other through the public API, microseconds a step.", tables.streaming),
    Section(
        "Share of the peak",
        "Of what all cores reach together in multiply-adds alone, measured just before the shape. Counted are the "
        "multiply-adds of both convolutions, 2 x 4F(C + F)k^d a step and site, and three times as many for training "
        "(which includes the gradient of x, though nobody asks for it here); on the right without the taps that lie "
        "outside the array, which need not be computed.",
        tables.peak,
    ),
    Section(
        "Memory",
        "One training step of S3 in a fresh process: the highest resident set above what it was before the step, when "
        "input and weights were there.",
        tables.memory,
    ),
)


def document(results: Results) -> str:
    """The text of docs/benchmarks.md."""
    parts = ["# Benchmarks", *map(wrapped, HEAD), *map(wrapped, surroundings(results))]
    for section in SECTIONS:
        parts += [f"## {section.title}", *filter(None, [section.chart]), wrapped(section.words)]
        parts.append("\n".join(section.table(results)))
    return "\n\n".join(parts) + "\n"


def wrapped(words: str) -> str:
    return textwrap.fill(words, WIDTH, break_long_words=False, break_on_hyphens=False)


def surroundings(results: Results) -> tuple[str, str]:
    """The machine and the versions, and how far the rounds lie apart."""
    machine, versions = results.content["machine"], results.content["versions"]
    packages = ", ".join(f"{name} {version}" for name, version in versions.items())
    figures = list(results.figures())
    rounds = sorted(figure["rounds"] for figure in figures)
    span = f"{rounds[0]} to {rounds[-1]}" if rounds[0] < rounds[-1] else f"{rounds[0]}"
    spreads = sorted((figure["highest"] - figure["lowest"]) / figure["ms"] for figure in figures)
    half, most = (f"{100 * spreads[int(part * len(spreads))]:.0f} %" for part in (0.5, 0.9))
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}; kernel {machine['kernel']}; {packages}.",
        f"{span} rounds. The lowest and the highest round lie less than {half} of the median apart for half of the "
        f"figures, less than {most} for nine in ten.",
    )


def with_figures(results: Results, found: Findings) -> dict[Path, str]:
    """The texts that people write, with the figures in their places."""
    return {
        path: places.updated(path.read_text(encoding="utf-8"), figures, path.name)
        for path, figures in (
            (README, (laws.small(laws.read()), readme.figures(results))),
            (CHOOSING, findings.figures(found)),
            (LAWS, laws.figures(laws.read())),
            (STREAMING, stream.figures(stream.read())),
            (SCALE, scale.figures(scale.read())),
        )
    }


def main() -> None:
    from benchmarks import charts  # here, as Altair is slow to import and the texts need none of it
    from benchmarks.gaps import chart

    results, found = Results.read(), Findings.read()
    DOCUMENT.write_text(document(results), encoding="utf-8")
    for path, text in with_figures(results, found).items():
        path.write_text(text, encoding="utf-8")
    CHARTS.mkdir(exist_ok=True)
    for draw in (charts.training, charts.observed):
        (CHARTS / f"{draw.__name__}.svg").write_text(draw(results), encoding="utf-8")
    (CHARTS / "gaps.svg").write_text(chart.errors(found), encoding="utf-8")


if __name__ == "__main__":
    main()
