"""How Sphinx builds the site: `python -m sphinx -W docs site`."""

from __future__ import annotations

import importlib.util
import re
import warnings

import adam_any

project = "adam_any"
author = "the authors of adam_any"
copyright = author
release = version = adam_any.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx-mathjax-offline",
    "sphinx.ext.viewcode",
    "numpydoc",
    "myst_parser",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "explained/*", "**/README.rst"]

# The pages are Markdown that reads well in the repository, too.
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
suppress_warnings = ["config.cache"]  # the gallery's options hold a function

# The API, from the docstrings.
autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say what is taken, in words
templates_path = ["_templates"]
autodoc_mock_imports = [
    name for name in ("torch", "cupy", "jax", "optax") if importlib.util.find_spec(name) is None
]
numpydoc_show_class_members = False
default_role = "py:obj"

# The gallery: every script runs in the build, and one that fails or warns fails it.
sphinx_gallery_conf = {
    "examples_dirs": ["../examples", "explained"],
    "gallery_dirs": ["gallery", "how_it_works"],
    "download_all_examples": False,
    "show_memory": False,
    "show_signature": False,
    "min_reported_time": 1,
    "write_computation_times": False,
    "only_warn_on_example_error": False,
    "abort_on_example_error": True,
    "plot_gallery": True,
    "reset_argv": lambda conf, script: [],
}
warnings.filterwarnings("error", category=DeprecationWarning, module="adam_any")

html_theme = "pydata_sphinx_theme"
html_title = "adam_any"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_theme_options = {
    "navbar_end": ["theme-switcher"],
    "secondary_sidebar_items": ["page-toc"],
    "show_prev_next": False,
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
    "header_links_before_dropdown": 6,
}
html_sidebars = {
    page: [] for page in ("index", "one_minute", "how_do_i", "gallery/*", "how_it_works/*")
}


def setup(app: object) -> None:
    """Keep initials of authors from being taken for the numbers of a list."""
    app.connect("autodoc-process-docstring", _escape, priority=900)  # type: ignore[attr-defined]


def _escape(
    app: object, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    lines[:] = [re.sub(r"^(\s*\.\. \[[^\]]+\] )([A-Z]\.)", r"\1\\\2", line) for line in lines]
