"""The command `demo`: run the demo on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    folder: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Made anew; the table and the MLflow run stay there.")
    ] = Path(".tocsin/demo"),
    seconds: Annotated[float, typer.Option(help="For which the fleet flies.")] = 12,
    rate: Annotated[float, typer.Option(help="Readings a second.")] = 3000,
    engines: Annotated[int, typer.Option(help="In the fleet.")] = 200,
) -> None:
    """Watch a simulated fleet of engines wear out, see its alerts and query its results. Needs nothing but this machine."""
    from tocsin.pipelines.demo.flight import fly

    fly(folder, seconds=seconds, rate=rate, engines=engines)
