"""Times the PyTorch layer beside the loop one writes without it, and writes what it measured.

    python benchmarks/layers.py --out benchmarks/results/layers.json --table docs/benchmarks.md

Both systems are timed in turn within one run; a figure is the median. "25 %" observes a quarter of the steps, drawn
at random; the plain loop has no mask and computes every step whatever is observed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gapcell
from gapcell.torch import ConvLSTM1d, ConvLSTM2d

# name: (N, T, sites, C, F, kernel)
SHAPES = {
    "S1": (32, 10, (3,), 1, 64, 3),
    "S2": (32, 50, (32,), 8, 64, 3),
    "S3": (64, 100, (64,), 16, 128, 5),
    "S5": (8, 20, (32, 32), 16, 64, 3),
}
SYSTEMS = ("plain", "gapcell", "gapcell 25 %")


class PlainLoop(nn.Module):
    """The ConvLSTM that people write: two convolutions a step under autograd, no mask."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        layer, conv = self.layer, F.conv1d if x.ndim == 4 else F.conv2d
        h = c = x.new_zeros(x.shape[0], layer.hidden_size, *x.shape[3:])
        outputs = []
        for t in range(x.shape[1]):
            z = conv(x[:, t], layer.weight_ih_l0, layer.bias_l0, padding="same")
            i, f, g, o = (z + conv(h, layer.weight_hh_l0, padding="same")).chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            outputs.append(h)
        return torch.stack(outputs, 1)


def runs_of(name: str) -> dict[str, dict[str, Callable[[], None]]]:
    """What is timed for one shape: {"forward" | "train": {system: run}}."""
    samples, steps, sites, channels, filters, kernel = SHAPES[name]
    torch.manual_seed(0)
    layer = (ConvLSTM1d if len(sites) == 1 else ConvLSTM2d)(channels, filters, kernel)
    plain, x = PlainLoop(layer), torch.randn(samples, steps, channels, *sites)
    mask = torch.rand(samples, steps) < 0.25
    outputs = {
        "plain": lambda: plain(x),
        "gapcell": lambda: layer(x)[0],
        "gapcell 25 %": lambda: layer(x, mask=mask)[0],
    }

    def forward(system: str) -> Callable[[], None]:
        def run() -> None:
            with torch.no_grad():
                outputs[system]()

        return run

    def train(system: str) -> Callable[[], None]:
        def run() -> None:
            torch.autograd.grad(outputs[system]().sum(), list(layer.parameters()))

        return run

    return {mode: {s: make(s) for s in SYSTEMS} for mode, make in (("forward", forward), ("train", train))}


def measure(runs: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """Median milliseconds of each system, timed in turn after one round that does not count."""
    taken: dict[str, list[float]] = {system: [] for system in runs}
    for round_ in range(repeats + 1):
        for system, run in runs.items():
            start = time.perf_counter()
            run()
            if round_:
                taken[system].append(1e3 * (time.perf_counter() - start))
    return {system: round(statistics.median(values), 3) for system, values in taken.items()}


def table(result: dict) -> str:
    lines = [
        "# Benchmarks",
        "",
        "Written by `benchmarks/layers.py`; do not edit. Milliseconds, median of "
        f"{result['repeats']}, systems in turn within one run, float32.",
        f"{result['machine']}; torch {result['torch']}, gapcell {result['gapcell']}, {result['threads']} threads, "
        f"load before the run {result['load']}.",
        "",
        "*plain* is the per-step PyTorch loop under autograd, without a mask; *25 %* observes a quarter of the steps.",
        "Speed-up above 1 is in our favour; share is the cost at 25 % observed against all observed.",
        "",
        "| shape (N, T, sites, C, F, kernel) | | plain | gapcell | speed-up | gapcell 25 % | share |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, modes in result["shapes"].items():
        for mode, ms in modes.items():
            plain, ours, quarter = (ms[system] for system in SYSTEMS)
            lines.append(
                f"| {name} {SHAPES[name]} | {mode} | {plain:.1f} | {ours:.1f} | {plain / ours:.2f} | {quarter:.1f} "
                f"| {quarter / ours:.2f} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/layers.json"))
    parser.add_argument("--table", type=Path, help="also write the table there (Markdown)")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    result = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "torch": torch.__version__,
        "numpy": np.__version__,
        "gapcell": gapcell.__version__,
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
        "repeats": options.repeats,
        "shapes": {},
    }
    for name in options.shapes:
        result["shapes"][name] = {mode: measure(runs, options.repeats) for mode, runs in runs_of(name).items()}
        print(name, result["shapes"][name], flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    if options.table:
        options.table.write_text(table(result))


if __name__ == "__main__":
    main()
