"""How to train a masked ConvLSTM with Optax on sequences that are ragged and full of NaN.

64 sequences of 6 to 20 steps, padded to 20: a row of 12 sensors, past which a noisy wave travels to the left or to the
right. 30 % of the readings are missing. The layer predicts every sensor's next reading. Run:

    python examples/jax_optax_training.py
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gapcell.jax as gj
from gapcell import Spec, masks

rng = np.random.default_rng(0)
lengths = rng.integers(6, 21, size=64)
speed, phase = rng.choice([-1, 1], size=(64, 1, 1)), rng.uniform(0, 2 * np.pi, size=(64, 1, 1))
step, sensor = np.arange(20)[:, None], np.arange(12)
wave = np.sin(2 * np.pi * (sensor - speed * step) / 8 + phase)
x = (wave + rng.normal(0, 0.1, wave.shape))[..., None].astype("float32")  # (64, 20, 12, 1)
x[rng.random(x.shape) < 0.3] = np.nan  # missing readings
x[np.arange(20) >= lengths[:, None]] = np.nan  # padding

# Zero is a legal reading, so the mask is taken from NaN, and only because it is asked for.
mask = masks.from_nan(x)

# A wave goes on while a sensor is silent: gap="predict" steps its state without input, "hold" would stop it. What is
# padding, and not a gap, is said by lengths.
spec = Spec(cell="lstm", rank=1, in_channels=1, filters=16, kernel_size=3, gap="predict")
key = jax.random.key(0)
weights = {"layer": gj.init(key, spec), "readout": jax.random.normal(key, (16, 1)) / 4}


def next_step_loss(weights, x, mask, lengths):
    """Mean squared error of the next reading, over those that were observed."""
    y, _ = gj.apply(weights["layer"], x[:, :-1], spec, mask=mask[:, :-1], lengths=lengths - 1)
    observed = mask[:, 1:]
    error = y @ weights["readout"] - jnp.where(observed, x[:, 1:], 0)  # selected first: NaN must meet no arithmetic
    return jnp.sum(error**2, where=observed) / observed.sum()


optimizer = optax.adam(2e-2)
loss_and_gradient = jax.value_and_grad(next_step_loss)


@jax.jit
def train(weights, state, x, mask, lengths):
    loss, gradient = loss_and_gradient(weights, x, mask, lengths)
    updates, state = optimizer.update(gradient, state)
    return optax.apply_updates(weights, updates), state, loss


state = optimizer.init(weights)
losses = []
for _ in range(100):
    weights, state, loss = train(weights, state, x, mask, lengths)
    losses.append(float(loss))
print(f"loss of the first step {losses[0]:.2f}, of the last {losses[-1]:.2f}")
print("less than a fifth is left:", losses[-1] < losses[0] / 5)

# No NaN reached a gradient, and nothing else under the mask does either.
gradient = jax.jit(jax.grad(next_step_loss))
from_nan = gradient(weights, x, mask, lengths)
from_huge = gradient(weights, np.nan_to_num(x, nan=1e30), mask, lengths)
print("gradients finite:", bool(jax.tree.all(jax.tree.map(lambda leaf: jnp.isfinite(leaf).all(), from_nan))))
print("the same with 1e30 under the mask:", bool(jax.tree.all(jax.tree.map(jnp.array_equal, from_nan, from_huge))))
