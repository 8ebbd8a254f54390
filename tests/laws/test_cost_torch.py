"""Law 14: the cost of gapcell.torch follows the observed steps, counted in multiplications of its convolutions."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch", reason="these are the costs of the torch layer")

from torch.utils.flop_counter import FlopCounterMode

from gapcell.laws.adapters.torch import TorchLayer
from gapcell.laws.cases import make_case, make_spec
from gapcell.laws.comparison import cotangents

LAYER = TorchLayer(channels_last=True)


def cost(case, train):
    dy, dstate = cotangents(LAYER, case)
    with FlopCounterMode(display=False) as counter:
        if train:
            LAYER.grad(case, dy, dstate)
        else:
            LAYER.run(case)
    return counter.get_total_flops()


@pytest.mark.parametrize("train", [False, True], ids=["forward", "train"])
@pytest.mark.parametrize(
    "options", [{}, {"cell": "gru", "num_layers": 2}, {"bidirectional": True}, {"rank": 2}], ids=str
)
def test_a_quarter_of_the_steps_costs_a_quarter(options, train):
    case = make_case(make_spec(**options), "step", N=8, T=20)
    full = cost(case.but(mask=None), train)
    mask = np.zeros((8, 20), dtype=bool)
    mask[:, ::4] = True
    rng = np.random.default_rng(0)
    assert full > 0
    assert cost(case.but(mask=mask), train) == pytest.approx(full / 4)
    assert cost(case.but(mask=rng.permuted(mask, axis=1)), train) == pytest.approx(full / 4)  # wherever they are
    assert cost(case.but(mask=rng.permuted(mask.reshape(-1)).reshape(8, 20)), train) == pytest.approx(full / 4)
    assert cost(case.but(mask=None, lengths=np.full(8, 5)), train) == pytest.approx(full / 4)
    assert cost(case.but(mask=np.zeros_like(mask)), train) == 0


@pytest.mark.parametrize("train", [False, True], ids=["forward", "train"])
def test_masked_events_of_a_series_cost_nothing(train):
    case = make_case(make_spec(window=4), "step", N=8, T=64)
    kept = np.zeros((8, 64), dtype=bool)
    kept[:, 1::4] = True
    full = cost(case.but(mask=None), train)
    assert cost(case.but(mask=kept), train) == pytest.approx(full / 4)


@pytest.mark.parametrize("train", [False, True], ids=["forward", "train"])
def test_under_predict_only_steps_that_exist_are_paid_for(train):
    case = make_case(make_spec(gap="predict"), "step", N=8, T=20, share=0.3)
    full = cost(case.but(lengths=np.full(8, 20)), train)
    assert cost(case.but(lengths=np.full(8, 5)), train) == pytest.approx(full / 4)
    hold = case.but(spec=replace(case.spec, gap="hold"), lengths=None)
    assert cost(hold, train) == pytest.approx(full * hold.kept.any(axis=-1).mean())
