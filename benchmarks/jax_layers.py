"""Times gapcell.jax beside flax and Keras on JAX, and asks XLA how much memory a training step takes.

    python benchmarks/jax_layers.py --out benchmarks/results/jax_layers.json

Needs jax, flax and keras. XLA-CPU's gradient of a convolution is slow: on the two largest shapes flax takes minutes a
training step, so there only its memory is compared, which needs no run.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"

import flax
import flax.linen
import jax
import jax.numpy as jnp
import keras
from timing import SHAPES, measure, surroundings

import gapcell
import gapcell.jax
from gapcell import Spec

OTHERS = ("flax", "keras")


def systems(name: str) -> dict[str, tuple[Callable[..., Any], tuple[Any, ...]]]:
    """For each system a function of (parameters, x, ...) and its arguments."""
    samples, steps, sites, channels, filters, kernel = SHAPES[name]
    keys = jax.random.split(jax.random.key(0), 4)
    x = jax.random.normal(keys[0], (samples, steps, *sites, channels))
    mask = jax.random.uniform(keys[1], (samples, steps)) < 0.7

    spec = Spec(rank=len(sites), in_channels=channels, filters=filters, kernel_size=kernel)
    params = gapcell.jax.init(keys[2], spec)
    module = flax.linen.RNN(flax.linen.ConvLSTMCell(filters, (kernel,) * len(sites)))
    layer = getattr(keras.layers, f"ConvLSTM{len(sites)}D")(filters, kernel, padding="same", return_sequences=True)
    layer.build(x.shape)
    trained = [variable.value for variable in layer.trainable_variables]
    others = [variable.value for variable in layer.non_trainable_variables]
    return {
        "flax": (module.apply, (module.init(keys[3], x), x)),
        "keras": (lambda values, x: layer.stateless_call(values, others, x)[0], (trained, x)),
        "gapcell": (lambda params, x: gapcell.jax.apply(params, x, spec)[0], (params, x)),
        "gapcell mask": (lambda params, x, mask: gapcell.jax.apply(params, x, spec, mask=mask)[0], (params, x, mask)),
        "plain": (lambda params, x: gapcell.jax.apply(params, x, spec, vjp="plain")[0], (params, x)),
    }


def gradient(function: Callable[..., Any]) -> Callable[..., Any]:
    return jax.grad(lambda values, *rest: jnp.sum(function(values, *rest)))


def times(name: str, repeats: int) -> dict[str, dict[str, float]]:
    chosen = {system: what for system, what in systems(name).items() if system != "plain"}

    def runs(transform: Callable[..., Any], left_out: tuple[str, ...] = ()) -> dict[str, Callable[[], object]]:
        compiled = {s: (jax.jit(transform(f)), a) for s, (f, a) in chosen.items() if s not in left_out}
        return {s: lambda f=f, a=a: jax.block_until_ready(f(*a)) for s, (f, a) in compiled.items()}

    slow = OTHERS if name in ("S3", "S5") else ()
    return {
        "forward": measure(runs(lambda f: f), repeats),
        "train": measure(runs(gradient, slow), repeats),
        "compile": {} if slow else compile_times(chosen),
    }


def compile_times(chosen: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]]) -> dict[str, float]:
    taken = {}
    for system, (function, arguments) in chosen.items():
        jax.clear_caches()
        start = time.perf_counter()
        jax.jit(gradient(function)).lower(*arguments).compile()
        taken[system] = round(1e3 * (time.perf_counter() - start), 1)
    return taken


def memory(name: str) -> dict[str, float]:
    """Megabytes of a training step's temporaries."""
    found = {}
    for system, (function, arguments) in systems(name).items():
        if system in ("flax", "plain", "gapcell"):
            compiled = jax.jit(gradient(function)).lower(*arguments).compile()
            found[system] = round(compiled.memory_analysis().temp_size_in_bytes / 1e6, 1)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/jax_layers.json"))
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    result: dict[str, Any] = {
        **surroundings(),
        "jax": jax.__version__,
        "flax": flax.__version__,
        "keras": keras.__version__,
        "gapcell": gapcell.__version__,
        "repeats": options.repeats,
        "shapes": {},
        "memory": {},
    }
    if options.out.exists():  # shapes measured anew replace those in the file
        before = json.loads(options.out.read_text(encoding="utf-8"))
        result |= {part: before[part] for part in ("shapes", "memory")}
    for name in options.shapes:
        result["shapes"][name] = times(name, options.repeats)
        print(name, result["shapes"][name], flush=True)
    for name in options.shapes:
        result["memory"][name] = memory(name)
        print(name, "MB", result["memory"][name], flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
