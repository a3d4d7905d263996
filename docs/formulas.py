"""Formulas of the pages, drawn when the site is built: no script of another host, and no font that a reader may lack."""

from __future__ import annotations

import html as markup
import io
import re

INK = "#123456"
"""Stands for the text's own colour until a formula is in its page."""


def html(block: str) -> str:
    """A block of formulas, one a line, as a table: the formula, and what stands behind `%` beside it."""
    rows = []
    for line in block.strip().splitlines():
        formula, _, note = line.partition("%")
        formula = formula.strip().removesuffix(r"\\").strip()
        rows.append(f"<tr><td>{svg(formula)}</td><td>{markup.escape(note.strip())}</td></tr>")
    return f'<div class="formulas"><table class="formulas">{"".join(rows)}</table></div>'


def svg(formula: str) -> str:
    """A formula in LaTeX, as far as matplotlib knows it, as an SVG in a line."""
    import matplotlib
    from matplotlib import mathtext

    matplotlib.use("Agg")
    out = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "tocsin", "mathtext.fontset": "cm", "font.size": 14}):
        mathtext.math_to_image(f"${formula}$", out, format="svg", color=INK)
    drawn = out.getvalue().decode()
    drawn = drawn[drawn.index("<svg") :]
    drawn = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<style.*?</style>", "", drawn, flags=re.S)
    drawn = re.sub(r'<g id="patch_1">.*?</g>', "", drawn, flags=re.S)  # the paper
    drawn = re.sub(r' id="(figure|text)_1"', "", drawn).replace(INK, "currentColor")
    label = markup.escape(formula, quote=True)
    return re.sub(r"\s+", " ", drawn).replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1).strip()
