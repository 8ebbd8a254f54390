"""Random layers through the C interface: no crash, no byte beyond an array, no leak, no race; what is wrong is refused.

The program is tests/native/random_shapes; it is run with the library as it is installed and with ones built with
sanitizers, from the same CMakeLists.txt.
"""

from __future__ import annotations

import importlib.resources
import os
import platform
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from gapcell import native

ROOT = Path(__file__).parents[2]
REQUIRED = os.environ.get("GAPCELL_REQUIRE_KERNEL") == "1"
PATH = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
LIBRARY = "libgapcell_native.so"
WRONG_KINDS = 12  # of wrong.cpp


def lacking(what: str) -> None:
    """What a user's machine may lack and the one that must pass everything may not."""
    if REQUIRED:
        pytest.fail(f"{what}, and GAPCELL_REQUIRE_KERNEL is 1")
    pytest.skip(what)


def compiler() -> str:
    found = [name for name in (os.environ.get("CXX", "c++"), "g++", "clang++") if shutil.which(name)]
    if not found:
        lacking("no C++ compiler on the PATH")
    return found[0]


def built(tree: Path, folder: Path, *targets: str, **options: str) -> Path:
    cmake = shutil.which("cmake", path=PATH)
    if cmake is None:
        lacking("no cmake on the PATH; pip install cmake")
    compiler()
    definitions = [f"-D{name}={value}" for name, value in options.items()]
    for command in (
        [cmake, "-S", str(tree), "-B", str(folder), "-DCMAKE_BUILD_TYPE=Release", *definitions],
        [cmake, "--build", str(folder), "-j2", "--target", *targets],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


def sanitized(tmp_path_factory: pytest.TempPathFactory, sanitizers: str) -> Path:
    folder = tmp_path_factory.mktemp("build")
    return built(ROOT, folder, "random_shapes", "gapcell_native", GAPCELL_SANITIZE=sanitizers)


def sanitizer_works(folder: Path, sanitizers: str) -> bool:
    """Whether an empty program is compiled with it, and runs: some systems' memory layout is none it can work with."""
    source, program = folder / "empty.cpp", folder / "empty"
    source.write_text("int main() {}\n")
    compiled = subprocess.run(
        [compiler(), f"-fsanitize={sanitizers}", str(source), "-o", str(program)], capture_output=True
    )
    return compiled.returncode == 0 and subprocess.run([program], capture_output=True).returncode == 0


def run(program: Path, library: Path, *words: object) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"UBSAN_OPTIONS": "print_stacktrace=1"}
    command = [str(program / "random_shapes"), str(library), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def passed(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stdout + done.stderr[:4000]
    return done.stdout


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(ROOT, tmp_path_factory.mktemp("build"), "random_shapes")


@pytest.fixture(scope="module")
def installed() -> Iterator[Path]:
    """The library that `gapcell` itself uses."""
    if native.active().name == "off":
        pytest.skip(f"no kernel: {native.active().reason}")
    with importlib.resources.as_file(importlib.resources.files("gapcell.native") / LIBRARY) as path:
        yield path


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not sanitizer_works(tmp_path_factory.mktemp("empty"), "address,undefined"):
        lacking("the compiler has no AddressSanitizer and UndefinedBehaviorSanitizer")
    return sanitized(tmp_path_factory, "address,undefined")


def test_ten_thousand_random_shapes(program: Path, installed: Path) -> None:
    summary = passed(run(program, installed, "shapes", 10_000, 1))
    done, refused = re.fullmatch(r"(.+); refused: (.+); idle \d+ bytes\n", summary).groups()
    assert done.startswith("10000 shapes (")
    assert len(refused.split(", ")) == WRONG_KINDS
    assert "0" not in re.findall(r"\d+", summary.partition("; idle")[0])  # nothing was left out


def test_random_shapes_under_address_and_undefined_behaviour_sanitizers(address: Path) -> None:
    summary = passed(run(address, address / LIBRARY, "shapes", 4_000, 2))
    assert summary.startswith("4000 shapes (")


def test_callers_in_several_threads_under_the_thread_sanitizer(tmp_path_factory: pytest.TempPathFactory) -> None:
    if not sanitizer_works(tmp_path_factory.mktemp("empty"), "thread"):
        pytest.skip("the compiler has no ThreadSanitizer, or it does not run on this system")
    thread = sanitized(tmp_path_factory, "thread")
    assert passed(run(thread, thread / LIBRARY, "threads", 200, 3)).startswith("200 shapes (")


def leak_run(program: Path, installed: Path, mode: str) -> subprocess.CompletedProcess[str]:
    done = run(program, installed, mode, 10_000)
    if done.returncode == 77:
        pytest.skip(done.stdout)
    return done


def test_ten_thousand_calls_leave_memory_as_it_was(program: Path, installed: Path) -> None:
    passed(leak_run(program, installed, "leak"))


def test_a_leak_would_be_seen(program: Path, installed: Path) -> None:
    done = leak_run(program, installed, "leak-weights")
    assert done.returncode == 1
    assert done.stderr == "resident memory grows with the calls\n"


MUTANTS = {
    "h written as whole vectors": (
        "simd.hpp",
        "  std::memcpy(to, all_places, count * sizeof(float));\n}\n\n// The first `count` places",
        "  store(to, v);\n}\n\n// The first `count` places",
        "ERROR: AddressSanitizer",
    ),
    "scratch memory one pointer short": (
        "forward.hpp",
        "h_(take<const float *>(scratch, count_ * (call.P + 1)))",
        "h_(take<const float *>(scratch, count_ * (call.P + 1) - 1))",
        "ERROR: AddressSanitizer",
    ),
    "a size that is not checked": (
        "checks.cpp",
        '  check_buffer("dh0", data.dh0, state(call), 4, Need::kOptional);\n',
        "",
        "was not refused",
    ),
}


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory, address: Path) -> Path:
    """The sources once more, to be broken."""
    tree = tmp_path_factory.mktemp("tree")
    shutil.copy(ROOT / "CMakeLists.txt", tree)
    for part in ("src/gapcell/native", "tests/native/random_shapes"):
        shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("*.so"))
    return tree


@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_kernel_would_be_seen(name: str, copied: Path, address: Path) -> None:
    file, right, wrong, seen = MUTANTS[name]
    source = copied / "src/gapcell/native" / file
    text = source.read_text()
    assert text.count(right) == 1
    source.write_text(text.replace(right, wrong))
    # One instruction set is enough.
    portable = {"CMAKE_SYSTEM_NAME": platform.system(), "CMAKE_SYSTEM_PROCESSOR": "any"}
    folder = built(copied, copied / "build", "gapcell_native", GAPCELL_SANITIZE="address,undefined", **portable)
    done = run(address, folder / LIBRARY, "shapes", 1_000, 2)
    source.write_text(text)
    assert done.returncode != 0
    assert seen in done.stderr
