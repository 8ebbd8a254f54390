"""What does not fit is refused, by the binding and by the library itself, and the text says what was wanted."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from gapcell import Spec, native
from gapcell.native import library

if native.active().name == "off":
    pytest.skip(f"no kernel: {native.active().reason}", allow_module_level=True)

SPEC = Spec(rank=1, in_channels=3, filters=4, kernel_size=3)
LAYER = native.Layer(SPEC, samples=2, steps=5, sites=(6,))


def arrays(**changes) -> dict:
    data = {name: np.zeros(shape, np.float32) for name, shape in SPEC.parameter_shapes().items()}
    data |= {"x": np.zeros((2, 5, 6, 3), np.float32), "hs": np.zeros((2, 5, 6, 4), np.float32)}
    return data | changes


def forward(layer: native.Layer = LAYER, **changes) -> None:
    data = arrays(**changes)
    weights = {name: data.pop(name) for name in SPEC.parameter_shapes()}
    layer.forward(weights, **data)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"x": np.zeros((2, 5, 6, 4), np.float32)}, r"`x` has shape \(2, 5, 6, 4\), expected \(2, 5, 6, 3\)"),
        ({"x": np.zeros((2, 5, 6, 3))}, "`x` has dtype float64, expected float32 or bfloat16"),
        ({"x": np.zeros((2, 5, 3, 6), np.float32).swapaxes(2, 3)}, "`x` of shape .* is not contiguous"),
        ({"x": [1.0]}, "`x` is a list, expected an array"),
        ({"kernel": np.zeros((3, 4, 16), np.float32)}, r"`kernel` has shape \(3, 4, 16\), expected \(3, 3, 16\)"),
        ({"update": np.zeros((2, 6), bool)}, r"`update` has shape \(2, 6\), expected \(2, 5\) or \(2, 5, 6\)"),
        ({"observed": np.zeros((2, 5), np.float32)}, "`observed` has dtype float32, expected bool or uint8"),
        ({"c": np.zeros((2, 6, 5), np.float32)}, r"`c` has shape"),
        ({"wrong": np.zeros(3, np.float32)}, "`wrong` is not an array of this layer; it has bias, "),
        ({"x": None}, "`x` is missing"),
        ({"hs": None}, "`hs` is missing"),
        ({"stored": np.zeros(64, np.uint8)}, "`stored` is given, but `store` is none"),
    ],
)
def test_arrays(changes: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        forward(**changes)


def test_too_small_a_store() -> None:
    layer = native.Layer(SPEC, samples=2, steps=5, sites=(6,), store="fp32")
    needed = layer.stored_bytes()
    with pytest.raises(ValueError, match=f"`stored` has 64 bytes, expected at least {needed}"):
        forward(layer, stored=np.zeros(64, np.uint8))
    with pytest.raises(ValueError, match="`stored` is missing"):
        forward(layer)
    unaligned = np.zeros(needed + 128, np.uint8)
    unaligned = unaligned[64 - unaligned.ctypes.data % 64 + 4 :]
    with pytest.raises(ValueError, match="`stored` does not begin at a multiple of 64 bytes"):
        forward(layer, stored=unaligned)


def test_backward_without_anything_kept() -> None:
    data = arrays()
    weights = {name: data.pop(name) for name in SPEC.parameter_shapes()}
    with pytest.raises(ValueError, match="`store` is none: forward has kept nothing for backward"):
        LAYER.backward(weights, **data)


def test_weights_of_another_layer() -> None:
    other = native.Layer(Spec(rank=1, in_channels=3, filters=5, kernel_size=3), samples=2, steps=5, sites=(6,))
    shapes = other.spec.parameter_shapes()
    packed = other.pack({name: np.zeros(shape, np.float32) for name, shape in shapes.items()})
    data = arrays()
    with pytest.raises(ValueError, match="`weights` were packed for a layer of other sizes"):
        LAYER.forward(packed, x=data["x"], hs=data["hs"])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"store": "fp16"}, "`store` is 'fp16', expected one of none, fp32, bf16, recompute"),
        ({"held_output": "last"}, "`held_output` is 'last', expected one of zero, hold"),
        ({"sites": (6, 6)}, r"`sites` is \(6, 6\), expected 1 of them"),
    ],
)
def test_options(options: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        native.Layer(SPEC, **{"samples": 2, "steps": 5, "sites": (6,), **options})


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("version", 99, "the caller speaks interface version 99, this library version 3"),
        ("cell", 2, "`cell` is 2, expected 0 to 1"),
        ("rank", 4, "`rank` is 4, expected 1 to 3"),
        ("threads", 0, "`threads` is 0, expected 1 to 1024"),
        ("samples", -1, "`samples` is -1, expected 0 to"),
        ("samples", 1 << 40, "`samples` is 1099511627776, expected 0 to 1073741824"),
        ("steps", 1 << 40, "is too large|bytes, expected"),
        ("steps", 6, "`x` has 720 bytes, expected 864"),
        ("channels", 0, "`channels` is 0, expected 1 to"),
        ("filters", 1 << 24, "is too large|bytes, expected"),
        ("sites", (ctypes.c_int64 * 3)(1 << 31, 1, 1), "`sites` is 2147483648, expected 1 to"),
        ("output_sites", (ctypes.c_int64 * 3)(7, 1, 1), "`hs` has 960 bytes, expected 1120"),
        ("kernel_size", (ctypes.c_int64 * 3)(1 << 30, 1, 1), "`kernel_size` is too large"),
        ("stride", (ctypes.c_int64 * 3)(0, 1, 1), "`stride` is 0, expected 1 to"),
        ("update_mask", 1, "`update` is missing"),
        ("update_mask", 3, "`update_mask` is 3, expected 0 to 2"),
    ],
)
def test_the_library_checks_for_itself(field: str, value, text: str) -> None:
    struct, arguments = LAYER._arguments(arrays())
    setattr(struct, field, value)
    with pytest.raises(ValueError, match=text):
        library.call("gapcell_forward", struct, arguments.words)


@pytest.mark.parametrize(
    ("spec", "fields", "text"),
    [
        (
            Spec(rank=1, in_channels=3, filters=4, kernel_size=3, window=6),
            {"recurrent_kernel_size": 1 << 30},
            "too large",
        ),
        (
            SPEC,
            {"steps": 0, "samples": 1 << 30, "output_sites": 1 << 28, "filters": 1 << 24},
            "`recurrent_scale` is too",
        ),
        (SPEC, {"steps": 1 << 40, "samples": 1 << 30}, "`steps` is too large"),
    ],
)
def test_sizes_whose_products_no_number_holds(spec: Spec, fields: dict[str, int], text: str) -> None:
    layer = native.Layer(spec, samples=2, steps=5, sites=(6,))
    struct, arguments = layer._arguments({})
    struct.recurrent_scale = 2
    for field, value in fields.items():
        setattr(
            struct,
            field,
            (ctypes.c_int64 * 3)(value, 1, 1) if field in ("output_sites", "recurrent_kernel_size") else value,
        )
    with pytest.raises(ValueError, match=text):
        library.call("gapcell_forward", struct, arguments.words)


def test_an_array_between_two_numbers() -> None:
    memory = np.zeros(2 * 5 * 6 * 3 * 4 + 1, np.uint8)
    with pytest.raises(ValueError, match="`x` does not begin at a multiple of 4 bytes"):
        forward(x=memory[1:].view(np.float32).reshape(2, 5, 6, 3))


def test_nowhere_to_write_the_answer() -> None:
    struct, arguments = LAYER._arguments(arrays())
    with pytest.raises(ValueError, match="`bytes` is missing"):
        library.call("gapcell_stored_bytes", struct, arguments.buffer("update"), None)
    with pytest.raises(ValueError, match="`weights` is missing"):
        library.call("gapcell_weights_create", struct, arguments.words, None)


def test_bytes_to_store_of_more_steps_than_memory_holds() -> None:
    layer = native.Layer(SPEC, samples=1, steps=1 << 32, sites=(6,), store="recompute")
    assert layer.stored_bytes() == (1 << 32) * 6 * 16 * 4  # answered without a list of the steps


def test_rates_and_times_come_together() -> None:
    numbers = np.zeros(64, np.float32)
    said = {"rates": "`dt` is missing", "dt": "`dt` is given without `rates`", "drates": "`drates` is given, but this"}
    layer = native.Layer(SPEC, samples=2, steps=5, sites=(6,), store="fp32")
    for name, text in said.items():
        struct, arguments = layer._arguments(arrays())
        arguments.place(name, numbers.ctypes.data, 4 * SPEC.filters)
        with pytest.raises(ValueError, match=text):
            library.call("gapcell_backward", struct, arguments.words)


def test_a_layer_takes_times_only_where_its_state_decays() -> None:
    with pytest.raises(ValueError, match="`dt` is not an array of this layer"):
        forward(dt=np.ones((2, 5), np.float32))


def test_kernels() -> None:
    with pytest.raises(ValueError, match="kernel `sse` is not known, expected avx512, avx2, portable or off"):
        native.choose("sse")
    with native.using("off"):
        assert native.active() == ("off", "chosen by name")
        with pytest.raises(RuntimeError, match="the compiled kernel is switched off"):
            forward()
    with native.using("portable"):
        assert native.active().name == "portable"
        forward()
