"""The command `demo`: run the demo on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    folder: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Cleared first; keeps the table and the MLflow run.")
    ] = Path(".tocsin/demo"),
    seconds: Annotated[float, typer.Option(help="Seconds that the fleet flies.")] = 12,
    rate: Annotated[float, typer.Option(help="Readings per second.")] = 3000,
    engines: Annotated[int, typer.Option(help="Number of engines.")] = 200,
) -> None:
    """Watch a simulated fleet of engines wear out, see its alerts and query its results. Runs on this machine alone."""
    from tocsin.pipelines.demo.flight import fly

    fly(folder, seconds=seconds, rate=rate, engines=engines)
