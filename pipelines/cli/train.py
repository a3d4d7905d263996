"""Models trained, and the best of them registered as champion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tocsin.pipelines.runtime.declare.errors import ConfigError

if TYPE_CHECKING:
    from rich.progress import TaskID

    from tocsin.models.rul.train import Epoch, Trained
    from tocsin.pipelines.runtime.settings import Settings

DecimalComma = Annotated[bool, typer.Option("--decimal-comma", help="Numbers in CSV files are written 400,5.")]
DOMAINS = ("rul", "occupancy", "surprise", "touch")


def train(
    context: typer.Context,
    domain: Annotated[str, typer.Argument(metavar="DOMAIN", help="rul, occupancy, surprise or touch.")],
    data: Annotated[
        list[str],
        typer.Option(
            metavar="DIR|sim",
            help="C-MAPSS files; with --config, CSV files. Repeatable: recordings of rooms, or a simulated building; clips, or "
            "simulated dives or tables.",
        ),
    ],
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Columns and settings of the CSV files (TOML).")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Where the model goes [trained/NAME].")] = None,
    name: Annotated[str | None, typer.Option(help="In the registry [DOMAIN; with --config, that file's name].")] = None,
    subset: Annotated[str, typer.Option(help="Of C-MAPSS.")] = "FD001",
    seed: Annotated[
        list[int] | None, typer.Option(help="Repeatable: the best on validation is kept, all are reported [0].")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Of rul, at most.")] = None,
    steps: Annotated[int | None, typer.Option(help="Of all but rul.")] = None,
    search: Annotated[
        int, typer.Option(metavar="TRIALS", min=0, help="Of occupancy: a Bayesian search for sizes and recipe before.")
    ] = 0,
    decimal_comma: DecimalComma = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="As champion even where it is more than 10 % worse than the one that is."),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Train a model on runs to failure, rooms or clips, and register it in MLflow as NAME@champion.

    A model that gives no finite numbers, or is more than 10 % worse on the same validation than the champion, is registered
    without the alias, and the command fails.
    """
    check_domain(domain)
    settings, seeds = context.obj.settings(), seed or [0]
    if domain == "occupancy":
        _occupancy(
            settings,
            data,
            out=out or Path("trained", name or domain),
            name=name or domain,
            seeds=seeds,
            steps=steps,
            trials=search,
            decimal_comma=decimal_comma,
            force=force,
            json=json,
        )
        return
    if search:
        raise ConfigError(f"--search: expected occupancy, got {domain}, whose settings are not searched; leave it out")
    if domain in ("surprise", "touch"):
        fit = _surprise if domain == "surprise" else _touch
        folder = out or Path("trained", name or domain)
        more = {"decimal_comma": decimal_comma} if domain == "touch" else {}  # surprise learns without a table
        fit(settings, data, out=folder, name=name or domain, seeds=seeds, steps=steps, force=force, json=json, **more)
        return
    if len(data) > 1:
        raise ConfigError(f"--data: expected one folder for {domain}, got {', '.join(data)}; name one")
    _rul(
        settings,
        Path(data[0]),
        config,
        out=out,
        name=name,
        subset=subset,
        seeds=seeds,
        epochs=epochs,
        decimal_comma=decimal_comma,
        force=force,
        json=json,
    )


def _rul(
    settings: Settings,
    data: Path,
    config: Path | None,
    *,
    out: Path | None,
    name: str | None,
    subset: str,
    seeds: list[int],
    epochs: int | None,
    decimal_comma: bool,
    force: bool,
    json: bool,
) -> None:
    from tocsin.models import gate
    from tocsin.models.rul.train import Recipe, candidate, register
    from tocsin.models.rul.train import train as fit
    from tocsin.pipelines.cli.champion import registered, told
    from tocsin.pipelines.cli.console import out as console
    from tocsin.pipelines.cli.console import progress, say_json

    recipe = Recipe() if epochs is None else replace(Recipe(), epochs=epochs)
    name = name or (config.stem if config else "rul")
    folder = out or Path("trained", name)
    tried: dict[int, Trained] = {}
    with progress() as shown, TemporaryDirectory() as scratch:
        for number in seeds:
            task = shown.add_task(f"seed {number}", total=recipe.epochs)

            def epoch(line: Epoch, number: int = number, task: TaskID = task) -> None:
                shown.update(
                    task, completed=line.epoch + 1, description=f"seed {number}, validation RMSE {line.rmse:.2f}"
                )

            tried[number] = fit(
                data=data,
                out=Path(scratch),
                config=config,
                subset=subset,
                decimal_comma=decimal_comma,
                recipe=recipe,
                seed=number,
                progress=epoch,
            )
    scores = {number: trained.rmse for number, trained in tried.items()}
    best = gate.best(scores, lower=True)
    kept = tried[best]
    kept.model.save(folder)
    params = {"data": str(data), "seed": best, "seeds": " ".join(map(str, seeds)), **asdict(recipe)}
    attempts = {number: trained.curve for number, trained in tried.items()}
    register_as = partial(register, kept.model, folder, kept.curve, params, data=data, attempts=attempts)
    made = told(registered(settings, candidate(kept, folder), register_as, name=name, force=force), folder, name)
    if json:
        seeds_tried = [
            {"seed": n, "validation_rmse": score, "epochs": len(tried[n].curve)} for n, score in scores.items()
        ]
        say_json({**made, "seed": best, "seeds": seeds_tried})
    else:
        for number, score in scores.items():
            console.print(f"seed {number}: validation RMSE {score:.2f}" + (" (kept)" if number == best else ""))
    _say(made, json=json)


def _occupancy(
    settings: Settings,
    data: list[str],
    *,
    out: Path,
    name: str,
    seeds: list[int],
    steps: int | None,
    trials: int,
    decimal_comma: bool,
    force: bool,
    json: bool,
) -> None:
    from tocsin.models.occupancy.train import Recipe
    from tocsin.pipelines.cli.console import out as console
    from tocsin.pipelines.cli.console import say_json
    from tocsin.pipelines.cli.occupancy import train as fit

    recipe = Recipe() if steps is None else replace(Recipe(), steps=steps)
    made = fit(
        settings,
        data,
        out=out,
        name=name,
        seeds=seeds,
        recipe=recipe,
        trials=trials,
        decimal_comma=decimal_comma,
        force=force,
    )
    if json:
        say_json(made)
    elif made["search"]:
        _say_search(made["search"])
    for tried in [] if json else made["seeds"]:
        figure = f": F1 {tried['left_out_f1']:.3f} on what was left out" if "left_out_f1" in tried else ""
        console.print(f"seed {tried['seed']}{figure}" + (" (kept)" if tried["seed"] == made["seed"] else ""))
    _say(made, json=json)


def _surprise(settings: Settings, data: list[str], *, steps: int | None, json: bool, **more: Any) -> None:
    from tocsin.models.surprise.train import Recipe
    from tocsin.pipelines.cli.surprise import train as fit

    recipe = Recipe()
    if steps is not None:
        recipe = replace(recipe, steps=steps, triage_steps=min(steps, recipe.triage_steps))
    made = fit(settings, data, recipe=recipe, **more)
    _say_seeds(made, lambda tried: f"F1 {tried['f1']:.3f} of events on validation dives", json=json)


def _touch(settings: Settings, data: list[str], *, steps: int | None, json: bool, **more: Any) -> None:
    from tocsin.models.touch.train import Recipe
    from tocsin.pipelines.cli.touch import train as fit

    made = fit(settings, data, recipe=Recipe() if steps is None else replace(Recipe(), steps=steps), **more)
    _say_seeds(made, lambda tried: f"mAP at 2 frames {tried['map_2']:.3f} on validation scenes", json=json)


def _say_seeds(made: dict[str, Any], figure: Callable[[dict[str, Any]], str], *, json: bool) -> None:
    """What became of each seed, and where the model is."""
    from tocsin.pipelines.cli.console import out, say_json

    if json:
        say_json(made)
    for tried in [] if json else made["seeds"]:
        out.print(f"seed {tried['seed']}: {figure(tried)}" + (" (kept)" if tried["seed"] == made["seed"] else ""))
    _say(made, json=json)


def _say_search(trials: list[dict[str, Any]]) -> None:
    """The best five trials beside the first, which is how the settings were."""
    from rich.table import Table

    from tocsin.pipelines.cli.console import out

    ranked = sorted(trials, key=lambda trial: -trial["f1"])[:5]
    shown = ranked if trials[0] in ranked else [*ranked, trials[0]]
    table = Table("setting", *("as it was" if trial["number"] == 0 else f"trial {trial['number']}" for trial in shown))
    table.add_row("F1 left out", *(f"{trial['f1']:.3f}" for trial in shown), style="bold")
    for name in trials[0]["settings"]:
        table.add_row(name, *(f"{trial['settings'][name]:.3g}" for trial in shown))
    out.print(table)


def _say(made: dict[str, Any], *, json: bool) -> None:
    """Where the model is; it ends the command if it was refused as champion."""
    from tocsin.pipelines.cli.champion import check_champion
    from tocsin.pipelines.cli.console import note, out

    check_champion(made)
    if json:
        return
    name, version = made["name"], made["version"]
    out.print(
        f"model in {made['model']}" + (f", registered as {name}/{version} and {name}@champion" if version else "")
    )
    if not version:
        note("mlflow.enabled is false: not registered")


def check_domain(domain: str) -> None:
    """Refuse what has no training."""
    if domain not in DOMAINS:
        raise ConfigError(f"domain {domain}: expected one of {', '.join(DOMAINS)}; choose one of them")
