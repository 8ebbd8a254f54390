"""Every example runs as a user runs it, and prints what its comments promise."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
PRINTED = {  # TINY is a rounding error, LOSS a number that the next line judges
    "jax_optax_training.py": """\
loss of the first step LOSS, of the last LOSS
less than a fifth is left: True
gradients finite: True
the same with 1e30 under the mask: True
""",
    "keras_masked_convlstm.py": """\
output (None, 10, 1) · less than a quarter of the loss is left: True
weights finite: True
the same predictions however the gaps are filled: True
""",
    "numpy_masked_convlstm.py": """\
output (32, 10, 64) state (1, 32, 5, 64) (1, 32, 5, 64)
all finite: True · masked events give zero: True
largest difference to the row without its masked events: TINY
""",
    "torch_encoder_decoder.py": """\
step 0: reconstruction LOSS, forecast LOSS
step 50: reconstruction LOSS, forecast LOSS
step 100: reconstruction LOSS, forecast LOSS
step 150: reconstruction LOSS, forecast LOSS
forecasts of unseen clips: LOSS, the last frame repeated: LOSS
less than two thirds of that error: True
a clip alone gives what it gives among others, and gaps may hold anything: True
""",
    "torch_masked_convlstm.py": """\
output (32, 10, 64)
the same with NaN under the mask: True
gradients finite: True
NaN in the output of x * mask: True
""",
    "torch_missing_channels.py": """\
output (32, 10, 64)
state (1, 32, 64, 8) (1, 32, 64, 8)
events without any feature: 44
their outputs are zero: True
the same with 1e30 under the mask: True
output with presence flags (32, 10, 64)
""",
}


KERAS_BACKENDS = ("tensorflow", "jax", "torch")
RUNS = [
    (example, backend)
    for example in sorted(EXAMPLES.glob("*.py"))
    for backend in (KERAS_BACKENDS if example.name.startswith("keras_") else (None,))
]


@pytest.mark.parametrize(("example", "backend"), RUNS, ids=[f"{path.name}-{name}" for path, name in RUNS])
def test_the_example_prints_what_it_should(example, backend):
    environment = dict(os.environ)
    if backend is not None:
        if importlib.util.find_spec("keras") is None:
            pytest.skip("keras is not installed")
        if importlib.util.find_spec(backend) is None:
            pytest.skip(f"{backend}, a backend of Keras's, is not installed")
        environment |= {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    if example.name.startswith("torch_"):
        pytest.importorskip("torch", reason="this example is written in PyTorch")
    if example.name.startswith("jax_"):
        pytest.importorskip("jax", reason="this example is written in JAX")
        pytest.importorskip("optax", reason="this example trains with Optax")
    command = [sys.executable, "-X", "utf8", example]
    ran = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", timeout=600, check=False)
    assert ran.returncode == 0, ran.stderr
    assert backend or ran.stderr == ""  # Keras imports TensorFlow, which talks about itself
    wanted = re.escape(PRINTED[example.name]).replace("TINY", r"(0\.0|\d(\.\d+)?e-1\d)").replace("LOSS", r"0\.\d\d")
    assert re.fullmatch(wanted, ran.stdout), ran.stdout


def test_every_example_has_its_output_here():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(PRINTED)


def test_examples_use_the_public_api_only():
    for example in EXAMPLES.glob("*.py"):
        source = example.read_text(encoding="utf-8")
        imported = set(re.findall(r"^(?:from|import) (gapcell[.\w]*)", source, flags=re.MULTILINE))
        assert imported, example.name
        public = {"gapcell", "gapcell.jax", "gapcell.keras", "gapcell.reference", "gapcell.torch", "gapcell.torch.nn"}
        assert imported <= public, example.name
