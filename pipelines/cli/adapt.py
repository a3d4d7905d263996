"""The command `adapt`: fit a small adapter of a pipeline's model to one site, and register it with the model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def adapt(
    context: typer.Context,
    pipeline: Annotated[
        str,
        typer.Argument(
            metavar="PIPELINE", help="Pipeline whose model is adapted; `adapt PIPELINE --help` lists its options."
        ),
    ],
    site: Annotated[str, typer.Option(metavar="NAME", help="Name of the site.")],
    data: Annotated[str, typer.Option(metavar="DIR", help="Labelled recordings of the site.")],
    model: Annotated[
        str | None, typer.Option(help="name@alias, name/version or a folder [the pipeline's own model].")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for the model [trained/NAME].")] = None,
    seed: Annotated[
        list[int] | None, typer.Option(min=0, help="Repeatable: the best on the site's recordings is kept [0].")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Make it champion even if it is worse, or if nothing judges it.")
    ] = False,
    challenger: Annotated[
        bool, typer.Option("--challenger", help="Register it as NAME@challenger, which pipelines run in shadow.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Fit an adapter of at most 2 % of a model's weights to a site, by a few of its labelled recordings.

    The model itself and its other sites' adapters stay as they are. It is registered with all of them as a new version.
    """
    from tocsin.models.champion import Registrar
    from tocsin.models.domain import Adaptation
    from tocsin.models.tracking_store import CHALLENGER, CHAMPION
    from tocsin.pipelines.cli.console import progress, say_json
    from tocsin.pipelines.cli.deployment import resolved
    from tocsin.pipelines.cli.domains import domain_of, options
    from tocsin.pipelines.cli.train import print_results
    from tocsin.pipelines.runtime.declare.errors import ConfigError

    settings = context.obj.settings()
    domain = domain_of(settings, pipeline)
    if not (requested := model or settings.pipeline(pipeline).model):
        raise ConfigError(f"--model: expected a model, got none, and {pipeline} has none; train one first")
    name, _, base = resolved(settings, requested)
    registrar = Registrar(
        settings.mlflow.tracking_uri if settings.mlflow.enabled else None, force, CHALLENGER if challenger else CHAMPION
    )
    with progress() as bar:
        run = Adaptation([data], name, out, seed or [0], registrar, bar, site, base)
        trained = domain.adapt(run, **options(context))
    if json:
        say_json(trained.facts())
    print_results(trained, quiet=json)
