"""Weights that travel: one safetensors file for all four frameworks, and imports from the layers people have.

>>> weights.save("m.safetensors", *weights.of(layer))  # a layer of gapcell.torch, gapcell.keras or gapcell.jax
>>> weights.into(other, *weights.load("m.safetensors"))  # a layer of the same Spec, of any framework

Parameters are in the canonical layout of `gapcell.reference` and `gapcell.jax`: a dict, or for several layers or
directions a list of dicts in nn.LSTM's order. Importing this imports no framework.
"""

from gapcell.weights.keras_layers import from_keras
from gapcell.weights.layers import into, of
from gapcell.weights.linen_and_haiku import from_flax, from_haiku
from gapcell.weights.pytorch_copies import from_pytorch
from gapcell.weights.refusals import WeightsError
from gapcell.weights.safetensors_file import load, save

__all__ = ["WeightsError", "from_flax", "from_haiku", "from_keras", "from_pytorch", "into", "load", "of", "save"]
