"""The adapters that come along, by their names for `gapcell laws`; a framework is imported when one is made."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gapcell import extras

__all__ = ["KNOWN", "Known", "UnknownAdapterError", "load"]


class UnknownAdapterError(ValueError):
    """There is no adapter of this name, or it cannot be used here; the message says the cure."""


@dataclass(frozen=True)
class Known:
    """An adapter that comes along.

    Attributes:
        says: what layer it is.
        where: "module:class" in gapcell.laws.adapters, and the arguments that the class takes.
        needs: packages to import, each with what pip installs it by.
    """

    says: str
    where: str
    needs: dict[str, str]
    arguments: tuple[tuple[str, Any], ...] = ()

    def missing(self) -> str | None:
        """What pip has to install first, or None."""
        absent = [pip for package, pip in self.needs.items() if importlib.util.find_spec(package) is None]
        return " ".join(dict.fromkeys(absent)) or None


_TORCH, _JAX, _KERAS = {"torch": "'gapcell[torch]'"}, {"jax": "'gapcell[jax]'"}, {"keras": "'gapcell[keras]'"}
KNOWN = {
    "torch": Known("gapcell.torch", "torch:TorchLayer", _TORCH, (("channels_last", True),)),
    "torch-dense": Known(
        "gapcell.torch as compilers and function transforms see it, where masked work cannot be skipped",
        "torch:TorchLayer",
        _TORCH,
        (("channels_last", True), ("dense", True)),
    ),
    "jax": Known("gapcell.jax under jax.jit", "jax:JaxLayer", _JAX, (("jit", True),)),
    "keras": Known("gapcell.keras on Keras's backend (KERAS_BACKEND)", "keras:KerasLayer", _KERAS),
    "reference": Known("gapcell.reference, values only", "reference:ReferenceLayer", {}),
    "keras.layers": Known(
        "Keras's own ConvLSTM1D, 2D and 3D on its backend, given the mask", "keras_layers:KerasOwnLayer", _KERAS
    ),
    "flax": Known(
        "flax.linen.RNN(ConvLSTMCell), given seq_lengths",
        "flax:FlaxLayer",
        dict.fromkeys(("flax", "jax"), "'gapcell[flax]'"),
    ),
    "haiku": Known(
        "dm-haiku's Conv1DLSTM, 2D and 3D in dynamic_unroll", "haiku:HaikuLayer", _JAX | {"haiku": "dm-haiku"}
    ),
    "torch.nn.LSTM": Known("torch.nn.LSTM on packed sequences", "torch_nn:PackedLayer", _TORCH, (("cell", "lstm"),)),
    "torch.nn.GRU": Known("torch.nn.GRU on packed sequences", "torch_nn:PackedLayer", _TORCH, (("cell", "gru"),)),
    "x*mask": Known("a ConvLSTM in PyTorch without masks, fed with x * mask", "product:ProductLayer", _TORCH),
}


def load(name: str) -> Any:
    """An adapter by its name, or a user's own as package.module:attribute, found from the current folder too.

    Args:
        name: a name of `KNOWN`, or where a class (made without arguments) or an object stands.

    Raises:
        UnknownAdapterError: there is none of this name, or what it needs is not installed.
    """
    if name in KNOWN:
        return _known(name)
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        names = ", ".join(KNOWN)
        raise UnknownAdapterError(f"there is no adapter {name!r}; give package.module:attribute, or one of {names}")
    return _own(name, module, attribute)


def _known(name: str) -> Any:
    known = KNOWN[name]
    if missing := known.missing():
        packages = ", ".join(package for package in known.needs if importlib.util.find_spec(package) is None)
        raise UnknownAdapterError(f"{name} needs {packages}, which is not installed: pip install {missing}")
    place, _, kind = known.where.partition(":")
    try:
        module = importlib.import_module(f"{__name__}.{place}")
    except ModuleNotFoundError as error:  # such as a backend of Keras's
        answer = extras.answered_for_keras(error)
        raise UnknownAdapterError(f"{name} cannot be imported here: {answer}") from error
    except ImportError as error:
        raise UnknownAdapterError(f"{name} cannot be imported here: {error}") from error
    return getattr(module, kind)(**dict(known.arguments))


def _own(name: str, module: str, attribute: str) -> Any:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):
            raise
        raise UnknownAdapterError(f"{name}: no module {error.name!r}, neither installed nor in {os.curdir}") from None
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise UnknownAdapterError(f"{name}: {module} has no {attribute!r}") from None
    adapter = found() if isinstance(found, type) else found
    if not callable(getattr(adapter, "run", None)):
        raise UnknownAdapterError(f"{name} is a {type(adapter).__name__} without `run(case)`; see gapcell.laws.Adapter")
    return adapter
