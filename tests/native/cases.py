"""A layer, a batch and how to run it; the kernel's results for it, and those of float64 PyTorch under autograd."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gapcell import Spec, native
from gapcell.torch import plain
from gapcell.torch.plan import Inputs, Plan

Arrays = dict[str, Any]

KERNELS = ("avx512", "avx2", "portable")
INPUTS = ("x", "observed", "update", "recurrent_scale", "h0", "c0", "dt", "rates")


def weight_shapes(spec: Spec) -> dict[str, tuple[int, ...]]:
    """Of the parameters that the kernel packs: rates it reads as they are."""
    return {name: shape for name, shape in spec.parameter_shapes().items() if name != "decay"}


@dataclass(frozen=True)
class Case:
    """What is drawn; everything else follows from the seed.

    `observed` and `update` name what the masks cover ("steps", "sites", "elements"; "" none) with the share that is
    True; `scale` likewise names the dropout scale's shape ("row", "sites").
    """

    spec: Spec
    samples: int = 3
    steps: int = 4
    sites: tuple[int, ...] = (5,)
    observed: str = ""
    update: str = ""
    share: float = 0.6
    scale: str = ""
    state: bool = True
    store: str = "fp32"
    held_output: str = "zero"
    reverse: bool = False
    threads: int = 1
    parallel: int = 0
    seed: int = 0

    def layer(self) -> native.Layer:
        names = ("samples", "steps", "sites", "store", "held_output", "reverse", "threads", "parallel")
        return native.Layer(self.spec, **{name: getattr(self, name) for name in names})

    def arrays(self) -> Arrays:
        """Everything that is read, float32; cotangents under the C interface's names."""
        rng, spec = np.random.default_rng(self.seed), self.spec
        N, T, S, P = self.samples, self.steps, self.sites, spec.output_sites(self.sites)

        def normal(*shape: int, size: float = 1.0) -> np.ndarray:
            return (rng.normal(size=shape) * size).astype(np.float32)

        def mask(covers: str, sites: tuple[int, ...]) -> np.ndarray | None:
            shapes = {"steps": (N, T), "sites": (N, T, *sites), "elements": (N, T, *sites, spec.in_channels)}
            return rng.random(shapes[covers]) < self.share if covers else None

        data: Arrays = {"x": normal(N, T, *S, spec.in_channels), "observed": mask(self.observed, S)}
        data["update"] = mask(self.update, P)
        shapes = {"row": (N, spec.filters), "sites": (N, *P, spec.filters)}
        data["recurrent_scale"] = None
        if self.scale:
            data["recurrent_scale"] = (rng.random(shapes[self.scale]) < 0.7).astype(np.float32) / np.float32(0.7)
        names = ("h", "c") if spec.cell == "lstm" else ("h",)
        for name in names:
            data[f"{name}0"] = normal(N, *P, spec.filters) if self.state else None
            data[f"d{name}"] = normal(N, *P, spec.filters)
        data["dhs"] = normal(N, T, *P, spec.filters)
        for name, shape in spec.parameter_shapes().items():
            reads = math.prod(shape[:-1]) if len(shape) > 1 else 4
            data[name] = normal(*shape, size=reads**-0.5)
        if spec.gap == "decay":
            data["rates"] = np.abs(data.pop("decay"))
            data["rates"][: spec.filters // 3] *= -1  # which count as 0
            data["dt"] = rng.exponential(size=(N, T)).astype(np.float32)
        return data

    def but(self, **changes: Any) -> Case:
        return dataclasses.replace(self, **changes)


def aligned(count: int) -> np.ndarray:
    """Bytes that begin at a multiple of 64."""
    memory = np.full(count + 64, 255, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + count]


def empty_like(layer: native.Layer, names: tuple[str, ...]) -> Arrays:
    """Arrays to be filled: of NaN, so that a place that is left out shows."""
    return {name: np.full(next(iter(layer._accepted[name].shapes)), np.nan, np.float32) for name in names}


def run_kernel(case: Case, data: Arrays | None = None, *, backward: bool = True) -> Arrays:
    """hs, the final state and, with `backward`, every gradient."""
    data = case.arrays() if data is None else data
    layer, parameters = case.layer(), weight_shapes(case.spec)
    weights = {name: data[name] for name in parameters}
    inputs = {name: data.get(name) for name in INPUTS if data.get(name) is not None}
    states = ("h", "c") if case.spec.cell == "lstm" else ("h",)
    results = empty_like(layer, ("hs", *states))
    stored = aligned(layer.stored_bytes(data["update"])) if case.store != "none" else None
    layer.forward(weights, **inputs, **results, stored=stored)
    if backward:
        wanted = ["dx", *(f"d{name}" for name in parameters)]
        wanted += [f"d{name}0" for name in states] if case.state else []
        wanted += ["drates"] if "rates" in data else []
        gradients = empty_like(layer, tuple(wanted))
        cotangents = {name: data[name] for name in ("dhs", *(f"d{name}" for name in states))}
        layer.backward(weights, **inputs, hs=results["hs"], stored=stored, **cotangents, **gradients)
        results |= gradients
    return results


def run_torch(case: Case, data: Arrays | None = None, dtype: torch.dtype = torch.float64) -> Arrays:
    """The same through `gapcell.torch.plain` and autograd; masks of x and outputs are selects around it."""
    data = case.arrays() if data is None else data
    spec, N, T = case.spec, case.samples, case.steps
    P, rank, lstm = spec.output_sites(case.sites), spec.rank, spec.cell == "lstm"
    leaves = {
        name: torch.tensor(data[name], dtype=dtype, requires_grad=True)
        for name in ("x", *weight_shapes(spec), "h0", "rates", *(("c0",) if lstm else ()))
        if data.get(name) is not None
    }
    zero = torch.zeros(N, *P, spec.filters, dtype=dtype)
    x = leaves["x"]
    if data["observed"] is not None:
        observed = torch.tensor(data["observed"])
        x = torch.where(observed.reshape(*observed.shape, *(1,) * (x.ndim - observed.ndim)), x, 0)
    update = torch.ones(N, T, *P, dtype=torch.bool)
    if data["update"] is not None:
        given = torch.tensor(data["update"])
        update = given.reshape(*given.shape, *(1,) * (2 + rank - given.ndim)).expand(N, T, *P)
    turned = x.flip(1) if case.reverse else x
    turned_update = update.flip(1) if case.reverse else update
    scale = None
    if data["recurrent_scale"] is not None:
        scale = torch.tensor(data["recurrent_scale"], dtype=dtype)
        scale = scale.reshape(N, *(1,) * rank, spec.filters) if case.scale == "row" else scale
    plan = Plan.of(spec, case.sites, (N,) * T)
    inputs = Inputs(
        x=plan.pad_input(turned.transpose(0, 1).flatten(0, 1)),
        h=leaves.get("h0", zero),
        c=leaves.get("c0", zero) if lstm else None,
        weight_ih=leaves["kernel"].permute(rank + 1, rank, *range(rank)),
        weight_hh=leaves["recurrent_kernel"].permute(rank + 1, rank, *range(rank)),
        bias=leaves.get("bias"),
        recurrent_bias=leaves.get("recurrent_bias"),
        dropout=scale,
        update=turned_update.transpose(0, 1).flatten(0, 1)[..., None],
        decay=leaves.get("rates"),
        elapsed=_elapsed(case, data, dtype),
    )
    hs, *final = plain.run(plan, inputs)
    hs = hs.unflatten(0, (T, N)).transpose(0, 1) if T else hs.new_empty(N, 0, *P, spec.filters)
    hs = hs.flip(1) if case.reverse else hs
    if case.held_output == "zero":
        hs = torch.where(update[..., None], hs, 0)
    outputs = dict(zip(("h", "c") if lstm else ("h",), final, strict=True))
    loss = (hs * torch.tensor(data["dhs"])).sum() + 0 * leaves["kernel"].sum()  # an empty batch has no graph
    for name, value in outputs.items():
        loss = loss + (value * torch.tensor(data[f"d{name}"])).sum()
    gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
    results = {"hs": hs, **outputs, **{f"d{name}": value for name, value in zip(leaves, gradients, strict=True)}}
    return {name: value.detach().numpy() for name, value in results.items()}


def _elapsed(case: Case, data: Arrays, dtype: torch.dtype) -> torch.Tensor | None:
    """dt of every (sample, step) in the order that `plain.run` has them."""
    if "dt" not in data:
        return None
    dt = torch.tensor(data["dt"], dtype=dtype)
    return (dt.flip(1) if case.reverse else dt).transpose(0, 1).flatten()


def worst(ours: Arrays, theirs: Arrays) -> tuple[float, str]:
    """The largest difference as a share of that array's largest value, and whose it is."""
    errors = [(0.0, "")]
    for name, value in ours.items():
        assert value.shape == theirs[name].shape
        if value.size:
            most = np.abs(theirs[name]).max()
            error = np.abs(value - theirs[name]).max() / max(most, 1e-6)
            errors.append((float(error) if np.isfinite(error) else math.inf, name))
    return max(errors)


def same_bits(ours: Arrays, theirs: Arrays) -> list[str]:
    """Names of the arrays that differ in any bit."""
    return [name for name in ours if ours[name].tobytes() != theirs[name].tobytes()]
