"""How Sphinx builds the documentation: `make docs`."""

from __future__ import annotations

import re

from gapcell import __version__

project = "gapcell"
author = copyright = "The gapcell authors"  # noqa: A001  # Sphinx's names
release = version = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "gapcell"
html_theme_options = {"navigation_with_keys": True}
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
suppress_warnings = ["ref.python"]  # `params` is an attribute of several classes
napoleon_google_docstring, napoleon_numpy_docstring = True, False
napoleon_custom_sections = [("Shapes", "params_style"), ("The call takes", "params_style")]


def skip_foreign(app: object, what: str, name: str, member: object, skip: bool, options: object) -> bool | None:
    """Leaves out what a class has from its framework, which documents it."""
    owner = getattr(member, "__module__", None) or getattr(getattr(member, "fget", None), "__module__", None)
    return True if owner is not None and not owner.startswith("gapcell") else None


def as_markup(app: object, what: str, name: str, member: object, options: object, lines: list[str]) -> None:
    """Makes reStructuredText of a docstring: stars of shapes are no emphasis, and a legend stands before its shapes."""
    text = re.sub(r"(?<![\\\w*`])\*(?=[A-Zk,])", r"\\*", "\n".join(lines))
    lines[:] = re.sub(r"^Shapes \((.*)\):$", r"Below, \1.\n\nShapes:", text, flags=re.MULTILINE).split("\n")


def setup(app: object) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", as_markup, priority=100)  # pyrefly: ignore  # before Napoleon's
    app.connect("autodoc-skip-member", skip_foreign)  # pyrefly: ignore  # Sphinx's application
