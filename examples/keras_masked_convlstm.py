"""The question people ask of Keras: how can the input of a ConvLSTM1D be masked? On TensorFlow, JAX or PyTorch.

32 customers, up to 10 events each, 3 features an event; gaps hold NaN. keras.layers.ConvLSTM1D wants an input with
sites, and one training step on such data turns all its weights into NaN.
"""

import keras
import numpy as np

from gapcell.keras import ConvLSTM1D, MaskNaN

rng = np.random.default_rng(0)
keras.utils.set_random_seed(0)
x = rng.normal(size=(32, 10, 3)).astype("float32")
mask = rng.random((32, 10)) < 0.7  # True: observed
target = x.sum(axis=-1, keepdims=True)  # something to be learnt from each event
gapped = np.where(mask[..., None], x, np.nan)

# A step of the recurrence reads a window of 5 events; a Masking layer would do for gaps that hold zeros.
model = keras.Sequential(
    [
        keras.Input((10, 3)),
        MaskNaN(),
        ConvLSTM1D(64, 3, activation="relu", window=5, return_sequences=True),
        keras.layers.Dense(1),
    ]
)
model.compile(keras.optimizers.Adam(0.01), "mse")  # the loss reads the mask too
losses = model.fit(gapped, target, epochs=30, verbose=0).history["loss"]
print("output", model.output_shape, "· less than a quarter of the loss is left:", losses[-1] < losses[0] / 4)
print("weights finite:", all(np.isfinite(weight).all() for weight in model.get_weights()))

# The same layers, told the mask by name, see nothing of what stands under it.
_, layer, head = model.layers
filled = [head(layer(np.where(mask[..., None], x, fill).astype("float32"), mask=mask)) for fill in (0, 1e30, np.inf)]
predictions = [keras.ops.convert_to_numpy(each)[mask] for each in filled]
same = all(np.array_equal(each, predictions[0]) for each in predictions)
print("the same predictions however the gaps are filled:", same)
assert np.allclose(model.predict(gapped, verbose=0)[mask], predictions[0], atol=1e-5)
