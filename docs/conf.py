"""How Sphinx builds the documentation: `make docs`."""

from __future__ import annotations

from gapcell import __version__

project = "gapcell"
author = "The gapcell authors"
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
napoleon_google_docstring, napoleon_numpy_docstring = True, False


def skip_foreign(app: object, what: str, name: str, member: object, skip: bool, options: object) -> bool | None:
    """Leaves out what a class has from its framework, which documents it."""
    owner = getattr(member, "__module__", None) or getattr(getattr(member, "fget", None), "__module__", None)
    return True if owner is not None and not owner.startswith("gapcell") else None


def setup(app: object) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-skip-member", skip_foreign)  # pyrefly: ignore  # Sphinx's application
