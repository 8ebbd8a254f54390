"""Layers small enough to run everywhere, batches with gaps for them, and how results are compared."""

from __future__ import annotations

import numpy as np

from gapcell import Spec
from gapcell.laws.cases import make_params

N, T, C, F = 3, 4, 2, 3
SITES = {1: (5,), 2: (4, 3), 3: (3, 2, 3)}
TOLERANCE = 1e-6

ONE = Spec(rank=1, in_channels=C, filters=F, kernel_size=3)
SPECS = {
    "lstm 1-D": ONE,
    "gru 1-D": Spec(cell="gru", rank=1, in_channels=C, filters=F, kernel_size=3),
    "lstm 2-D": Spec(rank=2, in_channels=C, filters=F, kernel_size=(3, 2), recurrent_kernel_size=(2, 3)),
    "gru 3-D": Spec(cell="gru", rank=3, in_channels=C, filters=F, kernel_size=2),
    "stack": Spec(rank=1, in_channels=C, filters=F, kernel_size=3, num_layers=2),
    "bidirectional": Spec(rank=1, in_channels=C, filters=F, kernel_size=3, bidirectional=True),
    "both, stacked": Spec(
        cell="gru", rank=1, in_channels=C, filters=F, kernel_size=3, num_layers=2, bidirectional=True
    ),
    "no bias": Spec(rank=1, in_channels=C, filters=F, kernel_size=3, bias=False),
    "decay": Spec(rank=1, in_channels=C, filters=F, kernel_size=3, gap="decay"),
    "series": Spec(rank=1, in_channels=C, filters=F, kernel_size=3, window=3, causal=True),
    "strided": Spec(rank=2, in_channels=C, filters=F, kernel_size=3, stride=2, masked_output="hold"),
}  # fmt: skip


def params_of(spec, seed=0, dtype="float32"):
    """Weights large enough for the gates to leave their linear range."""
    cells = make_params(spec, np.random.default_rng(seed), dtype)
    return cells if len(cells) > 1 else cells[0]


def batch(spec, seed=1):
    """x with NaN under its mask, and the mask, of elements."""
    rng = np.random.default_rng(seed)
    shape = (N, 7, C) if spec.window else (N, T, *SITES[spec.rank], C)
    mask = rng.random(shape) < 0.6
    return np.where(mask, rng.normal(size=shape), np.nan).astype("float32"), mask


def listed(params):
    return params if isinstance(params, list) else [params]


def assert_same(left, right):
    """The same names, types, shapes and bits, in the same order."""
    assert isinstance(left, list) == isinstance(right, list)
    assert len(listed(left)) == len(listed(right))
    for a, b in zip(listed(left), listed(right), strict=True):
        assert list(a) == list(b)
        for name in a:
            assert type(a[name]) is np.ndarray
            assert a[name].dtype == b[name].dtype
            np.testing.assert_array_equal(a[name], b[name])


def assert_close(found, wanted, tolerance=TOLERANCE):
    found, wanted = (np.asarray(each, "float64") for each in (found, wanted))
    assert found.shape == wanted.shape
    assert np.abs(wanted).max() > 0.05, "nothing to compare"
    np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance)
