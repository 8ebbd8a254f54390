"""What the code is lowered to on each platform, what can be exported, and how much memory a gradient needs."""

import functools
import re

import pytest

pytest.importorskip("jax", reason="these are tests of gapcell.jax")

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

import gapcell.jax as gj
from gapcell.jax import recurrence
from jax_layers.batches import CELLS, assert_close, loss, make_batch, make_params, make_spec

FORWARD = "[b, 0, f]x[0, i, o]->[b, 0, f]"  # batch and channels where the forward convolution has them


def lowered(spec, platform, dtype=jnp.float32, **options):
    """A training step's code for a platform that need not be here."""
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), make_params(spec))
    x = jax.ShapeDtypeStruct((2, 4, 5, 2), dtype)
    of = jax.jit(jax.value_and_grad(functools.partial(loss, spec, **options), (0, 1)))
    return of.trace(params, x).lower(lowering_platforms=(platform,)).as_text()


def convolutions(text):
    return re.findall(r"dim_numbers = ([^,]*, [^,]*, .*?), window", text)


def products(text):
    return text.count("stablehlo.dot_general")


@pytest.mark.usefixtures("no_kernel")  # the kernel has no code to read
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"num_layers": 2}], ids=str)
def test_on_a_cpu_no_convolution_is_differentiated(cell, options):
    text = lowered(make_spec(cell, **options), "cpu")
    assert convolutions(text)  # the value, for which XLA's is the faster
    assert set(convolutions(text)) == {FORWARD}
    assert products(text)


@pytest.mark.usefixtures("no_kernel")  # likewise
def test_on_a_cpu_what_xla_is_slow_at_is_a_product_too():
    assert not convolutions(lowered(make_spec(dilation=2, recurrent_kernel_size=1), "cpu", convolution="matmul"))
    assert not convolutions(lowered(make_spec(), "cpu", jnp.bfloat16))


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("platform", ["cuda", "rocm", "tpu"])
def test_elsewhere_every_convolution_is_xlas(platform, cell):
    """The gradient of the kernel exchanges batch and channels, so it is of another form."""
    text = lowered(make_spec(cell), platform)
    assert set(convolutions(text)) > {FORWARD}
    assert not products(text)


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_the_caller_decides_where_she_says_so(platform):
    spec = make_spec()
    as_product, as_convolution = (lowered(spec, platform, convolution=form) for form in ("matmul", "xla"))
    assert not convolutions(as_product)
    assert products(as_product)
    assert set(convolutions(as_convolution)) > {FORWARD}
    assert not products(as_convolution)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("cell", CELLS)
def test_both_forms_give_the_same(cell):
    spec = make_spec(cell, stride=2, padding="valid", dilation=2)
    batch = make_batch(spec)
    of = functools.partial(loss, spec, **batch.said)
    got, want = (
        jax.jit(jax.value_and_grad(functools.partial(of, convolution=form), (0, 1, 2)))(*batch[:3])
        for form in ("matmul", "xla")
    )
    assert_close(got, want)


# Export ---------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_kernel")  # what is exported is the pure form: here bit by bit
def test_an_export_for_several_platforms():
    """One program that chooses where it runs; here on the CPU."""
    spec = make_spec()
    batch = make_batch(spec)
    mask = batch.said["mask"]
    run = jax.jit(lambda params, x, mask: gj.apply(params, x, spec, mask=mask))
    arguments = jax.tree.map(jnp.asarray, (batch.params, batch.x, mask))
    exported = export.export(run, platforms=("cpu", "cuda"))(*arguments)
    assert exported.platforms == ("cpu", "cuda")
    assert_close(exported.call(*arguments), run(*arguments), 0)

    gradient = jax.jit(jax.grad(lambda params, x, mask: loss(spec, params, x, mask=mask)))
    exported = export.export(gradient, platforms=("cpu", "cuda"))(*arguments)
    text = exported.mlir_module()
    assert set(convolutions(text)) > {FORWARD}
    assert products(text)
    assert_close(exported.call(*arguments), gradient(*arguments), 1e-6)


def test_an_export_with_rows_and_steps_left_open():
    spec = make_spec()
    batch = make_batch(spec)
    rows, steps = export.symbolic_shape("n, t")
    x = jax.ShapeDtypeStruct((rows, steps, 5, 2), jnp.float32)
    mask = jax.ShapeDtypeStruct((rows, steps, 5), jnp.bool)
    params = jax.tree.map(jnp.asarray, batch.params)
    arguments = params, jnp.asarray(batch.x), jnp.asarray(batch.said["mask"])
    for of in (gj.apply, jax.grad(lambda params, x, spec, mask: loss(spec, params, x, mask=mask))):
        run = jax.jit(lambda params, x, mask, of=of: of(params, x, spec=spec, mask=mask))
        exported = export.export(run)(params, x, mask)
        assert_close(exported.call(*arguments), run(*arguments), 1e-6)


# Memory ---------------------------------------------------------------------------------------------------------------


def temporary_bytes(of, *arguments):
    """Of a gradient, compiled and not run."""
    return jax.jit(jax.grad(of)).lower(*arguments).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.usefixtures("no_kernel")  # of the pure form; test_kernel.py asks the kernel
def test_lean_needs_half_the_memory_of_plain_and_of_flax():
    linen = pytest.importorskip("flax.linen", reason="flax is what is compared with")
    N, T, L, C, F = 8, 64, 64, 16, 32
    spec = make_spec(in_channels=C, filters=F)
    assert N * T * L * spec.gates * F * 4 > recurrence.FEW
    x = jax.ShapeDtypeStruct((N, T, L, C), jnp.float32)
    params = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in spec.parameter_shapes().items()}

    def of(params, x, vjp="lean", convolution="matmul"):
        return jnp.sum(gj.apply(params, x, spec, vjp=vjp, convolution=convolution)[0])

    lean, plain = (temporary_bytes(functools.partial(of, vjp=vjp), params, x) for vjp in ("lean", "plain"))
    assert lean <= 0.5 * plain
    net = linen.RNN(linen.ConvLSTMCell(F, (3,)))
    theirs = jax.eval_shape(net.init, jax.random.key(0), x)
    assert lean <= 0.5 * temporary_bytes(lambda params, x: jnp.sum(net.apply(params, x)), theirs, x)
    states = 2 * np.prod((N, T, L, F)) * 4  # h and c of every step, without which nothing can be computed again
    assert lean < 2 * states
