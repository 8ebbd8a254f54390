"""Every piece of Python in the README and the guides runs, prints what stands below it, and draws its picture."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from docs.pictures import SAVED, blocks, commands, needs, programs, ran

ROOT = Path(__file__).parents[1]
BLOCKS = [
    pytest.param(document, code, printed, id=f"{document.relative_to(ROOT)}-{place}")
    for document in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    for place, (code, printed) in enumerate(programs(document))
]


# Frameworks take seconds to import, so one process runs all pieces, each with names of its own. In processes of their
# own they are run by release/trial.py.
RUNNING = """
import contextlib, io, json, os, sys, traceback
for line in sys.stdin:
    code, folder = json.loads(line)
    os.chdir(folder)
    said, error = io.StringIO(), ""
    with contextlib.redirect_stdout(said):
        try:
            exec(code, {"__name__": "__main__"})
        except BaseException:
            error = traceback.format_exc()
    print(json.dumps([said.getvalue(), error]), flush=True)
"""


@pytest.fixture(scope="module")
def run():
    """What a piece of Python printed, and its traceback or nothing, run in a folder."""
    environment = os.environ | {"KERAS_BACKEND": "torch", "OMP_NUM_THREADS": "1"}
    if "PYTHONPATH" in environment:  # the pieces are run elsewhere
        environment["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, environment["PYTHONPATH"].split(os.pathsep)))
    command = [sys.executable, "-X", "utf8", "-c", RUNNING]
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "encoding": "utf-8"}
    with subprocess.Popen(command, env=environment, **streams) as running:

        def run(code, folder):
            running.stdin.write(json.dumps([code, str(folder)]) + "\n")
            running.stdin.flush()
            return json.loads(running.stdout.readline())

        yield run
        running.stdin.close()


def design(picture):
    """Its colours and words: what does not depend on the machine that draws it, as numbers and dates may."""
    text = picture.read_text(encoding="utf-8")
    return set(re.findall(r'"(#\w+)"', text)), {word for word in re.findall(r">([^<]+)</text>", text) if word.isalpha()}


@pytest.mark.parametrize(("document", "code", "printed"), BLOCKS)
def test_a_piece_of_python_does_what_the_text_says(document, code, printed, tmp_path, run, request):
    for package in sorted(needs(code)):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    if "pyspark" in needs(code):
        request.getfixturevalue("java")
    said, error = run(code, tmp_path)
    assert not error, error
    assert printed is None or said == printed
    for picture in SAVED.findall(code):
        drawn, shown = (folder / picture for folder in (tmp_path, document.parent))
        assert drawn.stat().st_size > 1000
        assert shown.is_file(), "python docs/pictures.py draws it"
        assert design(shown) == design(drawn), "python docs/pictures.py draws it anew"
        assert f"]({picture})" in document.read_text(encoding="utf-8"), "a picture that is drawn is shown"


def test_a_piece_of_python_has_names_of_its_own(tmp_path, run):
    assert run("x = 1\nprint(x)", tmp_path) == ["1\n", ""]
    said, error = run("print(2)\nprint(x)", tmp_path)
    assert said == "2\n"
    assert error.endswith("NameError: name 'x' is not defined\n")


def test_what_a_text_says_is_compared(tmp_path):
    ((code, printed),) = blocks("So:\n\n```python\nprint(1)\n```\n\n```\n2\n```\n")
    assert ran(code, tmp_path).stdout != printed
    assert blocks("```python\nraise SystemExit(3)\n```\n")[0][1] is None
    assert ran("raise SystemExit(3)", tmp_path).returncode == 3


def test_what_a_piece_of_python_needs_is_read_off_its_imports():
    assert needs("import keras\nfrom gapcell.jax import apply\nx = 'import haiku'\n") == {"keras", "gapcell", "jax"}
    assert needs("from gapcell.detect.simulate import Simulation") == {"gapcell", "polars"}
    assert needs("import gapcell.detection\n") == {"gapcell"}


def test_command_lines_are_those_in_blocks_without_a_language(tmp_path):
    (tmp_path / "a.md").write_text(
        "```python\ngapcell = 1\n```\ngapcell info\n\n```\nmake\ngapcell laws x  # why\n```\n"
    )
    assert commands(tmp_path / "a.md") == ["gapcell laws x"]


def test_a_picture_of_another_design_is_seen(tmp_path):
    for name, colour, word in (("a", "#fff", "one"), ("b", "#fff", "one"), ("c", "#000", "one"), ("d", "#fff", "two")):
        (tmp_path / name).write_text(f'<svg><text fill="{colour}">{word}</text><text>{ord(name)}</text></svg>')
    a, *others = (design(tmp_path / name) for name in "abcd")
    assert [other == a for other in others] == [True, False, False]
