"""Remaining useful life for the commands `train`, `evaluate` and `feed`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tocsin.models.domain import (
    SHIPPED,
    SIM,
    Adaptation,
    DecimalComma,
    Domain,
    Evaluation,
    Feed,
    ImputerSteps,
    Option,
    Trained,
    Training,
    WithImputer,
    foreign,
    shown,
)

if TYPE_CHECKING:
    import polars as pl

    from tocsin.models.adaptation import Adapted
    from tocsin.models.rul.evaluate import Scores
    from tocsin.models.rul.model import RulModel
    from tocsin.models.rul.train import Outcome

Subset = Annotated[str, Option("Subset of C-MAPSS.")]
ROWS = 1000
"""Rows in each table of a feed."""
ContextFile = Annotated[
    Path | None,
    Option("Intervals, for a config with context [context.csv or context.parquet in the folder].", "FILE"),
]
UNAWARE = "without intervals"
SHOWN = ("rmse", "mae", "mean_error", "score", "coverage", "width", "rmse_uncapped", "score_uncapped")


class Rul(Domain):
    """Runs to failure: NASA's C-MAPSS files, CSV files of other machines, or a simulated fleet."""

    digits = 2

    def train(
        self,
        run: Training,
        *,
        config: Annotated[Path | None, Option("Columns and settings of the CSV files (TOML).", "FILE")] = None,
        subset: Subset = "FD001",
        model: Annotated[str | None, Option("Kind of network: fading, recurrent or fusion [the config's].")] = None,
        epochs: Annotated[int | None, Option("Number of epochs.", least=1)] = None,
        imputer: WithImputer = False,
        imputer_steps: ImputerSteps = None,
        decimal_comma: DecimalComma = False,
        context: ContextFile = None,
        without_context: Annotated[bool, Option("Train without context.")] = False,
    ) -> Trained:
        """Train on C-MAPSS files or, with `config`, on CSV files. The model then gets the name of the config file.

        With `sim` it trains on a simulated fleet with maintenance and loads, which the network reads as context.

        Raises:
            ValueError: there is more than one folder, or a reader raises it.
        """
        from tocsin.models.attempts import Attempt, keep
        from tocsin.models.imputer.train import Recipe as Filling
        from tocsin.models.rul.config import RulConfig
        from tocsin.models.rul.data import cmapss
        from tocsin.models.rul.imputer import train as train_imputer
        from tocsin.models.rul.source import simulated
        from tocsin.models.rul.train import RECIPES, SIMULATED, candidate, points, read_recipe
        from tocsin.models.rul.train import train as fit

        data = run.single()
        is_simulated = str(data) == SIM
        settings = RulConfig.from_toml(config) if config else simulated() if is_simulated else cmapss(subset)
        if without_context:
            settings = settings.without_context
        if imputer and is_simulated:
            raise ValueError("--imputer: expected files, got a simulated fleet, which lacks nothing; leave it out")
        if model is not None:
            settings = replace(settings, model=model)
        recipe = (
            read_recipe(config, settings.model) if config else (SIMULATED if is_simulated else RECIPES)[settings.model]
        )
        recipe = recipe if epochs is None else replace(recipe, epochs=epochs)
        name, folder = run.place(config.stem if config else "rul")
        attempts: dict[int, Attempt[RulModel]] = {}
        outcomes: dict[int, Outcome] = {}
        for seed in run.seeds:
            task = run.progress.add_task(f"seed {seed}")

            def report(done: int, total: int, rmse: float, seed: int = seed, task: Any = task) -> None:
                text = f"seed {seed}" if math.isnan(rmse) else f"seed {seed}, validation RMSE {rmse:.2f}"
                run.progress.update(task, completed=done, total=total, description=text)

            outcome = fit(
                data=data,
                config=settings,
                subset=None if config or is_simulated else subset,
                decimal_comma=decimal_comma,
                context=context,
                recipe=recipe,
                seed=seed,
                progress=report,
            )
            outcomes[seed] = outcome
            figures = outcome.figures
            attempts[seed] = Attempt(
                outcome.model,
                outcome.rmse,
                [*points(outcome.curve), *((name, value, recipe.epochs) for name, value in figures.items())],
                figures=figures,
                line=_line(outcome),
            )
        beside = None
        if imputer:
            filling = Filling() if imputer_steps is None else Filling(steps=imputer_steps)
            task = run.progress.add_task("imputer", total=filling.steps)
            beside = train_imputer(
                data=data,
                config=settings,
                subset=None if config else subset,
                decimal_comma=decimal_comma,
                validation=recipe.validation,
                folds=recipe.folds,
                recipe=filling,
                seed=run.seeds[0],
                progress=lambda step, loss: run.progress.update(task, completed=step + 1),
            )
        return keep(
            run,
            attempts,
            domain="rul",
            place=(name, folder),
            candidate=lambda seed: candidate(outcomes[seed], folder),
            params=lambda kept: {"model": kept.config.model, "cap": kept.config.cap, **asdict(recipe)},
            lower=True,
            imputer=beside,
        )

    def adapt(
        self,
        run: Adaptation,
        *,
        subset: Subset = "FD001",
        runs: Annotated[
            int | None, Option("Number of runs that are used, in the order of their keys [all].", least=1)
        ] = None,
        decimal_comma: DecimalComma = False,
        context: ContextFile = None,
    ) -> Trained:
        """Adapt a model to a site by its runs to failure: C-MAPSS files, or CSV files with the columns of the model's config.

        Raises:
            ValueError: there is more than one folder, or a reader raises it.
        """
        import torch

        from tocsin.models.adaptation import adapt_and_keep
        from tocsin.models.rul import source
        from tocsin.models.rul.adapt import RECIPE, adapt, candidate
        from tocsin.models.rul.data import csv_files, lives
        from tocsin.models.rul.model import load

        data = run.single()
        base = load(run.base, "cpu")
        files = None if csv_files(data) else subset
        given = source.runs(data, base.config, subset=files, decimal_comma=decimal_comma, context=context)
        known = lives(given.table, given.config, intervals=given.intervals)
        known = known.of(torch.arange(len(known.keys))[:runs])
        return adapt_and_keep(
            run,
            lambda seed, report: adapt(base, run.site, known, recipe=RECIPE, seed=seed, progress=report),
            domain="rul",
            figure="rmse",
            candidate=lambda folder, rmse, shared: candidate(folder, run.site, known, rmse, shared),
            line=lambda found: _site_line(run.site, found, len(known.keys), base.parameters),
            params={"runs": len(known.keys), **asdict(RECIPE)},
            lower=True,
        )

    def evaluate(
        self,
        folder: Path,
        version: str,
        data: str,
        *,
        subset: Annotated[str | None, Option("Subset of C-MAPSS [all whose true RUL is there].")] = None,
        site: Annotated[str, Option("Site whose adapter judges [the shared network].")] = "",
        decimal_comma: DecimalComma = False,
        context: ContextFile = None,
    ) -> Evaluation:
        """Score the last row of each C-MAPSS test engine, or every row of CSV files or of a simulated fleet.

        A model with context is also scored without its intervals.

        Without a model of one's own, each subset of C-MAPSS is scored by the weights that were trained on it.
        """
        from tocsin.models.rul.data import REGIMES, csv_files, has_truth, test_engines
        from tocsin.models.rul.evaluate import evaluate, pooled
        from tocsin.models.rul.model import load

        place = Path(data)

        @cache
        def model() -> RulModel:
            shared = load(folder)
            return shared.at(site) if site else shared

        if data == SIM or csv_files(place):
            scores = evaluate(data=place, model=model(), csv=True, decimal_comma=decimal_comma, context=context)
            by_context = {"context": scores.context} if scores.context else None
            return _evaluation(scores, by_context, lines=_rows(scores.context, "context"), doubt=_doubt({data: scores}))
        subsets = [subset] if subset else [name for name in REGIMES if has_truth(place, name)] or ["FD001"]
        shipped = folder.parent if version == SHIPPED and not site else None
        found = {
            name: evaluate(data=place, model=_trained_on(name, shipped) or model(), subset=name) for name in subsets
        }
        unjudged = {} if subset else {name: test_engines(place, name) for name in REGIMES if name not in subsets}
        left_out = {f"engines of {name}, whose true RUL is not there": count for name, count in unjudged.items()}
        parts = {name: {"in_domain": scores.in_domain, **scores.figures} for name, scores in found.items()}
        lines: Sequence[str] = ()
        if len(found) > 1:
            lines = _rows({name: {f: figures[f] for f in SHOWN} for name, figures in parts.items()}, "subset")
        scores = pooled(found) if len(found) > 1 else found[subsets[0]]
        return _evaluation(scores, {"subsets": parts}, left_out=left_out, lines=lines, doubt=_doubt(found))

    def feed(
        self,
        source: str,
        *,
        seed: int,
        rate: float | None,
        model: Path | None,
        subset: Subset = "FD001",
        split: Annotated[str, Option("Split of C-MAPSS: train (to failure) or test (cut off before).")] = "train",
        engines: Annotated[int, Option("Number of engines in the simulated fleet.", least=1)] = 100,
        decimal_comma: DecimalComma = False,
    ) -> Feed:
        """Feed all machines at once, row by row. A simulated fleet is endless.

        If the pipeline's model reads context, the fleet is maintained, and its plans are announced.
        """
        from tocsin.models.rul.config import RulConfig
        from tocsin.models.rul.data import csv_files, read_cmapss, read_csv_directory

        if source == SIM:
            if model and RulConfig.load(model).context:
                return _maintained(engines, seed)
            return Feed(_fleet(engines, seed))
        if not csv_files(Path(source)):
            table = read_cmapss(Path(source), subset, split).sort("cycle", "unit")
        elif model is None:
            raise ValueError(f"--from {source}: expected a model whose config names the columns of CSV files, got none")
        else:
            config = RulConfig.load(model)
            table = read_csv_directory(Path(source), config.unlabelled, decimal_comma=decimal_comma)
            table = table.sort(config.order, config.key)
        return Feed(table.iter_slices(ROWS), total=table.height)


def _rows(parts: Mapping[str, Mapping[str, Any]], title: str) -> list[str]:
    """The figures of parts as lines of text."""
    if not parts:
        return []
    names, width = list(next(iter(parts.values()))), max(map(len, (title, *parts))) + 2
    head = f"{title:<{width}}" + "".join(f"{name:>16}" for name in names)
    cells = {part: [f"{shown(figures[name], 2):>16}" for name in names] for part, figures in parts.items()}
    return [head, *(f"{part:<{width}}" + "".join(row) for part, row in cells.items())]


def _site_line(site: str, found: Adapted[RulModel], runs: int, whole: int) -> str:
    """What a site's adapter came to, beside the shared network alone."""
    about = f"{found.size} parameters, {found.size / whole:.1%} of the network's"
    shared = f"the shared network has RMSE {found.figures['rmse_shared']:.2f}"
    if "rmse" not in found.figures:
        return f": {site}: one run, so nothing judges its adapter ({about}); {shared}"
    rmse = found.figures["rmse"]
    return f": {site}: RMSE {rmse:.2f} over {runs} runs, each judged by an adapter of others ({about}); {shared}"


def _line(outcome: Outcome) -> str:
    """What a seed's training came to, beside what needs no sensors."""
    kind, figures = outcome.judges, outcome.figures
    if not kind:
        return ": nothing judges it, since a single key failed: evaluate it on another one that did"
    held, plain, age = (figures[f"{kind}_{name}"] for name in ("coverage", "rmse_constant", "rmse_age"))
    return f": {kind} RMSE {outcome.rmse:.2f} (a constant {plain:.2f}, the age alone {age:.2f}), {held:.0%} in the interval"


def _trained_on(subset: str, shipped: Path | None) -> Path | None:
    """The shipped weights for a subset of C-MAPSS, beside those of the others."""
    folder = shipped / subset.lower() if shipped else None
    return folder if folder and folder.is_dir() else None


def _evaluation(
    scores: Scores,
    parts: Mapping[str, Mapping[str, Mapping[str, Any]]] | None = None,
    *,
    left_out: Mapping[str, int] | None = None,
    lines: Sequence[str] = (),
    doubt: str,
) -> Evaluation:
    return Evaluation(
        scores.figures,
        parts or {},
        baselines={"best constant": scores.best, **({UNAWARE: scores.unaware} if scores.unaware else {})},
        counted=scores.counted,
        left_out={**scores.left_out, **(left_out or {})},
        in_domain=scores.in_domain,
        lines=lines,
        doubt=doubt,
    )


def _doubt(found: Mapping[str, Scores]) -> str:
    """Say which data are unlike those that the model was trained on."""
    shares = {name: 1 - scores.in_domain for name, scores in found.items()}
    return foreign("rul", "readings", shares, "train a model on such data")


def _maintained(engines: int, seed: int) -> Feed:
    """A simulated fleet with maintenance and loads."""
    import polars as pl

    from tocsin.models.rul.simulation.maintained import live

    new = list[pl.DataFrame]()

    def tables() -> Iterator[pl.DataFrame]:
        for readings, plans in live(engines=engines, seed=seed):
            if len(plans):
                place = dict(zip(readings["unit"].cast(pl.String), range(engines), strict=True))
                row = pl.col("asset").replace_strict(place, return_dtype=pl.Float64)
                new.append(plans.with_columns(pl.col("from", "to") * engines + row))
            yield readings

    def announced() -> pl.DataFrame:
        found = pl.concat(new) if new else pl.DataFrame()
        new.clear()
        return found

    return Feed(tables(), announced=announced)


def _fleet(engines: int, seed: int) -> Iterator[pl.DataFrame]:
    """A simulated fleet's readings, cycle after cycle, without the true remaining life."""
    from tocsin.models.rul.simulation.fleet import live

    return (frame.drop("rul") for frame in live(engines=engines, seed=seed))
