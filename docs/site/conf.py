"""How Sphinx makes the site: see assemble.py for where its pages come from."""

from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx

import remoe_sim

project = "remoe-sim"
author = "the authors of remoe-sim"
release = version = remoe_sim.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
html_theme = "furo"
html_title = f"remoe-sim {release}"
smartquotes = False  # which would make one dash of the two before an option
html_copy_source = False
html_show_copyright = False
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
default_role = "code"  # docstrings put names between single backquotes
maximum_signature_line_length = 80


def setup(app: Sphinx) -> None:
    app.add_lexer("csv", TextLexer)  # the kind of our blocks, which Pygments does not know
