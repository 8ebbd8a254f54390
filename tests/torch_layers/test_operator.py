"""PyTorch's compiler and exporter see the CPU kernel as one operator, with the results of the eager layer."""

import subprocess
import sys

import pytest

pytest.importorskip("torch", reason="these are tests of the torch layers")

import torch

from gapcell import Spec, native
from gapcell.torch import ConvGRU1d, ConvGRU2d, ConvLSTM1d, ConvLSTM2d, operator

if native.active().name == "off":
    pytest.skip(f"no kernel: {native.active().reason}", allow_module_level=True)

pytestmark = [
    pytest.mark.filterwarnings(r"ignore:`torch.jit.script(_method)?` is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:torch.compile is ignored when called inside torch.export region:UserWarning"),
    # A row with nothing observed looks like padding.
    pytest.mark.filterwarnings("ignore:gap=.decay. lets the state decay:UserWarning"),
]

DYNAMIC = {0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO}
CASES = [
    (ConvLSTM1d, {"bidirectional": True}, (3, 4, 2, 5)),
    (ConvGRU2d, {"masked_output": "hold", "stride": 2}, (3, 3, 2, 3, 4)),
    (ConvLSTM1d, {"window": 3, "causal": True, "store_gates": "bf16"}, (3, 7, 2)),
    (ConvLSTM2d, {"num_layers": 2, "store_gates": "recompute"}, (2, 3, 2, 3, 4)),
    (ConvGRU1d, {"gap": "decay", "bidirectional": True}, (3, 4, 2, 5)),
]


def batch(shape, dtype=torch.float32):
    x, mask = torch.randn(shape).to(dtype), torch.rand(shape) < 0.6
    mask[-1] = False
    return x.masked_fill(~mask, torch.nan), mask


def parts(state):
    return (state,) if isinstance(state, torch.Tensor) else tuple(state)


def gradients(layer, x, output, state):
    total = sum((part * torch.linspace(-1, 1, part.numel()).view_as(part)).sum() for part in (output, *parts(state)))
    return torch.autograd.grad(total, [x, *layer.parameters()])


def assert_close(got, want, tolerance=2e-6):
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w, rtol=0, atol=tolerance * max(1.0, float(w.detach().abs().max())))


def operators(graph):
    return [str(node.target) for node in graph.nodes if "gapcell" in str(node.target)]


@pytest.fixture
def traced():
    """A backend for torch.compile that keeps the operators it saw, forward and backward."""
    from functorch.compile import make_boxed_func
    from torch._dynamo.backends.common import aot_autograd

    seen = []

    def compiler(graph, inputs):
        seen.append(operators(graph.graph))
        return make_boxed_func(graph.forward)

    torch.compiler.reset()
    return seen, aot_autograd(fw_compiler=compiler)


@pytest.mark.parametrize(("kind", "options", "shape"), CASES)
def test_compiled_it_is_an_operator_in_either_direction(kind, options, shape, traced):
    seen, backend = traced
    layer = kind(2, 3, 3, **options)
    compiled = torch.compile(layer, fullgraph=True, backend=backend)
    x, mask = batch(shape)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    want, got = layer(inputs[0], mask=mask), compiled(inputs[1], mask=mask)
    assert_close([got[0], *parts(got[1])], [want[0], *parts(want[1])])
    # What is kept in bfloat16 is kept so in both.
    assert_close(gradients(layer, inputs[1], *got), gradients(layer, inputs[0], *want), 1e-5)
    runs = layer.spec.num_layers * layer.spec.directions
    assert seen[0] == ["gapcell.recurrence.default"] * runs
    assert seen[1] == ["gapcell.recurrence_backward.default"] * runs


def test_switched_off_while_compiling_there_is_no_operator(traced):
    seen, backend = traced
    layer, (x, mask) = ConvLSTM1d(2, 3, 3), batch((2, 3, 2, 4))
    with native.using("off"):
        torch.compile(layer, fullgraph=True, backend=backend)(x, mask=mask)
    assert seen == [[]]


def test_switched_off_later_a_graph_still_infers_and_says_why_it_cannot_train(traced):
    layer, (x, mask) = ConvGRU1d(2, 3, 3), batch((2, 3, 2, 4))
    compiled = torch.compile(layer, fullgraph=True, backend=traced[1])
    with torch.no_grad():
        want = compiled(x, mask=mask)[0]
        with native.using("off"):
            assert_close([compiled(x, mask=mask)[0]], [want])
    compiled(x, mask=mask)
    with native.using("off"), pytest.raises(RuntimeError, match=r"switched off; compile it again \(torch.compiler"):
        compiled(x, mask=mask)


class Masked(torch.nn.Module):
    """The exporter names positional arguments."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x, mask):
        output, state = self.layer(x, mask=mask)
        return output, parts(state)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(("kind", "options", "shape"), CASES[:3])
def test_an_export_holds_the_operator_and_runs_at_other_sizes(kind, options, shape, strict):
    model = Masked(kind(2, 3, 3, **options))
    program = torch.export.export(model, batch(shape), dynamic_shapes=(DYNAMIC, DYNAMIC), strict=strict)
    assert operators(program.graph) == ["gapcell.recurrence.default"] * model.layer.spec.directions
    for N, T in ((3, 7), (2, 12), (5, 4)):
        x, mask = batch((N, T, *shape[2:]))
        got, want = program.module()(x, mask), model(x, mask)
        assert_close([got[0], *got[1]], [want[0], *want[1]])
        with native.using("off"):
            away = program.module()(x, mask)
        assert_close([away[0], *away[1]], [want[0], *want[1]])


def test_gradients_go_through_an_export():
    model = Masked(ConvLSTM1d(2, 3, 3))
    program = torch.export.export(model, batch((3, 4, 2, 5)), dynamic_shapes=(DYNAMIC, DYNAMIC)).module()
    x, mask = batch((2, 6, 2, 5))
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    got = gradients(program, inputs[0], *program(inputs[0], mask))
    assert_close(got, gradients(model, inputs[1], *model(inputs[1], mask)), 1e-5)


def test_an_export_to_onnx_holds_no_operator_of_ours(monkeypatch):
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
    program = torch.export.export(Masked(ConvLSTM1d(2, 3, 3)), batch((3, 4, 2, 5)), dynamic_shapes=(DYNAMIC, DYNAMIC))
    assert not operators(program.graph)


def test_function_transforms_see_the_dense_form_when_compiled():
    layer, (x, _) = ConvLSTM1d(2, 3, 3), batch((2, 3, 2, 4))
    x = x.nan_to_num()

    def each(x):
        return layer(x[None])[0][0]

    compiled = torch.compile(torch.func.vmap(each), fullgraph=True, backend="aot_eager")
    assert_close([compiled(x)], [layer(x)[0]])


@pytest.mark.parametrize("store", ["none", "fp32", "bf16", "recompute"])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_what_the_operators_say_of_themselves_is_true(cell, store):
    """Schema, fake tensors with symbolic sizes, and autograd's registration."""
    # All of `stored` is compared: no held steps and no padding channels, which are never written.
    N, T, L, C, F = 3, 4, 5, 2, 16
    gates = 4 if cell == "lstm" else 3
    recording = store != "none"
    tensors = [torch.randn(N, T, L, C), torch.randn(N, L, F), torch.randn(N, L, F) if cell == "lstm" else None]
    tensors += [torch.randn(gates * F, C, 3), torch.randn(gates * F, F, 3), torch.randn(gates * F)]
    tensors += [torch.randn(F) if cell == "gru" else None]
    tensors = [value if value is None else value.requires_grad_(recording) for value in tensors]
    spec = Spec(cell=cell, rank=1, in_channels=C, filters=F, kernel_size=3, gap="decay" if cell == "gru" else "hold")
    decay = (torch.rand(F).requires_grad_(recording), torch.rand(N, T)) if cell == "gru" else (None, None)
    arguments = (*tensors, None, None, *decay, operator._text(spec), False, False, store)
    torch.library.opcheck(torch.ops.gapcell.recurrence.default, arguments, atol=1e-4, rtol=1e-4)


def test_the_layers_are_imported_without_pytorchs_compiler():
    """It takes longer than all the rest, and most programs do not compile."""
    code = "import sys, gapcell.torch; sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
