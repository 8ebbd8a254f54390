"""`gapcell laws`, users' adapters by name, reports as files, and the laws as tests of pytest's."""

import inspect
import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from gapcell import laws
from gapcell.cli import main
from gapcell.laws import check
from gapcell.laws.output import to_html, to_json
from gapcell.laws.suite import NAMES
from laws.sums import BackwardSums, Sums

# Adapters by name --------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where a user's adapter lies and the command is typed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("OMP_NUM_THREADS", "TF_CPP_MIN_LOG_LEVEL"):  # the command sets them where they are not
        monkeypatch.setenv(name, "1")
    source = ["import numpy as np", "from gapcell.laws import CannotBeAsked", "WEIGHTS = np.ones((9, 9))"]
    source += [inspect.getsource(Sums), inspect.getsource(BackwardSums)]
    source += ["made, nothing = Sums(), 3"]
    (tmp_path / "mine.py").write_text("\n".join(source), encoding="utf-8")
    yield tmp_path
    sys.modules.pop("mine", None)


def test_a_user_s_adapter_is_a_class_or_an_object(folder):
    for name in ("mine:Sums", "mine:made"):
        assert type(laws.load(name)).__name__ == "Sums"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torhc", r"there is no adapter 'torhc'; give package.module:attribute, or one of torch, torch-dense, .*"),
        ("mine", r"there is no adapter 'mine'; .*"),
        ("theirs:Layer", r"theirs:Layer: no module 'theirs', neither installed nor in \."),
        ("mine:layer", "mine:layer: mine has no 'layer'"),
        ("mine:nothing", r"mine:nothing is a int without `run\(case\)`; see gapcell.laws.Adapter"),
    ],
)
def test_an_adapter_that_is_none_is_refused(folder, name, message):
    with pytest.raises(laws.UnknownAdapterError, match=f"^{message}$"):
        laws.load(name)


def test_a_missing_package_is_answered_with_the_pip_line(monkeypatch, capsys):
    known = laws.KNOWN["haiku"]
    absent = laws.adapters.Known(known.says, known.where, {"no_such_package": "dm-haiku"})
    monkeypatch.setitem(laws.KNOWN, "haiku", absent)
    assert main(["laws", "haiku"]) == 2
    said = "gapcell: haiku needs no_such_package, which is not installed: pip install dm-haiku\n"
    assert capsys.readouterr().err == said
    assert main(["laws"]) == 0
    assert re.search(r"haiku .* pip install dm-haiku", capsys.readouterr().out)


def test_what_one_extra_installs_is_one_word_of_the_pip_line(monkeypatch):
    monkeypatch.setattr(laws.adapters.importlib.util, "find_spec", lambda package: None)
    assert laws.KNOWN["flax"].missing() == "'gapcell[flax]'"
    assert laws.KNOWN["haiku"].missing() == "'gapcell[jax]' dm-haiku"


# The command --------


def test_the_command_shows_a_law_a_line_and_leaves_with_0(folder, capsys):
    assert main(["laws", "mine:made", "--rank", "1"]) == 0
    out, err = capsys.readouterr()
    for law, says in NAMES.items():
        assert re.search(rf"^ +{law} +{says.split()[0]} .*(holds|cannot be asked|not asked)", out, re.MULTILINE)
    assert "broken  " not in out
    assert re.search(r"mine:made: (\d+) of \1$", err, re.MULTILINE)


def test_a_broken_law_is_named_and_the_status_is_1(folder, capsys):
    assert (
        main(["laws", "mine:BackwardSums", "mine:made", "--rank", "1", "--json", "laws.json", "--html", "laws.html"])
        == 1
    )
    out, err = capsys.readouterr()
    assert "mine:BackwardSums, law 8: nothing masked: outputs before step 1, " in out
    assert err.splitlines()[-1] == "gapcell: mine:BackwardSums breaks law 8, 10"
    content = json.loads((folder / "laws.json").read_text(encoding="utf-8"))
    assert {"format", "gapcell", "versions", "systems"} == set(content)
    assert content["format"] == 1
    assert content["versions"]["numpy"] == np.__version__
    odd, made = content["systems"]
    assert set(odd) == {"system", "rank", "dtype", "laws", "rows"}
    assert (odd["system"], odd["rank"], odd["dtype"]) == ("mine:BackwardSums", 1, "float32")
    counted = Counter((row["law"], row["verdict"]) for row in odd["rows"])
    for summary in odd["laws"]:
        assert set(summary) == {"law", "says", "verdict", "held", "broken", "not_asked", "case", "message"}
        assert summary["broken"] == counted[summary["law"], "broken"]
    assert not [row for row in made["rows"] if row["verdict"] == "broken"]
    assert sorted(path.name for path in folder.iterdir() if path.is_file()) == ["laws.html", "laws.json", "mine.py"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["laws", "mine:made", "--rank", "4"],
            'Invalid value "4" for --rank. Choose from: 1, 2, 3; see gapcell laws --help',
        ),
        (["laws", "mine:made", "--html", "laws.txt"], "--html (='laws.txt') must end in .html or .htm"),
        (["laws", "mine:made", "--json", "no/laws.json"], "--json: cannot write 'no/laws.json': there is no folder"),
        (["laws", "--json", "laws.json"], "name an adapter; gapcell laws lists them"),
        (["laws", "mine:other"], "mine:other: mine has no 'other'"),
    ],
)
def test_the_command_refuses_in_a_sentence(folder, capsys, words, said):
    assert main(words) in (1, 2)
    out, err = capsys.readouterr()
    assert (out, err[: len(f"gapcell: {said}")]) == ("", f"gapcell: {said}")


def test_the_page_is_well_formed_and_shows_names_as_text(folder):
    odd = check("mine:BackwardSums", rank=1, laws=[2, 8], system="<script>&")
    page = to_html([odd, check("mine:made", rank=1, laws=[2])], {"numpy": "<b>"})
    root = ElementTree.fromstring(page.partition("\n")[2])  # noqa: S314  # our own page
    assert [node.tag for node in root.iter() if node.tag in ("script", "b", "link", "img")] == []
    text = " ".join("".join(root.itertext()).split())
    assert "<script>&" in text
    assert "numpy <b>" in text
    assert "outputs before step 1, when the later inputs change: differs by" in text
    assert json.loads(to_json([odd], {}))["systems"][0]["system"] == "<script>&"


# pytest --------


def test_one_line_makes_tests(folder):
    (folder / "test_mine.py").write_text(
        "import gapcell.laws\n\n"
        "test_laws = gapcell.laws.as_tests('mine:BackwardSums', rank=3)\n"
        "test_some = gapcell.laws.as_tests('mine:made', rank=3, laws=[1, 4, 8])\n",
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "test_mine.py"]
    environment = os.environ | {"PYTHONPATH": str(Path(laws.__file__).parents[2])}
    ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=environment, timeout=600)
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert re.search(
        r"LawBroken: +8 +no output depends on the future +broken .* 3d, nothing masked: outputs", ran.stdout
    )
    assert re.search(r"SKIPPED .* 4 +dead sites .* cannot be asked .* a mask of elements", ran.stdout)
    assert "test_laws[8, no output depends on the future]" in ran.stdout
    assert "2 failed, 9 passed, 7 skipped" in ran.stdout
