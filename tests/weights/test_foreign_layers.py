"""The ConvLSTMs that people have: their weights give, in ours, what they give themselves."""

import re

import numpy as np
import pytest

from gapcell import Spec, weights
from gapcell.reference import conv_rnn
from weights.cases import SITES, C, F, N, T, assert_close

KERNELS = {1: (3,), 2: (3, 2), 3: (2, 3, 1)}


def batch(rank):
    return np.random.default_rng(rank).normal(size=(N, T, *SITES[rank], C)).astype("float32")


def drawn(tree):
    """The same tree with numbers large enough for the gates to leave their linear range, biases too."""
    import jax

    rng = np.random.default_rng(0)
    return jax.tree.map(lambda array: (rng.normal(size=array.shape) * 0.4).astype("float32"), tree)


def refused(message):
    return pytest.raises(ValueError, match=f"^{re.escape(message)}")


# PyTorch's copies -----------------------------------------------------------------------------------------------------


def copied(rank, sizes=(F, F), channels=C, kernel=None, bias=True, split="ifog"):
    """A stack as the copies have it, written anew: cell_list.N.conv on cat([x, h])."""
    torch = pytest.importorskip("torch", reason="the layer is in PyTorch")
    conv = {1: torch.nn.Conv1d, 2: torch.nn.Conv2d, 3: torch.nn.Conv3d}[rank]
    kernel = kernel or (3, 5, 1)[:rank]

    class Cell(torch.nn.Module):
        def __init__(self, inputs, outputs):
            super().__init__()
            padding = tuple(size // 2 for size in kernel)
            self.conv = conv(inputs + outputs, 4 * outputs, kernel, padding=padding, bias=bias)

        def forward(self, x, state):
            h, c = state
            blocks = dict(zip(split, self.conv(torch.cat([x, h], 1)).chunk(4, 1), strict=True))
            c = blocks["f"].sigmoid() * c + blocks["i"].sigmoid() * blocks["g"].tanh()
            return blocks["o"].sigmoid() * c.tanh(), c

    class Stack(torch.nn.Module):
        def __init__(self):
            super().__init__()
            pairs = zip((channels, *sizes), sizes, strict=False)
            self.cell_list = torch.nn.ModuleList([Cell(inputs, outputs) for inputs, outputs in pairs])

        def forward(self, x):
            for cell, size in zip(self.cell_list, sizes, strict=True):
                h = c = x.new_zeros(len(x), size, *x.shape[3:])
                steps = []
                for t in range(x.shape[1]):
                    h, c = cell(x[:, t], (h, c))
                    steps.append(h)
                x = torch.stack(steps, 1)
            return x

    torch.manual_seed(0)
    stack = Stack()
    for parameter in stack.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return stack


def run_copied(stack, x):
    import torch

    with torch.no_grad():
        return stack(torch.tensor(x).movedim(-1, 2)).movedim(2, -1).numpy()


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_copy_in_pytorch(rank, layers):
    stack = copied(rank, (F,) * layers)
    params, spec = weights.from_pytorch(stack.state_dict())
    assert spec.num_layers == layers
    assert_close(conv_rnn(params, batch(rank), spec)[0], run_copied(stack, batch(rank)))


@pytest.mark.parametrize("options", [{"bias": False}, {"split": "ifgo"}, {"split": "gofi"}])
def test_a_copy_in_pytorch_of_another_kind(options):
    stack = copied(2, **options)
    params, spec = weights.from_pytorch(stack.state_dict(), gates=options.get("split", "ifog"))
    assert_close(conv_rnn(params, batch(2), spec)[0], run_copied(stack, batch(2)))


def test_ours_in_pytorch_takes_it():
    import gapcell.torch

    stack = copied(2)
    layer = gapcell.torch.ConvLSTM2d(C, F, (3, 5), num_layers=2, channels_last=True)
    weights.into(layer, *weights.from_pytorch(stack.state_dict()))
    torch = pytest.importorskip("torch", reason="the layer is in PyTorch")
    with torch.no_grad():
        assert_close(layer(torch.tensor(batch(2)))[0], run_copied(stack, batch(2)))


def test_eleven_layers_are_in_their_order():
    stack = copied(1, (C,) * 11)
    shuffled = dict(sorted(stack.state_dict().items()))
    assert list(shuffled)[4] == "cell_list.10.conv.bias"
    params, _ = weights.from_pytorch(shuffled)
    np.testing.assert_array_equal(params[10]["bias"][:C], stack.cell_list[10].conv.bias.detach()[:C])


def test_a_copy_inside_a_model_is_chosen_by_its_prefix():
    state = copied(1, (F,)).state_dict()
    model = {f"encoder.{name}": array for name, array in state.items()} | {"head.weight": np.zeros((2, 3))}
    _, spec = weights.from_pytorch(model, prefix="encoder.")
    assert (spec.in_channels, spec.filters) == (C, F)
    with refused("`state_dict` has 'encoder.cell_list.0.conv', 'head' under the prefix '', expected one `weight`"):
        weights.from_pytorch(model)


def test_layers_of_other_sizes_are_taken_one_by_one():
    stack = copied(1, (F, 2 * F))
    with refused("`state_dict`: layer 1 has parameters of {'kernel': (3, 3, 24), 'recurrent_kernel': (3, 6, 24)"):
        weights.from_pytorch(stack.state_dict())
    y = batch(1)
    for index in range(2):
        params, spec = weights.from_pytorch(stack.state_dict(), prefix=f"cell_list.{index}.")
        y = conv_rnn(params, y.astype("float32"), spec)[0]
    assert_close(y, run_copied(stack, batch(1)))


W = np.zeros((4 * F, C + F, 3))
COPIES_REFUSED = {
    "peepholes": (
        {"conv.weight": W, "Wci": np.zeros(F)},
        "`state_dict` has 'Wci' under the prefix '', expected one `weight` and at most one `bias` a layer, the layers "
        "told apart by a number (cell_list.0.conv.weight, ...); choose the module by prefix=. Peepholes and "
        "normalisation inside the recurrence have no place in gapcell's layers",
    ),
    "nothing": ({}, "`state_dict` has nothing under the prefix '', expected one `weight`"),
    "a bias alone": ({"conv.bias": np.zeros(4 * F)}, "`state_dict` has 'conv.bias' under the prefix ''"),
    "two directions": (
        {"forward_cells.0.conv.weight": W, "backward_cells.0.conv.weight": W},
        "`state_dict` has 'backward_cells.0.conv', 'forward_cells.0.conv' under the prefix ''",
    ),
    "three gates": (
        {"conv.weight": np.zeros((9, 5, 3))},
        "`state_dict`: conv.weight has shape (9, 5, 3), expected (4F, C+F, *k), a convolution on cat([x, h])",
    ),
    "no input": ({"conv.weight": np.zeros((12, 3, 3))}, "`state_dict`: conv.weight has shape (12, 3, 3), expected"),
    "even": (
        {"conv.weight": np.zeros((12, 5, 3, 2))},
        "`state_dict`: conv.weight has a kernel of (3, 2), expected odd sizes: padded by k//2 on both sides, an even",
    ),
    "another bias": ({"conv.weight": W, "conv.bias": np.zeros(8)}, "`state_dict`: layer 0 has parameters of"),
}  # fmt: skip


@pytest.mark.parametrize("name", COPIES_REFUSED)
def test_what_is_no_such_copy_is_refused(name):
    state, message = COPIES_REFUSED[name]
    with refused(message):
        weights.from_pytorch(state)


def test_gates_are_the_four_letters():
    with refused("`gates` is 'ifo', expected the letters i, f, o, g in the order of the module's split"):
        weights.from_pytorch({"conv.weight": W}, gates="ifo")


# flax -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def linen(compiled_quickly):
    return pytest.importorskip("flax.linen", reason="the layer is flax's")


def run_linen(linen, rank, **options):
    """Its parameters, and what it gives for `batch(rank)`."""
    import jax

    cell = linen.ConvLSTMCell(F, KERNELS[rank], **options)
    layer = linen.RNN(cell)
    variables = drawn(jax.eval_shape(layer.init, jax.random.key(0), batch(rank)))
    return cell, variables, np.asarray(layer.apply(variables, batch(rank)))


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_the_cell_of_flax(linen, rank, use_bias):
    cell, variables, wanted = run_linen(linen, rank, use_bias=use_bias)
    for given in (variables, variables["params"], variables["params"]["cell"]):
        params, spec = weights.from_flax(given, cell=cell)
        assert_close(conv_rnn(params, batch(rank), spec)[0], wanted)


def test_the_cell_of_flax_that_looks_back_only(linen):
    cell, variables, wanted = run_linen(linen, 1, padding="CAUSAL")
    params, spec = weights.from_flax(variables, cell=cell)
    assert spec.causal
    assert_close(conv_rnn(params, batch(1), spec)[0], wanted)


def test_one_of_several_cells_of_flax_is_chosen(linen):
    _, variables, wanted = run_linen(linen, 1)
    tree = {"params": {"first": variables["params"]["cell"], "second": {"cell": drawn(variables["params"]["cell"])}}}
    params, spec = weights.from_flax(tree, name="params/first")
    assert_close(conv_rnn(params, batch(1), spec)[0], wanted)
    with refused(
        '`params` has {"ih": ..., "hh": ...} of flax.linen.ConvLSTMCell under \'params/first\', \'params/second/'
    ):
        weights.from_flax(tree)


def test_a_cell_of_flax_whose_state_shrinks_is_refused(linen):
    _, variables, _ = run_linen(linen, 1)
    with refused("`cell` has strides=2, expected 1: its strides also act in the recurrent convolution, which shrinks"):
        weights.from_flax(variables, cell=linen.ConvLSTMCell(F, (3,), strides=2))
    with refused("`cell` has padding='VALID', expected 'SAME', or for one site axis 'CAUSAL': gapcell's recurrent"):
        weights.from_flax(variables, cell=linen.ConvLSTMCell(F, (3,), padding="VALID"))
    with refused(f"`cell` has features=9, but its `params` have {F}"):
        weights.from_flax(variables, cell=linen.ConvLSTMCell(9, (3,)))


def test_parameters_of_another_flax_layer_are_refused():
    with refused('`params` has {"ih": ..., "hh": ...} of flax.linen.ConvLSTMCell under none; `name` is None, expected'):
        weights.from_flax({"params": {"Conv_0": {"kernel": W}}})
    with refused("`params['ih']` has ['kernel', 'scale'], expected 'kernel' and maybe 'bias'"):
        weights.from_flax({"ih": {"kernel": W, "scale": W}, "hh": {"kernel": W}})
    with refused("`params` have kernels (12, 5, 3) and (12, 5, 3), expected (*k, C, 4F) and (*k, F, 4F)"):
        weights.from_flax({"ih": {"kernel": W}, "hh": {"kernel": W}})


# dm-haiku -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_the_layer_of_haiku(rank, compiled_quickly):
    haiku = pytest.importorskip("haiku", reason="the layer is haiku's")
    import jax

    def unrolled(x):
        kind = {1: haiku.Conv1DLSTM, 2: haiku.Conv2DLSTM, 3: haiku.Conv3DLSTM}[rank]
        core = kind(input_shape=SITES[rank], output_channels=F, kernel_shape=KERNELS[rank])
        return haiku.dynamic_unroll(core, x, core.initial_state(N), time_major=False)[0]

    module = haiku.without_apply_rng(haiku.transform(unrolled))
    params = drawn(jax.eval_shape(module.init, jax.random.key(0), batch(rank)))
    name = f"conv{rank}_dlstm"
    for given, chosen in ((params, None), (params | {"linear": {"w": W}}, name)):
        ours, spec = weights.from_haiku(given, name=chosen)
        assert_close(conv_rnn(ours, batch(rank), spec)[0], module.apply(params, batch(rank)))


def test_parameters_of_another_haiku_layer_are_refused():
    with refused(
        "`params` has the parameters of haiku.Conv1DLSTM, Conv2DLSTM or Conv3DLSTM under none; `name` is None"
    ):
        weights.from_haiku({"linear": {"w": W}})
    with refused("`params[.../hidden_to_hidden]` has NoneType, expected 'w' and maybe 'b'"):
        weights.from_haiku({"conv1_dlstm/input_to_hidden": {"w": W}})


# torch.nn -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_what_the_docs_say_of_nn_lstm_and_nn_gru(cell):
    torch = pytest.importorskip("torch", reason="the layer is PyTorch's")
    theirs = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[cell](C, F, batch_first=True)
    held = {name: parameter.detach().numpy() for name, parameter in theirs.named_parameters()}
    bias, reset = held["bias_ih_l0"] + held["bias_hh_l0"], {}
    if cell == "gru":
        bias[2 * F :] = held["bias_ih_l0"][2 * F :]
        reset = {"recurrent_bias": held["bias_hh_l0"][2 * F :]}
    params = {"kernel": held["weight_ih_l0"].T[None], "recurrent_kernel": held["weight_hh_l0"].T[None], "bias": bias}
    spec = Spec(cell=cell, rank=1, in_channels=C, filters=F, kernel_size=1, window=1)
    x = np.random.default_rng(0).normal(size=(N, 7, C)).astype("float32")
    assert_close(conv_rnn(params | reset, x, spec)[0], theirs(torch.tensor(x))[0].detach())
