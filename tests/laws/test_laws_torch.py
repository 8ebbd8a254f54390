"""gapcell.torch obeys the laws of docs/semantics.md, section 8: both cells, every rank, mask and gap, both dtypes."""

import re
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch", reason="these are the laws of the torch layer")

import torch

import gapcell.torch
from gapcell.laws.adapters.torch import TorchLayer
from gapcell.laws.comparison import assert_same
from gapcell.laws.suite import LAWS, applies, ask
from gapcell.laws.table import CASES, DTYPES, build
from laws.plain import PlainLayer

CLAIMS = [
    (law, name, dtype)
    for name in CASES
    for law in LAWS
    for dtype in DTYPES
    if applies(law, build(name)) and not (law in (10, 11, 12) and dtype == np.float64)  # of shapes, whatever the dtype
]


@pytest.mark.parametrize(
    ("law", "name", "dtype"), CLAIMS, ids=[f"{law}-{name}-{dtype.__name__}" for law, name, dtype in CLAIMS]
)
def test_the_layer_obeys(law, name, dtype):
    ask(law, TorchLayer(channels_last=True), build(name, dtype), PlainLayer())


@pytest.mark.parametrize("law", [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13])
@pytest.mark.parametrize(
    "name", ["1d step mask", "1d element mask", "hold output gru", "predict, domain", "stride", "2d"]
)
def test_the_layer_obeys_where_masked_work_cannot_be_skipped(law, name):
    """The form that compilers, exporters and function transforms see."""
    if applies(law, build(name)):
        ask(law, TorchLayer(channels_last=True, dense=True), build(name), PlainLayer())


DROPOUT = {"dropout": 0.5, "input_dropout": 0.3, "recurrent_dropout": 0.4}


@pytest.mark.parametrize("law", [1, 2, 3, 4, 6, 8, 12])
@pytest.mark.parametrize("name", ["2 layers", "hold output gru", "predict, domain", "series, both ways", "stride"])
def test_the_layer_obeys_for_a_given_dropout_draw(law, name):
    case = build(name)
    case = case.but(spec=replace(case.spec, **DROPOUT))
    if applies(law, case):
        ask(law, TorchLayer(channels_last=True, dropout=True), case, PlainLayer())


def test_the_dropout_draw_is_there():
    case = build("2 layers")
    case = case.but(spec=replace(case.spec, **DROPOUT))
    layer = TorchLayer(dropout=True)
    assert np.abs(layer.run(case)[0] - TorchLayer().run(case)[0]).max() > 1e-3
    assert_same(layer.run(case), layer.run(case), "two runs of one seed")


@pytest.mark.parametrize("law", [1, 3, 9, 12, 13])
@pytest.mark.parametrize("name", [name for name in CASES if name.startswith(("1d", "2d", "3d", "bi", "series"))])
def test_the_layer_obeys_channels_first(law, name):
    if applies(law, build(name)):
        ask(law, TorchLayer(), build(name, np.float32), PlainLayer())


@pytest.mark.parametrize(
    ("argument", "shape"),
    [
        ("mask", (2, 5, 7, 3)),  # channels last, though the layer has them first
        ("mask", (2, 5, 3)),
        ("mask", (5, 2)),
        ("mask", (2, 1)),
        ("lengths", (5,)),
        ("domain", (3, 7)),
        ("domain", (2, 7, 1)),
        ("state", (1, 2, 7, 4)),
        ("state", (2, 4, 7)),
    ],
)
def test_wrong_shapes_are_refused_channels_first(argument, shape):
    wanted = {"mask": (2, 5, 3, 7), "lengths": (2, 2), "domain": (2, 7), "state": (1, 2, 4, 7)}[argument]
    layer, wrong = gapcell.torch.ConvGRU1d(3, 4, 3), torch.ones(shape, dtype=torch.long)
    given = {"state": wrong.float()} if argument == "state" else {argument: wrong}
    with pytest.raises(ValueError, match=f"`{argument}`.*{re.escape(str(shape))}") as refusal:
        layer(torch.zeros(2, 5, 3, 7), **given)
    assert str(wanted) in str(refusal.value)
