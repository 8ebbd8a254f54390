"""gapcell.jax on the compiled kernel: the results of the pure form, and where it runs and where it must not."""

import contextlib
import functools
import os
import re

import pytest

pytest.importorskip("jax", reason="these are tests of gapcell.jax")

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

import gapcell.jax as gj
from gapcell import native
from gapcell.jax import kernel, primitives
from jax_layers.batches import CASES, SITES, assert_close, assert_not_zero, loss, make_batch, make_spec, oracle

if native.active().name == "off":
    pytest.skip(f"there is no kernel: {native.active().reason}", allow_module_level=True)

pytestmark = pytest.mark.usefixtures("compiled_quickly")

ALIKE = 4e-6  # float32, sums in another order
CALL, CALLBACK = "@gapcell_xla_", "xla_ffi_python_cpu_callback"


@pytest.fixture(params=["foreign function", "callback"])
def way(request, monkeypatch):
    """Either way to reach the kernel."""
    if request.param == "foreign function" and not native.xla_handlers():
        pytest.skip("the kernel was built without JAX's headers")
    if request.param == "callback":
        monkeypatch.setattr(primitives, "_registered", lambda: False)
    jax.clear_caches()
    yield request.param
    jax.clear_caches()  # of what this way was compiled into


@contextlib.contextmanager
def without_kernel():
    with native.using("off"):
        yield


def single(tree):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32 if leaf.dtype == np.float64 else None), tree)


def arguments(batch):
    return single((batch.params, batch.x, batch.state))


def pulled(spec, said, **options):
    """Output and state, and the gradients of parameters, input and state for cotangents of all of them."""

    def run(params, x, state):
        def forward(params, x, state):
            return gj.apply(params, x, spec, state=state, **said, **options)

        values, pull = jax.vjp(forward, params, x, state)
        cotangents = jax.tree.map(lambda value: jnp.cos(jnp.arange(value.size, dtype=value.dtype)), values)
        cotangents = jax.tree.map(lambda flat, value: flat.reshape(value.shape), cotangents, values)
        return values, pull(cotangents)

    return run


def compiled(run, *given):
    """The function's results, and its code before XLA's own passes."""
    lowered = jax.jit(run).lower(*given)
    return jax.block_until_ready(lowered.compile()(*given)), lowered.as_text()


def assert_same_on_and_off(run, *given, calls, tolerance=ALIKE):
    got, text = compiled(run, *given)
    assert text.count(CALL) == calls
    with without_kernel():
        want, text = compiled(lambda *again: run(*again), *given)  # another function: traced anew
    assert CALL not in text
    assert CALLBACK not in text
    assert_close(got, want, tolerance)
    assert_not_zero(got)


@pytest.mark.skipif("GAPCELL_REQUIRE_KERNEL" not in os.environ, reason="an install may do without")
def test_where_the_kernel_is_required_xla_calls_it():
    assert set(native.xla_handlers()) == {"gapcell_xla_forward", "gapcell_xla_backward"}
    assert primitives._registered()


# The same results -----------------------------------------------------------------------------------------------------

OF_THE_GRU = ["1d", "2d", "3d", "stride", "window", "bidirectional stack", "predict", "held output"]
needs_handlers = pytest.mark.skipif(not native.xla_handlers(), reason="the kernel was built without JAX's headers")


@needs_handlers
@pytest.mark.parametrize(
    ("cell", "case"), [*(("lstm", case) for case in CASES), *(("gru", case) for case in OF_THE_GRU)]
)
def test_values_and_gradients_are_those_of_the_pure_form(cell, case):
    rank, options = CASES[case]
    spec = make_spec(cell, rank, **options)
    batch = make_batch(spec)
    run = pulled(spec, batch.said)
    assert_same_on_and_off(run, *arguments(batch), calls=2 * spec.num_layers * spec.directions)


MASKS = {
    "none": lambda rng, x: None,
    "steps": lambda rng, x: rng.random(x.shape[:2]) < 0.6,
    "elements": lambda rng, x: rng.random(x.shape) < 0.6,
    "nothing observed in a row": lambda rng, x: np.arange(x.shape[0])[:, None] < np.ones((1, x.shape[1])),
    "nothing observed": lambda rng, x: np.zeros(x.shape[:2], bool),
}


@needs_handlers
@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("covers", MASKS)
def test_every_kind_of_mask(covers, cell):
    spec = make_spec(cell)
    batch = make_batch(spec)
    mask = MASKS[covers](np.random.default_rng(0), batch.x)
    batch = batch._replace(x=np.nan_to_num(batch.x))
    run = pulled(spec, {"mask": mask})
    if covers == "nothing observed":  # the parameters' gradients are zero
        (values, gradients), text = compiled(run, *arguments(batch))
        assert CALL in text
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradients[:2]))
        assert_close(values[1], jax.tree.map(np.asarray, arguments(batch)[2]), 0)
    else:
        assert_same_on_and_off(run, *arguments(batch), calls=2)


@needs_handlers
@pytest.mark.parametrize("probabilities", [{"recurrent_dropout": 0.4}, {"input_dropout": 0.3, "dropout": 0.3}], ids=str)
def test_dropout(probabilities):
    spec = make_spec(num_layers=2, **probabilities)
    batch = make_batch(spec, N=3)
    assert_same_on_and_off(pulled(spec, batch.said, key=jax.random.key(0)), *arguments(batch), calls=4)


@needs_handlers
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_gates_that_are_computed_again(cell, monkeypatch):
    """As for all but small batches."""
    monkeypatch.setattr(kernel, "FEW", 0)
    spec = make_spec(cell)
    batch = make_batch(spec)
    assert_same_on_and_off(pulled(spec, batch.said), *arguments(batch), calls=2)


@needs_handlers
@pytest.mark.parametrize("low", [("x",), ("x", "params")], ids=str)
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_bfloat16_is_as_exact_as_its_inputs(cell, low):
    """Against the float64 oracle of the rounded inputs: the kernel has its states and sums in float32."""
    spec = make_spec(cell)
    batch = make_batch(spec)
    given = dict(zip(("params", "x", "state"), arguments(batch), strict=True))
    given |= {name: jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), given[name]) for name in low}
    exact = {name: jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree) for name, tree in given.items()}
    (values, gradients), text = compiled(pulled(spec, batch.said), *given.values())
    assert text.count(CALL) == 2
    assert values[0].dtype == jnp.bfloat16
    kinds = [{leaf.dtype for leaf in jax.tree.leaves(tree)} for tree in (gradients[:2], given)]
    assert kinds[0] <= kinds[1]
    assert_close(values, oracle(spec, batch._replace(**exact)), 2**-8)  # one rounding of the result


# Under JAX's transforms -----------------------------------------------------------------------------------------------


@pytest.fixture
def members():
    """A loss of parameters, input and mask, three sets of each, and its gradients one by one without the kernel."""
    spec = make_spec()
    batches = [make_batch(spec, seed=seed) for seed in range(3)]
    each = [(*arguments(batch)[:2], batch.said["mask"]) for batch in batches]

    def of(params, x, mask):
        return loss(spec, params, x, mask=mask)

    with without_kernel():
        alone = jax.jit(jax.grad(lambda *given: of(*given), (0, 1)))
        want = jax.tree.map(lambda *leaves: np.stack(leaves), *(alone(*given) for given in each))
    return of, jax.tree.map(lambda *leaves: jnp.stack(leaves), *each), want


@needs_handlers
def test_vmap_of_grad_and_grad_of_vmap(members):
    of, stacked, want = members
    got, text = compiled(jax.vmap(jax.grad(of, (0, 1))), *stacked)
    assert CALL in text
    assert_close(got, want, ALIKE)
    assert_close(jax.jit(jax.grad(lambda *given: jax.vmap(of)(*given).sum(), (0, 1)))(*stacked), want, ALIKE)


@needs_handlers
def test_a_scan_and_a_checkpoint(members):
    of, stacked, want = members
    kept = jax.checkpoint(of)
    for way in (of, kept):
        run = jax.grad(lambda *given, way=way: jax.lax.map(lambda one: way(*one), given).sum(), (0, 1))
        got, text = compiled(run, *stacked)
        assert CALL in text
        assert_close(got, want, ALIKE)


@needs_handlers
def test_gradients_of_each_row_of_a_batch():
    spec = make_spec("gru")
    batch = make_batch(spec, N=3)
    params, x, _ = arguments(batch)

    def of(params, x, mask):
        return loss(spec, params, x[None], mask=mask[None])

    run = jax.vmap(jax.grad(of), (None, 0, 0))
    assert_same_on_and_off(lambda *given: run(*given), params, x, batch.said["mask"], calls=2)


HIGHER = {
    "hessian": jax.hessian,
    "jacrev(jacrev)": lambda of: jax.jacrev(jax.jacrev(of)),
    "grad of grad": lambda of: jax.grad(lambda bias: jnp.sum(jax.grad(of)(bias) ** 3)),
}


@pytest.mark.parametrize(("cell", "name"), [*(("lstm", name) for name in HIGHER), ("gru", "hessian")])
def test_higher_derivatives_are_those_of_plain(cell, name):
    spec = make_spec(cell)
    batch = make_batch(spec)
    params, x, _ = arguments(batch)

    def of(bias, vjp):
        return loss(spec, {**params, "bias": bias}, x, vjp=vjp, **batch.said)

    got, want = (jax.jit(HIGHER[name](functools.partial(of, vjp=vjp)))(params["bias"]) for vjp in ("lean", "plain"))
    assert_close(got, want, 2e-5)
    assert_not_zero(got)


def test_forward_mode_is_refused_with_its_cure():
    spec = make_spec()
    params, x, _ = arguments(make_batch(spec))
    x = jnp.nan_to_num(x)
    for forwards in (jax.jvp, lambda of, *given: jax.jit(lambda: jax.jvp(of, *given))()):
        with pytest.raises(TypeError, match=r'no forward-mode derivative .*call it with vjp="plain"'):
            forwards(functools.partial(loss, spec, params), (x,), (x,))


@needs_handlers
def test_without_jit():
    spec = make_spec()
    batch = make_batch(spec)
    given = arguments(batch)
    want = jax.jit(jax.grad(functools.partial(loss, spec, **batch.said)))(*given)
    with jax.disable_jit():
        got = jax.grad(functools.partial(loss, spec, **batch.said))(*given)
    assert_close(got, want, ALIKE)


# Where it runs, and where not -----------------------------------------------------------------------------------------


def test_both_ways_to_reach_the_kernel(way):
    spec = make_spec(num_layers=2, recurrent_dropout=0.3)
    batch = make_batch(spec)
    run = pulled(spec, batch.said, key=jax.random.key(0))
    got, text = compiled(run, *arguments(batch))
    calls = {"foreign function": (4, 0), "callback": (0, 4)}[way]
    assert (text.count(CALL), text.count(CALLBACK)) == calls
    with without_kernel():
        assert_close(got, jax.jit(lambda *again: run(*again))(*arguments(batch)), ALIKE)


def test_large_arrays_pass_either_way(way):
    """A callback that asked JAX for its arrays would wait for the thread that it runs on."""
    spec = make_spec(in_channels=8, filters=16)
    params = arguments(make_batch(spec))[0]
    x = jnp.ones((16, 64, 128, 8))  # 4 MB
    run = jax.jit(jax.grad(functools.partial(loss, spec), (0, 1)))
    for _ in range(3):
        gradients = run(params, x)
    assert_not_zero(gradients)


@needs_handlers
def test_functions_of_a_version_that_xla_does_not_speak_are_done_without(monkeypatch, caplog):
    def refuse(*_, **__):
        raise RuntimeError("API version 0.9 is not 0.3")

    monkeypatch.setattr(jax.ffi, "register_ffi_target", refuse)
    assert not primitives._registered.__wrapped__()
    assert "it goes through Python: API version 0.9 is not 0.3" in caplog.text


ELSEWHERE = {
    "plain": {"vjp": "plain"},
    "a chosen convolution": {"convolution": "matmul"},
}


@pytest.mark.parametrize("options", ELSEWHERE.values(), ids=ELSEWHERE)
def test_who_asks_for_a_form_gets_it(options):
    spec = make_spec()
    batch = make_batch(spec)
    _, text = compiled(pulled(spec, batch.said, **options), *arguments(batch))
    assert CALL not in text
    assert CALLBACK not in text


def test_double_and_half_precision_are_computed_by_jax():
    spec = make_spec()
    batch = make_batch(spec)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.float16), arguments(batch))
    with jax.enable_x64(True):
        double = jax.jit(pulled(spec, batch.said)).lower(*batch[:3]).as_text()
    for text in (double, jax.jit(pulled(spec, batch.said)).lower(*half).as_text()):
        assert CALL not in text
        assert CALLBACK not in text


def test_batches_without_rows_or_steps():
    spec = make_spec()
    params = arguments(make_batch(spec))[0]
    for N, T in ((0, 4), (2, 0)):
        y, (h, _) = gj.apply(params, jnp.ones((N, T, *SITES[1], 2)), spec)
        assert (y.shape, h.shape) == ((N, T, 5, 3), (1, N, 5, 3))


@pytest.mark.parametrize("platforms", [("cpu",), ("cpu", "cuda")], ids=str)
def test_an_export_runs_where_there_is_no_gapcell(platforms):
    spec = make_spec("gru")
    batch = make_batch(spec)
    given = arguments(batch)
    run = jax.jit(pulled(spec, batch.said))
    exported = export.export(run, platforms=platforms)(*given)
    assert "gapcell_xla" not in exported.mlir_module()
    assert "callback" not in exported.mlir_module()
    assert_close(exported.call(*given), run(*given), ALIKE)


def test_on_another_platform_it_is_jax():
    spec = make_spec()
    run = jax.jit(pulled(spec, {}))
    text = run.trace(*arguments(make_batch(spec))).lower(lowering_platforms=("cuda",)).as_text()
    assert CALL not in text
    assert CALLBACK not in text
    assert "stablehlo.convolution" in text


def test_a_plain_call_follows_the_choice_at_once():
    """And a function that was jitted before says what to do."""
    spec = make_spec()
    batch = make_batch(spec)
    params, x, _ = arguments(batch)
    run = jax.jit(functools.partial(gj.apply, spec=spec, **batch.said))
    want = jax.block_until_ready(run(params, x))
    with without_kernel():
        assert_close(gj.apply(params, x, spec, **batch.said), want, ALIKE)
        if native.xla_handlers():
            # Which of both it is depends on how JAX calls what it has compiled.
            with pytest.raises((ValueError, RuntimeError), match=r"switched off, and was not .*jax\.clear_caches\(\)"):
                jax.block_until_ready(run(params, x))
    assert_close(run(params, x), want, 0)


@needs_handlers
def test_a_row_does_not_depend_on_the_rows_beside_it():
    """Bitwise, as the kernel promises, though XLA compiles both batches for themselves."""
    spec = make_spec()
    batch = make_batch(spec, N=4)
    params, x, _ = arguments(batch)
    whole = jax.jit(functools.partial(gj.apply, spec=spec))(params, x, mask=batch.said["mask"])
    alone = jax.jit(functools.partial(gj.apply, spec=spec))(params, x[2:3], mask=batch.said["mask"][2:3])
    assert np.array_equal(whole[0][2:3], alone[0])


@needs_handlers
def test_gates_of_a_large_batch_take_no_room():
    """A training step has less than the hidden and the cell states, twice, in temporaries."""
    N, T, L, F = 8, 64, 64, 32
    spec = make_spec(in_channels=16, filters=F)
    params = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in spec.parameter_shapes().items()}
    x = jax.ShapeDtypeStruct((N, T, L, 16), jnp.float32)
    step = jax.jit(jax.grad(lambda params, x: jnp.sum(gj.apply(params, x, spec)[0])))
    temporary = step.lower(params, x).compile().memory_analysis().temp_size_in_bytes
    assert temporary < 2 * 2 * N * T * L * F * 4


# What the foreign functions refuse ------------------------------------------------------------------------------------


def called(change=lambda layer, operands: (layer, operands)):
    """The forward function, called by itself."""
    assert primitives._registered()
    spec = make_spec()
    batch = make_batch(spec)
    params, x, (h, c) = arguments(batch)
    nothing = jnp.zeros((0,), jnp.float32)
    operands = {"x": jnp.nan_to_num(x), "update": jnp.zeros((0,), bool), "recurrent_scale": nothing}
    operands |= {name: params[name] for name in spec.parameter_shapes()}
    operands |= {"recurrent_bias": nothing, "h0": h[0], "c0": c[0], "dt": nothing, "rates": nothing}
    layer = native.Layer(spec, samples=2, steps=4, sites=(5,))
    given = {name: (array.shape, array.dtype.name) for name, array in operands.items() if array.size}
    attribute, operands = change(np.frombuffer(layer.describe(given), np.uint8), operands)
    state = jax.ShapeDtypeStruct(h[0].shape, jnp.float32)
    hs = jax.ShapeDtypeStruct((2, 4, 5, 3), jnp.float32)
    results = hs, state, state, jax.ShapeDtypeStruct((0,), jnp.uint8)
    return jax.ffi.ffi_call("gapcell_xla_forward", results)(*operands.values(), layer=attribute)[0]


def with_operand(name, change):
    return lambda layer, operands: (layer, {**operands, name: change(operands[name])})


WRONG = {
    "size of the struct": (lambda layer, operands: (layer[:-4], operands), "bytes of `layer` are given, expected"),
    "version": (lambda layer, operands: (layer + (np.arange(len(layer)) == 0).astype(np.uint8), operands), "version"),
    "size": (with_operand("x", lambda x: x[:, :3]), r"`x` has \d+ bytes, expected \d+"),
    "type": (with_operand("x", lambda x: x.astype(jnp.bfloat16)), "`x` has another type of elements than `layer` says"),
    "type of parameters": (with_operand("kernel", lambda w: w.astype(jnp.int32)), "`kernel` has another type"),
    "missing": (with_operand("kernel", lambda w: w[:0]), "`kernel` is missing"),
    "unasked": (with_operand("update", lambda u: jnp.ones((2, 4), bool)), "`update` is given, but this layer has none"),
    "count": (lambda layer, operands: (layer, dict(list(operands.items())[:-1])), "10 operands are given, expected 11"),
}


@needs_handlers
@pytest.mark.parametrize(("change", "text"), WRONG.values(), ids=WRONG)
def test_a_wrong_call_is_refused_with_a_text(change, text):
    with pytest.raises((ValueError, RuntimeError), match=text):
        jax.block_until_ready(called(change))


@needs_handlers
def test_a_right_call_is_not_refused():
    spec = make_spec()
    batch = make_batch(spec)
    params, x, state = arguments(batch)
    assert_close(called(), gj.apply(params, jnp.nan_to_num(x), spec, state=state)[0], ALIKE)


@pytest.mark.parametrize("of_x", [False, True])
def test_the_gradient_of_x_is_computed_where_somebody_asks_for_it(of_x):
    spec = make_spec()
    params, x, _ = arguments(make_batch(spec))
    total = jax.jit(lambda params, x: gj.apply(params, x, spec)[0].sum())
    text = str(jax.make_jaxpr(jax.grad(total, argnums=(0, 1) if of_x else 0))(params, x))
    written = re.findall(r"gapcell_backward\[.*?dx=(\w+)", text, re.DOTALL)
    assert written == [str(of_x)]
