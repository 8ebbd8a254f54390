"""What a compiler would let pass, and what would break a machine that is not this one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gapcell import native

FOLDER = Path(native.__file__).parent
KERNELS = sorted(FOLDER.glob("kernel_*.cpp"))

if not KERNELS:
    pytest.skip("the C++ sources are not installed", allow_module_level=True)


def included(path: Path) -> set[Path]:
    """A file and every file of ours that it includes, at any depth."""
    found, todo = set(), [path]
    while todo:
        now = todo.pop()
        if now not in found:
            found.add(now)
            todo += [FOLDER / name for name in re.findall(r'#include "(.+)"', now.read_text())]
    return found


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda path: path.stem)
def test_nothing_shared_is_compiled_for_one_instruction_set(kernel: Path) -> None:
    # The linker keeps one copy of a shared inline function for the whole library: it could be the one with AVX-512.
    files = included(kernel)
    headers = {name for path in files for name in re.findall(r"#include <(.+)>", path.read_text())}
    assert headers <= {"cstdint", "cstring", "immintrin.h", "arm_neon.h", "stdint.h", "time.h"}
    for path in files - {kernel, FOLDER / "call.h", FOLDER / "interface.h"}:
        assert "namespace gapcell::GAPCELL_ISA {" in path.read_text(), path.name


def test_files_stay_short_enough_to_read() -> None:
    for path in FOLDER.iterdir():
        if path.suffix in (".py", ".h", ".hpp", ".cpp"):
            assert len(path.read_text().splitlines()) < 400, path.name
