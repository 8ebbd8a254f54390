"""Gradients of gapcell.torch under masks: finite differences, second derivatives, and odd ways of asking for them."""

import itertools

import numpy as np
import pytest

pytest.importorskip("torch", reason="these are the gradients of the torch layer")

import torch

from gapcell.laws.adapters.torch import TorchLayer, make_module
from gapcell.laws.cases import make_case, make_spec, parts
from gapcell.laws.comparison import all_arrays, all_gradients, assert_close, cotangents
from gapcell.laws.suite import ask
from gapcell.laws.table import DTYPES, build
from gapcell.torch import recurrence
from laws.plain import PlainLayer

SMALL = {
    "lstm": {},
    "gru": {"cell": "gru", "recurrent_kernel_size": 2},
    "predict": {"gap": "predict"},
    "hold output": {"masked_output": "hold", "cell": "gru"},
    "bidirectional, 2 layers": {"bidirectional": True, "num_layers": 2, "filters": 1},
    "stride": {"stride": 2, "kernel_size": 2},
    "series": {"window": 2, "cell": "gru"},
    "series, hold output": {"window": 2, "causal": True, "masked_output": "hold"},
    "decay": {"gap": "decay", "num_layers": 2, "filters": 1},
    "decay, hold output": {"gap": "decay", "masked_output": "hold", "cell": "gru"},
    "series, decay": {"gap": "decay", "window": 2, "bidirectional": True, "masked_output": "hold", "filters": 1},
    "no bias": {"bias": False, "cell": "gru"},
    "2d": {"rank": 2, "filters": 1},
    "3d": {"rank": 3, "filters": 1, "cell": "gru"},
}


def small_case(name, mask):
    spec = make_spec(**({"filters": 2, "in_channels": 2} | SMALL[name]))
    sites = {1: (3,), 2: (2, 2), 3: (1, 2, 2)}[spec.rank]
    return make_case(spec, mask, N=2, T=4, sites=sites, lengths=True, seed=4)


def as_function(case):
    """The layer as a function of x, the states and the parameters: all that has a gradient."""
    module = make_module(case.spec, case.params, channels_last=True)
    names, values = zip(*module.named_parameters(), strict=True)
    leaves = [torch.tensor(case.x), *(torch.tensor(part) for part in parts(case.state)), *values]
    options = {"mask": case.mask, "lengths": case.lengths, "domain": case.domain, "dt": case.dt}
    options = {name: None if value is None else torch.tensor(value) for name, value in options.items()}
    count = len(parts(case.state))

    def function(x, *rest):
        state = rest[:count] if count == 2 else rest[0]
        given = dict(zip(names, rest[count:], strict=True))
        y, state = torch.func.functional_call(module, given, (x, state), options)
        return (y, *parts(state))

    return function, [leaf.detach().requires_grad_() for leaf in leaves]


@pytest.mark.parametrize("mask", ["step", "site", "element"])
@pytest.mark.parametrize("name", SMALL)
def test_gradients_are_slopes(name, mask):
    function, leaves = as_function(small_case(name, mask))
    assert torch.autograd.gradcheck(function, leaves, fast_mode=not name.startswith(("lstm", "gru")))


@pytest.mark.parametrize("mask", ["step", "element"])
@pytest.mark.parametrize("name", SMALL)
def test_second_derivatives_are_slopes_of_the_gradients(name, mask):
    function, leaves = as_function(small_case(name, mask))
    assert torch.autograd.gradgradcheck(function, leaves, fast_mode=True)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # torch's own forward mode
@pytest.mark.parametrize("name", ["lstm", "gru", "series", "decay, hold output"])
def test_forward_mode_agrees(name):
    function, leaves = as_function(small_case(name, "element"))
    assert torch.autograd.gradcheck(function, leaves, check_forward_ad=True, check_backward_ad=False, fast_mode=True)


@pytest.mark.parametrize("name", ["lstm", "gru", "series", "decay, hold output"])
def test_any_one_gradient_alone_is_the_same(name):
    """Frozen parameters, or a loss of one output only, change no other gradient."""
    function, leaves = as_function(small_case(name, "element"))
    outputs = function(*leaves)
    weights = [torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(0)) for out in outputs]
    every = [torch.autograd.grad(out, leaves, w, retain_graph=True) for out, w in zip(outputs, weights, strict=True)]
    for out, leaf in itertools.product(range(len(outputs)), range(len(leaves))):
        alone = [value.detach().requires_grad_(i == leaf) for i, value in enumerate(leaves)]
        (found,) = torch.autograd.grad(function(*alone)[out], alone[leaf], weights[out])
        torch.testing.assert_close(found, every[out][leaf], rtol=1e-12, atol=1e-14)
    together = torch.autograd.grad(outputs, leaves, weights)
    summed = [sum(grads) for grads in zip(*every, strict=True)]
    torch.testing.assert_close(list(together), summed, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", ["1d element mask", "1d gru", "hold output", "series", "bidirectional, 2 layers"])
def test_passes_do_not_disturb_each_other(name):
    """Two graphs alive at once, and a graph walked twice, give what each gives alone."""
    case, layer = build(name), TorchLayer(channels_last=True)
    other = case.but(x=case.x[::-1].copy(), mask=case.mask[::-1].copy())
    dy, dstate = cotangents(layer, case)
    want = [all_arrays(all_gradients(layer.grad(one, dy, dstate))) for one in (case, other)]
    function, leaves = as_function(case)
    function_of_other, leaves_of_other = as_function(other)
    weights = [torch.tensor(array) for array in (dy, *parts(dstate))]
    outputs = function(*leaves)
    kept = [out.detach().clone() for out in outputs]
    outputs_of_other = function_of_other(*leaves_of_other)
    first = torch.autograd.grad(outputs, leaves, weights, retain_graph=True)
    second = torch.autograd.grad(outputs_of_other, leaves_of_other, weights)
    again = torch.autograd.grad(outputs, leaves, weights)
    for found, wanted in ((first, want[0]), (second, want[1]), (again, want[0])):
        assert sum(float(g.abs().sum()) for g in found) == pytest.approx(
            sum(np.abs(a).sum() for a in wanted), rel=1e-12
        )
    for out, copy in zip(outputs, kept, strict=True):
        assert torch.equal(out, copy)


@pytest.mark.parametrize(
    "name", ["1d step mask", "2d", "series", "bidirectional, 2 layers", "stride", "hold output gru", "decay"]
)
def test_steps_taken_in_many_chunks_give_the_same(name, monkeypatch):
    monkeypatch.setattr(recurrence, "_CHUNK", 200)  # a step or two; by default a chunk holds small cases whole
    for law in (1, 3, 13):
        ask(law, TorchLayer(channels_last=True), build(name), PlainLayer())


@pytest.mark.parametrize("rows", [2, 4, 5, 6, 8])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_chunk_may_begin_where_rows_end(cell, rows, monkeypatch):
    """Steps of two rows each behind one of three: what they read of the states before is not one piece."""
    spec = make_spec(cell=cell)
    case = make_case(spec, "step", N=4, T=8)
    case.mask[:] = np.arange(8) < np.array([[8], [8], [3], [2]])
    monkeypatch.setattr(recurrence, "_CHUNK", rows * spec.gates * spec.filters * case.x.shape[2])
    ask(13, TorchLayer(channels_last=True), case, PlainLayer())


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_more_steps_than_one_chunk_holds(cell):
    """Here sums are long, so float32 has to be careful to stay within twice the plain form's error."""
    spec = make_spec(cell=cell, in_channels=8, filters=32)
    for mask in ("step", "site"):
        case = make_case(spec, mask, N=16, T=32, sites=(48,), dtype=np.float32)
        case = case.but(params=[{name: array / 3 for name, array in one.items()} for one in case.params])
        assert 16 * 32 * 48 * 32 * spec.gates > recurrence._CHUNK
        ask(13, TorchLayer(channels_last=True), case, PlainLayer())


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("scale", [30, 1e3, 1e8, 1e30])
@pytest.mark.parametrize("name", ["1d step mask", "1d site mask", "1d gru", "1d element mask", "series", "predict"])
def test_inputs_of_any_size_have_finite_gradients(name, scale, dtype):
    """Amounts that nobody scaled saturate the gates; the gradients are small or zero then, never NaN."""
    case, layer = build(name, dtype), TorchLayer(channels_last=True)
    case = case.but(x=(case.x * scale).astype(dtype))
    dy, dstate = cotangents(layer, case)
    found, want = (all_gradients(one.grad(case, dy, dstate)) for one in (layer, PlainLayer()))
    assert all(np.isfinite(array).all() for array in all_arrays(found))
    if dtype == np.float64 and scale == 30:
        assert_close(found, want, "gradients of large inputs", scale=10)
