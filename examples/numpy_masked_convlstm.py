"""A masked ConvLSTM1D in NumPy alone: 32 series of 10 events with 3 features, a random mask, 64 channels, kernel 3.

gapcell.reference is written to be read: it is the definition that every layer of gapcell is tested against. Run:

    python examples/numpy_masked_convlstm.py
"""

import numpy as np

from gapcell import Spec
from gapcell.reference import conv_rnn

rng = np.random.default_rng(0)
x = rng.normal(size=(32, 10, 3))
mask = rng.random((32, 10)) < 0.7  # True where an event was observed
x[~mask] = np.nan  # whatever stands there is never read

spec = Spec(cell="lstm", rank=1, in_channels=3, filters=64, kernel_size=3, window=5)  # 5 events a recurrent step
params = {name: rng.uniform(-0.1, 0.1, size=shape) for name, shape in spec.parameter_shapes().items()}

y, (h, c) = conv_rnn(params, x, spec, mask=mask)

print("output", y.shape, "state", h.shape, c.shape)
print("all finite:", bool(np.isfinite(y).all()), "· masked events give zero:", not y[~mask].any())

# A masked event is a deleted event: row 0 without its gaps gives the same outputs.
deleted, _ = conv_rnn(params, x[:1, mask[0]], spec)
print("largest difference to the row without its masked events:", np.abs(y[0, mask[0]] - deleted[0]).max())
