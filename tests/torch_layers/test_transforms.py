"""The layers under PyTorch's compiler, exporter, function transforms and higher derivatives.

There masked work cannot be skipped, because no value may be looked at; the results are the same.
"""

import shutil
import sysconfig
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="these are tests of the torch layers")

import torch
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jvp, vjp, vmap
from torch.utils.checkpoint import checkpoint

from gapcell.torch import ConvGRU1d, ConvGRU2d, ConvLSTM1d, ConvLSTM2d

pytestmark = [
    # PyTorch's compiler and forward-mode derivatives still load parts of it that it deprecates itself.
    pytest.mark.filterwarnings(r"ignore:`torch.jit.script(_method)?` is deprecated:DeprecationWarning"),
    # Its scan operator compiles its body, which its exporter says it will not.
    pytest.mark.filterwarnings("ignore:torch.compile is ignored when called inside torch.export region:UserWarning"),
]

CELLS = [ConvLSTM1d, ConvGRU1d]
DOUBLE = {"dtype": torch.float64}


def parts(state):
    return (state,) if isinstance(state, torch.Tensor) else tuple(state)


def example(N=3, T=5, *sites, **options):
    """An input with NaN wherever its element mask is False, and that mask; one row has nothing observed."""
    x = torch.randn(N, T, 2, *(sites or (4,)), **(options or DOUBLE))
    mask = torch.rand(x.shape) < 0.6
    mask[-1] = False
    return x.masked_fill(~mask, torch.nan), mask


def gradients(layer, output, *others):
    """With the gradient of the inputs in front."""
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    return torch.autograd.grad((output * weights).sum(), [*others, *layer.parameters()])


def assert_same(got, want, tolerance=1e-12):
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w, rtol=0, atol=tolerance * max(1.0, float(w.detach().abs().max())))


# torch.compile --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options", "shape"),
    [
        (ConvLSTM1d, {"bidirectional": True}, (3, 3, 2, 5)),
        (ConvGRU2d, {"masked_output": "hold", "stride": 2}, (3, 3, 2, 3, 4)),
        (ConvLSTM1d, {"window": 3, "causal": True}, (3, 7, 2)),
    ],
)
def test_compiled_in_one_graph_it_is_the_same(kind, options, shape):
    """Traced by dynamo and AOTAutograd, without a graph break; no code is generated, which takes a minute."""
    layer = kind(2, 3, 3, **options, **DOUBLE)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x, mask = torch.randn(shape, **DOUBLE), torch.rand(shape) < 0.6
    lengths = torch.tensor([shape[1], 2, 0])
    x = x.masked_fill(~mask, torch.nan)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    want, want_state = layer(inputs[0], mask=mask, lengths=lengths)
    got, got_state = compiled(inputs[1], mask=mask, lengths=lengths)
    assert_same([got, *parts(got_state)], [want, *parts(want_state)])
    assert_same(gradients(layer, got, inputs[1]), gradients(layer, want, inputs[0]))


def compiler_is_there():
    headers = Path(sysconfig.get_path("include"), "Python.h")
    return headers.exists() and any(shutil.which(name) for name in ("g++", "clang++", "c++"))


@pytest.mark.skipif(not compiler_is_there(), reason="torch.compile needs a C++ compiler and Python's headers")
def test_compiled_to_machine_code_it_is_the_same():
    layer = ConvLSTM1d(2, 3, 3)
    x, mask = example(3, 2, dtype=torch.float32)
    compiled = torch.compile(layer, fullgraph=True)
    want, _ = layer(x, mask=mask)
    got, _ = compiled(x, mask=mask)
    assert_same([got], [want], 1e-6)
    assert_same(gradients(layer, got), gradients(layer, want), 1e-5)


# torch.export ---------------------------------------------------------------------------------------------------------

DYNAMIC = {0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO}


class Masked(torch.nn.Module):
    """The exporter names positional arguments; state and lengths are left out."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x, mask):
        output, state = self.layer(x, mask=mask)
        return output, parts(state)


@pytest.mark.parametrize(
    ("kind", "options", "strict"),
    [(ConvLSTM1d, {"num_layers": 2}, False), (ConvLSTM1d, {"bidirectional": True}, True), (ConvGRU2d, {}, False)],
)
def test_exported_once_it_runs_at_other_numbers_of_rows_and_steps(kind, options, strict):
    sites = (4,) if kind.rank == 1 else (3, 4)
    model = Masked(kind(2, 3, 3, **options, **DOUBLE))
    program = torch.export.export(model, example(3, 5, *sites), dynamic_shapes=(DYNAMIC, DYNAMIC), strict=strict)
    for N, T in ((3, 5), (2, 9), (7, 3)):
        x, mask = example(N, T, *sites, **DOUBLE)
        got, got_state = program.module()(x, mask)
        want, want_state = model(x, mask)
        assert_same([got, *got_state], [want, *want_state])


@pytest.mark.parametrize("strict", [False, True])
def test_an_exported_series_runs_at_other_numbers_of_rows_and_events(strict):
    model = Masked(ConvLSTM1d(2, 3, 4, window=4, causal=True, **DOUBLE))

    def series(N, S):
        x, mask = torch.randn(N, S, 2, **DOUBLE), torch.rand(N, S) < 0.7
        return x.masked_fill(~mask[..., None], torch.nan), mask

    program = torch.export.export(model, series(3, 11), dynamic_shapes=(DYNAMIC, DYNAMIC), strict=strict)
    for N, S in ((3, 11), (2, 30), (5, 12), (4, 9)):
        x, mask = series(N, S)
        got, got_state = program.module()(x, mask)
        want, want_state = model(x, mask)
        assert_same([got, *got_state], [want, *want_state])


def test_an_exported_layer_clamps_lengths_it_cannot_refuse():
    layer = ConvGRU1d(2, 3, 3, **DOUBLE)

    class Ragged(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x, lengths):
            return self.layer(x, lengths=lengths)

    x = torch.randn(3, 5, 2, 4, **DOUBLE)
    program = torch.export.export(Ragged(), (x, torch.tensor([5, 2, 0])))
    got, _ = program.module()(x, torch.tensor([9, 3, -2]))
    assert_same([got], [layer(x, lengths=torch.tensor([5, 3, 0]))[0]])


# torch.func -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CELLS)
def test_vmap_over_rows_is_the_batch(kind):
    layer = kind(2, 3, 3, num_layers=2, bidirectional=True, **DOUBLE)
    x, mask = example()
    want, want_state = layer(x, mask=mask)
    got, got_state = vmap(lambda row, seen: layer(row[None], mask=seen[None]))(x, mask)
    assert_same([got[:, 0]], [want])
    assert_same([part[:, :, 0].movedim(0, 1) for part in parts(got_state)], parts(want_state))


def test_vmap_over_a_series_is_the_batch():
    layer = ConvLSTM1d(2, 3, 3, window=3, causal=True, **DOUBLE)
    x, mask = torch.randn(4, 8, 2, **DOUBLE), torch.rand(4, 8) < 0.6
    got, _ = vmap(lambda row, seen: layer(row[None], mask=seen[None]))(x, mask)
    assert_same([got[:, 0]], [layer(x, mask=mask)[0]])


def test_vmap_over_weights_is_an_ensemble():
    layers = [ConvLSTM1d(2, 3, 3, **DOUBLE) for _ in range(3)]
    weights, _ = torch.func.stack_module_state(layers)
    x, mask = example()
    got, _ = vmap(lambda values: functional_call(layers[0], values, (x,), {"mask": mask}))(weights)
    assert_same(got, [layer(x, mask=mask)[0] for layer in layers])


@pytest.mark.parametrize("kind", CELLS)
def test_gradients_of_each_sample_at_once(kind):
    layer = kind(2, 3, 3, **DOUBLE)
    x, mask = example()
    values = {name: parameter.detach() for name, parameter in layer.named_parameters()}

    def loss(values, row, seen):
        return functional_call(layer, values, (row[None],), {"mask": seen[None]})[0].sin().sum()

    got = vmap(grad(loss), in_dims=(None, 0, 0))(values, x, mask)
    for row in range(len(x)):
        want = torch.autograd.grad(layer(x[row : row + 1], mask=mask[row : row + 1])[0].sin().sum(), layer.parameters())
        assert_same([got[name][row] for name in values], want)
        assert all(gradient.isfinite().all() for gradient in want)


@pytest.mark.parametrize("kind", CELLS)
def test_forward_and_reverse_derivatives_agree(kind):
    """Along a tangent, u · (J v) = (J' u) · v."""
    layer = kind(2, 3, 3, **DOUBLE)
    x, mask = example()
    tangent = torch.randn_like(x)

    def run(x):
        return layer(x, mask=mask)[0]

    output, along = jvp(run, (x,), (tangent,))
    plain, pull = vjp(run, x)
    cotangent = torch.randn_like(output)
    (back,) = pull(cotangent)
    assert_same([output, plain], [run(x), run(x)])
    assert_same([(cotangent * along).sum()], [(back * tangent).sum()])
    assert not back[~mask].any()
    assert not jvp(run, (x,), (tangent.masked_fill(mask, 0),))[1].any()
    with forward_ad.dual_level():
        dual, _ = layer(forward_ad.make_dual(x, tangent), mask=mask)
        assert_same([forward_ad.unpack_dual(dual).tangent], [along])


# Autograd -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}, {"masked_output": "hold"}])
@pytest.mark.parametrize("kind", [ConvLSTM1d, ConvGRU1d, ConvLSTM2d])
def test_second_derivatives_are_those_of_the_plain_form(kind, options):
    """A gradient penalty: a hand-written backward pass that ignores create_graph would give constants."""
    layer = kind(2, 3, 3, **options, **DOUBLE)
    sites = (4,) if kind.rank == 1 else (3, 4)
    x, mask = example(3, 5, *sites, **DOUBLE)
    given = x.clone().requires_grad_()

    def penalty(dense):
        output, state = layer(given, mask=mask)
        loss = output.sin().sum() + sum(part.cos().sum() for part in parts(state))
        assert ("Recurrence" in names(output)) is not dense
        first = torch.autograd.grad(loss, [given, *layer.parameters()], create_graph=True)
        return torch.autograd.grad(sum(part.square().sum() for part in first), [given, *layer.parameters()])

    got = penalty(dense=False)
    with forward_ad.dual_level():  # any dual level makes the layer take the plain, differentiable form
        want = penalty(dense=True)
    assert_same(got, want)
    assert max(float(part.abs().max()) for part in got) > 1e-3


def names(output):
    """The functions in the graph behind an output."""
    seen, waiting = set(), [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [following for following, _ in node.next_functions]
    return " ".join(node.name() for node in seen)


@pytest.mark.parametrize("kind", CELLS)
def test_a_second_backward_pass_over_a_retained_graph_gives_the_same(kind):
    layer = kind(2, 3, 3, num_layers=2, **DOUBLE)
    x, mask = example()
    given = x.clone().requires_grad_()
    loss = layer(given, mask=mask)[0].sin().sum()
    passes = [torch.autograd.grad(loss, [given, *layer.parameters()], retain_graph=True) for _ in range(3)]
    for again in passes[1:]:
        assert all(torch.equal(one, other) for one, other in zip(passes[0], again, strict=True))


def test_a_second_backward_pass_over_a_freed_graph_is_refused():
    layer = ConvLSTM1d(2, 3, 3)
    output, _ = layer(torch.randn(2, 4, 2, 5))
    output.sum().backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        output.sum().backward()


def test_two_losses_over_one_output_may_be_taken_one_after_the_other():
    layer = ConvGRU1d(2, 3, 3, **DOUBLE)
    x, mask = example()
    output, state = layer(x, mask=mask)
    one = torch.autograd.grad(output.sum(), layer.parameters(), retain_graph=True)
    other = torch.autograd.grad(state.sum(), layer.parameters(), retain_graph=True)
    both = torch.autograd.grad(output.sum() + state.sum(), layer.parameters())
    assert_same([a + b for a, b in zip(one, other, strict=True)], both)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing_gives_the_same_gradients(use_reentrant):
    layer = ConvLSTM1d(2, 3, 3, num_layers=2, recurrent_dropout=0.3, **DOUBLE)
    x, mask = example()
    given = [x.clone().requires_grad_() for _ in range(2)]
    torch.manual_seed(7)
    want = layer(given[0], mask=mask)[0]
    torch.manual_seed(7)
    got = checkpoint(lambda x: layer(x, mask=mask)[0], given[1], use_reentrant=use_reentrant)
    assert_same([got], [want])
    assert_same(*(backward(layer, output, leaf) for output, leaf in ((got, given[1]), (want, given[0]))))


def backward(layer, output, leaf):
    layer.zero_grad()
    output.sin().sum().backward()
    return [leaf.grad, *(parameter.grad.clone() for parameter in layer.parameters())]
