"""A layer of each framework for a Spec, and how it is run over a batch; imported when asked for."""

from __future__ import annotations

from typing import Any

import numpy as np

SHARED = ("recurrent_kernel_size", "num_layers", "stride", "padding", "dilation", "window", "causal", "gap")
SHARED += ("masked_output", "mask_rule", "bidirectional", "dropout", "input_dropout", "recurrent_dropout")


def torch_layer(spec: Any, **options: Any) -> Any:
    import gapcell.torch

    kind = f"Conv{spec.cell.upper()}{spec.rank}d"
    shared = {name: getattr(spec, name) for name in SHARED} | {"bias": spec.bias}
    return getattr(gapcell.torch, kind)(
        spec.in_channels, spec.filters, spec.kernel_size, channels_last=True, **shared | options
    )


def nnx_layer(spec: Any, **options: Any) -> Any:
    from flax import nnx

    import gapcell.jax

    kind = {"lstm": gapcell.jax.ConvLSTM, "gru": gapcell.jax.ConvGRU}[spec.cell]
    shared = {name: getattr(spec, name) for name in (*SHARED, "go_backwards", "same_padding")} | {"use_bias": spec.bias}
    return kind(spec.in_channels, spec.filters, spec.kernel_size, rank=spec.rank, rngs=nnx.Rngs(0), **shared | options)


def run_torch(layer: Any, x: np.ndarray, mask: np.ndarray) -> np.ndarray:
    import torch

    with torch.no_grad():
        return layer.eval()(torch.tensor(x), mask=torch.tensor(mask))[0].numpy()


def run_nnx(layer: Any, x: np.ndarray, mask: np.ndarray) -> np.ndarray:
    layer.eval()
    return np.asarray(layer(x, mask=mask)[0])


MAKE = {"torch": torch_layer, "nnx": nnx_layer}
RUN = {"torch": run_torch, "nnx": run_nnx}
NEEDS = {"torch": "torch", "nnx": "flax"}
