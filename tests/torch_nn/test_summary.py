"""What the summary of a MaskedSequential says."""

from collections import OrderedDict

import pytest

pytest.importorskip("torch", reason="these are tests of gapcell.torch.nn")

import torch
from torch import nn

from gapcell.torch import ConvLSTM1d, ConvLSTM2d
from gapcell.torch import nn as gnn


def test_the_summary_tells_the_way_of_the_mask():
    encoder = gnn.MaskedSequential(
        gnn.MaskedConv1d(2, 4, 4, stride=2, padding=1, mask_rule="any"),
        gnn.MaskedBatchNorm1d(4),
        nn.ReLU(),
        ConvLSTM1d(4, 6, 3),
        gnn.LastObserved(),
    )
    decoder = gnn.MaskedSequential(
        gnn.MaskedRepeat(3), ConvLSTM1d(6, 6, 3), gnn.MaskedConvTranspose1d(6, 2, 4, stride=2, padding=1)
    )
    model = gnn.MaskedSequential(OrderedDict(encoder=encoder, decoder=decoder))
    x, mask = torch.zeros(2, 3, 2, 8), torch.zeros(2, 3, 2, 8)
    mask[0, :, 0, :4] = 1
    before = {name: value.clone() for name, value in model.state_dict().items()}
    said = model.summary(x, mask)
    assert " ".join(said.splitlines()[0].split()) == "layer output mask observed what happens to the mask"
    rows = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in said.splitlines()[2:]]
    assert rows == [
        ["(input)", "(2, 3, 2, 8)", "(2, 3, 2, 8)", "12.5 %"],
        ["encoder.0", "MaskedConv1d(2, 4, kernel_size=4, stride=2, paddin…)", "(2, 3, 4, 4)", "(2, 3, 4)",
         "37.5 %", "sites: any tap observed"],
        ["encoder.1", "MaskedBatchNorm1d(4)", "(2, 3, 4, 4)", "(2, 3, 4)", "37.5 %", "unchanged"],
        ["encoder.2", "ReLU", "(2, 3, 4, 4)", "(2, 3, 4)", "37.5 %", "unchanged, zeros put back"],
        ["encoder.3", "ConvLSTM1d(4, 6, kernel_size=3)", "(2, 3, 6, 4)", "(2, 3, 4)", "37.5 %",
         "hold: sites, the kernel's centre decides"],
        ["encoder.4", "LastObserved", "(2, 6, 4)", "(2, 4)", "37.5 %", "sites: observed at any step"],
        ["decoder.0", "MaskedRepeat(steps=3)", "(2, 3, 6, 4)", "(2, 3, 4)", "37.5 %", "repeated 3 times"],
        ["decoder.1", "ConvLSTM1d(6, 6, kernel_size=3)", "(2, 3, 6, 4)", "(2, 3, 4)", "37.5 %",
         "hold: sites, the kernel's centre decides"],
        ["decoder.2", "MaskedConvTranspose1d(6, 2, kernel_size=4, stride=…)", "(2, 3, 2, 8)", "(2, 3, 8)",
         "37.5 %", "sites: the kernel's centre decides"],
    ]  # fmt: skip
    columns = [
        at for at, sign in enumerate(said.splitlines()[1]) if sign == "─" and said.splitlines()[1][at - 1] == " "
    ]
    assert all(line[at - 2 : at].isspace() for line in said.splitlines() for at in columns if at < len(line))
    assert model.training
    assert model[0].training
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_the_summary_of_a_mask_of_steps_and_of_none():
    model = gnn.MaskedSequential(
        ConvLSTM2d(2, 4, 3, channels_last=True),
        nn.Linear(4, 3),
        gnn.MaskedFlatten(channels_last=True),
        gnn.TimeDistributed(nn.Softmax(-1)),
        gnn.MaskedSumPool(channels_last=True),
    )
    x = torch.zeros(2, 3, 4, 5, 2)
    rows = [line.split("  ") for line in model.summary(x, torch.ones(2, 3)).splitlines()[3:]]
    assert [row[-1].strip() for row in rows] == [
        "hold: unchanged",
        "unchanged, zeros put back",
        "unchanged",
        "unchanged",
        "steps: observed at any step",
    ]
    rows = model.summary(x).splitlines()[3:]
    assert "ConvLSTM2d(2, 4, kernel_size=3, channels_last=True)" in rows[0]
    assert [row.split()[-2:] for row in rows] == [["none", "all"]] * 5
    assert "TimeDistributed(Softmax)" in rows[3]
