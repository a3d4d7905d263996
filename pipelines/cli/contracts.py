"""The command `contracts`: describe the topics of pipelines for those who produce readings or subscribe to alerts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Pipelines = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="PIPELINE",
        help="Names of pipelines; without them, all that the settings declare or that come with Tocsin.",
    ),
]
Out = Annotated[Path, typer.Option(metavar="DIR", help="Where to write the files; the folder is created.")]


def contracts(context: typer.Context, pipelines: Pipelines = None, out: Out = Path("contracts")) -> None:
    """Write an AsyncAPI 3.0 document of the pipelines' topics, and a JSON Schema of each input topic.

    The files are asyncapi.yaml and schemas/TOPIC.schema.json; TOPIC.headers.schema.json has the headers that fields are read from.
    Kafka is not asked, and nothing but these files is written. They hold no credentials.
    """
    from tocsin.pipelines.cli.console import out as console
    from tocsin.pipelines.cli.console import working
    from tocsin.pipelines.cli.deployment import drafted, known_pipelines, scratch_lake
    from tocsin.pipelines.runtime.admin.contracts import contracts
    from tocsin.pipelines.runtime.lake.storage import write_aside

    settings = context.obj.settings()
    names = sorted({*pipelines} if pipelines else known_pipelines(settings))
    declared = []
    with scratch_lake() as scratch:
        for name in names:
            with working(f"{name}: model and declaration"):
                declared.append(drafted(settings, name, scratch))
    for path, text in contracts(declared, settings.kafka.client_options(), settings.format_options()).items():
        write_aside(out / path, text.encode())
        console.print(str(out / path), soft_wrap=True)
