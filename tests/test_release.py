"""What is said of a release in several places is the same."""

import re
import sys
import tomllib
from pathlib import Path

import pytest
from release.trial import TRIALS, Broken, answered, pip_line

import gapcell

ROOT = Path(__file__).parents[1]


def text(name):
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_version_is_one():
    stated = tomllib.loads(text("pyproject.toml"))["project"]["version"]
    cited = re.search(r"^version: (.+)$", text("CITATION.cff"), re.MULTILINE)
    assert gapcell.__version__ == stated == cited[1]
    assert f"## {stated}" in text("CHANGELOG.md")


def test_what_an_extra_is_named_for_can_be_installed():
    extras = tomllib.loads(text("pyproject.toml"))["project"]["optional-dependencies"]
    for document in ("README.md", "docs/export.md", "docs/index.md", "CONTRIBUTING.md"):
        named = re.findall(r"'[^']*gapcell\[([^\]]+)\]'|'\.\[([^\]]+)\]'", text(document))
        assert {extra for pair in named for group in pair for extra in group.split(",") if extra} <= set(extras), (
            document
        )


# The trial of the wheel by release/trial.py ---------------------------------------------------------------------------


def test_every_extra_for_users_is_tried():
    extras = tomllib.loads(text("pyproject.toml"))["project"]["optional-dependencies"]
    assert {trial.extra for trial in TRIALS} == {"base"} | {extra for extra in extras if not extra.startswith("test")}


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("Traceback\nModuleNotFoundError: x needs torch: pip install 'gapcell[torch]'\n", "'gapcell[torch]'"),
        ("gapcell: not installed: pip install --no-deps lifetimes==0.11.3", "--no-deps lifetimes==0.11.3"),
        ("pip install 'gapcell[keras,torch]' and KERAS_BACKEND=torch", "'gapcell[keras,torch]'"),
        ("pip install it\nModuleNotFoundError: No module named 'torch'", None),
    ],
)
def test_the_pip_line_is_read_off_the_last_line(said, line):
    assert pip_line(said) == line


@pytest.mark.parametrize(
    ("question", "outcome"),
    [("pass", None), ("raise ImportError('this needs it: pip install it')", "it"), ("import no_such_module", Broken)],
)
def test_an_answer_without_a_pip_line_is_broken(question, outcome, tmp_path):
    if outcome is Broken:
        with pytest.raises(Broken, match=r"(?s)answered without a pip line: .*No module named 'no_such_module'"):
            answered(Path(sys.executable), question, tmp_path)
    else:
        assert answered(Path(sys.executable), question, tmp_path) == outcome
