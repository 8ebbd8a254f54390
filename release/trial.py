"""Tries the wheel as a new user would, an empty environment an extra: `python -m release.trial [EXTRA ...]`.

Needs the wheel that release/wheels.py left in dist/. In each environment the wheel is installed alone; then what the
extra is for is asked for, and the pip lines are followed that gapcell answers with, until it works. All pieces of
Python in the README and the guides whose packages are then there must do what the text says, and the command lines
beside them must run. Each environment is deleted when it was tried: together they are some gigabytes.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from docs.pictures import commands, needs, programs, ran
from release.wheels import CONSTRAINTS, DIST, ROOT, environment, run

DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
PIP_LINE = re.compile(r"pip install ((?:--[\w-]+ )*)('[^']+'|[\w.=-]+)")
BROKEN_LAW = 1  # the exit status of `gapcell laws` where a layer breaks one


class Trial(NamedTuple):
    """An extra, and what a user types who does not know of it.

    Attributes:
        question: a statement of Python or a command line that needs the extra; empty where another package asks.
        packages: what the guides install beside the wheel without being told to.
    """

    extra: str
    question: str
    packages: tuple[str, ...] = ()


TRIALS = (
    Trial("base", ""),
    Trial("cli", "gapcell info"),
    Trial("torch", "import gapcell.torch"),
    Trial("jax", "import gapcell.jax"),
    Trial("flax", "from gapcell.jax import ConvLSTM"),
    Trial("keras", "import gapcell.keras"),
    Trial("detect", "gapcell detect no-such-table.csv"),
    Trial("spark", "import gapcell.spark"),
    Trial("onnx", "", ("gapcell[onnx]", "onnxruntime")),
    Trial("docs", "", ("gapcell[docs]",)),
)

TABLES = """
from gapcell.detect.simulate import Simulation
Simulation(customers=100, days=60).frame().rename({"time": "t"}).drop("label", "kind").write_parquet("events.parquet")
new = Simulation(customers=100, days=60, seed=1).frame().with_row_index("transaction")
new.drop("transaction").write_parquet("new.parquet")
new.write_csv("events.csv")
new.write_ndjson("events.jsonl")
"""
ADAPTER = "from gapcell.laws.adapters.reference import ReferenceLayer as MyAdapter\n"


class Broken(Exception):  # noqa: N818  # not an error in this program
    """What was tried is not as it should be."""


def main() -> int:
    """Try every extra, or those named; the first thing that is not as it should be ends it."""
    (wheel,) = DIST.glob("*.whl")
    tried: set[str] = set()
    print("| extra | what pip was told to install | MB | pieces of Python | commands | seconds |")
    print("| --- | --- | --- | --- | --- | --- |", flush=True)
    for trial in TRIALS:
        if sys.argv[1:] and trial.extra not in sys.argv[1:]:
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                row, worked = try_out(trial, wheel, Path(folder), tried)
            except Broken as broken:
                print(f"{trial.extra}: {broken}", file=sys.stderr)
                return 1
        tried |= worked
        print(f"| {trial.extra} | {row} |", flush=True)
    everything = {text for document in DOCUMENTS for text in (*commands(document), *(c for c, _ in programs(document)))}
    if not sys.argv[1:] and everything - tried:
        print("in no environment there was what these need:", *sorted(everything - tried), sep="\n", file=sys.stderr)
        return 1
    return 0


def try_out(trial: Trial, wheel: Path, folder: Path, before: set[str]) -> tuple[str, set[str]]:
    """A row of the table, and which pieces of Python and commands worked; commands that did before are not repeated."""
    start = time.monotonic()
    python = environment(folder / "environment", str(wheel), *CONSTRAINTS)
    if trial.packages:
        install(python, *trial.packages)
    if trial.extra == "base":
        answers = [answer for other in TRIALS if (answer := answered(python, other.question, folder)) is not None]
    else:
        answers = [*trial.packages, *followed(python, trial.question, folder)]
    pieces = tried_pieces(python, folder)
    lines = tried_commands(python, folder, before)
    megabytes = sum(path.stat().st_size for path in site_packages(python) if path.is_file()) / 1e6
    cells = (", ".join(answers), f"{megabytes:.0f}", len(pieces), len(lines), f"{time.monotonic() - start:.0f}")
    return " | ".join(map(str, cells)), pieces | lines


def install(python: Path, *words: str) -> None:
    """Let pip install what was tested, into this environment."""
    run(python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *words, *CONSTRAINTS)


def site_packages(python: Path) -> list[Path]:
    """Every file that is installed but pip's own."""
    (folder,) = (python.parents[1] / "lib").glob("python*/site-packages")
    brought = [entry for entry in folder.iterdir() if not entry.name.startswith(("pip", "setuptools"))]
    return [path for entry in brought for path in (entry, *entry.rglob("*"))]


# What is missing ------------------------------------------------------------------------------------------------------


def followed(python: Path, question: str, folder: Path) -> list[str]:
    """What pip was told to install, one answer after the other, until what was asked for is there."""
    answers: list[str] = []
    while (answer := answered(python, question, folder)) is not None:
        if answer in answers:
            raise Broken(f"{question}: {answer} does not help")
        answers.append(answer)
        install(python, *shlex.split(answer))
    return answers


def answered(python: Path, question: str, folder: Path) -> str | None:
    """What pip is to install, as the last line of the answer says; None: nothing is missing."""
    if not question:
        return None
    if question.startswith("gapcell "):
        done = typed(python, question, folder)
        if "Traceback" in done.stderr:
            raise Broken(f"{question}: {done.stderr}")
    else:
        done = ran(question, folder, python)
    if done.returncode == 0:
        return None
    if line := pip_line(done.stderr):
        return line
    if not question.startswith("gapcell ") or not last_line(done.stderr).startswith("gapcell: "):
        raise Broken(f"{question}: answered without a pip line: {done.stderr}")
    return None  # refused for another reason, in one sentence


def pip_line(said: str) -> str | None:
    """What pip is told to install in the last line that was said."""
    line = PIP_LINE.search(last_line(said))
    return "".join(line.groups()) if line else None


def last_line(said: str) -> str:
    """Of standard error: before it are warnings, progress, and the lines of a traceback."""
    return said.strip().rpartition("\n")[2]


def typed(python: Path, line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A command line of gapcell's, in a shell whose environment is active."""
    environ = {"KERAS_BACKEND": "torch"} | os.environ | {"PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"}
    words = [python.parent / "gapcell", *shlex.split(line)[1:]]
    return subprocess.run(words, cwd=folder, env=environ, capture_output=True, encoding="utf-8", check=False)


# What the texts say ---------------------------------------------------------------------------------------------------


def tried_pieces(python: Path, folder: Path) -> set[str]:
    """The pieces of Python that ran and printed what the text says; those whose packages are not there are left out."""
    pieces = [(document, code, printed) for document in DOCUMENTS for code, printed in programs(document)]
    wanted = sorted({package for _, code, _ in pieces for package in needs(code)})
    find = f"from importlib.util import find_spec; print(*(name for name in {wanted} if find_spec(name)))"
    here = set(ran(find, folder, python).stdout.split())
    worked = set()
    for document, code, printed in pieces:
        if needs(code) <= here:
            done = ran(code, folder, python)
            if done.returncode and (answer := pip_line(done.stderr)):
                install(python, *shlex.split(answer))
                done = ran(code, folder, python)
            if done.returncode or (printed is not None and done.stdout != printed):
                raise Broken(f"{document.relative_to(ROOT)}:\n{code}\n{done.stdout}\n{done.stderr}")
            worked.add(code)
    return worked


def tried_commands(python: Path, folder: Path, before: set[str]) -> set[str]:
    """The command lines that ran; those that miss an extra say so, and are left out."""
    (folder / "mypackage").mkdir()
    (folder / "mypackage" / "layers.py").write_text(ADAPTER, encoding="utf-8")
    ran(TABLES, folder, python)  # where detect is not installed no command reads them
    worked: set[str] = set()
    for line in [line for document in DOCUMENTS for line in commands(document) if line not in before]:
        done = typed(python, line, folder)
        if "--no-deps" in done.stderr:  # the data of the demo
            followed(python, line, folder)
            done = typed(python, line, folder)
        if pip_line(done.stderr):
            continue
        allowed = (0, BROKEN_LAW) if line.startswith("gapcell laws") else (0,)
        if "Traceback" in done.stderr or done.returncode not in allowed:
            raise Broken(f"{line}: status {done.returncode}\n{done.stdout}\n{done.stderr}")
        worked.add(line)
    return worked


if __name__ == "__main__":
    sys.exit(main())
