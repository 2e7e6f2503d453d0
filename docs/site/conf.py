"""What Sphinx is told; docs/site/build.py runs it."""

import re
from pathlib import Path

from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx

HERE = Path(__file__).parent
PACKAGE = (HERE.parents[1] / "src/quiltfn/__init__.py").read_text()

project = "quiltfn"
version = release = re.findall(r'__version__ = "([^"]+)"', PACKAGE)[0]
extensions = ["myst_parser"]
myst_heading_anchors = 6
# What is an option, such as --profile, stays one.
smartquotes = False

html_theme = "furo"
html_title = f"quiltfn {version}"
html_theme_options: dict[str, list[str]] = {"top_of_page_buttons": []}
html_favicon = str(HERE.parents[1] / "ui/src/icon.svg")
html_static_path = ["static"]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
templates_path = ["templates"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_use_index = False
html_search_scorer = str(HERE / "scorer.js")


def on_page(app: Sphinx, name: str, *_: object) -> None:
    """Pages of the API have forms."""
    if name.startswith("api/"):
        app.add_js_file("explorer.js")


def setup(app: Sphinx) -> None:
    """Shows as plain text what there are no colours for."""
    app.add_lexer("haproxy", TextLexer)
    app.connect("html-page-context", on_page)
