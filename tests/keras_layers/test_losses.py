"""gapcell.keras.losses: what is not observed enters neither the loss, nor a gradient, nor the number divided by."""

import math
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import gapcell
from gapcell.keras import MaskNaN, losses, selection
from keras_layers.running import BACKEND, numpy

N, T, C = 3, 4, 2
RNG = np.random.default_rng(0)
TRUE = RNG.normal(size=(N, T, C)).astype("float32")
PRED = RNG.normal(size=(N, T, 3 * C)).astype("float32")
REDUCTIONS = ["sum_over_batch_size", "sum", "mean_with_sample_weight", None]


def softplus(x):
    return np.log1p(np.exp(x))


def gaussian(y, mean, raw):
    scale = softplus(raw) + 1e-3
    return math.log(scale) + 0.5 * ((y - mean) / scale) ** 2 + 0.5 * math.log(2 * math.pi)


def student(y, location, raw, freedom):
    scale, nu = softplus(raw) + 1e-3, softplus(freedom) + 2
    log_density = math.lgamma((nu + 1) / 2) - math.lgamma(nu / 2) - 0.5 * math.log(nu * math.pi) - math.log(scale)
    return -log_density + (nu + 1) / 2 * math.log1p(((y - location) / scale) ** 2 / nu)


def huber(y, p):
    return 0.5 * (y - p) ** 2 if abs(y - p) <= 0.5 else 0.5 * (abs(y - p) - 0.25)


# Each with its numbers of parameters a target, and the loss of one target.
REGRESSIONS = {
    "MeanSquaredError": ({}, 1, lambda y, p: (y - p) ** 2),
    "MeanAbsoluteError": ({}, 1, lambda y, p: abs(y - p)),
    "Huber": ({"delta": 0.5}, 1, huber),
    "GaussianNLL": ({}, 2, gaussian),
    "StudentTNLL": ({}, 3, student),
}


def made(name, **options):
    return getattr(losses, name)(**REGRESSIONS[name][0] | options)


def elements(name):
    """The loss of each target, by a loop."""
    _, parameters, of_one = REGRESSIONS[name]
    found = np.zeros(TRUE.shape)
    for at in np.ndindex(TRUE.shape):
        found[at] = of_one(TRUE[at], *(PRED[at[:-1]][at[-1] + block * C] for block in range(parameters)))
    return found


def predicted(name, mask=None):
    """A prediction that carries a mask."""
    values = keras.ops.convert_to_tensor(PRED[..., : REGRESSIONS[name][1] * C])
    return selection.carry(values, None if mask is None else keras.ops.convert_to_tensor(mask))


def observed(kind):
    mask = np.random.default_rng(1).random((N, T, C)[: {"sample": 1, "step": 2, "element": 3}[kind]]) < 0.6
    mask[-1] = False
    return mask


@pytest.mark.parametrize("name", REGRESSIONS)
@pytest.mark.parametrize("kind", ["sample", "step", "element"])
def test_the_mean_is_over_what_is_observed(name, kind):
    mask = observed(kind)
    seen = np.broadcast_to(mask.reshape(*mask.shape, *(1,) * (3 - mask.ndim)), TRUE.shape)
    wanted = elements(name)
    spoiled = np.where(seen, TRUE, np.nan)
    # MSE and the likelihoods are told of elements by NaN: a carried mask has the shape of the target.
    said = {"missing": "nan"} if kind == "element" else {}
    prediction = predicted(name, None if kind == "element" else mask)
    assert float(made(name, **said)(spoiled, prediction)) == pytest.approx(wanted[seen].mean(), rel=1e-5)
    own_means = [wanted[row][seen[row]].mean() for row in range(N) if seen[row].any()]
    got = made(name, per_sample=True, **said)(spoiled, prediction)
    assert float(got) == pytest.approx(np.mean(own_means), rel=1e-5)
    got = made(name, reduction="sum", **said)(spoiled, prediction)
    assert float(got) == pytest.approx(wanted[seen].sum() / C, rel=1e-5)
    got = made(name, reduction=None, **said)(spoiled, prediction)
    np.testing.assert_allclose(numpy(got), np.where(seen, wanted, 0).mean(-1), rtol=1e-5)


@pytest.mark.parametrize("name", ["MeanSquaredError", "MeanAbsoluteError", "Huber"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_where_all_targets_are_numbers_it_is_keras_own(name, reduction, masked, weighted):
    weight = np.random.default_rng(2).random((N, T)).astype("float32") if weighted else None
    prediction = predicted(name, observed("step") if masked else None)
    if masked and weighted:
        weight[observed("step")] *= 2
    own = getattr(keras.losses, name)(reduction=reduction, **REGRESSIONS[name][0])
    want, got = own(TRUE, prediction, weight), made(name, reduction=reduction)(TRUE, prediction, weight)
    np.testing.assert_allclose(numpy(got), numpy(want), rtol=2e-5)


LABELS = np.random.default_rng(3).integers(0, 3, size=(N, T))
CLASSES = RNG.normal(size=(N, T, 3)).astype("float32")


@pytest.mark.parametrize("from_logits", [True, False])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_cross_entropies_are_keras_own_over_what_is_observed(reduction, from_logits):
    mask = observed("step")
    scores = CLASSES if from_logits else np.exp(CLASSES) / np.exp(CLASSES).sum(-1, keepdims=True)
    options = {"from_logits": from_logits, "reduction": reduction}
    prediction = selection.carry(keras.ops.convert_to_tensor(scores), keras.ops.convert_to_tensor(mask))
    want = keras.losses.SparseCategoricalCrossentropy(**options)(LABELS, prediction)
    spoiled = selection.carry(
        keras.ops.convert_to_tensor(np.where(mask[..., None], scores, np.nan)), keras.ops.convert_to_tensor(mask)
    )
    missing = np.where(mask, LABELS, np.nan)
    one_hot = np.where(mask[..., None], np.eye(3)[LABELS], np.nan)
    plain = keras.ops.convert_to_tensor(scores)
    void = np.where(mask, LABELS, 255)
    sparse, dense = losses.SparseCategoricalCrossentropy, losses.CategoricalCrossentropy
    found = {
        "mask": sparse(**options)(missing, spoiled),
        "missing": sparse(missing="nan", **options)(missing, plain),
        "ignored": sparse(ignore_class=255, **options)(void, plain),
        "one hot": dense(**options)(one_hot, spoiled),
        "one hot missing": dense(missing="nan", **options)(one_hot, plain),
    }
    for said, got in found.items():
        np.testing.assert_allclose(numpy(got), numpy(want), rtol=1e-5, atol=1e-6, err_msg=said)


def test_a_weight_of_zero_is_counted_but_not_read():
    """As in Keras the mean is over all samples; unlike in Keras a NaN there is no NaN in the loss."""
    weight = np.array([1, 0, 2], "float32")
    spoiled = TRUE.copy()
    spoiled[1] = np.nan
    wanted = elements("MeanSquaredError")
    got = made("MeanSquaredError")(spoiled, predicted("MeanSquaredError"), weight)
    assert float(got) == pytest.approx((wanted * weight[:, None, None]).sum() / wanted.size, rel=1e-5)
    got = made("MeanSquaredError", reduction="mean_with_sample_weight")(spoiled, predicted("MeanSquaredError"), weight)
    assert float(got) == pytest.approx((wanted.mean((1, 2)) * weight).sum() / weight.sum(), rel=1e-5)


def test_nothing_observed_is_a_loss_of_zero():
    nothing = np.zeros((N, T), bool)
    for name in REGRESSIONS:
        for options in ({}, {"per_sample": True}, {"reduction": "mean_with_sample_weight"}):
            assert float(made(name, **options)(TRUE * np.nan, predicted(name, nothing))) == 0.0


def test_a_missing_target_that_nobody_announced_is_a_mistake_to_be_seen():
    spoiled = TRUE.copy()
    spoiled[0, 0, 0] = np.nan
    assert np.isnan(float(made("MeanSquaredError")(spoiled, predicted("MeanSquaredError"))))
    assert np.isfinite(float(made("MeanSquaredError", missing="nan")(spoiled, predicted("MeanSquaredError"))))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: losses.MeanSquaredError(missing=np.nan), "`missing` is nan, expected 'nan'"),
        (lambda: losses.CategoricalCrossentropy(axis=1), "`axis` is 1, expected -1"),
        (
            lambda: made("MeanSquaredError")(TRUE[..., :1], predicted("MeanSquaredError")),
            r"`y_true` has shape \(3, 4, 1\), but `y_pred` \(3, 4, 2\): expected the same",
        ),
        (
            lambda: made("GaussianNLL")(TRUE, predicted("MeanSquaredError")),
            r"`y_pred` has shape \(3, 4, 2\), but `y_true` \(3, 4, 2\): expected \(3, 4, 4\), 2 parameters for each",
        ),
        (
            lambda: losses.SparseCategoricalCrossentropy()(LABELS[:, :2], CLASSES),
            r"`y_true` has shape \(3, 2, 1\), but `y_pred` \(3, 4, 3\): expected \(3, 4\)",
        ),
        (
            lambda: made("MeanSquaredError")(TRUE, predicted("MeanSquaredError"), np.ones(T)),
            r"`sample_weight` has shape \(4,\), but the targets \(3, 4, 2\): expected their leading axes",
        ),
        (
            lambda: made("MeanSquaredError")(TRUE, predicted("MeanSquaredError", np.ones((N, T + 1), bool))),
            r"`mask` has shape \(3, 5\), but the input has shape \(3, 4, 2\)",
        ),
    ],
)
def test_what_does_not_fit_is_refused(call, said):
    with pytest.raises(ValueError, match=said):
        call()


@pytest.mark.parametrize("name", [*REGRESSIONS, "CategoricalCrossentropy", "SparseCategoricalCrossentropy"])
def test_a_loss_is_saved_with_its_arguments(name):
    options = {"missing": "nan", "per_sample": True, "reduction": "sum"}
    options |= {"delta": 0.3} if name == "Huber" else {}
    loss = getattr(losses, name)(**options)
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert type(again) is type(loss)
    assert {key: again.get_config()[key] for key in options} == options


@pytest.mark.parametrize("jit_compile", [True if BACKEND == "tensorflow" else "auto"])
def test_fit_reads_over_missing_targets(jit_compile):
    """One step of fit on targets with NaN, of a mean and of a likelihood, is that on the numbers alone."""
    x = RNG.normal(size=(8, T, C)).astype("float32")
    x[:, -1], x[0] = np.nan, np.nan
    y = RNG.normal(size=(8, T, C)).astype("float32")
    y[RNG.random(y.shape) < 0.3] = np.nan
    found = []
    for fill in (np.nan, 1e30):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((None, C))
        hidden = MaskNaN()(inputs)
        mean, spread = keras.layers.Dense(C, name="mean")(hidden), keras.layers.Dense(3 * C, name="spread")(hidden)
        model = keras.Model(inputs, [mean, spread])
        kinds = [losses.MeanSquaredError(missing="nan"), losses.StudentTNLL(missing="nan")]
        model.compile("sgd", kinds, jit_compile=jit_compile)
        spoiled = np.where(np.isnan(x).all(-1, keepdims=True), np.float32(fill), y)
        history = model.fit(x, [spoiled, spoiled], batch_size=8, verbose=0).history["loss"]
        assert np.isfinite(history).all()
        found.append([*model.get_weights(), np.float32(model.evaluate(x, [spoiled, spoiled], verbose=0)[0])])
    for left, right in zip(*found, strict=True):
        assert np.isfinite(left).all()
        np.testing.assert_array_equal(left, right)


def test_accumulated_sums_are_the_whole_batch():
    x, y = RNG.normal(size=(4, 3)).astype("float32"), RNG.normal(size=(4, 2)).astype("float32")
    y[0], y[1, 0] = np.nan, np.nan  # the first micro-batch has one target, the second four
    found = []
    for size, steps, rate in ((2, 2, 0.2), (4, None, 0.1)):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        sgd = keras.optimizers.SGD(rate, gradient_accumulation_steps=steps)
        model.compile(sgd, losses.MeanSquaredError("sum", missing="nan"), jit_compile=False)
        model.fit(x, y, batch_size=size, shuffle=False, verbose=0)
        found.append(model.get_weights())
    for accumulated, whole in zip(*found, strict=True):
        np.testing.assert_allclose(accumulated, whole, rtol=1e-5)


REPLICAS = """
import keras, numpy as np, tensorflow as tf
from gapcell.keras import losses
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
x = np.random.default_rng(0).normal(size=(4, 3, 2)).astype("float32")
y = x[::-1].copy()
y[0], y[1, :2] = np.nan, np.nan  # all that is missing is on one replica
found = []
for strategy in (tf.distribute.get_strategy(), tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])):
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = keras.Sequential([keras.Input((3, 2)), keras.layers.Dense(2)])
        model.compile("sgd", losses.MeanSquaredError(missing="nan"), jit_compile=False)
    loss = model.fit(x, y, batch_size=4, shuffle=False, verbose=0).history["loss"]
    found.append([*model.get_weights(), np.array(loss)])
for one, two in zip(*found):
    np.testing.assert_allclose(two, one, rtol=1e-6)
"""


@pytest.mark.skipif(BACKEND != "tensorflow", reason="a strategy of TensorFlow's")
def test_two_replicas_are_one_device():
    environment = os.environ | {"PYTHONPATH": str(Path(gapcell.__file__).parents[1])}
    ran = subprocess.run(
        [sys.executable, "-c", REPLICAS], env=environment, capture_output=True, text=True, check=False, timeout=600
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
