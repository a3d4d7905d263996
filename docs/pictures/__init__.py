"""The pictures of operators' and pipelines' pages, one module each: `draw(axes)` draws the picture by running what it shows."""

from __future__ import annotations

import importlib
import io
import pkgutil


def names() -> list[str]:
    """Return the names of the pages that have a picture, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def svg(name: str) -> bytes:
    """Return the picture of one page as SVG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with pyplot.rc_context({"svg.hashsalt": "tocsin", "font.size": 9}):  # makes the output reproducible
        figure, axes = pyplot.subplots(figsize=(6, 3.2), layout="constrained")
        importlib.import_module(f"{__name__}.{name}").draw(axes)
        out = io.BytesIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
        pyplot.close(figure)
    return out.getvalue()
