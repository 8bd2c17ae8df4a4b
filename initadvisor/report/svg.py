"""Matplotlib figures as inline SVG that follows the page's colours and fonts, and says in words what it shows."""

from __future__ import annotations

import re
from html import escape
from io import StringIO
from typing import TYPE_CHECKING

from initadvisor.report.plots import Theme

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAINTED = Theme(ink="#0a0b01", faint="#0a0b02", before="#0a0b03", after="#0a0b04")
"""Colours no figure uses by chance; each is replaced by the page's own for that meaning."""

_VARIABLES = {"#0a0b01": "var(--ink)", "#0a0b02": "var(--faint)", "#0a0b03": "var(--before)", "#0a0b04": "var(--after)"}


def inline_svg(figure: Figure, name: str, title: str, description: str) -> str:
    """The figure as an ``<svg>`` element for an HTML page.

    Args:
        figure: drawn with :data:`PAINTED`.
        name: unique on the page; prefixes every id.
        title: what it is, read out first.
        description: what it shows, in words.
    """
    import matplotlib as mpl

    out = StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "axes.unicode_minus": True}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    for color, variable in _VARIABLES.items():
        text = text.replace(color, variable)
    # Text takes the page's font; sizes stay.
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    text = re.sub(r"font-family: [^;\"]*;?", "", text)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    text = re.sub(r'xlink:href="#', f'href="#{name}-', text)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)  # not needed inside HTML
    box = re.search(r'viewBox="([^"]*)"', text)
    opening = (
        f'<svg role="img" aria-labelledby="{name}-title {name}-desc" viewBox="{box[1] if box else ""}">'
        f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-desc">{escape(description)}</desc>'
    )
    return opening + text[text.index(">") + 1 :].strip()
