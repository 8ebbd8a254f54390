"""Times gapcell.keras beside keras.layers' own ConvLSTM on each backend, full and ragged.

    python benchmarks/keras_layers.py --out benchmarks/results/keras_layers.json

Needs keras, tensorflow, jax and torch. Keras has one backend a process, so each is measured in a process of its own.
XLA-CPU's gradient of a convolution is slow: on the largest shapes Keras's training step takes minutes there and is left
out.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from timing import SHAPES, measure, surroundings

import gapcell

VARIANTS = {"tensorflow": "tensorflow", "tensorflow, jit": "tensorflow", "jax": "jax", "torch": "torch"}
PACKAGES = {"tensorflow": "tensorflow-cpu"}
COMPARED = ("S1", "S2", "S3")
SLOW = {"tensorflow, jit": ("S3",), "jax": ("S3",)}  # no training step of Keras's own

Run = Callable[[], object]


def ragged(samples: int, steps: int) -> np.ndarray:
    """Rows padded to the longest, 44 % of the steps observed."""
    lengths = np.ceil(steps * (np.arange(1, samples + 1) / samples) ** 1.3)
    return np.arange(steps) < np.random.default_rng(1).permutation(lengths)[:, None]


def on_tensorflow(layer: Any, x: Any, mask: Any, jit_compile: bool) -> dict[str, Run]:
    import tensorflow as tf

    x = tf.convert_to_tensor(x)
    weights = [weight.value for weight in layer.trainable_variables]

    @tf.function(jit_compile=jit_compile)
    def forward() -> Any:
        return layer(x, mask=mask)

    @tf.function(jit_compile=jit_compile)
    def train() -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(x, mask=mask, training=True))
        return tape.gradient(loss, weights)

    return {"forward": lambda: forward().numpy(), "train": lambda: train()[0].numpy()}


def on_jax(layer: Any, x: Any, mask: Any, _: bool) -> dict[str, Run]:
    import jax
    import jax.numpy as jnp

    weights = [weight.value for weight in layer.trainable_variables]
    fixed = [weight.value for weight in layer.non_trainable_variables]
    x = jnp.asarray(x)

    def call(weights: Any, training: bool) -> Any:
        return layer.stateless_call(weights, fixed, x, mask=mask, training=training)[0]

    forward = jax.jit(lambda weights: call(weights, False))
    train = jax.jit(jax.grad(lambda weights: jnp.sum(call(weights, True))))
    return {
        "forward": lambda: jax.block_until_ready(forward(weights)),
        "train": lambda: jax.block_until_ready(train(weights)),
    }


def on_torch(layer: Any, x: Any, mask: Any, _: bool) -> dict[str, Run]:
    import torch

    x = torch.as_tensor(x)

    def forward() -> None:
        with torch.no_grad():
            layer(x, mask=mask)

    def train() -> None:
        layer.zero_grad()
        layer(x, mask=mask, training=True).sum().backward()

    return {"forward": forward, "train": train}


MAKERS = {"tensorflow": on_tensorflow, "jax": on_jax, "torch": on_torch}


def systems(variant: str, name: str) -> dict[str, dict[str, Run]]:
    """Forward and training step of each system; Keras's own on JAX takes no mask of steps."""
    import keras

    import gapcell.keras

    samples, steps, sites, channels, filters, kernel = SHAPES[name]
    x = np.random.default_rng(0).normal(size=(samples, steps, *sites, channels)).astype("float32")
    mask = keras.ops.convert_to_tensor(ragged(samples, steps))
    found = {}
    for system, module in (("keras", keras.layers), ("gapcell", gapcell.keras)):
        layer = getattr(module, f"ConvLSTM{len(sites)}D")(filters, kernel, padding="same", return_sequences=True)
        layer.build(x.shape)
        make, jit = MAKERS[VARIANTS[variant]], variant.endswith("jit")
        found[system] = make(layer, x, None, jit)
        if system != "keras" or variant != "jax":
            found[f"{system} ragged"] = make(layer, x, mask, jit)
    return found


def times(variant: str, name: str, repeats: int) -> dict[str, dict[str, float]]:
    made = systems(variant, name)
    slow = name in SLOW.get(variant, ())
    return {
        mode: measure(
            {
                system: runs[mode]
                for system, runs in made.items()
                if not (slow and mode == "train" and "keras" in system)
            },
            repeats,
        )
        for mode in ("forward", "train")
    }


def measure_variant(options: argparse.Namespace) -> None:
    """In a process of its own: one backend, plain or compiled."""
    found = {}
    for name in options.shapes:
        found[name] = times(options.variant, name, options.repeats)
        print(options.variant, name, found[name], flush=True)
    options.out.write_text(json.dumps(found), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/keras_layers.json"))
    parser.add_argument("--shapes", nargs="+", choices=COMPARED, default=list(COMPARED))
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.variant:
        measure_variant(options)
        return
    versions = {name: importlib.metadata.version(PACKAGES.get(name, name)) for name in (*MAKERS, "keras")}
    versions["gapcell"] = gapcell.__version__
    result: dict[str, Any] = {**surroundings(), **versions, "repeats": options.repeats, "shapes": {}}
    if options.out.exists():  # what is measured anew replaces what is in the file
        result["shapes"] = json.loads(options.out.read_text(encoding="utf-8"))["shapes"]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for variant in options.variants:
            part = Path(folder) / "part.json"
            command = [sys.executable, __file__, "--variant", variant, "--out", part, "--shapes", *options.shapes]
            environment = os.environ | {"KERAS_BACKEND": VARIANTS[variant], "TF_CPP_MIN_LOG_LEVEL": "3"}
            subprocess.run([*command, "--repeats", str(options.repeats)], env=environment, check=True)
            measured = json.loads(part.read_text(encoding="utf-8"))
            result["shapes"][variant] = result["shapes"].get(variant, {}) | measured
            options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
