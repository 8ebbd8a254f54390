"""What is said of a release in several places is the same."""

import re
import tomllib
from pathlib import Path

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
