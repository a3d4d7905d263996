"""Quality for the commands `train`, `evaluate` and `feed`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tocsin.models.domain import SIM, DecimalComma, Domain, Evaluation, Feed, Option, Trained, Training

if TYPE_CHECKING:
    from tocsin.models.quality.series import Series

ROWS = 1000
"""Rows in each table of a feed."""
PLANTS = 300
"""Simulated plants for training."""
TESTED = 8
"""Batches of 64 windows of each site that are judged."""
SEED = 7200
"""Of the faults that are injected to judge."""
SHOWN = ("auroc", "reason", "channel", "found", "false")


@dataclass(frozen=True)
class Quality(Domain):
    """Recordings of any plant, or simulated plants.

    Args:
        watched: series, and a model's folder and version -> verdicts and raised alerts of the pipeline over them, as they are.
    """

    watched: Callable[[Sequence[Series], Path, str], tuple[int, int]]

    def train(
        self,
        run: Training,
        *,
        steps: Annotated[int | None, Option("Training steps.", least=1)] = None,
        plants: Annotated[int, Option("Number of simulated plants, for `--data sim`.", least=2)] = PLANTS,
        decimal_comma: DecimalComma = False,
    ) -> Trained:
        """Train on faults injected into the recordings of sites, a folder each, and keep the seed with the best AUROC.

        The last part of each recording is held out: it judges the seeds, and sets the level below which a window is bad.
        """
        from tocsin.models.attempts import each_seed, keep
        from tocsin.models.quality.config import QualityConfig
        from tocsin.models.quality.train import Recipe, candidate
        from tocsin.models.quality.train import train as fit

        name, folder = run.place("quality")
        config, recipe = QualityConfig(), Recipe()
        recipe = recipe if steps is None else replace(recipe, steps=steps)
        real, simulated = list[Any](), list[Any]()
        for source in run.data:
            (simulated if source == SIM else real).append(recorded(source, plants, decimal_comma=decimal_comma))
        outcomes, attempts = each_seed(
            run,
            lambda seed, report: fit(real, simulated, config, recipe, seed=seed, progress=report),
            steps=recipe.steps,
            line=_line,
            prefix="validation_",
        )
        return keep(
            run,
            attempts,
            domain="quality",
            place=(name, folder),
            candidate=lambda seed: candidate(outcomes[seed], folder),
            params=lambda model: {"level": model.config.level, **asdict(recipe)},
        )

    def evaluate(
        self,
        folder: Path,
        version: str,
        data: str,
        *,
        plants: Annotated[int, Option("Number of simulated plants, for `--data sim`.", least=1)] = 20,
        decimal_comma: DecimalComma = False,
    ) -> Evaluation:
        """Inject the eight faults into recordings, and see which windows are found; then count the alerts on them as they are."""
        from tocsin.models.quality.evaluate import figures, judge, of_rules
        from tocsin.models.quality.model import load
        from tocsin.models.quality.series import SHORTEST
        from tocsin.models.quality.train import batches

        series, model = recorded(data, plants, decimal_comma=decimal_comma, seed=1), load(folder, "cpu")
        try:
            cases = batches(series, model.config, count=TESTED, whole=True, seed=SEED)
        except ValueError as reason:
            raise ValueError(f"{data}: {reason}") from None
        judged = judge(model, cases)
        verdicts, alerts = self.watched(series, folder, version)
        found = figures(judged, model.config.level)
        return Evaluation(
            {**found, "alerts_per_1000_verdicts": 1000 * alerts / max(verdicts, 1), "parameters": model.parameters},
            baselines=of_rules(judged),
            counted={
                "keys": len(series),
                "readings": sum(map(len, series)),
                "windows": len(judged.truth),
                "windows with a fault": int((~judged.clean).sum()),
                "verdicts": verdicts,
                "alerts": alerts,
            },
            left_out={f"keys with fewer than {SHORTEST} readings": sum(len(each) < SHORTEST for each in series)},
            lines=[f"{name}: AUROC {value:.3f}" for name, value in _by_fault(found).items()],
        )

    def feed(
        self,
        source: str,
        *,
        seed: int,
        rate: float | None,
        model: Path | None,
        plants: Annotated[int, Option("Number of simulated plants.", least=1)] = 8,
        rows: Annotated[int, Option("Readings of each simulated plant.", least=300)] = 1200,
        decimal_comma: DecimalComma = False,
    ) -> Feed:
        """Feed the readings of all keys in the order of time. Each simulated plant has one fault in its last third."""
        import polars as pl

        from tocsin.models.quality.simulation.faulty import readings

        if source == SIM:
            table, _ = readings(plants, rows, seed=seed)
        else:
            table = as_table(recorded(source, plants, decimal_comma=decimal_comma))
            table = table.sort("time", maintain_order=True).with_columns(
                pl.from_epoch((pl.col("time") * 1000).cast(pl.Int64), "ms").dt.replace_time_zone("UTC")
            )
        return Feed(table.iter_slices(ROWS), total=table.height)


def recorded(source: str, plants: int, *, decimal_comma: bool = False, seed: int = 0) -> list[Series]:
    """The series in a folder or, for `SIM`, of simulated plants.

    Raises:
        FileNotFoundError, ValueError: from the reader.
    """
    from tocsin.models.quality.data import read
    from tocsin.models.quality.simulation import plant

    return plant.plants(plants, seed=seed) if source == SIM else read(Path(source), decimal_comma=decimal_comma)


def as_table(series: Sequence[Series]) -> Any:
    """Series as one table: `asset`, `time` as a number, and their channels; null where a key does not have one."""
    import polars as pl

    parts = [
        pl.DataFrame({"asset": pl.repeat(each.key, len(each), eager=True), "time": each.times}).hstack(
            pl.DataFrame(each.values, schema=list(each.channels)).select(pl.all().cast(pl.Float64).fill_nan(None))
        )
        for each in series
    ]
    return pl.concat(parts, how="diagonal")


def _by_fault(figures: dict[str, float]) -> dict[str, float]:
    return {name.removeprefix("auroc_"): value for name, value in figures.items() if name.startswith("auroc_")}


def _line(figures: dict[str, float]) -> str:
    """What a seed's training came to."""
    return (
        f": AUROC {figures['auroc']:.3f} on parts that were held out; {figures['found']:.0%} of the faults are found with "
        f"{figures['false']:.1%} of the clean windows, the reason is right for {figures['reason']:.0%}"
    )
