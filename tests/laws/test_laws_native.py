"""gapcell.torch obeys the laws in float32 with every kernel that this machine has, and with none.

test_laws_torch.py runs with the kernel that is chosen by default; float64 never takes one.
"""

import numpy as np
import pytest

pytest.importorskip("torch", reason="these are the laws of the torch layer")

from gapcell import native
from gapcell.laws.adapters.torch import TorchLayer
from gapcell.laws.suite import LAWS, applies, ask
from gapcell.laws.table import CASES, build
from laws.plain import PlainLayer

SHARE = ("1d element mask", "1d gru", "2d gru", "3d", "domain", "predict", "stride 2d", "valid", "series, causal")
SHARE += ("decay gru", "decay, sites held")


def claims(kind, names):
    return [(kind, law, name) for name in names for law in LAWS if applies(law, build(name))]


CLAIMS = [claim for kind in ("portable", "avx2", "avx512") for claim in claims(kind, SHARE)]
CLAIMS += claims("off", [name for name in CASES if "decay" not in name or name in SHARE])


@pytest.fixture
def kernel(kind):
    """Runs the test with one kernel; skips by name where there is none."""
    if native.active().name == "off" == kind:
        yield
        return
    try:
        forced = native.using(kind)
        forced.__enter__()
    except (RuntimeError, ValueError) as error:
        pytest.skip(f"no {kind} kernel here: {error}")
    yield
    forced.__exit__(None, None, None)


@pytest.mark.parametrize(("kind", "law", "name"), CLAIMS, ids=[f"{kind}-{law}-{name}" for kind, law, name in CLAIMS])
@pytest.mark.usefixtures("kernel")
def test_the_layer_obeys(kind, law, name):
    ask(law, TorchLayer(channels_last=True), build(name, np.float32), PlainLayer())
