"""The flax layers: what `gapcell.jax.apply` computes, with parameters, dropout and dtypes as flax has them."""

import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("jax", reason="these are tests of the flax modules")
pytest.importorskip("flax", reason="these are tests of the flax modules")

import jax
import jax.numpy as jnp
from flax import nnx

import gapcell.jax as gj
from jax_layers.modules import C, F, L, N, assert_close, gapped, layer, mask, refused, same, x

# Layers ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (gj.ConvLSTM, {}),
        (gj.ConvGRU, {"num_layers": 2, "bidirectional": True}),
    ],
)
def test_a_layer_is_the_functional_call(kind, options):
    module = layer(kind, **options)
    domain, lengths = np.arange(L) != 1, np.array([4, 0, 2])
    _, state = module(x)
    called = module(gapped, state, mask=mask, lengths=lengths, domain=domain)
    params = gj.init(nnx.Rngs(0).params(), module.spec)
    assert same(module.params, params)
    assert same(
        called,
        gj.apply(params, gapped, module.spec, mask=mask, lengths=lengths, domain=domain, state=state),
    )


def test_the_rank_is_the_length_of_the_kernel():
    def made(kind, kernel_size, **options):
        return nnx.eval_shape(lambda: kind(C, F, kernel_size, **options, rngs=nnx.Rngs(0)))

    assert made(gj.ConvLSTM, 3).spec.rank == 1
    assert made(gj.ConvLSTM, (3, 1)).spec.rank == 2
    assert made(gj.ConvGRUCell, [3, 1, 3]).num_feature_axes == 4
    spread = made(gj.ConvLSTM, 3, rank=2)
    assert spread.spec.kernel_size == (3, 3)
    assert (spread.in_features, spread.hidden_features) == (C, F)


def test_every_option_reaches_the_spec():
    options = {
        "num_layers": 2,
        "go_backwards": True,
        "dropout": 0.1,
        "input_dropout": 0.2,
        "recurrent_dropout": 0.3,
        "stride": (2,),
        "padding": "valid",
        "same_padding": "keras",
        "dilation": (2,),
        "recurrent_kernel_size": (1,),
        "gap": "predict",
        "masked_output": "hold",
        "mask_rule": "any",
    }

    def spec(**options):
        return nnx.eval_shape(lambda: layer(**options)).spec

    assert {name: getattr(spec(**options), name) for name in options} == options
    series = spec(window=3, causal=True, use_bias=False)
    assert (series.window, series.causal, series.bias) == (3, True, False)
    assert spec(bidirectional=True).bidirectional


def test_a_series_enters_by_window():
    module = layer(window=2)
    y, (h, _) = module(gapped[:, 0], mask=mask[:, 0])
    assert (y.shape, h.shape) == ((N, L, F), (1, N, 2, F))
    assert same(y, module(np.where(mask, x, 7)[:, 0], mask=mask[:, 0])[0])


@nnx.jit
def value_and_gradients(module, inputs, observed):
    """The gradients of the parameters and of the inputs."""

    def loss(module, inputs):
        y, state = module(inputs, mask=observed)
        return jnp.sin(y).sum() + sum(jnp.cos(part).sum() for part in jax.tree.leaves(state))

    return nnx.value_and_grad(loss, argnums=(0, 1))(module, inputs)


def test_nothing_under_the_mask_reaches_a_gradient():
    module = layer()
    value, (weights, inputs) = value_and_gradients(module, gapped, mask)
    for tree in (value, weights, inputs):
        assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(tree))
    assert not inputs[~mask].any()
    assert inputs[mask].any()
    assert same((value, (weights, inputs)), value_and_gradients(module, np.where(mask, x, 1e30), mask))


def test_the_plain_form_differentiates_forwards_and_the_lean_form_says_so():
    def output(module, inputs):
        return module(inputs)[0]

    with pytest.raises(TypeError, match='call it with vjp="plain"'):
        jax.jvp(lambda inputs: output(layer(), inputs), (x,), (x,))
    values, _ = jax.jvp(lambda inputs: output(layer(vjp="plain"), inputs), (x,), (x,))
    assert_close(values, output(layer(), x))


def test_an_optimizer_lowers_the_loss():
    optax = pytest.importorskip("optax", reason="nnx.Optimizer steps with Optax")
    module = layer()
    optimizer = nnx.Optimizer(module, optax.adam(0.05), wrt=nnx.Param)

    @nnx.jit
    def train(module, optimizer, inputs, observed):
        def loss(module):
            y, _ = module(inputs, mask=observed)
            return jnp.square(y - 0.5).mean(where=observed.any(-1, keepdims=True))

        value, gradients = nnx.value_and_grad(loss)(module)
        optimizer.update(module, gradients)
        return value

    losses = [float(train(module, optimizer, gapped, mask)) for _ in range(30)]
    assert losses[-1] < losses[0] / 2
    assert np.isfinite(losses).all()


def test_an_ensemble_is_a_module_under_vmap():
    @nnx.split_rngs(splits=2)
    @nnx.vmap
    def ensemble(rngs):
        return gj.ConvLSTM(C, F, 3, rngs=rngs)

    members = ensemble(nnx.Rngs(0))
    assert members.params["kernel"].shape == (2, 3, C, 4 * F)
    outputs = nnx.vmap(lambda member, inputs: member(inputs, mask=mask)[0], in_axes=(0, None))(members, gapped)
    for index, output in enumerate(outputs):
        params = jax.tree.map(lambda array, index=index: array[index], members.params)
        assert_close(output, gj.apply(params, gapped, members.spec, mask=mask)[0])
    assert not same(*outputs)


# Parameters -----------------------------------------------------------------------------------------------------------


def test_a_module_splits_and_merges():
    module = layer(input_dropout=0.5)
    graph, params, keys = nnx.split(module, nnx.Param, nnx.RngState)
    merged = nnx.merge(graph, params, keys)
    assert merged.spec == module.spec
    assert same(merged(x, deterministic=True), module(x, deterministic=True))
    assert set(nnx.to_pure_dict(params)["weights"][0]) == {"kernel", "recurrent_kernel", "bias"}
    assert not jax.tree.leaves(nnx.state(layer(), nnx.RngState))


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True, "use_bias": False}])
def test_functional_parameters_come_and_go(options):
    module, other = layer(gj.ConvGRU, **options), layer(gj.ConvGRU, seed=1, **options)
    params = jax.tree.map(np.asarray, other.params)
    assert not same(module.params, params)
    module.params = params
    assert same(module.params, params)
    assert same(module(x), other(x))


def test_parameters_of_another_shape():
    module, before = layer(gj.ConvGRU, use_bias=False), layer(gj.ConvGRU, use_bias=False).params
    own = "{'kernel': (3, 2, 9), 'recurrent_kernel': (3, 3, 9)}"
    with refused(f"`params` has [{{'bias': (9,), {own[1:]}], expected [{own}]: one dict a layer and direction"):
        module.params = {**before, "bias": np.zeros(3 * F)}
    with refused(f"`params` has [{own}, {own}], expected [{own}]: one dict a layer and direction"):
        module.params = [before, before]
    assert same(module.params, before)


def test_a_checkpoint_brings_back_the_layer(tmp_path):
    checkpoint = pytest.importorskip("orbax.checkpoint", reason="flax checkpoints with orbax")
    trained, fresh = layer(num_layers=2), layer(seed=1, num_layers=2)
    with checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "layer", nnx.state(trained))
        checkpointer.wait_until_finished()
        nnx.update(fresh, checkpointer.restore(tmp_path / "layer", nnx.state(fresh)))
    assert same(fresh(gapped, mask=mask), trained(gapped, mask=mask))


def test_a_pure_dict_brings_back_the_layer():
    trained, fresh = layer(num_layers=2), layer(seed=1, num_layers=2)
    state = nnx.state(fresh)
    nnx.replace_by_pure_dict(state, nnx.to_pure_dict(nnx.state(trained)))
    nnx.update(fresh, state)
    assert same(fresh.params, trained.params)


# Dropout --------------------------------------------------------------------------------------------------------------


def test_dropout_is_drawn_in_training_and_not_in_evaluation():
    module, plain = layer(input_dropout=0.5, recurrent_dropout=0.5), layer()
    first, second = module(x)[0], module(x)[0]
    assert not same(first, second)
    module.eval()
    assert same(module(x), plain(x))
    assert not same(module(x, deterministic=False), plain(x))
    module.train()
    assert same(module(x, deterministic=True), plain(x))
    assert same(nnx.view(module, deterministic=True)(x), plain(x))
    assert same(layer(input_dropout=0.5, deterministic=True)(x), plain(x))


def test_dropout_between_layers_is_drawn_too():
    module = layer(num_layers=2, dropout=0.5)
    assert not same(module(x)[0], module(x)[0])
    assert same(module(x, deterministic=True), layer(num_layers=2)(x))


def test_dropout_takes_a_key_a_stream_or_streams():
    module, key = layer(input_dropout=0.5), jax.random.key(5)
    given = gj.apply(module.params, x, module.spec, key=key)
    assert same(module(x, rngs=key), given)
    expected = gj.apply(module.params, x, module.spec, key=nnx.Rngs(dropout=5).dropout())
    assert same(module(x, rngs=nnx.Rngs(dropout=5)), expected)
    assert same(module(x, rngs=nnx.Rngs(dropout=5).dropout), expected)
    with pytest.raises(TypeError, match=r"^`rngs` is a int, expected nnx.Rngs, nnx.RngStream or a key of jax.random$"):
        module(x, rngs=5)


def test_dropout_draws_anew_under_jit():
    module = layer(recurrent_dropout=0.5)
    run = nnx.jit(lambda module: module(x)[0])
    assert not same(run(module), run(module))


def test_a_kept_stream_is_the_modules_own():
    streams = nnx.Rngs(0)
    module = gj.ConvLSTM(C, F, 3, input_dropout=0.5, rngs=streams)
    before = int(streams.default.count[...])
    module(x)
    assert int(streams.default.count[...]) == before


def test_a_kept_stream_needs_keys():
    with pytest.raises(KeyError, match="No RngStream named 'dropout' found"):
        gj.ConvLSTM(C, F, 3, input_dropout=0.5, rngs=nnx.Rngs(params=0))
    gj.ConvLSTM(C, F, 3, rngs=nnx.Rngs(params=0))


# Dtypes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "given", "output", "state"),
    [
        ({}, "float32", "float32", "float32"),
        ({}, "bfloat16", "float32", "float32"),  # as flax promotes
        ({}, "int32", "float32", "float32"),
        ({"dtype": jnp.bfloat16}, "float32", "bfloat16", "float32"),
        ({"param_dtype": jnp.bfloat16}, "bfloat16", "bfloat16", "bfloat16"),
        ({"param_dtype": jnp.bfloat16}, "float32", "float32", "float32"),
    ],
)
def test_dtypes_promote_as_in_flax(options, given, output, state):
    def run(inputs):
        conv = nnx.Conv(C, F, 3, **options, rngs=nnx.Rngs(0))
        return layer(**options)(inputs), conv(inputs)

    (y, (h, c)), convolved = jax.eval_shape(run, jax.ShapeDtypeStruct(x.shape, given))
    assert (y.dtype, h.dtype, c.dtype) == (output, state, state)
    assert y.dtype == convolved.dtype


def test_bfloat16_is_the_functional_call_in_bfloat16():
    module = layer(dtype=jnp.bfloat16)
    called = module(gapped, mask=mask)
    assert same(called, gj.apply(module.params, gapped.astype(jnp.bfloat16), module.spec, mask=mask))
    assert_close(called[0].astype("float32"), layer()(gapped, mask=mask)[0], 0.02)


# What is refused, and what is warned of -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((0, F, 3), {}, "`in_features` is 0, expected an integer of at least 1"),
        ((C, 2.5, 3), {}, "`hidden_features` is 2.5, expected an integer of at least 1"),
        ((C, F, 3), {"use_bias": 1}, "`use_bias` is 1, expected True or False"),
        ((C, F, (3,) * 4), {}, "`rank` is 4, expected 1, 2 or 3 site axes"),
        ((C, F, (3, 3)), {"rank": 1}, "`kernel_size` is (3, 3), expected an integer or 1 of them (rank 1)"),
        ((C, F, 3), {"padding": "SAME"}, "`padding` is 'SAME', expected one of 'same', 'valid'"),
    ],
)
@pytest.mark.parametrize("kind", [gj.ConvLSTM, gj.ConvGRUCell])
def test_options_that_are_refused(kind, arguments, options, message):
    with refused(message):
        kind(*arguments, **options, rngs=nnx.Rngs(0))


def test_an_input_without_sites():
    with refused("`x` has shape (3, 4, 2), expected (N, T, L, 2), channels last; a series (N, S, C) needs `window`"):
        layer()(x[:, :, 0])


def test_a_surprise_is_told_at_the_callers_line():
    with pytest.warns(UserWarning, match="^`dropout` acts between layers, and num_layers is 1: it does ") as record:
        gj.ConvLSTM(C, F, 3, dropout=0.1, rngs=nnx.Rngs(0))
    with pytest.warns(UserWarning, match="^kernel_size 3 is smaller than window 4: an event does not see ") as late:
        gj.ConvLSTM(C, F, 3, window=4, causal=True, rngs=nnx.Rngs(0))
    assert {warning.filename for warning in (*record, *late)} == {__file__}


# Imports --------------------------------------------------------------------------------------------------------------


def python(source):
    ran = subprocess.run([sys.executable, "-c", source], capture_output=True, encoding="utf-8", check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout


def test_flax_is_imported_for_a_module_only():
    assert python("import sys, gapcell.jax; gapcell.jax.apply; print('flax' in sys.modules)") == "False\n"
    assert python("import sys, gapcell.jax; gapcell.jax.ConvLSTM; print('flax' in sys.modules)") == "True\n"


def test_without_flax_a_module_says_what_to_install():
    source = """
import sys
sys.modules["flax"] = None
import gapcell.jax
for name in ("ConvLSTM", "ConvGRUCell"):
    try:
        getattr(gapcell.jax, name)
    except ImportError as error:
        print(error)
"""
    assert python(source) == (
        "gapcell.jax.ConvLSTM needs flax, which is not installed: pip install 'gapcell[flax]'\n"
        "gapcell.jax.ConvGRUCell needs flax, which is not installed: pip install 'gapcell[flax]'\n"
    )
