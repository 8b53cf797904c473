"""A hook of mkdocs: formulas become MathML when the pages are built, so no reader needs a script for them."""

import html
import re
from typing import Any

from latex2mathml.converter import convert

# What pymdownx.arithmatex makes of $…$ and of \[…\] or $$…$$.
FORMULA = re.compile(r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<latex>.*?)\\[)\]]</(?P=tag)>', flags=re.DOTALL)


def mathml(formula: re.Match[str]) -> str:
    """One formula as a <math> element, set off in a paragraph of its own where it was displayed."""
    latex = html.unescape(formula["latex"]).strip()
    # latex2mathml leaves no space between a function and its argument.
    latex = re.sub(r"\\(log|exp)\s+", r"\\\1\\, ", latex)
    return convert(latex, display="block" if formula["tag"] == "div" else "inline")


def on_page_content(content: str, **_: Any) -> str:
    """Called by mkdocs with every page's HTML, docstrings included."""
    return FORMULA.sub(mathml, content)
