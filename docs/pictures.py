"""Draws the pictures of the guides by running the code that stands beside them: `python docs/pictures.py`.

What of a document runs is said here for others, too: tests/test_documents.py and release/trial.py.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

DOCS = Path(__file__).parent
BLOCK = re.compile(r"```python\n(.*?)```(?:\n\n```\n(.*?)```)?", re.DOTALL)
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
IMPORTED = re.compile(r"^ *(?:from|import) ([\w.]+)", re.MULTILINE)
OURS = {
    "gapcell.torch": "torch", "gapcell.jax": "jax", "gapcell.keras": "keras", "gapcell.detect": "polars",
    "gapcell.stream": "polars", "gapcell.spark": "pyspark",
}  # fmt: skip
SAVED = re.compile(r'\.save\("([^"]+\.svg)"')


def blocks(text: str) -> list[tuple[str, str | None]]:
    """The pieces of Python of a document, each with what is said to be printed, or None."""
    return [(code, printed or None) for code, printed in BLOCK.findall(text)]


def programs(document: Path) -> list[tuple[str, str | None]]:
    """What of a document runs by itself: each piece of Python; of a tutorial all of them, one after the other."""
    pieces = blocks(document.read_text(encoding="utf-8"))
    if document.parent.name != "tutorials" or not pieces:
        return pieces
    return [("\n\n".join(code for code, _ in pieces), "".join(printed or "" for _, printed in pieces))]


def needs(code: str) -> set[str]:
    """The packages that a piece of Python imports, by itself or through gapcell."""
    imported = set(IMPORTED.findall(code))
    return {name.partition(".")[0] for name in imported} | {
        package for ours, package in OURS.items() for name in imported if f"{name}.".startswith(f"{ours}.")
    }


def commands(document: Path) -> list[str]:
    """The command lines of gapcell's in a document, without their comments."""
    fenced = FENCED.findall(document.read_text(encoding="utf-8"))
    lines = [line for language, text in fenced if not language for line in text.splitlines()]
    return [line.partition("  #")[0].rstrip() for line in lines if line.startswith("gapcell ")]


def ran(code: str, folder: Path, python: Path | str = sys.executable) -> subprocess.CompletedProcess[str]:
    """A piece of Python, run by itself in a folder, to which it may write."""
    environment = {"KERAS_BACKEND": "torch"} | os.environ | {"OMP_NUM_THREADS": "1"}
    if "PYTHONPATH" in environment:
        environment["PYTHONPATH"] = str(Path(environment["PYTHONPATH"]).resolve())
    command = [python, "-X", "utf8", "-c", code]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, encoding="utf-8", timeout=600, check=False
    )


def main() -> int:
    """Draw every picture beside its document; what else a program writes is left behind."""
    drawing = [(doc, code) for doc in sorted(DOCS.rglob("*.md")) for code, _ in programs(doc) if SAVED.search(code)]
    for document, code in drawing:
        with tempfile.TemporaryDirectory() as folder:
            done = ran(code, Path(folder))
            if done.returncode:
                print(done.stderr, file=sys.stderr)
                return 1
            for name in SAVED.findall(code):
                print(shutil.copy(Path(folder) / name, document.parent / name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
