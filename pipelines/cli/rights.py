"""The command `rights`: what Kafka has to allow a pipeline's user, and other users of its topics."""

from __future__ import annotations

from typing import Annotated

import typer

ROLE_HELP = "run: the user of [kafka]; feed, subscribe, acknowledge, label, plan, replay: who does that with the pipeline's topics."


def rights(
    context: typer.Context,
    pipeline: Annotated[str, typer.Argument(metavar="PIPELINE", help="Name of the pipeline.")],
    role: Annotated[str, typer.Option(metavar="ROLE", help=ROLE_HELP)] = "run",
    principal: Annotated[
        str | None, typer.Option(metavar="TYPE:NAME", help="Who is granted them [User:kafka.sasl_plain_username].")
    ] = None,
) -> None:
    """Print the `kafka-acls` commands that grant the fewest rights for a role, one a resource.

    Kafka is not asked, and nothing is changed. `check` tests the rights of `run` on the broker.
    """
    from tocsin.pipelines.cli.deployment import drafted, scratch_lake
    from tocsin.pipelines.runtime.admin.rights import ROLES, Subject, commands, rights
    from tocsin.pipelines.runtime.declare.errors import ConfigError

    if role not in ROLES:
        raise ConfigError(f"--role: expected one of {', '.join(ROLES)}, got {role}; name one of these")
    settings = context.obj.settings()
    with scratch_lake() as scratch:
        topic = drafted(settings, pipeline, scratch).topic
    sinks = tuple(sink.name for sink in settings.sinks_of(pipeline))
    section = settings.pipeline(pipeline)
    shadow = section.shadow and "@" in (section.model or "") and settings.mlflow.enabled
    tables = {"table": settings.lake.alerts, "labels": section.labels, "context": section.context}
    subject = Subject(pipeline, topic, sinks, shadow=shadow, **tables)
    options = settings.kafka.client_options()
    user = principal or f"User:{options.get('sasl_plain_username') or 'tocsin'}"
    for line in commands(rights(role, subject), user, options["bootstrap_servers"]):
        typer.echo(line)
