"""How Sphinx builds the documentation: Markdown pages, every doubtful link a warning.

Only the reference of names has Sphinx directives, so that a code host shows the other pages as they are. The
navigation is made from the lists of links in index.md.
"""

from __future__ import annotations

import posixpath
import re
from typing import Any

__all__ = ["setup"]

project = "nri_sync"
author = "The nri_sync maintainers"
copyright = "The nri_sync maintainers"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_format = "short"
# The signatures name types of the standard library and of grpcio, which have no pages here.
nitpick_ignore_regex = [("py:.*", r".*")]
exclude_patterns = ["_build"]
myst_heading_anchors = 4
nitpicky = True
html_theme = "furo"
html_title = "nri_sync"
html_static_path = ["_static"]
html_css_files = ["site.css"]
# Links between pages of the repository, on the site: files outside docs/ have no page there.
REPOSITORY = "https://github.com/nri-sync/nri_sync/blob/main/"

# Page, heading, label: docstrings cannot link to a Markdown heading without a label.
LABELS = [("kit", "## Signals", "kit-signals")]

SECTION = re.compile(r"^## (?P<caption>.+)\n(?P<body>(?:(?!^## ).*\n?)*)", re.MULTILINE)
ENTRY = re.compile(r"^(?:-|\d+\.) \[[^\]]+\]\((?P<page>[\w/-]+)\.md\)", re.MULTILINE)
OUTSIDE = re.compile(r"\]\((\.\./[^)]+)\)")
TREE = "\n```{{toctree}}\n:hidden:\n:caption: {}\n\n{}\n```\n"


def navigation(index: str) -> str:
    """Returns hidden toctrees: one for each heading of index.md, with the pages that its list links to."""
    trees = []
    for section in SECTION.finditer(index):
        pages = ENTRY.findall(section["body"])
        if pages:
            trees.append(TREE.format(section["caption"], "\n".join(pages)))
    return "".join(trees)


def outward(name: str, text: str) -> str:
    """Returns the text of a page whose links to files outside docs/ lead to the repository on its code host."""

    def link(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(name), match[1]))
        return match[0] if path.startswith("docs/") else f"]({REPOSITORY}{path})"

    return OUTSIDE.sub(link, text)


def labelled(name: str, text: str) -> str:
    """Returns the text of a page with the labels that docstrings refer to."""
    for page, heading, label in LABELS:
        if page == name:
            text = text.replace(f"\n{heading}\n", f"\n({label})=\n{heading}\n")
    return text


def read(app: Any, name: str, content: list[str]) -> None:
    """Prepares the text of a page for Sphinx."""
    content[0] = labelled(name, outward(name, content[0]))
    if name == "index":
        content[0] += navigation(content[0])


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("source-read", read)
