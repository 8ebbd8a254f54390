"""Times the PyTorch layer beside the loop one writes without it, and writes what it measured.

    python benchmarks/layers.py --out benchmarks/results/layers.json

Both systems are timed in turn within one run; a figure is the median. "25 %" observes a quarter of the steps, drawn
at random; the plain loop has no mask and computes every step whatever is observed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from timing import SHAPES, measure, surroundings
from torch import Tensor, nn

import gapcell
from gapcell.torch import ConvLSTM1d, ConvLSTM2d

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/layers.json"))
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    result = {
        **surroundings(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "gapcell": gapcell.__version__,
        "threads": torch.get_num_threads(),
        "repeats": options.repeats,
        "shapes": {},
    }
    for name in options.shapes:
        result["shapes"][name] = {mode: measure(runs, options.repeats) for mode, runs in runs_of(name).items()}
        print(name, result["shapes"][name], flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
