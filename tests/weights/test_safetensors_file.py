"""What is saved comes back bit for bit, in a file that others read too; what no layer has is refused."""

import json
import re
import stat

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from gapcell import Spec, weights
from gapcell.reference import conv_rnn
from weights.cases import ONE, SPECS, assert_same, batch, params_of


@pytest.mark.parametrize("name", SPECS)
def test_what_is_saved_comes_back(tmp_path, name):
    spec, path = SPECS[name], tmp_path / "m.safetensors"
    weights.save(path, params_of(spec), spec)
    params, found = weights.load(path)
    assert found == spec
    assert_same(params, params_of(spec))
    x, mask = batch(spec)
    conv_rnn(params, x, found, mask)  # the oracle takes them as they are


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_the_type_is_kept(tmp_path, dtype):
    path = tmp_path / "m.safetensors"
    weights.save(path, params_of(ONE, dtype=dtype), ONE)
    assert_same(weights.load(path)[0], params_of(ONE, dtype=dtype))


def test_loaded_arrays_may_be_changed(tmp_path):
    weights.save(tmp_path / "m.safetensors", params_of(ONE), ONE)
    params, _ = weights.load(tmp_path / "m.safetensors")
    params["bias"][0] = 7
    assert weights.load(tmp_path / "m.safetensors")[0]["bias"][0] != 7


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_arrays_of_a_framework_are_taken(tmp_path, framework, bfloat16):
    module = pytest.importorskip({"jax": "jax.numpy"}.get(framework, framework), reason=f"the arrays are {framework}'s")
    path, wanted = tmp_path / "m.safetensors", params_of(ONE)
    given = {name: module.asarray(array) for name, array in wanted.items()}
    if bfloat16:
        given = {
            name: array.to(module.bfloat16) if framework == "torch" else array.astype("bfloat16")
            for name, array in given.items()
        }
        wanted = {
            name: np.asarray(array.float() if framework == "torch" else array.astype("float32"))
            for name, array in given.items()
        }
    if framework == "torch":
        given = {name: module.nn.Parameter(array) for name, array in given.items()}
    weights.save(path, given, ONE)
    assert_same(weights.load(path)[0], wanted)


def test_the_file_says_what_it_is_to_any_reader(tmp_path):
    spec, path = SPECS["bidirectional"], tmp_path / "m.safetensors"
    weights.save(path, params_of(spec), spec)
    with safe_open(path, "np") as file:
        about = json.loads(file.metadata()["gapcell weights"])
    assert about["version"] == 1
    assert Spec.from_dict(about["spec"]) == spec
    stored = load_file(path)
    assert sorted(stored) == sorted(
        f"{name}_l0{suffix}" for name in ("kernel", "recurrent_kernel", "bias") for suffix in ("", "_reverse")
    )
    np.testing.assert_array_equal(stored["kernel_l0_reverse"], params_of(spec)[1]["kernel"])


def test_the_same_layer_is_the_same_file(tmp_path):
    for name in ("a", "b"):
        weights.save(tmp_path / name, params_of(ONE), ONE)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_others_may_read_the_file_as_they_may_read_others_of_ours(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    weights.save(tmp_path / "m.safetensors", params_of(ONE), ONE)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "m.safetensors")]
    assert modes[0] == modes[1]


def test_a_save_that_fails_leaves_the_file_that_was_there(tmp_path):
    path = tmp_path / "m.safetensors"
    weights.save(path, params_of(ONE), ONE)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="NaN or infinite"):
        weights.save(path, params_of(ONE) | {"bias": np.full(4 * 3, np.nan)}, ONE)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


GOOD = params_of(ONE)
REFUSED = {
    "no Spec": (GOOD, {"rank": 1}, "`spec` is a dict, expected a gapcell.Spec; weights.of(layer) gives both"),
    "a cell too many": (
        [GOOD, GOOD], ONE,
        "`params` has 2 entries (dict), expected 1 dicts: one a layer and direction, in nn.LSTM's order",
    ),
    "another name": (
        {"weights": 1}, ONE,
        "`params[0]` has ['weights'], expected ['bias', 'kernel', 'recurrent_kernel'] for this Spec",
    ),
    "another shape": (
        GOOD | {"bias": np.zeros(9, "float32")}, ONE,
        "`params[0]`: bias has shape (9,), expected (12,) for this Spec",
    ),
    "whole numbers": (
        GOOD | {"bias": np.zeros(12, int)}, ONE,
        "`params[0]`: bias has type int64, expected one of float16, float32, float64",
    ),
    "two types": (
        GOOD | {"bias": np.zeros(12)}, ONE,
        "`params` have types float32, float64, expected one type for all; convert them to one",
    ),
    "infinite": (
        GOOD | {"bias": np.full(12, np.inf, "float32")}, ONE,
        "`params[0]`: bias has values that are NaN or infinite, expected finite ones: such a layer gives NaN whatever "
        "it reads; go back to weights from before the training diverged",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_layer_is_not_saved(tmp_path, name):
    params, spec, message = REFUSED[name]
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        weights.save(tmp_path / "m.safetensors", params, spec)
    assert list(tmp_path.iterdir()) == []
