"""Configuration of Sphinx: `sphinx-build -W -b html docs docs/_build/html`."""

import evlib

project = "evlib"
author = "The evlib developers"
copyright = author
version = release = evlib.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
html_theme = "furo"
html_title = f"evlib {release}"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# Docstrings are numpydoc, with names in single backticks.
default_role = "code"
napoleon_google_docstring = False
napoleon_use_rtype = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
maximum_signature_line_length = 88


_PROPERTIES: dict[str, list[str]] = {}


def _keep(_app: object, what: str, name: str, _obj: object, _options: object, lines: list[str]) -> None:
    if what == "property":
        _PROPERTIES[name] = list(lines)


def _restore(_app: object, what: str, name: str, _obj: object, _options: object, lines: list[str]) -> None:
    if what == "property":
        lines[:] = _PROPERTIES[name]


def setup(app):  # noqa: ANN001, ANN201
    """Keep napoleon, whose priority is 500, from reading the words before a colon in a property's text as its type."""
    app.connect("autodoc-process-docstring", _keep, priority=400)
    app.connect("autodoc-process-docstring", _restore, priority=600)


# `bytes` is a type and an attribute of classes of the log; both are meant where they stand.
suppress_warnings = ["ref.python"]
