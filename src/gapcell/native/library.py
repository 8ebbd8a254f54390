"""The shared library behind ctypes: finding it, its structures (interface.h), its errors."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.resources
import threading
from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

__all__ = [
    "INTERFACE_VERSION",
    "Active",
    "Arguments",
    "Buffer",
    "LayerStruct",
    "active",
    "call",
    "choose",
    "free_weights",
    "idle_bytes",
    "peak_flops",
    "release_idle",
    "using",
    "xla_handlers",
]

INTERFACE_VERSION = 3
_FILE = "libgapcell_native.so"
_TEXT_BYTES = 512
_BY_NAME = "chosen by name"  # the library's words, in dispatch.cpp
_XLA_HANDLERS = ("gapcell_xla_forward", "gapcell_xla_backward")
_MEMBERS = (
    *("x", "observed", "update", "recurrent_scale", "kernel", "recurrent_kernel", "bias", "recurrent_bias"),
    *("h0", "c0", "dt", "rates", "weights", "parallel"),
    *("hs", "stored", "h", "c", "dhs", "dh", "dc"),
    *("dx", "dh0", "dc0", "dkernel", "drecurrent_kernel", "dbias", "drecurrent_bias", "drates"),
)
_SINGLE = ("weights", "parallel")


class Active(NamedTuple):
    """Which kernel runs.

    Attributes:
        name: "avx512", "avx2", "portable", or "off".
        reason: why this one.
    """

    name: str
    reason: str


class Buffer(ctypes.Structure):
    """`gapcell_buffer`."""

    _fields_ = (("data", ctypes.c_void_p), ("bytes", ctypes.c_uint64))


class LayerStruct(ctypes.Structure):
    """`gapcell_layer`."""

    _fields_ = (
        ("version", ctypes.c_uint32),
        *((name, ctypes.c_int32) for name in ("cell", "rank", "x_type", "weight_type")),
        *((name, ctypes.c_int32) for name in ("observed_mask", "update_mask", "recurrent_scale", "held_output")),
        *((name, ctypes.c_int32) for name in ("store", "reverse", "wraps", "threads", "reserved")),
        *((name, ctypes.c_int64) for name in ("samples", "steps", "channels", "filters")),
        *((name, ctypes.c_int64 * 3) for name in ("sites", "output_sites", "kernel_size", "stride")),
        *((name, ctypes.c_int64 * 3) for name in ("dilation", "left", "recurrent_kernel_size", "recurrent_left")),
    )


class Arguments:
    """`gapcell_arguments` as machine words, which are filled in microseconds: two a buffer, else one."""

    _WORDS = sum(1 if name in _SINGLE else 2 for name in _MEMBERS)
    _PLACES: ClassVar[dict[str, int]] = {}
    _Words: ClassVar[Any] = ctypes.c_uint64 * _WORDS

    def __init__(self) -> None:
        self.words = self._Words()

    def place(self, name: str, pointer: int, count: int) -> None:
        """Say where an array lies, and its bytes."""
        at = self._PLACES[name]
        self.words[at] = pointer
        self.words[at + 1] = count

    def place_word(self, name: str, value: int) -> None:
        """Set a member that is no buffer."""
        self.words[self._PLACES[name]] = value

    def place_of(self, name: str) -> int:
        """Which word is the address of an array."""
        return self._PLACES[name]

    def copied_words(self) -> Any:
        """The words once more, to be changed."""
        return self._Words.from_buffer_copy(self.words)

    def buffer(self, name: str) -> Buffer:
        """One of the buffers."""
        at = self._PLACES[name]
        return Buffer(self.words[at] or None, self.words[at + 1])


def _places() -> Iterator[tuple[str, int]]:
    word = 0
    for name in _MEMBERS:
        yield name, word
        word += 1 if name in _SINGLE else 2


Arguments._PLACES = dict(_places())


@functools.cache
def _loaded() -> tuple[ctypes.CDLL | None, str]:
    """The library, or None and why not."""
    found = importlib.resources.files("gapcell.native") / _FILE
    if not found.is_file():
        return None, "the kernel was not built when gapcell was installed"
    try:
        with importlib.resources.as_file(found) as path:
            library = ctypes.CDLL(str(path))
    except OSError as error:
        return None, f"the kernel does not load: {error}"
    library.gapcell_interface_version.restype = ctypes.c_uint32
    spoken = library.gapcell_interface_version()
    if spoken != INTERFACE_VERSION:
        return None, f"the kernel speaks interface version {spoken}, not {INTERFACE_VERSION}; install gapcell again"
    _declare(library)
    return library, ""


def _declare(library: ctypes.CDLL) -> None:
    text = (ctypes.c_char_p, ctypes.c_uint64)
    layer, arguments = ctypes.POINTER(LayerStruct), ctypes.POINTER(Arguments._Words)
    signatures: dict[str, tuple[Any, tuple[Any, ...]]] = {
        "gapcell_active": (ctypes.c_char_p, ()),
        "gapcell_active_reason": (ctypes.c_char_p, ()),
        "gapcell_choose": (ctypes.c_int, (ctypes.c_char_p, *text)),
        "gapcell_stored_bytes": (ctypes.c_int, (layer, Buffer, ctypes.POINTER(ctypes.c_uint64), *text)),
        "gapcell_forward": (ctypes.c_int, (layer, arguments, *text)),
        "gapcell_backward": (ctypes.c_int, (layer, arguments, *text)),
        "gapcell_weights_create": (ctypes.c_int, (layer, arguments, ctypes.POINTER(ctypes.c_void_p), *text)),
        "gapcell_weights_free": (None, (ctypes.c_void_p,)),
        "gapcell_peak_flops": (ctypes.c_double, (ctypes.c_double,)),
        "gapcell_idle_bytes": (ctypes.c_uint64, ()),
        "gapcell_release_idle": (None, ()),
    }
    for name, (result, parameters) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, parameters


def _library() -> ctypes.CDLL:
    library, why_not = _loaded()
    if library is None:
        raise RuntimeError(why_not)
    return library


_thread = threading.local()  # a text for each thread, since making one takes a microsecond


def call(function: str, *arguments: Any) -> None:
    """Call a function that returns a `gapcell_error`.

    Raises:
        ValueError: the library refuses the arguments; the text is its own.
        MemoryError: there is not enough memory.
        RuntimeError: there is no kernel to run, and why.
    """
    text = _thread.__dict__.get("text")
    if text is None:
        text = _thread.text = ctypes.create_string_buffer(_TEXT_BYTES)
    error = getattr(_library(), function)(*arguments, text, _TEXT_BYTES)
    if error:
        kind = {1: ValueError, 2: MemoryError}.get(error, RuntimeError)
        raise kind(text.value.decode(errors="replace"))


def free_weights(handle: int) -> None:
    """Free what gapcell_weights_create made."""
    _library().gapcell_weights_free(handle)


def active() -> Active:
    """Which kernel runs, and why. Never raises."""
    library, why_not = _loaded()
    if library is None:
        return Active("off", why_not)
    return Active(library.gapcell_active().decode(), library.gapcell_active_reason().decode())


def choose(name: str) -> None:
    """Take an instruction set for the calls to come, in all threads.

    Args:
        name: "avx512", "avx2", "portable", "off", or "" for the widest that this machine has.

    Raises:
        ValueError: this machine or this build does not have it.
        RuntimeError: there is no kernel.
    """
    call("gapcell_choose", name.encode())


@contextlib.contextmanager
def using(name: str) -> Iterator[None]:
    """`choose` for a while; in all threads."""
    before = "" if active().reason != _BY_NAME else active().name
    choose(name)
    try:
        yield
    finally:
        choose(before)


def xla_handlers() -> dict[str, Any]:
    """The library's functions for jax.ffi by name; empty where it was built without JAX's headers. Never raises."""
    library, _ = _loaded()
    names = [name for name in _XLA_HANDLERS if hasattr(library, name)]
    return {name: getattr(library, name) for name in names}


def peak_flops(seconds: float = 0.2) -> float:
    """FLOP/s that one thread reaches in fp32 fused multiply-adds alone, with the active instruction set."""
    return _library().gapcell_peak_flops(seconds)


def idle_bytes() -> int:
    """Bytes that the library keeps for its next calls."""
    return _library().gapcell_idle_bytes()


def release_idle() -> None:
    """Give these back to the system."""
    _library().gapcell_release_idle()
