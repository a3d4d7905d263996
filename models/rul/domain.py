"""Remaining useful life for the commands `train`, `evaluate` and `feed`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tocsin.models.domain import SIM, DecimalComma, Domain, Evaluation, Feed, Option, Trained, Training

if TYPE_CHECKING:
    import polars as pl

    from tocsin.models.rul.model import RulModel
    from tocsin.models.rul.train import Epoch, Outcome

Subset = Annotated[str, Option("Subset of C-MAPSS.")]
ROWS = 1000
"""Rows in each table of a feed."""


class Rul(Domain):
    """Runs to failure: NASA's C-MAPSS files, CSV files of other machines, or a simulated fleet."""

    digits = 2

    def train(
        self,
        run: Training,
        *,
        config: Annotated[Path | None, Option("Columns and settings of the CSV files (TOML).", "FILE")] = None,
        subset: Subset = "FD001",
        epochs: Annotated[int | None, Option("Maximum number of epochs.")] = None,
        decimal_comma: DecimalComma = False,
    ) -> Trained:
        """Train on C-MAPSS files or, with `config`, on CSV files. The model then gets the name of the config file.

        Raises:
            ValueError: there is more than one folder, or a reader raises it.
        """
        from tocsin.models.attempts import Attempt, keep
        from tocsin.models.rul.train import Recipe, candidate, points
        from tocsin.models.rul.train import train as fit

        if len(run.data) > 1:
            raise ValueError(f"--data: expected one folder, got {', '.join(run.data)}; name one")
        data = Path(run.data[0])
        recipe = Recipe() if epochs is None else replace(Recipe(), epochs=epochs)
        name, folder = run.place(config.stem if config else "rul")
        attempts: dict[int, Attempt[RulModel]] = {}
        outcomes: dict[int, Outcome] = {}
        for seed in run.seeds:
            task = run.progress.add_task(f"seed {seed}", total=recipe.epochs)

            def report(epoch: Epoch, seed: int = seed, task: Any = task) -> None:
                description = f"seed {seed}, validation RMSE {epoch.rmse:.2f}"
                run.progress.update(task, completed=epoch.epoch + 1, description=description)

            outcome = fit(
                data=data,
                config=config,
                subset=subset,
                decimal_comma=decimal_comma,
                recipe=recipe,
                seed=seed,
                progress=report,
            )
            outcomes[seed] = outcome
            attempts[seed] = Attempt(
                outcome.model,
                outcome.rmse,
                points(outcome.curve),
                figures={"validation_rmse": outcome.rmse, "epochs": len(outcome.curve)},
                line=f": validation RMSE {outcome.rmse:.2f}",
            )
        return keep(
            run,
            attempts,
            domain="rul",
            place=(name, folder),
            candidate=lambda seed: candidate(outcomes[seed], folder),
            params=lambda model: {"window": model.config.window, "cap": model.config.cap, **asdict(recipe)},
            lower=True,
        )

    def evaluate(
        self, folder: Path, version: str, data: str, *, subset: Subset = "FD001", decimal_comma: DecimalComma = False
    ) -> Evaluation:
        """Score the last window of each C-MAPSS test engine, or every window of CSV files."""
        from tocsin.models.rul.data import csv_files
        from tocsin.models.rul.evaluate import evaluate

        csv = bool(csv_files(Path(data)))
        return Evaluation(evaluate(data=Path(data), model=folder, subset=subset, csv=csv, decimal_comma=decimal_comma))

    def feed(
        self,
        source: str,
        *,
        seed: int,
        rate: float | None,
        model: Path | None,
        subset: Subset = "FD001",
        split: Annotated[str, Option("Split of C-MAPSS: train (to failure) or test (cut off before).")] = "train",
        engines: Annotated[int, Option("Number of engines in the simulated fleet.")] = 100,
        decimal_comma: DecimalComma = False,
    ) -> Feed:
        """Feed all machines at once, row by row. A simulated fleet is endless."""
        from tocsin.models.rul.config import RulConfig
        from tocsin.models.rul.data import csv_files, read_cmapss, read_csv_directory

        if source == SIM:
            return Feed(_fleet(engines, seed))
        if not csv_files(Path(source)):
            table = read_cmapss(Path(source), subset, split).sort("cycle", "unit")
        elif model is None:
            raise ValueError(f"--from {source}: expected a model whose config names the columns of CSV files, got none")
        else:
            config = RulConfig.load(model)
            table = read_csv_directory(Path(source), config, decimal_comma=decimal_comma)
            table = table.sort(config.order, config.key)
        return Feed(table.iter_slices(ROWS), total=table.height)


def _fleet(engines: int, seed: int) -> Iterator[pl.DataFrame]:
    """A simulated fleet's readings, cycle after cycle, without the true remaining life."""
    from tocsin.models.rul.simulation.fleet import live

    return (frame.drop("rul") for frame in live(engines=engines, seed=seed))
