"""A frozen layer gives what the layer gave, a step at a time or all at once, and no longer changes."""

import pytest

pytest.importorskip("torch", reason="these are tests of the torch layers")

import torch

from gapcell import native
from gapcell.native import library
from gapcell.torch import ConvGRU2d, ConvLSTM1d, ConvLSTM3d
from gapcell.torch.frozen import Frozen

CASES = [
    (ConvLSTM1d, {}, (2, 4, 3, 6)),
    (ConvLSTM1d, {"num_layers": 2, "dropout": 0.5, "recurrent_dropout": 0.5}, (1, 4, 3, 6)),
    (ConvLSTM1d, {"bidirectional": True}, (2, 4, 3, 6)),
    (ConvLSTM1d, {"window": 3, "causal": True}, (2, 9, 3)),
    (ConvGRU2d, {"stride": 2, "channels_last": True}, (2, 3, 4, 5, 3)),
    (ConvLSTM3d, {"dtype": torch.bfloat16}, (1, 2, 3, 2, 3, 2)),
    (ConvGRU2d, {"dtype": torch.float64}, (2, 3, 3, 4, 5)),
]


def parts(state):
    return (state,) if isinstance(state, torch.Tensor) else tuple(state)


def assert_equal(got, want):
    for g, w in zip((got[0], *parts(got[1])), (want[0], *parts(want[1])), strict=True):
        assert g.shape == w.shape
        assert not g.requires_grad
        torch.testing.assert_close(g, w.detach(), rtol=0, atol=0)


@pytest.mark.parametrize(("kind", "options", "shape"), CASES)
def test_it_gives_what_the_layer_gives_in_eval_mode(kind, options, shape):
    layer = kind(3, 5, 3, **options)
    frozen = layer.freeze()
    layer.eval()
    x = torch.randn(shape).to(options.get("dtype", torch.float32))
    mask = torch.rand(shape[:2]) < 0.6
    assert_equal(frozen(x), layer(x))
    assert_equal(frozen(x, mask=mask), layer(x, mask=mask))
    state = layer(x)[1]
    assert_equal(frozen(x, state), layer(x, state))


@pytest.mark.parametrize(("kind", "shape"), [(ConvLSTM1d, (2, 6, 3, 5)), (ConvGRU2d, (1, 5, 3, 4, 3))])
def test_steps_that_come_one_at_a_time_give_the_whole(kind, shape):
    layer = kind(3, 5, 3, num_layers=2)
    frozen, state, outputs = layer.freeze(), None, []
    x = torch.randn(shape)
    for step in x.split(1, 1):
        output, state = frozen(step, state)
        outputs.append(output)
    want, want_state = layer(x)
    assert_equal((torch.cat(outputs, 1), state), (want, want_state))


def test_later_changes_of_the_layer_do_not_show():
    layer, x = ConvLSTM1d(3, 5, 3), torch.randn(1, 2, 3, 4)
    frozen = layer.freeze()
    want = frozen(x)
    with torch.no_grad():
        layer.weight_hh_l0.zero_()
        layer.bias_l0.add_(1)
    assert_equal(frozen(x), want)
    assert not torch.equal(layer(x)[0], want[0])
    assert_equal(layer.freeze()(x), layer(x))


def test_an_input_that_requires_a_gradient_gets_none():
    frozen = ConvLSTM1d(3, 5, 3).freeze()
    x = torch.randn(1, 2, 3, 4, requires_grad=True)
    output, (h, c) = frozen(x)
    assert not output.requires_grad
    assert not frozen(x, (h.requires_grad_(), c))[0].requires_grad


@pytest.mark.parametrize(
    ("shape", "state", "text"),
    [
        ((1, 2, 4, 4), None, "`input` has shape"),
        ((1, 2, 3), None, "make the layer with window=W"),
        ((1, 2, 3, 4), (torch.zeros(1, 1, 5, 9),) * 2, "`state` h has shape"),
        ((1, 2, 3, 4), torch.zeros(1, 1, 5, 4), "`state` is"),
    ],
)
def test_it_refuses_what_the_layer_refuses(shape, state, text):
    frozen = ConvLSTM1d(3, 5, 3).freeze()
    with pytest.raises(ValueError, match=text):
        frozen(torch.randn(shape), state)


def test_without_the_kernel_it_runs_as_the_layer_does():
    layer, x = ConvLSTM1d(3, 5, 3), torch.randn(2, 3, 3, 4)
    with native.using("off") if native.active().name != "off" else torch.no_grad():
        assert_equal(layer.freeze()(x), layer(x))
    assert isinstance(layer.freeze(), Frozen)


@pytest.mark.skipif(native.active().name == "off", reason=f"no kernel: {native.active().reason}")
def test_a_stream_does_not_pack_its_weights_again(monkeypatch):
    layer, x = ConvLSTM1d(3, 5, 3), torch.randn(1, 1, 3, 4)
    frozen = layer.freeze()
    packed, call = [], library.call

    def watched(function, *arguments):
        if function == "gapcell_forward":
            words = arguments[1]
            packed.append(words[library.Arguments._PLACES["weights"]] != 0)
        call(function, *arguments)

    monkeypatch.setattr(library, "call", watched)
    frozen(x)
    frozen(x, mask=torch.ones(1, 1, dtype=torch.bool))
    layer(x)
    assert packed == [True, True, False]
