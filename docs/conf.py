"""Configuration of the documentation site."""

import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(HERE / "_ext")]

import workbench  # noqa: E402

project = "workbench"
author = "The workbench contributors"
copyright = f"2026, {author}"
version = release = workbench.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "sphinx_design",
    "generated_pages",
]
exclude_patterns = ["_build", "_ext", "_generated", "**.ipynb_checkpoints"]
suppress_warnings = ["mystnb.unknown_mime_type"]

# The notebooks are pages of the site. They live at the top of the repository, with their outputs,
# and their links to the documentation start there.
notebooks = HERE / "notebooks"
shutil.rmtree(notebooks, ignore_errors=True)
shutil.copytree(ROOT / "notebooks", notebooks, ignore=shutil.ignore_patterns("runs", ".*"))
for path in notebooks.glob("*.ipynb"):
    path.write_text(path.read_text(encoding="utf-8").replace("](../docs/", "](../"), "utf-8")
nb_execution_mode = "off"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

highlight_language = "none"  # blocks without a language are shell commands
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autosummary_generate = True
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

html_theme = "pydata_sphinx_theme"
html_title = "workbench"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_theme_options = {
    "navigation_with_keys": False,
    "show_prev_next": False,
    "header_links_before_dropdown": 7,
    "navbar_align": "left",
    "navbar_end": ["theme-switcher"],
    "secondary_sidebar_items": ["page-toc"],
}
# Pages without a section have no section navigation.
html_sidebars = {name: [] for name in ("index", "install", "quickstart", "claims")}
