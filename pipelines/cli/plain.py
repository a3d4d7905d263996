"""How help reads: flags without a type, arguments written alike, square brackets shown as they are written."""

from __future__ import annotations

import re
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption


class _Plain:
    """What commands and groups have in common; typer makes both."""

    def get_params(self, ctx: Any) -> list[Any]:
        """All options and arguments, `--help` too."""
        params: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for param in params:
            if param.help:  # rich would take `[finder]` for markup and leave it out
                param.help = re.sub(r"(?<!\\)\[(?=[a-z#/@])", r"\\[", param.help)
            if isinstance(param, TyperOption) and param.is_flag:
                param.metavar = ""  # it takes no value, so there is no type to name
        return params

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """`PIPELINE` if it must be given, `[PIPELINE]` if it may."""
        return [piece.strip("{}") for piece in super().collect_usage_pieces(ctx)]  # type: ignore[misc]


class Command(_Plain, TyperCommand):
    """A command of `tocsin`."""


class Group(_Plain, TyperGroup):
    """Commands under one name."""


class App(typer.Typer):
    """A typer whose groups and commands are these."""

    def __init__(self, **options: Any) -> None:
        super().__init__(cls=Group, **options)

    def command(self, name: str | None = None, **options: Any) -> Any:
        """Add a command."""
        return super().command(name, **{"cls": Command, **options})
