"""The option `--address` of the commands that join Ray."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import Annotated, Any, get_type_hints

import typer

Address = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", help="Ray cluster: host:port, ray://host:10001 or auto [ray.address]."),
]


def joins_ray(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the option `--address`, which stands for `--set ray.address=`."""

    @wraps(command)
    def with_address(context: typer.Context, address: str | None = None, **options: Any) -> None:
        if address:
            context.obj = replace(context.obj, sets=[*context.obj.sets, f"ray.address={address}"])
        command(context, **options)

    hints = get_type_hints(command, include_extras=True)  # Typer would look the names up in this module
    parameters = [p.replace(annotation=hints[p.name]) for p in inspect.signature(command).parameters.values()]
    option = inspect.Parameter("address", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Address)
    with_address.__signature__ = inspect.Signature([*parameters, option])  # type: ignore[attr-defined]
    with_address.__annotations__ = {**hints, "address": Address}
    return with_address
