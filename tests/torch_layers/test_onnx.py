"""An exported layer obeys its mask in another runtime: other numbers of rows and steps, NaN under the mask."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="layers are exported from torch")
pytest.importorskip("onnxruntime", reason="what was exported runs in onnxruntime")
pytest.importorskip("onnxscript", reason="torch exports to ONNX through onnxscript")

import onnxruntime
import torch
from torch import nn

from gapcell.torch import ConvGRU1d, ConvLSTM1d, ConvLSTM2d
from gapcell.torch.nn import LastObserved, MaskedConv1d, MaskedMeanPool, MaskedSequential

pytestmark = [  # of PyTorch's exporter, about itself
    pytest.mark.filterwarnings("ignore:torch.compile is ignored when called inside torch.export region:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
DYNAMIC = {0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO}


class Masked(nn.Module):
    """The exporter names positional arguments."""

    def __init__(self, model, *names):
        super().__init__()
        self.model, self.names = model, names

    def forward(self, x, *given):
        output, state = self.model(x, **dict(zip(self.names, given, strict=True)))
        return output, *(state if isinstance(state, tuple) else (state,))


def batch(shape, mask, names, seed):
    """x with NaN under its mask, the mask of so many axes, and what else is asked for."""
    draws = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=draws)
    sites = {2: shape[:2], 3: (*shape[:2], *shape[3:])}[mask]
    observed = torch.rand(sites, generator=draws) < 0.6
    rest = (1,) * (len(shape) - 2) if mask == 2 else (1, *sites[2:])
    x[~observed.reshape(*shape[:2], *rest).expand(shape)] = torch.nan
    more = {
        "lengths": torch.randint(0, shape[1] + 1, shape[:1], generator=draws),
        "dt": torch.rand(shape[:2], generator=draws) + 0.1,
    }
    return x, observed, *(more[name] for name in names[1:])


CASES = {
    "sites": (ConvLSTM1d(2, 3, 3), (3, 5, 2, 6), (2, 9, 2, 6), 3, ("mask",)),
    "hold output, 2-D": (ConvLSTM2d(2, 3, 3, masked_output="hold"), (2, 4, 2, 4, 3), (3, 7, 2, 4, 3), 3, ("mask",)),
    "both ways": (
        ConvGRU1d(2, 3, 3, bidirectional=True, gap="predict"), (3, 5, 2, 4), (4, 8, 2, 4), 3,
        ("mask", "lengths"),
    ),
    "series": (ConvLSTM1d(2, 3, 4, window=4, causal=True), (3, 9, 2), (2, 14, 2), 2, ("mask",)),
    "decay": (ConvLSTM1d(2, 3, 3, gap="decay"), (3, 5, 2, 4), (2, 8, 2, 4), 2, ("mask", "lengths", "dt")),
    "a model": (
        MaskedSequential(
            MaskedConv1d(2, 4, 3, padding=1, mask_rule="any", renormalize=True), nn.ReLU(), ConvLSTM1d(4, 3, 3),
            LastObserved(), MaskedMeanPool(over="sites", rank=1), nn.Linear(3, 2),
        ),
        (3, 5, 2, 6), (2, 9, 2, 6), 3, ("mask",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_was_exported_obeys_the_mask(name, tmp_path):
    model, shape, other, mask, names = CASES[name]
    module, given = Masked(model, *names).eval(), batch(shape, mask, names, 0)
    dynamic = {"x": DYNAMIC, "given": tuple({0: torch.export.Dim.AUTO} if g.ndim == 1 else DYNAMIC for g in given[1:])}
    program = torch.onnx.export(module, given, dynamo=True, dynamic_shapes=dynamic, verbose=False)
    program.save(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert any(node.op_type == "Scan" for node in program.model_proto.graph.node)
    assert not {node.domain for node in program.model_proto.graph.node} - {""}
    for seed, size in enumerate((shape, other)):
        given = batch(size, mask, names, seed)
        inputs = {place.name: value.numpy() for place, value in zip(session.get_inputs(), given, strict=True)}
        with torch.no_grad():
            want = module(*given)
        for got, tensor in zip(session.run(None, inputs), want, strict=True):
            np.testing.assert_allclose(got, tensor.numpy(), rtol=0, atol=1e-6)
            assert np.isfinite(got).all()
