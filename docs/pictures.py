"""Draws the pictures of the guides by running the code that stands beside them: `python docs/pictures.py`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parent
BLOCK = re.compile(r"```python\n(.*?)```(?:\n\n```\n(.*?)```)?", re.DOTALL)
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


def ran(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A piece of Python, run by itself in a folder, to which it may write."""
    environment = os.environ | {"KERAS_BACKEND": "torch", "OMP_NUM_THREADS": "1"}
    if "PYTHONPATH" in environment:
        environment["PYTHONPATH"] = str(Path(environment["PYTHONPATH"]).resolve())
    command = [sys.executable, "-X", "utf8", "-c", code]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, encoding="utf-8", timeout=120, check=False
    )


def main() -> int:
    """Draw every picture beside its document."""
    for document in sorted(DOCS.rglob("*.md")):
        for code, _ in programs(document):
            if SAVED.search(code):
                done = ran(code, document.parent)
                if done.returncode:
                    print(done.stderr, file=sys.stderr)
                    return 1
                print(*(document.parent / name for name in SAVED.findall(code)), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
