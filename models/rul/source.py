"""Where runs to failure come from: C-MAPSS files, CSV files with intervals beside them, or a simulated fleet with maintenance."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from tocsin.models import timetable
from tocsin.models.domain import SIM
from tocsin.models.rul.config import RulConfig
from tocsin.models.rul.data import FEATURES, SETTINGS, period, read_cmapss, read_csv_directory

ENGINES, TEST_SEED = 400, 1000
"""Engines of a simulated fleet; the seed of the fleet that is for evaluation, never for training."""


@dataclass(frozen=True)
class Runs:
    """Runs to failure.

    Args:
        table: their rows.
        config: names the columns; with a period, if there is context.
        intervals: of the assets' time, as `timetable.read` returns them; None: the model reads none, or none are known.
    """

    table: pl.DataFrame
    config: RulConfig
    intervals: pl.DataFrame | None = None


def simulated() -> RulConfig:
    """The config of the simulated fleet with maintenance and loads."""
    from tocsin.models.rul.simulation.maintained import KINDS, NUMBERS

    return RulConfig(
        key="unit", order="cycle", features=FEATURES, settings=SETTINGS, context=KINDS, context_numbers=NUMBERS
    )


def runs(
    data: Path,
    config: RulConfig,
    *,
    subset: str | None = None,
    decimal_comma: bool = False,
    context: Path | None = None,
    seed: int = 0,
) -> Runs:
    """Read runs to failure, and the intervals beside them if the model reads any.

    Args:
        data: a folder, or `sim`.
        config: of the model; C-MAPSS files have no times, so that its context does not apply to them.
        subset: of C-MAPSS; None: CSV files.
        decimal_comma: the CSV files have decimal commas, as in 400,5.
        context: a file of intervals; None: the one in the folder.
        seed: of a simulated fleet.

    Raises:
        FileNotFoundError, ValueError: from the readers, or there are no intervals for a model that reads some.
    """
    if str(data) == SIM:
        from tocsin.models.rul.simulation.maintained import run_to_failure

        table, intervals = run_to_failure(engines=ENGINES, seed=seed)
    elif subset:
        table, intervals = read_cmapss(data, subset), None
        if config.context:
            raise ValueError(f"{data}: expected CSV files with times for a model with context, got C-MAPSS files")
    else:
        table, intervals = read_csv_directory(data, config, decimal_comma=decimal_comma), None
        if config.context:
            if (file := context or timetable.beside(data)) is None:
                raise FileNotFoundError(
                    f"{data}: expected intervals of {', '.join(config.context)}, got none; add context.csv there, or name a file "
                    "with --context"
                )
            intervals = timetable.read(file, kinds=config.context, numbers=config.context_numbers)
    if not config.context:
        return Runs(table, config)
    known = config if config.period else replace(config, period=period(table, config))
    return Runs(table, known, intervals)
