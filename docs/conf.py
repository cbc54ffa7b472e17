"""How Sphinx builds the documentation: Markdown pages, every doubtful link a warning."""

from __future__ import annotations

__all__: list[str] = []

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
html_theme = "alabaster"
html_theme_options = {"description": "NRI plugins and runtimes in Python", "page_width": "70em"}
