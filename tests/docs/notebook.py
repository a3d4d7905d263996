"""`python -m tests.docs.notebook FILE`: run a notebook's cells in order, as Jupyter does, and save its pictures.

It prints what each cell shows. The pictures go to the current folder, as `1.png`, `2.png` and so on.
"""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path
from typing import Any

import matplotlib


def run(file: Path) -> None:
    """Run the cells in one namespace. The last expression of a cell is shown."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    namespace: dict[str, Any] = {"__name__": "__main__"}
    pictures = 0
    for number, cell in enumerate(json.loads(file.read_text())["cells"]):
        if cell["cell_type"] != "code":
            continue
        body = ast.parse("".join(cell["source"])).body
        shown = body.pop() if isinstance(body[-1], ast.Expr) else None
        where = f"{file.name}, cell {number}"
        exec(compile(ast.Module(body, []), where, "exec"), namespace)
        if isinstance(shown, ast.Expr):
            value = eval(compile(ast.Expression(shown.value), where, "eval"), namespace)
            if value is not None:
                print(value)
        for each in pyplot.get_fignums():
            pictures += 1
            pyplot.figure(each).savefig(f"{pictures}.png")
        pyplot.close("all")


if __name__ == "__main__":
    run(Path(sys.argv[1]))
