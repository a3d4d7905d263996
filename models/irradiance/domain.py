"""Irradiance for the commands `train`, `evaluate` and `feed`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tocsin.models.domain import SIM, DecimalComma, Domain, Evaluation, Feed, Option, Trained, Training

if TYPE_CHECKING:
    import polars as pl

    from tocsin.models.irradiance.samples import Samples

ROWS = 1000
"""Rows in each table of a feed."""
FOREIGN = 0.05
"""Share of the readings outside the model's domain above which figures are doubtful."""
SITES, DAYS = 12, 365
"""Simulated sites for training, and the length of a simulation."""
SHOWN = ("rmse", "mae", "skill", "rmse_all", "coverage", "width")


@dataclass(frozen=True)
class Irradiance(Domain):
    """Readings of weather sites, or simulated sites.

    Args:
        results: readings, and a model's folder and version -> the pipeline's results.
    """

    results: Callable[[pl.DataFrame, Path, str], pl.DataFrame]
    digits = 2

    def train(
        self,
        run: Training,
        *,
        network: Annotated[str, Option("Kind of network: physics, attention or plain.")] = "physics",
        steps: Annotated[int | None, Option("Training steps.", least=1)] = None,
        sites: Annotated[int, Option("Number of simulated sites, for `--data sim`.", least=1)] = SITES,
        days: Annotated[int, Option("Days of the simulation, for `--data sim`.", least=1)] = DAYS,
        decimal_comma: DecimalComma = False,
    ) -> Trained:
        """Train on all sites, and keep the seed with the best skill on sites that are left out.

        A recorded site is left out once, and a network of the same recipe is judged on it. A single one has no other; then the
        days that are held out judge the seeds.
        """
        from tocsin.models.attempts import each_seed, keep
        from tocsin.models.irradiance.config import IrradianceConfig
        from tocsin.models.irradiance.train import Recipe, candidate
        from tocsin.models.irradiance.train import train as fit

        name, folder = run.place("irradiance")
        config, recipe = IrradianceConfig(network=network), Recipe()
        recipe = recipe if steps is None else replace(recipe, steps=steps)
        real, simulated = _sources(run, sites=sites, days=days, decimal_comma=decimal_comma)
        outcomes, attempts = each_seed(
            run,
            lambda seed, report: fit(real, simulated, config, recipe, seed=seed, progress=report),
            steps=recipe.steps,
            line=_line,
        )
        return keep(
            run,
            attempts,
            domain="irradiance",
            place=(name, folder),
            candidate=lambda seed: candidate(outcomes[seed], folder),
            params=lambda model: {"network": network, **asdict(model.config.size), **asdict(recipe)},
        )

    def evaluate(
        self,
        folder: Path,
        version: str,
        data: str,
        *,
        sites: Annotated[int, Option("Number of simulated sites, for `--data sim`.", least=1)] = 3,
        days: Annotated[int, Option("Days of the simulation, for `--data sim`.", least=1)] = 60,
        decimal_comma: DecimalComma = False,
    ) -> Evaluation:
        """Run the pipeline over readings, and compare each forecast with the mean of the hour that followed."""
        import numpy as np
        import polars as pl

        from tocsin.models.irradiance.baselines import SMART, baselines
        from tocsin.models.irradiance.evaluate import detections, errors, interval, skill
        from tocsin.models.irradiance.model import load
        from tocsin.models.irradiance.samples import Samples

        readings = _placed(data, recorded(data, sites=sites, days=days, seed=1, decimal_comma=decimal_comma))
        results = self.results(readings, folder, version)
        samples, config = Samples.of(readings), load(folder, "cpu").config
        plain = baselines(samples, config.usual)
        truth = pl.DataFrame(
            {
                "site": samples.site.astype(str),
                "time": samples.time,
                "target": samples.target.double().numpy(),
                "by_day": samples.by_day,
                "ramps": samples.ramp.numpy(),
                **{f"by {name}": values for name, values in plain.items()},
            }
        )
        table = results.with_columns(pl.col("event_time").dt.epoch("ms").alias("time"))
        table = table.join(truth, on=["site", "time"]).with_columns(pl.col(pl.Float64, pl.Float32).fill_nan(None))
        judged = table.filter(
            pl.all_horizontal(pl.col("forecast", "target", *(f"by {name}" for name in plain)).is_not_null())
        )
        in_domain = float(np.mean(results["in_domain"].fill_null(False).to_numpy())) if len(results) else 0.0
        doubt = _doubt(data, in_domain)
        if not doubt and not judged["by_day"].any():
            raise ValueError(f"{data}: expected two days of readings with hours by day at least, got fewer")

        def numbers(part: pl.DataFrame, name: str) -> Any:
            return part[name].cast(pl.Float64).to_numpy()

        def figures(part: pl.DataFrame) -> dict[str, float]:
            by_day, target = part["by_day"].to_numpy(), numbers(part, "target")
            found = errors(numbers(part, "forecast"), target, by_day)
            smart = errors(numbers(part, f"by {SMART}"), target, by_day)["rmse"]
            low, high = (numbers(part, name)[by_day] for name in ("forecast_low", "forecast_high"))
            ramps = detections(numbers(part, "ramp") >= config.ramp, part["ramps"].to_numpy())
            return {
                **found,
                "skill": skill(found["rmse"], smart),
                **interval(low, high, target[by_day]),
                **{f"ramp_{name}": value for name, value in ramps.items()},
            }

        parts = {str(site): figures(part) for (site,), part in judged.partition_by("site", as_dict=True).items()}
        by_day, target = judged["by_day"].to_numpy(), numbers(judged, "target")
        scored = {name: errors(numbers(judged, f"by {name}"), target, by_day) for name in plain}
        reference = scored[SMART]["rmse"]
        scored = {name: {**found, "skill": skill(found["rmse"], reference)} for name, found in scored.items()}
        return Evaluation(
            {**figures(judged), "parameters": load(folder, "cpu").parameters},
            {"sites": parts},
            baselines=scored,
            counted={"sites": len(parts), "hours": judged.height, "hours by day": int(by_day.sum())},
            left_out={
                "readings that the pipeline refused or repeated": readings.height - table.height,
                "readings without a day before and a complete hour after": table.height - judged.height,
            },
            in_domain=in_domain,
            lines=[
                f"site {site}: " + ", ".join(f"{name} {found[name]:.2f}" for name in SHOWN)
                for site, found in parts.items()
            ],
            doubt=doubt,
        )

    def feed(
        self,
        source: str,
        *,
        seed: int,
        rate: float | None,
        model: Path | None,
        sites: Annotated[int, Option("Number of simulated sites.", least=1)] = 6,
        days: Annotated[int, Option("Days of the simulation.", least=1)] = 120,
        decimal_comma: DecimalComma = False,
    ) -> Feed:
        """Feed the readings of all sites in the order of time. One simulated site in three gets dirty, another one shaded."""
        import polars as pl

        table = recorded(source, sites=sites, days=days, seed=seed, decimal_comma=decimal_comma, faults=True)
        table = table.sort("time", "site").with_columns(pl.from_epoch("time", "ms").dt.replace_time_zone("UTC"))
        return Feed(table.iter_slices(ROWS), total=table.height)


def recorded(
    source: str, *, sites: int, days: int, seed: int, decimal_comma: bool = False, faults: bool = False
) -> pl.DataFrame:
    """The readings in a directory or, for `SIM`, of simulated sites, hourly and half-hourly.

    Args:
        sites, days, seed: of the simulation.
        faults: one simulated site in three gets dirty, another one is shaded.

    Raises:
        FileNotFoundError, ValueError: from the readers.
    """
    import numpy as np
    import polars as pl

    from tocsin.models.irradiance.data import read
    from tocsin.models.irradiance.simulation import weather

    if source != SIM:
        return read(Path(source), decimal_comma=decimal_comma)
    draw, tables = np.random.default_rng([seed, 2]), []
    for number, site in enumerate(weather.sites(sites, seed)):
        kind = (None, "soiling", "shading")[number % 3]
        chosen = site.faulty(kind, draw, days) if faults and kind else site
        hourly = number % 2 == 0
        tables.append(weather.simulate(chosen, days=days, seed=seed, minutes=60 if hourly else 30, averaged=hourly))
    return pl.concat(tables)


def _sources(run: Training, *, sites: int, days: int, decimal_comma: bool) -> tuple[list[Samples], list[Samples]]:
    """The samples of each recorded site, and of each simulation."""
    from tocsin.models.irradiance.samples import Samples, coarsened

    real, simulated = list[Any](), list[Any]()
    task = run.progress.add_task("reading", total=len(run.data))
    for source in run.data:
        table = _placed(source, recorded(source, sites=sites, days=days, seed=0, decimal_comma=decimal_comma))
        if source == SIM:
            simulated.append(Samples.of(table))
        else:
            real += [Samples.of(coarsened(part)) for part in table.partition_by("site", maintain_order=True)]
        run.progress.advance(task)
    return real, simulated


def _placed(source: str, readings: pl.DataFrame) -> pl.DataFrame:
    """The readings; a site whose elevation is not known is at sea level, as in the pipeline.

    Raises:
        ValueError: it is not known where a site is.
    """
    import polars as pl

    nowhere = readings.filter(pl.any_horizontal(pl.col("latitude", "longitude").is_null()))["site"].unique().sort()
    if len(nowhere):
        raise ValueError(
            f"{source}: expected the latitude and longitude of each site, got none for {', '.join(nowhere[:5])}; add columns "
            "latitude, longitude and elevation"
        )
    return readings.with_columns(pl.col("elevation").fill_null(0.0))


def _line(figures: dict[str, float]) -> str:
    """What a seed's training came to."""
    kind = "left_out" if "left_out_skill" in figures else "validation"
    where = "sites that were left out" if kind == "left_out" else "days that were held out"
    rmse, gain, held = (figures[f"{kind}_{name}"] for name in ("rmse", "skill", "coverage"))
    return f": RMSE {rmse:.1f} W/m2 on {where}, {gain:.1%} below smart persistence, {held:.0%} in the interval"


def _doubt(data: str, in_domain: float) -> str:
    """Say that the readings of a recording cannot be those of its site."""
    if 1 - in_domain <= FOREIGN:
        return ""
    return (
        f"irradiance: expected readings that follow the sun at their site, got others in {1 - in_domain:.0%} of {data}: check time "
        "zone, latitude, longitude and unit (W/m2), see in_domain in the results; or use --force to accept the figures"
    )
