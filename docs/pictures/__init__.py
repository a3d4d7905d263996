"""The pictures of the operators' pages, a file each: `draw(axes)` paints one from the operator itself."""

from __future__ import annotations

import importlib
import io
import pkgutil


def names() -> list[str]:
    """The operators that have a picture."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def svg(name: str) -> bytes:
    """The picture of one operator."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with pyplot.rc_context({"svg.hashsalt": "tocsin", "font.size": 9}):  # the same bytes each time
        figure, axes = pyplot.subplots(figsize=(6, 3.2), layout="constrained")
        importlib.import_module(f"{__name__}.{name}").draw(axes)
        out = io.BytesIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
        pyplot.close(figure)
    return out.getvalue()
