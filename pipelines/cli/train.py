"""The command `train`: train models and register the best as champion or challenger."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tocsin.models.domain import Trained


def train(
    context: typer.Context,
    domain: Annotated[
        str,
        typer.Argument(
            metavar="DOMAIN", help="Pipeline whose model is trained; `train DOMAIN --help` lists its options."
        ),
    ],
    data: Annotated[
        list[str], typer.Option(metavar="DIR|sim", help="Recordings, or simulated ones. Repeatable in some domains.")
    ],
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for the model [trained/NAME].")] = None,
    name: Annotated[str | None, typer.Option(help="Name in the registry [DOMAIN].")] = None,
    seed: Annotated[
        list[int] | None,
        typer.Option(min=0, help="Repeatable: the best model on validation is kept, all are reported [0]."),
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Make the model champion even if it is more than 10 % worse than the current one."
        ),
    ] = False,
    challenger: Annotated[
        bool, typer.Option("--challenger", help="Register it as NAME@challenger, which pipelines run in shadow.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Train a model and register it in MLflow as NAME@champion.

    A model that gives no finite numbers, or is more than 10 % worse than the champion on the same validation, is registered
    without the alias, and the command fails.
    """
    from tocsin.models.champion import Registrar
    from tocsin.models.domain import Training
    from tocsin.models.tracking_store import CHALLENGER, CHAMPION
    from tocsin.pipelines.cli.console import progress, say_json
    from tocsin.pipelines.cli.domains import domain_of, options

    settings = context.obj.settings()
    uri = settings.mlflow.tracking_uri if settings.mlflow.enabled else None
    registrar = Registrar(uri, force, CHALLENGER if challenger else CHAMPION)
    with progress() as bar:
        run = Training(data, name, out, seed or [0], registrar, bar)
        trained = domain_of(settings, domain).train(run, **options(context))
    if json:
        say_json(trained.facts())
    print_results(trained, quiet=json)


def print_results(trained: Trained, *, quiet: bool) -> None:
    """Print each seed's result and where the model is.

    Raises:
        ModelError: the model gets no alias.
    """
    from tocsin.pipelines.cli.console import note, out
    from tocsin.pipelines.runtime.declare.errors import ModelError

    for line in () if quiet else trained.lines:
        out.print(
            line + (" (kept)" if line.startswith(f"seed {trained.seed}:") or line == f"seed {trained.seed}" else "")
        )
    name, (version, refused, alias) = trained.name, trained.registered
    if refused:
        where = f"it is registered as {name}/{version} without the alias" if version else f"it is in {trained.folder}"
        raise ModelError(
            f"model {name}{f'/{version}' if version else ''} does not become {name}@{alias}: {refused}; {where}; train it again, "
            "on more data or for longer, or accept a worse one with --force"
        )
    if quiet:
        return
    out.print(
        f"model in {trained.folder}" + (f", registered as {name}/{version} and {name}@{alias}" if version else "")
    )
    if not version:
        note("not registered: mlflow.enabled is false")
