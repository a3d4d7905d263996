"""Draw the formulas of the pages as SVG when the site is built, so that a reader needs no remote script and no extra font."""

from __future__ import annotations

import html as markup
import io
import re

INK = "#123456"
"""Placeholder colour, replaced by `currentColor` so that a formula takes the colour of its page's text."""


def html(block: str) -> str:
    """Return a block of formulas, one per line, as a table: each formula, and beside it the note that follows `%`."""
    rows = []
    for line in block.strip().splitlines():
        formula, _, note = line.partition("%")
        formula = formula.strip().removesuffix(r"\\").strip()
        rows.append(f"<tr><td>{svg(formula)}</td><td>{markup.escape(note.strip())}</td></tr>")
    return f'<div class="formulas"><table class="formulas">{"".join(rows)}</table></div>'


def svg(formula: str) -> str:
    """Return a formula as a single-line SVG; it may use the part of LaTeX that matplotlib supports."""
    import matplotlib
    from matplotlib import mathtext

    matplotlib.use("Agg")
    out = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "tocsin", "mathtext.fontset": "cm", "font.size": 14}):
        mathtext.math_to_image(f"${formula}$", out, format="svg", color=INK)
    drawn = out.getvalue().decode()
    drawn = drawn[drawn.index("<svg") :]
    drawn = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<style.*?</style>", "", drawn, flags=re.S)
    drawn = re.sub(r'<g id="patch_1">.*?</g>', "", drawn, flags=re.S)  # the background
    drawn = re.sub(r' id="(figure|text)_1"', "", drawn).replace(INK, "currentColor")
    label = markup.escape(formula, quote=True)
    return re.sub(r"\s+", " ", drawn).replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1).strip()
